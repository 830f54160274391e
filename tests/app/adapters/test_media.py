"""Recordings become blocks that give the engine what it would have read itself."""

import hashlib
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from app.adapters.media import Recordings, code
from app.domain.blocks import BLOCK_S, Codec, CodedBlock
from remote.audio import AudioReader
from remote.block_audio import BlockList, BlockReader
from remote.blocks import BlockFolder
from remote.feed import BLOCK_S as FEED_BLOCK_S
from remote.protocol import ErrorCode, KnownError, Source
from tests.remote.recordings import (
    RATE,
    SAMPLE,
    Int16,
    at_rate,
    joined,
    lag_ms,
    speech,
    write,
    write_picture_alone,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture
def media() -> Iterator[Recordings]:
    recordings = Recordings(coders=2)
    yield recordings
    recordings.close()


@pytest.fixture(scope="module")
def minutes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """99 s of stereo, the channels apart, at a rate that has to be converted."""
    sound = at_rate(np.tile(speech(), 9), 22_050)
    both = np.concatenate([sound, np.roll(sound, 22_050, axis=1) // 3])
    return write(tmp_path_factory.mktemp("media") / "long.wav", both, rate=22_050)


def blocks_of(
    media: Recordings, path: Path, codec: Codec = Codec.FLAC, *, split: bool = False
) -> list[CodedBlock]:
    return list(media.cut(path, split=split, codec=lambda: codec))


def heard(folder: Path, blocks: list[CodedBlock], tracks: int = 1) -> list[Int16]:
    """What the engine reads out of blocks."""
    store, known = BlockFolder(folder), BlockList()
    for coded in blocks:
        store.store(coded.block.id, len(coded.data), io.BytesIO(coded.data).read)
    known.add(0, [coded.block for coded in blocks], complete=True)
    return list(BlockReader(Source("blocks", "a", tracks=tracks), known, store))


def refusal(media: Recordings, path: Path) -> KnownError:
    with pytest.raises(KnownError) as caught:
        blocks_of(media, path)
    return caught.value


def snr_db(found: Int16, sound: Int16) -> float:
    error = found.astype(float) - sound
    return float(10 * np.log10((sound.astype(float) ** 2).sum() / max(1.0, (error**2).sum())))


def band_levels_db(sound: Int16) -> NDArray[np.float64]:
    """The energy in each band of about 1 kHz."""
    power = np.abs(np.fft.rfft(sound.astype(float))) ** 2
    return 10 * np.log10([band.sum() for band in np.array_split(power, 8)])


@pytest.mark.parametrize("split", [False, True])
def test_flac_brings_the_engine_block_by_block_what_it_would_have_read(
    media: Recordings, minutes: Path, tmp_path: Path, split: bool
) -> None:
    with AudioReader(minutes, split=split, block_s=FEED_BLOCK_S) as reader:
        expected = list(reader)
    found = heard(tmp_path, blocks_of(media, minutes, split=split), 1 + split)
    assert len(found) == len(expected) == 4
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_known_of_a_recording_is_known_once_it_is_open(
    media: Recordings, minutes: Path
) -> None:
    cut = media.cut(minutes, split=True, codec=lambda: Codec.FLAC)
    assert cut.tracks == 2
    assert cut.duration_ms is not None
    assert abs(cut.duration_ms - 99_000) < 10
    cut.close()


def test_a_block_is_named_by_its_bytes_and_knows_its_length(
    media: Recordings, minutes: Path
) -> None:
    blocks = blocks_of(media, minutes)
    assert [b.block.id for b in blocks] == [hashlib.sha256(b.data).hexdigest() for b in blocks]
    assert [b.block.samples for b in blocks[:-1]] == [round(BLOCK_S * RATE)] * 3
    assert abs(sum(b.block.samples for b in blocks) - 99 * RATE) < 10


def test_a_block_is_a_file_that_any_player_opens(media: Recordings) -> None:
    for codec, names in ((Codec.FLAC, ("flac", "flac")), (Codec.OPUS, ("ogg", "opus"))):
        (coded,) = blocks_of(media, SAMPLE, codec)
        with av.open(io.BytesIO(coded.data)) as container:
            stream = container.streams.audio[0]
            assert (container.format.name, stream.codec_context.name) == names
            assert stream.codec_context.channels == 1


@pytest.mark.parametrize("codec", Codec)
def test_the_same_sound_gives_the_same_bytes_in_another_process(codec: Codec) -> None:
    program = (
        "import sys; from pathlib import Path;"
        "from app.adapters.media import Recordings; from app.domain.blocks import Codec;"
        "path, codec = Path(sys.argv[1]), Codec(sys.argv[2]);"
        "cut = Recordings().cut(path, split=False, codec=lambda: codec);"
        "print(*(coded.block.id for coded in cut))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(SAMPLE), codec],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == [b.block.id for b in blocks_of(Recordings(1), SAMPLE, codec)]


def test_opus_is_small_and_sounds_like_the_recording(media: Recordings, tmp_path: Path) -> None:
    blocks = blocks_of(media, SAMPLE, Codec.OPUS)
    sound = joined(heard(tmp_path, blocks))[0]
    assert sum(len(b.data) for b in blocks) * 8 / (len(speech()) / RATE) < 34_000
    assert len(sound) == len(speech())
    assert lag_ms(sound, speech()) == 0
    assert snr_db(sound, speech()) > 10
    assert np.abs(band_levels_db(sound) - band_levels_db(speech())).max() < 3


def test_opus_blocks_join_without_a_click(media: Recordings, tmp_path: Path) -> None:
    seconds = np.arange(61 * RATE) / RATE  # never silent, and never at rest at a border
    tones = sum(6000 * np.sin(2 * np.pi * hertz * seconds + 1) for hertz in (190, 433, 1210))
    path = write(tmp_path / "tones.wav", np.asarray(tones, np.int16)[None])
    found = joined(heard(tmp_path, blocks_of(media, path, Codec.OPUS)))[0].astype(float)
    error = found - np.asarray(tones, np.int16)
    window = RATE // 100
    loud = (error[: len(error) // window * window].reshape(-1, window) ** 2).mean(axis=1)
    typical = np.quantile(loud, 0.99)
    for border in (3000, 6000):
        assert loud[border - 2 : border + 2].max() < 4 * typical


def test_split_channels_are_not_heard_in_each_other(media: Recordings, tmp_path: Path) -> None:
    silent = np.zeros_like(speech())
    path = write(tmp_path / "call.wav", np.stack([speech(), silent]))
    for codec, most in ((Codec.FLAC, 0), (Codec.OPUS, 3)):
        folder = tmp_path / codec
        found = joined(heard(folder, blocks_of(media, path, codec, split=True), 2))
        assert np.abs(found[1]).max() <= most
        assert snr_db(found[0], speech()) > 10


def test_more_channels_than_flac_has_are_no_obstacle(media: Recordings, tmp_path: Path) -> None:
    sound = np.stack([np.roll(speech(), 999 * n)[:50_000] for n in range(12)])
    path = write(tmp_path / "many.wav", sound, layout="12 channels")
    (found,) = heard(tmp_path / "blocks", blocks_of(media, path, split=True), 12)
    np.testing.assert_array_equal(found, sound)


def test_the_codec_is_asked_for_at_each_block(media: Recordings, minutes: Path) -> None:
    turns = cycle([Codec.FLAC, Codec.OPUS])
    cut = media.cut(minutes, split=False, codec=lambda: next(turns))
    blocks = list(cut)
    assert [b.codec for b in blocks] == [Codec.FLAC, Codec.OPUS] * 2
    assert [b.data[:4] for b in blocks] == [b"fLaC", b"OggS"] * 2


def test_no_more_is_read_ahead_than_agreed(minutes: Path) -> None:
    asked: list[int] = []
    go_on, all_asked = threading.Event(), threading.Event()
    media = Recordings(coders=1)

    def codec() -> Codec:
        asked.append(len(asked))
        if len(asked) == 2:
            all_asked.set()
        return Codec.FLAC

    media._pool.submit(go_on.wait)  # nothing is coded until then
    with ThreadPoolExecutor(1) as other:
        first = other.submit(next, iter(media.cut(minutes, split=False, codec=codec)))
        assert all_asked.wait(20)
        go_on.set()
        first.result()
    assert len(asked) == 2
    media.close()


def test_damage_is_told_after_the_last_block(media: Recordings, tmp_path: Path) -> None:
    path = tmp_path / "half.flac"
    path.write_bytes(SAMPLE.read_bytes()[:120_000])
    cut = media.cut(path, split=False, codec=lambda: Codec.FLAC)
    assert cut.warnings == ()
    assert list(cut)
    assert "half.flac is damaged" in cut.warnings[0]


def test_blocks_before_a_break_are_given_before_it_is_told(
    media: Recordings, minutes: Path, tmp_path: Path
) -> None:
    path = tmp_path / "vanishing.wav"
    path.write_bytes(minutes.read_bytes())
    cut = media.cut(path, split=False, codec=lambda: Codec.FLAC)
    blocks = iter(cut)
    found = [next(blocks)]
    with path.open("r+b") as file:
        file.truncate(5_000_000)
    with pytest.raises(KnownError) as caught:
        found.extend(blocks)
    assert caught.value.code is ErrorCode.FILE_VANISHED
    assert sum(b.block.samples for b in found) > 50 * RATE


def test_bad_input_is_refused_in_the_reader_s_words(media: Recordings, tmp_path: Path) -> None:
    (tmp_path / "empty.mp3").touch()
    (tmp_path / "text.mp3").write_text("not audio at all, but a letter")
    (tmp_path / "torn.flac").write_bytes(SAMPLE.read_bytes()[:100])
    write_picture_alone(tmp_path / "silent.mp4")
    found = {
        name: refusal(media, tmp_path / name).code
        for name in ("none.mp3", "empty.mp3", "text.mp3", "torn.flac", "silent.mp4", ".")
    }
    assert found == {
        "none.mp3": ErrorCode.FILE_MISSING,
        "empty.mp3": ErrorCode.FILE_EMPTY,
        "text.mp3": ErrorCode.NOT_AUDIO,
        "torn.flac": ErrorCode.AUDIO_DAMAGED,
        "silent.mp4": ErrorCode.NO_AUDIO_TRACK,
        ".": ErrorCode.FILE_UNREADABLE,
    }


def test_a_cut_that_is_closed_does_not_look_complete(media: Recordings, minutes: Path) -> None:
    cut = media.cut(minutes, split=False, codec=lambda: Codec.FLAC)
    blocks = iter(cut)
    next(blocks)
    cut.close()
    cut.close()
    with pytest.raises(KnownError) as caught:
        list(blocks)
    assert caught.value.code is ErrorCode.CANCELLED


def test_closing_while_another_thread_reads_is_safe(media: Recordings, minutes: Path) -> None:
    for _ in range(5):
        asked = threading.Event()

        def codec(asked: threading.Event = asked) -> Codec:
            asked.set()
            return Codec.FLAC

        cut = media.cut(minutes, split=False, codec=codec)
        with ThreadPoolExecutor(1) as other:
            reading = other.submit(list, cut)
            assert asked.wait(20)
            cut.close()
            error = reading.exception()  # none where the reading was quicker
            assert error is None or isinstance(error, KnownError)


def test_a_file_is_known_by_its_content_alone(media: Recordings, tmp_path: Path) -> None:
    copy = tmp_path / "copy.wav"
    copy.write_bytes(SAMPLE.read_bytes())
    assert media.fingerprint(copy) == media.fingerprint(SAMPLE)
    assert media.fingerprint(copy) == hashlib.sha256(SAMPLE.read_bytes()).hexdigest()


def test_a_file_that_cannot_be_read_has_no_fingerprint(media: Recordings, tmp_path: Path) -> None:
    for name, expected in (("none", ErrorCode.FILE_MISSING), ("", ErrorCode.FILE_UNREADABLE)):
        with pytest.raises(KnownError) as caught:
            media.fingerprint(tmp_path / name)
        assert caught.value.code is expected


def test_coding_a_single_sample_is_coding_too(tmp_path: Path) -> None:
    for codec in Codec:
        coded = code(np.array([[1234]], np.int16), codec)
        (found,) = heard(tmp_path / codec, [coded])
        assert found.shape == (1, 1)
