"""One line that moves on a terminal: which file, which stage, how fast, how long to go.

It shows nothing where standard error is no terminal. It must not print text of its own; who
prints beside it takes it ``aside`` first.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.table import Column

from app.domain.jobs import Job, StageProgress

_STAGES = {
    "upload": "sending the audio",
    "decode": "reading the audio",
    "vad": "finding speech",
    "mel": "listening",
    "encode": "listening",
    "generate": "writing",
    "align": "timing words",
}
_NAME_WIDTH = 28
_MINUTE_S = 60
_HOUR_S = 3600


class ProgressLine:
    """The moving line of a batch.

    Args:
        console: of standard error.
        shown: False keeps it away.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        console: Console,
        *,
        shown: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = 0
        self._clock = clock
        self._finished = 0
        self._job = ""
        self._first: tuple[float, int] = (0.0, 0)  # when the job began to move, and from where
        self._shown = shown
        self._progress = Progress(
            SpinnerColumn(),
            # Not markup: names of files may hold brackets.
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            disable=not shown,
            redirect_stdout=False,  # standard output is the transcript's
        )
        self._task: TaskID = self._progress.add_task("starting the engine", total=None, figures="")
        self._progress.start()

    def expect(self, files: int) -> None:
        """Counts recordings that are to come."""
        self._files += files

    def say(self, words: str) -> None:
        """Shows a few words while no job moves, such as what the engine is loading."""
        if not self._job:
            self._progress.update(self._task, figures=words)

    def show(self, job: Job) -> None:
        """Shows how far a running job is; of several at once the first, until it has ended."""
        if self._job and job.id != self._job:
            return
        if job.id != self._job:
            self._job = job.id
            self._first = (self._clock(), -1)
        if job.behind is None:
            self._progress.reset(
                self._task, total=None, description=self._title(job), figures="starting"
            )
            return
        stage, place = job.behind
        began_s, from_ms = self._first
        if from_ms < 0:
            self._first = (self._clock(), place.done_ms)
            rate = 0.0
        else:
            rate = _rate(place.done_ms - from_ms, self._clock() - began_s)
        self._progress.update(
            self._task,
            description=self._title(job),
            total=place.total_ms,
            completed=place.done_ms,
            figures=_figures(stage, place, rate),
        )

    def finished(self, job: Job) -> None:
        """Counts a job that has ended; another is shown then."""
        self._finished += 1
        if job.id == self._job:
            self._job = ""

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Takes the line off the terminal while something else is printed there."""
        running = self._shown and self._progress.live.is_started
        if running:
            self._progress.stop()
        try:
            yield
        finally:
            if running:
                self._progress.start()

    def close(self) -> None:
        """Takes the line away for good."""
        self._progress.stop()

    def _title(self, job: Job) -> str:
        name = job.path.name
        if len(name) > _NAME_WIDTH:
            name = f"{name[: _NAME_WIDTH - 9]}…{name[-8:]}"
        if self._files < 2:
            return name
        return f"[{min(self._finished + 1, self._files)}/{self._files}] {name}"


def clock_time(seconds: float) -> str:
    """A length of time as people write it: 0:07, 12:34 or 1:02:03."""
    whole = round(seconds)
    hours, rest = divmod(whole, _HOUR_S)
    minutes, left = divmod(rest, _MINUTE_S)
    return f"{hours}:{minutes:02d}:{left:02d}" if hours else f"{minutes}:{left:02d}"


def _rate(done_ms: int, seconds: float) -> float:
    """Seconds of audio per second of wall time; 0.0 while nothing can be said."""
    return done_ms / 1000 / seconds if done_ms > 0 and seconds > 0 else 0.0


def _figures(stage: str, place: StageProgress, rate: float) -> str:
    parts = [_STAGES.get(stage, stage)]
    if place.total_ms is None:
        parts.append(clock_time(place.done_ms / 1000))
    elif place.total_ms > 0:
        parts.append(f"{min(100, 100 * place.done_ms // place.total_ms)} %")
    if rate > 0:
        parts.append(f"{rate:.0f}× real time" if rate >= 10 else f"{rate:.1f}× real time")
        if place.total_ms is not None:
            left_s = max(0, place.total_ms - place.done_ms) / 1000 / rate
            parts.append(f"{clock_time(left_s)} left")
    return "  ".join(parts)
