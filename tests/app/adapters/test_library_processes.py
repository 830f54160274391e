"""Several programs with one library, and one that is killed while it writes."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from app.domain.jobs import JobState
from tests.app.adapters.library_jobs import Shelf, entry, segments

ROOT = Path(__file__).parents[3]
PIECES = 20
"""Segments in each event of a child."""

CHILD = """
import asyncio, sys
from pathlib import Path
from app.adapters.library.library import SqliteLibrary
from tests.app.adapters.library_jobs import segments

async def main(path, events, job):
    library = SqliteLibrary(Path(path), patience_s=60)
    for seq in range(1, int(events) + 1):
        event = segments(job, seq, [f"event{seq} segment{n}" for n in range(20)], seq * 20_000)
        print(await library.append(job, [event]), flush=True)
    await library.close()

asyncio.run(main(*sys.argv[1:]))
"""


def writer(path: Path, job: str, events: int) -> "subprocess.Popen[str]":
    """A process that appends events to a job and says the number of each that is stored."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(events), job],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def all_end_well(writers: Sequence["subprocess.Popen[str]"]) -> list[list[str]]:
    """What each of them has said."""
    said = [process.communicate()[0].split() for process in writers]
    assert [process.returncode for process in writers] == [0] * len(writers)
    return said


@pytest.mark.parametrize("heard", [1, 7, 30])
def test_a_writer_that_is_killed_leaves_what_it_has_told_and_nothing_torn(tmp_path, heard):
    path, job = tmp_path / "library.sqlite", entry(state=JobState.RUNNING)
    with Shelf(path) as shelf:
        shelf.add([job])
    with writer(path, job.id, 100_000) as process:
        assert process.stdout
        told = [int(process.stdout.readline()) for _ in range(heard)][-1]
        process.kill()
    with Shelf(path) as shelf:
        seq = shelf.entry(job.id).seq
        assert seq >= told
        whole = [f"event{n} segment{m}" for n in range(1, seq + 1) for m in range(PIECES)]
        assert shelf.texts(job.id) == whole
        assert shelf.append(job.id, [segments(job.id, seq + 1, ["on"], 10**9)]) == seq + 1
        assert shelf.found(f'"event{seq} segment3"') == [f"event{seq} segment3"]
        assert shelf.library.notes == ()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.execute("INSERT INTO search (search) VALUES ('integrity-check')")


def test_two_programs_at_once_store_all_that_each_is_told(tmp_path):
    path, jobs = tmp_path / "library.sqlite", [entry(), entry()]
    with Shelf(path) as shelf:
        shelf.add(jobs)
        said = all_end_well([writer(path, job.id, 30) for job in jobs])
        assert said == [[str(seq) for seq in range(1, 31)]] * 2
        for job in jobs:
            assert len(set(shelf.texts(job.id))) == 30 * PIECES
        assert len(shelf.search("segment1", limit=100)) == 60


def test_two_programs_that_are_told_the_same_store_it_once(tmp_path):
    path, job = tmp_path / "library.sqlite", entry()
    with Shelf(path) as shelf:
        shelf.add([job])
        all_end_well([writer(path, job.id, 30) for _ in range(2)])
        texts = shelf.texts(job.id)
        assert texts == [f"event{n} segment{m}" for n in range(1, 31) for m in range(PIECES)]


def test_programs_that_begin_a_library_at_once_all_use_the_same(tmp_path):
    path = tmp_path / "home" / "library.sqlite"
    begin = (
        "import sys; from pathlib import Path; from tests.app.adapters.library_jobs import Shelf\n"
        "sys.stdin.read()\n"
        "with Shelf(Path(sys.argv[1]), patience_s=60) as shelf: shelf.has_said('here')"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", begin, str(path)],
            stdin=subprocess.PIPE,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdin
        child.stdin.close()
    assert [child.wait() for child in children] == [0, 0, 0]
    with Shelf(path) as shelf:
        assert len(shelf.found("here")) == 3
