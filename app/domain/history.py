"""What the library remembers of a job. Pure values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from app.domain.jobs import JobState
from app.domain.settings import EngineSettings
from remote.protocol import Hello, KnownError, Options, Summary

THIS_COMPUTER = "this-computer"


@dataclass(frozen=True, slots=True)
class JobSettings:
    """What a job was asked for; frozen when it is added, so that a retry does the same.

    Args:
        machine: THIS_COMPUTER, or "ssh://user@host:port".
        engine: model, device, dtype.
        options: of the transcription.
    """

    machine: str = THIS_COMPUTER
    engine: EngineSettings = field(default_factory=EngineSettings)
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True)
class Entry:
    """One job as the library keeps it.

    Args:
        id: its name on the wire: 32 hexadecimal digits (uuid4).
        path: the recording, absolute.
        settings: what was asked for.
        added_at: UTC.
        size_bytes: of the file; content: sha256 of its bytes, "" while not known.
        state: where it is.
        seq: number of the last event that is stored.
        engine: who did it.
        summary: measurements, once done.
        stages: seconds of the client's own stages: "upload", "wait" (for the machine), "return".
        sent_bytes: of audio that travelled.
        error: why it failed, once failed.
        started_at, ended_at: UTC.
        exports: files its text was written to.
    """

    id: str
    path: Path
    settings: JobSettings
    added_at: datetime
    size_bytes: int = 0
    content: str = ""
    state: JobState = JobState.WAITING
    seq: int = 0
    engine: Hello | None = None
    summary: Summary | None = None
    stages: Mapping[str, float] = field(default_factory=dict)
    sent_bytes: int = 0
    error: KnownError | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    exports: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Query:
    """Which entries are wanted.

    Args:
        states: none for all.
        content: of this content alone (sha256), "" for any.
        size_bytes: of files of this size alone; None for any.
        name: whose path holds this, in upper or lower case; "" for any.
        limit: at most so many; None for all.
    """

    states: frozenset[JobState] = frozenset()
    content: str = ""
    name: str = ""
    limit: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A place where something is said.

    Args:
        entry: the job.
        segment: number of the segment within it, from 0.
        start_ms, end_ms: its time in the file.
        snippet: its text.
        marks: (start, end) of each hit in the snippet, in characters.
    """

    entry: Entry
    segment: int
    start_ms: int
    end_ms: int
    snippet: str
    marks: tuple[tuple[int, int], ...] = ()
