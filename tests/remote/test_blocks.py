"""The store keeps blocks whole or not at all, whatever comes; its conversation always ends."""

import errno
import hashlib
import io
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.blocks import MAX_BLOCK_BYTES, BlockFolder, serve_store
from remote.protocol import (
    Cancel,
    ErrorCode,
    Failed,
    Have,
    Held,
    KnownError,
    Message,
    Ping,
    Put,
    Stored,
    WireError,
    decode,
    encode,
)

SOUND = b"the bytes of a block" * 1000
ROOT = Path(__file__).parents[2]


def name(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def put(folder: BlockFolder, data: bytes) -> str:
    folder.store(name(data), len(data), io.BytesIO(data).read)
    return name(data)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def said(folder: BlockFolder, *parts: Message | bytes) -> list[Message | None]:
    """What the store answers to messages and bytes."""
    stream = b"".join(part if isinstance(part, bytes) else encode(part) for part in parts)
    answers: list[bytes] = []
    serve_store(io.BytesIO(stream).read, answers.append, folder)
    return [decode(line) for line in answers]


# ── the folder ───────────────────────────────────────────────────────────────────────────────


def test_a_block_lies_under_the_name_of_its_content(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "blocks")
    block = put(folder, SOUND)
    assert folder.path(block) == tmp_path / "blocks" / block[:2] / block
    assert folder.path(block).read_bytes() == SOUND
    assert folder.held([block, name(b"other"), "no name"]) == {block}
    assert folder.bytes_used() == len(SOUND)
    assert folder.whole(block)


def test_an_empty_store_is_no_error(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "blocks")
    assert folder.held([name(SOUND)]) == frozenset()
    assert folder.bytes_used() == folder.sweep(set(), 0.0) == 0
    assert not folder.whole(name(SOUND))
    folder.forget([name(SOUND), "../../etc/passwd"])
    assert not (tmp_path / "blocks").exists()


@pytest.mark.parametrize(
    "block", ["", "../../x", "a" * 63, "A" * 64, "g" * 64, "a" * 64 + "\n", "/" * 64, "\udc80" * 64]
)
def test_what_is_no_name_of_a_block_touches_no_file(tmp_path: Path, block: str) -> None:
    folder = BlockFolder(tmp_path / "blocks")
    with pytest.raises(WireError):
        folder.store(block, 1, io.BytesIO(b"x").read)
    assert files(tmp_path) == []


@pytest.mark.parametrize("data", [b"", b"short", SOUND[:-1], SOUND[:-1] + b"!"])
def test_other_bytes_than_the_name_says_leave_nothing_behind(tmp_path: Path, data: bytes) -> None:
    folder = BlockFolder(tmp_path)
    with pytest.raises(WireError):
        folder.store(name(SOUND), len(SOUND), io.BytesIO(data).read)
    assert files(tmp_path) == []


@pytest.mark.parametrize("size", [-1, MAX_BLOCK_BYTES + 1, 10**18])
def test_an_impossible_size_is_refused_before_anything_is_read(tmp_path: Path, size: int) -> None:
    def read(most: int) -> bytes:
        raise AssertionError("nothing is to be read")

    with pytest.raises(WireError):
        BlockFolder(tmp_path).store(name(SOUND), size, read)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, ErrorCode.DISK_FULL),
        (errno.EDQUOT, ErrorCode.DISK_FULL),
        (errno.EACCES, ErrorCode.OUTPUT_UNWRITABLE),
    ],
)
def test_a_disk_that_fails_midway_is_said_and_leaves_nothing(
    tmp_path: Path, number: int, code: ErrorCode
) -> None:
    pieces = iter([SOUND[:100]])

    def read(most: int) -> bytes:
        for piece in pieces:
            return piece
        raise OSError(number, os.strerror(number))

    with pytest.raises(KnownError) as caught:
        BlockFolder(tmp_path).store(name(SOUND), len(SOUND), read)
    assert caught.value.code is code
    assert caught.value.hint
    assert files(tmp_path) == []


FULL_DISK = """
import io, resource, signal, sys
from pathlib import Path
from remote.blocks import BlockFolder, serve_store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
write = sys.stdout.buffer.write
serve_store(sys.stdin.buffer.read1, write, BlockFolder(Path(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on files there")
def test_with_a_full_disk_the_conversation_goes_on(tmp_path: Path) -> None:
    big = bytes(range(256)) * 800
    stream = b"".join(
        [encode(Put(name(big), len(big))), big, encode(Put(name(SOUND), len(SOUND))), SOUND]
    )
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "blocks")],
        cwd=ROOT, input=stream, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    full, stored = map(decode, done.stdout.splitlines())
    assert isinstance(full, Failed)
    assert (full.job, full.seq, full.code) == (name(big), 0, ErrorCode.DISK_FULL)
    assert stored == Stored(name(SOUND))
    assert files(tmp_path) == [name(SOUND)]


def test_puts_of_the_same_block_at_once_leave_one_whole_file(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    at_once = threading.Barrier(8)

    def one(_: int) -> None:
        stream = io.BytesIO(SOUND)

        def read(most: int) -> bytes:
            if stream.tell() == 0:
                at_once.wait(10)  # all are past the question whether it is there
            return stream.read(most)

        folder.store(name(SOUND), len(SOUND), read)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert files(tmp_path) == [name(SOUND)]
    assert folder.whole(name(SOUND))


def test_a_block_that_is_there_is_not_read_again(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    block = put(folder, SOUND)

    def read(most: int) -> bytes:
        raise AssertionError("nothing is to be read")

    folder.store(block, len(SOUND), read)
    assert folder.path(block).read_bytes() == SOUND


def test_a_block_that_was_damaged_on_the_disk_is_removed(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    block = put(folder, SOUND)
    folder.path(block).write_bytes(SOUND[:-1] + b"?")
    assert not folder.whole(block)
    assert files(tmp_path) == []
    assert folder.whole(put(folder, SOUND))


def test_forgotten_blocks_are_gone_and_others_stay(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    first, second = put(folder, b"one"), put(folder, b"two")
    folder.forget([first, first, name(b"never was")])
    assert folder.held([first, second]) == {second}


def test_sweeping_takes_what_is_old_and_not_kept(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    folder = BlockFolder(tmp_path, clock=lambda: now)
    old, kept, new = put(folder, b"old"), put(folder, b"kept"), put(folder, b"newer")
    for block, age_s in ((old, 101), (kept, 101), (new, 99)):
        os.utime(folder.path(block), (now - age_s, now - age_s))
    for age_s in (3599, 3601):
        left = folder.path(old).with_name(f"{old}.{age_s}.part")
        left.write_bytes(b"left over")
        os.utime(left, (now - age_s, now - age_s))
    assert folder.sweep({kept}, 100) == len(b"old") + len(b"left over")
    assert files(tmp_path) == sorted([kept, new, f"{old}.3599.part"])


def test_a_block_that_was_asked_for_is_new_again(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    asked, stored, neither = put(folder, b"asked"), put(folder, b"stored"), put(folder, b"no")
    for block in (asked, stored, neither):
        os.utime(folder.path(block), (1_000, 1_000))
    folder.held([asked])
    put(folder, b"stored")
    folder.sweep(set(), 3600)
    assert files(tmp_path) == sorted([asked, stored])


# ── the conversation ─────────────────────────────────────────────────────────────────────────


def test_blocks_are_asked_for_put_and_held(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    one, two = name(b"one"), name(b"two")
    ask = Have((one, two, "what is this"))
    assert said(folder, ask, Put(two, 3), b"two", ask, Put(one, 3), b"one", ask) == [
        Held(()),
        Stored(two),
        Held((two,)),
        Stored(one),
        Held((one, two)),
    ]


def test_a_put_that_is_refused_keeps_the_conversation_in_step(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path)
    put(folder, b"there\n")
    answers = said(
        folder,
        Put(name(SOUND), 7), b"\n\nwrong",
        Put("no name", 5), b"x\ny\nz",
        Put(name(b"there\n"), 6), b"there\n",
        Put(name(b""), 0),
        Put(name(b"{}\n"), 3), b"{}\n",
    )  # fmt: skip
    assert [type(answer) for answer in answers] == [Failed, Failed, Stored, Stored, Stored]
    assert [f.job for f in answers if isinstance(f, Failed)] == [name(SOUND), "no name"]
    assert {f.code for f in answers if isinstance(f, Failed)} == {ErrorCode.WIRE}


@pytest.mark.parametrize(
    "line",
    [
        b"not json\n",
        b"\n",
        b'{"type":"put","block":"x"}\n',
        b'{"type":"put","block":"x","bytes":-1}\n',
        encode(Put("a" * 64, MAX_BLOCK_BYTES + 1)),
        encode(Ping()),
        encode(Cancel("j")),
    ],
)
def test_a_line_without_a_place_is_told_and_ends_it(tmp_path: Path, line: bytes) -> None:
    (answer,) = said(BlockFolder(tmp_path), line, Have(()))
    assert isinstance(answer, Failed)
    assert (answer.job, answer.seq, answer.code) == ("", 0, ErrorCode.WIRE)


def test_messages_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    assert said(BlockFolder(tmp_path), b'{"type":"compress"}\n', Have(())) == [Held(())]


def test_a_line_without_end_is_refused_in_bounded_memory(tmp_path: Path) -> None:
    answers: list[bytes] = []
    serve_store(lambda most: b"a" * most, answers.append, BlockFolder(tmp_path))
    (answer,) = map(decode, answers)
    assert isinstance(answer, Failed)


@pytest.mark.parametrize("sent", [b"", b'{"type":"ha', encode(Put(name(SOUND), 9)) + b"half"])
def test_a_client_that_goes_leaves_nothing_half(tmp_path: Path, sent: bytes) -> None:
    assert said(BlockFolder(tmp_path), sent) == []
    assert files(tmp_path) == []


def test_an_input_that_breaks_is_its_end_and_no_fault_of_the_disk(tmp_path: Path) -> None:
    stream = io.BytesIO(encode(Put(name(SOUND), len(SOUND))) + SOUND[:50])
    answers: list[bytes] = []

    def read(most: int) -> bytes:
        piece = stream.read(most)
        if not piece:
            raise OSError(errno.EIO, "broken")
        return piece

    serve_store(read, answers.append, BlockFolder(tmp_path))
    assert answers == []
    assert files(tmp_path) == []


def test_it_ends_when_nobody_listens(tmp_path: Path) -> None:
    def write(line: bytes) -> None:
        raise BrokenPipeError

    serve_store(io.BytesIO(encode(Have(())) * 3).read, write, BlockFolder(tmp_path))
    serve_store(io.BytesIO(b"nonsense\n").read, write, BlockFolder(tmp_path))


LINES = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"\n", b"{}", b"[" * 3000, b'{"type":"put","block":"', b'{"type":"have"}\n']),
    st.builds(lambda ids: encode(Have(tuple(ids))), st.lists(st.text(max_size=8), max_size=3)),
    st.builds(
        lambda data, cut: encode(Put(name(data), len(data))) + data[: len(data) - cut],
        st.binary(max_size=200),
        st.integers(0, 3),
    ),
    st.builds(lambda b, n: encode(Put(b, n)), st.text(min_size=1), st.integers(-9, 2**70)),
)


@given(parts=st.lists(LINES, max_size=8), steps=st.lists(st.integers(1, 70), min_size=1))
def test_any_bytes_in_any_pieces_have_a_typed_end(parts: list[bytes], steps: list[int]) -> None:
    stream, turn = io.BytesIO(b"".join(parts)), iter(range(10**9))

    def read(most: int) -> bytes:
        return stream.read(min(most, steps[next(turn) % len(steps)]))

    answers: list[bytes] = []
    with tempfile.TemporaryDirectory() as folder:
        serve_store(read, answers.append, BlockFolder(Path(folder)))
        stored = {a.block for a in map(decode, answers) if isinstance(a, Stored)}
        assert set(files(Path(folder))) == stored
        assert all(name(p.read_bytes()) == p.name for p in Path(folder).glob("*/*"))
    kinds = [decode(line) for line in answers]
    assert all(isinstance(kind, Held | Stored | Failed) for kind in kinds)
    assert all(not (isinstance(kind, Failed) and kind.job == "") for kind in kinds[:-1])


def test_receiving_loads_the_standard_library_alone() -> None:
    program = (
        "import sys; before = set(sys.modules); import remote.blocks;"
        "print(*{m.partition('.')[0] for m in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) - {"remote"} <= sys.stdlib_module_names
