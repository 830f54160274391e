"""What is read from the library. Each function runs within a transaction: it sees one moment."""

import sqlite3
from collections.abc import Iterator

from app.adapters.library import rows
from app.domain.history import Entry, Query
from app.domain.transcript import Transcript
from remote.protocol import ErrorCode, KnownError, Segment

_ENTRY = f"SELECT {rows.ENTRY_COLUMNS} FROM job"  # noqa: S608 - our own names
_SEGMENTS = (
    f"SELECT {rows.SEGMENT_COLUMNS}, words"  # noqa: S608 - our own names
    " FROM segment LEFT JOIN words ON segment = id"
    " WHERE id BETWEEN ? AND ? ORDER BY start_ms, coalesce(channel, 0), id"
)


def entry(connection: sqlite3.Connection, job: str) -> Entry:
    """One job, by its id or by the first digits of it.

    Raises:
        KnownError: not-found, also where these are the first digits of several.
    """
    found = connection.execute(f"{_ENTRY} WHERE id = ?", (job,)).fetchall()
    if not found and job:
        found = connection.execute(
            f"{_ENTRY} WHERE substr(id, 1, ?) = ? LIMIT 2", (len(job), job.lower())
        ).fetchall()
    if len(found) > 1:
        raise KnownError(
            ErrorCode.NOT_FOUND,
            f"More than one recording of the library begins with {job}.",
            "Give more of its digits.",
        )
    if not found:
        raise not_found(job)
    return rows.entry(found[0])


def entries(connection: sqlite3.Connection, query: Query) -> tuple[Entry, ...]:
    """Jobs, the newest first."""
    where, values = ["1"], list[str | int]()
    if query.content:
        where.append("content = ? AND content != ''")  # the index leaves out ''
        values.append(query.content)
    if query.size_bytes is not None:
        where.append("size_bytes = ?")
        values.append(query.size_bytes)
    if query.name:
        where.append("instr(folded, ?)")
        values.append(rows.folded(query.name))
    if query.states:
        where.append(f"state IN ({', '.join('?' * len(query.states))})")
        values += sorted(state.value for state in query.states)
    limit = -1 if query.limit is None else max(0, query.limit)
    found = connection.execute(
        f"{_ENTRY} WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?", (*values, limit)
    )
    return tuple(rows.entry(row) for row in found)


def transcript(connection: sqlite3.Connection, job: str, *, edited: bool) -> Transcript:
    """All that is known of a job.

    Raises:
        KnownError: not-found.
    """
    number = _number(connection, job)
    row = connection.execute(f"{_ENTRY} WHERE number = ?", (number,)).fetchone()
    known = rows.entry(row)
    segments = tuple(_segments(connection, number, edited=edited))
    return Transcript(known.path, segments, known.summary, known.engine, known.error)


def nth_segment(
    connection: sqlite3.Connection, job: str, number: int, segment: int
) -> tuple[int, str]:
    """Id and heard text of a segment, counted from 0 in time order.

    Raises:
        KnownError: not-found.
    """
    row = None
    if 0 <= segment <= rows.last_id(0):
        row = connection.execute(
            "SELECT id, text FROM segment WHERE id BETWEEN ? AND ?"
            " ORDER BY start_ms, coalesce(channel, 0), id LIMIT 1 OFFSET ?",
            (rows.first_id(number), rows.last_id(number), segment),
        ).fetchone()
    if row is None:
        raise KnownError(
            ErrorCode.NOT_FOUND, f"The text of recording {job} has no segment {segment}."
        )
    return row[0], row[1]


def not_found(job: str) -> KnownError:
    """The error of a job that is not there."""
    return KnownError(
        ErrorCode.NOT_FOUND,
        f"There is no recording {job} in the library.",
        "See what there is with: farscribe history",
    )


def _number(connection: sqlite3.Connection, job: str) -> int:
    row = connection.execute("SELECT number FROM job WHERE id = ?", (job,)).fetchone()
    if row is None:
        raise not_found(job)
    number: int = row[0]
    return number


def _segments(connection: sqlite3.Connection, job: int, *, edited: bool) -> Iterator[Segment]:
    bounds = (rows.first_id(job), rows.last_id(job))
    for row in connection.execute(_SEGMENTS, bounds):
        yield rows.segment(row, edited=edited)
