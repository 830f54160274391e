"""The client's library: 1,000 segments in one transaction, and search over 5,000 hours of text.

The hours are made up of words as frequent as words are (Zipf's law), stored by the library itself
in a temporary file. Each search runs through the port, as the command line does it: on a library
that is open, and on one that is opened for it, its pages being in the system's cache.
"""

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import numpy as np

from app.adapters.library import writing
from app.adapters.library.file import LibraryFile
from app.adapters.library.library import SqliteLibrary
from app.domain.history import Entry, JobSettings
from remote.protocol import Done, Segment, Segments, Summary, Word
from tests.bench.common import Report, bench_parser, say

VOCABULARY = 60_000
SEGMENTS = 700
SEGMENT_WORDS = 13
"""700 segments of 13 words are 9,100 words: an hour at 150 words a minute."""

AT_ONCE = 10
"""Transcripts in one transaction while the library is filled."""

APPENDED = 1000
RUNS = 21
SEARCH_LIMIT_MS = 100
APPEND_LIMIT_MS = 50


@dataclass(frozen=True, slots=True)
class Timing:
    """How long something took, and how much it found."""

    name: str
    found: int
    runs_ms: Sequence[float]

    @property
    def median_ms(self) -> float:
        """Of all runs."""
        return statistics.median(self.runs_ms)

    @property
    def longest_ms(self) -> float:
        """Of all runs."""
        return max(self.runs_ms)


class Speech:
    """Made-up speech, the same for the same seed."""

    def __init__(self, seed: int = 1) -> None:
        self._random = np.random.default_rng(seed)
        parts = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
        words = ("".join(triple) for triple in itertools.product(parts, repeat=3))
        self.vocabulary = list(itertools.islice(words, VOCABULARY))
        shares = 1 / np.arange(1, VOCABULARY + 1)
        self._shares = np.cumsum(shares / shares.sum())

    def hour(self, number: int) -> tuple[Segment, ...]:
        """The segments of a transcript; its number is said in the middle of it."""
        chosen = np.searchsorted(self._shares, self._random.random(SEGMENTS * SEGMENT_WORDS))
        words = [self.vocabulary[word] for word in np.minimum(chosen, VOCABULARY - 1)]
        words[len(words) // 2] = f"transcript{number}"
        return tuple(
            Segment(i * 5000, i * 5000 + 4800, " ".join(words[i * 13 : i * 13 + 13]), language="en")
            for i in range(SEGMENTS)
        )


def main(arguments: Sequence[str]) -> int:
    """The bench; its exit status."""
    parser = bench_parser("library", __doc__)
    parser.add_argument("--transcripts", type=int, default=5000, metavar="N", help="5000")
    options = parser.parse_args(arguments)
    with TemporaryDirectory(prefix="farscribe-bench-") as folder:
        path = Path(folder) / "library.sqlite"
        phrase = fill(path, options.transcripts)
        size_bytes = path.stat().st_size
        appends = [asyncio.run(append(path, words=words)) for words in (False, True)]
        pairs = asyncio.run(searches(path, queries(options.transcripts, phrase)))
    report(options.transcripts, size_bytes, appends, pairs).deliver(options.json)
    return 0


def fill(path: Path, transcripts: int) -> str:
    """Stores so many transcripts; three words that follow each other in the first of them."""
    speech, file, began = Speech(), LibraryFile(path, 5.0), time.monotonic()
    phrase = ""
    for first in range(0, transcripts, AT_ONCE):
        hours = [
            (_entry(number), speech.hour(number))
            for number in range(first, min(first + AT_ONCE, transcripts))
        ]
        phrase = phrase or " ".join(hours[0][1][350].text.split()[-3:])
        file.write(lambda connection, hours=hours: _store(connection, hours), durable=False)
        if first % 500 == 0:
            say(f"{first} transcripts after {time.monotonic() - began:.0f} s")
    file.close()
    return phrase


def _entry(number: int) -> Entry:
    path = Path(f"/recordings/{number:05}.mp3")
    return Entry(uuid4().hex, path, JobSettings(), datetime.now(UTC))


def _store(connection: object, hours: Sequence[tuple[Entry, tuple[Segment, ...]]]) -> None:
    now = datetime.now(UTC)
    writing.add(connection, [entry for entry, _ in hours])
    for entry, segments in hours:
        done = Done(entry.id, 2, Summary(duration_ms=3_600_000, wall_s=100.0, language="en"))
        writing.append(connection, entry.id, [Segments(entry.id, 1, segments), done], now)


def queries(transcripts: int, phrase: str) -> dict[str, str]:
    """What is searched for, by what is special about it."""
    common, second, third = Speech().vocabulary[:3]
    middle, rare = Speech().vocabulary[1000], Speech().vocabulary[-1]
    return {
        "a word said once, long ago": "transcript1",
        "a word said once, in the newest": f"transcript{transcripts - 1}",
        "a rare word": rare,
        "a word of middling frequency": middle,
        "the most common word": common,
        "the three most common words": f"{common} {second} {third}",
        "a phrase of common words": f'"{common} {second}"',
        "a phrase said once, long ago": f'"{phrase}"',
        "the most common word and one said once": f"{common} transcript1",
        "common words and a word never said": f"{common} {second} nowhere",
        "a phrase of common words never said": f'"{common} {second} {third} {common} {second}"',
    }


async def append(path: Path, *, words: bool) -> Timing:
    """Stores 1,000 segments in one transaction, several times, beside all that is there."""
    library = SqliteLibrary(path)
    segments = tuple(_with_words(Speech(2).hour(0) + Speech(3).hour(0)[:300], words=words))
    runs_ms = []
    for _ in range(RUNS):
        entry = _entry(0)
        await library.add([entry])
        event = Segments(entry.id, 1, segments)
        runs_ms.append(await _timed(lambda e=event: library.append(e.job, [e])))
        await library.remove(entry.id)
    await library.close()
    name = f"storing {APPENDED} segments" + (", each with its words" if words else "")
    return Timing(name, len(segments), runs_ms)


def _with_words(segments: Sequence[Segment], *, words: bool) -> Iterator[Segment]:
    for segment in segments:
        spoken = segment.text.split() if words else []
        times = [segment.start_ms + 300 * i for i in range(len(spoken))]
        timed = tuple(
            Word(t, t + 290, word, 0.87654) for t, word in zip(times, spoken, strict=True)
        )
        yield Segment(segment.start_ms, segment.end_ms, segment.text, timed, language="en")


async def searches(path: Path, wanted: dict[str, str]) -> list[tuple[Timing, Timing]]:
    """Each search on a library that is open, and on one that is opened for it."""
    pairs = []
    for name, query in wanted.items():
        warm = SqliteLibrary(path)
        found = len(await warm.search(query))
        warm_ms = [await _timed(lambda q=query, w=warm: w.search(q)) for _ in range(RUNS)]
        await warm.close()
        fresh_ms = []
        for _ in range(RUNS):
            fresh = SqliteLibrary(path)
            fresh_ms.append(await _timed(lambda q=query, f=fresh: f.search(q)))
            await fresh.close()
        pairs.append((Timing(name, found, warm_ms), Timing(name, found, fresh_ms)))
    return pairs


async def _timed(call: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds that a call takes."""
    began = time.perf_counter()
    await call()
    return (time.perf_counter() - began) * 1000


def report(
    transcripts: int,
    size_bytes: int,
    appends: Sequence[Timing],
    pairs: Sequence[tuple[Timing, Timing]],
) -> Report:
    """A row for each thing that was timed."""
    rows = [[timing.name, str(timing.found), _span(timing), ""] for timing in appends] + [
        [warm.name, str(warm.found), _span(warm), _span(fresh)] for warm, fresh in pairs
    ]
    segments = transcripts * SEGMENTS
    size = (
        f"{segments * SEGMENT_WORDS / 1e6:.1f} million words in {segments} segments,"
        f" {size_bytes / 2**20:.0f} MiB; at most 50 places are asked for, the newest first"
    )
    limits = (
        f"storing is to take less than {APPEND_LIMIT_MS} ms,"
        f" a search less than {SEARCH_LIMIT_MS} ms"
    )
    return Report(
        title=f"The library with {transcripts} transcripts of an hour",
        n=f"{RUNS} each; median (longest)",
        columns=["what", "found, or stored", "ms", "ms, with opening it"],
        rows=rows,
        notes=[size, limits],
        numbers={
            "transcripts": transcripts,
            "size_bytes": size_bytes,
            "append_ms": {timing.name: list(timing.runs_ms) for timing in appends},
            "search_ms": {
                warm.name: {
                    "found": warm.found,
                    "open": list(warm.runs_ms),
                    "opened": list(fresh.runs_ms),
                }
                for warm, fresh in pairs
            },
        },
    )


def _span(timing: Timing) -> str:
    return f"{timing.median_ms:.1f} ({timing.longest_ms:.1f})"
