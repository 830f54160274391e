"""Blocks become the samples that they were made of, in order, also those that come late or twice.

Blocks are made here by libav alone, as ``PROTOCOL.md`` says they are; that the client makes them
so is shown by ``tests/app/adapters/test_media.py``.
"""

import hashlib
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.block_audio import MAX_BLOCK_S, BlockList, BlockMissing, BlockReader
from remote.blocks import BlockFolder
from remote.protocol import Block, ErrorCode, KnownError, Source, WireError
from tests.remote.recordings import RATE, SAMPLE, Int16, joined, speech, write


@pytest.fixture
def folder(tmp_path: Path) -> BlockFolder:
    return BlockFolder(tmp_path / "blocks")


def put(folder: BlockFolder, data: bytes) -> str:
    block = hashlib.sha256(data).hexdigest()
    folder.store(block, len(data), io.BytesIO(data).read)
    return block


def flac(folder: BlockFolder, samples: Int16) -> Block:
    """A block of these tracks, in the store."""
    path = folder.path("0" * 64).parents[1].with_name("made.flac")
    write(path, samples.reshape(1, -1), codec="flac")
    return Block(put(folder, path.read_bytes()), samples.shape[1])


def noise(tracks: int, length: int, seed: int = 0) -> Int16:
    return np.random.default_rng(seed).integers(-20_000, 20_000, (tracks, length), np.int16)


def reader(
    folder: BlockFolder, *blocks: Block, tracks: int = 1, complete: bool = True
) -> BlockReader:
    known = BlockList()
    known.add(0, blocks, complete=complete)
    return BlockReader(Source("blocks", "talk.mp3", 1234, tracks), known, folder)


# ── the list ─────────────────────────────────────────────────────────────────────────────────


def block(number: int, samples: int = 100) -> Block:
    return Block(f"{number:064x}", samples)


def test_blocks_are_known_as_they_are_told_and_told_again() -> None:
    known = BlockList()
    known.add(0, (block(0), block(1)))
    known.add(1, (block(1), block(2)), warnings=("It hisses.",))
    known.add(3, (), complete=True)
    known.add(0, (block(0),))
    assert known.blocks == (block(0), block(1), block(2))
    assert (known.complete, known.warnings) == (True, ("It hisses.",))
    assert [known.get(n, lambda: True) for n in range(4)] == [
        (block(0), 2), (block(1), 2), (block(2), 1), None,
    ]  # fmt: skip


def test_a_block_told_again_in_another_codec_takes_the_place_of_the_first() -> None:
    known = BlockList()
    known.add(0, (block(0), block(1)))
    known.add(1, (block(7),))
    assert known.blocks == (block(0), block(7))


@pytest.mark.parametrize(
    ("first", "blocks", "complete"),
    [
        (3, (block(3),), False),
        (-1, (block(0),), False),
        (1, (block(1, 99),), False),
        (0, (block(0),), True),
        (2, (block(2, 0),), False),
        (2, (block(2, -5),), False),
        (2, (block(2), block(3, round(MAX_BLOCK_S * RATE) + 1)), False),
    ],
)
def test_what_cannot_follow_is_refused_and_not_taken_in(
    first: int, blocks: tuple[Block, ...], complete: bool
) -> None:
    known = BlockList()
    known.add(0, (block(0), block(1)))
    with pytest.raises(WireError):
        known.add(first, blocks, complete=complete)
    assert (known.blocks, known.complete) == ((block(0), block(1)), False)


def test_nothing_follows_the_end() -> None:
    known = BlockList()
    known.add(0, (block(0),), complete=True)
    with pytest.raises(WireError):
        known.add(1, (block(1),))


@given(
    tellings=st.lists(
        st.tuples(st.integers(-1, 6), st.integers(0, 4), st.booleans()), max_size=12
    )
)  # fmt: skip
def test_whatever_is_told_the_known_blocks_have_no_hole(
    tellings: list[tuple[int, int, bool]],
) -> None:
    known, before = BlockList(), (0, False)
    for first, count, complete in tellings:
        try:
            known.add(first, tuple(map(block, range(first, first + count))), complete=complete)
        except WireError:
            assert (len(known.blocks), known.complete) == before
        assert known.blocks == tuple(map(block, range(len(known.blocks))))
        assert len(known.blocks) >= before[0]
        assert known.complete >= before[1]
        before = len(known.blocks), known.complete


# ── the reader ───────────────────────────────────────────────────────────────────────────────


def test_flac_blocks_give_the_very_samples(folder: BlockFolder) -> None:
    sounds = [noise(1, length, seed) for seed, length in enumerate((480_000, 480_000, 1, 777))]
    recording = reader(folder, *(flac(folder, sound) for sound in sounds))
    for found, sound in zip(recording, sounds, strict=True):
        assert found.dtype == np.int16
        np.testing.assert_array_equal(found, sound)
    assert recording.tracks == 1
    assert (recording.info.duration_ms, recording.info.sample_rate) == (1234, RATE)


@pytest.mark.parametrize("tracks", [2, 3, 9, 40])
def test_tracks_are_kept_apart(folder: BlockFolder, tracks: int) -> None:
    sound = noise(tracks, 5_000)
    (found,) = reader(folder, flac(folder, sound), tracks=tracks)
    np.testing.assert_array_equal(found, sound)


def test_what_a_codec_adds_behind_each_track_is_cut_off(folder: BlockFolder) -> None:
    sound = noise(2, 5_000)
    padded = flac(folder, np.pad(sound, ((0, 0), (0, 640))))
    (found,) = reader(folder, Block(padded.id, 5_000), tracks=2)
    np.testing.assert_array_equal(found, sound)


def test_opus_blocks_are_as_long_as_their_sound_and_lie_at_its_time(
    folder: BlockFolder, tmp_path: Path
) -> None:
    blocks = []
    for number, begin in enumerate(range(0, len(speech()), 50_001)):
        part = speech()[None, begin : begin + 50_001]
        path = write(tmp_path / f"{number}.ogg", part, codec="libopus", bit_rate=32_000)
        blocks.append(Block(put(folder, path.read_bytes()), part.shape[1]))
    found = joined(reader(folder, *blocks))[0].astype(float)
    assert len(found) == len(speech())
    spectrum = np.fft.rfft(found) * np.conj(np.fft.rfft(speech().astype(float)))
    assert int(np.fft.irfft(spectrum, len(found)).argmax()) == 0


def test_blocks_are_given_as_they_come(folder: BlockFolder) -> None:
    known = BlockList()
    recording = BlockReader(Source("blocks", "talk.mp3"), known, folder)
    sounds = [noise(1, 1000, seed) for seed in range(5)]
    blocks = [flac(folder, sound) for sound in sounds]
    given = iter(recording)
    with ThreadPoolExecutor(1) as other:
        for number, sound in enumerate(sounds):
            coming = other.submit(next, given)
            known.add(number, (blocks[number],), complete=number == 4, warnings=("It hisses.",))
            np.testing.assert_array_equal(coming.result(), sound)
        assert other.submit(next, given, None).result() is None
    assert recording.warnings == ("It hisses.",)
    assert recording.waited_s > 0


@pytest.mark.parametrize("close", ["reader", "list"])
def test_closing_ends_a_wait_with_an_error(folder: BlockFolder, close: str) -> None:
    known = BlockList()
    recording = BlockReader(Source("blocks", "talk.mp3"), known, folder)
    with ThreadPoolExecutor(1) as other:
        waiting = other.submit(list, recording)
        (recording if close == "reader" else known).close()
        with pytest.raises(KnownError) as caught:
            waiting.result()
    assert caught.value.code is ErrorCode.CANCELLED
    recording.close()


def test_a_recording_that_is_closed_midway_does_not_look_complete(folder: BlockFolder) -> None:
    recording = reader(folder, *(flac(folder, noise(1, 99, seed)) for seed in range(4)))
    given = iter(recording)
    next(given)
    recording.close()
    with pytest.raises(KnownError):
        next(given)


def test_a_missing_block_is_named_and_reading_goes_on_at_it(folder: BlockFolder) -> None:
    sounds = [noise(1, 1000, seed) for seed in range(4)]
    blocks = [flac(folder, sound) for sound in sounds]
    data = folder.path(blocks[1].id).read_bytes()
    folder.forget([blocks[1].id])
    recording = reader(folder, *blocks)
    found: list[Int16] = []
    with pytest.raises(BlockMissing) as caught:
        found.extend(recording)
    assert caught.value.block == blocks[1].id
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert "talk.mp3" in str(caught.value)
    put(folder, data)
    found.extend(recording)
    np.testing.assert_array_equal(joined(found), joined(sounds))


def test_all_lost_blocks_are_asked_for_once_and_waited_for(folder: BlockFolder) -> None:
    sounds = [noise(1, 1000, seed) for seed in range(6)]
    blocks = [flac(folder, sound) for sound in sounds]
    data = {b.id: folder.path(b.id).read_bytes() for b in blocks}
    folder.path(blocks[1].id).write_bytes(b"damaged on the disk")
    folder.forget([b.id for b in blocks[3:]])
    known = BlockList()
    known.add(0, blocks, complete=True)
    asked: list[tuple[str, ...]] = []
    all_asked = threading.Event()

    def ask(lost: tuple[str, ...]) -> None:
        asked.append(lost)
        all_asked.set()

    recording = BlockReader(Source("blocks", "talk.mp3"), known, folder, ask)
    with ThreadPoolExecutor(1) as other:
        reading = other.submit(joined, recording)
        assert all_asked.wait(20)
        for number in (5, 4, 3, 1):
            put(folder, data[blocks[number].id])
            known.add(number, (blocks[number],))
        np.testing.assert_array_equal(reading.result(), joined(sounds))
    assert asked == [tuple(blocks[n].id for n in (1, 3, 4, 5))]


def test_closing_ends_the_wait_for_a_missing_block(folder: BlockFolder) -> None:
    known = BlockList()
    known.add(0, (block(1),))
    recording = BlockReader(
        Source("blocks", "talk.mp3"), known, folder, lambda _: recording.close()
    )
    with pytest.raises(KnownError) as caught:
        list(recording)
    assert caught.value.code is ErrorCode.CANCELLED


def undecodable(folder: BlockFolder, tmp_path: Path) -> Iterator[tuple[str, bytes, int, int]]:
    """What a block may be instead: why not, bytes, samples, tracks."""
    whole = SAMPLE.read_bytes()
    length = len(speech())
    yield "no recording", b"not a recording", 100, 1
    yield "nothing", b"", 100, 1
    yield "cut off", whole[: len(whole) // 2], length, 1
    yield "too short", whole, length + 1, 1
    yield "far too long", whole, 100, 1
    yield "not to be shared out", whole, length // 7, 7
    stereo = write(tmp_path / "stereo.flac", noise(2, 2000), codec="flac").read_bytes()
    yield "two channels", stereo, 2000, 1


def test_what_is_as_it_was_sent_and_no_sound_is_not_asked_for_again(
    folder: BlockFolder, tmp_path: Path
) -> None:
    for why, data, samples, tracks in undecodable(folder, tmp_path):
        recording = reader(folder, Block(put(folder, data), samples), tracks=tracks)
        with pytest.raises(KnownError) as caught:
            list(recording)
        assert caught.value.code is ErrorCode.AUDIO_DAMAGED, why
        assert "talk.mp3" in str(caught.value)


def test_a_recording_without_tracks_is_refused(folder: BlockFolder) -> None:
    with pytest.raises(WireError):
        reader(folder, tracks=0)


def test_its_threads_end_with_the_reading(folder: BlockFolder) -> None:
    blocks = [flac(folder, noise(1, 99, seed)) for seed in range(4)]
    given = iter(reader(folder, *blocks))
    next(given)
    threads = [t for t in threading.enumerate() if t.name.startswith("blocks")]
    given.close()  # type: ignore[attr-defined]
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_the_order_is_that_of_the_list_however_long_a_block_takes(folder: BlockFolder) -> None:
    lengths = [400_000, 10, 300_000, 20, 30, 200_000, 40]
    blocks = [flac(folder, noise(1, length, length)) for length in lengths]
    found = [part.shape[1] for part in reader(folder, *blocks)]
    assert found == lengths
    assert all(a.id != b.id for a, b in pairwise(blocks))
