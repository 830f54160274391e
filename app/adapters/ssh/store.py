"""The store of blocks on a host, over channels of their own beside the conversation.

A channel is held up by its window and by the way to the host and back: a few at once, each with a
few blocks under way, fill the line. Blocks are written one after another all the same, so that on
a slow line the first does not arrive with the last.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import paramiko

from app.adapters.ssh.link import Session, lost, no_session
from app.adapters.ssh.stream import Stream
from app.adapters.ssh.threads import in_thread
from app.domain.engine_output import message_in
from app.domain.errors import from_failed
from remote import protocol
from remote.protocol import Failed, Have, Held, KnownError, Put, Stored, Up, WireError

LANES = 4
"""Channels at once; OpenSSH takes 2 MB on each before it must be read, and ten in all."""

DEPTH = 3
"""Questions under way on a channel. Measured at 200 Mbit/s and 80 ms with blocks of 0.5 MB, four
channels: 70 % of the line with one, 96 % with two; smaller blocks want three."""

SLOWEST_BYTES_S = 32_000
"""An uplink of 0.25 Mbit/s: what is written may be under way for so long before it is answered."""

Answers = Callable[[Up], bool]
"""Whether a message answers a question."""

log = logging.getLogger(__name__)


class SshStore:
    """Blocks on a host. It implements the port ``BlockStore``.

    Args:
        name: the host's, for sentences.
        command: what takes blocks there.
        lost_s: without an answer and without a byte written, after which the link is given up.
    """

    def __init__(self, name: str, command: str, *, lost_s: float) -> None:
        self._name = name
        self._command = command
        self._lost_s = lost_s
        self._pool: _Pool | None = None

    def changed(self, session: Session | None) -> None:
        """From now on, blocks go over this session; over none where None."""
        self._pool = None
        if session is not None:
            make = partial(_Lane, self._name, session, self._command)
            self._pool = _Pool(self._name, session, make, self._lost_s)

    async def have(self, blocks: Sequence[str]) -> frozenset[str]:
        """Those of these block ids that are there.

        Raises:
            KnownError: link-lost; host-unfit where the host allows no second session.
        """
        question = protocol.encode(Have(tuple(blocks)))
        answer = await self._ask(question, lambda item: isinstance(item, Held))
        return frozenset(answer.blocks) if isinstance(answer, Held) else frozenset()

    async def put(self, block: str, data: bytes) -> None:
        """Nothing; the block is there. Cancelling leaves it there whole or not at all.

        Raises:
            KnownError: link-lost; disk-full; wire where its bytes arrived damaged; host-unfit
                where the host allows no second session.
        """

        def answers(item: Up) -> bool:
            match item:
                case Stored(name) | Failed(job=name):
                    return name == block
            return False

        answer = await self._ask(protocol.encode(Put(block, len(data))) + data, answers)
        if isinstance(answer, Failed):
            raise from_failed(answer)

    async def _ask(self, question: bytes, answers: Answers) -> Up:
        if self._pool is None:
            raise lost(self._name)
        return await self._pool.ask(question, answers)


class _Pool:
    """The channels of one session."""

    def __init__(
        self, name: str, session: Session, make: Callable[[], "_Lane"], lost_s: float
    ) -> None:
        self._name = name
        self._session = session
        self._make = make
        self._lost_s = lost_s
        self._lanes = [make() for _ in range(LANES)]
        self._slots = asyncio.Semaphore(LANES * DEPTH)

    async def ask(self, question: bytes, answers: Answers) -> Up:
        """The answer to a question.

        Raises:
            KnownError: link-lost, or what keeps the host from taking blocks at all.
        """
        async with self._slots:
            lane = await self._ready(len(question))
            waiting = lane.ask(question, answers)
            try:
                return await self._answer(lane, waiting)
            finally:
                waiting.cancel()
                lane.leave(len(question))

    async def _ready(self, size: int) -> "_Lane":
        """The channel with the least to do, one that is open before one that is not."""
        while self._lanes:
            lane = min(self._lanes, key=lambda lane: (lane.asked, not lane.is_open))
            lane.enter(size)
            try:
                async with asyncio.timeout(self._lost_s):
                    await lane.open()
            except paramiko.ChannelException as error:  # the host allows no more at once
                lane.leave(size)
                log.info("%s allows no channel more: %s", self._name, error)
                if lane in self._lanes:
                    self._lanes.remove(lane)
            except (TimeoutError, OSError, EOFError, paramiko.SSHException) as error:
                lane.leave(size)
                raise lost(self._name) from error
            except BaseException:
                lane.leave(size)
                raise
            else:
                return lane
        raise no_session(self._name)

    async def _answer(self, lane: "_Lane", waiting: "asyncio.Future[Up]") -> Up:
        asked_s = time.monotonic()
        while True:
            done, _ = await asyncio.wait({waiting}, timeout=self._lost_s / 4)
            failed = done and waiting.exception() is not None
            if failed or (not done and self._stands_still(lane, asked_s)):
                self._replace(lane)
            if done:
                return waiting.result()
            if failed or lane not in self._lanes:
                raise lost(self._name)

    def _replace(self, lane: "_Lane") -> None:
        """A channel that is of no use any more makes room for a new one."""
        if lane in self._lanes:
            lane.close()
            self._lanes[self._lanes.index(lane)] = self._make()

    def _stands_still(self, lane: "_Lane", asked_s: float) -> bool:
        """Whether nothing is to be hoped for from this channel.

        Bytes that are written may lie in buffers for long, on a slow uplink; as long as the host
        is heard on the conversation itself, they are given the time that they need.
        """
        now_s = time.monotonic()
        still_s = now_s - max(lane.moved_s, asked_s)
        if now_s - self._session.heard_s() >= self._lost_s:
            return still_s >= self._lost_s
        under_way = sum(each.bytes for each in self._lanes)
        return still_s >= self._lost_s + under_way / SLOWEST_BYTES_S


class _Lane:
    """One channel: questions in their order, answers as they come."""

    def __init__(self, name: str, session: Session, command: str) -> None:
        self.asked = 0
        self.bytes = 0
        self._name = name
        self._session = session
        self._command = command
        self._stream: Stream | None = None
        self._opening = asyncio.Lock()
        self._waiting: list[tuple[Answers, asyncio.Future[Up]]] = []

    @property
    def is_open(self) -> bool:
        """Whether it need not be opened first."""
        return self._stream is not None

    @property
    def moved_s(self) -> float:
        """When it last took or gave a byte, by the monotonic clock."""
        return max(self._stream.heard_s, self._stream.written_s) if self._stream else 0.0

    def enter(self, size: int) -> None:
        """A question of so many bytes is going to be asked here."""
        self.asked += 1
        self.bytes += size

    def leave(self, size: int) -> None:
        """It is over, one way or another."""
        self.asked -= 1
        self.bytes -= size

    async def open(self) -> None:
        """The channel is there.

        Raises:
            paramiko.ChannelException: the host allows no more.
            OSError, EOFError, paramiko.SSHException: the connection has ended.
        """
        async with self._opening:
            if self._stream is None:
                execute = partial(self._session.connection.execute, self._command)
                channel = await in_thread(execute, undo=paramiko.Channel.close)
                note = partial(log.info, "%s: %s", self._name)
                self._stream = Stream(channel, self._take, note, turn=self._session.turn)

    def ask(self, question: bytes, answers: Answers) -> "asyncio.Future[Up]":
        """The answer, as soon as it comes; an error where none will.

        A question that nobody waits for any more is asked to its end, so that the next one is
        understood.
        """
        waiting: asyncio.Future[Up] = asyncio.get_running_loop().create_future()
        self._waiting.append((answers, waiting))
        if self._stream is not None:
            self._stream.write(question)
        return waiting

    def close(self) -> None:
        """Ends the channel; a block that has not arrived whole is dropped there."""
        if self._stream is not None:
            self._stream.close()

    def _take(self, line: bytes | KnownError | None) -> None:
        try:
            item = message_in(line) if isinstance(line, bytes) else line or lost(self._name)
        except WireError as error:
            item = error
        if isinstance(item, Failed) and not item.job:
            item = from_failed(item)
        if isinstance(item, KnownError):
            self._fail(item)
        elif item is not None:
            self._settle(item)

    def _settle(self, item: Up) -> None:
        for answers, waiting in self._waiting:
            if answers(item):
                self._waiting.remove((answers, waiting))
                if not waiting.done():  # cancelled
                    waiting.set_result(item)
                return

    def _fail(self, error: KnownError) -> None:
        for _, waiting in self._waiting:
            if not waiting.done():
                waiting.set_exception(error)
        self._waiting.clear()
