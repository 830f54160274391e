"""Files of every kind, whole and broken, become 16 kHz blocks or a sentence that helps."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remote.audio import AudioReader, probe
from remote.protocol import ErrorCode, KnownError
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

FORMATS = [
    ("wav", "pcm_s16le", 48_000, 2),
    ("wav", "pcm_s24le", 44_100, 1),
    ("wav", "pcm_f32le", 16_000, 1),
    ("wav", "pcm_mulaw", 8_000, 1),
    ("wav", "pcm_u8", 11_025, 1),
    ("aiff", "pcm_s16be", 22_050, 1),
    ("flac", "flac", 96_000, 2),
    ("mp3", "libmp3lame", 44_100, 2),
    ("mp2", "mp2", 48_000, 2),
    ("m4a", "aac", 44_100, 2),
    ("m4a", "alac", 44_100, 1),
    ("aac", "aac", 44_100, 1),
    ("ogg", "libopus", 48_000, 2),
    ("opus", "libopus", 24_000, 1),
    ("webm", "libopus", 48_000, 1),
    ("mkv", "ac3", 48_000, 2),
    ("wma", "wmav2", 44_100, 1),
    ("amr", "libopencore_amrnb", 8_000, 1),
]


def read(path: Path | str, **options: bool) -> Int16:
    with AudioReader(path, **options) as reader:
        return joined(reader)


def refusal(path: Path | str) -> KnownError:
    with pytest.raises(KnownError) as caught, AudioReader(path) as reader:
        list(reader)
    return caught.value


@pytest.mark.parametrize(("ending", "codec", "rate", "channels"), FORMATS)
def test_every_format_gives_the_same_speech_at_the_same_time(
    tmp_path: Path, ending: str, codec: str, rate: int, channels: int
) -> None:
    sound = np.repeat(at_rate(speech(), rate), channels, axis=0)
    bit_rate = 12_200 if ending == "amr" else 128_000
    path = write(tmp_path / f"a.{ending}", sound, codec=codec, rate=rate, bit_rate=bit_rate)
    with AudioReader(path) as reader:
        found = joined(reader)
    assert (reader.info.channels, reader.info.sample_rate) == (channels, reader.info.sample_rate)
    assert found.dtype == np.int16
    assert abs(found.shape[1] - len(speech())) < 0.15 * RATE
    assert abs(lag_ms(found[0], speech())) < 50
    assert reader.warnings == ()


def test_film_gives_its_sound(tmp_path: Path) -> None:
    for ending in ("mp4", "mov", "mkv"):
        path = write(tmp_path / f"film.{ending}", speech()[None], codec="aac", picture=True)
        with AudioReader(path) as reader:
            found = joined(reader)
        assert abs(lag_ms(found[0], speech())) < 70, ending  # aac's delay where mkv hides none
        assert reader.warnings == ()


def test_sound_shorter_than_its_picture_is_not_called_damaged(tmp_path: Path) -> None:
    for ending in ("mp4", "mkv"):
        path = write(tmp_path / f"a.{ending}", speech()[None, :4000], codec="aac", picture=True)
        with AudioReader(path) as reader:
            assert joined(reader).shape[1] < 0.5 * RATE
        assert reader.warnings == ()


def test_probe_says_what_the_file_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros((2, 22_050), np.int16), rate=44_100)
    info = probe(path)
    assert (info.duration_ms, info.channels, info.sample_rate) == (500, 2, 44_100)
    assert (info.codec, info.container) == ("pcm_s16le", "wav")


def test_sound_at_16_khz_is_taken_sample_by_sample() -> None:
    assert np.array_equal(read(SAMPLE)[0], speech())


@pytest.mark.parametrize(
    "name",
    ["naïve café – sample №1 (日本語).wav", "12:30 call.wav", "-y.wav", "%20?#&.wav", "a'b\"c.wav"],
)
def test_any_name_can_be_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(write(tmp_path / "plain.wav", speech()[None, :RATE]).read_bytes())
    assert read(path).shape == (1, RATE)


def test_a_name_relative_to_the_folder_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.wav", speech()[None, :RATE])
    monkeypatch.chdir(tmp_path)
    assert read("a.wav").shape == (1, RATE)


# ── channels ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("layout", "channels"), [("stereo", 2), ("quad", 4), ("5.1", 6), ("7.1", 8), ("2.1", 3)]
)
def test_speech_on_any_one_channel_is_in_the_mix(
    tmp_path: Path, layout: str, channels: int
) -> None:
    for speaking in range(channels):
        sound = np.zeros((channels, RATE), np.int16)
        sound[speaking] = speech()[:RATE]
        path = write(tmp_path / "a.wav", sound, layout=layout)
        expected = speech()[:RATE] / channels
        assert np.abs(read(path)[0] - expected).max() <= 1


def test_a_mix_of_loud_channels_does_not_clip(tmp_path: Path) -> None:
    tone = (32_767 * np.sin(np.arange(RATE) * 0.05)).astype(np.int16)
    path = write(tmp_path / "a.wav", np.stack([tone, tone]))
    assert np.abs(read(path)[0].astype(int) - tone).max() <= 1


def test_split_gives_each_channel_by_itself(tmp_path: Path) -> None:
    sound = np.stack([speech()[:RATE], np.zeros(RATE, np.int16), speech()[RATE : 2 * RATE]])
    path = write(tmp_path / "a.wav", sound, layout="2.1")
    with AudioReader(path, split=True) as reader:
        assert reader.tracks == 3
        assert np.array_equal(joined(reader), sound)


# ── blocks ───────────────────────────────────────────────────────────────────────────────────


def test_blocks_have_the_length_asked_for_and_do_not_change_the_sound(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", at_rate(speech(), 44_100), codec="libmp3lame", rate=44_100)
    whole = read(path)
    for block_s in (0.01, 0.7, 3.0, 60.0):
        with AudioReader(path, block_s=block_s) as reader:
            blocks = list(reader)
        size = round(block_s * RATE)
        assert [block.shape[1] for block in blocks[:-1]] == [size] * (len(blocks) - 1)
        assert 0 < blocks[-1].shape[1] <= size
        assert np.array_equal(joined(blocks), whole)


def test_no_sample_is_lost_in_the_resampler(tmp_path: Path) -> None:
    for rate in (8_000, 11_025, 44_100, 48_000):
        path = write(tmp_path / "a.wav", np.zeros((1, rate), np.int16), rate=rate)
        assert read(path).shape == (1, RATE)


def test_a_long_recording_takes_no_more_memory_than_a_short_one(tmp_path: Path) -> None:
    script = (
        "import sys; from remote.audio import AudioReader; "
        "from remote.timing import peak_memory_bytes; "
        "print(sum(b.shape[1] for b in AudioReader(sys.argv[1])), peak_memory_bytes())"
    )
    peaks = []
    for minutes in (2, 60):
        path = write(tmp_path / f"{minutes}.wav", np.zeros((1, 8_000), np.int16), rate=8_000)
        _lengthen(path, minutes * 60 * 8_000 * 2)
        done = subprocess.run(
            [sys.executable, "-c", script, path], capture_output=True, text=True, check=True
        )
        samples, peak = map(int, done.stdout.split())
        assert samples == minutes * 60 * RATE
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 5_000_000


def _lengthen(path: Path, data_bytes: int) -> None:
    """A WAV file made longer by a hole, which takes no room on the disk."""
    head = bytearray(path.read_bytes()[:256])
    at = head.index(b"data") + 4
    head[at : at + 4] = data_bytes.to_bytes(4, "little")
    head[4:8] = (at - 4 + data_bytes).to_bytes(4, "little")
    with path.open("r+b") as file:
        file.write(head[: at + 4])
        file.truncate(at + 4 + data_bytes)


# ── time ─────────────────────────────────────────────────────────────────────────────────────


def test_sound_that_starts_after_the_picture_keeps_its_time(tmp_path: Path) -> None:
    for ending in ("mp4", "mkv"):
        path = write(
            tmp_path / f"late.{ending}",
            speech()[None],
            codec="flac",
            picture=True,
            jumps=lambda at: at + 2 * RATE,
        )
        found = read(path)[0]
        assert abs(lag_ms(found, speech()) - 2000) <= 1, ending
        assert not found[: 2 * RATE - 100].any()


def test_a_jump_of_the_time_stamps_is_filled_with_silence(tmp_path: Path) -> None:
    def jumps(at: int) -> int:
        return at + 3 * RATE if at >= 5 * RATE else at

    path = write(tmp_path / "gap.mkv", speech()[None], codec="flac", jumps=jumps)
    with AudioReader(path) as reader:
        found = joined(reader)[0]
    at = int(np.flatnonzero(found[: len(speech())] != speech())[0])
    assert abs(at / RATE - 5) < 0.5
    assert not found[at : at + 3 * RATE].any()
    assert np.array_equal(found[at + 3 * RATE :], speech()[at:])
    assert reader.warnings == ()


def test_small_jumps_and_steps_back_are_not_believed(tmp_path: Path) -> None:
    def small(at: int) -> int:
        return at + 800 if at >= 5 * RATE else at

    def unknown_start(at: int) -> int:
        return at + 100 * RATE

    for name, jumps in (("small", small), ("start", unknown_start)):
        path = write(tmp_path / f"{name}.mkv", speech()[None], codec="flac", jumps=jumps)
        assert np.array_equal(read(path)[0], speech()), name


def test_a_change_of_rate_and_channels_midway_is_followed(tmp_path: Path) -> None:
    first = at_rate(speech(), 44_100)
    write(tmp_path / "a.aac", np.repeat(first, 2, axis=0), codec="aac", rate=44_100)
    write(tmp_path / "b.aac", at_rate(speech(), 22_050), codec="aac", rate=22_050)
    path = tmp_path / "both.aac"
    path.write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("a.aac", "b.aac")))
    mixed, split = read(path), read(path, split=True)
    assert abs(mixed.shape[1] - 2 * len(speech())) < 0.3 * RATE
    assert split.shape == (2, mixed.shape[1])
    assert abs(lag_ms(mixed[0, 12 * RATE :], speech()) + 1000) < 200


# ── what is broken ───────────────────────────────────────────────────────────────────────────


def test_a_cut_off_recording_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    endings = {"mp3": "libmp3lame", "flac": "flac", "wav": "pcm_s16le"}
    for ending, codec in endings.items():
        path = write(tmp_path / f"a.{ending}", speech()[None], codec=codec)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
        with AudioReader(path) as reader:
            found = joined(reader)
        assert 4 * RATE < found.shape[1] < 9 * RATE, ending
        assert abs(lag_ms(found[0], speech())) < 50, ending
        if ending != "wav":  # a WAV file's length is taken from what there is
            (warning,) = reader.warnings
            assert f"a.{ending} is damaged after" in warning
            assert "of 11.0 s; the text ends there." in warning


def test_a_damaged_place_is_passed_and_what_follows_keeps_its_time(tmp_path: Path) -> None:
    for ending, codec in {"flac": "flac", "ogg": "libopus", "mkv": "aac"}.items():
        path = write(tmp_path / f"a.{ending}", speech()[None], codec=codec)
        damage(path, 0.4, 0.45)
        with AudioReader(path) as reader:
            found = joined(reader)[0]
        assert abs(lag_ms(found[6 * RATE :], speech()[6 * RATE :])) < 70, ending
        assert ending == "ogg" or "is damaged at" in reader.warnings[0], ending


def test_a_damaged_place_in_an_mp3_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp3", speech()[None], codec="libmp3lame")
    damage(path, 0.4, 0.45)
    with AudioReader(path) as reader:
        found = joined(reader)[0]
    assert len(found) > 10 * RATE
    (warning,) = reader.warnings
    assert warning == "a.mp3 is damaged at 4.3 s; words may be missing."


def damage(path: Path, start: float, end: float) -> None:
    """The part of a file between two shares of its length becomes zeros."""
    data = bytearray(path.read_bytes())
    first, last = int(len(data) * start), int(len(data) * end)
    data[first:last] = bytes(last - first)
    path.write_bytes(data)


def test_a_damaged_beginning_keeps_the_times_of_the_rest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", speech()[None], codec="flac")
    data = bytearray(path.read_bytes())
    first = data.index(b"\xff\xf8")
    data[first : first + len(data) // 4] = bytes(len(data) // 4)
    path.write_bytes(data)
    with AudioReader(path) as reader:
        found = joined(reader)[0]
    assert len(found) == len(speech())
    assert np.array_equal(found[-5 * RATE :], speech()[-5 * RATE :])
    assert reader.warnings == ("a.flac is damaged at 0.0 s; words may be missing.",)


def test_a_film_whose_index_was_never_written_is_called_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.m4a", speech()[None], codec="aac")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    error = refusal(path)
    assert error.code is ErrorCode.AUDIO_DAMAGED
    assert "a.m4a is damaged or incomplete" in str(error)


def test_a_recording_of_which_nothing_decodes_is_called_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.m4a", speech()[None], codec="alac")
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov")
    data[start : end - 4] = b"\xff" * (end - 4 - start)
    path.write_bytes(data)
    assert refusal(path).code is ErrorCode.AUDIO_DAMAGED


def test_a_header_without_samples_is_called_empty(tmp_path: Path) -> None:
    error = refusal(write(tmp_path / "a.wav", np.zeros((1, 0), np.int16)))
    assert error.code is ErrorCode.FILE_EMPTY
    assert error.message == "a.wav holds no sound: its track has not one sample."


def test_a_film_without_sound_is_refused(tmp_path: Path) -> None:
    error = refusal(write_picture_alone(tmp_path / "silent.mp4"))
    assert error.code is ErrorCode.NO_AUDIO_TRACK
    assert error.message == "silent.mp4 has no sound track."
    assert error.hint


def test_a_file_that_shrinks_while_it_is_read_has_vanished(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.tile(speech(), 4)[None])
    with AudioReader(path, block_s=1.0) as reader:
        blocks = iter(reader)
        next(blocks)
        with path.open("r+b") as file:
            file.truncate(100)
        with pytest.raises(KnownError) as caught:
            list(blocks)
    assert caught.value.code is ErrorCode.FILE_VANISHED
    assert "a.wav went away while it was read" in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not delete a file that is open")
def test_a_file_that_is_deleted_while_it_is_open_is_read_to_its_end(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.tile(speech(), 4)[None])
    with AudioReader(path, block_s=1.0) as reader:
        path.unlink()
        assert joined(reader).shape[1] == 4 * len(speech())


def test_libav_writes_nothing_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.mp3", speech()[None], codec="libmp3lame")
    data = bytearray(path.read_bytes())
    data[3000:9000] = b"\xff\x00" * 3000
    path.write_bytes(data)
    read(path)
    assert capfd.readouterr() == ("", "")
