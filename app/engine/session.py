"""A standing conversation with the engine of one machine, shared by all jobs.

It opens a link, keeps what the engine last said of itself, and hands each event of a job to
whoever follows that job. When the link breaks, every follower is told why, once. It must not try
again by itself, nor know what an event means to a job.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

from app.domain.errors import from_failed
from app.domain.events import EngineLog, EngineReady, LinkEvent, Silence, Wire
from app.domain.jobs import JobEvent
from app.domain.ports import EngineLink, Machine, Observer
from remote.protocol import (
    Acknowledge,
    Blocks,
    Done,
    Down,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    JobPlace,
    Jobs,
    KnownError,
    List,
    Missing,
    Note,
    Ping,
    Progress,
    Segments,
)

Spawn = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]
"""Starts a task whose bugs somebody hears of."""

_BOOKKEEPING = (Acknowledge, Blocks, Jobs, List)
"""Between the two ends alone: no news to an observer."""

log = logging.getLogger(__name__)


class Feed:
    """The events of one job, for as long as the conversation lasts."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[JobEvent | Missing | KnownError] = asyncio.Queue()

    async def next(self) -> JobEvent | Missing:
        """The next event. Cancelling loses nothing.

        Raises:
            KnownError: the conversation has ended; the feed gives nothing more.
        """
        item = await self._arrived.get()
        if isinstance(item, KnownError):
            self._arrived.put_nowait(item)
            raise item
        return item

    async def batch(self, patience_s: float) -> list[JobEvent | Missing]:
        """The next event and all that have come by then; progress waits a while for text.

        Raises:
            KnownError: as ``next``; what had come is told again in the next conversation.
        """
        events = [await self.next()]
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while isinstance(events[-1], Progress):
                    events.append(await self.next())
        while not self._arrived.empty():
            item = self._arrived.get_nowait()
            if isinstance(item, KnownError):
                self._arrived.put_nowait(item)
                break
            events.append(item)
        return events

    def put(self, item: JobEvent | Missing | KnownError) -> None:
        """Adds what has come."""
        self._arrived.put_nowait(item)


class Session:
    """A conversation, made again by ``connect`` each time it has broken off.

    Args:
        machine: where the engine is.
        tell: is told what the engine says that is no event of a job, and of silence.
        spawn: runs the reader; an error of an observer comes out there.
    """

    def __init__(self, machine: Machine, tell: Observer, spawn: Spawn) -> None:
        self._machine = machine
        self._tell = tell
        self._spawn = spawn
        self._link: EngineLink | None = None  # also one that is being opened
        self._reader: asyncio.Task[None] | None = None
        self._feeds: dict[str, Feed] = {}
        self._places: list[asyncio.Future[tuple[JobPlace, ...]]] = []
        self._ended: dict[str, int] = {}  # jobs, with the number of their last event
        self._broken: KnownError | None = None  # by us
        self._ready: Hello | None = None  # the last that was told to be ready
        self.connected = False
        self.hello: Hello | None = None
        self.heartbeat: Heartbeat | None = None
        self.lost: KnownError | None = None
        """Why the last conversation ended."""

    async def connect(self) -> None:
        """Opens a new conversation, where there is none, up to its Hello.

        Raises:
            KnownError: there is nobody to talk to; nothing was left running.
        """
        if self.connected:
            return
        await self._let_go()
        async with AsyncExitStack() as undo:
            link = self._link = self._machine.link()
            undo.push_async_callback(self._drop, link)
            await link.open()
            while not isinstance(event := await link.receive(), Hello):
                self._note(event)
            self._note(event)
            undo.pop_all()
        self.connected, self._broken = True, None
        self._reader = self._spawn(self._read(link))
        for job, seq in tuple(self._ended.items()):  # the last line of a link may be lost with it
            await link.send(Acknowledge(job, seq))

    def follow(self, job: str) -> Feed:
        """What the engine will say of a job in this conversation; the last who asks gets it."""
        feed = Feed()
        if self.connected:
            self._feeds[job] = feed
        else:
            feed.put(self._why_not())
        return feed

    async def send(self, message: Down) -> None:
        """Sends one message; what a broken link does not take, its followers hear of."""
        link = self._link
        if not self.connected or link is None:
            return
        if not isinstance(message, _BOOKKEEPING):
            self._tell(Wire(message))
        await link.send(message)

    async def acknowledge(self, job: str, seq: int, *, ended: bool) -> None:
        """Tells that a job's events are stored; of an ended job also after a loss of the link."""
        if ended:
            self._ended[job] = seq
        await self.send(Acknowledge(job, seq))

    async def places(self) -> dict[str, JobPlace]:
        """The engine's jobs, by name.

        Raises:
            KnownError: the conversation has ended.
        """
        answer: asyncio.Future[tuple[JobPlace, ...]] = asyncio.get_running_loop().create_future()
        if not self.connected:
            raise self._why_not()
        self._places.append(answer)
        await self.send(List())
        return {place.job: place for place in await answer}

    def _why_not(self) -> KnownError:
        return self.lost or KnownError(ErrorCode.LINK_LOST, "The engine is not connected.")

    def break_off(self, error: KnownError) -> None:
        """Ends the conversation, as if it had broken with this error."""
        if self._link is not None:
            self._broken = error
            self._link.kill()

    def kill(self) -> None:
        """Ends the conversation at once, also one that is being opened."""
        if self._link is not None:
            self._link.kill()

    async def close(self) -> None:
        """Ends the conversation and leaves nothing running. Idempotent."""
        if self._reader is not None:
            self._reader.cancel()
        await self._let_go()
        self._end(KnownError(ErrorCode.LINK_LOST, "The engine has been left."))
        link = self._link
        if link is not None:
            await self._drop(link)

    # ── reading ─────────────────────────────────────────────────────────────────────────────

    async def _read(self, link: EngineLink) -> None:
        try:
            while True:
                event = await link.receive()
                if isinstance(event, Failed) and not event.job:
                    raise from_failed(event)  # the engine itself cannot go on
                self._dispatch(event)
                if isinstance(event, Silence):
                    await self.send(Ping())
        except KnownError as error:
            log.info("the conversation has ended: %s", error.code)
            self._end(self._broken or error)
        finally:
            self.connected = False
            await self._drop(link)

    def _dispatch(self, event: LinkEvent) -> None:
        match event:
            case Progress() | Segments() | Done() | Failed() | Missing():
                feed = self._feeds.get(event.job)
                if feed is not None:  # else it is late, or another client's
                    feed.put(event)
            case _:
                self._note(event)

    def _note(self, event: LinkEvent) -> None:
        """Takes in what is not about one job."""
        match event:
            case Silence() | EngineLog():
                self._tell(event)
                return
            case Hello():
                self.hello = event
            case Heartbeat():
                self.heartbeat = event
            case Note(text):
                self._tell(EngineLog(text))
            case Jobs(jobs):
                waiting, self._places = self._places, []
                for answer in waiting:
                    if not answer.done():
                        answer.set_result(jobs)
            case _:
                pass
        if not isinstance(event, _BOOKKEEPING):
            self._tell(Wire(event))
        if isinstance(event, Hello) and event.model and event != self._ready:
            log.info("engine ready: %s on %s, %s", event.model, event.device, event.dtype)
            self._ready = event
            self._tell(EngineReady(event))

    def _end(self, error: KnownError) -> None:
        """The end of a conversation: told to all who wait for something of it."""
        self.connected, self.lost = False, error
        feeds, self._feeds = self._feeds, {}
        waiting, self._places = self._places, []
        for feed in feeds.values():
            feed.put(error)
        for answer in waiting:
            if not answer.done():
                answer.set_exception(error)

    async def _drop(self, link: EngineLink) -> None:
        """Closes a link; the next may be opened then."""
        try:
            await link.close()
        finally:
            if self._link is link:
                self._link = None

    async def _let_go(self) -> None:
        """Waits until the reader of the last conversation has closed its link."""
        reader, self._reader = self._reader, None
        if reader is not None:
            await asyncio.wait([reader])
