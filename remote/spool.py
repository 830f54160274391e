"""The worker's folder: a journal for each job, the audio blocks, and room for both within bounds.

    jobs/NAME.journal    NAME is the job's own where that makes a file name, else its sha256
    blocks/              see remote.blocks
    worker.lock, worker.sock, worker.log

A job stays until its client has acknowledged its end. Ended jobs that nobody fetches go after
two weeks, or earlier, the oldest first, where the bound on the size asks for it. Jobs that have
not ended go when nothing has come or been done for them for two weeks. It must not know what is in
a journal beyond that.
"""

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from remote.blocks import BlockFolder
from remote.journal import Journal
from remote.protocol import Transcribe

MAX_BYTES = 20 * 2**30
MAX_AGE_S = 14 * 24 * 3600.0

_GRACE_S = 600.0
"""A worker that has not been there for so long takes no job for too old, whatever the clock says:
it may have jumped while the machine was off, and clients that come back need a while."""

_LOOSE_BLOCK_S = 3600.0
"""A block that no job names may be about to be named for so long."""

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

log = logging.getLogger(__name__)


class Spool:
    """The folder, made where it is missing.

    Args:
        folder: of one worker; private to its user.
        max_bytes: see MAX_BYTES; 0 for no bound.
        max_age_s: of jobs for which nothing happens.
        stop: once it is set, writes that wait for room give up.
        clock: seconds that never go back.
        now: seconds as the file system counts them, which may jump.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int = MAX_BYTES,
        max_age_s: float = MAX_AGE_S,
        stop: threading.Event | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self._jobs = folder / "jobs"
        self._jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        self.blocks = BlockFolder(folder / "blocks")
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._stop = stop or threading.Event()
        self._clock = clock
        self._now = now
        self._since = clock()
        self._since_now = now()

    def create(self, request: Transcribe) -> Journal:
        """The journal of a new job.

        Raises:
            OSError: it cannot be written.
        """
        return Journal.create(self._path(request.job), request, self._stop)

    def recover(self) -> list[Journal]:
        """The journals of jobs from before."""
        found = []
        for path in sorted(self._jobs.glob("*.journal")):
            journal = Journal.open(path, self._stop)
            if journal is None:
                path.unlink()
            else:
                found.append(journal)
        return found

    def forget(self, journal: Journal, others: Iterable[Journal]) -> None:
        """Removes a job, and of its blocks what the others do not need."""
        journal.close()
        journal.path.unlink(missing_ok=True)
        self.drop_audio(journal, others)

    def drop_audio(self, journal: Journal, others: Iterable[Journal]) -> None:
        """Removes the blocks of a job that has ended, but for those that others need."""
        needed = {block.id for other in others for block in other.audio.blocks}
        self.blocks.forget({block.id for block in journal.audio.blocks} - needed)

    def sweep(self, journals: Iterable[Journal]) -> list[Journal]:
        """Jobs that have to go: those that have ended to be forgotten, others to be cancelled.

        Loose blocks are removed at once.
        """
        kept = list(journals)
        self.blocks.sweep({block.id for j in kept for block in j.audio.blocks}, _LOOSE_BLOCK_S)
        up_s = self._clock() - self._since
        if up_s < _GRACE_S:
            return []
        jumped_s = max(0.0, self._now() - self._since_now - up_s)
        ages = {j.path: self._now() - jumped_s - j.path.stat().st_mtime for j in kept}
        ended = sorted((j for j in kept if j.ended), key=lambda j: -ages[j.path])
        going = [j for j in kept if ages[j.path] > self._max_age_s]
        over = self.bytes_used() - self._max_bytes if self._max_bytes else 0
        over -= sum(j.path.stat().st_size for j in going if j.ended)
        for journal in (j for j in ended if j not in going):
            if over <= 0:
                break
            going.append(journal)
            over -= journal.path.stat().st_size
        for journal in going:
            log.warning("%s was left alone for long: it is removed", journal.path.name)
        return going

    def bytes_used(self) -> int:
        """Size of all that is in it."""
        return self.blocks.bytes_used() + sum(p.stat().st_size for p in self._jobs.iterdir())

    def _path(self, job: str) -> Path:
        plain = job
        if not _PLAIN.fullmatch(job):
            plain = hashlib.sha256(job.encode("utf-8", "surrogatepass")).hexdigest()
        return self._jobs / f"{plain}.journal"
