"""The way to the engine, kept open for all jobs: the one place that dials again.

Everybody who needs the engine waits for the same call. An error that waiting will not cure ends
the call for good; it is told once, and everybody gets it.
"""

import asyncio
import logging
from collections.abc import Callable

from app.domain.events import EngineUnavailable, LinkBack, LinkLost
from app.domain.ports import Observer
from app.engine.patience import GIVE_UP_AFTER_S, Backoff, patient
from app.engine.session import Session
from remote.protocol import ErrorCode, KnownError

DEATHS = 3
"""How many engines in a row may die over the same job, or before they say anything."""

_DIED = (ErrorCode.ENGINE_DIED, ErrorCode.WIRE)
_OUT_OF_REACH = (ErrorCode.LINK_LOST, ErrorCode.HOST_UNREACHABLE, ErrorCode.OFFLINE)

log = logging.getLogger(__name__)


def died(error: KnownError) -> bool:
    """Whether it says that the engine broke, so that another one may do better."""
    return error.code in _DIED


def out_of_reach(error: KnownError) -> bool:
    """Whether it says that the engine may well live and work, only not within reach."""
    return error.code in _OUT_OF_REACH


class Dial:
    """Connects a session again and again.

    Args:
        session: what is connected.
        tell: hears of losses and returns.
        give_up_after_s: seconds that an engine may be out of reach.
        greet: begins after each time that it was connected, and is not waited for.
        known: the engine was reached before, so that it is waited for also the first time.
            Otherwise a host that does not answer is more likely misspelt than asleep.
    """

    def __init__(
        self,
        session: Session,
        tell: Observer,
        greet: Callable[[], object],
        *,
        give_up_after_s: float = GIVE_UP_AFTER_S,
        known: bool = False,
    ) -> None:
        self._session = session
        self._tell = tell
        self._greet = greet
        self._give_up_after_s = give_up_after_s
        self._known = known
        self._backoff = Backoff()
        self._idle = False  # the last conversation has brought nothing
        self._away = False  # a loss was told, and no return
        self._deaths = 0
        self._call: asyncio.Task[None] | None = None
        self.hopeless: KnownError | None = None
        """Why there will be no engine any more."""

    async def connected(self) -> None:
        """Nothing, once the session is connected.

        Raises:
            KnownError: ``hopeless``.
        """
        while not self._session.connected:
            if self.hopeless is not None:
                raise self.hopeless
            if self._call is None or self._call.done():
                self._call = asyncio.create_task(self._dial())
                self._call.add_done_callback(lambda call: call.cancelled() or call.exception())
            await asyncio.shield(self._call)

    def fruitful(self) -> None:
        """The conversation has brought something: should it break, it is dialled at once."""
        self._idle = False
        self._deaths = 0
        self._backoff.reset()

    def give_up(self, error: KnownError) -> None:
        """Waiting will not cure this: nobody dials any more."""
        if self.hopeless is None:
            self.hopeless = error
            self._tell(EngineUnavailable(error))

    async def close(self) -> None:
        """Ends a call that is being made."""
        if self._call is not None:
            self._call.cancel()
            await asyncio.wait([self._call])

    async def _dial(self) -> None:
        began_s = asyncio.get_running_loop().time()
        lost = self._session.lost
        wait_s = self._backoff() if self._idle else 0.0
        if lost is not None:
            self._say(lost, 0, wait_s)
        await asyncio.sleep(wait_s)
        try:
            tries = patient(self._worth, self._backoff, self._say, self._give_up_after_s)
            async for attempt in tries:
                with attempt:
                    await self._session.connect()
        except KnownError as error:
            log.info("no engine: %s", error.code)
            self.give_up(error)
            raise
        self._known = self._idle = True
        self._greet()
        if self._away:
            self._away = False
            self._tell(LinkBack(asyncio.get_running_loop().time() - began_s))

    def _worth(self, error: KnownError) -> bool:
        if self._known and out_of_reach(error):
            return True
        self._deaths += 1
        if died(error):
            return self._known and self._deaths < DEATHS
        return error.code is ErrorCode.LINK_LOST and self._deaths < DEATHS

    def _say(self, error: KnownError, tries: int, wait_s: float) -> None:
        if out_of_reach(error):
            self._away = True
            self._tell(LinkLost(error, tries, wait_s))
