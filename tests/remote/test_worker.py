"""All jobs of an engine, with a desk whose work the test does: nothing lost, nothing done twice."""

import json
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from remote.journal import DEADLY_BEGINS, Journal
from remote.protocol import (
    Block,
    Blocks,
    Done,
    ErrorCode,
    Failed,
    Heartbeat,
    JobPlace,
    Jobs,
    KnownError,
    Message,
    Missing,
    Note,
    Options,
    Progress,
    Segments,
    Source,
    Summary,
    Transcribe,
    decode,
)
from remote.recording import cancelled
from remote.sink import Settled
from remote.spool import MAX_AGE_S, Spool
from remote.worker import Worker
from tests.remote.doubles import HandDesk, text

PATIENCE_S = 10
WAV = Source("path", "/a.wav")
MP3 = Source("blocks", "talk.mp3")


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Ear:
    """A listener that keeps what it is told, and counts how often it is woken."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.woken = 0
        self.news = threading.Event()

    def post(self, message: Message) -> None:
        self.heard.append(message)
        self.news.set()

    def wake(self) -> None:
        self.woken += 1
        self.news.set()

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kind)]


@pytest.fixture
def desk() -> HandDesk:
    return HandDesk()


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def worker(desk: HandDesk, clock: Hand, tmp_path: Path) -> Worker:
    return Worker(desk, Spool(tmp_path), clock=clock)


def again(tmp_path: Path, *, begin: bool = True) -> tuple[Worker, HandDesk]:
    """The worker that is started after one that has died."""
    desk = HandDesk()
    worker = Worker(desk, Spool(tmp_path))
    worker.recover(begin=begin)
    return worker, desk


def accepted(worker: Worker, name: str, source: Source = WAV, after: int = 0) -> Journal:
    journal = worker.accept(Transcribe(name, source, after=after))
    assert isinstance(journal, Journal)
    return journal


def events(journal: Journal) -> list[Message | None]:
    return [decode(line) for line in journal.events(0)]


def numbers(journal: Journal) -> list[int]:
    return [json.loads(line)["seq"] for line in journal.events(0)]


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────


def test_events_are_numbered_from_one_and_each_job_ends_with_one_end(
    worker: Worker, desk: HandDesk
) -> None:
    for name in ("a", "b"):
        journal = accepted(worker, name)
        job = desk.jobs[name]
        job.begin()
        job.progress("decode", 0, 2000)
        job.segments(text("one"))
        job.segments(())
        job.segments(text("two"))
        job.done(Summary(duration_ms=2000))
        job.done(Summary())
        job.fail(cancelled())
        job.segments(text("late"))
        assert numbers(journal) == [1, 2, 3, 4]
        assert [type(e) for e in events(journal)] == [Progress, Segments, Segments, Done]
    assert desk.taken == ["a", "b"]


def test_request_and_options_reach_the_desk(worker: Worker, desk: HandDesk) -> None:
    request = Transcribe("a", WAV, Options(language="it", words=True), "base")
    worker.accept(request)
    assert desk.jobs["a"].journal.request == request


def test_a_failure_is_told_with_its_sentence(worker: Worker, desk: HandDesk) -> None:
    journal = accepted(worker, "a")
    desk.jobs["a"].segments(text("half"))
    desk.jobs["a"].fail(KnownError(ErrorCode.NOT_AUDIO, "It is no audio.", "Try another."))
    assert events(journal)[-1] == Failed(
        "a", 2, ErrorCode.NOT_AUDIO, "It is no audio.", "Try another."
    )


def test_progress_is_sent_at_most_ten_times_a_second_but_each_stage_at_once(
    worker: Worker, desk: HandDesk, clock: Hand
) -> None:
    journal = accepted(worker, "a")
    job = desk.jobs["a"]
    for step in range(200):  # two seconds
        job.progress("decode", step, 1000)
        clock.now_s += 0.01
    job.progress("generate", 0, None)
    told = [event for event in events(journal) if isinstance(event, Progress)]
    assert 17 <= len(told) <= 22
    assert told[-1].stage == "generate"
    assert numbers(journal) == list(range(1, len(told) + 1))


def test_a_job_that_is_asked_for_twice_is_done_once(worker: Worker, desk: HandDesk) -> None:
    journal = accepted(worker, "a")
    assert accepted(worker, "a") is journal
    assert accepted(worker, "a", Source("path", "/other.wav")) is journal
    desk.jobs["a"].done(Summary())
    assert accepted(worker, "a", after=1) is journal
    assert desk.taken == ["a"]


@pytest.mark.parametrize("known", [False, True])
def test_a_client_that_has_more_of_a_job_than_there_is_starts_over(
    worker: Worker, desk: HandDesk, known: bool
) -> None:
    if known:  # the machine lost its power and the last of the journal with it
        accepted(worker, "a")
        desk.jobs["a"].segments(text("one"))
    answer = worker.accept(Transcribe("a", WAV, after=2))
    assert isinstance(answer, Failed)
    assert (answer.job, answer.seq, answer.code) == ("a", 0, ErrorCode.NOT_FOUND)
    assert numbers(accepted(worker, "a")) == [1] * known
    assert desk.taken == ["a"]


def test_what_has_ended_and_is_acknowledged_is_forgotten_with_its_audio(
    worker: Worker, desk: HandDesk, tmp_path: Path
) -> None:
    journal = accepted(worker, "a")
    desk.jobs["a"].segments(text("one"))
    worker.acknowledge("a", 1)  # it has not ended
    desk.jobs["a"].done(Summary())
    worker.acknowledge("a", 1)  # nor has the client got its end
    assert worker.jobs() == Jobs((JobPlace("a", "ended", 2),))
    worker.acknowledge("a", 2)
    worker.acknowledge("a", 2)
    worker.acknowledge("nobody", 2)
    assert worker.jobs() == Jobs(())
    assert not journal.path.exists()
    assert isinstance(worker.accept(Transcribe("a", WAV, after=2)), Failed)


def test_audio_goes_when_its_job_has_ended_unless_another_needs_it(
    worker: Worker, desk: HandDesk, tmp_path: Path
) -> None:
    blocks = tuple(Block(letter * 64, 16_000) for letter in "abc")
    for block in blocks:
        path = worker.spool.blocks.path(block.id)
        path.parent.mkdir(parents=True)
        path.write_bytes(b"sound")
    for name, known in (("one", blocks[:2]), ("other", blocks[1:])):
        accepted(worker, name, MP3)
        worker.add_blocks(Blocks(name, 0, known, complete=True))
    desk.jobs["one"].done(Summary())
    held = worker.spool.blocks.held([block.id for block in blocks])
    assert held == {block.id for block in blocks[1:]}


def test_jobs_are_listed_with_where_they_are(worker: Worker, desk: HandDesk) -> None:
    for name in "abc":
        accepted(worker, name, MP3)
    worker.add_blocks(Blocks("b", 0, (Block("0" * 64, 1),)))
    desk.jobs["b"].begin()
    desk.jobs["c"].fail(cancelled())
    assert worker.jobs() == Jobs(
        (JobPlace("a", "waiting", 0), JobPlace("b", "running", 0, 1), JobPlace("c", "ended", 1))
    )


# ── cancelling ───────────────────────────────────────────────────────────────────────────────


def test_cancelling_is_handed_to_the_desk_once_it_is_of_use(worker: Worker, desk: HandDesk) -> None:
    accepted(worker, "a")
    accepted(worker, "b")
    desk.jobs["b"].done(Summary())
    for name in ("a", "b", "nobody"):
        worker.cancel(name)
    assert desk.dropped == ["a"]
    assert desk.jobs["a"].cancelled.is_set()


# ── audio ────────────────────────────────────────────────────────────────────────────────────


def test_blocks_that_cannot_be_are_left_alone(
    worker: Worker, desk: HandDesk, caplog: pytest.LogCaptureFixture
) -> None:
    journal = accepted(worker, "a", MP3)
    worker.add_blocks(Blocks("nobody", 0, (Block("0" * 64, 1),)))
    worker.add_blocks(Blocks("a", 3, (Block("0" * 64, 1),)))
    assert journal.audio.blocks == ()
    assert "0 are known" in caplog.text


def test_what_is_missing_is_told_until_it_is_there(worker: Worker, desk: HandDesk) -> None:
    ear = Ear()
    worker.join(ear)
    accepted(worker, "a", MP3)
    worker.add_blocks(Blocks("a", 0, (Block("0" * 64, 1), Block("1" * 64, 1)), complete=True))
    job = desk.jobs["a"]
    assert worker.missing("a") is None
    assert job.whole
    job.lacks(("1" * 64,))
    assert ear.of(Missing) == [Missing("a", ("1" * 64,))]
    assert worker.missing("a") == Missing("a", ("1" * 64,))
    assert not job.whole
    worker.add_blocks(Blocks("a", 9, (Block("1" * 64, 1),)))  # nonsense brings nothing back
    assert worker.missing("a") is not None
    worker.add_blocks(Blocks("a", 1, (Block("1" * 64, 1),)))
    assert worker.missing("a") is None
    job.segments(text("one"))
    assert len(ear.of(Missing)) == 1


def test_a_job_that_was_put_aside_is_taken_again_when_there_is_more_of_it(
    worker: Worker, desk: HandDesk
) -> None:
    accepted(worker, "a", MP3)
    desk.jobs["a"].taken = False
    worker.add_blocks(Blocks("a", 0, (Block("0" * 64, 1),)))
    worker.add_blocks(Blocks("a", 1, (Block("1" * 64, 1),)))
    assert desk.taken == ["a", "a"]


# ── after a death ────────────────────────────────────────────────────────────────────────────


def test_jobs_go_on_from_what_was_settled_and_told(
    worker: Worker, desk: HandDesk, tmp_path: Path
) -> None:
    accepted(worker, "a")
    job = desk.jobs["a"]
    job.begin()
    job.language("de", 0.5)
    part = Settled(0, text("one"), 480)
    job.settled(part)
    job.segments(text("one"))
    accepted(worker, "b")
    worker, desk = again(tmp_path)
    assert desk.taken == ["a", "b"]
    past = desk.jobs["a"].journal.past
    assert (past.language, past.settled, past.told) == ("de", {0: part}, {None: 1})
    journal = accepted(worker, "a", after=1)
    desk.jobs["a"].segments(text("two"))
    assert numbers(journal) == [1, 2]


def test_what_had_ended_waits_for_its_client(
    worker: Worker, desk: HandDesk, tmp_path: Path
) -> None:
    accepted(worker, "a")
    desk.jobs["a"].done(Summary(duration_ms=9))
    worker, desk = again(tmp_path)
    assert desk.taken == []
    assert events(accepted(worker, "a")) == [Done("a", 1, Summary(duration_ms=9))]
    assert desk.taken == []


def test_an_engine_for_one_client_goes_on_only_with_what_it_asks_for(
    worker: Worker, desk: HandDesk, tmp_path: Path
) -> None:
    accepted(worker, "a")
    accepted(worker, "b")
    worker, desk = again(tmp_path, begin=False)
    worker.wait_until_quiet()  # nobody wants anything
    accepted(worker, "b")
    assert desk.taken == ["b"]


def test_a_job_that_the_engine_dies_of_again_and_again_is_given_up(tmp_path: Path) -> None:
    Worker(HandDesk(), Spool(tmp_path)).accept(Transcribe("a", WAV))
    for died in range(DEADLY_BEGINS):
        worker, desk = again(tmp_path)
        assert desk.taken == ["a"]
        assert desk.jobs["a"].suspect == (died == DEADLY_BEGINS - 1)
        desk.jobs["a"].begin()
    worker, desk = again(tmp_path)
    assert desk.taken == []
    (failed,) = events(accepted(worker, "a"))
    assert isinstance(failed, Failed)
    assert failed.code is ErrorCode.ENGINE_DIED


def test_a_job_that_gets_on_is_not_given_up(tmp_path: Path) -> None:
    Worker(HandDesk(), Spool(tmp_path)).accept(Transcribe("a", WAV))
    for key in range(2 * DEADLY_BEGINS):
        _, desk = again(tmp_path)
        desk.jobs["a"].begin()
        desk.jobs["a"].settled(Settled(key, (), 480))
        assert not desk.jobs["a"].suspect


def test_an_engine_that_ends_in_order_has_not_died(tmp_path: Path) -> None:
    Worker(HandDesk(), Spool(tmp_path)).accept(Transcribe("a", WAV))
    for _ in range(2 * DEADLY_BEGINS):
        worker, desk = again(tmp_path)
        desk.jobs["a"].begin()
        worker.pause()
    assert again(tmp_path)[1].taken == ["a"]


def test_what_nobody_comes_for_goes(tmp_path: Path, desk: HandDesk, clock: Hand) -> None:
    began_s, began_at_s = clock.now_s, time.time()

    def now() -> float:
        return began_at_s + clock.now_s - began_s

    spool = Spool(tmp_path, clock=clock, now=now)
    worker = Worker(desk, spool, clock=clock)
    ended, unended = accepted(worker, "ended"), accepted(worker, "unended")
    desk.jobs["ended"].done(Summary())
    clock.now_s += MAX_AGE_S + 1
    worker.sweep()
    assert [place.job for place in worker.jobs().jobs] == ["unended"]
    assert desk.dropped == ["unended"]
    assert not ended.path.exists()
    assert unended.path.exists()


# ── a full disk ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def full_disk() -> Iterator[None]:
    """Within the test: pytest itself writes before fixtures are taken down."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_job_for_which_there_is_no_room_is_refused(worker: Worker, desk: HandDesk) -> None:
    with full_disk():
        answer = worker.accept(Transcribe("a", WAV))
    assert isinstance(answer, Failed)
    assert (answer.seq, answer.code) == (0, ErrorCode.DISK_FULL)
    assert worker.jobs() == Jobs(())
    assert desk.taken == []


def test_that_the_disk_is_full_is_told_while_it_is(worker: Worker, desk: HandDesk) -> None:
    ear = Ear()
    worker.join(ear)
    accepted(worker, "a")
    beating = threading.Thread(target=worker.beat, args=(0.001,), daemon=True)
    beating.start()
    while len(ear.of(Heartbeat)) < 2:
        assert ear.news.wait(PATIENCE_S)
        ear.news.clear()
    assert ear.of(Note) == []
    desk.jobs["a"].journal.full = True
    beats = len(ear.of(Heartbeat))
    while len(ear.of(Heartbeat)) < beats + 4:
        assert ear.news.wait(PATIENCE_S)
        ear.news.clear()
    worker.stopping.set()
    beating.join(PATIENCE_S)
    (note,) = ear.of(Note)
    assert isinstance(note, Note)
    assert "full" in note.text


# ── the heart ────────────────────────────────────────────────────────────────────────────────


def test_whoever_joins_hears_hello_first_and_nothing_once_it_has_left(
    worker: Worker, desk: HandDesk
) -> None:
    ear = Ear()
    worker.join(ear)
    worker.announce(Note("x"))
    worker.leave(ear)
    worker.leave(ear)
    worker.announce(Note("y"))
    assert ear.heard == [desk.hello, Note("x")]


def test_every_listener_is_woken_by_news_of_any_job(worker: Worker, desk: HandDesk) -> None:
    ears = [Ear(), Ear()]
    for ear in ears:
        worker.join(ear)
    accepted(worker, "a")
    desk.jobs["a"].segments(text("one"))
    assert [ear.woken for ear in ears] == [1, 1]


def test_the_heart_tells_how_the_engine_is(worker: Worker, desk: HandDesk, clock: Hand) -> None:
    for name in "abc":
        accepted(worker, name)
    desk.jobs["a"].begin()
    desk.jobs["c"].fail(cancelled())
    clock.now_s += 2.0
    desk.seconds = 1.5
    beat = worker.heartbeat()
    assert (beat.jobs, beat.queued, beat.model) == (2, 1, "tiny.en")
    assert (beat.device_memory_bytes, beat.device_memory_total_bytes) == (7, 9)
    assert beat.memory_bytes > 1_000_000
    assert beat.utilisation == 0.75
    clock.now_s += 2.0
    assert worker.heartbeat().utilisation == 0.0  # of the time since the last


def test_jobs_that_stand_still_are_idle(worker: Worker, desk: HandDesk, clock: Hand) -> None:
    clock.now_s += 100
    assert worker.idle_s() == 100
    accepted(worker, "a", MP3)
    assert worker.idle_s() == 0
    clock.now_s += 50
    worker.add_blocks(Blocks("a", 0, (Block("0" * 64, 1),)))
    clock.now_s += 7
    assert worker.idle_s() == 7
    desk.jobs["a"].begin()
    desk.jobs["a"].progress("decode", 0, None)
    assert worker.idle_s() == 7
    desk.jobs["a"].settled(Settled(0, (), 480))
    assert worker.idle_s() == 0
    clock.now_s += 3
    desk.jobs["a"].done(Summary())
    worker.acknowledge("a", 2)
    assert worker.idle_s() == 3  # that it is forgotten does not make it long ago
    worker.moved()
    assert worker.idle_s() == 0


def test_it_is_quiet_when_all_that_can_go_on_has_ended(worker: Worker, desk: HandDesk) -> None:
    accepted(worker, "a", MP3)
    accepted(worker, "b")
    quiet = threading.Event()

    def wait() -> None:
        worker.wait_until_quiet(audio=False)
        quiet.set()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    worker.add_blocks(Blocks("a", 0, (Block("0" * 64, 1),)))  # and nobody will send the rest
    assert not quiet.is_set()
    desk.jobs["b"].done(Summary())
    assert quiet.wait(PATIENCE_S)
