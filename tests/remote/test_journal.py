"""The journal: whatever cuts it off, what is left is a true beginning, and is written on."""

import json
import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from remote import protocol
from remote.journal import DEADLY_BEGINS, Journal
from remote.protocol import (
    Block,
    Blocks,
    Done,
    ErrorCode,
    Failed,
    Progress,
    Segment,
    Segments,
    Source,
    Summary,
    Transcribe,
    WireError,
)
from remote.sink import Past, Settled

ROOT = Path(__file__).parents[2]
REQUEST = Transcribe("a1", Source("blocks", "talk.mp3", 60_000), model="tiny.en")
PATIENCE_S = 10


def segment(number: int, channel: int | None = None) -> Segment:
    return Segment(number * 1000, number * 1000 + 900, f"word {number} — ½", channel=channel)


def block(number: int) -> Block:
    return Block(f"{number:064x}", 480_000)


def settle(number: int) -> Callable[[Journal], None]:
    return lambda journal: journal.settle(Settled(number, (segment(number),), 480, 7), number / 10)


def say(number: int) -> Callable[[Journal], None]:
    return lambda journal: journal.tell(lambda seq: Segments("a1", seq, (segment(number),)))


STEPS: list[Callable[[Journal], None]] = [
    lambda journal: journal.begin(),
    lambda journal: journal.add_blocks(Blocks("a1", 0, (block(0), block(1)))),
    lambda journal: journal.heard("de", 0.75),
    lambda journal: journal.tell(lambda seq: Progress("a1", seq, "decode", 0, 60_000)),
    settle(0),
    say(0),
    lambda journal: journal.pause(),
    lambda journal: journal.begin(),
    settle(1),
    lambda journal: journal.add_blocks(Blocks("a1", 2, (block(2),), True, ("It ends early.",))),
    say(1),
    settle(2),
    say(2),
    lambda journal: journal.tell(lambda seq: Done("a1", seq, Summary(duration_ms=3000))),
]


def state(journal: Journal) -> tuple[object, ...]:
    """All that a journal knows."""
    return (
        journal.request,
        journal.events(0),
        journal.past,
        journal.begins,
        journal.ended,
        journal.audio.blocks,
        journal.audio.complete,
        journal.audio.warnings,
    )


def opened(path: Path) -> Journal:
    journal = Journal.open(path)
    assert journal is not None
    return journal


def history(path: Path) -> "History":
    """A whole life: what was known once the file was so long; and the file."""
    journal = Journal.create(path, REQUEST)
    states = {path.stat().st_size: state(journal)}
    for step in STEPS:
        step(journal)
        reopened = opened(path)
        states[path.stat().st_size] = state(reopened)
        reopened.close()
    journal.close()
    return states, path.read_bytes()


History = tuple[dict[int, tuple[object, ...]], bytes]


@pytest.fixture(scope="module")
def whole_life(tmp_path_factory: pytest.TempPathFactory) -> History:
    return history(tmp_path_factory.mktemp("journal") / "whole.journal")


# ── cut off ──────────────────────────────────────────────────────────────────────────────────


def test_cut_at_any_byte_it_is_what_it_was_and_goes_on_without_a_hole(
    tmp_path: Path, whole_life: History
) -> None:
    states, whole = whole_life
    path = tmp_path / "cut.journal"
    near_ends = {size + near for size in states for near in (-1, 0, 1)}
    for cut in sorted({*range(0, len(whole), 5), *near_ends} & set(range(len(whole)))):
        path.write_bytes(whole[:cut])
        before = [size for size in states if size <= cut]
        journal = Journal.open(path)
        if not before:
            assert journal is None
            continue
        assert journal is not None
        assert state(journal) == states[max(before)]
        assert path.stat().st_size == max(before)
        journal.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.data(), end=st.binary(max_size=40))
def test_whatever_stands_at_its_end_it_can_be_written_on(
    tmp_path: Path, whole_life: History, data: st.DataObject, end: bytes
) -> None:
    path = tmp_path / "a.journal"
    lines = whole_life[1].splitlines(keepends=True)[:-1]  # it has not ended
    kept = b"".join(lines[: data.draw(st.integers(1, len(lines)))])
    path.write_bytes(kept + end)
    journal = opened(path)
    seq = journal.seq
    say(9)(journal)
    settle(9)(journal)
    journal.close()
    again = opened(path)
    assert again.seq == seq + 1
    numbers = [json.loads(line)["seq"] for line in again.events(0)]
    assert numbers == list(range(1, seq + 2))
    assert again.past.settled[9].segments == (segment(9),)
    again.close()


def test_a_file_without_its_request_is_no_job(tmp_path: Path) -> None:
    for number, content in enumerate((b"", b"{", b'{"type":"begin"}\n', b"\0" * 900)):
        path = tmp_path / f"{number}.journal"
        path.write_bytes(content)
        assert Journal.open(path) is None


def test_a_damaged_record_in_the_middle_takes_what_is_after_it_along(
    tmp_path: Path, whole_life: History, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.journal"
    states, whole = whole_life
    lines = whole.splitlines(keepends=True)
    before = sum(map(len, lines[:6]))
    path.write_bytes(whole[:before] + b"x" + whole[before + 1 :])
    journal = opened(path)
    assert state(journal) == states[before]
    assert "damaged" in caplog.text
    journal.close()


def test_a_record_of_a_later_version_is_passed_over(tmp_path: Path, whole_life: History) -> None:
    path = tmp_path / "a.journal"
    states, whole = whole_life
    path.write_bytes(whole + b'{"type":"mood","of":"the device"}\n')
    assert state(opened(path)) == states[len(whole)]


# ── what is kept ─────────────────────────────────────────────────────────────────────────────


def test_the_past_is_what_was_settled_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal.create(path, REQUEST)
    assert journal.past == Past()
    journal.begin()
    journal.heard("de", 0.75)
    parts = [Settled(n, (segment(n, n % 2),), 480, 7, fallback=n == 1) for n in range(4)]
    for part in parts:
        journal.settle(part, 1.5)
    told = tuple(part.segments[0] for part in parts[:3])
    journal.tell(lambda seq: Segments("a1", seq, told))
    journal.close()
    again = opened(path)
    assert again.past == Past("de", 0.75, {p.key: p for p in parts}, {0: 2, 1: 1}, 1.5)
    again.begin()
    again.settle(parts[0], 0.25)
    again.close()
    assert opened(path).past.wall_s == 1.75  # of both runs


def test_events_are_told_from_any_number_on(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a.journal", REQUEST)
    for number in range(3):
        say(number)(journal)
    assert [json.loads(line)["seq"] for line in journal.events(0)] == [1, 2, 3]
    assert [json.loads(line)["seq"] for line in journal.events(2)] == [3]
    assert journal.events(3) == journal.events(10**30) == []
    assert journal.events(-5) == journal.events(0)
    journal.close()


def test_an_event_is_on_the_disk_before_it_can_be_heard(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal.create(path, REQUEST)
    say(0)(journal)
    (line,) = journal.events(0)
    assert path.read_bytes().endswith(line)
    journal.close()


def test_nothing_follows_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal.create(path, REQUEST)
    journal.tell(lambda seq: Failed("a1", seq, ErrorCode.NOT_AUDIO, "No audio."))
    size = path.stat().st_size
    for step in (say(1), settle(1), *STEPS[:1], lambda journal: journal.heard("fr", 1.0)):
        step(journal)
    journal.tell(lambda seq: Done("a1", seq, Summary()))
    assert path.stat().st_size == size
    assert (journal.seq, journal.ended, journal.begins) == (1, True, 0)
    journal.close()
    say(1)(journal)  # also where it is closed
    journal.close()


def test_a_number_that_json_cannot_hold_leaves_no_hole(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "a.journal", REQUEST)
    with pytest.raises(ValueError, match="JSON"):
        journal.tell(lambda seq: Done("a1", seq, Summary(wall_s=float("nan"))))
    assert (journal.seq, journal.ended) == (0, False)
    say(0)(journal)
    assert journal.seq == 1
    journal.close()


def test_blocks_told_again_are_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal.create(path, REQUEST)
    message = Blocks("a1", 0, (block(0), block(1)))
    journal.add_blocks(message)
    size = path.stat().st_size
    journal.add_blocks(message)
    assert path.stat().st_size == size
    with pytest.raises(WireError):
        journal.add_blocks(Blocks("a1", 5, (block(5),)))
    assert path.stat().st_size == size
    journal.add_blocks(Blocks("a1", 2, (), complete=True))
    journal.close()
    again = opened(path)
    assert again.audio.blocks == message.blocks
    assert again.audio.complete
    again.close()


def test_begins_without_anything_settled_are_counted_across_deaths(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    Journal.create(path, REQUEST).close()
    for died in range(DEADLY_BEGINS):
        journal = opened(path)
        assert journal.begins == died
        journal.begin()
        journal.close()
    journal = opened(path)
    assert journal.begins == DEADLY_BEGINS
    settle(0)(journal)
    assert journal.begins == 0
    journal.close()
    assert opened(path).begins == 0


def test_to_be_put_aside_in_order_is_no_death(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    Journal.create(path, REQUEST).close()
    for _ in range(2 * DEADLY_BEGINS):
        journal = opened(path)
        journal.begin()
        journal.pause()
        journal.close()
    assert opened(path).begins == 0


def test_to_be_taken_up_again_makes_a_job_no_younger(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    journal = Journal.create(path, REQUEST)
    os.utime(path, (1_000_000, 1_000_000))
    journal.begin()
    assert path.stat().st_mtime == 1_000_000
    settle(0)(journal)
    assert path.stat().st_mtime > 1_000_000
    journal.close()


def test_it_is_for_its_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    Journal.create(path, REQUEST).close()
    assert path.stat().st_mode & 0o777 == 0o600


# ── a full disk ──────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def room() -> Iterator[Callable[[int], None]]:
    """Sets how large a file may become, for as long as the test runs."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_on_a_full_disk_no_half_line_stays_and_it_goes_on_when_there_is_room(
    tmp_path: Path, room: Callable[[int], None]
) -> None:
    path = tmp_path / "a.journal"
    journal = Journal.create(path, REQUEST)
    say(0)(journal)
    size = path.stat().st_size
    room(size + 20)  # the line does not fit, but some of it does
    writing = threading.Thread(target=say(1), args=(journal,), daemon=True)
    writing.start()
    while not journal.full:
        writing.join(0.01)
        assert writing.is_alive()
    assert path.stat().st_size == size
    assert [json.loads(line)["seq"] for line in journal.events(0)] == [1]
    room(resource.RLIM_INFINITY)
    writing.join(PATIENCE_S)
    assert not writing.is_alive()
    assert not journal.full
    journal.close()
    assert [json.loads(line)["seq"] for line in opened(path).events(0)] == [1, 2]


def test_an_engine_that_ends_does_not_wait_for_room(
    tmp_path: Path, room: Callable[[int], None]
) -> None:
    path, stop = tmp_path / "a.journal", threading.Event()
    journal = Journal.create(path, REQUEST, stop)
    size = path.stat().st_size
    room(size + 20)
    stop.set()
    with pytest.raises(OSError, match="too large"):
        say(0)(journal)
    assert path.stat().st_size == size
    assert journal.seq == 0
    room(resource.RLIM_INFINITY)
    say(0)(journal)
    assert journal.seq == 1
    journal.close()


def test_a_new_job_is_refused_at_once_where_the_disk_is_full(
    tmp_path: Path, room: Callable[[int], None]
) -> None:
    path = tmp_path / "a.journal"
    room(20)
    with pytest.raises(OSError, match="too large"):
        Journal.create(path, REQUEST)
    room(resource.RLIM_INFINITY)  # before pytest writes that the test has passed
    assert not path.exists()


@pytest.mark.skipif(os.name != "posix", reason="kills a process")
def test_killed_in_the_middle_of_writing_it_is_whole_up_to_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    script = (
        "import sys; from pathlib import Path; sys.path[0:0] = [sys.argv[2]]\n"
        "from remote.journal import Journal\n"
        "from remote.protocol import Segment, Segments, Source, Transcribe\n"
        "journal = Journal.create(Path(sys.argv[1]), Transcribe('a1', Source('path', 'x')))\n"
        "text = (Segment(0, 1, 'x' * 50_000),)\n"
        "while True:\n"
        "    journal.tell(lambda seq: Segments('a1', seq, text)); print(journal.seq, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, path, ROOT], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        heard = [int(child.stdout.readline()) for _ in range(5)]
        child.kill()
        heard += [int(line) for line in child.stdout if line.endswith("\n")]
    journal = opened(path)
    assert journal.seq >= heard[-1]
    messages = [protocol.decode(line) for line in journal.events(0)]
    assert [m.seq for m in messages if isinstance(m, Segments)] == list(range(1, journal.seq + 1))
    journal.close()
