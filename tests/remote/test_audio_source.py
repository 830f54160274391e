"""What cannot be opened is refused in a sentence with a next step."""

import os
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from remote.audio import AudioReader
from remote.protocol import ErrorCode, KnownError
from tests.remote.recordings import RATE, SAMPLE, joined, speech, write


def refusal(path: Path | str) -> KnownError:
    with pytest.raises(KnownError) as caught, AudioReader(path) as reader:
        list(reader)
    assert caught.value.message.endswith(".")
    assert caught.value.hint.endswith(".")
    return caught.value


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.mp3", tmp_path / "no folder" / "gone.mp3"):
        error = refusal(path)
        assert (error.code, error.message) == (
            ErrorCode.FILE_MISSING,
            "gone.mp3 does not exist.",
        )


def test_a_file_taken_for_a_folder_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    assert refusal(tmp_path / "a.wav" / "b.wav").code is ErrorCode.FILE_MISSING


def test_a_name_that_no_file_can_have_is_refused() -> None:
    assert refusal("a\0b.wav").code in {ErrorCode.FILE_UNREADABLE, ErrorCode.FILE_MISSING}


def test_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "talks"
    folder.mkdir()
    error = refusal(folder)
    assert error.code is ErrorCode.FILE_UNREADABLE
    assert error.message == "talks is a folder, not a recording."


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are another thing there")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "secret.wav", speech()[None, :RATE])
    path.chmod(0)
    with as_somebody_else():
        error = refusal(path)
    assert error.code is ErrorCode.FILE_UNREADABLE
    assert error.message == "secret.wav may not be read."


@contextmanager
def as_somebody_else() -> Iterator[None]:
    """A stretch in which even a test run by root has no special rights."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_zero_bytes_are_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "zero.mp3"
    path.touch()
    error = refusal(path)
    assert (error.code, error.message) == (
        ErrorCode.FILE_EMPTY,
        "zero.mp3 is empty: it has 0 bytes.",
    )


def test_text_is_no_recording_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "notes.wav"
    path.write_text("These are the minutes of the meeting.\n" * 40, encoding="utf-8")
    assert refusal(path).code is ErrorCode.NOT_AUDIO


def test_a_playlist_in_disguise_fetches_nothing(tmp_path: Path) -> None:
    write(tmp_path / "other.wav", speech()[None])
    path = tmp_path / "list.wav"
    path.write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:11\n#EXTINF:11,\nhttp://127.0.0.1:9/other.wav\n"
        "#EXT-X-ENDLIST\n",
        encoding="utf-8",
    )
    assert refusal(path).code in {ErrorCode.NOT_AUDIO, ErrorCode.AUDIO_DAMAGED}


# ── addresses ────────────────────────────────────────────────────────────────────────────────


class Files(BaseHTTPRequestHandler):
    """Serves a good file, one that breaks off, one that is cut off, text, and refusals."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/sample.flac":
            self._send(200, SAMPLE.read_bytes())
        elif path == "/broken.wav" and self.headers.get("Range") in {None, "bytes=0-"}:
            self._send(200, wav()[:1_000_000], length=len(wav()))
        elif path == "/cut.mp3":
            self._send(200, mp3())
        elif path == "/notes.txt":
            self._send(200, b"no recording " * 100)
        else:
            status = path.strip("/").partition("-")[0]
            self._send(int(status) if status.isdigit() else 404, b"")

    def _send(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Nothing on the terminal."""


def made(name: str, codec: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder) / name, np.tile(speech(), 4)[None], codec=codec).read_bytes()


@cache
def wav() -> bytes:
    return made("a.wav", "pcm_s16le")


@cache
def mp3() -> bytes:
    whole = made("a.mp3", "libmp3lame")
    return whole[: len(whole) // 2]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def test_an_address_is_read_like_a_file(server: str) -> None:
    with AudioReader(f"{server}/sample.flac?token=x") as reader:
        assert np.array_equal(joined(reader)[0], speech())


def test_what_a_server_refuses_is_told_without_the_secret_in_the_address(server: str) -> None:
    expected = {
        "404-talk.mp3": ErrorCode.FILE_MISSING,
        "403-talk.mp3": ErrorCode.FILE_UNREADABLE,
        "401-talk.mp3": ErrorCode.FILE_UNREADABLE,
        "500-talk.mp3": ErrorCode.OFFLINE,
        "notes.txt": ErrorCode.NOT_AUDIO,
    }
    for name, code in expected.items():
        error = refusal(f"{server}/{name}?X-Amz-Signature=secret")
        assert error.code is code, name
        assert name in error.message
        assert "secret" not in str(error)
        assert "secret" not in "".join(traceback.format_exception(error)), name


def test_a_connection_that_is_lost_is_no_end_of_the_recording(server: str) -> None:
    error = refusal(f"{server}/broken.wav?X-Amz-Signature=secret")
    assert error.code is ErrorCode.OFFLINE
    assert "The connection to broken.wav was lost" in error.message


def test_a_recording_cut_off_on_the_server_is_read_as_far_as_it_goes(server: str) -> None:
    with AudioReader(f"{server}/cut.mp3") as reader:
        assert joined(reader).shape[1] > 20 * RATE
    assert "cut.mp3 is damaged after" in reader.warnings[0]


def test_a_server_that_is_not_there_is_told(server: str) -> None:
    error = refusal("http://127.0.0.1:9/talk.mp3")
    assert error.code is ErrorCode.OFFLINE
    assert "talk.mp3" in error.message
