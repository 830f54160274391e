"""How fast each recording became text: the rows of the speed table. Pure arithmetic."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.domain.jobs import Job
from remote.protocol import Summary


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """One line of the table; measured values are None where the job did not complete.

    Args:
        name: of the recording.
        audio_s: its length in seconds.
        wall_s: seconds it took.
        stages_s: seconds by stage; stages run side by side and may add up to more than the wall.
        coverage: share of the detected speech that the text covers, 0..1.
        error: the stable word for why it failed, else "".
    """

    name: str
    audio_s: float | None = None
    wall_s: float | None = None
    stages_s: Mapping[str, float] = field(default_factory=dict)
    coverage: float | None = None
    error: str = ""

    @property
    def speed(self) -> float | None:
        """Seconds of audio per second of wall time (RTFx); None where nothing was timed."""
        if self.audio_s is None or not self.wall_s:
            return None
        return self.audio_s / self.wall_s


def speed_rows(jobs: Iterable[Job]) -> tuple[SpeedRow, ...]:
    """One row per job, in order, and a row of sums where more than one completed."""
    listed = tuple(jobs)
    rows = tuple(_row(job) for job in listed)
    done = [job for job in listed if job.summary is not None]
    summaries = [job.summary for job in done if job.summary is not None]
    return (*rows, _total(done, summaries)) if len(done) > 1 else rows


def _row(job: Job) -> SpeedRow:
    if job.summary is None:
        return SpeedRow(job.path.name, error=str(job.error.code) if job.error else "")
    summary = job.summary
    return SpeedRow(
        job.path.name,
        summary.duration_ms / 1000,
        summary.wall_s,
        {**job.own_s, **summary.stages.seconds},
        summary.coverage,
    )


def _total(done: list[Job], summaries: list[Summary]) -> SpeedRow:
    stages: dict[str, float] = {}
    for job in done:
        for name, seconds in _row(job).stages_s.items():
            stages[name] = stages.get(name, 0.0) + seconds
    speech_ms = sum(summary.speech_ms for summary in summaries)
    covered_ms = sum(min(summary.covered_ms, summary.speech_ms) for summary in summaries)
    return SpeedRow(
        f"{len(summaries)} files",
        sum(summary.duration_ms for summary in summaries) / 1000,
        sum(summary.wall_s for summary in summaries),
        stages,
        covered_ms / speech_ms if speech_ms else 1.0,
    )
