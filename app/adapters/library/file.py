"""The library's file: made, brought up to date or rescued once, then connections to it.

Writers and readers do not wait for each other (write-ahead log). A file that was moved or
replaced while it was open is noticed before anything is written to what is no longer there. It
must not know what is in the file.
"""

import logging
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from app.adapters.library import rescue, schema
from app.adapters.library.failures import is_damage, locked

_LOG_BYTES = 64 * 1024 * 1024
"""What the write-ahead log is cut to once it has been worked in."""

_CACHE_KIB = 16 * 1024
"""Pages that a connection keeps: the upper levels of an index of 5,000 hours."""

Result = TypeVar("Result")
Identity = tuple[int, int]
"""Which file it is: device and inode."""

log = logging.getLogger(__name__)


class LibraryFile:
    """One file, for use by several threads.

    Args:
        path: of the file; it and its folder need not exist.
        patience_s: how long another program may be in the way.
        steps: of the schema; those of this program where None.
    """

    def __init__(
        self, path: Path, patience_s: float, steps: Sequence[schema.Step] | None = None
    ) -> None:
        self.path = path.absolute()
        self.notes: tuple[str, ...] = ()
        """Sentences on what was done to the file, for the user."""
        self._patience_s = patience_s
        self._steps = steps
        self._lock = threading.Lock()  # of what follows; taken before the other one
        self._writing = threading.Lock()  # of the writer
        self._prepared: Identity | None = None
        self._writer: _Open | None = None
        self._idle: deque[_Open] = deque()

    def prepare(self) -> None:
        """Nothing; the file is there, sound as far as opening tells, and of our version.

        Raises:
            KnownError: library-locked, library-newer, library-broken.
            sqlite3.Error, OSError: it cannot be used.
        """
        with self._lock:
            if self._prepared is None or self._prepared != _identity(self.path):
                self._prepare(damaged=None)

    def read(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        """What an operation reads, all of it from one moment. Any thread; never waits for writers.

        Raises:
            KnownError: as ``prepare``, or the operation's own.
            sqlite3.Error, OSError: it cannot be read.
        """
        return self._mended(lambda: self._read(operation))

    def write(
        self, operation: Callable[[sqlite3.Connection], Result], *, durable: bool = True
    ) -> Result:
        """What an operation gives once all that it wrote is stored. One thread only.

        Args:
            operation: runs in a transaction, and again from its start where it was in vain.
            durable: it survives loss of power, rather than only the end of this program.

        Raises:
            KnownError: as ``prepare``, or the operation's own; nothing was written.
            sqlite3.Error, OSError: nothing was written.
        """
        return self._mended(lambda: self._write(operation, durable=durable))

    def close(self) -> None:
        """Closes all connections; threads that still use one close it themselves."""
        self._close_writer()
        self._close_idle()

    # ── operations ──────────────────────────────────────────────────────────────────────────

    def _read(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        opened = self._reader()
        try:
            opened.connection.execute("BEGIN")
            result = operation(opened.connection)
            opened.connection.execute("COMMIT")
        except BaseException:
            opened.connection.close()
            raise
        if opened.identity == self._prepared:
            self._idle.append(opened)
        else:
            opened.connection.close()
        return result

    def _write(self, operation: Callable[[sqlite3.Connection], Result], *, durable: bool) -> Result:
        self.prepare()
        with self._writing:
            if self._writer is None:
                self._writer = self._connect()
            try:
                return self._transaction(self._writer, operation, durable=durable)
            except (sqlite3.Error, _Moved):
                self._close_writer()
                raise

    def _transaction(
        self,
        opened: "_Open",
        operation: Callable[[sqlite3.Connection], Result],
        *,
        durable: bool,
    ) -> Result:
        connection = opened.connection
        connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if opened.identity != _identity(self.path):
                raise _Moved  # noqa: TRY301 - with the transaction rolled back
            result = operation(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk may have ended it
                connection.execute("ROLLBACK")
            raise
        return result

    def _mended(self, work: Callable[[], Result]) -> Result:
        """The result of work, done again after a damaged file has been rescued."""
        for again in (True, True, False):
            seen = self._prepared
            try:
                return work()
            except _Moved:
                if not again:
                    raise FileNotFoundError(f"{self.path} does not stay where it is") from None
            except sqlite3.DatabaseError as error:
                if not again or not is_damage(error):
                    raise
                log.warning("the library is damaged: %s", error)
                with self._lock:
                    if seen is not None and self._prepared == seen:
                        self._prepare(damaged=seen)
        raise AssertionError("unreachable")

    # ── connections ─────────────────────────────────────────────────────────────────────────

    def _reader(self) -> "_Open":
        self.prepare()
        with suppress(IndexError):
            while (opened := self._idle.pop()).identity != self._prepared:
                opened.connection.close()
            return opened
        opened = self._connect()
        opened.connection.execute("PRAGMA query_only = ON")
        return opened

    def _connect(self) -> "_Open":
        opened = _Open(self._bare_connection(), _identity(self.path))
        try:
            opened.connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            opened.connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        except BaseException:
            opened.connection.close()
            raise
        return opened

    def _bare_connection(self) -> sqlite3.Connection:
        """A connection that has not looked at the file yet."""
        return sqlite3.connect(
            f"{self.path.as_uri()}?mode=rw",  # never makes one
            uri=True,
            timeout=self._patience_s,
            isolation_level=None,
            check_same_thread=False,  # handed on, never shared
        )

    def _close_writer(self) -> None:
        if self._writer is not None:
            self._writer.connection.close()
            self._writer = None

    def _close_idle(self) -> None:
        with suppress(IndexError):
            while True:
                self._idle.pop().connection.close()

    # ── the file ────────────────────────────────────────────────────────────────────────────

    def _prepare(self, damaged: Identity | None) -> None:
        """Makes the file fit for use, one program at a time.

        Args:
            damaged: the file that is known to be damaged, if it is still that one.
        """
        self._prepared = None  # readers that are at work close their connections then
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = FileLock(f"{self.path}.lock", timeout=self._patience_s, mode=0o600)
        try:
            with lock:
                rescue.finish(self.path)
                if damaged is not None and damaged == _identity(self.path):
                    self._rescue()
                try:
                    self._make_fit()
                except sqlite3.DatabaseError as error:
                    if not is_damage(error):
                        raise
                    self._rescue()
                    self._make_fit()
        except Timeout as error:
            raise locked(self.path) from error
        self._prepared = _identity(self.path)

    def _make_fit(self) -> None:
        with suppress(FileExistsError):
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        with closing(self._connect().connection) as connection:
            schema.bring_up_to_date(connection, self.path, self._steps)
            connection.execute("PRAGMA journal_mode = WAL")

    def _rescue(self) -> None:
        """Replaces the damaged file, once nobody has it open."""
        self._close_idle()
        with self._writing:
            self._close_writer()
        today = datetime.now(UTC).astimezone().date()
        note = rescue.rescue(self.path, self._bare_connection(), today)
        self.notes = (*self.notes, note)


class _Open:
    """A connection and the file it is to."""

    __slots__ = ("connection", "identity")

    def __init__(self, connection: sqlite3.Connection, identity: Identity | None) -> None:
        self.connection = connection
        self.identity = identity


class _Moved(Exception):  # noqa: N818 - caught by the one who raises it
    """The file that is open is not the one that is at the path any more."""


def _identity(path: Path) -> Identity | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
