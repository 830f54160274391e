"""Looks at the library: whether it opens, what is in it, what is left to do."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from app.domain.checkup import Finding, Health, from_error
from app.domain.jobs import JobState
from app.domain.ports import Library
from app.domain.reuse import still_failed
from remote.protocol import KnownError


@dataclass(frozen=True, slots=True)
class LibraryCheckup:
    """A check of the library; it is a Checkup. It closes the library.

    Args:
        library: not used yet.
        path: of its file.
        notes: sentences on what was done to the file when it was opened.
    """

    library: Library
    path: Path
    notes: Callable[[], tuple[str, ...]] = tuple

    async def __call__(self) -> AsyncIterator[Finding]:
        """Looks at it."""
        try:
            entries = await self.library.entries()
        except KnownError as error:
            yield from_error("library", error)
            return
        finally:
            await self.library.close()
        size = f", {self.path.stat().st_size / 2**20:.1f} MB" if self.path.exists() else ""
        yield Finding("library", Health.OK, f"{_counted(len(entries))}{size}, in {self.path}")
        for note in self.notes():
            yield Finding("library", Health.WARN, note)
        states = Counter(entry.state for entry in entries)
        unfinished = states[JobState.WAITING] + states[JobState.RUNNING]
        if unfinished:
            yield Finding(
                "unfinished", Health.WARN, _counted(unfinished),
                "Unless another farscribe works on them now: farscribe resume",
            )  # fmt: skip
        failed = len(still_failed(entries))
        if failed:
            yield Finding(
                "failed", Health.WARN, _counted(failed),
                "See why: farscribe history --state failed; once more: farscribe retry --failed",
            )  # fmt: skip


def _counted(number: int) -> str:
    return "1 recording" if number == 1 else f"{number} recordings"
