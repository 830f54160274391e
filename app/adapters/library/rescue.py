"""A damaged library: what can be read of it is brought into a new file, the old one is kept.

The old file is only read and renamed. It must not decide whether a file is damaged.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import date
from itertools import count
from pathlib import Path
from typing import Any

from app.adapters.library import rows, schema
from app.adapters.library.failures import is_damage, is_locked
from app.domain.jobs import JobState
from remote.protocol import ErrorCode, KnownError, WireError

_MOST_JOBS = 100_000
"""How many jobs are looked for where the file itself no longer tells: one for each half hour of
five years, and the search takes seconds."""

Row = dict[str, Any]
_Read = Callable[[int, int], Iterable[Sequence[Any]]]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Saved:
    """How much was saved.

    Args:
        jobs: recordings; partial: those of them that have lost some of their text.
    """

    jobs: int = 0
    partial: int = 0


def rescue(path: Path, damaged: sqlite3.Connection, today: date) -> str:
    """What was done, as a sentence for the user; at ``path`` there is a sound file now.

    Args:
        path: of the damaged file.
        damaged: a new connection to it; it is closed. No other may be open in this program.
        today: for the name of what is kept.

    Raises:
        KnownError: library-locked where another program has the file open; nothing was changed.
        sqlite3.Error, OSError: the damaged file is still where it was, or under its new name.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    with closing(damaged):
        _be_alone(damaged, path)
        fresh.touch(mode=0o600)
        with closing(sqlite3.connect(fresh, isolation_level=None)) as new:
            schema.bring_up_to_date(new, fresh)
            saved = _salvage(damaged, new)
    kept = _set_aside(path, today)
    fresh.replace(path)
    log.warning("the library was damaged: %d saved, %d in part", saved.jobs, saved.partial)
    return _sentence(saved, kept)


def finish(path: Path) -> None:
    """Completes a rescue that was broken off between its last two steps."""
    fresh = path.with_name(f"{path.name}.new")
    if not path.exists() and fresh.exists():
        fresh.replace(path)


def _be_alone(damaged: sqlite3.Connection, path: Path) -> None:
    """Keeps everybody else out of the file, so that nothing is written to what is set aside."""
    damaged.execute("PRAGMA locking_mode = EXCLUSIVE")
    damaged.execute("PRAGMA writable_schema = ON")  # read also what is shorter than it should be
    try:
        damaged.execute("BEGIN EXCLUSIVE")
    except sqlite3.DatabaseError as error:
        if is_locked(error):
            raise KnownError(
                ErrorCode.LIBRARY_LOCKED,
                f"The library {path} is damaged, and another program has it open.",
                "End that program and try again: the library is rebuilt then.",
            ) from error
        if not is_damage(error):
            raise
    damaged.execute("PRAGMA query_only = ON")


def _sentence(saved: Saved, kept: Path) -> str:
    if not saved.jobs:
        what = "nothing of it could be read, so a new one was begun"
    else:
        what = f"{saved.jobs} recordings of it are in a new one now"
        if saved.partial:
            what += f", {saved.partial} of them without all of their text: retry those"
    return f"The library was damaged: {what}. The damaged file is kept as {kept}."


def _set_aside(path: Path, today: date) -> Path:
    """Renames the damaged file and its log; where it is now.

    The log goes first: a new file must never meet the log of an old one.
    """
    for number in count(1):
        more = "" if number == 1 else f"-{number}"
        kept = path.with_name(f"{path.stem}-damaged-{today.isoformat()}{more}{path.suffix}")
        if not kept.exists() and not _beside(kept, "-wal").exists():
            break
    with suppress(FileNotFoundError):
        _beside(path, "-wal").rename(_beside(kept, "-wal"))
    _beside(path, "-shm").unlink(missing_ok=True)
    path.rename(kept)
    return kept


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


# ── reading what can be read ─────────────────────────────────────────────────────────────────


def _salvage(old: sqlite3.Connection, new: sqlite3.Connection) -> Saved:
    """Brings all that can be read into a new file."""
    saved = Saved()
    old.row_factory = sqlite3.Row
    for job in _jobs(old):
        new.execute("BEGIN")
        _bring_job(old, new, job, saved)
        new.execute("COMMIT")
    new.execute("INSERT INTO search (search) VALUES ('rebuild')")
    return saved


def _jobs(old: sqlite3.Connection) -> Iterator[Row]:
    """Jobs whose row is whole, in their order."""
    last = _last_job(old)
    query = "SELECT * FROM job WHERE number BETWEEN ? AND ? ORDER BY number"
    for row in _readable(lambda *bounds: old.execute(query, bounds), 1, last):
        job = dict(zip(row.keys(), row, strict=True))
        with suppress(WireError, ValueError, TypeError, LookupError, AttributeError):
            rows.entry([job[name] for name in rows.ENTRY_FIELDS])
            yield job


def _last_job(old: sqlite3.Connection) -> int:
    """The number of the last job there was; 0 where not even the names of tables can be read."""
    with suppress(sqlite3.DatabaseError):
        old.execute("SELECT count(*) FROM sqlite_master").fetchone()
        for query in (
            "SELECT seq FROM sqlite_sequence WHERE name = 'job'",
            "SELECT max(number) FROM job",
        ):
            with suppress(sqlite3.DatabaseError):
                if isinstance(last := (old.execute(query).fetchone() or (None,))[0], int):
                    return last
        return _MOST_JOBS
    return 0


def _bring_job(old: sqlite3.Connection, new: sqlite3.Connection, job: Row, saved: Saved) -> None:
    """One job with its text; where some of that is lost, it has failed and begins anew."""
    first = rows.first_id(job["number"])
    last = first + max(1, job["segments"]) - 1
    segments = list(_valid_segments(old, first, last))
    if len(segments) < job["segments"]:
        saved.partial += 1
        job.update(rows.changed_row({"state": JobState.FAILED, "error": _lost(), "seq": 0}))
        job["summary"] = None
    saved.jobs += 1
    # What was numbered with holes is numbered without: a number is a place in the text.
    for number, segment in enumerate(segments, first):
        _insert(new, "segment", segment | {"id": number})
        for words in _of(old, "words", "segment", segment["id"], segment["id"]):
            _insert(new, "words", words | {"segment": number})
    for kept in _of(old, "kept_edit", "segment", first, rows.last_id(job["number"])):
        _insert(new, "kept_edit", kept)
    _insert(new, "job", job | {"segments": len(segments)})


def _lost() -> KnownError:
    return KnownError(
        ErrorCode.LIBRARY_BROKEN,
        "Some of its text was lost when the library was damaged.",
        "Transcribe it again with: farscribe retry",
    )


def _valid_segments(old: sqlite3.Connection, first: int, last: int) -> Iterator[Row]:
    for row in _of(old, "segment", "id", first, last):
        numbers = (row["start_ms"], row["end_ms"])
        if isinstance(row["text"], str) and all(isinstance(number, int) for number in numbers):
            yield row


def _of(old: sqlite3.Connection, table: str, key: str, first: int, last: int) -> Iterator[Row]:
    query = f"SELECT * FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {key}"  # noqa: S608
    for row in _readable(lambda *bounds: old.execute(query, bounds), first, last):
        yield dict(zip(row.keys(), row, strict=True))


def _readable(read: _Read, first: int, last: int) -> Iterator[Any]:
    """Every row of a range of keys that can be read: around damage, by halves."""
    try:
        found = list(read(first, last))
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        if isinstance(error, sqlite3.Error) and is_locked(error):
            raise
        if first >= last:
            return
        middle = (first + last) // 2
        yield from _readable(read, first, middle)
        yield from _readable(read, middle + 1, last)
    else:
        yield from found


def _insert(new: sqlite3.Connection, table: str, row: Row) -> None:
    """Adds a row; what only the old file's version had is left out."""
    columns = {name for (_, name, *_) in new.execute(f"PRAGMA table_info({table})")}
    kept = {name: value for name, value in row.items() if name in columns}
    new.execute(
        f"INSERT OR IGNORE INTO {table} ({', '.join(kept)})"  # noqa: S608 - our own names
        f" VALUES ({', '.join('?' * len(kept))})",
        tuple(kept.values()),
    )
