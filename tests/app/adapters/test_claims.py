"""Programs at once, of which one is a process that ends as programs do."""

import subprocess
import sys
from pathlib import Path

import pytest

from app.adapters.claims import ProgramPlace
from remote.protocol import ErrorCode, KnownError

OTHER = """
import sys
from pathlib import Path
from app.adapters.claims import ProgramPlace
place = ProgramPlace(Path(sys.argv[1]))
print(*sorted(place.take(sys.argv[2:])), place.spool.name, flush=True)
sys.stdin.read()
"""


def other(folder: Path, *jobs: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder), *jobs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_job_belongs_to_one_program_until_that_has_ended_in_whatever_way(tmp_path):
    place = ProgramPlace(tmp_path)
    assert place.take(["a", "b"]) == {"a", "b"}
    with other(tmp_path, "b", "c") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "c 1.spool\n"
        assert place.take(["a", "c", "d"]) == {"a", "d"}
        process.kill()
        process.wait()
    assert place.take(["c"]) == {"c"}
    place.close()


def test_the_next_program_finds_the_spool_of_the_one_before(tmp_path):
    first, second = ProgramPlace(tmp_path), ProgramPlace(tmp_path)
    assert first.spool != second.spool
    spool = first.spool
    first.close()
    third = ProgramPlace(tmp_path)
    assert third.spool == spool
    second.close()
    third.close()
    third.close()


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KnownError) as caught:
        ProgramPlace(tmp_path / "file" / "programs").take(["a"])
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE
    assert "FARSCRIBE_HOME" in caught.value.hint
