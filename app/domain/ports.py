"""The outside world as the engine room of the client sees it. Protocols only, no behaviour."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from app.domain.events import Event, LinkEvent
from app.domain.intake import Found
from app.domain.jobs import Job
from app.domain.transcript import Transcript
from remote.protocol import Down


class EngineLink(Protocol):
    """One conversation with one engine, from its start to its end. It is not used again."""

    async def open(self) -> None:
        """Starts the conversation; the first message that ``receive`` gives is Hello.

        Raises:
            KnownError: there is no engine to talk to; nothing was left running.
        """

    async def send(self, message: Down) -> None:
        """Sends one message. A dead engine is not told here but by ``receive``."""

    async def receive(self) -> LinkEvent:
        """The next message or fact. Cancelling loses nothing: the next call gives it.

        Raises:
            KnownError: the conversation is over; what the engine had in hand is unfinished.
        """

    async def close(self) -> None:
        """Ends the conversation and leaves nothing running, also when cancelled. Idempotent."""

    def kill(self) -> None:
        """Ends the engine at once, also while it is opened.

        ``receive`` then raises; ``close`` is still to be called.
        """


LinkFactory = Callable[[], EngineLink]
"""A new link, not opened yet."""

Observer = Callable[[Event], None]
"""Is told every event, in order, on the loop's thread; it must not wait."""

Gather = Callable[[Sequence[Path]], Iterable[Found]]
"""Files and folders that a user named, as files, in the order to transcribe them."""


class Display(Protocol):
    """An observer that shows a batch until it is over."""

    def __call__(self, event: Event) -> None:
        """Shows one event."""

    def close(self) -> None:
        """Leaves the terminal as it was; also after an error. Idempotent."""

    def table(self, jobs: Sequence[Job]) -> None:
        """Shows how fast each recording was."""


class Deliver(Protocol):
    """Brings a transcript to where the user wants it."""

    def __call__(self, transcript: Transcript) -> tuple[Path, ...]:
        """The files that were written.

        Raises:
            KnownError: disk-full or output-unwritable; no half-written file is left behind.
        """


class OutputFolder(Protocol):
    """Where files are written."""

    def write(self, source: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
        """The files written for this recording, one for each suffix of ``contents``.

        Raises:
            KnownError: disk-full or output-unwritable; files written before it stay.
        """
