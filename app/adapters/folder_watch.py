"""Folders of the user's that are watched for recordings.

The system says what changes; where it cannot, as for drives of other computers, the folders are
looked through every few seconds. It must not know what becomes of a file.
"""

import asyncio
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from app.domain.watching import Sight, is_watched
from remote.protocol import ErrorCode, KnownError

POLL_S = 5.0
"""Between two looks through folders whose system does not say what changes."""

_ELSEWHERE = frozenset(
    "9p afpfs afs ceph cifs davfs davfs2 fuse.glusterfs fuse.rclone fuse.sshfs fuse.vmhgfs-fuse"
    " glusterfs ncpfs nfs nfs4 prl_fs smb2 smb3 smbfs vboxsf virtiofs".split()
)
"""Kinds of file systems whose files others change without this system hearing of it."""

_NO_MORE_WATCHES = (errno.ENOSPC, errno.EMFILE, errno.ENOSYS)


class WatchedFolders:
    """It implements the port ``FolderWatch``.

    Args:
        folders: absolute and real; all below them is watched, but not what links lead to.
        left_out: folders within them that are not.
        poll: look through them even where the system says what changes; None decides by where
            each of them lies.
        poll_s: see POLL_S.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        left_out: Sequence[Path] = (),
        *,
        poll: bool | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        self._folders = tuple(folders)
        self._left_out = tuple(left_out)
        self._poll = poll
        self._poll_s = poll_s
        self._observers: list[BaseObserver] = []
        self._changed: set[Path] = set()
        self._some = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self) -> tuple[Path, ...]:
        """Begins to watch, then gives what is there: what comes meanwhile is told twice.

        Raises:
            KnownError: file-missing or file-unreadable.
        """
        self._loop = asyncio.get_running_loop()
        try:
            for folder in self._folders:
                await asyncio.to_thread(self._watch, folder)
            return await asyncio.to_thread(lambda: tuple(self._there()))
        except BaseException:
            await self.close()
            raise

    async def changed(self) -> frozenset[Path]:
        """Files that something happened to since the last call."""
        await self._some.wait()
        self._some.clear()
        changed, self._changed = frozenset(self._changed), set()
        return changed

    def look(self, path: Path) -> Sight | None:
        """The file as it is now, without following links."""
        try:
            found = path.lstat()
        except (OSError, ValueError):
            return None
        return Sight(found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None

    async def close(self) -> None:
        """Ends the threads that watch."""
        observers, self._observers = self._observers, []
        for observer in observers:
            observer.stop()
        for observer in observers:
            if observer.is_alive():
                await asyncio.to_thread(observer.join)

    def _watch(self, folder: Path) -> None:
        _check(folder)
        poll = lies_elsewhere(folder) if self._poll is None else self._poll
        if not poll:
            try:
                self._start(Observer(), folder)
            except OSError as error:
                if error.errno not in _NO_MORE_WATCHES:
                    raise _unreadable(folder, error) from error
            else:
                return
        self._start(PollingObserver(timeout=self._poll_s), folder)

    def _start(self, observer: BaseObserver, folder: Path) -> None:
        observer.schedule(_Handler(self._told), str(folder), recursive=True)
        observer.start()
        self._observers.append(observer)

    def _told(self, paths: Sequence[Path], *, folder: bool) -> None:
        """Called on a thread of watchdog's, which must go on whatever is in a folder."""
        for path in paths:
            # What comes with a folder that is moved here is not told one by one everywhere.
            found = list(self._below(path)) if folder else [path]
            wanted = [p for p in found if self._wants(p)]
            if wanted and self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._add, wanted)

    def _add(self, paths: Sequence[Path]) -> None:
        self._changed.update(paths)
        self._some.set()

    def _there(self) -> Iterator[Path]:
        for folder in self._folders:
            yield from filter(self._wants, self._below(folder))

    def _below(self, folder: Path) -> Iterator[Path]:
        for place, folders, files in os.walk(folder):
            folders.sort()
            yield from (Path(place, name) for name in sorted(files))

    def _wants(self, path: Path) -> bool:
        return any(
            is_watched(path, folder, self._left_out)
            for folder in self._folders
            if path.is_relative_to(folder)
        )


class _Handler(FileSystemEventHandler):
    """What the system tells of a folder."""

    def __init__(self, told: Callable[..., None]) -> None:
        self._told = told

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("deleted", "opened", "closed_no_write"):
            return
        path = event.dest_path if event.event_type == "moved" else event.src_path
        if event.is_directory and event.event_type == "modified":
            return  # what happened in it is told by itself
        if path:
            self._told([Path(os.fsdecode(path))], folder=event.is_directory)


def lies_elsewhere(folder: Path, mounts: str | None = None) -> bool:
    """Whether a folder is on another computer, as far as the system says.

    Args:
        folder: real and absolute.
        mounts: the system's list of mounts, in the form of /proc/self/mounts; read where None.
    """
    if sys.platform == "win32":
        return str(folder).startswith("\\\\")
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return False
    kinds = {}
    for line in mounts.splitlines():
        _, place, kind, *_ = [*line.split(" "), "", "", ""]
        kinds[Path(place.replace("\\040", " "))] = kind
    mount = next((place for place in (folder, *folder.parents) if place in kinds), None)
    return mount is not None and kinds[mount] in _ELSEWHERE


def _check(folder: Path) -> None:
    try:
        with os.scandir(folder):
            pass
    except FileNotFoundError as error:
        raise KnownError(
            ErrorCode.FILE_MISSING,
            f"There is no folder {folder}.",
            "Check its name, and that its drive is there.",
        ) from error
    except OSError as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: OSError) -> KnownError:
    return KnownError(
        ErrorCode.FILE_UNREADABLE,
        f"{folder} cannot be watched ({(error.strerror or str(error)).lower()}).",
        "Check its permissions.",
    )
