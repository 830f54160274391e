"""What SQLite and the file system say, as what the user can act on."""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from remote.protocol import ErrorCode, KnownError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ELSEWHERE = "or set FARSCRIBE_HOME to another folder."


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of the world, raised within, as KnownError; bugs as they are.

    Args:
        path: of the library.

    Raises:
        KnownError: library-locked, library-broken, disk-full or output-unwritable.
    """
    try:
        yield
    except sqlite3.Error as error:
        known = _from_sqlite(error, path)
        if known is None:
            raise
        raise known from error
    except OSError as error:
        raise _from_system(error, path) from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is not, or no longer, what SQLite wrote."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def is_locked(error: sqlite3.Error) -> bool:
    """Whether another program is in the way."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL)


def locked(path: Path) -> KnownError:
    """The error of a file that another program holds for longer than we wait."""
    return KnownError(
        ErrorCode.LIBRARY_LOCKED,
        f"The library {path} is in use by another program.",
        "Try again when that one has finished, or end it.",
    )


def _from_sqlite(error: sqlite3.Error, path: Path) -> KnownError | None:
    if is_locked(error):
        return locked(path)
    if is_damage(error):
        return KnownError(
            ErrorCode.LIBRARY_BROKEN,
            f"The library {path} is damaged and could not be rebuilt.",
            f"Move it away, {_ELSEWHERE}",
        )
    # A limit on files or a quota shows as a failed write, whose errno SQLite keeps to itself.
    full = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)
    if _code(error) == sqlite3.SQLITE_FULL or _extended(error) in full:
        return _disk_full(path)
    unusable = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM)
    if _code(error) in (*unusable, sqlite3.SQLITE_IOERR):
        return _unwritable(path, str(error))
    return None


def _from_system(error: OSError, path: Path) -> KnownError:
    if error.errno in _FULL:
        return _disk_full(path)
    return _unwritable(path, (error.strerror or str(error)).lower())


def _disk_full(path: Path) -> KnownError:
    return KnownError(
        ErrorCode.DISK_FULL,
        f"The disk is full: the library {path} could not be written.",
        f"Free some space and try again, {_ELSEWHERE}",
    )


def _unwritable(path: Path, reason: str) -> KnownError:
    return KnownError(
        ErrorCode.OUTPUT_UNWRITABLE,
        f"The library {path} cannot be written ({reason}).",
        f"Make its folder writable, {_ELSEWHERE}",
    )


def _code(error: sqlite3.Error) -> int:
    return _extended(error) & 0xFF


def _extended(error: sqlite3.Error) -> int:
    """SQLite's extended result code; 0 for what the module itself refuses."""
    return getattr(error, "sqlite_errorcode", 0)
