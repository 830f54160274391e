"""How a model was loaded: what a report holds, and the table that compares the strategies.

Data and text alone: it must not load anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from remote.protocol import StageTimes

STRATEGIES = ("gpu-state", "memory-mapped", "standard")
"""Fastest first."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A strategy that did not work, and the sentence that says why."""

    strategy: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How a model was loaded.

    Args:
        strategy: the one that worked, of ``STRATEGIES``.
        attempts: those before it.
        notes: sentences worth knowing, such as a state made on another kind of device.
        device: where the model is; dtype: what it computes in.
        stages: seconds by stage: import (of transformers), read, to-device, build.
        wall_s: seconds in all, failed attempts included.
        bytes_read: size of the weights file that was used.
        mapped: whether the weights stay in that file, to be read as they are used.
        peak_memory_bytes: the most this process has held in host memory, since it started.
        device_memory_bytes: the most it has held on the device; 0 on the CPU.
    """

    strategy: str
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]
    device: str
    dtype: str
    stages: StageTimes
    wall_s: float
    bytes_read: int
    mapped: bool
    peak_memory_bytes: int
    device_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One strategy tried in a process of its own.

    Args:
        strategy: its name; error: the sentence why it does not work, else empty.
        report: of the load; logits: of a fixed input.
        peak_memory_bytes: the most host memory held, when those logits were computed too.
    """

    strategy: str
    error: str = ""
    report: LoadReport | None = None
    logits: tuple[float, ...] = ()
    peak_memory_bytes: int = 0


def table(trials: Sequence[Trial], temporary_state: bool = False) -> str:
    """The trials side by side, then which strategy is used and why those before it are not.

    Args:
        trials: in the order in which a load tries them.
        temporary_state: whether the state was made for the trials and will not be there.
    """
    reference = next((trial.logits for trial in reversed(trials) if trial.report), ())
    rows = [_HEAD, *(_row(trial, reference) for trial in trials)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([*lines, "", *_verdict(trials, temporary_state)])


_STAGES = ("import", "read", "to-device", "build")
_HEAD = (
    "strategy",
    *(f"{stage} s" for stage in _STAGES),
    "all s",
    "weights",
    "peak host",
    "with logits",
    "device",
    "logits",
)


def _row(trial: Trial, reference: tuple[float, ...]) -> tuple[str, ...]:
    report = trial.report
    if report is None:
        return (trial.strategy, *("-" for _ in _HEAD[2:]), "does not work")
    seconds = report.stages.seconds
    return (
        trial.strategy,
        *(f"{seconds[stage]:.3f}" if stage in seconds else "-" for stage in _STAGES),
        f"{report.wall_s:.3f}",
        f"{_megabytes(report.bytes_read)} {'mapped' if report.mapped else 'read'}",
        _megabytes(report.peak_memory_bytes),
        _megabytes(trial.peak_memory_bytes),
        _megabytes(report.device_memory_bytes) if report.device_memory_bytes else "-",
        _compared(trial.logits, reference),
    )


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"


def _compared(found: tuple[float, ...], reference: tuple[float, ...]) -> str:
    if found == reference:
        return "equal"
    return f"differ by {max(abs(a - b) for a, b in zip(found, reference, strict=True)):.2g}"


def _verdict(trials: Sequence[Trial], temporary_state: bool) -> list[str]:
    lines = [f"{trial.strategy}: {trial.error}" for trial in trials if trial.report is None]
    notes = [note for trial in trials if trial.report for note in trial.report.notes]
    works = [trial.strategy for trial in trials if trial.report]
    if not works:
        return [*lines, "No strategy works."]
    lines += [*notes, f"{works[0]} is used: it is the first of {', '.join(STRATEGIES)} that works."]
    if temporary_state and works[0] == STRATEGIES[0]:
        lines.append(
            "Its state was temporary: keep one with `python -m remote.gpu_memory_persist`."
        )
    return lines
