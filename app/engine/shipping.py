"""Shipping: a recording goes to the engine's machine as blocks, while it is still being cut.

Cutting runs on a thread, a bounded number of blocks ahead; several blocks travel at once; the
engine is told of them in order, as soon as there is no hole before them. A shipment that breaks
off goes on where it was. It must not decide whether to try again.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from app.domain.blocks import Codec, CodedBlock
from app.domain.ports import Cut, Media
from app.engine.patience import together
from app.engine.session import Session
from app.engine.uplink import AHEAD, Uplink, now_s
from remote.protocol import Block, Blocks, ErrorCode, KnownError, Source

ASKED_AT_ONCE = 16
"""Blocks in one question whether they are there."""


class Cutting:
    """A recording that is cut on a thread, one block at a time."""

    def __init__(self, cut: Cut) -> None:
        self.cut = cut
        self._blocks = iter(cut)
        self._coming: asyncio.Future[CodedBlock | None] | None = None

    async def next(self) -> CodedBlock | None:
        """The next block, None after the last. Cancelling loses nothing: the next call gives it.

        Raises:
            KnownError: reading broke off.
        """
        if self._coming is None:
            self._coming = asyncio.ensure_future(asyncio.to_thread(next, self._blocks, None))
        coded = await asyncio.shield(self._coming)
        self._coming = None
        return coded

    async def close(self) -> None:
        """Lets go of the file, once the thread has left it."""
        if self._coming is not None:
            await asyncio.gather(self._coming, return_exceptions=True)
        await asyncio.to_thread(self.cut.close)


class Shipment:
    """One recording on its way.

    Args:
        job: whose it is.
        path: of the recording.
        split: channels are kept apart.
        media: cuts it.
        uplink: carries it.
        moved: is called after each block that has arrived.
    """

    def __init__(
        self,
        job: str,
        path: Path,
        *,
        split: bool,
        media: Media,
        uplink: Uplink,
        moved: Callable[["Shipment"], None],
    ) -> None:
        self._job = job
        self._path = path
        self._split = split
        self._media = media
        self._uplink = uplink
        self._moved = moved
        self._cutting: Cutting | None = None
        self._blocks: list[Block] = []  # all that were cut
        self._codecs: list[Codec] = []
        self._travelling: dict[int, CodedBlock] = {}  # cut, and not known to be there
        self._ended = False  # the last block has been cut
        self._base = 0  # what is before it, the engine has from another shipment
        self._told = 0
        self._closed = False  # the engine knows that no more blocks follow
        self._missing: set[str] = set()
        self._session: Session | None = None
        self._telling = asyncio.Lock()
        self._change = asyncio.Event()
        self._flying = 0
        self._took_off_s = 0.0
        self.ask = False
        """Whether blocks may be there already, so that asking is worth a round trip."""
        self.sent_bytes = 0
        self.upload_s = 0.0

    async def open(self) -> Source:
        """Opens the recording; what to tell the engine of it.

        Raises:
            KnownError: it cannot be read.
        """
        if self._cutting is None:
            self._cutting = Cutting(await self._open(self._uplink.codec))
        cut = self._cutting.cut
        return Source("blocks", self._path.name, cut.duration_ms, cut.tracks)

    async def close(self) -> None:
        """Lets go of the recording."""
        if self._cutting is not None:
            await self._cutting.close()

    async def _open(self, codec: Callable[[], Codec]) -> Cut:
        return await asyncio.to_thread(self._media.cut, self._path, split=self._split, codec=codec)

    @property
    def sent_ms(self) -> int:
        """Milliseconds of audio up to the first block that is not there."""
        return sum(block.samples for block in self._blocks[: self._front]) // 16

    @property
    def total_ms(self) -> int | None:
        """Length of the recording, as far as its file announces it."""
        return self._cutting.cut.duration_ms if self._cutting is not None else None

    @property
    def complete(self) -> bool:
        """Whether every block is there and the engine knows it."""
        return self._closed

    def skip(self, blocks: int) -> None:
        """The engine has so many blocks already, from a program before this one."""
        self._base = self._told = blocks

    @property
    def skipped(self) -> int:
        """Blocks that the engine has from a program before this one."""
        return self._base

    # ── telling the engine ──────────────────────────────────────────────────────────────────

    async def attach(self, session: Session) -> None:
        """From now on the engine is told of blocks: it has just been given the job."""
        async with self._telling:
            self._session = session
            self._told = self._base
            self._closed = False
        await self._tell()

    def detach(self) -> None:
        """The conversation has ended; blocks travel on as far as they can."""
        self._session = None

    def missing(self, blocks: Sequence[str]) -> None:
        """The engine has lost these blocks: ``run`` brings them again."""
        self._missing.update(blocks)
        self._change.set()

    async def _tell(self) -> None:
        """Tells the engine of all blocks that have arrived without a hole before them."""
        async with self._telling:
            session, first, front = self._session, self._told, self._front
            whole = self._ended and front == len(self._blocks)
            if session is None or self._closed or (front <= first and not whole):
                return
            blocks = tuple(self._blocks[first:front])
            warnings = self._cutting.cut.warnings if whole and self._cutting is not None else ()
            await session.send(Blocks(self._job, first, blocks, whole, warnings))
            if self._session is session:
                self._told, self._closed = max(first, front), whole

    @property
    def _front(self) -> int:
        """Number of the first block that is not known to be there."""
        return min(self._travelling, default=len(self._blocks))

    # ── cutting and sending ─────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Brings every block to the store. Called again, it goes on where it broke off.

        Cancelling loses nothing but what was travelling.

        Raises:
            KnownError: link-lost or disk-full of the machine, or the recording cannot be read on.
        """
        async with together() as tasks:
            search = tasks.create_task(self._find_again())
            await self._put_all(tasks, sorted(self._travelling), ask=True)
            while (number := await self._next()) is not None:
                group = [number, *await self._more()] if self.ask else [number]
                await self._put_all(tasks, group, ask=self.ask)
            while self._travelling or self._missing:
                await self._changed()
            await self._tell()
            search.cancel()
        self._moved(self)

    async def wanted(self) -> None:
        """Nothing, once the engine misses blocks."""
        while not self._missing:
            await self._changed()

    async def _next(self) -> int | None:
        """Cuts one more block, once there is room for it; its number, None after the last."""
        while len(self._travelling) >= self._room:
            await self._changed()
        if self._ended or self._cutting is None:
            return None
        coded = await self._cutting.next()
        if coded is None:
            self._ended = True
            return None
        number = len(self._blocks)
        self._blocks.append(coded.block)
        self._codecs.append(coded.codec)
        if number >= self._base:
            self._travelling[number] = coded
        return number

    @property
    def _room(self) -> int:
        """Blocks that may be cut and not there yet."""
        return AHEAD if self.ask else self._uplink.ahead

    async def _more(self) -> list[int]:
        """More blocks to ask for in one question, as far as there is room for them."""
        group: list[int] = []
        while len(group) < ASKED_AT_ONCE - 1 and len(self._travelling) < self._room:
            number = await self._next()
            if number is None:
                break
            group.append(number)
        return group

    async def _put_all(
        self, tasks: asyncio.TaskGroup, numbers: Sequence[int], *, ask: bool
    ) -> None:
        """Sends these blocks off; those that are there already need no journey."""
        wanted = {n: self._travelling[n] for n in numbers if n in self._travelling}
        held: frozenset[str] = frozenset()
        if ask and wanted:
            held = await self._uplink.store.have([coded.block.id for coded in wanted.values()])
            self.ask = self.ask and bool(held)
        for number, coded in wanted.items():
            if coded.block.id in held:
                self._arrived(number)
            else:
                tasks.create_task(self._put(number, coded))
        if held:
            await self._tell()

    async def _put(self, number: int, coded: CodedBlock) -> None:
        await self._carry(coded)
        self._arrived(number)
        await self._tell()
        self._moved(self)

    async def _carry(self, coded: CodedBlock) -> None:
        """One put, with its seconds and bytes counted."""
        if self._flying == 0:
            self._took_off_s = now_s()
        self._flying += 1
        try:
            await self._uplink.put(coded)
        finally:
            self._flying -= 1
            if self._flying == 0:
                self.upload_s += now_s() - self._took_off_s
        self.sent_bytes += len(coded.data)

    def _arrived(self, number: int) -> None:
        self._travelling.pop(number, None)
        self._change.set()

    async def _changed(self) -> None:
        self._change.clear()
        await self._change.wait()

    # ── blocks that the engine has lost ─────────────────────────────────────────────────────

    async def _find_again(self) -> None:
        """Brings what the engine misses, for as long as the shipment runs."""
        while True:
            await self.wanted()
            sought = frozenset(self._missing)
            for codecs in (tuple(self._codecs), (Codec.FLAC,), (Codec.OPUS,)):
                if codecs and sought & self._missing:
                    await self._search(sought, codecs)
            if sought & self._missing:
                raise KnownError(
                    ErrorCode.FILE_VANISHED,
                    f"{self._path.name} has changed while it was being sent.",
                    "Transcribe it again.",
                )

    async def _search(self, sought: frozenset[str], codecs: Sequence[Codec]) -> None:
        """Cuts the recording once more, in these codecs, and brings the blocks that are sought."""
        turn = count()
        cutting = Cutting(await self._open(lambda: codecs[min(next(turn), len(codecs) - 1)]))
        try:
            for number in count():
                coded = await cutting.next() if sought & self._missing else None
                if coded is None:
                    return
                if coded.block.id in self._missing:
                    await self._carry(coded)
                    await self._tell_again(number, coded.block)
                    self._missing.discard(coded.block.id)
                    self._change.set()
        finally:
            await cutting.close()

    async def _tell_again(self, number: int, block: Block) -> None:
        session = self._session
        if session is not None:
            last = self._ended and number == len(self._blocks) - 1
            await session.send(Blocks(self._job, number, (block,), complete=last))
