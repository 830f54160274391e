"""The front door: the earlier system's commands, many files with bad ones between, the wire."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pysubs2
import pytest

from remote import direct_transcribe, fast_transcribe, protocol
from remote.protocol import (
    Done,
    ErrorCode,
    ExitCode,
    Failed,
    Hello,
    Message,
    Options,
    Progress,
    Segments,
    Source,
    Transcribe,
)
from tests.remote.loaded_model import Loaded
from tests.remote.loopback_server import uploads
from tests.remote.recordings import SAMPLE, speech, write

ROOT = Path(__file__).parents[2]
WORDS = "ask not what your country can do for you"
CLIP_WORDS = "and so my fellow americans"


def plain(text: str) -> str:
    return " ".join("".join(c if c.isalpha() else " " for c in text.lower()).split())


@pytest.fixture(scope="session")
def home(tiny_en: Loaded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of farscribe with tiny.en in it."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    (home / "models" / "tiny.en").symlink_to(tiny_en.folder, target_is_directory=True)
    return home


def child(
    home: Path, *arguments: str, cwd: Path = ROOT, lines: Sequence[Message] = ()
) -> subprocess.CompletedProcess[bytes]:
    """What a command of the earlier system, or one of a client, comes to."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        input=b"".join(map(protocol.encode, lines)),
        capture_output=True,
        check=False,
        env={**os.environ, "FARSCRIBE_HOME": str(home)},
        timeout=200,
    )


def messages(lines: bytes) -> list[Message]:
    """Every line of it as a message of the wire."""
    found = [protocol.decode(line) for line in lines.splitlines(keepends=True)]
    assert all(found)
    return [message for message in found if message]


# ── child processes ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("script", ["fast_transcribe.py", "direct_transcribe.py"])
def test_the_earlier_systems_commands_work_word_for_word(home: Path, script: str) -> None:
    sample = os.path.relpath(SAMPLE, ROOT / "remote")
    done = child(home, script, sample, cwd=ROOT / "remote")
    log = done.stderr.decode()
    assert done.returncode == 0, log
    assert WORDS in plain(done.stdout.decode())
    for fact in ("loaded in", "strategy", "× real time (real-time factor", "peak memory"):
        assert fact in log
    assert all(line[:2] == "20" for line in log.splitlines())  # each begins with the time


def test_a_client_is_served_over_standard_input_and_output(home: Path, tmp_path: Path) -> None:
    asked = [
        Transcribe("missing", Source("path", str(tmp_path / "none.wav"))),
        Transcribe("sample", Source("path", str(SAMPLE)), Options(words=True)),
    ]
    done = child(home, "-m", "remote.fast_transcribe", "pipe", "--dtype", "float32", lines=asked)
    assert done.returncode == 0, done.stderr.decode()
    hello, *events = messages(done.stdout)
    assert isinstance(hello, Hello)
    assert (hello.model, hello.device, hello.dtype) == ("tiny.en", "cpu", "float32")
    assert hello.load_s > 0
    failed = [event for event in events if isinstance(event, Failed)]
    assert [(event.job, event.code) for event in failed] == [("missing", ErrorCode.FILE_MISSING)]
    of_sample = [event for event in events if getattr(event, "job", "") == "sample"]
    assert [getattr(event, "seq", 0) for event in of_sample] == [*range(1, len(of_sample) + 1)]
    assert isinstance(of_sample[-1], Done)
    segments = [s for event in of_sample if isinstance(event, Segments) for s in event.segments]
    assert WORDS in plain(" ".join(segment.text for segment in segments))
    assert all(segment.words for segment in segments)


def test_a_client_is_told_that_the_model_is_missing(home: Path) -> None:
    done = child(home, "-m", "remote.fast_transcribe", "pipe", "--model", "tiny.e")
    assert done.returncode == ExitCode.MODEL
    (failed,) = messages(done.stdout)
    assert isinstance(failed, Failed)
    assert (failed.job, failed.seq, failed.code) == ("", 0, ErrorCode.MODEL_MISSING)
    assert "tiny.en" in failed.hint
    assert b"Traceback" not in done.stderr


# ── in this process ──────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two and a half seconds of speech."""
    return write(tmp_path_factory.mktemp("audio") / "clip.wav", speech()[None, :40_000])


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """What is no recording in spite of its name."""
    path = tmp_path / "notes.wav"
    path.write_text("These are the minutes.\n" * 40, encoding="utf-8")
    return path


def run(loaded: Loaded, *arguments: str | Path) -> int:
    model = ("--model", str(loaded.folder), "--device", "cpu", "--dtype", "float32")
    return fast_transcribe.main([*map(str, arguments), *model])


def test_a_bad_file_does_not_stop_the_rest(
    tiny_en: Loaded, clip: Path, notes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    gone = tmp_path / "gone.wav"
    status = run(tiny_en, notes, clip, gone, SAMPLE, "--output", folder, "--format", "srt")
    assert status == ExitCode.INPUT
    assert {path.name for path in folder.iterdir()} == {"clip.wav.srt", "sample.flac.srt"}
    for name, words in (("clip.wav.srt", CLIP_WORDS), ("sample.flac.srt", WORDS)):
        read = pysubs2.SSAFile.load(str(folder / name))
        assert words in plain(" ".join(event.plaintext for event in read))
    said = capsys.readouterr()
    assert said.out == ""
    for path, why in ((notes, "no audio"), (gone, "does not exist")):
        (line,) = [line for line in said.err.splitlines() if line.startswith(f"{path}: ")]
        assert why in line


def test_the_events_are_lines_of_the_wire_without_a_hole(
    tiny_en: Loaded,
    clip: Path,
    notes: Path,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    told = ("--json-lines", "--words", "--format", "json", "--output", tmp_path)
    assert run(tiny_en, clip, notes, clip, *told) == ExitCode.INPUT
    hello, *events = messages(capsysbinary.readouterr().out)
    assert isinstance(hello, Hello)
    by_job: dict[str, list[Message]] = {}
    for event in events:
        assert isinstance(event, Progress | Segments | Done | Failed)
        before = by_job.setdefault(event.job, [])
        before.append(event)
        assert event.seq == len(before)
    assert list(by_job) == ["1", "2", "3"]
    (failed,) = by_job["2"]
    assert isinstance(failed, Failed)
    assert failed.code is ErrorCode.NOT_AUDIO
    body = json.loads((tmp_path / "clip.wav.json").read_text(encoding="utf-8"))
    for job in ("1", "3"):
        done = by_job[job][-1]
        assert isinstance(done, Done)
        assert done.summary.duration_ms == 2500
        said = [s for e in by_job[job] if isinstance(e, Segments) for s in e.segments]
        assert " ".join(segment.text for segment in said) == body["text"]
        assert [len(s.words) for s in said] == [len(s["words"]) for s in body["segments"]]
        assert said[0].words


def test_the_text_is_printed_where_no_output_is_named(
    tiny_en: Loaded, clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tiny_en, clip, clip) == 0
    assert plain(capsys.readouterr().out) == f"{CLIP_WORDS} {CLIP_WORDS}"


def test_the_name_of_the_output_says_its_format(
    tiny_en: Loaded, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "talk.json"
    assert run(tiny_en, clip, "--output", path) == 0
    body = json.loads(path.read_text(encoding="utf-8"))
    assert plain(body["text"]) == CLIP_WORDS
    assert body["source"] == "clip.wav"
    assert body["engine"]["dtype"] == "float32"
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(os.name != "posix", reason="no such name there")
def test_a_file_keeps_its_name_whatever_is_in_it(
    tiny_en: Loaded, clip: Path, tmp_path: Path
) -> None:
    asking = tmp_path / "what?.wav"
    asking.write_bytes(clip.read_bytes())
    folder = tmp_path / "texts"
    folder.mkdir()
    assert run(tiny_en, asking, "--output", folder) == 0
    assert [path.name for path in folder.iterdir()] == ["what?.wav.txt"]


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is full")
def test_a_text_that_cannot_be_written_is_printed_and_not_lost(
    tiny_en: Loaded, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "talk.txt"
    path.symlink_to("/dev/full")
    assert run(tiny_en, clip, "--output", path) == ExitCode.OUTPUT
    said = capsys.readouterr()
    assert plain(said.out) == CLIP_WORDS
    assert "talk.txt" in said.err


def test_the_text_is_uploaded_and_stays_where_that_fails(
    tiny_en: Loaded, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "talk.vtt"
    with uploads(200, 403) as server:
        address = f"{server.url}/talk.vtt?X-Amz-Signature=c0ffee"
        assert run(tiny_en, clip, "--output", path, "--upload", address) == 0
        assert server.bodies == [path.read_bytes()]
        assert server.bodies[0].startswith(b"WEBVTT")
        path.unlink()
        assert run(tiny_en, clip, "--output", path, "--upload", address) == ExitCode.NETWORK
    assert path.read_bytes() == server.bodies[0]
    assert "c0ffee" not in capsys.readouterr().err


# ── refused before any work is done ──────────────────────────────────────────────────────────


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[ExitCode, str]:
    """Exit status and sentence; that of the missing model where nothing else is wrong."""
    status = fast_transcribe.main([*map(str, arguments), "--model", "no-such-model"])
    said = capsys.readouterr()
    assert said.out == ""
    return ExitCode(status), said.err


def test_a_model_that_is_missing_is_told(clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = refused(capsys, clip)
    assert status == ExitCode.MODEL
    assert "no-such-model" in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["a.wav", "b.wav", "--upload", "s3://bucket/key"], ExitCode.USAGE),
        (["a.wav", "--upload", "s3://bucket"], ExitCode.USAGE),
        (["a.wav", "--upload", "talk.txt"], ExitCode.USAGE),
        (["a.wav", "b.wav", "--output", "no folder"], ExitCode.OUTPUT),
        (["a.wav", "--output", "no folder/talk.txt"], ExitCode.OUTPUT),
    ],
)
def test_a_place_that_cannot_take_the_text_is_told_before_the_work(
    arguments: list[str], expected: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(capsys, *arguments)[0] == expected


def test_two_recordings_of_one_name_do_not_replace_each_others_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = refused(capsys, "a/talk.wav", "b/talk.wav", "--output", tmp_path)
    assert status == ExitCode.USAGE
    assert "talk.wav" in said
    assert refused(capsys, "a/x.wav", "a/x.wav", "--output", tmp_path)[0] == ExitCode.MODEL


def test_a_recording_is_not_replaced_by_its_text(
    clip: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = clip.read_bytes()
    other_words = clip.parent / ".." / clip.parent.name / clip.name
    assert refused(capsys, clip, "--output", other_words)[0] == ExitCode.OUTPUT
    assert clip.read_bytes() == before


def test_an_address_is_shown_without_its_signature(
    tiny_en: Loaded, capsys: pytest.CaptureFixture[str]
) -> None:
    with uploads(200) as server:  # which has nothing to give
        status = run(tiny_en, f"{server.url}/talk.wav?X-Amz-Signature=c0ffee")
    assert status != 0
    said = capsys.readouterr().err
    assert "talk.wav" in said
    assert "c0ffee" not in said


@pytest.mark.parametrize("arguments", [[], ["a.wav", "--format", "doc"], ["pipe", "a.wav"]])
def test_a_command_that_makes_no_sense_is_told(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        fast_transcribe.main(arguments)
    assert caught.value.code == ExitCode.USAGE
    assert "usage" in capsys.readouterr().err


# ── direct_transcribe ────────────────────────────────────────────────────────────────────────


def test_direct_generation_tells_what_is_wrong(
    tiny_en: Loaded, notes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert direct_transcribe.main([str(notes), "--model", "no-such-model"]) == ExitCode.MODEL
    status = direct_transcribe.main([str(notes), "--model", str(tiny_en.folder)])
    assert status == ExitCode.INPUT
    assert "notes.wav" in capsys.readouterr().err


def test_an_engine_says_who_it_is(tiny_en: Loaded) -> None:
    engine = direct_transcribe.open_engine(
        str(tiny_en.folder), device="cpu", dtype="float32", strategies=("memory-mapped",)
    )
    assert engine.hello.strategy == engine.report.strategy == "memory-mapped"
    assert engine.hello.notes == ()
    assert protocol.decode(protocol.encode(engine.hello)) == engine.hello


def test_what_is_collected_is_handed_on() -> None:
    heard: list[tuple[protocol.Segment, ...]] = []
    sink = direct_transcribe.Collected(heard.append)
    first, second = protocol.Segment(0, 1, "a"), protocol.Segment(1, 2, "b")
    sink.progress("decode", 0, None)
    sink.segments((first,))
    sink.segments((second,))
    assert sink.found == [first, second]
    assert heard == [(first,), (second,)]


def test_the_speed_is_told_both_ways_round() -> None:
    stages = protocol.StageTimes({"decode": 0.5, "generate": 1.0})
    line = direct_transcribe.speed_line(
        protocol.Summary(duration_ms=30_000, wall_s=2.0, stages=stages, peak_memory_bytes=1 << 30)
    )
    for fact in ("30.0 s", "2.00 s", "15.0 × real time", "0.0667", "decode 0.50 s", "1024 MiB"):
        assert fact in line
    assert "0.0 × real time" in direct_transcribe.speed_line(protocol.Summary())
