"""The verbs that look into the library: history, search, show."""

import argparse
from typing import TYPE_CHECKING, Any

from app.cli import loop, telling
from app.cli.options import add_verb
from app.domain.errors import sentence
from app.domain.history import Entry, Hit, Query
from app.domain.jobs import JobState
from app.domain.transcript import Transcript, channel_label
from remote.protocol import ExitCode

if TYPE_CHECKING:
    from app.cli.options import Verbs

_LIMIT = 50


def add_to(verbs: "Verbs") -> None:
    """Adds the verbs."""
    _add_history(verbs)
    parser = add_verb(
        verbs, "search", "find what was said, in all recordings", _search,
        "Finds where all these words are said; what stands in quotes is found as it stands.",
    )  # fmt: skip
    parser.add_argument("words", metavar="WORDS", nargs="+")
    parser.add_argument("--limit", metavar="N", type=int, default=_LIMIT,
        help="at most so many places (default: %(default)s)")  # fmt: skip
    _add_json(parser, "place")
    parser = add_verb(verbs, "show", "print the text of a recording from the library", _show)
    parser.add_argument("job", metavar="JOB", help="id, or the first digits of it")
    parser.add_argument("--original", action="store_true", help="as it was heard, without edits")
    parser.add_argument("--times", action="store_true", help="with the time of each line")
    parser.add_argument("--json", action="store_true",
        help="everything that is known of it, as in a .json file")  # fmt: skip


def _add_history(verbs: "Verbs") -> None:
    parser = add_verb(verbs, "history", "list recordings, the newest first", _history)
    add = parser.add_argument
    add("--limit", metavar="N", type=int, default=_LIMIT,
        help="at most so many (default: %(default)s; 0 for all)")  # fmt: skip
    add("--state", choices=tuple(JobState), action="append",
        help="only those; may be given more than once")  # fmt: skip
    add("--name", metavar="TEXT", default="", help="only those whose path holds this")
    _add_json(parser, "recording")


def _add_json(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--json", action="store_true", help=f"a line of JSON for each {what}")


# ── history ──────────────────────────────────────────────────────────────────────────────────


def _history(given: argparse.Namespace) -> int:
    states = frozenset(map(JobState, given.state or ()))
    entries = loop.run(_entries(Query(states, name=given.name, limit=given.limit or None)))
    if given.json:
        for entry in entries:
            telling.give(plain(entry))
    elif entries:
        from app.cli.tables import history_table

        telling.draw(history_table(entries))
    else:
        telling.say("The library has no such recording.")
    return ExitCode.OK


async def _entries(query: Query) -> tuple[Entry, ...]:
    from app import compose

    async with compose.library() as library:
        return await library.entries(query)


def plain(entry: Entry) -> dict[str, Any]:
    """An entry as JSON gives it."""
    summary, error = entry.summary, entry.error
    return {
        "job": entry.id,
        "path": str(entry.path),
        "state": entry.state.value,
        "added_at": entry.added_at.isoformat(),
        "ended_at": entry.ended_at.isoformat() if entry.ended_at else None,
        "machine": entry.settings.machine,
        "model": entry.engine.model if entry.engine else entry.settings.engine.model,
        "device": entry.engine.device if entry.engine else None,
        "dtype": entry.engine.dtype if entry.engine else None,
        "length_s": summary.duration_ms / 1000 if summary else None,
        "language": summary.language if summary else None,
        "coverage": round(summary.coverage, 4) if summary else None,
        "size_bytes": entry.size_bytes,
        "sha256": entry.content or None,
        "exports": [str(path) for path in entry.exports],
        "error": error and {"code": error.code, "message": error.message, "hint": error.hint},
    }


# ── search ───────────────────────────────────────────────────────────────────────────────────


def _search(given: argparse.Namespace) -> int:
    # The shell has taken the quotes away: words that came as one belong together.
    words = " ".join(f'"{word}"' if " " in word else word for word in given.words)
    hits = loop.run(_hits(words, given.limit))
    if given.json:
        for hit in hits:
            telling.give(_plain_hit(hit))
    elif hits:
        from app.cli.tables import hits_text

        telling.draw(hits_text(hits))
    else:
        telling.say("Nobody said that in any recording of the library.")
    return ExitCode.OK


async def _hits(words: str, limit: int) -> tuple[Hit, ...]:
    from app import compose

    async with compose.library() as library:
        return await library.search(words, limit)


def _plain_hit(hit: Hit) -> dict[str, Any]:
    return {
        "job": hit.entry.id,
        "path": str(hit.entry.path),
        "segment": hit.segment,
        "start_s": hit.start_ms / 1000,
        "end_s": hit.end_ms / 1000,
        "text": hit.snippet,
        "marks": [list(mark) for mark in hit.marks],
    }


# ── show ─────────────────────────────────────────────────────────────────────────────────────


def _show(given: argparse.Namespace) -> int:
    transcript = loop.run(_transcript(given.job, edited=not given.original))
    if given.json:
        from app.domain.exports.json_file import json_text

        print(json_text(transcript), end="")
        return ExitCode.OK
    for segment in transcript.segments:
        time = f"{_time(segment.start_ms)}  " if given.times else ""
        print(f"{time}{channel_label(segment)}{segment.text}")
    if transcript.error is not None:
        telling.say(sentence(transcript.source.name, transcript.error))
    elif transcript.summary is None:
        telling.say(f"{transcript.source.name}: it is not finished yet.")
    return ExitCode.OK


async def _transcript(job: str, *, edited: bool) -> Transcript:
    from app import compose

    async with compose.library() as library:
        entry = await library.entry(job)
        return await library.transcript(entry.id, edited=edited)


def _time(ms: int) -> str:
    """Hours, minutes, seconds: 0:12:34."""
    seconds = ms // 1000
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
