"""What is written to the library. Each function runs within a transaction of its caller's."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from app.adapters.library import rows, searching
from app.adapters.library.reading import not_found, nth_segment
from app.domain.errors import from_failed
from app.domain.history import Entry
from app.domain.jobs import JobEvent, JobState
from remote.protocol import Done, Failed, Segment, Segments, WireError

CHANGEABLE = frozenset(
    "path size_bytes content state engine stages sent_bytes error started_at ended_at".split()
)
"""Fields that no event changes, or that a client changes where no engine can."""

_ENDED = (JobState.DONE, JobState.FAILED)
_INSERT_SEGMENT = (
    f"INSERT INTO segment ({rows.SEGMENT_COLUMNS}, indexed)"  # noqa: S608 - our own names
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of events.

    Args:
        seq: number of the last one that is stored.
        hole: the error of an event that came though the one after ``seq`` had not.
    """

    seq: int
    hole: WireError | None = None


@dataclass(frozen=True, slots=True)
class _Place:
    """A job as far as appending needs it."""

    number: int
    ended: bool
    seq: int
    segments: int
    in_order: bool


def add(connection: sqlite3.Connection, entries: Iterable[Entry]) -> None:
    """Stores new jobs; one that is there is left as it is."""
    for entry in entries:
        row = rows.entry_row(entry)
        connection.execute(
            f"INSERT INTO job ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"  # noqa: S608
            " ON CONFLICT (id) DO NOTHING",
            tuple(row.values()),
        )


def append(
    connection: sqlite3.Connection, job: str, events: Sequence[JobEvent], now: datetime
) -> Appended:
    """Stores events up to the first hole. A job that has ended takes in nothing.

    Args:
        connection: see above.
        job: its id.
        events: in order; each may have come before.
        now: when Done or Failed ends the job.
    """
    place = _place(connection, job)
    seq, ended, hole = place.seq, place.ended, None
    arrived: list[Segment] = []
    changes: dict[str, Any] = {}
    for event in events:
        if ended or event.seq <= seq:
            continue
        if event.seq != seq + 1:
            hole = WireError(
                f"The engine's event {seq + 1} of job {job} was lost"
                f" (event {event.seq} came instead)."
            )
            break
        seq = event.seq
        if isinstance(event, Segments):
            arrived += event.segments
        elif isinstance(event, Done | Failed):
            changes, ended = _end(event, now), True
    if seq > place.seq:
        if place.seq == 0 and place.segments:  # what a rescue has saved of a job that begins anew
            _forget_segments(connection, place.number)
            place = _place(connection, job)
        _store(connection, place, arrived)
        _change(connection, place.number, {**changes, "seq": seq})
    return Appended(seq, hole)


def update(connection: sqlite3.Connection, job: str, changes: Mapping[str, Any]) -> None:
    """Changes fields of an entry, those of CHANGEABLE."""
    _change(connection, _place(connection, job).number, changes)


def restart(connection: sqlite3.Connection, job: str) -> None:
    """Forgets the events of a job; one that had ended waits again. Edits come back with the text.

    An edit is put back to the segment of the same number where the same is heard there again.
    """
    place = _place(connection, job)
    bounds = (rows.first_id(place.number), rows.last_id(place.number))
    connection.execute(
        "INSERT OR REPLACE INTO kept_edit (segment, heard, edited)"
        " SELECT id, text, edited FROM segment WHERE id BETWEEN ? AND ? AND edited IS NOT NULL",
        bounds,
    )
    _forget_segments(connection, place.number)
    changes: dict[str, Any] = {"seq": 0, "summary": None, "error": None, "ended_at": None}
    if place.ended:
        changes["state"] = JobState.WAITING
    _change(connection, place.number, changes)


def edit(connection: sqlite3.Connection, job: str, segment: int, text: str | None) -> None:
    """Puts a text beside what was heard, or takes it back: so does the text that was heard."""
    place = _place(connection, job)
    segment_id, heard = nth_segment(connection, job, place.number, segment)
    mine = None if text is None else rows.well_formed(text)
    if mine == heard:
        mine = None
    searching.exclude(connection, segment_id, segment_id)
    connection.execute(
        "UPDATE segment SET edited = ?, indexed = ? WHERE id = ?",
        (mine, searching.indexed(heard if mine is None else mine), segment_id),
    )
    searching.include(connection, segment_id, segment_id)


def note_export(connection: sqlite3.Connection, job: str, files: Sequence[Path]) -> None:
    """Adds files to those that the text was written to, each once."""
    place = _place(connection, job)
    known = connection.execute(
        f"SELECT {rows.ENTRY_COLUMNS} FROM job WHERE number = ?",  # noqa: S608 - our own names
        (place.number,),
    ).fetchone()
    exports = tuple(dict.fromkeys((*rows.entry(known).exports, *files)))
    _change(connection, place.number, {"exports": exports})


def remove(connection: sqlite3.Connection, job: str) -> None:
    """Forgets a job with all its text."""
    place = _place(connection, job)
    _forget_segments(connection, place.number)
    connection.execute(
        "DELETE FROM kept_edit WHERE segment BETWEEN ? AND ?",
        (rows.first_id(place.number), rows.last_id(place.number)),
    )
    connection.execute("DELETE FROM job WHERE number = ?", (place.number,))


# ── parts ────────────────────────────────────────────────────────────────────────────────────


def _place(connection: sqlite3.Connection, job: str) -> _Place:
    row = connection.execute(
        "SELECT number, state, seq, segments, in_order FROM job WHERE id = ?", (job,)
    ).fetchone()
    if row is None:
        raise not_found(job)
    number, state, seq, segments, in_order = row
    return _Place(number, state in _ENDED, seq, segments, bool(in_order))


def _end(event: Done | Failed, now: datetime) -> dict[str, Any]:
    if isinstance(event, Done):
        return {"state": JobState.DONE, "summary": event.summary, "error": None, "ended_at": now}
    return {"state": JobState.FAILED, "error": from_failed(event), "ended_at": now}


def _store(connection: sqlite3.Connection, place: _Place, segments: Sequence[Segment]) -> None:
    """Adds segments after those that are there."""
    if not segments:
        return
    first = rows.first_id(place.number)
    next_id = first + place.segments
    edits = _kept_edits(connection, place.number)
    insert, words = [], []
    for segment_id, segment in enumerate(segments, next_id):
        heard, mine = edits.get(segment_id, ("", None))
        edited = mine if heard == rows.well_formed(segment.text) else None
        shown = rows.well_formed(segment.text) if edited is None else edited
        insert.append(rows.segment_row(segment_id, segment, edited, searching.indexed(shown)))
        if segment.words:
            words.append((segment_id, rows.words_text(segment.words)))
    connection.executemany(_INSERT_SEGMENT, insert)
    connection.executemany("INSERT INTO words (segment, words) VALUES (?, ?)", words)
    searching.include(connection, next_id, next_id + len(segments) - 1)
    keys = [*_last_key(connection, next_id - 1, place), *map(searching.key, segments)]
    connection.execute(
        "UPDATE job SET segments = segments + ?, in_order = in_order AND ? WHERE number = ?",
        (len(segments), keys == sorted(keys), place.number),
    )


def _last_key(
    connection: sqlite3.Connection, segment_id: int, place: _Place
) -> list[tuple[int, int]]:
    """Start and channel of the segment that was last, if there is one."""
    if not place.segments:
        return []
    found = connection.execute(
        "SELECT start_ms, coalesce(channel, 0) FROM segment WHERE id = ?", (segment_id,)
    )
    return [(start_ms, channel) for start_ms, channel in found]


def _kept_edits(connection: sqlite3.Connection, job: int) -> dict[int, tuple[str, str]]:
    """What was heard and what it was made to be, by id."""
    found = connection.execute(
        "SELECT segment, heard, edited FROM kept_edit WHERE segment BETWEEN ? AND ?",
        (rows.first_id(job), rows.last_id(job)),
    )
    return {segment_id: (heard, edited) for segment_id, heard, edited in found}


def _forget_segments(connection: sqlite3.Connection, job: int) -> None:
    bounds = (rows.first_id(job), rows.last_id(job))
    searching.exclude(connection, *bounds)
    connection.execute("DELETE FROM words WHERE segment BETWEEN ? AND ?", bounds)
    connection.execute("DELETE FROM segment WHERE id BETWEEN ? AND ?", bounds)
    connection.execute("UPDATE job SET segments = 0, in_order = 1 WHERE number = ?", (job,))


def _change(connection: sqlite3.Connection, job: int, changes: Mapping[str, Any]) -> None:
    row = rows.changed_row(changes)
    if not row:
        return
    columns = ", ".join(f"{name} = ?" for name in row)
    connection.execute(
        f"UPDATE job SET {columns} WHERE number = ?",  # noqa: S608 - our own names
        (*row.values(), job),
    )
