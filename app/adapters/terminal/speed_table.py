"""The speed table at the end of a batch, drawn with rich. It only draws; the figures are given."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from app.adapters.terminal.progress import clock_time
from app.domain.speed import SpeedRow, stage_names

_TIMES = "\N{MULTIPLICATION SIGN} real time"


def speed_table(rows: tuple[SpeedRow, ...]) -> Table:
    """A table with one line per row and one column per stage that ran in any of them."""
    stages = stage_names(rows)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("file", overflow="fold")
    for title in ("audio", "wall", _TIMES, *stages, "coverage"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [_length(row), _seconds(row.wall_s), _speed(row)]
        cells += [_seconds(row.stages_s.get(name)) for name in stages]
        cells.append("" if row.coverage is None else f"{100 * row.coverage:.1f} %")
        table.add_row(*map(Text, [row.name, *cells]))
    return table


def _length(row: SpeedRow) -> str:
    return row.error if row.audio_s is None else clock_time(row.audio_s)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.2f} s"


def _speed(row: SpeedRow) -> str:
    return "" if row.speed is None else f"{row.speed:.1f}"
