"""The uplink: the way of blocks to a machine's store, shared by all recordings, and its speed.

It must not know which recording a block is of.
"""

import asyncio
from collections import deque

from app.domain.blocks import Codec, CodedBlock, codec_for
from app.domain.ports import BlockStore

PUTS = 4
"""Blocks that travel at once: at 80 ms of round trip, four channels fill twice what one does."""

AHEAD = 8
"""Blocks of a recording that are cut and not there yet: at most 4 MB of memory."""

_MEASURED = 8
"""Puts that the speed of the uplink is measured over: about two rounds of all channels."""


def now_s() -> float:
    """Seconds that never go back."""
    return asyncio.get_running_loop().time()


class Uplink:
    """The way to a machine's store, shared by all shipments, and how fast it is.

    Args:
        store: beside the engine.
        pinned: the codec that the user has decided on.
    """

    def __init__(self, store: BlockStore, pinned: Codec | None = None) -> None:
        self.store = store
        self._pinned = pinned
        self._channels = asyncio.Semaphore(PUTS)
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=_MEASURED)

    @property
    def mbits(self) -> float | None:
        """Mbit/s of the last few puts over the time in which any of them ran; None before any."""
        busy_s, until_s, sent = 0.0, -float("inf"), 0
        for began_s, ended_s, size in sorted(self._recent):
            busy_s += max(0.0, ended_s - max(began_s, until_s))
            until_s = max(until_s, ended_s)
            sent += size
        return sent * 8 / 1e6 / busy_s if busy_s > 0 else None

    @property
    def ahead(self) -> int:
        """Blocks that a shipment may cut ahead: one until the codec can be chosen knowingly."""
        return AHEAD if self._pinned is not None or self._recent else 1

    def codec(self) -> Codec:
        """What the next block is coded in."""
        return codec_for(self.mbits, self._pinned)

    async def put(self, coded: CodedBlock) -> None:
        """Brings one block to the store.

        Raises:
            KnownError: disk-full or link-lost.
        """
        async with self._channels:
            began_s = now_s()
            await self.store.put(coded.block.id, coded.data)
            self._recent.append((began_s, now_s(), len(coded.data)))
