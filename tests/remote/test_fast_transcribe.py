"""The front door as a process of its own, the way a person or a script uses it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from remote import model_starter
from remote.protocol import Done, ExitCode, Failed, Hello, Segments, decode

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "resources" / "sample.flac"
SAID = "ask what you can do for your country"

pytestmark = pytest.mark.skipif(
    not model_starter.installed("tiny.en"), reason="the starter model is not installed"
)


def run(
    *arguments: str, folder: Path = ROOT, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        input=given,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
        check=False,
    )


def test_a_bad_file_between_two_good_ones_stops_neither(tmp_path: Path) -> None:
    bad = tmp_path / "bad.wav"
    bad.write_text("no sound")
    out = tmp_path / "out"
    out.mkdir()
    done = run(
        "-m", "remote.fast_transcribe", str(SAMPLE), str(bad), str(SAMPLE),
        "--format", "json", "--output", str(out), "--json-lines", "--words",
    )  # fmt: skip
    assert done.returncode == ExitCode.INPUT, done.stderr.decode()
    assert "bad.wav is no audio" in done.stderr.decode()
    messages = [decode(line) for line in done.stdout.splitlines()]
    assert isinstance(messages[0], Hello)
    ends = [m for m in messages if isinstance(m, Done | Failed)]
    assert [(type(m), m.job) for m in ends] == [(Done, "1"), (Failed, "2"), (Done, "3")]
    for job in ("1", "3"):
        numbers = [m.seq for m in messages if getattr(m, "job", "") == job]
        assert numbers == list(range(1, len(numbers) + 1))
    said = [m for m in messages if isinstance(m, Segments) and m.job == "1"]
    body = json.loads((out / "sample.flac.json").read_text(encoding="utf-8"))
    assert body["text"] == " ".join(s.text for m in said for s in m.segments)
    assert SAID in body["text"]
    assert all(segment["words"] for segment in body["segments"])


@pytest.mark.parametrize("script", ["fast_transcribe.py", "direct_transcribe.py"])
def test_the_scripts_work_from_inside_their_folder(script: str) -> None:
    done = run(script, str(SAMPLE), folder=ROOT / "remote")
    assert done.returncode == ExitCode.OK, done.stderr.decode()
    assert SAID in done.stdout.decode()
    log = done.stderr.decode()
    assert "× real time (real-time factor" in log
    assert "loaded in" in log
    assert "strategy" in log


def test_an_output_that_has_no_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    done = run(
        "-m", "remote.fast_transcribe", str(SAMPLE), "--output", str(tmp_path / "no" / "x.srt")
    )
    assert done.returncode == ExitCode.OUTPUT
    assert "does not exist" in done.stderr.decode()
    assert b"loaded" not in done.stderr


def test_a_client_is_told_of_a_missing_model_on_the_wire() -> None:
    done = run("-m", "remote.fast_transcribe", "pipe", "--model", "nonesuch")
    (line,) = done.stdout.splitlines()
    told = decode(line)
    assert isinstance(told, Failed)
    assert told.code == "model-missing"
    assert done.returncode == ExitCode.MODEL
