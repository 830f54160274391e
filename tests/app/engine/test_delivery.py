"""Transcripts to files, with a folder that only remembers."""

from collections.abc import Mapping
from pathlib import Path

from app.domain.settings import Format, SubtitleRules
from app.domain.transcript import Transcript
from app.engine.delivery import Delivery
from remote.protocol import ErrorCode, KnownError, Segment

SAID = (Segment(0, 900, "Hello."),)
ERROR = KnownError(ErrorCode.NOT_AUDIO, "It is no audio.")


class Folder:
    def __init__(self) -> None:
        self.written: dict[str, bytes] = {}

    def write(self, source: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
        self.written.update(contents)
        return tuple(source.with_suffix(f".{suffix}") for suffix in contents)


def deliver(transcript: Transcript, *formats: Format) -> dict[str, bytes]:
    folder = Folder()
    Delivery(folder, formats, SubtitleRules())(transcript)
    return folder.written


def test_every_wanted_format_is_written():
    written = deliver(Transcript(Path("/a.wav"), SAID), *Format)
    assert list(written) == [kind.value for kind in Format]
    assert written["docx"].startswith(b"PK")
    assert written["txt"] == b"Hello.\n"


def test_a_silent_recording_is_written_as_an_empty_text():
    assert deliver(Transcript(Path("/a.wav")), Format.TXT) == {"txt": b""}


def test_a_failed_recording_without_text_leaves_only_a_json_that_says_why():
    written = deliver(Transcript(Path("/a.wav"), error=ERROR), *Format)
    assert list(written) == ["json"]
    assert b"It is no audio." in written["json"]


def test_a_failed_recording_is_written_as_far_as_it_came():
    written = deliver(Transcript(Path("/a.wav"), SAID, error=ERROR), Format.TXT)
    assert written == {"txt": b"Hello.\n"}
