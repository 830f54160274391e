"""Watched folders: each recording that comes, or changed while nobody watched, is transcribed.

A file is taken once it has settled, and each content once. What may come right by itself, such as
a host that is out of reach, is tried again; what cannot ends the watch. It must not know how files
are watched.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from app.domain.events import EngineUnavailable, Event, JobEnded
from app.domain.history import Entry, Query
from app.domain.ports import FolderWatch, Library, Media
from app.domain.reuse import dealt_with
from app.domain.watching import SETTLE_S, Settling, Sight
from app.engine.dial import out_of_reach
from app.engine.patience import together
from app.engine.service import Service
from remote.protocol import ErrorCode, KnownError

AGAIN_S = 60.0
"""After so long a machine that was out of reach is tried again."""

log = logging.getLogger(__name__)


class Watching:
    """The watch over some folders. It is to be an observer of the service.

    Args:
        folders: what is watched.
        library: knows what was done before.
        media: reads files.
        passed: hears of each file that is not taken because its content was: the file, and the
            id of the job or "" for a file of this watch.
        settle_s: see SETTLE_S; again_s: see AGAIN_S.
    """

    def __init__(
        self,
        folders: FolderWatch,
        library: Library,
        media: Media,
        *,
        passed: Callable[[Path, str], None],
        settle_s: float = SETTLE_S,
        again_s: float = AGAIN_S,
    ) -> None:
        self._folders = folders
        self._library = library
        self._media = media
        self._passed = passed
        self._settling = Settling(settle_s)
        self._again_s = again_s
        self._before: dict[Path, Entry] = {}
        self._taken: set[str] = set()
        self._added = asyncio.Event()
        self._unavailable: KnownError | None = None
        self._failed: list[str] = []

    def __call__(self, event: Event) -> None:
        """Takes in what the service tells."""
        match event:
            case EngineUnavailable(error):
                self._unavailable = error
            case JobEnded(job=job) if job.error is not None and job.error is self._unavailable:
                self._failed.append(job.id)
            case _:
                pass

    async def run(self, service: Service) -> None:
        """Watches until it is cancelled; jobs that are unfinished then go on another time.

        Raises:
            KnownError: a folder cannot be watched, or no engine can ever be had.
        """
        for entry in await self._library.entries():
            self._before.setdefault(entry.path, entry)
        try:
            there = await self._folders.open()
            async with together() as tasks:
                tasks.create_task(self._feed(service, there))
                while True:
                    await self._added.wait()
                    self._added.clear()
                    await service.run()
                    await self._try_again(service)
        finally:
            await self._folders.close()

    async def _try_again(self, service: Service) -> None:
        error, self._unavailable = self._unavailable, None
        failed, self._failed = self._failed, []
        if error is None:
            return
        if not out_of_reach(error):
            raise error
        await asyncio.sleep(self._again_s)
        await service.retry(failed)
        self._added.set()

    async def _feed(self, service: Service, there: Iterable[Path]) -> None:
        """Gives the service each file that is wanted."""
        await self._look(service, there)
        while True:
            paths: frozenset[Path] = frozenset()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settling.next_s(self._now_s())):
                    paths = await self._folders.changed()
            await self._look(service, {*paths, *self._settling.due(self._now_s())})

    async def _look(self, service: Service, paths: Iterable[Path]) -> None:
        for path in sorted(paths):
            sight = await asyncio.to_thread(self._folders.look, path)
            if sight is not None and self._as_before(path, sight):
                continue
            if self._settling.see(path, sight, self._now_s()) and await self._is_new(path, sight):
                await service.add([path])
                self._added.set()

    def _as_before(self, path: Path, sight: Sight) -> bool:
        """Whether this file was dealt with, and nobody has written to it since: it is not read."""
        entry = self._before.get(path)
        return (
            entry is not None
            and dealt_with(entry)
            and entry.size_bytes == sight.size_bytes
            and sight.mtime_ns / 1e9 < _seconds(entry.added_at)
        )

    async def _is_new(self, path: Path, sight: Sight | None) -> bool:
        """Whether the content of a settled file was never taken."""
        try:
            content = await asyncio.to_thread(self._media.fingerprint, path)
        except KnownError as error:
            return error.code is not ErrorCode.FILE_VANISHED  # the service says what is wrong
        if await asyncio.to_thread(self._folders.look, path) != sight:  # it was not settled at all
            self._settling.see(path, sight, self._now_s())
            return False
        if content in self._taken:
            self._passed(path, "")
            return False
        for entry in await self._library.entries(Query(content=content)):
            if dealt_with(entry):
                self._taken.add(content)
                self._passed(path, entry.id)
                return False
        self._taken.add(content)
        return True

    @staticmethod
    def _now_s() -> float:
        return asyncio.get_running_loop().time()


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
