"""A batch as a person sees it: text on standard output, everything else on standard error.

An observer: it shows what a service tells and decides nothing. Texts and names of files are
printed as they are, never read as markup.
"""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TextIO

from rich.console import Console
from rich.text import Text

from app.adapters.terminal.progress import ProgressLine
from app.adapters.terminal.speed_table import speed_table
from app.domain.errors import paragraph, sentence
from app.domain.events import (
    AlreadyDone,
    Delayed,
    Delivered,
    DeliveryFailed,
    EngineLog,
    EngineLost,
    EngineReady,
    EngineUnavailable,
    Event,
    FilesPassed,
    FromLibrary,
    JobChanged,
    JobEnded,
    JobsAdded,
    LinkBack,
    LinkLost,
    Recovered,
    Silence,
    StartedOver,
    TextArrived,
    Uploading,
)
from app.domain.intake import Passed
from app.domain.jobs import Job, JobState
from app.domain.speed import speed_rows
from app.domain.transcript import Transcript, channel_label
from remote.protocol import ErrorCode, Hello, KnownError, Segment

_PASSED_SHOWN = 3
_PLAIN_WIDTH = 200  # of a table that goes to a file, where there is no edge to wrap at


class Screen:
    """Shows a batch to a person. It implements the port ``Display``.

    Args:
        text: transcripts go to standard output; False where they are written to files.
        quiet: nothing but text and errors.
        out: where text goes; standard output where None.
        err: where everything else goes; standard error where None.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        *,
        text: bool = True,
        quiet: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shows_text = text
        self._quiet = quiet
        self._out = out or sys.stdout
        file = err or sys.stderr
        width = None if file.isatty() else _PLAIN_WIDTH
        self._err = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
        shown = self._err.is_terminal and not quiet
        self._line = ProgressLine(self._err, shown=shown, clock=clock)
        self._files = 0
        self._come = 0  # segments since the engine began the job
        self._printed = 0  # segments that ever came
        self._unavailable: KnownError | None = None
        self._lost: KnownError | None = None  # of the engine that died last
        self._delayed: ErrorCode | None = None

    @property
    def _live(self) -> bool:
        """Whether text is printed as it comes: one file, and somebody watching."""
        return self._shows_text and self._files == 1 and self._out.isatty()

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        match event:
            case JobsAdded(jobs):
                self._files += len(jobs)
                self._line.expect(len(jobs))
            case JobEnded(job, transcript):
                self._ended(job, transcript)
            case TextArrived(_, segments) if self._live:
                self._live_text(segments)
            case DeliveryFailed(job, transcript, error):
                self._say(sentence(job.path.name, error))
                self._text(transcript, heading=True)
            case EngineUnavailable(error):
                self._unavailable = error
                for line in paragraph("farscribe", error).splitlines():
                    self._say(line)
            case _:
                self._trouble(event)
                if not self._quiet:
                    self._note(event)
                    self._note_link(event)

    def aside(self) -> AbstractContextManager[None]:
        """While it lasts, the progress line is not on the terminal."""
        return self._line.aside()

    def close(self) -> None:
        """Takes the progress line away."""
        self._line.close()

    def table(self, jobs: Sequence[Job]) -> None:
        """Shows how fast each recording was, unless none was."""
        if self._quiet or not any(job.summary for job in jobs):
            return
        self._err.print(speed_table(speed_rows(jobs)))

    def _trouble(self, event: Event) -> None:
        """Says what goes wrong and is tried again: also to those who want it quiet."""
        match event:
            case StartedOver():
                self._come = 0
            case EngineLost(job, error, True):
                self._engine_lost(job, error)
            case LinkLost(error, 0):
                self._say(f"{error.message} Trying to get there again; nothing is lost.")
            case Delayed(job, error) if error.code is not self._delayed:
                self._delayed = error.code
                self._say(f"{sentence(job.path.name, error)} It is tried again until it works.")
            case _:
                pass

    def _note_link(self, event: Event) -> None:
        match event:
            case Uploading(_, _, mbits, False) if mbits is not None:
                self._line.say(f"{mbits:.0f} Mbit/s")
            case LinkLost(_, tries, wait_s) if tries:
                self._line.say(f"try {tries + 1} in {wait_s:.0f} s")
            case LinkBack(seconds):
                self._say(f"The engine is reached again after {seconds:.0f} s.")
            case _:
                pass

    def _note(self, event: Event) -> None:
        match event:
            case JobChanged(job) if job.state is JobState.RUNNING:
                self._line.show(job)
            case EngineLog(line):
                self._line.say(line.strip())
            case Recovered(jobs):
                names = ", ".join(job.path.name for job in jobs)
                self._say(f"Going on where the program ended before: {names}.")
            case AlreadyDone(job, entry):
                self._say(f"{job.path.name} was transcribed before, on {entry.added_at:%Y-%m-%d}.")
            case FromLibrary(job, entry):
                self._say(
                    f"{job.path.name}: its text is in the library, since {entry.added_at:%Y-%m-%d}"
                    f" (farscribe show {entry.id[:8]}); --again makes it anew."
                )
            case Silence(seconds):
                self._say(f"No word from the engine for {seconds:.0f} s.")
            case EngineReady(hello):
                self._engine(hello)
            case FilesPassed(files):
                self._say(_passed(files))
            case Delivered(job, paths):
                self._say(f"{job.path.name}: written to {', '.join(map(str, paths))}")
            case _:
                pass

    def _engine_lost(self, job: Job, error: KnownError) -> None:
        """Says so once, however many jobs it had."""
        if error is not self._lost:
            self._lost = error
            self._say(f"{sentence(job.path.name, error)} A new engine tries once more.")

    def _engine(self, hello: Hello) -> None:
        """Names what does the work: people ask whether it is really their GPU."""
        self._say(
            f"{hello.model} on {hello.device}, {hello.dtype}"
            f" ({hello.strategy}, loaded in {hello.load_s:.1f} s)"
        )
        for note in hello.notes:
            self._say(note)

    def _ended(self, job: Job, transcript: Transcript) -> None:
        self._line.finished(job)
        if job.error is not None and job.error is not self._unavailable:
            self._say(sentence(job.path.name, job.error))
        if self._shows_text and not self._live and (transcript.segments or not job.error):
            self._text(transcript, heading=self._files > 1)
        if job.summary is None or self._quiet:
            return
        for warning in job.summary.warnings:
            self._say(f"{job.path.name}: {warning}")
        if not transcript.segments:
            self._say(f"{job.path.name}: no speech was found.")

    def _say(self, line: str) -> None:
        self._err.print(Text(_printable(line)), soft_wrap=True)

    def _text(self, transcript: Transcript, *, heading: bool) -> None:
        with self._line.aside():
            if heading:
                print(f"== {_printable(str(transcript.source))} ==", file=self._out)
            for segment in transcript.segments:
                print(_spoken(segment), file=self._out)
            if heading:
                print(file=self._out)
            self._out.flush()

    def _live_text(self, segments: tuple[Segment, ...]) -> None:
        """Prints text as it comes; when a job starts over, only what was not there before."""
        with self._line.aside():
            for segment in segments:
                self._come += 1
                if self._come > self._printed:
                    self._printed = self._come
                    print(_spoken(segment), file=self._out)
            self._out.flush()


def _spoken(segment: Segment) -> str:
    return f"{channel_label(segment)}{segment.text}"


def _printable(line: str) -> str:
    """The line with what a terminal would obey or cannot encode written as escapes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _passed(files: tuple[Passed, ...]) -> str:
    named = ", ".join(f"{f.path.name} ({f.reason})" for f in files[:_PASSED_SHOWN])
    more = len(files) - _PASSED_SHOWN
    rest = f" and {more} more" if more > 0 else ""
    return f"Passed over {len(files)} {'file' if len(files) == 1 else 'files'}: {named}{rest}."
