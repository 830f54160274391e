"""A conversation: what a client says is done, what it follows is told, whatever lines come."""

import json
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remote import protocol
from remote.conversation import _MOST_QUEUED, Conversation
from remote.protocol import (
    Acknowledge,
    Block,
    Blocks,
    Cancel,
    Done,
    ErrorCode,
    Failed,
    Have,
    Heartbeat,
    Hello,
    Jobs,
    List,
    Message,
    Missing,
    Note,
    Ping,
    Segments,
    Source,
    Stop,
    Summary,
    Transcribe,
)
from remote.spool import Spool
from remote.worker import Worker
from tests.remote.doubles import HandDesk, text

PATIENCE_S = 10
WAV = Source("path", "/a.wav")


class Client:
    """The other end: what it says is queued, what it hears is kept."""

    def __init__(self, worker: Worker, stop: Callable[[bool], None] = lambda _: None) -> None:
        self.heard: list[Message] = []
        self.deaf = threading.Event()
        self._lines: SimpleQueue[bytes | None] = SimpleQueue()
        self._news = threading.Condition()
        self._worker = worker
        self.conversation = Conversation(worker, self._hear, stop)
        self.threads = [
            threading.Thread(target=run, daemon=True)
            for run in (self.conversation.write, self._read)
        ]

    def __enter__(self) -> "Client":
        self._worker.join(self.conversation)
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    def _read(self) -> None:
        self.conversation.read(iter(self._lines.get, None))
        self._worker.leave(self.conversation)
        self.conversation.end()

    def _hear(self, line: bytes) -> None:
        if self.deaf.is_set():
            raise BrokenPipeError
        message = protocol.decode(line)
        assert message is not None
        with self._news:
            self.heard.append(message)
            self._news.notify_all()

    def say(self, *messages: Message | bytes) -> None:
        for message in messages:
            self._lines.put(message if isinstance(message, bytes) else protocol.encode(message))

    def hang_up(self) -> None:
        """The conversation is over, on both sides."""
        self._lines.put(None)
        for thread in self.threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()

    def wait_for(self, kind: type[Message], count: int = 1) -> Message:
        with self._news:
            assert self._news.wait_for(lambda: self.of(kind)[count - 1 :], PATIENCE_S)
        return self.of(kind)[count - 1]

    def settled(self) -> None:
        """Everything that was said has been done."""
        beats = len(self.of(Heartbeat))
        self.say(Ping())
        self.wait_for(Heartbeat, beats + 1)

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kind)]

    def numbers(self, job: str) -> list[int]:
        return [
            m.seq for m in self.heard if isinstance(m, Segments | Done | Failed) and m.job == job
        ]


@pytest.fixture
def desk() -> HandDesk:
    return HandDesk()


@pytest.fixture
def worker(desk: HandDesk, tmp_path: Path) -> Worker:
    return Worker(desk, Spool(tmp_path / "spool"))


# ── what is asked ────────────────────────────────────────────────────────────────────────────


def test_hello_is_the_first_line_and_events_come_as_they_happen(
    worker: Worker, desk: HandDesk
) -> None:
    with Client(worker) as client:
        client.say(Transcribe("a", WAV))
        client.settled()
        assert client.heard[0] == desk.hello
        desk.jobs["a"].segments(text("one"))
        client.wait_for(Segments)
        desk.jobs["a"].segments(text("two"))
        desk.jobs["a"].done(Summary(duration_ms=5))
        assert client.wait_for(Done) == Done("a", 3, Summary(duration_ms=5))
        assert client.numbers("a") == [1, 2, 3]


def test_a_job_that_is_there_is_attached_to_and_told_from_any_number_on(
    worker: Worker, desk: HandDesk
) -> None:
    with Client(worker) as first:
        first.say(Transcribe("a", WAV))
        first.settled()
        for word in ("one", "two", "three"):
            desk.jobs["a"].segments(text(word))
        first.wait_for(Segments, 3)
    with Client(worker) as second, Client(worker) as third:
        second.say(Transcribe("a", WAV, after=2))
        third.say(Transcribe("a", WAV))
        third.wait_for(Segments, 3)
        second.wait_for(Segments, 1)
        desk.jobs["a"].done(Summary())
        second.wait_for(Done)
        third.wait_for(Done)
        assert second.numbers("a") == [3, 4]
        assert third.numbers("a") == [1, 2, 3, 4]
    assert desk.taken == ["a"]


def test_two_requests_for_one_job_in_one_conversation_tell_its_events_from_the_later_one(
    worker: Worker, desk: HandDesk
) -> None:
    with Client(worker) as client:
        client.say(Transcribe("a", WAV))
        client.settled()
        desk.jobs["a"].segments(text("one"))
        client.wait_for(Segments)
        client.say(Transcribe("a", WAV))
        client.wait_for(Segments, 2)
        assert client.numbers("a") == [1, 1]
    assert desk.taken == ["a"]


def test_a_job_that_is_not_known_is_failed_without_a_number(worker: Worker, desk: HandDesk) -> None:
    with Client(worker) as client:
        client.say(Transcribe("gone", WAV, after=7))
        failed = client.wait_for(Failed)
        assert isinstance(failed, Failed)
        assert (failed.job, failed.seq, failed.code) == ("gone", 0, ErrorCode.NOT_FOUND)
        client.say(Transcribe("gone", WAV))
        client.settled()
        assert desk.taken == ["gone"]


def test_one_that_has_ended_is_told_whole_and_then_left(worker: Worker, desk: HandDesk) -> None:
    with Client(worker) as client:
        client.say(Transcribe("a", WAV))
        client.settled()
        desk.jobs["a"].done(Summary())
        client.wait_for(Done)
        client.say(Transcribe("a", WAV))
        client.wait_for(Done, 2)
        client.say(Acknowledge("a", 1), List())
        assert client.wait_for(Jobs) == Jobs(())


def test_the_other_questions_are_answered(worker: Worker, desk: HandDesk) -> None:
    stops: list[bool] = []
    with Client(worker, stops.append) as client:
        client.say(Transcribe("a", Source("blocks", "x.mp3")), Stop(), Stop(now=True))
        client.say(Blocks("a", 0, (Block("0" * 64, 16_000),)), List())
        (place,) = client.wait_for(Jobs).jobs  # type: ignore[union-attr]
        assert (place.job, place.state, place.seq, place.blocks) == ("a", "waiting", 0, 1)
        client.say(Cancel("a"), Cancel("nobody"))
        client.settled()
        assert desk.dropped == ["a"]
    assert stops == [False, True]


def test_a_client_that_comes_later_is_told_what_is_missing_too(
    worker: Worker, desk: HandDesk
) -> None:
    lost = Block("a" * 64, 16_000), Block("b" * 64, 16_000)
    request = Transcribe("a", Source("blocks", "x.mp3"))
    with Client(worker) as client:
        client.say(request, Blocks("a", 0, lost))
        client.settled()
        desk.jobs["a"].lacks(tuple(block.id for block in lost))
        assert client.wait_for(Missing) == Missing("a", tuple(block.id for block in lost))
        client.say(Blocks("a", 0, lost[:1]))
        client.settled()
        assert len(client.of(Missing)) == 1
    with Client(worker) as later:
        later.say(request)
        assert later.wait_for(Missing) == Missing("a", (lost[1].id,))
        later.say(Blocks("a", 1, lost[1:]), request)
        later.settled()
        assert len(later.of(Missing)) == 1


# ── strange lines ────────────────────────────────────────────────────────────────────────────


def test_what_is_no_message_is_logged_and_skipped_and_an_unknown_type_only_once(
    worker: Worker, desk: HandDesk, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), Client(worker) as client:
        client.say(b"garbage", b"{}", b'{"type":"transcribe","job":3}', b"\xff", b"")
        client.say(*[b'{"type":"pause","job":"a"}'] * 3, Hello(1, 9, "", "", "", "", "", 0.0))
        client.say(Have(("a",)), b'{"type":"hello","major":9}')
        client.say(Transcribe("a", WAV))
        client.settled()
    assert desk.taken == ["a"]
    assert sum("pause" in record.getMessage() for record in caplog.records) == 1


def test_a_line_without_an_end_ends_the_conversation_and_nothing_else(
    worker: Worker, desk: HandDesk
) -> None:
    conversation = Conversation(worker, lambda _: None)
    endless = (b"x" * (1 << 20) for _ in range(20))
    conversation.read(protocol.lines(endless))
    with Client(worker) as client:
        client.settled()


DOWN = st.one_of(
    [st.from_type(cls) for cls in (Transcribe, Blocks, Acknowledge, Cancel, Ping, List, Have)]
).map(protocol.encode)
JOB = st.sampled_from(["a", "b", "\ud800", "../x", ""])
HUGE = st.integers(-(10**40), 10**40) | st.integers(-3, 3)
KNOWN = st.one_of(
    st.builds(Transcribe, JOB, st.builds(Source, tracks=HUGE), after=HUGE),
    st.builds(Acknowledge, JOB, HUGE),
    st.builds(Cancel, JOB),
    st.builds(Blocks, JOB, HUGE, st.lists(st.builds(Block, samples=HUGE), max_size=2).map(tuple)),
).map(protocol.encode)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.binary() | DOWN | KNOWN, max_size=12))
def test_no_lines_break_it(tmp_path: Path, lines: list[bytes]) -> None:
    desk = HandDesk()
    worker = Worker(desk, Spool(tmp_path / "spool"))
    heard: list[bytes] = []
    conversation = Conversation(worker, heard.append)
    worker.join(conversation)
    conversation.read(iter([*lines, protocol.encode(List())]))
    conversation.end()
    conversation.write()
    answers = [json.loads(line)["type"] for line in heard]
    assert answers[0] == "hello"
    assert "jobs" in answers
    for job in worker.open_jobs:
        job.fail(protocol.KnownError(ErrorCode.CANCELLED, ""))
    for job in list(worker._jobs.values()):
        worker.acknowledge(job.name, job.journal.seq)
    assert worker.jobs() == Jobs(())


# ── clients that do not listen ───────────────────────────────────────────────────────────────


def test_a_client_that_is_gone_ends_its_own_conversation_alone(
    worker: Worker, desk: HandDesk
) -> None:
    with Client(worker) as gone, Client(worker) as other:
        gone.say(Transcribe("a", WAV))
        gone.settled()
        other.say(Transcribe("a", WAV))
        other.settled()
        gone.deaf.set()
        desk.jobs["a"].segments(text("one"))
        other.wait_for(Segments)
        assert gone.conversation.hung_up.wait(PATIENCE_S)
        desk.jobs["a"].done(Summary())
        other.wait_for(Done)


def test_one_who_does_not_read_holds_up_nobody_and_misses_no_event(
    worker: Worker, desk: HandDesk
) -> None:
    reading = threading.Event()
    heard: list[Message | None] = []

    def slow(line: bytes) -> None:
        assert reading.wait(PATIENCE_S)
        heard.append(protocol.decode(line))

    conversation = Conversation(worker, slow)
    worker.join(conversation)
    writer = threading.Thread(target=conversation.write, daemon=True)
    writer.start()
    conversation.read(iter([protocol.encode(Transcribe("a", WAV))]))
    for number in range(2 * _MOST_QUEUED):
        worker.announce(Note(str(number)))
    for _ in range(30):
        desk.jobs["a"].segments(text("one"))
    desk.jobs["a"].done(Summary())
    reading.set()
    conversation.end()
    writer.join(PATIENCE_S)
    assert not writer.is_alive()
    numbers = [m.seq for m in heard if isinstance(m, Segments | Done)]
    assert numbers == list(range(1, 32))
    notes = [m for m in heard if isinstance(m, Note)]
    assert _MOST_QUEUED - 1 <= len(notes) < 2 * _MOST_QUEUED
    assert notes[-1] == Note(str(2 * _MOST_QUEUED - 1))


def test_an_input_that_breaks_off_is_the_end_of_a_conversation(
    worker: Worker, desk: HandDesk
) -> None:
    def broken() -> Iterator[bytes]:
        yield protocol.encode(Transcribe("a", WAV))
        raise OSError("reset")

    Conversation(worker, lambda _: None).read(broken())
    assert desk.taken == ["a"]
    assert not desk.dropped
