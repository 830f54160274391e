"""Calls that block, each on a thread of its own that the end of the program does not wait for.

A pool would be joined at exit, and a call that waits for a dead host, or for a user at a prompt,
can take long to end.
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_thread(
    function: Callable[[], Result], undo: Callable[[Result], None] | None = None
) -> "asyncio.Future[Result]":
    """The result of a call that blocks.

    Cancelling the wait does not end the call.

    Args:
        function: called on the thread.
        undo: is given, on some thread, a result that nobody waits for any more.
    """
    outcome: Future[Result] = Future()
    outcome.set_running_or_notify_cancel()

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            outcome.set_exception(error)

    def settled(waiting: "asyncio.Future[Result]") -> None:
        if waiting.cancelled() and undo is not None:
            outcome.add_done_callback(lambda done: done.exception() or undo(done.result()))

    waiting = asyncio.wrap_future(outcome)
    waiting.add_done_callback(settled)
    threading.Thread(target=work, daemon=True, name="ssh").start()
    return waiting
