"""The verbs, with a real child process that runs without a model."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from app.adapters.loopback import Loopback
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
    TextArrived,
    Wire,
)
from app.domain.intake import Accepted, Found, Passed, Refused
from app.domain.jobs import Job, JobState
from app.engine.service import Service
from remote.protocol import Cancel, Done, ErrorCode, Failed, KnownError, Options, Transcribe


class Batch:
    """A service over a fake engine, and everything it told."""

    def __init__(self, command: list[str], *names: str, **settings) -> None:
        self.told: list[Event] = []
        self.links: list[Loopback] = []
        self._command = command
        self._react: dict[type, Callable[[], None]] = {}
        self.service = Service(
            self._connect, self._gather, Options(), observers=[self._hear], **settings
        )
        self.service.add([Path(f"/{name}.wav") for name in names])

    def _connect(self) -> Loopback:
        self.links.append(Loopback(self._command))
        return self.links[-1]

    def _gather(self, paths: Sequence[Path]) -> list[Found]:
        found: list[Found] = []
        for path in paths:
            if path.stem == "absent":
                found.append(Refused(path, KnownError(ErrorCode.FILE_MISSING, "No such file.")))
            elif path.stem == "notes":
                found.append(Passed(path, "not audio or video"))
            else:
                found.append(Accepted(path))
        return found

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        for kind, react in self._react.items():
            if isinstance(event, kind):
                react()

    def on(self, kind: type, react: Callable[[], None]) -> "Batch":
        self._react[kind] = react
        return self

    def run(self) -> tuple[Job, ...]:
        return asyncio.run(self.service.run())

    def of(self, kind: type) -> list:
        return [event for event in self.told if isinstance(event, kind)]

    def ends(self) -> dict[str, JobEnded]:
        return {event.job.path.stem: event for event in self.of(JobEnded)}


def states(jobs: Sequence[Job]) -> list[str]:
    return [str(job.state) for job in jobs]


def texts(ended: JobEnded) -> list[str]:
    return [segment.text for segment in ended.transcript.segments]


def test_all_files_run_over_one_link_and_give_their_text_and_summary(fake_engine):
    batch = Batch(fake_engine(), "a", "b", "c")
    assert states(batch.run()) == ["done"] * 3
    assert len(batch.links) == 1
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
    assert states(batch.run()) == ["failed", "done"]
    (passed,) = batch.of(FilesPassed)
    assert [file.path.stem for file in passed.files] == ["notes"]


def test_a_job_whose_engine_died_is_tried_once_more_on_a_new_one_without_doubled_text(fake_engine):
    batch = Batch(fake_engine(), "a", "die-once", "b")
    assert states(batch.run()) == ["done"] * 3
    assert len(batch.links) == 2
    assert [lost.again for lost in batch.of(EngineLost)] == [True]
    assert texts(batch.ends()["die-once"]) == ["die-once begins.", "die-once ends."]


def test_a_job_that_kills_every_engine_fails_with_the_text_it_gave_and_the_others_go_on(
    fake_engine,
):
    batch = Batch(fake_engine(), "die-always", "b")
    assert states(batch.run()) == ["failed", "done"]
    ended = batch.ends()["die-always"]
    assert ended.job.error is not None
    assert ended.job.error.code is ErrorCode.ENGINE_DIED
    assert ended.job.attempt == 2
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
    assert len(batch.links) == 1


def test_every_job_begins_and_ends_on_the_wire_whatever_happened_to_it(fake_engine):
    batch = Batch(fake_engine(), "absent", "a", "die-always")
    batch.run()
    messages = [event.message for event in batch.of(Wire)]
    for job in batch.service.jobs:
        mine = [message for message in messages if getattr(message, "job", None) == job.id]
        assert isinstance(mine[0], Transcribe)
        assert isinstance(mine[-1], Done | Failed)


def test_cancelling_ends_the_running_job_and_all_that_wait(fake_engine):
    batch = Batch(fake_engine(), "hang", "a", "b")
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
    batch = Batch(fake_engine(), "deaf", "a", patience_s=600)
    jobs = batch.on(TextArrived, batch.service.abort).run()
    assert [job.error.code for job in jobs if job.error] == [ErrorCode.CANCELLED] * 2


def test_cancelling_while_the_model_loads_ends_the_engine(fake_engine):
    batch = Batch(fake_engine("silent"), "a", patience_s=600)

    async def run() -> tuple[Job, ...]:
        running = asyncio.create_task(batch.service.run())
        await asyncio.sleep(0)  # it has begun to start the engine
        batch.service.cancel()
        return await running

    (job,) = asyncio.run(run())
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert not batch.of(EngineUnavailable)


def test_an_observer_that_fails_leaves_no_engine_behind(fake_engine):
    def stumble() -> None:
        raise BrokenPipeError

    batch = Batch(fake_engine(), "a", "b").on(TextArrived, stumble)
    with pytest.raises(BrokenPipeError):
        batch.run()
    assert batch.links[0]._process is None  # closed


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


def test_a_batch_without_files_starts_no_engine(fake_engine):
    batch = Batch(fake_engine(), "absent")
    assert [job.state for job in batch.run()] == [JobState.FAILED]
    assert not batch.links
