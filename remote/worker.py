"""The engine's end of the wire: jobs come down, numbered events go up, one job at a time.

It must not know how audio becomes text (it is handed a function) nor what carries the lines (it
is handed lines and a way to send one). What it promises to the other end: Hello is the first
line; the events of a job are numbered from 1 without a hole; each accepted job ends with exactly
one Done or Failed; a Heartbeat comes every two seconds whatever the job does.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol

from remote import protocol
from remote.protocol import (
    Cancel,
    Done,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    KnownError,
    Message,
    Options,
    Ping,
    Progress,
    Segment,
    Segments,
    Source,
    Summary,
    Transcribe,
    WireError,
)
from remote.timing import peak_memory_bytes

if TYPE_CHECKING:
    from remote.transcriber import Sink

BEAT_S = 2.0
"""Seconds between heartbeats: a client that hears none for 20 s may say so."""

PROGRESS_INTERVAL_S = 0.1
"""At most ten Progress messages per second: no display shows more."""

_CHUNK_BYTES = 64 * 1024

log = logging.getLogger(__name__)


class TranscribeFunction(Protocol):
    """Turns one source into segments, told to the sink as they finish, and a summary.

    It raises KnownError for what the user can act on, and looks at ``cancelled`` often enough
    that a job stops within a batch.
    """

    def __call__(
        self, source: Source, options: Options, sink: "Sink", cancelled: Callable[[], bool], /
    ) -> Summary:
        """The summary of the finished job."""


class Worker:
    """One conversation with one client, over any pair of byte streams.

    Args:
        transcribe: does the work; called in the thread of ``run``, one job after another.
        hello: the first message of the conversation.
        send: writes one line; called by one thread at a time; an OSError means nobody listens.
        beat_s: seconds between heartbeats.
        clock: seconds that never go back.
        device_memory: bytes in use on the device.
    """

    def __init__(
        self,
        transcribe: TranscribeFunction,
        hello: Hello,
        send: Callable[[bytes], None],
        *,
        beat_s: float = BEAT_S,
        clock: Callable[[], float] = time.monotonic,
        device_memory: Callable[[], int] = lambda: 0,
    ) -> None:
        self._transcribe = transcribe
        self._hello = hello
        self._send = send
        self._beat_s = beat_s
        self._clock = clock
        self._device_memory = device_memory
        self._jobs: dict[str, _Job] = {}  # accepted and unfinished, by name
        self._queue: SimpleQueue[_Job | None] = SimpleQueue()
        self._jobs_lock = threading.Lock()
        self._send_lock = threading.Lock()
        self._hung_up = threading.Event()
        self._ended = threading.Event()
        self._unknown_types: set[str] = set()

    def run(self, lines: Iterator[bytes]) -> None:
        """Serves the conversation to its end.

        It ends when ``lines`` ends and every accepted job is finished, or, with all jobs
        cancelled, as soon as a line cannot be sent. ``lines`` is read in a daemon thread: after a
        broken output that thread may stay blocked in its read until the process ends.
        """
        self._post(self._hello)
        threading.Thread(target=self._read, args=(lines,), name="reader", daemon=True).start()
        beat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        beat.start()
        try:
            while (job := self._queue.get()) is not None and not self._hung_up.is_set():
                self._work(job)
        finally:
            self._ended.set()
            beat.join()

    # ── up ──────────────────────────────────────────────────────────────────────────────────

    def _post(self, message: Message) -> None:
        line = protocol.encode(message)
        try:
            with self._send_lock:
                if not self._hung_up.is_set():
                    self._send(line)
        except OSError as error:
            log.warning("nobody listens any more (%s): cancelling everything", error)
            self._hang_up()

    def _hang_up(self) -> None:
        self._hung_up.set()
        with self._jobs_lock:
            for job in self._jobs.values():
                job.cancelled.set()
        self._queue.put(None)

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_s):
            self._post(self._heartbeat())

    def _heartbeat(self) -> Heartbeat:
        with self._jobs_lock:
            jobs = len(self._jobs)
        return Heartbeat(jobs, peak_memory_bytes(), self._device_memory())

    # ── down ────────────────────────────────────────────────────────────────────────────────

    def _read(self, lines: Iterator[bytes]) -> None:
        try:
            for line in lines:
                self._read_line(line)
        except (OSError, WireError) as error:
            log.warning("the input broke off (%s): finishing what was asked", error)
        finally:
            self._queue.put(None)

    def _read_line(self, line: bytes) -> None:
        try:
            message = protocol.decode(line)
        except WireError as error:
            log.warning("skipped a line: %s", error)
            return
        match message:
            case Transcribe():
                self._accept(message)
            case Cancel(job):
                self._cancel(job)
            case Ping():
                self._post(self._heartbeat())
            case _:
                self._log_once(json.loads(line)["type"])

    def _log_once(self, kind: str) -> None:
        if kind not in self._unknown_types:
            self._unknown_types.add(kind)
            log.warning("messages of type %.40r are not for this engine: skipped", kind)

    def _accept(self, request: Transcribe) -> None:
        job = _Job(request, self._post, self._clock)
        with self._jobs_lock:
            if request.job in self._jobs:
                log.warning("job %s was asked for twice: the second is skipped", request.job)
                return
            self._jobs[request.job] = job
        self._queue.put(job)

    def _cancel(self, name: str) -> None:
        with self._jobs_lock:
            job = self._jobs.get(name)
            if job is None:
                return
            job.cancelled.set()
            started = job.started
            if not started:
                del self._jobs[name]
        if not started:
            job.fail(_cancelled())

    # ── the work ────────────────────────────────────────────────────────────────────────────

    def _work(self, job: "_Job") -> None:
        with self._jobs_lock:
            if job.cancelled.is_set():  # while it waited: its end has been told
                return
            job.started = True
        name = job.request.job
        log.info("job %s: started", name)
        try:
            self._transcribe_job(job)
        finally:
            with self._jobs_lock:
                self._jobs.pop(name, None)
        log.info("job %s: ended", name)

    def _transcribe_job(self, job: "_Job") -> None:
        request = job.request
        try:
            summary = self._transcribe(request.source, request.options, job, job.cancelled.is_set)
            if job.cancelled.is_set():  # whatever it returned may be half of the file
                job.fail(_cancelled())
            else:
                job.done(summary)
        except KnownError as error:
            job.fail(error)
        except MemoryError:
            job.fail(_out_of_memory())
        except Exception as error:  # one bad job must not take the others with it
            log.exception("job %s: a bug", request.job)
            job.fail(_bug(error))


class _Job:
    """One accepted job: numbers its own events, and is the sink they are told to."""

    def __init__(
        self, request: Transcribe, post: Callable[[Message], None], clock: Callable[[], float]
    ) -> None:
        self.request = request
        self.cancelled = threading.Event()
        self.started = False
        self._post = post
        self._clock = clock
        self._lock = threading.Lock()
        self._seq = 0
        self._ended = False
        self._stages: set[str] = set()
        self._next_progress_s = -float("inf")

    def progress(self, stage: str, done_ms: int, total_ms: int | None) -> None:
        """Tells how far the job is, unless that was told a moment ago.

        The first of each stage is always sent, so that a slow stage is named while it runs.
        """
        now = self._clock()
        if stage in self._stages and now < self._next_progress_s:
            return
        self._stages.add(stage)
        self._next_progress_s = now + PROGRESS_INTERVAL_S
        self._number(partial(Progress, stage=stage, done_ms=done_ms, total_ms=total_ms))

    def segments(self, segments: tuple[Segment, ...]) -> None:
        """Tells finished text; nothing is sent for no segments."""
        if segments:
            self._number(partial(Segments, segments=segments))

    def done(self, summary: Summary) -> None:
        """Ends the job as complete."""
        self._number(partial(Done, summary=summary), last=True)

    def fail(self, error: KnownError) -> None:
        """Ends the job without a complete transcript."""
        self._number(
            partial(Failed, code=error.code, message=error.message, hint=error.hint), last=True
        )

    def _number(self, event: Callable[[str, int], Message], *, last: bool = False) -> None:
        # Sent under the lock, so that the order on the wire is the order of the numbers. A
        # message that cannot be encoded raises before its number is spent.
        with self._lock:
            if self._ended:
                return
            self._post(event(self.request.job, self._seq + 1))
            self._seq += 1
            self._ended = last


def _cancelled() -> KnownError:
    return KnownError(ErrorCode.CANCELLED, "The transcription was cancelled.")


def _out_of_memory() -> KnownError:
    return KnownError(
        ErrorCode.OUT_OF_MEMORY,
        "The machine has too little memory for this recording.",
        "Close other programs or choose a smaller model.",
    )


def _bug(error: Exception) -> KnownError:
    return KnownError(
        ErrorCode.BUG,
        f"The engine has a bug: {type(error).__name__}: {error}.",
        "Please report it with the log.",
    )


def take_stdio() -> tuple[Iterator[bytes], Callable[[bytes], None]]:
    """Standard input as lines, and a function that sends a line to standard output.

    From then on standard output belongs to the wire alone: what any library prints goes to
    standard error instead. Both ends are bare descriptors, because a thread that is blocked in
    a buffered ``sys.stdin`` would keep the interpreter from ending.
    """
    sys.stdout.flush()
    up = os.dup(1)
    os.dup2(2, 1)

    def send(line: bytes) -> None:
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(up, rest) :]

    return protocol.lines(iter(partial(os.read, 0, _CHUNK_BYTES), b"")), send
