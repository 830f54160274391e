"""The speed table at the end of a batch, drawn with rich. It only draws; the figures are given."""

from rich.table import Table
from rich.text import Text

from app.adapters.terminal.progress import clock_time
from app.domain.speed import SpeedRow

_NAME_WIDTH = 16


def speed_table(rows: tuple[SpeedRow, ...]) -> Table:
    """A table with one line per row where there is room; names and stages wrap where not."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("file", overflow="fold", min_width=_NAME_WIDTH)
    for title in ("audio", "wall", "× real\ntime", "speech\ncovered"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("seconds by stage")
    for row in rows:
        length = row.error if row.audio_s is None else clock_time(row.audio_s)
        wall = "" if row.wall_s is None else f"{row.wall_s:.2f} s"
        speed = "" if row.speed is None else f"{row.speed:.1f}"
        coverage = "" if row.coverage is None else f"{100 * row.coverage:.1f} %"
        stages = "  ".join(f"{name}={seconds:.2f}" for name, seconds in row.stages_s.items())
        table.add_row(*map(Text, (row.name, length, wall, speed, coverage, stages)))
    return table
