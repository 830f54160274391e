"""The desk: jobs as recordings for the device, one model at a time.

Its thread holds the model and decodes. Jobs wait in the order in which they came; those for the
model that is loaded are opened (on threads of their own, as an address may keep one waiting) and
share the device. When the job that has waited longest wants another model, no more are taken up,
and once the device is free the models change places and the old one's memory is given back. Jobs
whose audio does not come are put aside for that.

It must not know about clients, journals' files or lines.
"""

import gc
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue

import torch

from remote.block_audio import BlockReader
from remote.blocks import BlockFolder
from remote.direct_transcribe import Engine, version
from remote.feed import Reader, open_source
from remote.job import Job
from remote.protocol import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    ErrorCode,
    Hello,
    KnownError,
    Summary,
    WireError,
)
from remote.recording import Recording, bug, cancelled
from remote.timing import StageClock

MOST_AT_WORK = 32
"""Recordings that are read side by side: each takes a thread and some megabytes."""

STALLED_S = 30.0
"""A job for which nothing has come or been done for so long does not count among them."""

MOST_TRACKS = 64
"""Tracks of a recording that comes as blocks: each is heard by itself, in memory of its own."""

log = logging.getLogger(__name__)


def _nothing() -> None:
    pass


class Desk:
    """Works on jobs; ``run`` is its thread.

    Args:
        open_model: opens a model by its name; may take minutes, and raises KnownError.
        blocks: where audio blocks are.
        model: to open at once, and for jobs that name none.
        changed: is told when another model, or none, is open.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        open_model: Callable[[str], Engine],
        blocks: BlockFolder,
        *,
        model: str,
        changed: Callable[[Hello], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_model = open_model
        self._blocks = blocks
        self._default = model
        self._model = ""
        self._changed = changed
        self._clock = clock
        self._engine: Engine | None = None
        self._waiting: deque[Job] = deque()
        self._at_work: dict[Job, Callable[[], None]] = {}  # what ends the wait for its blocks
        self._opened: SimpleQueue[Recording] = SimpleQueue()
        self._aside: set[Job] = set()
        self._news = threading.Condition()
        self._stopping = False
        self._worked_s = 0.0

    # ── for the worker ──────────────────────────────────────────────────────────────────────

    @property
    def hello(self) -> Hello:
        """Who works, with which model."""
        engine = self._engine
        if engine is not None:
            return engine.hello
        return Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR, version(), "", "", "", "", 0.0)

    def device_memory(self) -> tuple[int, int]:
        """Bytes in use on the device, and all there are; zeros on the CPU."""
        engine = self._engine
        if engine is None or engine.transcriber.model.device.type != "cuda":
            return 0, 0
        free, total = torch.cuda.mem_get_info(engine.transcriber.model.device)
        return total - free, total

    def worked_s(self) -> float:
        """Seconds that the device has worked so far."""
        return self._worked_s

    def take(self, job: Job) -> None:
        """The job waits for its turn."""
        with self._news:
            if job not in self._waiting and job not in self._at_work:
                self._waiting.append(job)
        self._wake()

    def drop(self, job: Job) -> None:
        """The job was cancelled: it ends now, or where the device next looks at it."""
        with self._news:
            if job in self._waiting:
                self._waiting.remove(job)
        if not job.running:
            job.fail(cancelled())
        self._wake()

    def stop(self) -> None:
        """``run`` returns once what is at work has ended or been cancelled."""
        with self._news:
            self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with self._news:
            self._news.notify_all()
        if self._engine is not None:
            self._engine.transcriber.wake.set()

    # ── the thread ──────────────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Opens the first model and works on jobs until it is stopped.

        Raises:
            KnownError: the device has no memory for anything.
        """
        self._change_model(self._default)
        while (model := self._next_model()) is not None:
            if self._engine is None or model != self._model:
                self._change_model(model)
            if self._engine is not None:
                self._engine.transcriber.run(self)

    def open_first(self) -> None:
        """Opens the first model now, on the calling thread, before ``run``.

        Raises:
            KnownError: it cannot be opened.
        """
        self._engine = self._open_model(self._default)
        self._model = self._default

    def _next_model(self) -> str | None:
        """The model that the next job wants, once there is one; None when stopped."""
        with self._news:
            self._news.wait_for(lambda: self._waiting or self._stopping)
            return self._wanted(self._waiting[0]) if self._waiting else None

    def _wanted(self, job: Job) -> str:
        return job.journal.request.model or self._model or self._default

    def _change_model(self, model: str) -> None:
        """Another model is open, or none where that fails, and the jobs that want it have too."""
        if model == self._model and self._engine is not None:
            return
        self._close_model()
        try:
            self._engine = self._open_model(model)
        except KnownError as error:
            log.warning("%s cannot be opened: %s", model, error)
            self._refuse(model, error)
            return
        except Exception as error:  # one bad model must not take the others' jobs with it
            log.exception("%s cannot be opened: a bug", model)
            self._refuse(model, bug(error))
            return
        self._model = model
        self._changed(self.hello)

    def _close_model(self) -> None:
        if self._engine is None:
            return
        cuda = self._engine.transcriber.model.device.type == "cuda"
        self._engine, self._model = None, ""
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
        self._changed(self.hello)

    def _refuse(self, model: str, error: KnownError) -> None:
        with self._news:
            refused = [job for job in self._waiting if self._wanted(job) == model]
            self._waiting = deque(job for job in self._waiting if job not in refused)
        for job in refused:
            job.fail(error)

    # ── the inbox of the transcriber ────────────────────────────────────────────────────────

    @property
    def open(self) -> bool:
        """Whether recordings for this model may still come."""
        with self._news:
            if self._at_work:
                return True
            if self._waiting:
                return self._wanted(self._waiting[0]) == self._model
            return not self._stopping

    def next(self) -> Recording | None:
        """The next recording that has been opened."""
        while (job := self._next_job()) is not None:
            # A daemon: an address that does not answer must not keep the process from ending.
            threading.Thread(target=self._open_job, args=(job,), name="opener", daemon=True).start()
        try:
            return self._opened.get_nowait()
        except Empty:
            return None

    def worked(self, seconds: float) -> None:
        """Counts the device's time."""
        self._worked_s += seconds

    def _next_job(self) -> Job | None:
        """The job that has waited longest, if it may be taken up now."""
        with self._news:
            if not self._waiting:
                return None
            head = self._waiting[0]
            moving = [job for job in self._at_work if job.moved_s > self._clock() - STALLED_S]
            if self._wanted(head) != self._model:
                if not moving and not any(job.whole for job in self._at_work):
                    self._aside |= self._at_work.keys()
                return None
            alone = head.suspect or any(job.suspect for job in moving)
            if len(moving) >= (1 if alone else MOST_AT_WORK):
                return None
            self._at_work[head] = _nothing
            return self._waiting.popleft()

    def _open_job(self, job: Job) -> None:
        """Opens a job's recording; on a thread of its own."""
        try:
            job.moved()
            self._opened.put(self._recording(job))
        except KnownError as error:
            self._ended(job, error)
        except Exception as error:  # one bad job must not take the others with it
            log.exception("job %s: a bug", job.name)
            self._ended(job, bug(error))
        self._wake()

    def _recording(self, job: Job) -> Recording:
        if self._engine is None:
            raise AssertionError("a job was taken up without a model")
        transcriber, options = self._engine.transcriber, job.journal.request.options
        transcriber.language_of(options)  # refused before anything is opened
        clock = transcriber.clock()
        feed = transcriber.feed(self._reader(job, clock), options, clock)
        job.begin()
        feed.__enter__()
        return transcriber.recording(
            feed, options, job, clock,
            past=job.journal.past,
            ended=partial(self._ended, job),
            cancelled=lambda: job.cancelled.is_set() or job in self._aside,
        )  # fmt: skip

    def _reader(self, job: Job, clock: StageClock) -> Reader:
        request = job.journal.request
        if request.source.kind != "blocks":
            return open_source(request.source, request.options, clock)
        if request.source.tracks > MOST_TRACKS:
            raise WireError(f"A recording of {request.source.tracks} tracks cannot be heard.")
        reader = BlockReader(request.source, job.journal.audio, self._blocks, job.lacks)
        with self._news:
            self._at_work[job] = reader.close
        return reader

    def _ended(self, job: Job, outcome: Summary | KnownError) -> None:
        if job in self._aside and not job.cancelled.is_set() and _is_cancelled(outcome):
            self._put_aside(job)
            return
        self._leave(job)
        if isinstance(outcome, Summary):
            self._done(job, outcome)
        else:
            job.fail(outcome)
        log.info("job %s: ended", job.name)

    def _leave(self, job: Job) -> None:
        with self._news:
            release = self._at_work.pop(job, _nothing)
            self._aside.discard(job)
        release()

    def _put_aside(self, job: Job) -> None:
        """The job is taken again when something comes for it, or has come meanwhile."""
        log.info("job %s: put aside until there is more of it", job.name)
        job.pause()
        self._leave(job)
        job.taken = False
        if job.moved_s > self._clock() - STALLED_S:
            job.taken = True
            self.take(job)

    def _done(self, job: Job, summary: Summary) -> None:
        try:
            job.done(summary)
        except ValueError as error:  # a number that the wire cannot hold
            log.exception("job %s: a bug", job.name)
            job.fail(bug(error))


def _is_cancelled(outcome: Summary | KnownError) -> bool:
    return isinstance(outcome, KnownError) and outcome.code is ErrorCode.CANCELLED
