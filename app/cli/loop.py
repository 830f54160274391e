"""From a verb to its coroutine."""

from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """What the work gives, on a loop of its own."""
    import asyncio  # takes as long to load as all the rest of --help

    return asyncio.run(work)
