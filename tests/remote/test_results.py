"""Transcripts as files that others can read, written whole or not at all, and sent with care."""

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import boto3
import pysubs2
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from remote.protocol import (
    ErrorCode,
    Gap,
    Hello,
    KnownError,
    Quality,
    Segment,
    StageTimes,
    Summary,
    Word,
)
from remote.results import FORMATS, format_of, render, upload, write
from tests.remote.loopback_server import Uploads, uploads
from tests.remote.test_audio_source import as_somebody_else

ROOT = Path(__file__).parents[2]
HELLO = Hello(1, 0, "0.1", "tiny.en", "cpu", "int8", "gpu-state", 0.1)
SEGMENTS = (
    Segment(
        320,
        7680,
        "Ask not <what> & why…",
        (Word(320, 700, " Ask", 0.9), Word(700, 1000, " not", 0.8)),
        None,
        "en",
        Quality(-0.2, 1.1, 0.01, 0.2),
    ),
    Segment(3_605_000, 3_605_900, "größte 今日は", (), 1, "de"),
)
SUMMARY = Summary(
    duration_ms=3_610_000,
    speech_ms=8000,
    covered_ms=7500,
    gaps=(Gap(7680, 9000, 1),),
    language="en",
    language_probability=0.98,
    stages=StageTimes({"decode": 0.12345, "generate": 2.0}),
    wall_s=10.0,
    warnings=("It is damaged.",),
)


def rendered(kind: str, segments: tuple[Segment, ...] = SEGMENTS) -> str:
    return render(kind, "talk.wav", segments, SUMMARY, HELLO)


# ── formats ──────────────────────────────────────────────────────────────────────────────────


def test_text_is_a_line_for_each_segment() -> None:
    assert rendered("text") == "Ask not <what> & why…\ngrößte 今日は\n"
    assert rendered("text", ()) == ""


def test_json_says_all_there_is_to_know() -> None:
    body = json.loads(rendered("json"))
    first, second = body.pop("segments")
    assert first == {
        "start": 0.32,
        "end": 7.68,
        "text": "Ask not <what> & why…",
        "language": "en",
        "channel": None,
        "words": [
            {"start": 0.32, "end": 0.7, "word": " Ask", "probability": 0.9},
            {"start": 0.7, "end": 1.0, "word": " not", "probability": 0.8},
        ],
        "avg_logprob": -0.2,
        "compression_ratio": 1.1,
        "no_speech_prob": 0.01,
        "temperature": 0.2,
    }
    assert (second["start"], second["channel"], second["words"]) == (3605.0, 1, [])
    assert body == {
        "format": "farscribe-transcript",
        "version": 1,
        "source": "talk.wav",
        "text": "Ask not <what> & why… größte 今日は",
        "language": "en",
        "language_probability": 0.98,
        "duration": 3610.0,
        "coverage": 0.9375,
        "gaps": [{"start": 7.68, "end": 9.0, "channel": 1}],
        "wall": 10.0,
        "speed": 361.0,
        "stages": {"decode": 0.1235, "generate": 2.0},
        "warnings": ["It is damaged."],
        "engine": {
            "model": "tiny.en",
            "device": "cpu",
            "dtype": "int8",
            "strategy": "gpu-state",
            "version": "0.1",
        },
        "error": None,
        "error_code": None,
    }


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_subtitles_are_read_by_others_as_they_were_meant(kind: str) -> None:
    read = pysubs2.SSAFile.from_string(rendered(kind), kind)
    assert [(event.start, event.end) for event in read] == [(320, 7680), (3_605_000, 3_605_900)]
    assert read[1].plaintext == "größte 今日は"
    first = "Ask not <what> & why…" if kind == "srt" else "Ask not &lt;what&gt; &amp; why…"
    assert first in rendered(kind)


@given(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1))
@example(r"what {\i1}looks\N like} <i>a command\h")
@example("one\n\ntwo")
def test_a_subtitle_is_its_words_in_one_line(text: str) -> None:
    words = " ".join(text.split())
    lines = rendered("srt", (Segment(0, 900, text),)).split("\n")
    assert (
        lines[: 2 + bool(words)] == ["1", "00:00:00,000 --> 00:00:00,900", words][: 2 + bool(words)]
    )


@pytest.mark.parametrize("kind", FORMATS)
def test_a_transcript_without_text_can_be_written_in_every_format(kind: str) -> None:
    content = rendered(kind, ())
    if kind in ("srt", "vtt"):
        assert list(pysubs2.SSAFile.from_string(content or "\n", kind)) == []


def test_a_format_goes_by_the_name() -> None:
    assert format_of("a/b.SRT") == "srt"
    assert format_of("talk.txt") == "text"
    assert format_of("talk.mp3") is None
    assert format_of("talk") is None


# ── files ────────────────────────────────────────────────────────────────────────────────────

posix = pytest.mark.skipif(os.name != "posix", reason="files are other things there")


def refusal(path: Path, content: str = "text") -> KnownError:
    with pytest.raises(KnownError) as caught:
        write(path, content)
    assert str(path) in caught.value.message
    assert caught.value.hint.endswith(".")
    return caught.value


def test_a_file_is_written_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "talk.txt"
    for content in ("größte 今日は\n", "second\n"):
        write(path, content)
        assert path.read_bytes() == content.encode()
    assert list(tmp_path.iterdir()) == [path]


@posix
def test_a_file_may_be_read_by_whom_files_usually_may(tmp_path: Path) -> None:
    usual, path = tmp_path / "usual", tmp_path / "talk.txt"
    usual.touch()
    write(path, "text")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


@posix
def test_what_is_no_file_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")))
    reader.daemon = True
    reader.start()
    write(pipe, "text\n")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    reader.join(20)
    assert read == ["text\n"]


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none" / "talk.txt").code is ErrorCode.OUTPUT_UNWRITABLE


def test_a_folder_in_the_files_place_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "talk.txt"
    folder.mkdir()
    assert refusal(folder).code is ErrorCode.OUTPUT_UNWRITABLE
    assert list(tmp_path.iterdir()) == [folder]


@posix
def test_a_folder_without_permission_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    with as_somebody_else():
        assert refusal(tmp_path / "talk.txt").code is ErrorCode.OUTPUT_UNWRITABLE
    tmp_path.chmod(0o755)


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="no device that is full")
def test_a_full_disk_is_told(tmp_path: Path) -> None:
    path = tmp_path / "full.txt"
    path.symlink_to("/dev/full")  # so that, whatever happens, the device itself is let be
    assert refusal(path).code is ErrorCode.DISK_FULL
    assert path.is_symlink()
    assert path.is_char_device()


@posix
def test_what_was_there_is_untouched_where_writing_breaks_off(tmp_path: Path) -> None:
    path = tmp_path / "talk.txt"
    path.write_text("before", encoding="utf-8")
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from remote.protocol import KnownError; from remote.results import write\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write(Path(sys.argv[1]), 'x' * 100_000)\n"
        "except KnownError as error: print(error.code.value)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "output-unwritable\n"
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_is_no_unicode_is_written_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"talk \xff.wav")  # a file name of an old disk
    path = tmp_path / "talk.json"
    write(path, render("json", name, SEGMENTS, SUMMARY, HELLO))
    assert json.loads(path.read_text(encoding="utf-8"))["source"].startswith("talk ")


# ── uploads ──────────────────────────────────────────────────────────────────────────────────

QUERY = "X-Amz-Signature=c0ffee&X-Amz-Expires=60"


def refused(address: str, kind: str = "text") -> KnownError:
    with pytest.raises(KnownError) as caught:
        upload(address, "text", kind)
    assert "c0ffee" not in f"{caught.value}{caught.value.__cause__}"
    assert caught.value.hint.endswith(".")
    return caught.value


def test_a_presigned_address_is_put_to_as_it_is() -> None:
    with uploads(200) as server:
        upload(f"{server.url}/bucket/talk.txt?{QUERY}", "größte\n", "text")
    assert server.bodies == ["größte\n".encode()]
    assert server.paths == [f"/bucket/talk.txt?{QUERY}"]


def test_no_content_type_is_made_up_that_a_signature_may_not_hold() -> None:
    with uploads(200) as server:
        upload(f"{server.url}/bucket/talk.txt?{QUERY}", "text", "text")
    assert server.types[0] in (None, "")


@pytest.mark.parametrize("first", [500, 503, 0])
def test_a_servers_own_fault_is_tried_again(first: int) -> None:
    with uploads(first, 200) as server:
        upload(f"{server.url}/talk.txt?{QUERY}", "text", "text")
    assert server.bodies == [b"text"] * 2


def test_a_refusal_is_told_at_once_and_without_the_signature() -> None:
    with uploads(403) as server:
        error = refused(f"{server.url}/talk.txt?{QUERY}")
    assert error.code is ErrorCode.UPLOAD_FAILED
    assert "127.0.0.1" in error.message
    assert len(server.bodies) == 1


def test_a_server_that_is_not_there_is_told() -> None:
    with uploads(200) as server:
        pass
    assert refused(f"{server.url}/talk.txt?{QUERY}").code is ErrorCode.UPLOAD_FAILED


def test_an_answer_that_is_no_http_is_told() -> None:
    with uploads(-1) as server:
        assert refused(f"{server.url}/talk.txt?{QUERY}").code is ErrorCode.UPLOAD_FAILED


@pytest.mark.parametrize(
    "address",
    [
        "talk.txt",
        "ftp://host/talk.txt",
        "s3://bucket",
        "s3:///key",
        "http://",
        "http:///talk.txt",
        f"http://[::1/talk.txt?{QUERY}",
        f"http://127.0.0.1:port/talk.txt?{QUERY}",
        f"http://127.0.0.1:9/talk with spaces.txt?{QUERY}",
    ],
)
def test_what_is_no_address_is_told(address: str) -> None:
    assert refused(address).code in {ErrorCode.UNKNOWN_OPTION, ErrorCode.UPLOAD_FAILED}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Credentials for S3 that are nobody's."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    boto3.setup_default_session()  # one before it may have kept its credentials


def s3(server: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)


@pytest.mark.usefixtures("bucket")
def test_s3_is_put_to_with_the_type_of_the_content(monkeypatch: pytest.MonkeyPatch) -> None:
    with uploads(500, 200) as server:
        s3(server, monkeypatch)
        upload("s3://talks/2024/one talk.vtt", "WEBVTT\n", "vtt")
    assert server.paths[-1] == "/talks/2024/one%20talk.vtt"
    assert server.types[-1] == "text/vtt"
    assert b"WEBVTT\n" in server.bodies[-1]


@pytest.mark.usefixtures("bucket")
def test_a_bucket_that_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with uploads(403) as server:
        s3(server, monkeypatch)
        error = refused("s3://talks/talk.txt")
    assert error.code is ErrorCode.UPLOAD_FAILED
    assert "s3://talks/talk.txt" in error.message
    assert "secret" not in str(error)


@pytest.mark.usefixtures("bucket")
def test_missing_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with uploads(200) as server:
        s3(server, monkeypatch)
        assert refused("s3://talks/talk.txt").code is ErrorCode.UPLOAD_FAILED
    assert server.bodies == []
