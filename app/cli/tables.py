"""What the command draws with rich: lists of the library, figures, the findings of a check.

Texts and names of files are shown as they are, never read as markup.
"""

from collections.abc import Iterable, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from app.domain.checkup import Finding, Health
from app.domain.history import Entry, Hit
from app.domain.jobs import JobState
from app.domain.statistics import By, Figures, model

_ID_DIGITS = 8
_STATES = {
    JobState.DONE: "green",
    JobState.FAILED: "red",
    JobState.RUNNING: "yellow",
    JobState.WAITING: "yellow",
}
_HEALTH = {Health.OK: "green", Health.WARN: "yellow", Health.BAD: "bold red"}
_SHOWN_STAGES = ("decode", "upload", "wait", "generate", "return")


def history_table(entries: Iterable[Entry]) -> Table:
    """A line for each recording: id, when, how long, state, by which model, name."""
    table = _table()
    for title in ("job", "added", "length", "state", "model"):
        table.add_column(title, no_wrap=True, justify="right" if title == "length" else "left")
    table.add_column("file", overflow="fold")
    for entry in entries:
        length = _length(entry.summary.duration_ms / 1000) if entry.summary else ""
        state = str(entry.error.code) if entry.error else entry.state.value
        table.add_row(
            Text(entry.id[:_ID_DIGITS]),
            Text(f"{entry.added_at.astimezone():%Y-%m-%d %H:%M}"),
            Text(length),
            Text(state, _STATES[entry.state]),
            Text(model(entry)),
            Text(printable(str(entry.path))),
        )
    return table


def hits_text(hits: Sequence[Hit]) -> Group:
    """The places by recording, each with its time and its text, what was sought made bold."""
    parts: list[Text] = []
    job = ""
    for hit in hits:
        if hit.entry.id != job:
            job = hit.entry.id
            heading = Text(f"{chr(10) if parts else ''}{job[:_ID_DIGITS]}  ", "dim")
            parts.append(heading.append(printable(str(hit.entry.path)), "bold"))
        text = Text(hit.snippet)
        for start, end in hit.marks:
            text.stylize("bold reverse", start, end)
        parts.append(Text(f"  {_length(hit.start_ms / 1000):>8}  ", "cyan").append_text(text))
    return Group(*parts)


def figures_table(lines: Sequence[Figures], by: By | None) -> Table:
    """A line for each recording or group, and the last one, which is the sum of all."""
    table = _table()
    table.add_column("file" if by is None else by.value, overflow="fold", min_width=12)
    titles = [] if by is None else ["files"]
    titles += ["length", "wall", "× real\ntime", "×\nwriting", *_SHOWN_STAGES, "speech\ncovered"]
    for title in titles:
        table.add_column(title, justify="right", no_wrap=True)
    for number, line in enumerate(lines, 1):
        if number == len(lines):
            table.add_section()
        own = [] if by is None else [str(line.files)]
        row = [printable(line.name), *own, *_figures(line)]
        table.add_row(*map(Text, row))
    return table


def _figures(line: Figures) -> list[str]:
    return [
        _length(line.audio_s),
        _seconds(line.wall_s),
        _times(line.speed),
        _times(line.generation_speed),
        *(_seconds(line.stages_s.get(stage)) for stage in _SHOWN_STAGES),
        f"{100 * line.coverage:.1f} %",
    ]


def finding_line(finding: Finding) -> Text:
    """One thing that was looked at, with the next step below it."""
    line = Text.assemble(
        (f"{finding.health.value:<5}", _HEALTH[finding.health]),
        (f"{finding.subject:<12} ", "bold"),
        printable(finding.message),
    )
    if finding.hint:
        line.append(f"\n{'':<18}→ {printable(finding.hint)}", "cyan")
    return line


def printable(line: str) -> str:
    """The line with what a terminal would obey written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _table() -> Table:
    return Table(box=None, padding=(0, 2, 0, 0), header_style="dim")


def _length(seconds: float) -> str:
    """A length of time as people write it: 0:07, 12:34 or 1:02:03."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s"


def _times(speed: float | None) -> str:
    if speed is None:
        return ""
    return f"{speed:.0f}" if speed >= 100 else f"{speed:.1f}"
