"""A damaged library: what can be read of it is brought into a new file, the old one is kept.

The old file is only read and renamed. It must not decide whether a file is damaged.
"""

import logging
import sqlite3
from collections.abc import Iterable, Iterator
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

_MOST_FAILURES = 50_000
"""Reads that may fail before nothing more is looked for around damage: a second or two."""

Row = dict[str, Any]

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Saved:
    """How much was saved.

    Args:
        jobs: recordings; partial: those of them that have lost some of their text. The times of
            single words may be lost beyond that.
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
            saved = _Salvage(damaged, new).run()
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


class _Salvage:
    """Brings all that can be read of one file into another, which is new."""

    def __init__(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        self._old = old
        self._old.row_factory = sqlite3.Row
        self._new = new
        self._columns = {
            table: {name for (_, name, *_) in new.execute(f"PRAGMA table_info({table})")}
            for table in ("job", "segment", "words", "kept_edit")
        }
        self._failures_left = _MOST_FAILURES

    def run(self) -> Saved:
        """What was saved."""
        saved = Saved()
        for job in self._jobs():
            self._new.execute("BEGIN")
            whole = self._bring(job)
            self._new.execute("COMMIT")
            saved.jobs += 1
            saved.partial += not whole
        self._new.execute("INSERT INTO search (search) VALUES ('rebuild')")
        return saved

    def _jobs(self) -> Iterator[Row]:
        """Jobs whose row is whole, in their order."""
        for job in self._read("job", "number", 1, self._last_job()):
            with suppress(WireError, ValueError, TypeError, LookupError, AttributeError):
                rows.entry([job[name] for name in rows.ENTRY_FIELDS])
                yield job

    def _last_job(self) -> int:
        """Number of the last job there was; 0 where not even the names of tables can be read."""
        with suppress(sqlite3.DatabaseError):
            self._old.execute("SELECT count(*) FROM sqlite_master").fetchone()
            for query in (
                "SELECT seq FROM sqlite_sequence WHERE name = 'job'",
                "SELECT max(number) FROM job",
            ):
                with suppress(sqlite3.DatabaseError):
                    found = self._old.execute(query).fetchone()
                    if found and isinstance(found[0], int):
                        return min(found[0], _MOST_JOBS)
            return _MOST_JOBS
        return 0

    def _bring(self, job: Row) -> bool:
        """Whether a job was brought over whole; else it has failed and is to begin anew."""
        first = rows.first_id(job["number"])
        last = first + job["segments"] - 1
        segments = [row for row in self._read("segment", "id", first, last) if _is_whole(row)]
        whole = bool(len(segments) == job["segments"])
        if not whole:
            job |= rows.changed_row({"state": JobState.FAILED, "error": _lost(), "seq": 0})
            job["summary"] = None
        # What was numbered with holes is numbered without: a number is a place in the text.
        ids = {segment["id"]: number for number, segment in enumerate(segments, first)}
        self._insert("segment", (row | {"id": ids[row["id"]]} for row in segments))
        words = [
            row for row in self._read("words", "segment", first, last) if row["segment"] in ids
        ]
        self._insert("words", (row | {"segment": ids[row["segment"]]} for row in words))
        self._insert("kept_edit", self._kept_edits(job["number"]))
        self._insert("job", [job | {"segments": len(segments)}])
        return whole

    def _read(self, table: str, key: str, first: int, last: int) -> Iterator[Row]:
        """Every row of a range of keys that can be read: around damage, by halves."""
        query = f"SELECT * FROM {table} WHERE {key} BETWEEN ? AND ? ORDER BY {key}"  # noqa: S608
        try:
            found = [dict(row) for row in self._old.execute(query, (first, last))]
        except sqlite3.DatabaseError:
            self._failures_left -= 1
            if first >= last or self._failures_left < 0:
                return
            middle = (first + last) // 2
            yield from self._read(table, key, first, middle)
            yield from self._read(table, key, middle + 1, last)
        else:
            yield from found

    def _kept_edits(self, job: int) -> list[Row]:
        """All of a job or none: their ids are in no known range that could be halved."""
        query = "SELECT * FROM kept_edit WHERE segment BETWEEN ? AND ?"
        with suppress(sqlite3.DatabaseError):
            found = self._old.execute(query, (rows.first_id(job), rows.last_id(job)))
            return [dict(row) for row in found]
        return []

    def _insert(self, table: str, found: Iterable[Row]) -> None:
        """Adds rows; what only the old file's version had is left out."""
        for row in found:
            kept = {name: value for name, value in row.items() if name in self._columns[table]}
            self._new.execute(
                f"INSERT OR IGNORE INTO {table} ({', '.join(kept)})"  # noqa: S608 - our own names
                f" VALUES ({', '.join('?' * len(kept))})",
                tuple(kept.values()),
            )


def _is_whole(segment: Row) -> bool:
    """Whether a row of a segment is what was once written, as far as can be told."""
    numbers = (segment["start_ms"], segment["end_ms"])
    return isinstance(segment["text"], str) and all(isinstance(n, int) for n in numbers)


def _lost() -> KnownError:
    return KnownError(
        ErrorCode.LIBRARY_BROKEN,
        "Some of its text was lost when the library was damaged.",
        "Transcribe it again with: farscribe retry",
    )
