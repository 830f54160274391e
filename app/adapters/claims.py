"""Programs of one user at once: which of them works on which job, and a spool for each engine.

Each running program holds the lock of one numbered place; the system lets go of it however the
program ends. Beside the lock lie the ids of its jobs and the spool of the engine that it starts,
which the next program in that place finds again.
"""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from filelock import FileLock, Timeout

from remote.protocol import ErrorCode, KnownError

_PATIENCE_S = 10.0
"""Others hold the door for milliseconds."""


class ProgramPlace:
    """The place of this program among those that run. It implements the port ``Claims``.

    Args:
        folder: of all places; it is made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number: int | None = None
        self._lock: FileLock | None = None

    @property
    def spool(self) -> Path:
        """A folder for the engine of this program alone.

        Raises:
            KnownError: as ``take``.
        """
        with self._door():
            return self._folder / f"{self._enter()}.spool"

    def take(self, jobs: Sequence[str]) -> frozenset[str]:
        """Those of these jobs that are this program's from now on, or were before.

        Raises:
            KnownError: disk-full, output-unwritable or library-locked; nothing was claimed.
        """
        with self._door():
            number = self._enter()
            taken = {job for other in self._others(number) for job in other}
            mine = [job for job in jobs if job not in taken]
            with self._jobs(number).open("a", encoding="utf-8") as file:
                file.writelines(f"{job}\n" for job in mine)
            return frozenset(mine)

    def close(self) -> None:
        """Leaves the place; what was claimed is free. Idempotent."""
        if self._lock is not None:
            self._lock.release()
        self._lock = self._number = None

    def _enter(self) -> int:
        """The number of this program's place: the first that is free."""
        if self._number is not None:
            return self._number
        for number in count():
            lock = self._lock_of(number)
            if _acquired(lock):
                self._jobs(number).write_text("", encoding="utf-8")  # of the one before
                self._number, self._lock = number, lock
                return number
        raise AssertionError("numbers do not end")

    def _others(self, mine: int) -> Iterator[list[str]]:
        """The jobs of every other program that runs."""
        for path in self._folder.glob("*.jobs"):
            number = int(path.stem)
            if number == mine:
                continue
            lock = self._lock_of(number)
            if _acquired(lock):  # whoever it was has ended
                lock.release()
            else:
                yield path.read_text(encoding="utf-8").split()

    def _lock_of(self, number: int) -> FileLock:
        return FileLock(self._folder / f"{number}.lock", blocking=False)

    def _jobs(self, number: int) -> Path:
        return self._folder / f"{number}.jobs"

    @contextmanager
    def _door(self) -> Iterator[None]:
        """One program at a time looks and writes."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "door.lock", timeout=_PATIENCE_S):
                yield
        except Timeout as error:
            raise KnownError(
                ErrorCode.LIBRARY_LOCKED,
                f"Another program holds {self._folder}.",
                "Close it, then try again.",
            ) from error
        except OSError as error:
            full = error.errno == errno.ENOSPC
            raise KnownError(
                ErrorCode.DISK_FULL if full else ErrorCode.OUTPUT_UNWRITABLE,
                f"{self._folder} cannot be written: {error.strerror}.",
                "Make room." if full else "Set FARSCRIBE_HOME to a folder of yours.",
            ) from error


def _acquired(lock: FileLock) -> bool:
    try:
        lock.acquire()
    except Timeout:
        return False
    return True
