"""Folders that are really watched, by the command as a process of its own, with a fake engine."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from remote.protocol import ExitCode
from tests.app.adapters.library_jobs import Shelf

posix = pytest.mark.skipif(os.name != "posix", reason="signals")

COMMAND = (
    "import sys; from app.cli.main import main;"
    " sys.exit(main(sys.argv[2:], engine_program=eval(sys.argv[1])))"
)


def watch(engine: list[str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, repr(engine), "watch", "--settle", "0.1", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def until(process: subprocess.Popen[str], word: str) -> list[str]:
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if word in line:
            return lines
    pytest.fail(f"it ended with {lines}")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    return Path("in")


@posix
def test_what_is_there_and_what_comes_becomes_text_once_until_ctrl_c(fake_engine, folder, home):
    (folder / "a.wav").write_text("one")
    with watch(fake_engine(), "in", "--output", "in/texts", "--format", "txt,srt") as process:
        until(process, "a.wav: written to")
        (folder / "copy.wav").write_text("one")
        until(process, "copy.wav: the same was transcribed before")
        (folder / "hang.wav").write_text("two")
        (folder / "b.wav").write_text("three")
        until(process, "b.wav: written to")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.OK
    assert (out, "Traceback" in err) == ("", False)
    names = {path.name for path in (folder / "texts").iterdir()}
    assert names == {"a.txt", "a.srt", "b.txt", "b.srt"}
    with Shelf(home / "library.sqlite") as shelf:
        states = {entry.path.name: entry.state.value for entry in shelf.entries()}
    assert states["a.wav"] == states["b.wav"] == "done"
    assert states["hang.wav"] in ("waiting", "running")  # it goes on another time


def test_a_folder_that_cannot_be_watched_ends_the_command_with_the_next_step(
    farscribe, folder, home, capsys
):
    assert farscribe("watch", "absent") == ExitCode.INPUT
    assert farscribe("watch", str(home)) == ExitCode.USAGE
    assert farscribe("watch", "in", "--output", ".") == ExitCode.USAGE
    assert "cannot be watched" in capsys.readouterr().err
    assert list(folder.parent.iterdir()) == [folder]


def test_an_engine_that_is_not_there_ends_the_watch(farscribe, folder, capsys):
    (folder / "a.wav").write_text("one")
    status = farscribe("watch", "in", "--settle", "0", start="incomplete")
    assert status == ExitCode.DEVICE
    assert 'pip install "farscribe[worker]"' in capsys.readouterr().err
