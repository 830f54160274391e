"""Entries of a library, as tests of the rules on them need them."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from app.domain.history import Entry, JobSettings
from app.domain.jobs import JobState
from remote.protocol import ErrorCode, KnownError, StageTimes, Summary

NOON = datetime(2026, 8, 5, 12, tzinfo=UTC)


def entry(name: str = "a.wav", state: JobState = JobState.DONE, **fields: Any) -> Entry:
    return replace(Entry(uuid4().hex, Path("/", name), JobSettings(), NOON, state=state), **fields)


def failed(name: str, code: ErrorCode = ErrorCode.LINK_LOST, **fields: Any) -> Entry:
    return entry(name, JobState.FAILED, error=KnownError(code, "No."), **fields)


def timed(name: str, begin_s: float, end_s: float, audio_s: float = 60.0, **fields: Any) -> Entry:
    """A job that was worked on from one second after noon to another."""
    summary = Summary(
        round(audio_s * 1000), 1000, 900, stages=StageTimes({"generate": audio_s / 100})
    )
    began, ended = (NOON + timedelta(seconds=s) for s in (begin_s, end_s))
    fields.setdefault("summary", summary)
    return entry(name, started_at=began, ended_at=ended, **fields)
