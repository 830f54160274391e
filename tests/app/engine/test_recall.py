import hashlib
from pathlib import Path

import pytest

from app.domain.events import Delivered, DeliveryFailed, FromLibrary, JobEnded, JobsAdded, Wire
from app.domain.history import JobSettings
from app.domain.intake import Accepted, Refused
from app.domain.settings import EngineSettings
from app.engine.recall import hand_over, recall
from remote.protocol import Done, ErrorCode, KnownError, Segments, Transcribe
from tests.app.adapters.library_jobs import Shelf


class Files:
    """Reads files, and counts it."""

    def __init__(self) -> None:
        self.read: list[Path] = []

    def fingerprint(self, path: Path) -> str:
        self.read.append(path)
        if path.name == "gone.wav":
            raise KnownError(ErrorCode.FILE_VANISHED, "Gone.")
        return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def shelf(tmp_path):
    with Shelf(tmp_path / "library.sqlite") as library:
        yield library


def recording(tmp_path: Path, name: str, content: bytes) -> Accepted:
    path = tmp_path / name
    path.write_bytes(content)
    return Accepted(path)


def known(shelf: Shelf, content: bytes, **fields) -> str:
    sha256 = hashlib.sha256(content).hexdigest()
    return shelf.has_said("Hello.", content=sha256, size_bytes=len(content), **fields)


def recalled(shelf, found, settings=None):
    files = Files()
    rest, remembered = shelf.run(recall(found, shelf.library, files, settings or JobSettings()))
    return rest, remembered, files.read


def test_a_copy_of_what_was_done_is_known_under_its_own_name(shelf, tmp_path):
    job = known(shelf, b"abc")
    copy, new = recording(tmp_path, "copy.wav", b"abc"), recording(tmp_path, "new.wav", b"xyz")
    rest, (remembered,), _ = recalled(shelf, [copy, new])
    assert rest == (new,)
    assert remembered.entry.id == job
    assert remembered.transcript.source == copy.path
    assert remembered.transcript.text == "Hello."


def test_a_file_is_read_only_where_one_of_its_size_is_done(shelf, tmp_path):
    known(shelf, b"abc")
    found = [recording(tmp_path, "short.wav", b"a"), recording(tmp_path, "same.wav", b"xyz")]
    rest, _, read = recalled(shelf, found)
    assert rest == tuple(found)
    assert [path.name for path in read] == ["same.wav"]


def test_with_other_settings_it_is_to_be_done(shelf, tmp_path):
    known(shelf, b"abc")
    found = [recording(tmp_path, "a.wav", b"abc")]
    rest, remembered, _ = recalled(shelf, found, JobSettings(engine=EngineSettings("base")))
    assert (rest, remembered) == (tuple(found), ())


def test_what_cannot_be_read_or_is_refused_is_left_to_whoever_tells_it(shelf, tmp_path):
    known(shelf, b"abc")
    error = KnownError(ErrorCode.FILE_MISSING, "No.")
    found = [
        recording(tmp_path, "gone.wav", b"abc"),
        Accepted(tmp_path / "absent.wav"),
        Refused(tmp_path / "x", error),
    ]
    assert recalled(shelf, found)[:2] == (tuple(found), ())


def test_it_is_told_and_delivered_as_any_job_and_the_files_are_remembered(shelf, tmp_path):
    job = known(shelf, b"abc")
    _, remembered, _ = recalled(shelf, [recording(tmp_path, "a.wav", b"abc")])
    events: list = []
    written = tmp_path / "a.txt"
    shelf.run(
        hand_over(remembered, JobSettings(), shelf.library, lambda _: (written,), events.append)
    )
    kinds = [type(e.message if isinstance(e, Wire) else e) for e in events]
    assert kinds == [JobsAdded, Transcribe, Segments, Done, FromLibrary, JobEnded, Delivered]
    assert shelf.entry(job).exports == (written,)


def test_a_delivery_that_fails_is_told(shelf, tmp_path):
    known(shelf, b"abc")
    _, remembered, _ = recalled(shelf, [recording(tmp_path, "a.wav", b"abc")])
    events: list = []

    def refuse(_transcript):
        raise KnownError(ErrorCode.DISK_FULL, "Full.")

    shelf.run(hand_over(remembered, JobSettings(), shelf.library, refuse, events.append))
    assert isinstance(events[-1], DeliveryFailed)
