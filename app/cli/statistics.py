"""The verb that tells how fast it all was: stats."""

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from app.cli import loop, telling
from app.cli.options import add_verb
from app.domain import statistics
from app.domain.history import Entry, Query
from app.domain.jobs import JobState
from app.domain.statistics import By, Figures
from remote.protocol import ExitCode

if TYPE_CHECKING:
    from app.cli.options import Verbs

_OF_A_JOB = ("job", "added_at", "machine", "model", "device", "dtype")


def add_to(verbs: "Verbs") -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs, "stats", "how fast recordings became text, and where the time went", _stats,
        "Tells for each recording its length, the time it took from end to end, how many times"
        "\nfaster than real time that was, the same for the model's writing alone, seconds by"
        "\nstage, and how much of the speech the text covers.",
    )  # fmt: skip
    add = parser.add_argument
    add("--by", choices=tuple(By), help="one line for each of these instead")
    add("--limit", metavar="N", type=int, default=0,
        help="only the newest so many (default: all)")  # fmt: skip
    add("--csv", action="store_true", help="all of it as CSV, for programs")


def _stats(given: argparse.Namespace) -> int:
    entries = loop.run(_done(given.limit or None))
    by = By(given.by) if given.by else None
    if given.csv:
        _write_csv(entries, by)
    elif entries:
        from app.cli.tables import figures_table

        telling.draw(figures_table([*_lines(entries, by), _total(entries)], by))
    else:
        telling.say("The library has no finished recording yet.")
    return ExitCode.OK


async def _done(limit: int | None) -> tuple[Entry, ...]:
    from app import compose

    async with compose.library() as library:
        query = Query(frozenset({JobState.DONE}), limit=limit)
        return statistics.measured(await library.entries(query))


def _lines(entries: Sequence[Entry], by: By | None) -> list[Figures]:
    if by is not None:
        return list(statistics.grouped(entries, by))
    return [statistics.figures(entry) for entry in entries]


def _total(entries: Sequence[Entry]) -> Figures:
    return statistics.together("all", entries)


def _write_csv(entries: Sequence[Entry], by: By | None) -> None:
    lines = _lines(entries, by)
    stages = list(dict.fromkeys([*statistics.STAGES, *(s for f in lines for s in f.stages_s)]))
    writer = csv.writer(sys.stdout, lineterminator="\n")
    first = [*_OF_A_JOB, "file"] if by is None else [by.value]
    seconds = [f"{stage}_s" for stage in stages]
    figures = ["files", "audio_s", "wall_s", "speed", "generation_speed", *seconds]
    writer.writerow([*first, *figures, "coverage", "sent_bytes"])
    for number, line in enumerate(lines):
        known = _of_a_job(entries[number]) if by is None else []
        writer.writerow([*known, line.name, *_figures(line, stages)])


def _of_a_job(entry: Entry) -> list[str]:
    engine = entry.engine
    return [
        entry.id,
        entry.added_at.isoformat(),
        entry.settings.machine,
        statistics.model(entry),
        engine.device if engine else "",
        engine.dtype if engine else "",
    ]


def _figures(line: Figures, stages: Iterable[str]) -> list[str]:
    return [
        str(line.files),
        f"{line.audio_s:.3f}",
        f"{line.wall_s:.3f}",
        _number(line.speed),
        _number(line.generation_speed),
        *(_number(line.stages_s.get(stage)) for stage in stages),
        f"{line.coverage:.4f}",
        str(line.sent_bytes),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
