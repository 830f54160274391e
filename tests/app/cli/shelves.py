"""A library with a few recordings, made through the real adapter."""

from datetime import timedelta
from pathlib import Path
from typing import Any

from app.domain.history import JobSettings
from app.domain.jobs import JobState
from remote.protocol import (
    Done,
    ErrorCode,
    Failed,
    Hello,
    Segment,
    Segments,
    StageTimes,
    Summary,
)
from tests.app.adapters.library_jobs import NOON, Shelf, entry

HELLO = Hello(1, 1, "0", "base", "cuda:0", "bfloat16", "standard", 0.1)
SUMMARY = Summary(
    3_723_000, 3_000_000, 2_700_000, language="en", wall_s=30.0,
    stages=StageTimes({"decode": 2.0, "generate": 20.0}),
)  # fmt: skip
TEXT = (
    Segment(1_000, 2_000, "The whale sings.", language="en"),
    Segment(3_661_000, 3_663_000, "Nobody [b]hears[/b] the whale.", language="en"),
)


def fill(home: Path) -> dict[str, str]:
    """Puts recordings into the library; their ids by name."""
    with Shelf(home / "library.sqlite") as shelf:
        done = _add(shelf, "/rec/whale song.mp3", state=JobState.RUNNING, engine=HELLO)
        shelf.append(done, [Segments(done, 1, TEXT), Done(done, 2, SUMMARY)])
        shelf.update(done, stages={"upload": 1.5, "wait": 2.0, "return": 0.5}, sent_bytes=1234)
        shelf.update(done, started_at=NOON - timedelta(seconds=28))
        shelf.edit(done, 1, "Somebody hears the whale.")
        failed = _add(shelf, "/rec/noise.wav", settings=JobSettings("ssh://far"))
        shelf.append(failed, [Failed(failed, 1, ErrorCode.LINK_LOST, "It broke.", "Try again.")])
        running = _add(shelf, "/rec/Later.wav", state=JobState.RUNNING)
        shelf.append(running, [Segments(running, 1, TEXT[:1])])
    return {"done": done, "failed": failed, "running": running}


def _add(shelf: Shelf, path: str, **fields: Any) -> str:
    job = entry(path=Path(path), **fields)
    shelf.add([job])
    return job.id
