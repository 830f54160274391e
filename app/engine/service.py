"""The verbs of the client: add recordings, turn them into text, stop. Asyncio, without any face.

Observers are told everything as events; the window and the command line are both observers. One
bad file never stops the rest, and an engine that breaks off costs at most the job it had, which
is tried once more on a new engine. It must not know what an engine is made of.
"""

import asyncio
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from app.domain.errors import cancelled
from app.domain.events import (
    Delivered,
    DeliveryFailed,
    EngineLog,
    EngineLost,
    EngineReady,
    EngineUnavailable,
    Event,
    FilesPassed,
    JobChanged,
    JobEnded,
    JobsAdded,
    Silence,
    TextArrived,
    Wire,
)
from app.domain.intake import Accepted, Passed, Refused
from app.domain.jobs import Job, JobEvent, JobState
from app.domain.ports import Deliver, EngineLink, Gather, LinkFactory, Observer
from app.domain.transcript import Transcript, in_time_order
from remote.protocol import (
    Cancel,
    Done,
    ErrorCode,
    Failed,
    Hello,
    KnownError,
    Options,
    Progress,
    Segment,
    Segments,
    Source,
    Transcribe,
)

ATTEMPTS = 2
"""How many engines a job may break before it is given up."""

PATIENCE_S = 5.0
"""How long a cancelled job may take to end before its engine is killed."""

_WORTH_ANOTHER = (ErrorCode.ENGINE_DIED, ErrorCode.WIRE)

log = logging.getLogger(__name__)


class Service:
    """A batch of recordings and the engine that works on them, one after another.

    Args:
        connect: makes a link to an engine; asked again after one has broken off.
        gather: finds the recordings behind what a user named.
        options: for every recording of the batch.
        deliver: brings a finished transcript to where it belongs; None where nobody wants files.
        observers: are told every event.
        patience_s: see PATIENCE_S.
    """

    def __init__(
        self,
        connect: LinkFactory,
        gather: Gather,
        options: Options,
        *,
        deliver: Deliver | None = None,
        observers: Iterable[Observer] = (),
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._connect = connect
        self._gather = gather
        self._options = options
        self._deliver = deliver
        self._observers = tuple(observers)
        self._patience_s = patience_s
        self._jobs: dict[str, Job] = {}
        self._segments: dict[str, list[Segment]] = {}
        self._link: EngineLink | None = None
        self._hello: Hello | None = None
        self._cancelling: asyncio.Task[None] | None = None

    @property
    def jobs(self) -> tuple[Job, ...]:
        """Every job of the batch, in order."""
        return tuple(self._jobs.values())

    @property
    def stopping(self) -> bool:
        """Whether the batch has been cancelled."""
        return self._cancelling is not None

    def add(self, paths: Sequence[Path]) -> tuple[Job, ...]:
        """Adds files and whole folders; the new jobs. What cannot be a recording fails at once."""
        passed: list[Passed] = []
        added: list[Job] = []
        refused: list[tuple[Job, KnownError]] = []
        for found in self._gather(paths):
            match found:
                case Passed():
                    passed.append(found)
                case Accepted(path):
                    added.append(self._new_job(path))
                case Refused(path, error):
                    added.append(self._new_job(path))
                    refused.append((added[-1], error))
        self._tell(JobsAdded(tuple(added)))
        if passed:
            self._tell(FilesPassed(tuple(passed)))
        for job, error in refused:
            self._fail(job, error)
        return tuple(self._jobs[job.id] for job in added)

    async def run(self) -> tuple[Job, ...]:
        """Works until every job has ended; the jobs as they ended.

        Cancelling the coroutine ends the engine and leaves jobs as they are.
        """
        try:
            while (job := self._next()) is not None:
                try:
                    link = await self._engine()
                except KnownError as error:
                    self._give_up(error)
                    break
                try:
                    await self._converse(link, job)
                except KnownError as error:
                    await self._disconnect()
                    self._blame(self._jobs[job.id], error)
        finally:
            await self._disconnect()
        return self.jobs

    def cancel(self) -> None:
        """Stops the batch: waiting jobs end now, the running one within the patience."""
        if self._cancelling is None:
            self._cancelling = asyncio.create_task(self._stop())

    def abort(self) -> None:
        """Stops the batch at once, with whatever the engine has in hand."""
        self.cancel()
        if self._link is not None:
            self._link.kill()

    # ── one job ─────────────────────────────────────────────────────────────────────────────

    async def _converse(self, link: EngineLink, job: Job) -> None:
        """Gives the job to the engine and takes in what it says until the job has ended."""
        self._segments[job.id] = []
        self._change(job.started())
        request = self._request(job)
        self._tell(Wire(request))
        await link.send(request)
        while not self._jobs[job.id].ended:
            event = await link.receive()
            match event:
                case Silence() | EngineLog():
                    self._tell(event)
                case Progress() | Segments() | Done() | Failed() if event.job == job.id:
                    self._tell(Wire(event))
                    self._take_in(event)
                case _:
                    self._tell(Wire(event))

    def _take_in(self, event: JobEvent) -> None:
        before = self._jobs[event.job]
        job = before.after(event)
        if job is before:  # told twice
            return
        if isinstance(event, Segments):
            self._segments[job.id].extend(event.segments)
            self._jobs[job.id] = job
            self._tell(TextArrived(job, event.segments))
        elif job.ended:
            self._end(job)
        else:
            self._change(job)

    def _request(self, job: Job) -> Transcribe:
        return Transcribe(job.id, Source("path", str(job.path)), self._options)

    def _fail(self, job: Job, error: KnownError) -> None:
        """Ends a job that no engine ended, and says so in the words of the wire as well."""
        if job.attempt == 0:
            self._tell(Wire(self._request(job)))
        self._tell(Wire(Failed(job.id, job.seq + 1, error.code, error.message, error.hint)))
        self._end(job.failed(error))

    def _end(self, job: Job) -> None:
        """The end of a job: told first, delivered second."""
        self._change(job)
        segments = in_time_order(self._segments.pop(job.id, ()))
        transcript = Transcript(job.path, segments, job.summary, self._hello, job.error)
        self._tell(JobEnded(job, transcript))
        if self._deliver is None:
            return
        try:
            files = self._deliver(transcript)
        except KnownError as error:
            log.info("job %s: its text could not be written: %s", job.id, error.code)
            self._tell(DeliveryFailed(job, transcript, error))
        else:
            if files:
                self._tell(Delivered(job, files))

    # ── the engine ──────────────────────────────────────────────────────────────────────────

    async def _engine(self) -> EngineLink:
        """The link to an engine that is ready, started where there is none.

        Raises:
            KnownError: it cannot be started.
        """
        if self._link is not None:
            return self._link
        link = self._link = self._connect()
        await link.open()
        while not isinstance(event := await link.receive(), Hello):
            self._tell(event if isinstance(event, Silence | EngineLog) else Wire(event))
        log.info("engine ready: %s on %s, %s", event.model, event.device, event.dtype)
        self._hello = event
        self._tell(Wire(event))
        self._tell(EngineReady(event))
        return link

    async def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    def _blame(self, job: Job, error: KnownError) -> None:
        """What becomes of a job whose engine broke off."""
        if job.ended:
            return
        again = not self.stopping and error.code in _WORTH_ANOTHER and job.attempt < ATTEMPTS
        log.info("job %s: engine lost (%s), again: %s", job.id, error.code, again)
        if not self.stopping:
            self._tell(EngineLost(job, error, again))
        if again:
            self._change(job.waiting())
        else:
            self._fail(job, cancelled() if self.stopping else error)

    def _give_up(self, error: KnownError) -> None:
        if not self.stopping:
            self._tell(EngineUnavailable(error))
        for job in self._open_jobs():
            self._fail(job, cancelled() if self.stopping else error)

    async def _stop(self) -> None:
        running = [job for job in self._open_jobs() if job.state is JobState.RUNNING]
        for job in self._open_jobs():
            if job not in running:
                self._fail(job, cancelled())
        for job in running:
            if self._link is not None:
                self._tell(Wire(Cancel(job.id)))
                await self._link.send(Cancel(job.id))
        if running:
            await asyncio.sleep(self._patience_s)
        if self._link is not None:  # it is still loading its model, or does not listen
            self._link.kill()

    # ── bookkeeping ─────────────────────────────────────────────────────────────────────────

    def _new_job(self, path: Path) -> Job:
        job = Job(str(len(self._jobs) + 1), path)
        self._jobs[job.id] = job
        return job

    def _next(self) -> Job | None:
        return next(iter(self._open_jobs()), None)

    def _open_jobs(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.ended]

    def _change(self, job: Job) -> None:
        self._jobs[job.id] = job
        self._tell(JobChanged(job))

    def _tell(self, event: Event) -> None:
        for observer in self._observers:
            observer(event)
