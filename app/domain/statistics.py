"""How fast everything in the library became text: pure arithmetic on entries."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from app.domain.history import Entry
from remote.protocol import Summary

STAGES = ("decode", "upload", "wait", "vad", "mel", "encode", "generate", "align", "return")
"""Stages in the order of the work; any other that an engine tells comes after them."""


class By(StrEnum):
    """What jobs are put together by."""

    MODEL = "model"
    MACHINE = "machine"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one recording, or of several together.

    Args:
        name: of the recording or the group.
        files: how many recordings.
        audio_s: their length.
        wall_s: seconds from the first step to the delivered text. Of several the time in which at
            least one was worked on: those that were done side by side do not count twice.
        stages_s: seconds by stage; stages run side by side and may add up to more than the wall.
        coverage: share of the detected speech that the text covers, 0..1.
        sent_bytes: of audio that travelled.
    """

    name: str
    files: int = 1
    audio_s: float = 0.0
    wall_s: float = 0.0
    stages_s: Mapping[str, float] = field(default_factory=dict)
    coverage: float = 1.0
    sent_bytes: int = 0

    @property
    def speed(self) -> float | None:
        """Seconds of audio per second from end to end; None where nothing was timed."""
        return self.audio_s / self.wall_s if self.wall_s > 0 else None

    @property
    def generation_speed(self) -> float | None:
        """Seconds of audio per second in which the model wrote; None where nothing was timed."""
        seconds = self.stages_s.get("generate", 0.0)
        return self.audio_s / seconds if seconds > 0 else None


def measured(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """The entries that are complete, in their order."""
    return tuple(entry for entry in entries if entry.summary is not None)


def figures(entry: Entry) -> Figures:
    """What was measured of one job that is complete."""
    return together(entry.path.name, [entry])


def grouped(entries: Iterable[Entry], by: By) -> tuple[Figures, ...]:
    """One line of figures for each model, machine or day; the order is that of the entries."""
    groups: dict[str, list[Entry]] = {}
    for entry in measured(entries):
        groups.setdefault(_KEYS[by](entry), []).append(entry)
    return tuple(together(name, group) for name, group in groups.items())


def together(name: str, entries: Iterable[Entry]) -> Figures:
    """The figures of several jobs."""
    complete = [(entry, entry.summary) for entry in entries if entry.summary is not None]
    stages: dict[str, float] = {}
    for entry, summary in complete:
        for stage, seconds in {**entry.stages, **summary.stages.seconds}.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    speech_ms = sum(summary.speech_ms for _, summary in complete)
    covered_ms = sum(min(summary.covered_ms, summary.speech_ms) for _, summary in complete)
    return Figures(
        name,
        len(complete),
        sum(summary.duration_ms for _, summary in complete) / 1000,
        _busy_s([_span(entry, summary) for entry, summary in complete]),
        _in_order(stages),
        covered_ms / speech_ms if speech_ms else 1.0,
        sum(entry.sent_bytes for entry, _ in complete),
    )


def model(entry: Entry) -> str:
    """The model that did it, as far as is known; else the one that was asked for."""
    return entry.engine.model if entry.engine is not None else entry.settings.engine.model


_KEYS: Mapping[By, Callable[[Entry], str]] = {
    By.MODEL: model,
    By.MACHINE: lambda entry: entry.settings.machine,
    By.DAY: lambda entry: entry.added_at.astimezone().date().isoformat(),
}


def _span(entry: Entry, summary: Summary) -> tuple[datetime, datetime]:
    """When the work on a job began and ended.

    The clock of the computer may have been set meanwhile, or the end never been noted: then what
    the engine measured counts.
    """
    begin, end = entry.started_at or entry.added_at, entry.ended_at
    least = timedelta(seconds=summary.wall_s)
    if entry.started_at is None or end is None or end - begin < least:
        end = begin + least
    before = timedelta(seconds=entry.stages.get("wait", 0.0))
    after = timedelta(seconds=entry.stages.get("return", 0.0))
    return begin - before, end + after


def _busy_s(spans: list[tuple[datetime, datetime]]) -> float:
    """Seconds that lie within at least one of these spans."""
    total = timedelta()
    until: datetime | None = None
    for begin, end in sorted(spans):
        start = begin if until is None else max(begin, until)
        if end > start:
            total += end - start
        until = end if until is None else max(until, end)
    return total.total_seconds()


def _in_order(stages: Mapping[str, float]) -> dict[str, float]:
    known = {name: stages[name] for name in STAGES if name in stages}
    return {**known, **stages}
