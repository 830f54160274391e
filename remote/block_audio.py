"""A recording that comes as blocks, as the samples that its file would have given.

In a block's file the tracks lie one after another, each as long as the others: its first
``samples`` samples count, what a codec adds behind them does not. So any number of channels fits
into the plainest form of any codec, and none is heard in another.

It must not talk to the client: it says which block is missing, and waits for it.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from remote.audio import AudioInfo, AudioReader
from remote.audio_mixer import SAMPLE_RATE, Int16
from remote.blocks import BlockFolder
from remote.protocol import Block, ErrorCode, KnownError, Source, WireError

MAX_BLOCK_S = 600.0
"""A block is held in memory as a whole."""

_ADDED_S = 1.0
"""The most that a codec may add to a track."""

_PIECES = 2
"""A block comes in one piece, or, from a resampler that rounds up, in one and a sample."""

_AHEAD = 3
"""Blocks decoded side by side: Opus goes at 500 to 900 times real time on one core."""


class BlockMissing(KnownError):  # noqa: N818  (a state to mend, not the end of a job)
    """A block that is not in the store, or was damaged there and removed: put it once more.

    Args:
        block: its name.
        name: of the recording.
    """

    def __init__(self, block: str, name: str) -> None:
        super().__init__(
            ErrorCode.NOT_FOUND,
            f"A part of {name} is no longer on the engine's machine.",
            "Transcribe it again.",
        )
        self.block = block


class BlockList:
    """The blocks of one recording, in order, as they become known. Any thread may use it."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._told: list[int] = []  # how often each was told
        self._warnings: tuple[str, ...] = ()
        self._complete = False
        self._closed = False
        self._changed = threading.Condition()

    def add(
        self,
        first: int,
        blocks: Sequence[Block],
        *,
        complete: bool = False,
        warnings: tuple[str, ...] = (),
    ) -> None:
        """Takes in blocks; a block that is told again takes the place of what was told before.

        Args:
            first: number of the first of them.
            blocks: one after another.
            complete: whether the recording ends with them; once said it stays.
            warnings: sentences on the recording.

        Raises:
            WireError: there is a hole before them, a block is of an impossible length or of
                another one than before, or the recording has ended; nothing was taken in.
        """
        with self._changed:
            self._check(first, blocks, complete)
            for number, block in enumerate(blocks, first):
                if number == len(self._blocks):
                    self._blocks.append(block)
                    self._told.append(0)
                self._blocks[number] = block
                self._told[number] += 1
            self._complete = self._complete or complete
            self._warnings = warnings or self._warnings
            self._changed.notify_all()

    def _check(self, first: int, blocks: Sequence[Block], complete: bool) -> None:
        known, end = len(self._blocks), first + len(blocks)
        if not 0 <= first <= known:
            raise WireError(f"Blocks from {first} on were told, but {known} are known.")
        if (self._complete and end > known) or (complete and end < known):
            raise WireError("Blocks were told beyond the end of the recording.")
        for before, block in zip(self._blocks[first:], blocks, strict=False):
            if before.samples != block.samples:
                raise WireError("A block was told again with another length.")
        if not all(0 < block.samples <= MAX_BLOCK_S * SAMPLE_RATE for block in blocks):
            raise WireError("A block is empty or too long.")

    def get(self, number: int, give_up: Callable[[], bool]) -> tuple[Block, int] | None:
        """Block ``number`` and how often it was told; None where the recording ends before it.

        Waits for it, until ``close`` or until ``give_up`` says True, which is asked again at each
        change and ``wake``; None then, too.
        """
        return self._wait(number, 0, give_up)

    def known(self, number: int) -> list[tuple[Block, int]]:
        """The known blocks from this number on, and how often each was told."""
        with self._changed:
            return list(zip(self._blocks[number:], self._told[number:], strict=True))

    def again(self, number: int, told: int, give_up: Callable[[], bool]) -> None:
        """Waits likewise until block ``number`` was told more often than that."""
        self._wait(number, told, give_up)

    def _wait(
        self, number: int, told: int, give_up: Callable[[], bool]
    ) -> tuple[Block, int] | None:
        def known() -> bool:
            return number < len(self._blocks) and self._told[number] > told

        def ended() -> bool:
            return self._complete and number >= len(self._blocks)

        with self._changed:
            self._changed.wait_for(lambda: known() or ended() or self._closed or give_up())
            return (self._blocks[number], self._told[number]) if known() else None

    def close(self) -> None:
        """The recording is not wanted any more: nobody waits any longer."""
        self._closed = True
        self.wake()

    def wake(self) -> None:
        """Whoever waits asks again whether to give up."""
        with self._changed:
            self._changed.notify_all()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Those that are known."""
        with self._changed:
            return tuple(self._blocks)

    @property
    def closed(self) -> bool:
        """Whether the recording is not wanted any more."""
        return self._closed

    @property
    def complete(self) -> bool:
        """Whether no more follow."""
        return self._complete

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user."""
        return self._warnings


class BlockReader:
    """A recording out of its blocks, as ``remote.feed`` reads it.

    ``close`` is to be called where the recording is not wanted any more: it may be waiting.

    Args:
        source: of kind "blocks".
        blocks: of the recording, as they become known.
        folder: where they lie.
        ask: is told the blocks that are missing, all at once, on the reading thread; the reader
            then waits until the first is told again. Without it the iteration ends with
            BlockMissing.

    Raises:
        WireError: the source has no tracks.
    """

    def __init__(
        self,
        source: Source,
        blocks: BlockList,
        folder: BlockFolder,
        ask: Callable[[tuple[str, ...]], None] | None = None,
    ) -> None:
        if source.tracks < 1:
            raise WireError(f"A recording of {source.tracks} tracks cannot be heard.")
        self.tracks = source.tracks
        self.info = AudioInfo(source.duration_ms, source.tracks, SAMPLE_RATE, "blocks", "blocks")
        self.waited_s = 0.0
        self._name = source.value
        self._blocks = blocks
        self._folder = folder
        self._ask = ask
        self._closed = False
        self._asked: dict[int, int] = {}  # block number: how often it was told when it was missing
        self._next = 0  # number of the first block that was not given yet

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user; complete after the iteration."""
        return self._blocks.warnings

    def close(self) -> None:
        """Ends an iteration that waits, from any thread; more often than once is harmless."""
        self._closed = True
        self._blocks.wake()

    def __iter__(self) -> Iterator[Int16]:
        """The blocks: int16 [tracks, n], 16 kHz; iterated again, those that were not given yet.

        Raises:
            BlockMissing: see ``ask``; the block may be put, and the iteration begun again.
            KnownError: audio-damaged where a block cannot be decoded though it is as it was sent;
                cancelled after ``close``. Blocks given out before stay valid.
        """
        ahead: deque[tuple[int, Future[Int16]]] = deque()
        pool = ThreadPoolExecutor(min(_AHEAD, os.cpu_count() or 1), "blocks")
        try:
            while self._fill(ahead, pool):
                told, coming = ahead.popleft()
                try:
                    samples = coming.result()
                except BlockMissing as missing:
                    ahead.clear()
                    self._wait_for(missing, told)
                    continue
                self._next += 1
                yield samples
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _fill(self, ahead: deque[tuple[int, Future[Int16]]], pool: ThreadPoolExecutor) -> bool:
        """Whether there is a block to give: waits for one, and takes on others that are known."""
        while len(ahead) < _AHEAD:
            number = self._next + len(ahead)
            begin = time.perf_counter()
            found = self._blocks.get(number, _at_once if ahead else self._is_closed)
            self.waited_s += time.perf_counter() - begin
            if found is None:
                break
            block, told = found
            ahead.append((told, pool.submit(self._decode, block)))
        if self._is_closed():
            raise KnownError(ErrorCode.CANCELLED, "The transcription was cancelled.")
        return bool(ahead)

    def _wait_for(self, missing: BlockMissing, told: int) -> None:
        """Waits until the missing block, which was told so often when it was, is told again."""
        if self._ask is None:
            raise missing
        if self._asked.get(self._next) != told:
            self._ask_for_all(self._ask, missing.block)
        begin = time.perf_counter()
        self._blocks.again(self._next, told, self._is_closed)
        self.waited_s += time.perf_counter() - begin

    def _ask_for_all(self, ask: Callable[[tuple[str, ...]], None], first: str) -> None:
        """Asks for all that is lost: the client may have to read the whole file for them."""
        known = self._blocks.known(self._next)
        held = self._folder.held([block.id for block, _ in known]) - {first}
        lost = [(n, b.id, t) for n, (b, t) in enumerate(known, self._next) if b.id not in held]
        self._asked.update({number: told for number, _, told in lost})
        ask(tuple(dict.fromkeys(block for _, block, _ in lost)))

    def _is_closed(self) -> bool:
        return self._closed or self._blocks.closed

    def _decode(self, block: Block) -> Int16:
        if not self._folder.whole(block.id):
            raise BlockMissing(block.id, self._name)
        return decode_block(self._folder, block, self.tracks, self._name)


def decode_block(folder: BlockFolder, block: Block, tracks: int, name: str) -> Int16:
    """The samples of a block that is whole: int16 [tracks, block.samples], 16 kHz.

    Raises:
        KnownError: audio-damaged; it is no such recording.
    """
    most = tracks * round(block.samples + _ADDED_S * SAMPLE_RATE)
    found: list[Int16] = []
    try:
        with AudioReader(folder.path(block.id), block_s=most / SAMPLE_RATE) as reader:
            for piece in reader:
                found.append(piece)
                if len(found) > _PIECES:
                    raise _undecodable(name)
    except KnownError as error:
        raise _undecodable(name) from error
    sound = np.concatenate(found, axis=1)
    length, rest = divmod(sound.shape[1], tracks)
    whole = block.samples <= length <= most // tracks and not rest
    if not whole or reader.warnings or reader.info.channels != 1:
        raise _undecodable(name)
    return sound.reshape(tracks, length)[:, : block.samples]


def _at_once() -> bool:
    return True


def _undecodable(name: str) -> KnownError:
    return KnownError(
        ErrorCode.AUDIO_DAMAGED,
        f"A part of {name} reached the engine's machine in a form that it cannot decode.",
        "Update farscribe on both ends and transcribe it again.",
    )
