"""Entries and segments as rows of the library, and back. Pure; no row is read or written here."""

import json
import os
import sqlite3
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from app.domain.history import Entry, JobSettings
from app.domain.jobs import JobState
from remote.protocol import (
    ErrorCode,
    Hello,
    KnownError,
    Quality,
    Segment,
    Summary,
    Word,
    from_plain,
    to_plain,
)

ENTRY_FIELDS = tuple(field.name for field in fields(Entry))
ENTRY_COLUMNS = ", ".join(ENTRY_FIELDS)

SEGMENT_COLUMNS = (
    "id, start_ms, end_ms, channel, language, avg_logprob, compression_ratio, no_speech_prob,"
    " temperature, text, edited"
)

_WORDS = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))

_SEGMENT_BITS = 32
_LAST_JOB = 2**31 - 1

Value = str | bytes | int | float | None
"""What SQLite holds."""

_Noun = TypeVar("_Noun")


# ── where a job's segments lie ───────────────────────────────────────────────────────────────


def first_id(job: int) -> int:
    """The id of the first segment of a job; see schema.sql for why newer jobs come first.

    Args:
        job: its number.
    """
    return (_LAST_JOB - job) << _SEGMENT_BITS


def last_id(job: int) -> int:
    """The largest id that a segment of a job could have."""
    return first_id(job) + (1 << _SEGMENT_BITS) - 1


def place_of(segment_id: int) -> tuple[int, int]:
    """Number of the job, and number of the segment within it."""
    return _LAST_JOB - (segment_id >> _SEGMENT_BITS), segment_id & ((1 << _SEGMENT_BITS) - 1)


# ── entries ──────────────────────────────────────────────────────────────────────────────────


def entry_row(entry: Entry) -> dict[str, Value]:
    """An entry as values by column."""
    return changed_row({name: getattr(entry, name) for name in ENTRY_FIELDS})


def changed_row(changes: Mapping[str, Any]) -> dict[str, Value]:
    """Some fields of an entry as values by column."""
    row = {name: _value(value) for name, value in changes.items()}
    if "path" in changes:
        row["folded"] = folded(str(changes["path"]))
    return row


def entry(row: Sequence[Any]) -> Entry:
    """The entry of a row of ENTRY_COLUMNS.

    Raises:
        WireError, ValueError, TypeError: the row is damaged.
    """
    found = dict(zip(ENTRY_FIELDS, row, strict=True))
    return Entry(
        id=found["id"],
        path=Path(os.fsdecode(found["path"])),
        settings=_settings(found["settings"]),
        added_at=datetime.fromisoformat(found["added_at"]),
        size_bytes=found["size_bytes"],
        content=found["content"],
        state=JobState(found["state"]),
        seq=found["seq"],
        engine=None if found["engine"] is None else _engine(found["engine"]),
        summary=None if found["summary"] is None else _parsed(Summary, found["summary"]),
        stages={str(name): float(s) for name, s in json.loads(found["stages"]).items()},
        sent_bytes=found["sent_bytes"],
        error=None if found["error"] is None else _error(found["error"]),
        started_at=_time(found["started_at"]),
        ended_at=_time(found["ended_at"]),
        exports=tuple(Path(path) for path in json.loads(found["exports"])),
    )


def folded(text: str) -> str:
    """A path as it is searched: without upper case, accents in one way only."""
    return well_formed(unicodedata.normalize("NFC", text).casefold())


def _value(value: Any) -> Value:
    """A field of an entry, by its type."""
    match value:
        case Enum():
            return str(value.value)
        case None | int() | float():
            return value
        case str():
            return well_formed(value)
        case Path():
            return _path(value)
        case datetime():
            return value.isoformat()
        case KnownError():
            plain: Any = {"code": value.code, "message": value.message, "hint": value.hint}
        case tuple():
            plain = [str(path) for path in value]
        case _ if is_dataclass(value) or isinstance(value, Mapping):
            plain = to_plain(value)
        case _:
            raise TypeError(f"No field of an entry is a {type(value).__name__}.")
    return json.dumps(plain, separators=(",", ":"))  # ASCII: holds what is not Unicode as well


def _path(path: Path) -> Value:
    """The path as text, or as bytes where its name is in another encoding."""
    text = str(path)
    return text if well_formed(text) == text else os.fsencode(text)


def _parsed(kind: type[_Noun], text: str) -> _Noun:
    noun: _Noun = from_plain(kind, json.loads(text))
    return noun


@lru_cache(maxsize=256)
def _settings(text: str) -> JobSettings:  # many jobs have the same
    return _parsed(JobSettings, text)


@lru_cache(maxsize=256)
def _engine(text: str) -> Hello:
    return _parsed(Hello, text)


def _error(text: str) -> KnownError:
    plain = json.loads(text)
    known = plain["code"] in {code.value for code in ErrorCode}  # a newer program knows more
    code = ErrorCode(plain["code"]) if known else ErrorCode.BUG
    return KnownError(code, plain["message"], plain["hint"])


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# ── segments ─────────────────────────────────────────────────────────────────────────────────


def segment_row(
    segment_id: int, segment: Segment, edited: str | None, indexed: str | None
) -> tuple[Value, ...]:
    """A segment as values of SEGMENT_COLUMNS and ``indexed``."""
    quality = segment.quality
    return (
        segment_id,
        segment.start_ms,
        segment.end_ms,
        segment.channel,
        well_formed(segment.language),
        quality.avg_logprob,
        quality.compression_ratio,
        quality.no_speech_prob,
        quality.temperature,
        well_formed(segment.text),
        edited,
        indexed,
    )


def words_text(words: Sequence[Word]) -> str:
    """Words as JSON."""
    plain = [[word.start_ms, word.end_ms, word.text, word.probability] for word in words]
    return well_formed(_WORDS.encode(plain))


def segment(row: sqlite3.Row | Sequence[Any], *, edited: bool) -> Segment:
    """The segment of a row of SEGMENT_COLUMNS and its words (JSON or None).

    Args:
        row: see above.
        edited: with the user's text, which has no word times.
    """
    _, start_ms, end_ms, channel, language, *rest = row
    avg_logprob, compression_ratio, no_speech_prob, temperature, heard, mine, words = rest
    changed = edited and mine is not None
    return Segment(
        start_ms,
        end_ms,
        mine if changed else heard,
        () if changed or words is None else tuple(Word(*word) for word in json.loads(words)),
        channel,
        language,
        Quality(avg_logprob, compression_ratio, no_speech_prob, temperature),
    )


def well_formed(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which no file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
