"""Waiting for what nobody tells: a condition is looked at again and again, for a while."""

import threading
import time
from collections.abc import Callable

PATIENCE_S = 60
"""A machine may be busy; whoever waits longer waits for nothing."""


def soon(true: Callable[[], object]) -> None:
    """Nothing, once it is true."""
    until, wait = time.monotonic() + PATIENCE_S, threading.Event().wait
    while not true():
        assert time.monotonic() < until
        wait(0.02)
