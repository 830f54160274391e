"""The library of the client: one SQLite file with every job, its events' outcome and its text.

One thread writes, others read, and the loop waits for neither. What a call has begun to write is
written whole, whether or not anybody still waits for it. It must not know engines or files of
text.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar

import platformdirs

from app.adapters.library import reading, searching, writing
from app.adapters.library.failures import translated
from app.adapters.library.file import LibraryFile
from app.domain.history import Entry, Hit, Query
from app.domain.jobs import JobEvent
from app.domain.transcript import Transcript
from remote.protocol import Progress, WireError

PATIENCE_S = 5.0
"""How long another program may hold the file before a call gives up. Writes take milliseconds."""

READERS = 4
"""Reads that run at once."""

Result = TypeVar("Result")


def default_path() -> Path:
    """Where the library is: in $FARSCRIBE_HOME, or in the user's data folder."""
    home = os.environ.get("FARSCRIBE_HOME")
    root = Path(home).expanduser() if home else Path(platformdirs.user_data_dir("farscribe"))
    return root / "library.sqlite"


class SqliteLibrary:
    """What was ever transcribed; the port Library. Nothing is opened before the first call.

    Every call may raise KnownError: library-locked, library-newer, library-broken, disk-full or
    output-unwritable. Nothing was changed then, and the same call may work later.

    A call that is cancelled goes on by itself; await ``close`` before the loop ends.

    Args:
        path: of the file; ``default_path()`` where None.
        patience_s: see PATIENCE_S.
        now: the time of day, with its zone.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        patience_s: float = PATIENCE_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._file = LibraryFile(default_path() if path is None else path, patience_s)
        self._now = now
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="library-writer")
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="library-reader")

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._file.path

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the user on what was done to the file: that it was damaged and rebuilt."""
        return self._file.notes

    async def open(self) -> None:
        """Opens the file now rather than at the first call; ``notes`` and errors are told then.

        Another program that is writing is not waited for, unless the file is new or older.
        """
        await self._on_writer(self._file.prepare)

    # ── writing ─────────────────────────────────────────────────────────────────────────────

    async def add(self, jobs: Sequence[Entry]) -> None:
        """Stores new jobs, all or none; one that is there already is left as it is."""
        entries = tuple(jobs)
        await self._write(lambda connection: writing.add(connection, entries))

    async def append(self, job: str, events: Sequence[JobEvent]) -> int:
        """Stores events of a job in one transaction; the number of the last one that is stored.

        An event that was stored before is passed over; so are all events of a job that has ended.
        Segments, Done and Failed are on the disk before this returns. Progress alone is too unless
        the power fails: the engine tells it again then.

        Raises:
            WireError: a number is missing, and what came before the hole is stored; or a time is
                beyond all measure, and nothing is.
            KnownError: not-found, or as in the class.
        """
        batch = tuple(events)
        durable = not all(isinstance(event, Progress) for event in batch)
        try:
            appended = await self._write(
                lambda connection: writing.append(connection, job, batch, self._now()),
                durable=durable,
            )
        except OverflowError as error:
            raise WireError(f"The engine told job {job} a number of more than 64 bits.") from error
        if appended.hole is not None:
            raise appended.hole
        return appended.seq

    async def update(self, job: str, **changes: Any) -> None:
        """Changes fields of an entry, by their names in Entry.

        Raises:
            TypeError: a field is one that events, exports or nobody may change.
            KnownError: not-found, or as in the class.
        """
        if unknown := changes.keys() - writing.CHANGEABLE:
            raise TypeError(f"These fields of an entry are not to be changed: {sorted(unknown)}.")
        await self._write(lambda connection: writing.update(connection, job, changes))

    async def restart(self, job: str) -> None:
        """Forgets the events of a job: seq is 0 again, and one that had ended waits again.

        The user's edits come back with the segments they were made of, if those come again.

        Raises:
            KnownError: not-found, or as in the class.
        """
        await self._write(lambda connection: writing.restart(connection, job))

    async def edit(self, job: str, segment: int, text: str | None) -> None:
        """Puts ``text`` beside what was heard in a segment; None takes it back.

        Args:
            job: its id.
            segment: counted from 0 as in ``transcript(job).segments``.
            text: "" hides the segment.

        Raises:
            KnownError: not-found, or as in the class.
        """
        await self._write(lambda connection: writing.edit(connection, job, segment, text))

    async def note_export(self, job: str, files: Sequence[Path]) -> None:
        """Remembers that the transcript was written to these files.

        Raises:
            KnownError: not-found, or as in the class.
        """
        paths = tuple(files)
        await self._write(lambda connection: writing.note_export(connection, job, paths))

    async def remove(self, job: str) -> None:
        """Forgets a job with all its text; the recording itself is not touched.

        Raises:
            KnownError: not-found, or as in the class.
        """
        await self._write(lambda connection: writing.remove(connection, job))

    # ── reading ─────────────────────────────────────────────────────────────────────────────

    async def entry(self, job: str) -> Entry:
        """One job, by its id or by the first digits of it where these name one only.

        Raises:
            KnownError: not-found, or as in the class.
        """
        return await self._read(lambda connection: reading.entry(connection, job))

    async def entries(self, query: Query | None = None) -> tuple[Entry, ...]:
        """Jobs, the newest first."""
        wanted = Query() if query is None else query
        return await self._read(lambda connection: reading.entries(connection, wanted))

    async def transcript(self, job: str, *, edited: bool = True) -> Transcript:
        """All that is known of a job, with the user's edits or as the engine heard it.

        Raises:
            KnownError: not-found, or as in the class.
        """
        return await self._read(
            lambda connection: reading.transcript(connection, job, edited=edited)
        )

    async def search(self, words: str, limit: int = 50) -> tuple[Hit, ...]:
        """Places where all these words (a phrase in quotes) are said, the newest job first."""
        return await self._read(lambda connection: searching.search(connection, words, limit))

    # ── threads ─────────────────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """Ends the threads after what they have in hand, also when cancelled. Idempotent."""
        await asyncio.shield(asyncio.to_thread(self._shut_down))

    def _shut_down(self) -> None:
        self._writer.shutdown()
        self._readers.shutdown()
        self._file.close()

    async def _read(self, operation: Callable[[Connection], Result]) -> Result:
        def work() -> Result:
            with translated(self.path):
                return self._file.read(operation)

        return await asyncio.wrap_future(self._readers.submit(work))

    async def _write(
        self, operation: Callable[[Connection], Result], *, durable: bool = True
    ) -> Result:
        return await self._on_writer(lambda: self._file.write(operation, durable=durable))

    async def _on_writer(self, call: Callable[[], Result]) -> Result:
        def work() -> Result:
            with translated(self.path):
                return call()

        # Shielded: cancelling the wait must not take a write out of the queue.
        return await asyncio.shield(asyncio.wrap_future(self._writer.submit(work)))
