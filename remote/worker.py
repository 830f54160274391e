"""The engine's end of the wire: jobs come down, numbered events go up, all jobs share the device.

Any number of conversations with clients go on at once; a job belongs to none of them. What
happens to it is written into its journal first and told second, to whoever asked for it, so that
a client that lost its connection, or an engine that died, goes on where it was. What it promises:
Hello is the first line; the events of a job are numbered from 1 without a hole; each accepted job
ends with exactly one Done or Failed; a Heartbeat comes every two seconds whatever the jobs do.

It must not know how audio becomes text (it is handed a desk that does it) nor what carries the
lines.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from remote.job import Job
from remote.journal import DEADLY_BEGINS, Journal
from remote.protocol import (
    Blocks,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    Jobs,
    KnownError,
    Message,
    Missing,
    Note,
    Transcribe,
    WireError,
)
from remote.spool import Spool
from remote.timing import peak_memory_bytes

BEAT_S = 2.0
"""Seconds between heartbeats: a client that hears none for a while may say so."""

log = logging.getLogger(__name__)


class Desk(Protocol):
    """What turns jobs into text: takes any number, works on them side by side on its thread."""

    def take(self, job: Job) -> None:
        """The job is to be worked on; it is told what becomes of it. Never blocks for long."""

    def drop(self, job: Job) -> None:
        """The job was cancelled: it ends soon. Never blocks for long."""

    @property
    def hello(self) -> Hello:
        """Who works, with which model."""

    def device_memory(self) -> tuple[int, int]:
        """Bytes in use on the device, and all there are; zeros on the CPU."""

    def worked_s(self) -> float:
        """Seconds that the device has worked so far."""


class Listener(Protocol):
    """A conversation, as the worker sees it."""

    def post(self, message: Message) -> None:
        """Sends a message soon; never blocks."""

    def wake(self) -> None:
        """Jobs have new events; never blocks."""


class Worker:
    """All jobs of one engine.

    Args:
        desk: makes the text.
        spool: keeps the journals and the audio.
        clock: seconds that never go back.
    """

    def __init__(
        self, desk: Desk, spool: Spool, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.spool = spool
        self.stopping = threading.Event()
        self._desk = desk
        self._clock = clock
        self._jobs: dict[str, Job] = {}
        self._listeners: list[Listener] = []
        self._lock = threading.RLock()
        self._quiet = threading.Condition(self._lock)
        self._moved_s = clock()
        self._beaten = (clock(), 0.0)
        self._told_full = False

    def recover(self, *, begin: bool = True) -> None:
        """Takes up the jobs from before; where not ``begin``, each once a client asks for it."""
        for journal in self.spool.recover():
            job = Job(journal, self._changed, self._clock)
            with self._lock:
                self._jobs[job.name] = job
            if journal.ended:
                continue
            if journal.begins >= DEADLY_BEGINS:
                job.fail(_deadly())
            elif begin:
                self._take(job)

    def _take(self, job: Job) -> None:
        job.taken = True
        self._desk.take(job)

    # ── conversations ───────────────────────────────────────────────────────────────────────

    def join(self, listener: Listener) -> None:
        """The listener is told what concerns all: Hello first."""
        with self._lock:
            listener.post(self._desk.hello)
            self._listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """The listener is told nothing more."""
        with self._lock:
            if listener in self._listeners:
                self._listeners.remove(listener)

    def announce(self, message: Message) -> None:
        """Tells every listener."""
        with self._lock:
            for listener in self._listeners:
                listener.post(message)

    def _changed(self, job: Job) -> None:
        with self._lock:
            asks, job.asks = job.asks, False
            for listener in self._listeners:
                listener.wake()
                if asks:
                    listener.post(Missing(job.name, job.missing))
            self._quiet.notify_all()
        if job.journal.ended:
            self.spool.drop_audio(job.journal, [j.journal for j in self.open_jobs])

    # ── what clients ask ────────────────────────────────────────────────────────────────────

    def accept(self, request: Transcribe) -> Journal | Failed:
        """The journal of the job: a new one, or that of a job which is here already."""
        with self._lock:
            job = self._jobs.get(request.job)
            if job is None:
                if request.after > 0:
                    return _unknown(request.job)
                try:
                    journal = self.spool.create(request)
                except OSError as error:
                    return _no_room(request.job, error)
                job = self._jobs[request.job] = Job(journal, self._changed, self._clock)
                log.info("job %s: accepted", request.job)
            elif request.after > job.journal.seq:
                return _unknown(request.job)  # what the client has of it was lost here
            if not job.taken and not job.journal.ended:
                self._take(job)
            return job.journal

    def add_blocks(self, message: Blocks) -> None:
        """Blocks of a job are in the store."""
        job = self.job(message.job)
        if job is None or job.journal.ended:
            return
        missing, told = job.missing, {block.id for block in message.blocks}
        job.missing = tuple(block for block in missing if block not in told)
        try:
            job.journal.add_blocks(message)
        except WireError as error:
            job.missing = missing
            log.warning("job %s: %s", message.job, error)
            return
        job.moved()
        with self._lock:
            if not job.taken and not job.journal.ended:
                self._take(job)

    def missing(self, name: str) -> Missing | None:
        """What a job waits for that was told before and is lost, if anything."""
        job = self.job(name)
        lacks = job is not None and not job.journal.ended and job.missing
        return Missing(name, lacks) if lacks else None

    def cancel(self, name: str) -> None:
        """Stops a job; unknown and ended ones are left alone."""
        job = self.job(name)
        if job is None or job.journal.ended:
            return
        job.cancelled.set()
        self._desk.drop(job)

    def acknowledge(self, name: str, seq: int) -> None:
        """A client has stored what was told of a job: one that has ended is forgotten."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None or not job.journal.ended or seq < job.journal.seq:
                return
            self._forget(job)

    def _forget(self, job: Job) -> None:
        with self._lock:
            self._moved_s = max(self._moved_s, job.moved_s)
            del self._jobs[job.name]
            self.spool.forget(job.journal, [j.journal for j in self._jobs.values()])

    def sweep(self) -> None:
        """Removes what nobody fetches."""
        with self._lock:
            by_journal = {id(job.journal): job for job in self._jobs.values()}
            going = self.spool.sweep([job.journal for job in self._jobs.values()])
            for journal in going:
                if journal.ended:
                    self._forget(by_journal[id(journal)])
        for journal in going:
            self.cancel(journal.request.job)  # those that had not ended

    def job(self, name: str) -> Job | None:
        """The job of this name."""
        with self._lock:
            return self._jobs.get(name)

    def jobs(self) -> Jobs:
        """All jobs, for whoever asks."""
        with self._lock:
            return Jobs(tuple(job.place for job in self._jobs.values()))

    @property
    def open_jobs(self) -> list[Job]:
        """Jobs that have not ended."""
        with self._lock:
            return [job for job in self._jobs.values() if not job.journal.ended]

    def wait_until_quiet(self, *, audio: bool = True) -> None:
        """Waits until every job has ended that was asked for.

        Args:
            audio: whether more may come; else jobs that lack some are not waited for.
        """

        def quiet() -> bool:
            return not any(job.taken and (audio or job.whole) for job in self.open_jobs)

        with self._quiet:
            self._quiet.wait_for(quiet)

    def pause(self) -> None:
        """Notes that the engine ends in order, with whatever jobs it has at work."""
        for job in self.open_jobs:
            if job.running:
                with suppress(OSError):  # of a full disk: it then counts as a death
                    job.pause()

    # ── the heart ───────────────────────────────────────────────────────────────────────────

    def moved(self) -> None:
        """Something is being done that is no job's."""
        with self._lock:
            self._moved_s = self._clock()

    def idle_s(self) -> float:
        """Seconds since any job last moved on: work that stands still is no work."""
        with self._lock:
            moved = [job.moved_s for job in self._jobs.values()]
            self._moved_s = max([self._moved_s, *moved])
            return self._clock() - self._moved_s

    def heartbeat(self) -> Heartbeat:
        """How the engine is."""
        open_jobs = self.open_jobs
        used, total = self._desk.device_memory()
        return Heartbeat(
            jobs=len(open_jobs),
            memory_bytes=peak_memory_bytes(),
            device_memory_bytes=used,
            queued=sum(not job.running for job in open_jobs),
            device_memory_total_bytes=total,
            utilisation=self._utilisation(),
            model=self._desk.hello.model,
            idle_s=round(self.idle_s(), 1),
        )

    def _utilisation(self) -> float:
        now, worked = self._clock(), self._desk.worked_s()
        with self._lock:
            (before, worked_before), self._beaten = self._beaten, (now, worked)
        return round(min(1.0, (worked - worked_before) / max(now - before, 1e-3)), 3)

    def beat(self, every_s: float = BEAT_S) -> None:
        """Tells every listener how the engine is, until it stops."""
        while not self.stopping.wait(every_s):
            self.announce(self.heartbeat())
            full = any(job.journal.full for job in self.open_jobs)
            if full and not self._told_full:
                self.announce(Note("The machine's disk is full: work goes on when there is room."))
            self._told_full = full


def _unknown(job: str) -> Failed:
    return Failed(
        job, 0, ErrorCode.NOT_FOUND, "The engine does not know this job.", "Send it again."
    )


def _no_room(job: str, error: OSError) -> Failed:
    return Failed(
        job, 0, ErrorCode.DISK_FULL,
        f"The machine cannot take the job: {(error.strerror or str(error)).lower()}.",
        "Free space on its disk.",
    )  # fmt: skip


def _deadly() -> KnownError:
    return KnownError(
        ErrorCode.ENGINE_DIED,
        f"The engine died {DEADLY_BEGINS} times over this recording without getting anywhere.",
        "Try another model, or report it with the recording.",
    )
