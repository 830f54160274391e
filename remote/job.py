"""A job of the worker: its journal, and the sink that hears what becomes of its recording.

Whatever happens goes into the journal first and is told second. It must not know who is told.
"""

import threading
from collections.abc import Callable
from typing import Literal

from remote.journal import DEADLY_BEGINS, Event, Journal
from remote.protocol import Done, Failed, JobPlace, KnownError, Progress, Segment, Segments, Summary
from remote.sink import Settled, Sink

PROGRESS_INTERVAL_S = 0.1
"""At most ten Progress messages per second and job: no display shows more."""


class Job(Sink):
    """One accepted job.

    Args:
        journal: of the job.
        changed: called after anything has happened to it.
        clock: seconds that never go back.
    """

    def __init__(
        self, journal: Journal, changed: Callable[["Job"], None], clock: Callable[[], float]
    ) -> None:
        self.journal = journal
        self.cancelled = threading.Event()
        self.running = False
        self.taken = False
        self.missing: tuple[str, ...] = ()
        self.asks = False
        """Nobody has been told yet what is missing."""
        self.moved_s = clock()
        self._changed = changed
        self._clock = clock
        self._began_s = clock()
        self._stages: set[str] = set()
        self._next_progress_s = -float("inf")

    @property
    def name(self) -> str:
        """As its client chose it."""
        return self.journal.request.job

    @property
    def place(self) -> JobPlace:
        """Where it is, for whoever asks."""
        state: Literal["waiting", "running", "ended"] = "running" if self.running else "waiting"
        if self.journal.ended:
            state = "ended"
        return JobPlace(self.name, state, self.journal.seq, len(self.journal.audio.blocks))

    @property
    def whole(self) -> bool:
        """Whether all of its audio is there, as far as anybody knows."""
        blocks = self.journal.request.source.kind == "blocks"
        return not blocks or (self.journal.audio.complete and not self.missing)

    @property
    def suspect(self) -> bool:
        """Whether the engine's next death over it is its last: nobody is to die with it."""
        return self.journal.begins + (not self.running) >= DEADLY_BEGINS

    def begin(self) -> None:
        """It is taken up; it has not moved yet."""
        self._began_s = self._clock()
        self.journal.begin()
        self.running = True

    def pause(self) -> None:
        """It is put aside, and goes on when it is taken up again."""
        self.running = False
        self.journal.pause()

    def progress(self, stage: str, done_ms: int, total_ms: int | None) -> None:
        """Tells how far the job is, unless that was told a moment ago.

        The first of each stage is always sent, so that a slow stage is named while it runs.
        """
        now = self._clock()
        if stage in self._stages and now < self._next_progress_s:
            return
        self._stages.add(stage)
        self._next_progress_s = now + PROGRESS_INTERVAL_S
        self._tell(lambda seq: Progress(self.name, seq, stage, done_ms, total_ms))

    def segments(self, segments: tuple[Segment, ...]) -> None:
        """Tells finished text; nothing is sent for no segments."""
        if segments:
            self._tell(lambda seq: Segments(self.name, seq, segments))

    def settled(self, part: Settled) -> None:
        """Notes a part that need not be decoded again."""
        self.journal.settle(part, self._clock() - self._began_s)
        self.moved()

    def language(self, code: str, probability: float) -> None:
        """Notes the language."""
        self.journal.heard(code, probability)

    def done(self, summary: Summary) -> None:
        """Ends the job as complete."""
        self._tell(lambda seq: Done(self.name, seq, summary))

    def fail(self, error: KnownError) -> None:
        """Ends the job without a complete transcript."""
        self._tell(lambda seq: Failed(self.name, seq, error.code, error.message, error.hint))

    def lacks(self, blocks: tuple[str, ...]) -> None:
        """Blocks of it are not in the store: its client is to send them again."""
        self.missing, self.asks = blocks, True
        self._changed(self)

    def moved(self) -> None:
        """Something was done for it, or came for it."""
        self.moved_s = self._clock()

    def _tell(self, event: Callable[[int], Event]) -> None:
        self.journal.tell(event)
        self._changed(self)
