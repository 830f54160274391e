"""A library that is locked, damaged, newer, full or out of reach says so and loses nothing."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from app.adapters.library import schema
from app.adapters.library.file import LibraryFile
from app.domain.jobs import JobState
from remote.protocol import ErrorCode, KnownError, Progress
from tests.app.adapters.library_jobs import Shelf, entry, segments

PAGE = 4096

posix = pytest.mark.skipif(os.name != "posix", reason="permissions, limits and open files")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "library.sqlite"


@pytest.fixture
def ids(path: Path) -> list[str]:
    """A library with three jobs of 200 segments; it is closed."""
    with Shelf(path) as shelf:
        return [
            shelf.has_said(*(f"job{job} segment{n} {'x' * 40}" for n in range(200)))
            for job in range(3)
        ]


def error_of(call: Callable[[], object]) -> KnownError:
    with pytest.raises(KnownError) as caught:
        call()
    assert caught.value.hint
    return caught.value


def damage(path: Path, first: int, last: int) -> None:
    """Overwrites bytes of the file."""
    with path.open("r+b") as file:
        file.seek(first)
        file.write(b"\xa5" * (last - first))


def pages_of(path: Path, table: str) -> list[int]:
    """Numbers of the pages, from 0, that hold rows of a table."""
    with closing(sqlite3.connect(path)) as connection:
        root = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()[0]
    pages = path.read_bytes()
    interior = pages[(root - 1) * PAGE : root * PAGE]
    assert interior[0] == 5  # an interior page of a table: its cells name its leaves
    count = int.from_bytes(interior[3:5], "big")
    cells = [int.from_bytes(interior[12 + 2 * i : 14 + 2 * i], "big") for i in range(count)]
    return [int.from_bytes(interior[cell : cell + 4], "big") - 1 for cell in cells]


def kept(path: Path) -> list[str]:
    return sorted(file.name for file in path.parent.glob("library-damaged-*"))


# ── where it lies ────────────────────────────────────────────────────────────────────────────


@posix
def test_the_file_is_its_owners_alone(path, ids):
    with Shelf(path) as shelf:
        shelf.has_said("x")
        files = list(path.parent.iterdir())
        assert path.with_name("library.sqlite-wal") in files
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_nothing_is_made_before_the_first_call(path):
    with Shelf(path):
        assert not path.parent.exists()


def test_a_house_that_is_a_file_is_told_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    with Shelf(tmp_path / "file" / "library.sqlite") as shelf:
        error = error_of(shelf.entries)
    assert error.code is ErrorCode.OUTPUT_UNWRITABLE
    assert "FARSCRIBE_HOME" in error.hint


CHILD = """
import asyncio, os, resource, sys
from pathlib import Path
from app.adapters.library.library import SqliteLibrary
from remote.protocol import KnownError
from tests.app.adapters.library_jobs import entry, segments

async def main(how, path):
    library = SqliteLibrary(path)
    if how == "read-only" and os.getuid() == 0:
        os.setuid(65534)
    elif how == "full":
        await library.open()
        size = path.stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    job = entry()
    try:
        await library.add([job])
        for seq in range(1, 100):
            await library.append(job.id, [segments(job.id, seq, ["x" * 500] * 20)])
    except KnownError as error:
        print(error.code)
    if how == "full":  # there is room again
        before = await library.entry(job.id)
        whole = len((await library.transcript(job.id)).segments) == 20 * before.seq
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        after = await library.append(job.id, [segments(job.id, before.seq + 1, ["more"])])
        print(whole, after - before.seq)
    await library.close()

asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
"""


def child(how: str, path: Path) -> list[str]:
    """What a process of its own says that stores much under some condition."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, how, str(path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.stderr == ""
    return done.stdout.split()


@posix
def test_a_full_disk_is_told_and_when_there_is_room_again_it_goes_on(path):
    assert child("full", path) == ["disk-full", "True", "1"]


@posix
def test_a_folder_that_may_not_be_written_is_told(path, ids):
    for file in (path.parent, path):
        file.chmod(file.stat().st_mode & ~0o222 | 0o044)
    path.parent.chmod(0o555)
    assert child("read-only", path) == ["output-unwritable"]
    path.parent.chmod(0o755)


# ── somebody else ────────────────────────────────────────────────────────────────────────────


def test_a_locked_library_is_told_with_the_next_step_and_can_be_read(path, ids):
    with Shelf(path, patience_s=0.05) as shelf, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        shelf.open()
        error = error_of(lambda: shelf.edit(ids[0], 0, "x"))
        assert (error.code, str(path) in error.message) == (ErrorCode.LIBRARY_LOCKED, True)
        assert len(shelf.search("segment7")) == 3
        other.execute("ROLLBACK")
        shelf.edit(ids[0], 0, "x")
        assert shelf.found("x") == ["x"]


def test_a_library_that_is_held_for_one_program_alone_is_locked_from_the_start(path, ids):
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with Shelf(path, patience_s=0.05) as shelf:
            assert error_of(shelf.entries).code is ErrorCode.LIBRARY_LOCKED


@posix
def test_a_file_that_was_taken_away_while_it_was_open_is_made_anew(path, ids):
    with Shelf(path) as shelf:
        shelf.edit(ids[0], 0, "x")
        away = path.rename(path.with_name("away"))
        job = shelf.has_said("written")
        assert [found.id for found in shelf.entries()] == [job]
    with Shelf(path) as shelf:
        assert shelf.texts(job) == ["written"]
    with Shelf(away) as shelf:
        assert len(shelf.entries()) == 3


# ── versions ─────────────────────────────────────────────────────────────────────────────────


def set_version(path: Path, major: int, minor: int) -> bytes:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {schema.Version(major, minor).number}")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path.read_bytes()


def test_a_library_of_a_newer_major_version_is_refused_and_not_touched(path, ids):
    before = set_version(path, 2, 0)
    with Shelf(path) as shelf:
        error = error_of(shelf.entries)
    assert (error.code, path.read_bytes() == before) == (ErrorCode.LIBRARY_NEWER, True)
    assert error.hint.startswith("Update farscribe")


def test_a_library_of_a_newer_minor_version_is_used(path, ids):
    set_version(path, 1, 7)
    with Shelf(path) as shelf:
        assert len(shelf.entries()) == 3
        shelf.has_said("more")
    with closing(sqlite3.connect(path)) as connection:
        assert schema.Version.of(connection) == schema.Version(1, 7)


def test_a_database_of_another_program_is_refused_and_not_touched(path):
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE job (x)")
    before = path.read_bytes()
    with Shelf(path) as shelf:
        assert error_of(shelf.entries).code is ErrorCode.LIBRARY_BROKEN
    assert path.read_bytes() == before


def steps_with(tmp_path: Path, script: str) -> tuple[schema.Step, ...]:
    (tmp_path / "more.sql").write_text(script)
    return (*schema.steps(), schema.Step(schema.Version(1, 1), tmp_path / "more.sql"))


def test_an_older_library_is_brought_up_to_date_and_keeps_what_it_has(path, ids, tmp_path):
    steps = steps_with(tmp_path, "-- more;\nALTER TABLE job ADD COLUMN star INTEGER;\n")
    for _ in range(2):
        file = LibraryFile(path, 1.0, steps)
        stars = file.read(lambda c: c.execute("SELECT star FROM job").fetchall())
        version = file.read(schema.Version.of)
        file.close()
        assert (stars, version) == ([(None,)] * 3, schema.Version(1, 1))


def test_a_step_that_fails_leaves_the_library_as_it_was(path, ids, tmp_path):
    steps = steps_with(tmp_path, "DELETE FROM segment; SELECT nothing;")
    file = LibraryFile(path, 1.0, steps)
    with pytest.raises(sqlite3.OperationalError):
        file.prepare()
    with Shelf(path) as shelf:
        assert len(shelf.texts(ids[0])) == 200


def test_the_schema_is_where_the_program_finds_it():
    assert [step.script.name for step in schema.steps()] == ["schema.sql"]
    assert all(step.script.is_file() for step in schema.steps())


# ── damage ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 1000, b"SQLite format 3\0"])
def test_a_file_that_is_no_library_is_kept_and_a_new_one_is_begun(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    with Shelf(path) as shelf:
        assert shelf.entries() == ()
        job = shelf.has_said("new")
        notes = shelf.library.notes
    with Shelf(path) as shelf:
        assert shelf.texts(job) == ["new"]
        assert shelf.library.notes == ()
    if content:
        (name,) = kept(path)
        assert (path.parent / name).read_bytes() == content
        assert "nothing of it could be read" in notes[0]
        assert name in notes[0]
    else:
        assert (kept(path), notes) == ([], ())


def test_damage_in_a_text_costs_that_text_and_the_job_begins_anew(path, ids):
    with Shelf(path) as shelf:
        shelf.edit(ids[1], 0, "edited")
        shelf.note_export(ids[1], [Path("/b.txt")])
        before = [shelf.entry(job) for job in ids]
    leaf = pages_of(path, "segment")[0]  # the newest job has the smallest ids
    damage(path, leaf * PAGE, leaf * PAGE + PAGE)
    with Shelf(path) as shelf:
        assert len(shelf.texts(ids[0])) == len(shelf.texts(ids[1])) == 200
        assert shelf.texts(ids[1])[0] == "edited"
        left = shelf.texts(ids[2])
        assert 0 < len(left) < 200
        assert [shelf.entry(job) for job in ids[:2]] == before[:2]
        hurt = shelf.entry(ids[2])
        assert (hurt.state, hurt.seq, hurt.error.code) == (
            JobState.FAILED,
            0,
            ErrorCode.LIBRARY_BROKEN,
        )
        assert shelf.found("job1 segment7")
        assert "3 recordings" in shelf.library.notes[0]
        assert "1 of them without all of their text" in shelf.library.notes[0]
        shelf.update(ids[2], state=JobState.WAITING, error=None)
        shelf.append(ids[2], [segments(ids[2], 1, ["anew"])])
        assert shelf.texts(ids[2]) == ["anew"]
        assert shelf.entries()[0].id == ids[2]
        assert shelf.entry(shelf.has_said("next")).id == shelf.entries()[0].id
    assert len(kept(path)) == 1


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_of_a_file_that_was_cut_off_what_is_left_is_saved(path, ids, share):
    size = path.stat().st_size
    os.truncate(path, int(size * share) // PAGE * PAGE)
    with Shelf(path) as shelf:
        entries = shelf.entries()
        texts = {found.id: shelf.texts(found.id) for found in entries}
        for found in entries:
            assert len(texts[found.id]) == 200 or found.state is JobState.FAILED
            assert set(texts[found.id]) <= {
                f"job{ids.index(found.id)} segment{n} {'x' * 40}" for n in range(200)
            }
        assert len(shelf.library.notes) == 1
        shelf.has_said("on we go")
    assert len(kept(path)) == 1


def test_wherever_a_page_is_damaged_the_library_works_and_says_what_it_has_lost(path, ids):
    whole = path.read_bytes()
    for page in [*range(9), *range(9, len(whole) // PAGE, 5)]:  # first those of the tables
        path.write_bytes(whole)
        damage(path, page * PAGE, page * PAGE + PAGE)
        with Shelf(path) as shelf:
            for found in shelf.entries():
                complete = len(shelf.texts(found.id)) == 200
                assert complete or shelf.library.notes, page
            shelf.search("segment7")
            assert shelf.texts(shelf.has_said("new")) == ["new"]
            shelf.remove(shelf.entries()[0].id)


def test_damage_that_happens_while_the_library_is_open_is_mended_within_the_call(path, ids):
    with Shelf(path) as shelf:
        shelf.append(ids[0], [Progress(ids[0], 3, "mel", 0)])
        leaf = pages_of(path, "segment")[0]
        damage(path, leaf * PAGE, leaf * PAGE + PAGE)
        for job in ids:
            shelf.edit(job, 0, "edited")
        assert len(shelf.entries()) == 3
        assert len(shelf.library.notes) == 1
        assert shelf.found("edited") == ["edited"] * 3


def test_a_damaged_library_that_another_program_has_open_is_left_to_it(path, ids):
    with closing(sqlite3.connect(path)) as other:
        other.execute("SELECT count(*) FROM job").fetchone()
        leaf = pages_of(path, "segment")[0]
        damage(path, leaf * PAGE, leaf * PAGE + PAGE)
        with Shelf(path, patience_s=0.05) as shelf:
            error = error_of(lambda: shelf.texts(ids[2]))
            assert (error.code, "damaged" in error.message) == (ErrorCode.LIBRARY_LOCKED, True)
            assert kept(path) == []
            other.close()
            assert shelf.texts(ids[2])
            assert len(kept(path)) == 1


def test_each_damaged_file_is_kept_under_a_name_of_its_own(path):
    path.parent.mkdir()
    for _ in range(3):
        path.write_bytes(b"nonsense" * 1000)
        with Shelf(path) as shelf:
            assert shelf.entries() == ()
    first, second, third = kept(path)
    assert len({first, second, third}) == 3


def test_a_rescue_that_was_broken_off_before_its_last_step_is_completed(path, ids):
    path.rename(path.with_name("library.sqlite.new"))
    with Shelf(path) as shelf:
        assert len(shelf.entries()) == 3


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert {record.name for record in caplog.records} <= {
        "app.adapters.library.file",
        "app.adapters.library.rescue",
        "asyncio",
    }


def test_entries_of_a_damaged_row_are_left_out_rather_than_told_wrongly(path, ids):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE job SET summary = '{' WHERE id = ?", (ids[0],))
        connection.execute("UPDATE segment SET start_ms = 'soon' WHERE text LIKE 'job1 segment5 %'")
        connection.commit()
    leaf = pages_of(path, "segment")[0]
    damage(path, leaf * PAGE, leaf * PAGE + PAGE)
    with Shelf(path) as shelf:
        shelf.texts(ids[2])  # meets the damage
        assert [found.id for found in shelf.entries()] == ids[2:0:-1]
        assert len(shelf.texts(ids[1])) == 199
        assert shelf.entry(ids[1]).state is JobState.FAILED


def test_a_job_can_be_added_after_a_rescue(path, ids):
    damage(path, 0, PAGE)
    with Shelf(path) as shelf:
        shelf.add([entry()])
        assert len(shelf.entries()) == 1
