"""Who may be with the engine: all jobs at once, or one alone that may have killed it before.

An engine that dies takes every job with it and does not say whose fault it was. Whoever was there
more than once goes last, one at a time, so that a recording that kills engines takes no other
recording with it. It must not know what a job is.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Gate:
    """Lets jobs in."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._moved = asyncio.Event()

    @asynccontextmanager
    async def inside(self, *, alone: bool) -> AsyncIterator[Callable[[], None]]:
        """With the engine; ``alone`` waits for all others to leave and keeps them out.

        It gives a function that lets the others in again.
        """
        while self._alone or (alone and self._inside):
            self._moved.clear()
            await self._moved.wait()
        self._inside += 1
        mine = self._alone = alone

        def share() -> None:
            nonlocal mine
            if mine:
                mine = self._alone = False
                self._moved.set()

        try:
            yield share
        finally:
            self._inside -= 1
            share()
            self._moved.set()
