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
from typing import Literal, Protocol

from remote.journal import DEADLY_BEGINS, Event, Journal
from remote.protocol import (
    Blocks,
    Done,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    JobPlace,
    Jobs,
    KnownError,
    Message,
    Missing,
    Note,
    Progress,
    Segment,
    Segments,
    Summary,
    Transcribe,
    WireError,
)
from remote.sink import Settled, Sink
from remote.spool import Spool
from remote.timing import peak_memory_bytes

BEAT_S = 2.0
"""Seconds between heartbeats: a client that hears none for a while may say so."""

PROGRESS_INTERVAL_S = 0.1
"""At most ten Progress messages per second and job: no display shows more."""

log = logging.getLogger(__name__)


class Desk(Protocol):
    """What turns jobs into text: takes any number, works on them side by side on its thread."""

    def take(self, job: "Job") -> None:
        """The job is to be worked on; it is told what becomes of it. Never blocks for long."""

    def drop(self, job: "Job") -> None:
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


class Job(Sink):
    """One accepted job: its journal, and the sink that the desk tells what becomes of it.

    Args:
        journal: of the job.
        changed: called after anything has happened to it.
        clock: seconds that never go back.
    """

    def __init__(
        self, journal: Journal, changed: Callable[["Job"], None], clock: Callable[[], float]
    ) -> None:
        self.journal = journal
        self.cancelled = threading.Event()
        self.running = False
        self.taken = False
        self.missing: tuple[str, ...] = ()
        self.moved_s = clock()
        self._changed = changed
        self._clock = clock
        self._began_s = clock()
        self._stages: set[str] = set()
        self._next_progress_s = -float("inf")

    @property
    def name(self) -> str:
        """As its client chose it."""
        return self.journal.request.job

    @property
    def place(self) -> JobPlace:
        """Where it is, for whoever asks."""
        state: Literal["waiting", "running", "ended"] = "running" if self.running else "waiting"
        if self.journal.ended:
            state = "ended"
        return JobPlace(self.name, state, self.journal.seq, len(self.journal.audio.blocks))

    def begin(self) -> None:
        """It is taken up; it has not moved yet."""
        self.running = True
        self._began_s = self._clock()
        self.journal.begin()

    def progress(self, stage: str, done_ms: int, total_ms: int | None) -> None:
        """Tells how far the job is, unless that was told a moment ago.

        The first of each stage is always sent, so that a slow stage is named while it runs.
        """
        now = self._clock()
        if stage in self._stages and now < self._next_progress_s:
            return
        self._stages.add(stage)
        self._next_progress_s = now + PROGRESS_INTERVAL_S
        self._tell(lambda seq: Progress(self.name, seq, stage, done_ms, total_ms))

    def segments(self, segments: tuple[Segment, ...]) -> None:
        """Tells finished text; nothing is sent for no segments."""
        if segments:
            self._tell(lambda seq: Segments(self.name, seq, segments))

    def settled(self, part: Settled) -> None:
        """Notes a part that need not be decoded again."""
        self.journal.settle(part, self._clock() - self._began_s)
        self.moved()

    def language(self, code: str, probability: float) -> None:
        """Notes the language."""
        self.journal.heard(code, probability)

    def done(self, summary: Summary) -> None:
        """Ends the job as complete."""
        self._tell(lambda seq: Done(self.name, seq, summary))

    def fail(self, error: KnownError) -> None:
        """Ends the job without a complete transcript."""
        self._tell(lambda seq: Failed(self.name, seq, error.code, error.message, error.hint))

    def lacks(self, blocks: tuple[str, ...]) -> None:
        """Blocks of it are not in the store: its client is to send them again."""
        self.missing = blocks
        self._changed(self)

    def moved(self) -> None:
        """Something was done for it, or came for it."""
        self.moved_s = self._clock()

    def _tell(self, event: Callable[[int], Event]) -> None:
        self.journal.tell(event)
        self._changed(self)


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
            for listener in self._listeners:
                listener.wake()
                if job.missing:
                    listener.post(Missing(job.name, job.missing))
            job.missing = ()
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
            if not job.taken and not job.journal.ended:
                self._take(job)
            return job.journal

    def add_blocks(self, message: Blocks) -> None:
        """Blocks of a job are in the store."""
        job = self.job(message.job)
        if job is None or job.journal.ended:
            return
        try:
            job.journal.add_blocks(message)
        except WireError as error:
            log.warning("job %s: %s", message.job, error)
            return
        job.moved()

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
            for journal in self.spool.sweep([job.journal for job in self._jobs.values()]):
                self._forget(by_journal[id(journal)])

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

    def cancel_all(self) -> None:
        """Stops every job."""
        for job in self.open_jobs:
            self.cancel(job.name)

    def wait_until_quiet(self, timeout_s: float | None = None) -> bool:
        """Waits until every job has ended; whether that is so."""
        with self._quiet:
            return self._quiet.wait_for(lambda: not self.open_jobs, timeout_s)

    # ── the heart ───────────────────────────────────────────────────────────────────────────

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
