"""The watch, in virtual time, over folders that are none."""

import asyncio
from pathlib import Path

import pytest

from app.domain.events import EngineUnavailable, JobEnded
from app.domain.jobs import Job, JobState
from app.domain.transcript import Transcript
from app.domain.watching import Sight
from app.engine.watching import Watching
from remote.protocol import ErrorCode, KnownError
from tests.app.domain.entries import NOON, entry, failed
from tests.app.engine.fakes import MemoryLibrary, run

AWAY = KnownError(ErrorCode.HOST_UNREACHABLE, "Away.")


class Folders:
    """Folders whose files are said to be there. It implements the port ``FolderWatch``."""

    def __init__(self, **files: str) -> None:
        self.files: dict[Path, str] = {}
        self.written_ns: dict[Path, int] = {}
        self.read: list[str] = []
        self._changed: set[Path] = set()
        self._some = asyncio.Event()
        self.closed = False
        for name, content in files.items():
            self.write(name, content)

    def write(self, name: str, content: str) -> None:
        path = Path("/in", f"{name}.wav")
        self.files[path] = content
        self.written_ns[path] = self.written_ns.get(path, 0) + 1
        self._changed.add(path)
        self._some.set()

    async def open(self) -> tuple[Path, ...]:
        self._changed.clear()
        self._some.clear()
        return tuple(self.files)

    async def changed(self) -> frozenset[Path]:
        await self._some.wait()
        self._some.clear()
        changed, self._changed = frozenset(self._changed), set()
        return changed

    def look(self, path: Path) -> Sight | None:
        content = self.files.get(path)
        return None if content is None else Sight(len(content), self.written_ns[path])

    async def close(self) -> None:
        self.closed = True

    def fingerprint(self, path: Path) -> str:
        self.read.append(path.stem)
        if path.stem == "gone":
            raise KnownError(ErrorCode.FILE_VANISHED, "Gone.")
        return self.files[path]


class Work:
    """A service that is done at once, or has no engine for a while."""

    def __init__(self, *failures: KnownError) -> None:
        self.added: list[tuple[float, str]] = []
        self.retried: list[float] = []
        self.runs = 0
        self._failures = list(failures)
        self._waiting: list[Job] = []
        self._moved = asyncio.Event()
        self.observer: Watching | None = None

    async def add(self, paths: list[Path]) -> None:
        now_s = asyncio.get_running_loop().time()
        for path in paths:
            self.added.append((now_s, path.stem))
            self._waiting.append(Job(path.stem, path))
        self._moved.set()

    async def retry(self, jobs: list[str]) -> None:
        self.retried.append(asyncio.get_running_loop().time())
        self._waiting += [Job(job, Path("/in", job)) for job in jobs]
        self._moved.set()

    async def run(self) -> tuple[Job, ...]:
        self.runs += 1
        await asyncio.sleep(0.5)
        waiting, self._waiting = self._waiting, []
        if waiting and self._failures:
            error = self._failures.pop(0)
            self.observer(EngineUnavailable(error))
            for job in waiting:
                ended = job.failed(error)
                self.observer(JobEnded(ended, Transcript(job.path, error=error)))
        return ()

    async def until(self, done) -> None:
        while not done(self):
            await self._moved.wait()
            self._moved.clear()


def names(work: Work) -> list[str]:
    return [name for _, name in work.added]


def watch(folders_of, story, library=None, failures=()):
    """Runs a story beside a watch; the service, the folders and what was passed over."""
    passed: list[tuple[str, str]] = []

    async def both():
        folders, work = folders_of(), Work(*failures)
        work.observer = watching = Watching(
            folders,
            library or MemoryLibrary(),
            folders,
            passed=lambda path, job: passed.append((path.stem, job)),
        )
        task = asyncio.create_task(watching.run(work))
        await asyncio.wait(
            [task, asyncio.create_task(story(folders, work))], return_when="FIRST_COMPLETED"
        )
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait([task])
        assert folders.closed
        return work, folders

    return (*run(both()), passed)


def test_what_is_there_is_taken_after_it_stood_still():
    async def story(folders, work):
        await work.until(lambda w: len(w.added) == 2)

    work, _, _ = watch(lambda: Folders(a="x", b="y"), story)
    assert work.added == [(3.0, "a"), (3.0, "b")]


def test_a_file_that_is_being_copied_is_taken_when_it_is_whole():
    async def story(folders, work):
        for size in range(1, 6):
            folders.write("a", "x" * size)
            await asyncio.sleep(2.0)
        await work.until(lambda w: w.added)

    work, folders, _ = watch(Folders, story)
    assert work.added == [(11.0, "a")]
    assert folders.read == ["a"]


def test_a_copy_is_not_taken_but_new_content_of_the_same_name_is():
    async def story(folders, work):
        await work.until(lambda w: w.added)
        folders.write("copy", "x")
        await asyncio.sleep(5)
        folders.write("a", "other")
        await work.until(lambda w: len(w.added) == 2)

    work, _, passed = watch(lambda: Folders(a="x"), story)
    assert names(work) == ["a", "a"]
    assert passed == [("copy", "")]


def shelved(*entries) -> MemoryLibrary:
    library = MemoryLibrary()
    for item in entries:
        library.rows[item.id] = item
    return library


def test_what_the_library_has_is_not_taken_again_and_what_a_machine_failed_at_is():
    done = entry("elsewhere.wav", content="x")
    away = failed("b.wav", content="y")
    bad = failed("c.wav", ErrorCode.NOT_AUDIO, content="z")

    async def story(folders, work):
        await work.until(lambda w: w.added)

    work, _, passed = watch(lambda: Folders(c="z", a="x", b="y"), story, shelved(done, away, bad))
    assert names(work) == ["b"]
    assert passed == [("a", done.id)]


def test_a_file_that_nobody_has_written_to_since_it_was_done_is_not_even_read():
    known = entry("in/a.wav", content="x", size_bytes=1, added_at=NOON)

    async def story(folders, work):
        await work.until(lambda w: w.added)

    work, folders, _ = watch(lambda: Folders(a="x", b="y"), story, shelved(known))
    assert names(work) == ["b"]
    assert folders.read == ["b"]


def test_an_unfinished_job_is_given_to_the_service_which_goes_on_with_it():
    async def story(folders, work):
        await work.until(lambda w: w.added)

    left = entry("in/a.wav", JobState.RUNNING, content="x", size_bytes=1)
    work, _, _ = watch(lambda: Folders(a="x"), story, shelved(left))
    assert names(work) == ["a"]


def test_a_file_that_vanishes_is_no_error():
    async def story(folders, work):
        await work.until(lambda w: w.added)

    work, _, _ = watch(lambda: Folders(gone="x", here="y"), story)
    assert names(work) == ["here"]


def test_a_machine_out_of_reach_is_tried_again_with_what_it_should_have_done():
    async def story(folders, work):
        await work.until(lambda w: len(w.retried) == 2 and w.runs >= 3)
        folders.write("b", "y")
        await work.until(lambda w: len(w.added) == 2)

    work, _, _ = watch(lambda: Folders(a="x"), story, failures=[AWAY, AWAY])
    assert len(work.retried) == 2
    assert work.retried[0] > 60
    assert names(work) == ["a", "b"]


def test_an_engine_that_can_never_be_had_ends_the_watch():
    async def story(folders, work):
        await asyncio.Event().wait()

    missing = KnownError(ErrorCode.ENGINE_MISSING, "None here.")
    with pytest.raises(KnownError) as caught:
        watch(lambda: Folders(a="x"), story, failures=[missing])
    assert caught.value is missing
