"""One job as it is kept and told: every change goes into the library first, to observers second.

It knows neither the engine nor the way to it, and decides nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from app.domain.events import (
    Delayed,
    Delivered,
    DeliveryFailed,
    JobChanged,
    JobEnded,
    StartedOver,
    TextArrived,
    Wire,
)
from app.domain.history import Entry
from app.domain.jobs import Job, JobEvent, JobState
from app.domain.ports import Deliver, Library, Observer
from app.domain.transcript import Transcript
from app.engine.patience import GIVE_UP_AFTER_S, Backoff, patient
from app.engine.uplink import now_s
from remote.protocol import ErrorCode, Failed, Hello, KnownError, Segment, Segments

_MAY_PASS = (ErrorCode.DISK_FULL, ErrorCode.LIBRARY_LOCKED)

T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """Where jobs are kept and told.

    Args:
        library: where everything is kept.
        tell: the observers.
        deliver: brings transcripts to files; None where nobody wants files.
        delivering: is held meanwhile: names of files are chosen one at a time.
        give_up_after_s: how long a job may stand still.
    """

    library: Library
    tell: Observer
    deliver: Deliver | None
    delivering: asyncio.Lock
    give_up_after_s: float = GIVE_UP_AFTER_S


class Record:
    """A job: what it is now, and all writing about it.

    Args:
        desk: see there.
        entry: the job as the library had it when this program began with it.
        job: the job as observers see it.
    """

    def __init__(self, desk: Desk, entry: Entry, job: Job) -> None:
        self._desk = desk
        self.entry = entry
        self.job = job
        self.heard = 0
        """Segments that are stored."""
        self.hurried = False
        """The user has stopped the job: nothing is waited for."""

    async def recall(self) -> tuple[Segment, ...]:
        """The text that is stored already."""
        if self.job.seq == 0:
            return ()
        segments = (await self._desk.library.transcript(self.job.id)).segments
        self.heard = len(segments)
        return segments

    async def given(self, engine: Hello | None) -> None:
        """An engine is about to be given the job."""
        self.change(self.job.started())
        changes: dict[str, Any] = {"state": JobState.RUNNING, "engine": engine}
        if self.entry.started_at is None and self.job.attempt == 1:
            changes["started_at"] = datetime.now(UTC)
        await self.update(**changes)

    async def store(self, events: Sequence[JobEvent]) -> None:
        """Stores new events, in order and without a hole; then tells them."""
        job_id = self.job.id
        await self._keep(lambda: self._desk.library.append(job_id, events))
        for event in events:
            self.job = self.job.after(event)
            self._desk.tell(Wire(event))
            if isinstance(event, Segments):
                self.heard += len(event.segments)
                self._desk.tell(TextArrived(self.job, event.segments))
            elif not self.job.ended:
                self._desk.tell(JobChanged(self.job))

    async def start_over(self) -> None:
        """Forgets what came of the job, because its engine has forgotten it."""
        await self._keep(lambda: self._desk.library.restart(self.job.id))
        self.heard = 0
        self.job = self.job.restarted()
        self._desk.tell(StartedOver(self.job))

    async def fail(self, error: KnownError) -> None:
        """Ends a job that no engine ended."""
        job = self.job
        failed = Failed(job.id, job.seq + 1, error.code, error.message, error.hint)
        await self._keep(lambda: self._desk.library.append(job.id, [failed]))
        self._desk.tell(Wire(failed))
        self.job = self.job.after(failed).failed(error)
        await self.end()

    async def end(self) -> None:
        """The end of a job: told first, delivered second."""
        came_s = now_s()
        self._desk.tell(JobChanged(self.job))
        transcript = await self._desk.library.transcript(self.job.id)
        self._desk.tell(JobEnded(self.job, transcript))
        files = await hand_out(self._desk, self.job, transcript)
        if files:
            await self._keep(lambda: self._desk.library.note_export(self.job.id, files))
        await self.took({"return": now_s() - came_s})

    def change(self, job: Job) -> None:
        """Tells that the job is another now."""
        self.job = job
        self._desk.tell(JobChanged(job))

    async def took(self, own_s: Mapping[str, float], **changes: Any) -> None:
        """Keeps seconds of the client's own stages, with other changes."""
        self.job = self.job.took(own_s)
        await self.update(stages=dict(self.job.own_s), **changes)

    async def update(self, **changes: Any) -> None:
        """Changes fields of the entry."""
        await self._keep(lambda: self._desk.library.update(self.job.id, **changes))

    async def _keep(self, write: Callable[[], Awaitable[T]]) -> T:
        """Writes to the library, again and again while its disk is full or it is locked."""
        async for attempt in patient(
            lambda error: error.code in _MAY_PASS and not self.hurried,
            Backoff(),
            self.delayed,
            self._desk.give_up_after_s,
        ):
            with attempt:
                return await write()
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def pause(self, error: KnownError, wait_s: float) -> None:
        """Waits, because an error may pass, and tells so."""
        self.delayed(error, 0, wait_s)
        await asyncio.sleep(wait_s)

    def delayed(self, error: KnownError, _tries: int, wait_s: float) -> None:
        """Tells that the job stands still for a while."""
        self._desk.tell(Delayed(self.job, error, wait_s))


async def hand_out(desk: Desk, job: Job, transcript: Transcript) -> tuple[Path, ...]:
    """Delivers a transcript and tells so; the files that were written."""
    if desk.deliver is None:
        return ()
    try:
        async with desk.delivering:
            files = await asyncio.to_thread(desk.deliver, transcript)
    except KnownError as error:
        log.info("job %s: its text could not be written: %s", job.id, error.code)
        desk.tell(DeliveryFailed(job, transcript, error))
        return ()
    if files:
        desk.tell(Delivered(job, files))
    return files
