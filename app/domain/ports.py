"""The outside world as the engine room of the client sees it. Protocols only, no behaviour."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from app.domain.blocks import Codec, CodedBlock
from app.domain.events import Event, LinkEvent
from app.domain.history import Entry, Hit, Query
from app.domain.intake import Found
from app.domain.jobs import Job, JobEvent
from app.domain.transcript import Transcript
from app.domain.watching import Sight
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


Observer = Callable[[Event], None]
"""Is told every event, in order, on the loop's thread; it must not wait."""

Gather = Callable[[Sequence[Path]], Iterable[Found]]
"""Files and folders that a user named, as files, in the order to transcribe them."""


class BlockStore(Protocol):
    """The store of audio blocks beside an engine; it works while the machine's link is open."""

    async def have(self, blocks: Sequence[str]) -> frozenset[str]:
        """Those of these block ids that are there.

        Raises:
            KnownError: link-lost.
        """

    async def put(self, block: str, data: bytes) -> None:
        """Nothing; the block is there, whole, on the machine's disk. Several may run at once.

        Raises:
            KnownError: disk-full (of the machine; the same call may work later) or link-lost.
                The block is there whole or not at all.
        """


class Machine(Protocol):
    """Where an engine runs: this computer, a host with SSH."""

    @property
    def name(self) -> str:
        """As the user names it: "this-computer", "ssh://user@host"."""

    @property
    def store(self) -> BlockStore | None:
        """Where audio goes; None where the engine reads the user's files itself."""

    def link(self) -> EngineLink:
        """A new conversation with the engine, not opened yet; the one before has ended."""


class Cut(Protocol):
    """A recording that is being cut into blocks; iterate once, then look at ``warnings``."""

    duration_ms: int | None
    tracks: int
    warnings: tuple[str, ...]

    def __iter__(self) -> Iterator[CodedBlock]:
        """The blocks in order, without a hole.

        Raises:
            KnownError: reading broke off; blocks before stay valid.
        """

    def close(self) -> None:
        """Lets go of the file; more often than once is harmless."""


class Media(Protocol):
    """Reads recordings on this computer. Its calls block: they are made on threads."""

    def fingerprint(self, path: Path) -> str:
        """sha256 of the file's bytes, 64 hexadecimal digits.

        Raises:
            KnownError: as ``cut`` does on opening.
        """

    def cut(self, path: Path, *, split: bool, codec: Callable[[], Codec]) -> Cut:
        """The recording, opened, to be sent as blocks.

        Args:
            path: of any audio or video file.
            split: keep channels apart.
            codec: asked before each block is coded.

        Raises:
            KnownError: the file cannot be read; nothing stays open.
        """


class Library(Protocol):
    """What was ever transcribed. One writer; every call may be cancelled without losing a write."""

    async def add(self, jobs: Sequence[Entry]) -> None:
        """Stores new jobs, all or none."""

    async def append(self, job: str, events: Sequence[JobEvent]) -> int:
        """Stores events of a job in one transaction; the number of the last one that is stored.

        An event that was stored before is passed over. Done and Failed also end the entry.

        Raises:
            WireError: a number is missing; what came before the hole is stored.
            KnownError: library-locked or disk-full; nothing was stored.
        """

    async def update(self, job: str, **changes: Any) -> None:
        """Changes fields of an entry (by their names in Entry) that no event changes."""

    async def restart(self, job: str) -> None:
        """Forgets the events of a job, as its engine has forgotten them: seq is 0 again."""

    async def entry(self, job: str) -> Entry:
        """One job, by its id or by the first digits of it where these name one only.

        Raises:
            KnownError: not-found.
        """

    async def entries(self, query: Query | None = None) -> tuple[Entry, ...]:
        """Jobs, the newest first."""

    async def transcript(self, job: str, *, edited: bool = True) -> Transcript:
        """All that is known of a job, with the user's edits or as the engine heard it."""

    async def search(self, words: str, limit: int = 50) -> tuple[Hit, ...]:
        """Places where all these words (a phrase in quotes) are said, the newest job first."""

    async def edit(self, job: str, segment: int, text: str | None) -> None:
        """Puts ``text`` beside what was heard in a segment (counted from 0); None takes it back."""

    async def note_export(self, job: str, files: Sequence[Path]) -> None:
        """Remembers that the transcript was written to these files."""

    async def remove(self, job: str) -> None:
        """Forgets a job with all its text; the recording itself is not touched."""

    async def close(self) -> None:
        """Ends the writer after what it has in hand; idempotent."""


class Claims(Protocol):
    """Which program works on which job, so that two at once do not run the same one.

    What a program that has ended, in whatever way, had claimed is free again.
    """

    def take(self, jobs: Sequence[str]) -> frozenset[str]:
        """Those of these jobs that are this program's from now on, or were before.

        Raises:
            KnownError: disk-full or library-locked; nothing was claimed.
        """


class FolderWatch(Protocol):
    """Tells which files in some folders are made, moved there or written to."""

    async def open(self) -> tuple[Path, ...]:
        """Begins to watch; the files that are there already.

        Raises:
            KnownError: file-missing or file-unreadable for a folder that cannot be watched.
        """

    async def changed(self) -> frozenset[Path]:
        """Files that something happened to since the last call; waits until there are some.

        Cancelling loses nothing.
        """

    def look(self, path: Path) -> Sight | None:
        """The file as it is now; None where there is none that could be read. It blocks."""

    async def close(self) -> None:
        """Watches no more; idempotent."""


class Display(Protocol):
    """An observer that shows a batch until it is over."""

    def __call__(self, event: Event) -> None:
        """Shows one event."""

    def aside(self) -> AbstractContextManager[None]:
        """While it lasts, the terminal is somebody else's, such as a question's."""

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
