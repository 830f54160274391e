"""Where the decoding thread gets recordings from. It decides nothing about them."""

from typing import Protocol

from remote.recording import Recording


class Inbox(Protocol):
    """Recordings for the decoding thread, which alone asks."""

    def next(self) -> Recording | None:
        """The next recording, if there is one."""

    @property
    def open(self) -> bool:
        """Whether more may come."""

    def worked(self, seconds: float) -> None:
        """The device has worked for so long."""


class Alone:
    """An inbox with one recording."""

    def __init__(self, recording: Recording) -> None:
        self._waiting: Recording | None = recording

    def next(self) -> Recording | None:
        """The recording, once."""
        given, self._waiting = self._waiting, None
        return given

    @property
    def open(self) -> bool:
        """Whether it has not been taken yet."""
        return self._waiting is not None

    def worked(self, seconds: float) -> None:
        """Nothing: nobody asks."""
