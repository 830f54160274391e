"""Which files are taken, and how text comes to the disk whole."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.adapters.folders import TextFolder, gather, write_whole
from app.domain.intake import Accepted, Passed, Refused
from remote.protocol import ErrorCode, KnownError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def accepted(*paths: Path) -> list[str]:
    return [found.path.name for found in gather(paths) if isinstance(found, Accepted)]


# ── in ───────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_gives_its_recordings_in_natural_order_files_before_folders(tmp_path):
    touch(tmp_path, "take 10.wav", "Take 9.mp3", "a/1.flac", "b/x/2.MP4", "take 1.wav")
    assert accepted(tmp_path) == [
        "take 1.wav", "Take 9.mp3", "take 10.wav", "1.flac", "2.MP4",
    ]  # fmt: skip


def test_what_is_hidden_or_no_recording_is_passed_over_and_told(tmp_path):
    touch(tmp_path, "a.wav", "notes.txt", ".b.wav", ".git/c.wav")
    found = list(gather([tmp_path]))
    assert accepted(tmp_path) == ["a.wav"]
    passed = {f.path.name: f.reason for f in found if isinstance(f, Passed)}
    assert passed == {"notes.txt": "not audio or video", ".b.wav": "hidden"}


def test_a_file_that_is_named_is_tried_whatever_its_name(tmp_path):
    touch(tmp_path, "voice", ".hidden.txt")
    assert accepted(tmp_path / "voice", tmp_path / ".hidden.txt") == ["voice", ".hidden.txt"]


def test_a_file_that_is_named_twice_runs_once(tmp_path):
    touch(tmp_path, "a.wav")
    found = list(gather([tmp_path / "a.wav", tmp_path]))
    assert [type(f) for f in found] == [Accepted, Passed]


def test_a_file_that_is_not_there_is_refused_and_the_next_is_taken(tmp_path):
    touch(tmp_path, "b.wav")
    refused, taken = gather([tmp_path / "a.wav", tmp_path / "b.wav"])
    assert isinstance(refused, Refused)
    assert refused.error.code is ErrorCode.FILE_MISSING
    assert isinstance(taken, Accepted)


def test_a_folder_without_recordings_is_refused(tmp_path):
    touch(tmp_path, "notes.txt")
    assert [type(f) for f in gather([tmp_path])] == [Passed, Refused]


def test_paths_become_absolute_since_the_engine_runs_elsewhere(tmp_path, monkeypatch):
    touch(tmp_path, "a.wav")
    monkeypatch.chdir(tmp_path)
    (found,) = gather([Path("a.wav")])
    assert found.path == tmp_path / "a.wav"


@pytest.mark.skipif(sys.platform != "linux", reason="names are Unicode elsewhere")
def test_a_name_that_is_not_unicode_is_refused_with_a_sentence(tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    path.touch()
    (found,) = gather([tmp_path / path.name])
    assert isinstance(found, Refused)
    assert found.error.code is ErrorCode.FILE_UNREADABLE


def test_links_to_folders_are_not_followed_in_circles(tmp_path):
    touch(tmp_path, "a/a.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert accepted(tmp_path) == ["a.wav"]


# ── out ──────────────────────────────────────────────────────────────────────────────────────


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_are_written_beside_the_recording_or_into_the_folder(tmp_path):
    beside = TextFolder(None).write(tmp_path / "a.wav", {"txt": b"1", "srt": b"2"})
    assert beside == (tmp_path / "a.txt", tmp_path / "a.srt")
    folder = TextFolder(tmp_path / "new" / "out")
    folder.prepare()
    (path,) = folder.write(tmp_path / "a.wav", {"txt": b"3"})
    assert path == tmp_path / "new" / "out" / "a.txt"
    assert path.read_bytes() == b"3"


def test_no_file_is_replaced_unless_it_is_wanted(tmp_path):
    touch(tmp_path, "a.srt")
    kept = TextFolder(None).write(tmp_path / "a.wav", {"txt": b"1", "srt": b"2"})
    assert [path.name for path in kept] == ["a (2).txt", "a (2).srt"]  # one name for all
    replaced = TextFolder(None, overwrite=True).write(tmp_path / "a.wav", {"srt": b"2"})
    assert replaced == (tmp_path / "a.srt",)
    assert (tmp_path / "a.srt").read_bytes() == b"2"


def test_two_recordings_of_one_name_keep_a_file_each_even_when_overwriting(tmp_path):
    folder = TextFolder(tmp_path, overwrite=True)
    folder.write(Path("/x/a.wav"), {"txt": b"1"})
    folder.write(Path("/y/a.mp3"), {"txt": b"2"})
    assert names(tmp_path) == {"a.txt", "a (2).txt"}


def test_writing_leaves_no_draft_behind_and_honours_the_umask(tmp_path):
    write_whole(tmp_path / "a.txt", b"1", replace=False)
    assert names(tmp_path) == {"a.txt"}
    if os.name == "posix":
        plain = tmp_path / "plain"
        plain.touch()
        assert (tmp_path / "a.txt").stat().st_mode == plain.stat().st_mode


def test_a_name_that_was_taken_meanwhile_is_not_replaced(tmp_path):
    touch(tmp_path, "a.txt")
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "a.txt", b"1", replace=False)
    assert (tmp_path / "a.txt").read_bytes() == b""
    assert names(tmp_path) == {"a.txt"}


def test_a_folder_that_cannot_be_made_is_found_before_the_work(tmp_path):
    touch(tmp_path, "file")
    with pytest.raises(KnownError) as caught:
        TextFolder(tmp_path / "file" / "out").prepare()
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE


def test_a_folder_that_vanished_is_told_when_writing(tmp_path):
    with pytest.raises(KnownError) as caught:
        TextFolder(tmp_path / "gone").write(Path("/a.wav"), {"txt": b"1"})
    assert caught.value.code is ErrorCode.OUTPUT_UNWRITABLE


FULL = """
import resource, sys
from pathlib import Path
from app.adapters.folders import TextFolder
from remote.protocol import KnownError
resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))
try:
    TextFolder(Path(sys.argv[1])).write(Path("/a.wav"), {"txt": b"longer than that"})
except KnownError as error:
    print(error.code)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files")
def test_a_full_disk_is_told_as_such_and_leaves_nothing_behind(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True
    )
    assert done.stdout == "disk-full\n"
    assert names(tmp_path) == set()
