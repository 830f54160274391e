"""The verbs: with a real child process that runs without a model, and in virtual time."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.adapters.loopback import Loopback, ThisComputer
from app.domain.events import (
    Delivered,
    DeliveryFailed,
    EngineLost,
    EngineReady,
    EngineUnavailable,
    Event,
    FilesPassed,
    JobChanged,
    JobEnded,
    JobsAdded,
    Recovered,
    StartedOver,
    TextArrived,
    Wire,
)
from app.domain.history import JobSettings
from app.domain.intake import Accepted, Found, Passed, Refused
from app.domain.jobs import Job, JobState
from app.engine.service import Service
from remote.protocol import Cancel, Done, ErrorCode, Failed, KnownError, Segments, Transcribe
from tests.app.engine import fakes
from tests.app.engine.fakes import FakeEngine, FakeMachine, MemoryClaims, MemoryLibrary, run, said


class Watched(ThisComputer):
    """This computer, and the links that were made to it."""

    def __init__(self, command: list[str]) -> None:
        super().__init__(command)
        self.links: list[Loopback] = []

    def link(self) -> Loopback:
        self.links.append(super().link())
        return self.links[-1]


class Batch:
    """A service over the fake engine in a process of its own, and everything it told."""

    def __init__(self, command: list[str], *names: str, **settings: Any) -> None:
        self.told: list[Event] = []
        self.machine = Watched(command)
        self.library = MemoryLibrary()
        self._names = names
        self._react: dict[type, Callable[[], None]] = {}
        self.service = Service(
            self.machine,
            self.library,
            gather,
            JobSettings(),
            observers=[self._hear],
            **settings,
        )

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        for kind, react in self._react.items():
            if isinstance(event, kind):
                react()

    def on(self, kind: type, react: Callable[[], None]) -> "Batch":
        self._react[kind] = react
        return self

    async def work(self) -> tuple[Job, ...]:
        await self.service.add([Path(f"/{name}.wav") for name in self._names])
        return await self.service.run()

    def run(self) -> tuple[Job, ...]:
        return asyncio.run(self.work())

    def of(self, kind: type) -> list:
        return [event for event in self.told if isinstance(event, kind)]

    def ends(self) -> dict[str, JobEnded]:
        return {event.job.path.stem: event for event in self.of(JobEnded)}


def gather(paths: Sequence[Path]) -> list[Found]:
    found: list[Found] = []
    for path in paths:
        if path.stem == "absent":
            found.append(Refused(path, KnownError(ErrorCode.FILE_MISSING, "No such file.")))
        elif path.stem == "notes":
            found.append(Passed(path, "not audio or video"))
        else:
            found.append(Accepted(path))
    return found


def states(jobs: Sequence[Job]) -> list[str]:
    return [str(job.state) for job in jobs]


def texts(ended: JobEnded) -> list[str]:
    return [segment.text for segment in ended.transcript.segments]


# ── with a child process ─────────────────────────────────────────────────────────────────────


def test_all_files_run_over_one_link_and_give_their_text_and_summary(fake_engine):
    batch = Batch(fake_engine(), "a", "b", "c")
    assert states(batch.run()) == ["done"] * 3
    assert len(batch.machine.links) == 1
    assert texts(batch.ends()["b"]) == ["b begins.", "b ends."]
    assert batch.ends()["b"].transcript.summary is not None
    assert batch.ends()["b"].transcript.engine is not None


def test_one_bad_file_does_not_stop_the_rest(fake_engine):
    batch = Batch(fake_engine(), "a", "bad", "b")
    assert states(batch.run()) == ["done", "failed", "done"]
    error = batch.ends()["bad"].transcript.error
    assert error is not None
    assert error.code is ErrorCode.NOT_AUDIO


def test_events_come_in_an_order_that_a_display_can_rely_on(fake_engine):
    batch = Batch(fake_engine(), "a")
    batch.run()
    kinds = [type(event) for event in batch.told if not isinstance(event, Wire)]
    assert kinds == [
        JobsAdded,
        EngineReady,
        JobChanged,  # running
        JobChanged,  # progress
        TextArrived,
        TextArrived,
        JobChanged,  # done
        JobEnded,
    ]


def test_what_is_refused_or_passed_over_is_told_and_the_rest_runs(fake_engine):
    batch = Batch(fake_engine(), "absent", "notes", "a")
    jobs = batch.run()
    assert states(jobs) == ["failed", "done"]
    (passed,) = batch.of(FilesPassed)
    assert [file.path.stem for file in passed.files] == ["notes"]
    assert list(batch.library.rows) == [jobs[1].id]  # a slip of the pen is no history


def test_a_job_whose_engine_died_goes_on_with_a_new_one_without_doubled_text(fake_engine):
    batch = Batch(fake_engine(), "a", "die-once", "b")
    assert states(batch.run()) == ["done"] * 3
    assert len(batch.machine.links) == 2
    assert {lost.again for lost in batch.of(EngineLost)} == {True}
    assert batch.of(StartedOver)  # this engine keeps nothing
    assert texts(batch.ends()["die-once"]) == ["die-once begins.", "die-once ends."]


def test_a_job_that_kills_every_engine_fails_with_the_text_it_gave_and_the_others_go_on(
    fake_engine,
):
    batch = Batch(fake_engine(), "die-always", "b")
    assert states(batch.run()) == ["failed", "done"]
    ended = batch.ends()["die-always"]
    assert ended.job.error is not None
    assert ended.job.error.code is ErrorCode.ENGINE_DIED
    lost = [event.again for event in batch.of(EngineLost) if event.job.path.stem == "die-always"]
    assert lost == [True, True, False]
    assert texts(ended) == ["die-always begins."]


def test_a_hole_in_the_numbers_is_never_taken_for_a_complete_text(fake_engine):
    batch = Batch(fake_engine(), "gap", "b")
    assert states(batch.run()) == ["failed", "done"]
    error = batch.ends()["gap"].job.error
    assert error is not None
    assert error.code is ErrorCode.WIRE


@pytest.mark.parametrize(
    ("start", "code"),
    [
        ("unloadable", ErrorCode.MODEL_MISSING),
        ("incomplete", ErrorCode.ENGINE_MISSING),
        ("dead", ErrorCode.ENGINE_DIED),
        ("foreign", ErrorCode.VERSION),
    ],
)
def test_an_engine_that_cannot_start_fails_every_job_and_is_told_once(fake_engine, start, code):
    batch = Batch(fake_engine(start), "a", "b")
    jobs = batch.run()
    assert [job.error.code for job in jobs if job.error] == [code, code]
    assert len(batch.of(EngineUnavailable)) == 1
    assert len(batch.machine.links) == 1


def test_every_job_begins_and_ends_on_the_wire_whatever_happened_to_it(fake_engine):
    batch = Batch(fake_engine(), "absent", "a", "die-always")
    batch.run()
    messages = [event.message for event in batch.of(Wire)]
    for job in batch.service.jobs:
        mine = [message for message in messages if getattr(message, "job", None) == job.id]
        assert isinstance(mine[0], Transcribe)
        assert isinstance(mine[-1], Done | Failed)


def test_cancelling_ends_the_running_job_and_all_that_wait(fake_engine):
    batch = Batch(fake_engine(), "hang", "a", "b", at_once=1)
    jobs = batch.on(TextArrived, batch.service.cancel).run()
    assert [job.error.code for job in jobs if job.error] == [ErrorCode.CANCELLED] * 3
    assert Cancel(jobs[0].id) in [event.message for event in batch.of(Wire)]
    assert texts(batch.ends()["hang"]) == ["hang begins."]
    assert not batch.of(EngineLost)


def test_an_engine_that_does_not_hear_cancel_is_killed_after_the_patience(fake_engine):
    batch = Batch(fake_engine(), "deaf", patience_s=0.01)
    (job,) = batch.on(TextArrived, batch.service.cancel).run()
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED


def test_aborting_does_not_wait_for_the_engine(fake_engine):
    batch = Batch(fake_engine(), "deaf", "a", patience_s=600, at_once=1)
    jobs = batch.on(TextArrived, batch.service.abort).run()
    assert [job.error.code for job in jobs if job.error] == [ErrorCode.CANCELLED] * 2


def test_cancelling_while_the_model_loads_ends_the_engine(fake_engine):
    batch = Batch(fake_engine("silent"), "a", patience_s=600)

    async def work() -> tuple[Job, ...]:
        running = asyncio.create_task(batch.work())
        while not batch.machine.links:
            await asyncio.sleep(0.001)
        batch.service.cancel()
        return await running

    (job,) = asyncio.run(work())
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert not batch.of(EngineUnavailable)


def test_an_observer_that_fails_leaves_no_engine_behind(fake_engine):
    def stumble() -> None:
        raise BrokenPipeError

    batch = Batch(fake_engine(), "a", "b").on(TextArrived, stumble)
    with pytest.raises(BrokenPipeError):
        batch.run()
    assert batch.machine.links[0]._process is None  # closed


def test_a_finished_text_is_delivered_and_a_failed_delivery_stops_nothing(fake_engine):
    def deliver(transcript) -> tuple[Path, ...]:
        if transcript.source.stem == "a":
            raise KnownError(ErrorCode.DISK_FULL, "Full.")
        return (Path("/b.txt"),)

    batch = Batch(fake_engine(), "a", "b", deliver=deliver)
    assert states(batch.run()) == ["done", "done"]
    (failed,) = batch.of(DeliveryFailed)
    assert [segment.text for segment in failed.transcript.segments] == ["a begins.", "a ends."]
    assert [event.files for event in batch.of(Delivered)] == [(Path("/b.txt"),)]
    exports = [row.exports for row in batch.library.rows.values()]
    assert exports == [(), (Path("/b.txt"),)]


def test_a_batch_without_files_starts_no_engine(fake_engine):
    batch = Batch(fake_engine(), "absent")
    assert [job.state for job in batch.run()] == [JobState.FAILED]
    assert not batch.machine.links


# ── the queue ────────────────────────────────────────────────────────────────────────────────


def test_jobs_have_a_name_for_all_time_and_a_number_for_people():
    batch = fakes.Batch()
    jobs = batch.run("a", "b", "c")
    assert [job.number for job in jobs.values()] == [1, 2, 3]
    assert all(len(job.id) == 32 for job in jobs.values())
    assert set(batch.library.rows) == {job.id for job in jobs.values()}


def test_no_more_jobs_are_with_the_engine_than_it_is_to_be_given():
    batch = fakes.Batch(at_once=3)
    most = [0]

    def look(_: TextArrived) -> None:
        most[0] = max(most[0], len(batch.machine.engine.jobs))

    jobs = batch.on(TextArrived, look).run(*[f"r{number}" for number in range(10)])
    assert {job.state for job in jobs.values()} == {JobState.DONE}
    assert most[0] == 3


def test_jobs_may_be_added_while_others_run():
    batch = fakes.Batch()

    async def work() -> tuple[Job, ...]:
        await batch.service.add([Path("/x/a.wav")])
        running = asyncio.create_task(batch.service.run())
        await asyncio.sleep(0.3)
        await batch.service.add([Path("/x/b.wav")])
        return await running

    assert states(run(work())) == ["done", "done"]
    assert len(batch.machine.links) == 1


def test_one_job_can_be_cancelled_alone_running_or_waiting():
    batch = fakes.Batch(at_once=1)

    async def work() -> dict[str, Job]:
        jobs = await batch.service.add([Path(f"/x/{name}.wav") for name in "abc"])
        running = asyncio.create_task(batch.service.run())
        await asyncio.sleep(0.3)
        batch.service.cancel(jobs[0].id, jobs[2].id)
        return {job.path.stem: job for job in await running}

    assert {name: str(job.state) for name, job in run(work()).items()} == {
        "a": "failed",
        "b": "done",
        "c": "failed",
    }


# ── after a program that has ended ───────────────────────────────────────────────────────────


async def killed_after(batch: fakes.Batch, seconds: float, *names: str) -> None:
    running = asyncio.create_task(batch.work(*names))
    await asyncio.wait([running], timeout=seconds)
    running.cancel()
    await asyncio.wait([running])


def test_what_a_program_left_is_taken_up_and_its_text_told_from_the_start():
    machine, library = FakeMachine(FakeEngine()), MemoryLibrary()
    second = fakes.Batch(machine, library)

    async def work() -> None:
        await killed_after(fakes.Batch(machine, library), 0.9, "a", "b")
        await second.service.resume()
        await second.service.run()

    run(work())
    assert [len(event.jobs) for event in second.of(Recovered)] == [2]
    told = [s.text for e in second.of(TextArrived) if e.job.path.stem == "a" for s in e.segments]
    assert told == said("a") == second.texts("a")
    before = next(e.message for e in second.of(Wire) if isinstance(e.message, Segments))
    first = next(e.message for e in second.of(Wire) if isinstance(e.message, Transcribe))
    assert first.after == before.seq == 2


def test_the_same_command_takes_up_the_same_file_and_no_other_settings():
    machine, library = FakeMachine(FakeEngine()), MemoryLibrary()

    async def work() -> None:
        await killed_after(fakes.Batch(machine, library), 0.9, "a", "b")
        await fakes.Batch(machine, library).work("a", "c")

    run(work())
    assert sorted(row.path.stem for row in library.rows.values()) == ["a", "b", "c"]
    assert {row.path.stem for row in library.rows.values() if row.state is JobState.DONE} == {
        "a",
        "c",
    }


def test_two_programs_at_once_do_not_run_the_same_job():
    machine, library = FakeMachine(FakeEngine()), MemoryLibrary()
    taken: dict[str, object] = {}
    first = fakes.Batch(machine, library, claims=MemoryClaims(taken))
    second = fakes.Batch(FakeMachine(machine.engine), library, claims=MemoryClaims(taken))

    async def work() -> None:
        running = asyncio.create_task(first.work("a"))
        await asyncio.sleep(0.3)
        assert await second.service.resume() == ()
        await second.work("a")  # asked for once more: a job of its own
        await running

    run(work())
    assert [row.state for row in library.rows.values()] == [JobState.DONE] * 2


def test_a_retry_is_a_new_job_with_the_same_settings():
    batch = fakes.Batch()

    async def work() -> tuple[Job, ...]:
        (bad,) = await batch.work("bad")
        (again,) = await batch.service.retry([bad.id[:8]])
        assert again.id != bad.id
        return await batch.service.run()

    assert states(run(work())) == ["failed", "failed"]
    assert len({row.settings for row in batch.library.rows.values()}) == 1


def test_what_is_not_there_cannot_be_tried_again():
    with pytest.raises(KnownError) as caught:
        run(fakes.Batch().service.retry(["abc"]))
    assert caught.value.code is ErrorCode.NOT_FOUND
