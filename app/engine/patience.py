"""Trying again: how long to wait, for how long, and tasks that end together.

It decides nothing: what is worth another try is said by whoever asks.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from remote.protocol import KnownError

FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 15.0
"""Someone who plugs the cable in again looks at the screen for about so long."""

GIVE_UP_AFTER_S = 24 * 3600.0
"""For so long an engine may be out of reach: a night and a working day."""


class Backoff:
    """Seconds to wait, twice as long after each failure in a row, with jitter.

    It implements tenacity's protocol of a wait strategy, and outlives one series of tries.
    """

    def __init__(self) -> None:
        self._failures = 0

    def __call__(self, _state: RetryCallState | None = None) -> float:
        """The wait after one more failure."""
        longest = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return longest * random.uniform(0.75, 1.0)  # noqa: S311 - no secret

    def reset(self) -> None:
        """Forgets the failures, because something has gone well."""
        self._failures = 0


def patient(
    worth: Callable[[KnownError], bool],
    backoff: Backoff,
    told: Callable[[KnownError, int, float], None],
    give_up_after_s: float,
) -> AsyncRetrying:
    """Tries until it goes well, the error is not worth it, or the time is up; then it raises.

    Args:
        worth: whether an error may pass.
        backoff: how long to wait.
        told: hears the error, the number of tries so far, and the seconds until the next.
        give_up_after_s: seconds from now.
    """
    clock = asyncio.get_running_loop().time
    until_s = clock() + give_up_after_s

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if isinstance(error, KnownError):
            told(error, state.attempt_number, state.upcoming_sleep)

    return AsyncRetrying(
        retry=retry_if_exception(lambda error: isinstance(error, KnownError) and worth(error)),
        wait=backoff,
        stop=lambda _state: clock() >= until_s,
        before_sleep=before_sleep,
        reraise=True,
    )


@asynccontextmanager
async def together() -> AsyncIterator[asyncio.TaskGroup]:
    """A group of tasks that end together; the first error among them is raised as it is."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
    except BaseExceptionGroup as several:
        first: BaseException = several
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from several
