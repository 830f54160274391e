"""The verbs of the client: add recordings, turn them into text, stop. Asyncio, without any face.

Observers are told everything as events; the window and the command line are both observers. One
bad file never stops the rest. It must not know what an engine is made of, nor how a job gets to
its end.
"""

import asyncio
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from app.domain.blocks import Codec
from app.domain.errors import cancelled
from app.domain.events import (
    Event,
    FilesPassed,
    JobChanged,
    JobEnded,
    JobsAdded,
    Recovered,
    Wire,
)
from app.domain.history import Entry, JobSettings, Query
from app.domain.intake import Accepted, Found, Passed, Refused
from app.domain.jobs import Job, JobState
from app.domain.ports import Claims, Deliver, Gather, Library, Machine, Media, Observer
from app.domain.transcript import Transcript
from app.engine.dial import Dial
from app.engine.gate import Gate
from app.engine.patience import GIVE_UP_AFTER_S, together
from app.engine.pipeline import Bench, Pipeline
from app.engine.record import Desk, hand_out
from app.engine.session import Session
from app.engine.uplink import Uplink
from remote.protocol import Cancel, Failed, KnownError, Source, Transcribe

AT_ONCE = 32
"""Jobs that an engine is given at once: enough to fill its batches with short recordings."""

UPLOADS = 4
"""Recordings that travel at once: more only share the uplink, and the first text comes later."""

READING = 2
"""Recordings that are fingerprinted at once: a disk gains nothing from more."""

PATIENCE_S = 5.0
"""How long a cancelled job may take to end before its engine is left."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A job of the queue."""

    entry: Entry
    resumed: bool


class Service:
    """A queue of recordings and the engine of one machine that works on them.

    Args:
        machine: where the engine is.
        library: what is asked of it and what becomes of that is kept here.
        gather: finds the recordings behind what a user named.
        settings: for every recording that is added.
        media: reads recordings on this computer; needed where the machine has a store.
        claims: keeps two programs from running one job; None where no other can know of it.
        deliver: brings a finished transcript to where it belongs; None where nobody wants files.
        observers: are told every event.
        codec: of blocks, where the user has decided on one.
        at_once: see AT_ONCE; uploads: see UPLOADS; patience_s: see PATIENCE_S.
        give_up_after_s: seconds that a job may stand still.
    """

    def __init__(
        self,
        machine: Machine,
        library: Library,
        gather: Gather,
        settings: JobSettings,
        *,
        media: Media | None = None,
        claims: Claims | None = None,
        deliver: Deliver | None = None,
        observers: Iterable[Observer] = (),
        codec: Codec | None = None,
        at_once: int = AT_ONCE,
        uploads: int = UPLOADS,
        patience_s: float = PATIENCE_S,
        give_up_after_s: float = GIVE_UP_AFTER_S,
    ) -> None:
        self._machine = machine
        self._library = library
        self._gather = gather
        self._settings = settings
        self._media = media
        self._claims = claims
        self._observers = tuple(observers)
        self._codec = codec
        self._at_once = at_once
        self._uploads = uploads
        self._patience_s = patience_s
        self._desk = Desk(library, self._tell, deliver, asyncio.Lock(), give_up_after_s)
        self._jobs: dict[str, Job] = {}  # as they were when they last changed
        self._queue: deque[_Waiting] = deque()
        self._running: dict[str, Pipeline] = {}
        self._session: Session | None = None
        self._dropped: set[str] = set()  # jobs that the user has stopped
        self._moved = asyncio.Event()
        self._cancelling: asyncio.Task[None] | None = None

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every job of the service, in order."""
        return tuple(self._jobs.values())

    @property
    def stopping(self) -> bool:
        """Whether the batch has been cancelled."""
        return self._cancelling is not None

    # ── what is to be done ──────────────────────────────────────────────────────────────────

    async def add(self, paths: Sequence[Path]) -> tuple[Job, ...]:
        """Adds files and whole folders; their jobs. What cannot be a recording fails at once.

        A job of the same file with the same settings, which a program that has ended left
        unfinished, is taken up where it was.

        Raises:
            KnownError: the library cannot be written; nothing was added.
        """
        found = await asyncio.to_thread(lambda: tuple(self._gather(paths)))
        fresh = await asyncio.to_thread(
            lambda: {f.path: self._entry(f.path) for f in found if isinstance(f, Accepted)}
        )
        unfinished = await self._left(lambda entry: _same(entry, fresh.get(entry.path)))
        left = {entry.path: entry for entry in unfinished}
        new = [entry for path, entry in fresh.items() if path not in left]
        await self._keep(new)
        jobs = tuple(
            self._job(left.get(item.path) or fresh.get(item.path) or self._entry(item.path))
            for item in found
            if not isinstance(item, Passed)
        )
        self._tell_added(jobs, left.values(), found)
        for job, item in zip(jobs, (i for i in found if not isinstance(i, Passed)), strict=True):
            if isinstance(item, Refused):
                await self._refuse(job, item.error)
        self._enqueue({**fresh, **left}.values(), recovered=left.values())
        return tuple(self._jobs[job.id] for job in jobs)

    async def resume(self) -> tuple[Job, ...]:
        """Takes up what programs that have ended left unfinished on this machine; those jobs."""
        left = await self._left(lambda entry: entry.settings.machine == self._machine.name)
        jobs = tuple(map(self._job, left))
        self._tell_added(jobs, left)
        self._enqueue(left, recovered=left)
        return jobs

    async def retry(self, entries: Iterable[str]) -> tuple[Job, ...]:
        """Adds new jobs for the recordings of these, with their settings; the new jobs.

        Raises:
            KnownError: not-found for an id that nothing or more than one thing has.
        """
        before = [await self._library.entry(name) for name in entries]
        new = [self._entry(entry.path, entry.settings) for entry in before]
        await self._keep(new)
        jobs = tuple(map(self._job, new))
        self._tell_added(jobs)
        self._enqueue(new)
        return jobs

    # ── doing it ────────────────────────────────────────────────────────────────────────────

    async def run(self) -> tuple[Job, ...]:
        """Works until every job has ended; the jobs as they ended.

        Cancelling the coroutine ends the conversation; a program may take the jobs up again.

        Raises:
            KnownError: the library cannot be written.
        """
        try:
            async with together() as talk:
                bench = self._bench(talk)
                try:
                    await self._empty_queue(bench)
                finally:
                    await self._hang_up(bench)
        finally:
            if self._cancelling is not None:
                self._cancelling.cancel()
        return self.jobs

    def cancel(self, *jobs: str) -> None:
        """Stops these jobs, or the whole batch: what waits now, what runs within the patience."""
        if jobs:
            self._dropped.update(jobs)
            first = [item for item in self._queue if item.entry.id in self._dropped]
            rest = [item for item in self._queue if item.entry.id not in self._dropped]
            self._queue = deque([*first, *rest])
            for pipeline in [self._running[job] for job in jobs if job in self._running]:
                pipeline.stop()
            self._moved.set()
        elif self._cancelling is None:
            self._cancelling = asyncio.create_task(self._stop())

    def abort(self) -> None:
        """Stops the batch at once, with whatever the engine has in hand."""
        self.cancel()
        self._leave()

    async def _stop(self) -> None:
        self._moved.set()
        for pipeline in tuple(self._running.values()):
            pipeline.stop()
        await asyncio.sleep(self._patience_s)
        self._leave()

    def _leave(self) -> None:
        if self._session is not None:
            self._session.kill()
        for pipeline in tuple(self._running.values()):
            pipeline.abandon()

    def _bench(self, talk: asyncio.TaskGroup) -> Bench:
        spawn = talk.create_task
        session = self._session = Session(self._machine, self._tell, spawn)
        dial = Dial(
            session,
            self._tell,
            lambda: spawn(self._tidy(session)),
            give_up_after_s=self._desk.give_up_after_s,
            known=any(item.resumed for item in self._queue),
        )
        store = self._machine.store
        return Bench(
            self._desk,
            session,
            dial,
            Gate(),
            spawn,
            self._media,
            Uplink(store, self._codec) if store is not None else None,
            asyncio.Semaphore(self._uploads),
            asyncio.Semaphore(READING),
        )

    async def _empty_queue(self, bench: Bench) -> None:
        async with together() as tasks:
            while self._queue or self._running:
                self._start_some(bench, tasks)
                self._moved.clear()
                await self._moved.wait()

    def _start_some(self, bench: Bench, tasks: asyncio.TaskGroup) -> None:
        while self._queue and (
            self.stopping
            or self._queue[0].entry.id in self._dropped
            or len(self._running) < self._at_once
        ):
            item = self._queue.popleft()
            job = self._jobs[item.entry.id]
            pipeline = Pipeline(bench, item.entry, job, resumed=item.resumed)
            self._running[job.id] = pipeline
            tasks.create_task(self._see_through(pipeline))

    async def _see_through(self, pipeline: Pipeline) -> None:
        job_id = pipeline.job.id
        try:
            if self.stopping or job_id in self._dropped:
                await pipeline.fail(cancelled())
            else:
                await pipeline.run()
        finally:
            self._jobs[job_id] = pipeline.job
            del self._running[job_id]
            self._moved.set()

    async def _hang_up(self, bench: Bench) -> None:
        if self.stopping and not bench.session.connected:  # it is still loading its model
            bench.session.kill()
        await bench.dial.close()
        await bench.session.close()
        self._session = None

    async def _tidy(self, session: Session) -> None:
        """Takes from the engine what an earlier conversation could not tell that it has ended."""
        with suppress(KnownError):  # the conversation has ended
            for place in (await session.places()).values():
                if place.job not in self._running and await self._has_ended(place.job):
                    if place.state == "ended":
                        await session.acknowledge(place.job, place.seq, ended=True)
                    else:
                        await session.send(Cancel(place.job))

    async def _has_ended(self, job: str) -> bool:
        try:
            return (await self._library.entry(job)).state in (JobState.DONE, JobState.FAILED)
        except KnownError:  # of another program's library
            return False

    # ── bookkeeping ─────────────────────────────────────────────────────────────────────────

    def _entry(self, path: Path, settings: JobSettings | None = None) -> Entry:
        """A new job for a recording, as the library will have it."""
        settings = replace(settings or self._settings, machine=self._machine.name)
        size_bytes = 0
        with suppress(OSError):  # whoever reads it says it better
            size_bytes = path.stat().st_size
        return Entry(uuid.uuid4().hex, path, settings, datetime.now(UTC), size_bytes)

    async def _left(self, wanted: Callable[[Entry], bool]) -> tuple[Entry, ...]:
        """Unfinished jobs that no program works on, the oldest first: they are this one's now."""
        query = Query(frozenset({JobState.WAITING, JobState.RUNNING}))
        unfinished = await self._library.entries(query)
        mine = [e for e in reversed(unfinished) if e.id not in self._jobs and wanted(e)]
        taken = self._claim(mine)
        return tuple(entry for entry in mine if entry.id in taken)

    async def _keep(self, entries: Sequence[Entry]) -> None:
        """Stores new jobs, all or none; no other program takes them."""
        if entries:
            self._claim(entries)
            await self._library.add(entries)

    def _claim(self, entries: Sequence[Entry]) -> frozenset[str]:
        ids = [entry.id for entry in entries]
        return frozenset(ids) if self._claims is None or not ids else self._claims.take(ids)

    def _job(self, entry: Entry) -> Job:
        """The job of an entry, with the next number for people."""
        if entry.id not in self._jobs:
            number = len(self._jobs) + 1
            self._jobs[entry.id] = Job(entry.id, entry.path, number=number, seq=entry.seq)
        return self._jobs[entry.id]

    def _enqueue(self, entries: Iterable[Entry], *, recovered: Iterable[Entry] = ()) -> None:
        ids = {entry.id for entry in recovered}
        self._queue.extend(_Waiting(entry, entry.id in ids) for entry in entries)
        self._moved.set()

    def _tell_added(
        self, jobs: tuple[Job, ...], recovered: Iterable[Entry] = (), found: Sequence[Found] = ()
    ) -> None:
        self._tell(JobsAdded(jobs))
        again = tuple(self._jobs[entry.id] for entry in recovered)
        if again:
            self._tell(Recovered(again))
        passed = tuple(item for item in found if isinstance(item, Passed))
        if passed:
            self._tell(FilesPassed(passed))

    async def _refuse(self, job: Job, error: KnownError) -> None:
        """Ends a job that cannot be a recording; nothing of it is worth keeping."""
        source = Source("path", str(job.path))
        self._tell(Wire(Transcribe(job.id, source, self._settings.options)))
        self._tell(Wire(Failed(job.id, 1, error.code, error.message, error.hint)))
        ended = job.failed(error)
        transcript = Transcript(job.path, error=error)
        self._tell(JobChanged(ended))
        self._tell(JobEnded(ended, transcript))
        await hand_out(self._desk, ended, transcript)

    def _tell(self, event: Event) -> None:
        if isinstance(event, JobChanged):
            self._jobs[event.job.id] = event.job
        for observer in self._observers:
            observer(event)


def _same(left: Entry, new: Entry | None) -> bool:
    """Whether a job that was left unfinished is what is asked for now."""
    return new is not None and left.settings == new.settings and left.size_bytes == new.size_bytes
