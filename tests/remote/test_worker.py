"""The engine's end of the wire, with a function in place of the model."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest

from remote import protocol
from remote.protocol import (
    Cancel,
    Done,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    KnownError,
    Message,
    Options,
    Ping,
    Progress,
    Segment,
    Segments,
    Source,
    Summary,
    Transcribe,
)
from remote.worker import Worker

HELLO = Hello(1, 0, "0", "tiny.en", "cpu", "float32", "standard", 0.1)
ROOT = Path(__file__).parents[2]
USUAL = Options()
PATIENCE_S = 10


class Client:
    """The other end: what it says is queued, what it hears is kept."""

    def __init__(self) -> None:
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self.heard: list[Message] = []
        self._news = threading.Condition()

    def lines(self) -> Iterator[bytes]:
        while (line := self._lines.get()) is not None:
            yield line

    def say(self, *messages: Message) -> None:
        for message in messages:
            self._lines.put(protocol.encode(message))

    def say_bytes(self, line: bytes) -> None:
        self._lines.put(line)

    def hang_up(self) -> None:
        self._lines.put(None)

    def hear(self, line: bytes) -> None:
        message = protocol.decode(line)
        assert message is not None
        with self._news:
            self.heard.append(message)
            self._news.notify_all()

    def wait_for(self, kind: type[Message], count: int = 1) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.of(kind)[count - 1 :], PATIENCE_S)

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kind)]

    def events(self, job: str) -> list[Message]:
        return [m for m in self.heard if getattr(m, "job", None) == job]


def job(name: str, path: str = "/a.wav", options: Options = USUAL) -> Transcribe:
    return Transcribe(name, Source("path", path), options)


def text(*words: str) -> tuple[Segment, ...]:
    return tuple(Segment(i * 1000, i * 1000 + 900, word) for i, word in enumerate(words))


def speak(source, options, sink, cancelled) -> Summary:
    sink.progress("decode", 0, 2000)
    sink.segments(text("one"))
    sink.segments(text("two"))
    return Summary(duration_ms=2000, wall_s=0.5)


def converse(transcribe, *messages: Message, **settings) -> Client:
    """A whole conversation: everything is said, then the input ends."""
    client = Client()
    client.say(*messages)
    client.hang_up()
    Worker(transcribe, HELLO, client.hear, **settings).run(client.lines())
    return client


def test_hello_comes_first_and_each_job_is_numbered_from_one_and_ends_with_done():
    client = converse(speak, job("a"), job("b"))
    assert client.heard[0] == HELLO
    for name in ("a", "b"):
        events = client.events(name)
        assert [event.seq for event in events] == [1, 2, 3, 4]
        assert [type(event) for event in events] == [Progress, Segments, Segments, Done]
        assert events[-1].summary.duration_ms == 2000


def test_jobs_run_one_after_another_in_the_order_they_came():
    client = converse(speak, job("a"), job("b"), job("c"))
    assert [done.job for done in client.of(Done)] == ["a", "b", "c"]
    last = {name: client.heard.index(client.events(name)[-1]) for name in "abc"}
    first = {name: client.heard.index(client.events(name)[0]) for name in "abc"}
    assert last["a"] < first["b"]
    assert last["b"] < first["c"]


def test_source_and_options_reach_the_function():
    asked = []

    def note(source, options, sink, cancelled):
        asked.append((source, options))
        return Summary()

    options = Options(language="it", words=True)
    converse(note, job("a", "/tmp/x.mp3", options))
    assert asked == [(Source("path", "/tmp/x.mp3"), options)]


def test_a_known_error_becomes_failed_with_its_sentence_and_the_next_job_goes_on():
    def fail_once(source, options, sink, cancelled):
        if source.value == "/bad":
            sink.segments(text("half"))
            raise KnownError(ErrorCode.NOT_AUDIO, "It is no audio.", "Try another.")
        return speak(source, options, sink, cancelled)

    client = converse(fail_once, job("a", "/bad"), job("b"))
    assert client.events("a")[-1] == Failed(
        "a", 2, ErrorCode.NOT_AUDIO, "It is no audio.", "Try another."
    )
    assert isinstance(client.events("b")[-1], Done)


def test_a_bug_is_logged_with_its_traceback_and_fails_only_its_job(caplog):
    def stumble(source, options, sink, cancelled):
        if source.value == "/bad":
            raise ZeroDivisionError("oh")
        return Summary()

    with caplog.at_level(logging.ERROR):
        client = converse(stumble, job("a", "/bad"), job("b"))
    (failed,) = client.events("a")
    assert failed.code is ErrorCode.BUG
    assert isinstance(client.events("b")[-1], Done)
    assert any(record.exc_info for record in caplog.records)


def test_a_message_that_json_cannot_hold_fails_the_job_without_a_hole_in_the_numbers():
    def nonsense(source, options, sink, cancelled):
        sink.segments(text("good"))
        return Summary(wall_s=float("nan"))

    client = converse(nonsense, job("a"))
    events = client.events("a")
    assert [event.seq for event in events] == [1, 2]
    assert isinstance(events[-1], Failed)


def test_running_out_of_memory_is_told_as_such():
    def swell(source, options, sink, cancelled):
        raise MemoryError

    (failed,) = converse(swell, job("a")).events("a")
    assert failed.code is ErrorCode.OUT_OF_MEMORY


def test_nothing_follows_the_end_of_a_job():
    kept = []

    def keep(source, options, sink, cancelled):
        if kept:
            kept[0].segments(text("late"))
        kept.append(sink)
        return Summary()

    client = converse(keep, job("a"), job("b"))
    assert [type(event) for event in client.events("a")] == [Done]


def test_progress_is_sent_at_most_ten_times_a_second_but_each_stage_at_once():
    now = 0.0

    def tell_often(source, options, sink, cancelled):
        nonlocal now
        for step in range(1000):  # five seconds
            sink.progress("decode", step, 1000)
            now += 0.005
        sink.progress("generate", 0, None)
        return Summary()

    client = converse(tell_often, job("a"), clock=lambda: now)
    told = client.of(Progress)
    assert 45 <= len(told) <= 52
    assert told[-1].stage == "generate"
    assert [event.seq for event in client.events("a")] == list(range(1, len(told) + 2))


def until(told: threading.Event) -> Callable[..., Summary]:
    """A job that runs until it is cancelled."""

    def run(source, options, sink, cancelled):
        told.set()
        while not cancelled():
            pass
        return Summary()

    return run


def serve(transcribe, client: Client, **settings) -> threading.Thread:
    worker = Worker(transcribe, HELLO, client.hear, **settings)
    thread = threading.Thread(target=worker.run, args=(client.lines(),), daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(PATIENCE_S)
    return not thread.is_alive()


def test_a_running_job_is_cancelled_and_ends_as_cancelled_even_where_it_returned():
    client, running = Client(), threading.Event()
    thread = serve(until(running), client)
    client.say(job("a"), job("b"))
    assert running.wait(PATIENCE_S)
    client.say(Cancel("b"), Cancel("nobody"))
    client.wait_for(Failed)
    assert client.events("b")[-1].code is ErrorCode.CANCELLED  # while it still waited
    client.say(Cancel("a"))
    client.hang_up()
    assert ended(thread)
    assert client.events("a") == [
        Failed("a", 1, ErrorCode.CANCELLED, "The transcription was cancelled.")
    ]
    assert len(client.events("b")) == 1


def test_a_ping_is_answered_while_a_job_runs():
    client, running = Client(), threading.Event()
    thread = serve(until(running), client)
    client.say(job("a"))
    assert running.wait(PATIENCE_S)
    client.say(Ping())
    client.wait_for(Heartbeat)
    assert client.of(Heartbeat)[0].jobs == 1
    assert client.of(Heartbeat)[0].memory_bytes > 0
    client.say(Cancel("a"))
    client.hang_up()
    assert ended(thread)


def test_the_heart_beats_without_being_asked():
    client = Client()
    thread = serve(speak, client, beat_s=0.001, device_memory=lambda: 7)
    client.wait_for(Heartbeat, 3)
    assert client.of(Heartbeat)[0].device_memory_bytes == 7
    client.hang_up()
    assert ended(thread)


def test_what_is_no_message_is_logged_and_skipped_and_an_unknown_type_only_once(caplog):
    client = Client()
    for line in (b"garbage\n", b"{}\n", b'{"type":"transcribe","job":3}\n', b"\xff\n"):
        client.say_bytes(line)
    for _ in range(3):
        client.say_bytes(b'{"type":"blocks","job":"a"}\n')
    client.say(HELLO, job("a"))
    client.hang_up()
    with caplog.at_level(logging.WARNING):
        Worker(speak, HELLO, client.hear).run(client.lines())
    assert isinstance(client.heard[-1], Done)
    assert sum("blocks" in record.getMessage() for record in caplog.records) == 1


def test_a_job_that_is_asked_for_twice_runs_once():
    client, running = Client(), threading.Event()
    thread = serve(until(running), client)
    client.say(job("a"))
    assert running.wait(PATIENCE_S)
    client.say(job("a"), Cancel("a"))
    client.hang_up()
    assert ended(thread)
    assert [type(event) for event in client.events("a")] == [Failed]


def test_an_input_that_breaks_off_lets_the_accepted_jobs_finish():
    def broken() -> Iterator[bytes]:
        yield protocol.encode(job("a"))
        raise OSError("reset")

    client = Client()
    Worker(speak, HELLO, client.hear).run(broken())
    assert isinstance(client.events("a")[-1], Done)


def test_when_nobody_listens_everything_is_cancelled_and_it_returns():
    client, running = Client(), threading.Event()
    deaf = threading.Event()

    def send(line: bytes) -> None:
        if deaf.is_set():
            raise BrokenPipeError
        client.hear(line)

    worker = Worker(until(running), HELLO, send, beat_s=0.001)
    thread = threading.Thread(target=worker.run, args=(client.lines(),), daemon=True)
    thread.start()
    client.say(job("a"), job("b"))
    assert running.wait(PATIENCE_S)
    deaf.set()  # and the input stays open: only the output tells
    assert ended(thread)
    client.hang_up()


def test_when_nobody_hears_the_hello_no_job_is_begun():
    def send(line: bytes) -> None:
        raise BrokenPipeError

    begun = []
    client = Client()
    client.say(job("a"))
    Worker(lambda *_: begun.append(1), HELLO, send).run(client.lines())
    client.hang_up()
    assert not begun


@pytest.mark.skipif(os.name != "posix", reason="forks a process")
def test_the_standard_streams_belong_to_the_wire_and_prints_go_to_standard_error(tmp_path):
    script = tmp_path / "child.py"
    script.write_text(
        "from remote.worker import take_stdio\n"
        "lines, send = take_stdio()\n"
        "print('a library talks')\n"
        "for line in lines:\n"
        "    send(b'got ' + line + b'\\n')\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, script],
        input=b"one\ntwo\nhalf",
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=30,
    )
    assert done.stdout == b"got one\ngot two\n"
    assert done.stderr == b"a library talks\n"
