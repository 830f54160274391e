"""Jobs for a library, and a library whose calls wait."""

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any
from uuid import uuid4

from app.adapters.library.library import SqliteLibrary
from app.domain.history import Entry, JobSettings
from remote.protocol import Done, Segment, Segments, Summary

NOON = datetime(2026, 8, 5, 12, tzinfo=UTC)


class Shelf:
    """A library as tests use it: each call is awaited."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.library = SqliteLibrary(path, now=lambda: NOON, **options)
        self._runner = asyncio.Runner()

    def __enter__(self) -> "Shelf":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._runner.run(self.library.close())
        self._runner.close()

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.library, name)
        return lambda *args, **options: self._runner.run(call(*args, **options))

    def run(self, coroutine: Any) -> Any:
        """What a coroutine gives."""
        return self._runner.run(coroutine)

    def has_said(self, *texts: str, **fields: Any) -> str:
        """The id of a new job that is done, with a segment for each text."""
        job = entry(**fields)
        self.add([job])
        self.append(job.id, [segments(job.id, 1, texts), Done(job.id, 2, Summary())])
        return job.id

    def texts(self, job: str, **options: Any) -> list[str]:
        """The texts of a job's segments."""
        return [segment.text for segment in self.transcript(job, **options).segments]

    def found(self, words: str) -> list[str]:
        """The texts in which words are found."""
        return [hit.snippet for hit in self.search(words)]


def entry(path: Path = Path("/recordings/a.wav"), **fields: Any) -> Entry:
    """A job as it is added."""
    return Entry(uuid4().hex, path, **{"settings": JobSettings(), "added_at": NOON, **fields})


def segments(job: str, seq: int, texts: Iterable[str], start_ms: int = 0) -> Segments:
    """An event with a segment of a second for each text."""
    return Segments(
        job,
        seq,
        tuple(
            Segment(start_ms + 1000 * i, start_ms + 1000 * i + 900, text, language="en")
            for i, text in enumerate(texts)
        ),
    )
