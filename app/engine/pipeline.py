"""One job on its way from a file to a delivered transcript.

The place that decides what is tried again. An event is stored first, told second and acknowledged
third, so that whatever breaks, and whenever, no text is lost and none is doubled.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from app.domain.errors import cancelled, from_failed
from app.domain.events import AlreadyDone, EngineLost, TextArrived, Uploading, Wire
from app.domain.history import Entry, Query
from app.domain.jobs import UPLOAD, Job, JobEvent, JobState
from app.domain.ports import Media
from app.engine.dial import DEATHS, Dial, died, out_of_reach
from app.engine.gate import Gate
from app.engine.patience import Backoff, patient, together
from app.engine.record import Desk, Record
from app.engine.session import Session, Spawn
from app.engine.shipping import Shipment
from app.engine.uplink import Uplink, now_s
from remote.protocol import (
    Cancel,
    ErrorCode,
    Failed,
    KnownError,
    Missing,
    Segments,
    Source,
    Transcribe,
    WireError,
)

PROGRESS_S = 1.0
"""Progress is stored with the next text, or after so long: it is worth no transaction alone."""

SUSPECT = 2
"""After so many deaths of the engine a job goes on alone."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bench:
    """What all jobs of a service share.

    Args:
        desk: where they are kept and told.
        session, dial, gate: the engine, the way to it, and who may be with it.
        spawn: runs what nobody waits for.
        media: reads recordings; None where nothing can.
        uplink: to the machine's store; None where the engine reads the files itself.
        uploads: how many recordings travel at once.
        reading: how many are fingerprinted at once.
    """

    desk: Desk
    session: Session
    dial: Dial
    gate: Gate
    spawn: Spawn
    media: Media | None
    uplink: Uplink | None
    uploads: asyncio.Semaphore
    reading: asyncio.Semaphore


class Pipeline:
    """Brings one job to its end.

    Args:
        bench: see there.
        entry: the job as the library has it.
        job: the job as observers see it.
        resumed: it goes on where another program left it.
    """

    def __init__(self, bench: Bench, entry: Entry, job: Job, *, resumed: bool = False) -> None:
        self._bench = bench
        self._record = Record(bench.desk, entry, job)
        self._resumed = resumed
        self._source = Source("path", str(job.path))
        self._freight: Shipment | None = None
        self._shipping: asyncio.Task[None] | None = None
        self._backoff = Backoff()  # of shipping
        self._tasks = asyncio.TaskGroup()  # of _run
        self._work: asyncio.Task[None] | None = None
        self._engaged = False  # the engine has the job, and we hear it
        self._most = 0  # segments that ever were stored
        self._deaths = 0  # of engines, since there was new text

    @property
    def job(self) -> Job:
        """The job as it is now."""
        return self._record.job

    async def run(self) -> None:
        """Works until the job has ended. Cancelling leaves it to go on another time.

        Raises:
            KnownError: the library cannot be written, so that nothing can be promised.
        """
        work = self._work = asyncio.create_task(self._run())
        try:
            await asyncio.wait([work])
        finally:
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
        if work.cancelled():  # by ``abandon``
            await self.fail(cancelled())
        else:
            work.result()

    def stop(self) -> None:
        """Stops the job in order: the engine is asked to, where it has it."""
        if self._record.hurried or self.job.ended:
            return
        self._record.hurried = True
        if self._engaged:
            self._bench.spawn(self._bench.session.send(Cancel(self.job.id)))
        else:
            self.abandon()

    def abandon(self) -> None:
        """Stops the job at once; what the engine has in hand is lost."""
        self._record.hurried = True
        if self._work is not None and not self.job.ended:
            self._work.cancel()

    async def fail(self, error: KnownError) -> None:
        """Ends a job that no engine ended, in the words of the wire as well."""
        if self.job.ended:
            return
        if self.job.attempt:
            await self._bench.session.send(Cancel(self.job.id))
        else:
            self._bench.desk.tell(Wire(self._request()))
        await self._record.fail(error)

    # ── the whole way ───────────────────────────────────────────────────────────────────────

    async def _run(self) -> None:
        began_s = now_s()
        try:
            async with together() as self._tasks:
                reading = self._tasks.create_task(self._fingerprint())
                if self._bench.uplink is not None:
                    await self._load()
                await self._until_ended(began_s)
                if self._shipping is not None:
                    self._shipping.cancel()
                if self._record.hurried:
                    reading.cancel()
        except KnownError as error:  # of the recording: the engine's are dealt with
            await self.fail(error)
        finally:
            if self._freight is not None:
                await self._freight.close()

    async def _until_ended(self, began_s: float) -> None:
        bench = self._bench
        while not self.job.ended:
            try:
                await bench.dial.connected()
                async with bench.gate.inside(alone=self._deaths >= SUSPECT) as share:
                    await bench.dial.connected()
                    if self.job.attempt == 0:
                        await self._record.took({"wait": now_s() - began_s})
                    await self._converse(share)
            except KnownError as error:
                await self._broken(error)

    async def _broken(self, error: KnownError) -> None:
        """What becomes of the job when the conversation, or the hope of one, has ended."""
        bench = self._bench
        if self._record.hurried:
            await self.fail(cancelled())
        elif error is bench.dial.hopeless:
            await self.fail(error)
        elif out_of_reach(error):
            self._record.change(self.job.waiting())
        elif died(error):
            self._deaths += 1
            again = self._deaths < DEATHS
            log.info("job %s: engine lost (%s), again: %s", self.job.id, error.code, again)
            bench.desk.tell(EngineLost(self.job, error, again))
            if again:
                self._record.change(self.job.waiting())
            else:
                await self.fail(error)
        else:
            bench.dial.give_up(error)
            await self.fail(error)

    # ── the engine ──────────────────────────────────────────────────────────────────────────

    async def _converse(self, share: Callable[[], None]) -> None:
        """Gives the job to the engine and takes in what it says, until the job has ended.

        Raises:
            KnownError: the conversation has ended before.
        """
        feed = self._bench.session.follow(self.job.id)
        try:
            await self._give()
            while not self.job.ended:
                await self._take_in(await feed.batch(PROGRESS_S))
                if self._record.heard > self._most:  # whoever gives new text kills no engine
                    self._most, self._deaths = self._record.heard, 0
                    share()
        finally:
            self._engaged = False
            if self._freight is not None:
                self._freight.detach()

    def _request(self) -> Transcribe:
        settings = self._record.entry.settings
        return Transcribe(
            self.job.id, self._source, settings.options, settings.engine.model, self.job.seq
        )

    async def _give(self) -> None:
        """Tells the engine of the job, and of the audio that is there."""
        session, first = self._bench.session, self.job.attempt == 0
        sending = self._freight is not None and await self._look_up(self._freight)
        await self._record.given(session.hello)
        self._engaged = True
        await session.send(self._request())
        if first:
            await self._tell_again()
        if self._freight is not None and sending:
            await self._freight.attach(session)
            if self._shipping is None:
                self._shipping = self._tasks.create_task(self._ship(self._freight))

    async def _tell_again(self) -> None:
        """Tells the text that a program before this one has stored, as one message."""
        segments = await self._record.recall()
        self._most = len(segments)
        if segments:
            self._bench.desk.tell(Wire(Segments(self.job.id, self.job.seq, segments)))
            self._bench.desk.tell(TextArrived(self.job, segments))

    async def _take_in(self, events: Sequence[JobEvent | Missing]) -> None:
        """Takes in some events, up to a hole in their numbers."""
        fresh: list[JobEvent] = []
        job = self.job
        refusal: Failed | None = None
        hole: WireError | None = None
        for event in events:
            if isinstance(event, Missing):
                self._look_again(event)
            elif isinstance(event, Failed) and event.seq == 0:
                refusal = event
                break
            else:
                try:
                    after = job.after(event)
                except WireError as error:
                    hole = error
                    break
                if after is not job:  # else it was told twice
                    fresh.append(event)
                    job = after
        if fresh:
            await self._store(fresh, ended=job.ended)
        if refusal is not None:
            await self._refused(refusal)
        elif hole is not None:
            self._bench.session.break_off(hole)
            raise hole

    async def _store(self, fresh: Sequence[JobEvent], *, ended: bool) -> None:
        """Stores events, tells them, then acknowledges them."""
        bench = self._bench
        if ended:
            await self._measured()
        await self._record.store(fresh)
        bench.dial.fruitful()
        await bench.session.acknowledge(self.job.id, self.job.seq, ended=ended)
        if ended:
            await self._record.end()

    async def _measured(self) -> None:
        """Keeps what was measured here."""
        engine = self._bench.session.hello
        if self._freight is None:
            await self._record.update(engine=engine)
            return
        upload_s = self._record.entry.stages.get(UPLOAD, 0.0) + self._freight.upload_s
        sent_bytes = self._sent_bytes(self._freight)
        await self._record.took({UPLOAD: upload_s}, engine=engine, sent_bytes=sent_bytes)

    async def _refused(self, refusal: Failed) -> None:
        """The engine does not know the job any more, or will not have it at all."""
        if refusal.code is ErrorCode.DISK_FULL:  # of the machine: there may be room again
            await self._record.pause(from_failed(refusal), self._backoff())
            await self._give()
            return
        if refusal.code is not ErrorCode.NOT_FOUND or self.job.seq == 0:
            await self.fail(from_failed(refusal))
            return
        await self._record.start_over()
        if self._freight is not None and (self._freight.skipped or self._shipping is None):
            await self._load_again(self._freight)
        await self._give()

    # ── audio ───────────────────────────────────────────────────────────────────────────────

    async def _load(self) -> None:
        """Opens the recording, to be sent."""
        bench = self._bench
        if bench.media is None or bench.uplink is None:
            raise KnownError(ErrorCode.BUG, "Nothing here can read recordings.")
        self._freight = Shipment(
            self.job.id,
            self.job.path,
            split=self._record.entry.settings.options.channels == "split",
            media=bench.media,
            uplink=bench.uplink,
            moved=self._moved,
        )
        self._freight.ask = self._resumed
        self._source = await self._freight.open()

    async def _load_again(self, before: Shipment) -> None:
        """Begins the shipment anew: the engine has forgotten what it had."""
        if self._shipping is not None:
            self._shipping.cancel()
            await asyncio.wait([self._shipping])
        await before.close()
        await self._load()
        self._resumed, self._shipping = False, None

    async def _look_up(self, freight: Shipment) -> bool:
        """Whether audio is to be sent: not what the engine has from a program before this one."""
        if self._resumed and self._shipping is None:
            place = (await self._bench.session.places()).get(self.job.id)
            if place is not None and place.state == "ended":
                return False
            freight.skip(place.blocks if place is not None else 0)
        return True

    async def _ship(self, freight: Shipment) -> None:
        """Sends the audio, and whatever of it the engine loses."""
        bench = self._bench
        while True:
            async for attempt in patient(
                self._may_ship, self._backoff, self._delayed, bench.desk.give_up_after_s
            ):
                with attempt:
                    await bench.dial.connected()
                    async with bench.uploads:
                        await freight.run()
            await freight.wanted()

    def _may_ship(self, error: KnownError) -> bool:
        passes = out_of_reach(error) or error.code is ErrorCode.DISK_FULL
        return passes and error is not self._bench.dial.hopeless

    def _delayed(self, error: KnownError, tries: int, wait_s: float) -> None:
        if not out_of_reach(error):  # a lost link is told by who dials
            self._record.delayed(error, tries, wait_s)

    def _sent_bytes(self, freight: Shipment) -> int:
        return self._record.entry.sent_bytes + freight.sent_bytes

    def _moved(self, freight: Shipment) -> None:
        self._backoff.reset()
        if self.job.ended or self._bench.uplink is None:
            return
        self._record.change(self.job.sent(freight.sent_ms, freight.total_ms))
        sent_bytes, mbits = self._sent_bytes(freight), self._bench.uplink.mbits
        self._bench.desk.tell(Uploading(self.job, sent_bytes, mbits, freight.complete))

    def _look_again(self, missing: Missing) -> None:
        if self._freight is not None:
            log.info("job %s: %d blocks are to be sent again", self.job.id, len(missing.blocks))
            self._freight.missing(missing.blocks)

    async def _fingerprint(self) -> None:
        """Keeps the content of the file, and tells where it was transcribed before."""
        bench, media, library = self._bench, self._bench.media, self._bench.desk.library
        content = self._record.entry.content
        if media is not None and not content:
            with suppress(KnownError):  # whoever transcribes the file says it better
                async with bench.reading:
                    content = await asyncio.to_thread(media.fingerprint, self.job.path)
            if content:
                await self._record.update(content=content)
        if not content:
            return
        done = await library.entries(Query(frozenset({JobState.DONE}), content))
        before = [entry for entry in done if entry.id != self.job.id]
        if before and not self.job.ended:
            bench.desk.tell(AlreadyDone(self.job, before[0]))
