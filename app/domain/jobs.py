"""A job: one recording on its way to text, and what each event of the engine makes of it.

Pure: ``after`` gives a new Job and changes nothing. The text itself is kept by whoever collects
it; a job only knows how far it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from app.domain.errors import from_failed
from remote.protocol import Done, Failed, KnownError, Progress, Segments, Summary, WireError

JobEvent = Progress | Segments | Done | Failed

UPLOAD = "upload"
"""The client's own stage before all others: sending the audio."""


class JobState(StrEnum):
    """Where a job is."""

    WAITING = "waiting"
    """It has not been given to an engine, or will be given to another one."""
    RUNNING = "running"
    """An engine has it."""
    DONE = "done"
    """Its text is complete."""
    FAILED = "failed"
    """It ended without a complete text; ``error`` says why. Cancelling ends here too."""


@dataclass(frozen=True, slots=True)
class StageProgress:
    """How far one stage is: ``done_ms`` of ``total_ms`` of audio (None while not known)."""

    done_ms: int
    total_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One recording and how far it is.

    Args:
        id: its name on the wire.
        path: the recording, absolute.
        number: its name for people: 1 for the first of a batch.
        attempt: how often an engine has been given it, 0 before the first time.
        seq: number of the last event that was taken in.
        stages: progress by stage, in the order in which the stages began.
        own_s: seconds of the client's own stages, once measured: "upload", "wait", "return".
        summary: measurements, once done.
        error: why it failed, once failed.
    """

    id: str
    path: Path
    state: JobState = JobState.WAITING
    number: int = 0
    attempt: int = 0
    seq: int = 0
    stages: Mapping[str, StageProgress] = field(default_factory=dict)
    own_s: Mapping[str, float] = field(default_factory=dict)
    summary: Summary | None = None
    error: KnownError | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in (JobState.DONE, JobState.FAILED)

    @property
    def behind(self) -> tuple[str, StageProgress] | None:
        """The stage that is furthest behind: what a progress bar shows. None before the first.

        Stages run side by side, each at its own place in the file, so the latest message says
        little; text is finished up to where the slowest stage is. Of equals the later one counts.
        """
        if not self.stages:
            return None
        return min(reversed(list(self.stages.items())), key=lambda item: item[1].done_ms)

    def started(self) -> "Job":
        """The job as an engine has just been given it, to go on after the last event."""
        return replace(self, state=JobState.RUNNING, attempt=self.attempt + 1)

    def restarted(self) -> "Job":
        """The job as its engine has forgotten it: all events will come anew."""
        return replace(self, seq=0, stages={})

    def sent(self, done_ms: int, total_ms: int | None) -> "Job":
        """The job once so much of its audio has been sent."""
        return replace(
            self, stages={UPLOAD: StageProgress(done_ms, total_ms), **_less(self.stages)}
        )

    def took(self, own_s: Mapping[str, float]) -> "Job":
        """The job with these seconds of the client's own stages."""
        return replace(self, own_s={**self.own_s, **own_s})

    def waiting(self) -> "Job":
        """The job as it waits for another engine."""
        return replace(self, state=JobState.WAITING)

    def failed(self, error: KnownError) -> "Job":
        """The job as it ends with an error."""
        return replace(self, state=JobState.FAILED, error=error)

    def after(self, event: JobEvent) -> "Job":
        """The job once this event has been taken in; the same job for one it has seen.

        Raises:
            WireError: an event is missing before this one, so text might be missing too.
        """
        if event.seq <= self.seq or self.ended:
            return self
        if event.seq != self.seq + 1:
            raise WireError(
                f"The engine's event {self.seq + 1} of {self.path.name} was lost"
                f" (event {event.seq} came instead)."
            )
        counted = replace(self, seq=event.seq)
        match event:
            case Progress(stage=stage, done_ms=done_ms, total_ms=total_ms):
                stages = {**self.stages, stage: StageProgress(done_ms, total_ms)}
                return replace(counted, stages=stages)
            case Segments():
                return counted
            case Done(summary=summary):
                return replace(counted, state=JobState.DONE, summary=summary)
            case Failed():
                return counted.failed(from_failed(event))


def _less(stages: Mapping[str, StageProgress]) -> dict[str, StageProgress]:
    return {name: place for name, place in stages.items() if name != UPLOAD}
