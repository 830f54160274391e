"""The worker's folder: what is in it, for how long, and how much."""

import hashlib
import io
import os
from pathlib import Path

import pytest

from remote.journal import Journal
from remote.protocol import Block, Blocks, Done, Source, Summary, Transcribe
from remote.spool import MAX_AGE_S, Spool

DAY_S = 24 * 3600.0
LONG_UP_S = 3600.0


class Clocks:
    """A clock that never goes back, and one that may jump; both start at the file system's now."""

    def __init__(self) -> None:
        self.up_s = 0.0
        self.jumped_s = 0.0
        self.began_s = 1_800_000_000.0

    def clock(self) -> float:
        return self.up_s

    def now(self) -> float:
        return self.began_s + self.up_s + self.jumped_s


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


def spool(folder: Path, clocks: Clocks, max_bytes: int = 0) -> Spool:
    return Spool(folder, max_bytes=max_bytes, clock=clocks.clock, now=clocks.now)


def job(kept: Spool, name: str, *blocks: str, ended: bool = True, age_s: float = 0.0) -> Journal:
    """A job whose journal was last written so long ago."""
    journal = kept.create(Transcribe(name, Source("blocks", "x.mp3")))
    journal.add_blocks(Blocks(name, 0, tuple(Block(block, 16_000) for block in blocks), True))
    if ended:
        journal.tell(lambda seq: Done(name, seq, Summary()))
    written_s = kept._now() - age_s
    os.utime(journal.path, (written_s, written_s))
    return journal


def put(kept: Spool, data: bytes) -> str:
    block = hashlib.sha256(data).hexdigest()
    kept.blocks.store(block, len(data), io.BytesIO(data).read)
    return block


def names(journals: list[Journal]) -> list[str]:
    return [journal.request.job for journal in journals]


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "name", ["a1", "0" * 200, "../../etc/passwd", "", ".", "a/b", "Straße", "x\0y", "\ud800", "-"]
)
def test_any_name_of_a_job_is_a_file_in_the_folder(
    tmp_path: Path, clocks: Clocks, name: str
) -> None:
    kept = spool(tmp_path / "spool", clocks)
    journal = kept.create(Transcribe(name, Source("path", "/x.wav")))
    assert journal.path.parent == tmp_path / "spool" / "jobs"
    journal.close()
    (found,) = spool(tmp_path / "spool", clocks).recover()
    assert found.request.job == name
    assert [path.name for path in tmp_path.iterdir()] == ["spool"]


def test_what_never_became_a_job_is_removed_on_recovery(tmp_path: Path, clocks: Clocks) -> None:
    kept = spool(tmp_path, clocks)
    job(kept, "a", ended=False).close()
    (tmp_path / "jobs" / "half.journal").write_bytes(b'{"type":"transcr')
    assert names(kept.recover()) == ["a"]
    assert not (tmp_path / "jobs" / "half.journal").exists()


def test_the_folder_is_for_its_user_alone(tmp_path: Path, clocks: Clocks) -> None:
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o755)
    spool(folder, clocks)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "jobs").stat().st_mode & 0o777 == 0o700


# ── audio ────────────────────────────────────────────────────────────────────────────────────


def test_a_job_takes_its_audio_along_but_not_that_of_others(tmp_path: Path, clocks: Clocks) -> None:
    kept = spool(tmp_path, clocks)
    own, shared = put(kept, b"own"), put(kept, b"shared")
    one = job(kept, "one", own, shared)
    other = job(kept, "other", shared, ended=False)
    kept.drop_audio(one, [other])
    assert kept.blocks.held([own, shared]) == {shared}
    kept.forget(one, [other])
    assert not one.path.exists()
    kept.forget(other, [])
    assert kept.blocks.held([own, shared]) == set()
    assert kept.bytes_used() == 0


def test_blocks_that_nobody_names_go_after_a_while(tmp_path: Path) -> None:
    kept = Spool(tmp_path)
    loose, named, fresh = put(kept, b"loose"), put(kept, b"named"), put(kept, b"fresh")
    for block in (loose, named):
        os.utime(kept.blocks.path(block), (1_000_000, 1_000_000))
    journal = job(kept, "a", named, ended=False)
    assert kept.sweep([journal]) == []
    assert kept.blocks.held([loose, named, fresh]) == {named, fresh}


# ── bounds ───────────────────────────────────────────────────────────────────────────────────


def test_jobs_that_nobody_fetches_go_by_their_age(tmp_path: Path, clocks: Clocks) -> None:
    kept = spool(tmp_path, clocks)
    clocks.up_s = LONG_UP_S
    old = job(kept, "old", age_s=MAX_AGE_S + 1)
    young = job(kept, "young", age_s=MAX_AGE_S - DAY_S)
    left = job(kept, "left", ended=False, age_s=MAX_AGE_S + 1)
    working = job(kept, "working", ended=False)
    assert names(kept.sweep([young, old, left, working])) == ["old", "left"]


def test_of_ended_jobs_the_oldest_go_where_there_is_too_much(
    tmp_path: Path, clocks: Clocks
) -> None:
    kept = spool(tmp_path, clocks)
    jobs = [job(kept, name, age_s=age) for name, age in (("b", 20), ("c", 10), ("a", 30))]
    unended = job(kept, "unended", ended=False, age_s=DAY_S)
    size = jobs[0].path.stat().st_size
    clocks.up_s = LONG_UP_S
    tight = spool(tmp_path, clocks, max_bytes=kept.bytes_used() - size - 1)
    clocks.up_s += LONG_UP_S
    assert names(tight.sweep([*jobs, unended])) == ["a", "b"]
    roomy = spool(tmp_path, clocks, max_bytes=kept.bytes_used())
    clocks.up_s += LONG_UP_S
    assert roomy.sweep([*jobs, unended]) == []


def test_what_goes_by_its_age_counts_for_the_size(tmp_path: Path, clocks: Clocks) -> None:
    kept = spool(tmp_path, clocks)
    old, young = job(kept, "old", age_s=MAX_AGE_S + DAY_S), job(kept, "young")
    tight = spool(tmp_path, clocks, max_bytes=kept.bytes_used() - 1)
    clocks.up_s = LONG_UP_S
    assert names(tight.sweep([old, young])) == ["old"]


def test_a_worker_that_has_just_started_removes_no_job(tmp_path: Path, clocks: Clocks) -> None:
    kept = spool(tmp_path, clocks)
    old = job(kept, "old", age_s=MAX_AGE_S + DAY_S)
    assert kept.sweep([old]) == []


@pytest.mark.parametrize("jumped_s", [30 * 365 * DAY_S, -30 * 365 * DAY_S])
def test_a_clock_that_jumps_makes_no_job_old(
    tmp_path: Path, clocks: Clocks, jumped_s: float
) -> None:
    kept = spool(tmp_path, clocks)
    before = job(kept, "before", age_s=DAY_S)
    clocks.up_s = LONG_UP_S
    clocks.jumped_s = jumped_s
    after = job(kept, "after")
    assert kept.sweep([before, after]) == []
    clocks.up_s += MAX_AGE_S + DAY_S
    assert "before" in names(kept.sweep([before, after])) or jumped_s < 0
