"""A job on its way, whatever breaks: every text stored once, told once, in order."""

import asyncio
import operator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.blocks import Codec
from app.domain.events import (
    AlreadyDone,
    Delayed,
    EngineLost,
    EngineUnavailable,
    JobChanged,
    JobEnded,
    LinkBack,
    LinkLost,
    StartedOver,
    TextArrived,
    Wire,
)
from app.domain.jobs import JobState
from remote.protocol import (
    Acknowledge,
    Cancel,
    Done,
    ErrorCode,
    Failed,
    KnownError,
    Progress,
    Segments,
    Transcribe,
)
from tests.app.engine.fakes import (
    LOST,
    Batch,
    FakeEngine,
    FakeMachine,
    FakeMedia,
    MemoryLibrary,
    run,
    said,
)

CUTS = st.dictionaries(st.integers(0, 150), st.sampled_from(["before", "after"]), max_size=15)


def error(code: ErrorCode) -> KnownError:
    return KnownError(code, "A sentence.")


def told_texts(batch: Batch, name: str) -> list[str]:
    return [
        segment.text
        for event in batch.of(TextArrived)
        if event.job.path.stem == name
        for segment in event.segments
    ]


@settings(max_examples=50)
@given(CUTS, st.integers(1, 3), st.booleans())
def test_wherever_the_link_is_cut_every_text_is_stored_and_told_exactly_once(cuts, jobs, blocks):
    machine = FakeMachine(FakeEngine(), blocks=blocks, cuts=cuts)
    batch = Batch(machine)
    names = [f"r{number}" for number in range(jobs)]
    ended = batch.run(*names)
    for name in names:
        assert ended[name].state is JobState.DONE
        assert batch.texts(name) == said(name)
        assert told_texts(batch, name) == said(name)
    assert not machine.blocks.doubled.total()
    assert all(link.closed for link in machine.links)
    cuts.clear()
    Batch(machine, batch.library).run("z")  # the last acknowledgement may have been lost
    assert not machine.engine.jobs
    assert not machine.engine.store


@settings(max_examples=30)
@given(CUTS, st.floats(0.0, 3.0), st.booleans(), st.booleans())
def test_a_program_that_is_killed_loses_nothing_that_the_next_does_not_bring(
    cuts, after_s, blocks, forgets
):
    machine = FakeMachine(FakeEngine(), blocks=blocks, cuts=cuts)
    library = MemoryLibrary()

    async def both() -> Batch:
        first = Batch(machine, library)
        killed = asyncio.create_task(first.work("a", "b"))
        await asyncio.wait([killed], timeout=after_s)
        killed.cancel()
        await asyncio.wait([killed])
        if forgets:
            machine.engine.forget()
        second = Batch(machine, library)
        await second.service.resume()
        await second.service.run()
        return second

    run(both())
    for row in library.rows.values():
        assert row.state is JobState.DONE
        assert library.texts(row.id) == said(row.path.stem)
    if not forgets:
        assert not machine.blocks.doubled.total()


def test_a_job_that_was_stopped_out_of_reach_is_taken_from_the_engine_the_next_time():
    machine = FakeMachine(FakeEngine(), cuts={6: "before"})
    batch = Batch(machine)
    batch.on(LinkLost, lambda _: batch.service.cancel())
    job = batch.run("slow")["slow"]
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert job.id in machine.engine.jobs
    Batch(machine, batch.library).run("a")
    assert isinstance(machine.engine.jobs[job.id].events[-1], Failed)
    Batch(machine, batch.library).run("b")
    assert not machine.engine.jobs


def test_text_is_stored_first_told_second_and_acknowledged_third():
    batch = Batch()
    stored: list[int] = []
    batch.on(TextArrived, lambda event: stored.append(batch.library.rows[event.job.id].seq))
    (job,) = batch.run("a").values()
    assert all(map(operator.ge, stored, [event.job.seq for event in batch.of(TextArrived)]))
    acknowledged = [m.seq for m in batch.machine.engine.heard if isinstance(m, Acknowledge)]
    assert acknowledged == sorted(acknowledged)
    assert acknowledged[-1] == job.seq


def test_progress_is_stored_with_the_text_that_follows_it():
    batch = Batch()
    batch.run("a")
    assert batch.library.appended == [2, 2, 3]


def test_progress_without_text_is_told_after_a_second():
    batch = Batch()
    batch.run("slow")
    told = zip(batch.told, batch.at_s, strict=True)
    at_s = [at_s for event, at_s in told if isinstance(event, JobChanged) and event.job.seq == 1]
    assert at_s[0] == pytest.approx(1.0, abs=0.1)


def test_a_lost_link_is_told_at_once_and_its_return():
    machine = FakeMachine(FakeEngine(), cuts={6: "before"})
    machine.refuse = []
    batch = Batch(machine)
    batch.on(LinkLost, lambda event: machine.refuse.extend([LOST] * 3) if not event.tries else None)
    assert batch.run("a")["a"].state is JobState.DONE
    waits = [event.wait_s for event in batch.of(LinkLost)]
    assert [event.tries for event in batch.of(LinkLost)] == [0, 1, 2, 3]
    assert waits[0] == 0.0
    assert 0.1 <= waits[1] <= waits[2] <= waits[3] <= 0.8
    assert len(batch.of(LinkBack)) == 1


def test_a_link_that_stays_away_is_given_up_after_the_time_for_it():
    machine = FakeMachine(FakeEngine(), cuts={6: "before"})
    batch = Batch(machine, give_up_after_s=600.0)
    batch.on(LinkLost, lambda _: machine.refuse.append(LOST))
    job = batch.run("a")["a"]
    assert job.error is LOST
    assert 550 < batch.at_s[-1] < 700
    assert max(event.wait_s for event in batch.of(LinkLost)) <= 15.0
    assert batch.texts("a") == said("a")[: len(batch.texts("a"))]


@pytest.mark.parametrize(
    "code", [ErrorCode.HOST_UNKNOWN, ErrorCode.HOST_CHANGED, ErrorCode.VERSION,
             ErrorCode.HOST_UNREACHABLE]
)  # fmt: skip
def test_a_host_that_will_not_have_us_fails_every_job_at_once_and_is_told_once(code):
    machine = FakeMachine(FakeEngine())
    machine.refuse = [error(code)]
    batch = Batch(machine)
    jobs = batch.run("a", "b")
    assert [job.error.code for job in jobs.values() if job.error] == [code, code]
    assert len(batch.of(EngineUnavailable)) == 1
    assert len(machine.links) == 1


def test_a_host_that_was_there_before_is_waited_for():
    machine = FakeMachine(FakeEngine(), cuts={6: "before"})
    batch = Batch(machine)
    gone = [error(ErrorCode.HOST_UNREACHABLE)] * 5
    batch.on(LinkLost, lambda event: machine.refuse.extend(gone) if not event.tries else None)
    assert batch.run("a")["a"].state is JobState.DONE


def test_a_recording_that_kills_every_engine_takes_no_other_with_it():
    batch = Batch()
    jobs = batch.run("killer", "a", "b")
    assert jobs["killer"].error is not None
    assert jobs["killer"].error.code is ErrorCode.ENGINE_DIED
    assert batch.texts("killer") == ["killer 0."]
    assert [jobs[name].state for name in "ab"] == [JobState.DONE] * 2
    lost = [event.again for event in batch.of(EngineLost) if event.job.path.stem == "killer"]
    assert lost == [True, True, False]
    assert batch.texts("a") == said("a")


def test_a_job_that_the_engine_has_forgotten_starts_over_without_doubled_text():
    machine = FakeMachine(FakeEngine(), cuts={8: "after"})
    batch = Batch(machine)
    batch.on(LinkLost, lambda _: machine.engine.forget())
    assert batch.run("a")["a"].state is JobState.DONE
    assert batch.texts("a") == said("a")
    assert len(batch.of(StartedOver)) == 1


def test_an_engine_that_leaves_out_an_event_is_asked_again_and_in_the_end_not_believed():
    engine = FakeEngine()
    batch = Batch(FakeMachine(engine))
    push = batch.machine.link

    def deaf_to_four() -> object:
        link = push()
        through = link.push
        link.push = lambda m: None if getattr(m, "seq", 0) == 4 else through(m)  # type: ignore[method-assign]
        return link

    batch.machine.link = deaf_to_four  # type: ignore[method-assign]
    job = batch.run("a")["a"]
    assert job.error is not None
    assert job.error.code is ErrorCode.WIRE
    assert batch.texts("a") == ["a 0."]


def test_a_full_disk_under_the_library_is_waited_for():
    batch = Batch()
    batch.library.refuse = [error(ErrorCode.DISK_FULL)] * 3
    assert batch.run("a")["a"].state is JobState.DONE
    assert [event.error.code for event in batch.of(Delayed)] == [ErrorCode.DISK_FULL] * 3
    assert batch.texts("a") == said("a")


def test_a_library_that_is_broken_ends_the_work_with_its_sentence():
    batch = Batch()
    batch.library.refuse = [error(ErrorCode.LIBRARY_BROKEN)] * 3
    with pytest.raises(KnownError) as caught:
        batch.run("a")
    assert caught.value.code is ErrorCode.LIBRARY_BROKEN
    assert all(link.closed for link in batch.machine.links)


def test_a_recording_that_was_transcribed_before_is_told_and_done_again():
    library = MemoryLibrary()
    Batch(library=library).run("a")
    batch = Batch(library=library)
    job = batch.run("a")["a"]
    assert job.state is JobState.DONE
    (already,) = batch.of(AlreadyDone)
    assert already.entry.path == job.path
    assert already.entry.id != job.id


def test_whoever_hears_that_it_was_done_before_may_stop_it():
    library = MemoryLibrary()
    Batch(library=library).run("a")
    batch = Batch(library=library)
    batch.on(AlreadyDone, lambda event: batch.service.cancel(event.job.id))
    jobs = batch.run("a", "b")
    assert jobs["a"].error is not None
    assert jobs["a"].error.code is ErrorCode.CANCELLED
    assert jobs["b"].state is JobState.DONE


def test_stages_of_the_client_are_kept_beside_those_of_the_engine():
    machine = FakeMachine(FakeEngine(), blocks=True)
    batch = Batch(machine, media=FakeMedia(blocks=4), codec=Codec.FLAC)
    job = batch.run("a")["a"]
    row = batch.library.rows[job.id]
    assert set(row.stages) == {"wait", "upload", "return"}
    assert row.stages["upload"] > 0.05
    assert row.sent_bytes == 2_000_000
    assert row.engine == batch.machine.hello
    assert row.content


def test_a_job_that_the_client_gives_up_is_taken_from_the_engine():
    media = FakeMedia(blocks=50)
    machine = FakeMachine(FakeEngine(), blocks=True, uplink_bits=2e6)
    batch = Batch(machine, media=media)
    vanish = KnownError(ErrorCode.FILE_VANISHED, "It went away.")

    class Vanishing:
        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __iter__(self):
            for number, block in enumerate(self.inner):
                if number == 4:
                    raise vanish
                yield block

    cut = media.cut
    media.cut = lambda *a, **k: Vanishing(cut(*a, **k))  # type: ignore[method-assign]
    job = batch.run("a")["a"]
    assert job.error is vanish
    assert any(isinstance(m, Cancel) for m in machine.engine.heard)
    assert batch.texts("a") == said("a")[: len(batch.texts("a"))]


def test_every_job_begins_and_ends_on_the_wire():
    machine = FakeMachine(FakeEngine(), cuts={9: "before"})
    batch = Batch(machine)
    for job in batch.run("a", "bad").values():
        mine = [e.message for e in batch.of(Wire) if getattr(e.message, "job", None) == job.id]
        assert isinstance(mine[0], Transcribe)
        assert isinstance(mine[-1], Done | Failed)
        numbers = [m.seq for m in mine if isinstance(m, Progress | Segments | Done | Failed)]
        assert numbers == list(range(1, len(numbers) + 1))
    assert len(batch.of(JobEnded)) == 2
