"""Full-text search: what is indexed, what a user's words ask for, where they are found.

A word is found whatever its case and accents. Chinese, Japanese, Korean, Thai and their like have
no spaces between words, or endings stuck to them: there each character is a word to the index,
and a run of them in a query is a phrase, so any part of a text is found exactly. Words and
phrases are found within one segment.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator

from app.adapters.library import rows
from app.domain.history import Entry, Hit
from remote.protocol import Segment

_OPEN, _CLOSE, _CUT = "\x1c", "\x1d", "\x1f"
"""Separators of ASCII: part of no word, and not of what is said."""

_OWN = str.maketrans(dict.fromkeys((_OPEN, _CLOSE, _CUT), " "))

_UNSPACED = re.compile(
    "["
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u1100-\u11ff\u3130-\u318f\uac00-\ud7a3"  # Korean
    "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u31f0-\u31ff\uff66-\uff9f"  # Japanese, Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese
    "]"
)
_QUERY = re.compile(r'"([^"]*)"?|([^\s"]+)')


def indexed(text: str) -> str | None:
    """The text as the index is to see it; None where it is the text as it is."""
    if text.isascii() and text.isprintable():
        return None
    cut = _UNSPACED.sub(rf"{_CUT}\g<0>{_CUT}", text.translate(_OWN))
    return None if cut == text else cut


def include(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Makes new segments findable: those with these ids and all between them."""
    connection.execute(
        "INSERT INTO search (rowid, text) SELECT id, text FROM said WHERE id BETWEEN ? AND ?",
        (first, last),
    )


def exclude(connection: sqlite3.Connection, first: int, last: int) -> None:
    """Takes segments out of the index; to be called before they change or go."""
    connection.execute(
        "INSERT INTO search (search, rowid, text)"
        " SELECT 'delete', id, text FROM said WHERE id BETWEEN ? AND ?",
        (first, last),
    )


def expression(words: str) -> str:
    """What a user wrote, in the language of FTS5; "" where nothing of it can be found.

    Args:
        words: what stands in quotes is a phrase, everything else are words; all must be there.
    """
    found = (phrase or word for phrase, word in _QUERY.findall(words.replace("\0", " ")))
    terms = [rows.well_formed(term) for term in found if re.search(r"\w", term)]
    return " ".join(f'"{_phrase(term)}"' for term in terms)


def _phrase(term: str) -> str:
    return indexed(term) or term


def search(connection: sqlite3.Connection, words: str, limit: int) -> tuple[Hit, ...]:
    """Places where all these words are said, the newest job first, in the order of the file."""
    wanted = expression(words)
    if not wanted or limit < 1:
        return ()
    found = connection.execute(
        "SELECT search.rowid, highlight(search, 0, ?, ?), segment.start_ms, segment.end_ms,"
        " segment.channel, coalesce(segment.edited, segment.text)"
        " FROM search JOIN segment ON segment.id = search.rowid"
        " WHERE search MATCH ? ORDER BY search.rowid LIMIT ?",
        (_OPEN, _CLOSE, wanted, limit),
    ).fetchall()
    jobs = _jobs(connection, {rows.place_of(row[0])[0] for row in found})
    return tuple(_hits(connection, jobs, found))


def _jobs(connection: sqlite3.Connection, numbers: Iterable[int]) -> dict[int, tuple[Entry, bool]]:
    """Entries by number, and whether their segments came in time order."""
    query = f"SELECT {rows.ENTRY_COLUMNS}, in_order FROM job WHERE number = ?"  # noqa: S608 - ours
    found = {}
    for number in numbers:
        *row, in_order = connection.execute(query, (number,)).fetchone()
        found[number] = rows.entry(row), bool(in_order)
    return found


def _hits(
    connection: sqlite3.Connection,
    jobs: dict[int, tuple[Entry, bool]],
    found: Iterable[tuple[int, str, int, int, int | None, str]],
) -> Iterator[Hit]:
    for segment_id, highlighted, start_ms, end_ms, channel, text in found:
        number, segment = rows.place_of(segment_id)
        entry, in_order = jobs[number]
        if not in_order:
            segment = _rank(connection, number, (start_ms, channel or 0, segment_id))
        yield Hit(entry, segment, start_ms, end_ms, text, marks(highlighted))


def _rank(connection: sqlite3.Connection, job: int, key: tuple[int, int, int]) -> int:
    """How many segments of a job come before one in time."""
    count: int = connection.execute(
        "SELECT count(*) FROM segment WHERE id BETWEEN ? AND ?"
        " AND (start_ms, coalesce(channel, 0), id) < (?, ?, ?)",
        (rows.first_id(job), rows.last_id(job), *key),
    ).fetchone()[0]
    return count


def marks(highlighted: str) -> tuple[tuple[int, int], ...]:
    """(start, end) of each hit in the text that the index has highlighted."""
    found: list[tuple[int, int]] = []
    at = start = 0
    for character in highlighted:
        match character:
            case "\x1c":
                start = at
            case "\x1d":
                found.append((start, at))
            case "\x1f":
                pass
            case _:
                at += 1
    return tuple(found)


def key(segment: Segment) -> tuple[int, int]:
    """What segments of a job are put in time order by."""
    return segment.start_ms, segment.channel or 0
