"""When a file in a watched folder is taken, and which ones never are: pure rules.

Time is a number that is given; files are looked at elsewhere.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.intake import is_hidden, is_media
from remote.protocol import ErrorCode, KnownError

SETTLE_S = 3.0
"""A file that has not changed for so long is taken: whoever copies pauses for less."""


@dataclass(frozen=True, slots=True)
class Sight:
    """A file as it is at one moment: its size, and when it was last written (ns)."""

    size_bytes: int
    mtime_ns: int


@dataclass(slots=True)
class _Waiting:
    sight: Sight
    since_s: float
    look_s: float


class Settling:
    """Files that may still be written to.

    A file is settled when it has the size and the time of writing that it had ``settle_s`` before.
    """

    def __init__(self, settle_s: float = SETTLE_S) -> None:
        self._settle_s = settle_s
        self._waiting: dict[Path, _Waiting] = {}

    def see(self, path: Path, sight: Sight | None, now_s: float) -> bool:
        """Takes in a look at a file, None where there is none; whether it has settled now.

        A settled file is forgotten; so is one that is gone. An empty one waits to be filled.
        """
        if sight is None:
            self._waiting.pop(path, None)
            return False
        before = self._waiting.get(path)
        if before is None or before.sight != sight:
            self._waiting[path] = _Waiting(sight, now_s, now_s + self._settle_s)
            return False
        if sight.size_bytes == 0:
            if before.look_s <= now_s:  # whoever writes to it is told of by the system
                del self._waiting[path]
            return False
        if now_s - before.since_s < self._settle_s:
            return False
        del self._waiting[path]
        return True

    def due(self, now_s: float) -> tuple[Path, ...]:
        """Files that are worth another look."""
        return tuple(path for path, held in self._waiting.items() if held.look_s <= now_s)

    def next_s(self, now_s: float) -> float | None:
        """Seconds until a file is worth another look; None where none waits."""
        looks = [held.look_s for held in self._waiting.values()]
        return max(0.0, min(looks) - now_s) if looks else None


def is_watched(path: Path, folder: Path, left_out: Iterable[Path]) -> bool:
    """Whether a file below a watched folder may be a recording that the user put there.

    Args:
        path: of the file.
        folder: that is watched.
        left_out: folders within it in which farscribe writes.
    """
    if not is_media(path) or any(path.is_relative_to(place) for place in left_out):
        return False
    within = path.relative_to(folder) if path.is_relative_to(folder) else path
    return not any(is_hidden(Path(part)) for part in within.parts)


def left_out(folders: Sequence[Path], own: Sequence[Path]) -> tuple[Path, ...]:
    """The folders that are not watched though they lie within watched ones: farscribe's own.

    Args:
        folders: to watch, absolute and real.
        own: where farscribe itself writes, absolute and real: a folder for the output, its data.

    Raises:
        KnownError: unknown-option where a watched folder lies in one that farscribe fills, so
            that it would watch itself.
    """
    for folder in folders:
        for place in own:
            if folder.is_relative_to(place):
                raise KnownError(
                    ErrorCode.UNKNOWN_OPTION,
                    f"{folder} cannot be watched: farscribe itself writes to {place}.",
                    "Watch another folder, or leave out --output.",
                )
    return tuple(place for place in own if any(place.is_relative_to(f) for f in folders))
