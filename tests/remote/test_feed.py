"""Windows read ahead on a thread: the same ones, in order, and no thread outlives its reader."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from remote.audio import AudioReader
from remote.chunking import Detector, Window, Windower, WindowSettings
from remote.feed import Heard, WindowFeed, duration_ms
from remote.protocol import ErrorCode, KnownError, Options, Source
from remote.timing import StageClock
from tests.remote.doubles import Loud, LoudStream
from tests.remote.recordings import RATE, write

SHORT = WindowSettings(max_window_s=4.0, max_gap_s=3.0, cut_search_s=1.0)
VAD = Options(windows="vad")


def bursts(seconds: int, seed: int = 0) -> NDArray[np.int16]:
    """Noise that comes and goes, int16 [seconds * 16000]."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0, 3000], 2 * seconds), RATE // 2)
    return (rng.normal(0, 1, len(level)) * level).astype(np.int16)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two channels, 70 s: more than two blocks."""
    channels = np.stack([bursts(70, 1), bursts(70, 2)])
    return write(tmp_path_factory.mktemp("audio") / "two.wav", channels)


def feeding(path: Path, options: Options, detector: Detector, ahead: int = 3) -> WindowFeed:
    return WindowFeed(Source("path", str(path)), options, detector, StageClock(), SHORT, ahead)


def patiently() -> bool:
    return True


def by_hand(path: Path, options: Options) -> list[Heard]:
    """The windows of a file, read and cut here and now."""
    with AudioReader(path, split=options.channels == "split", block_s=30.0) as reader:
        windowers = [Windower(options.windows, Loud(), SHORT) for _ in range(reader.tracks)]
        found = [
            Heard(track, window)
            for block in reader
            for track, windower in enumerate(windowers)
            for window in windower.push(block[track])
        ]
        return found + [
            Heard(track, window)
            for track, windower in enumerate(windowers)
            for window in windower.finish()
        ]


def same(one: Window, other: Window) -> bool:
    return (one.index, one.pieces, one.speech, one.samples.tolist()) == (
        other.index,
        other.pieces,
        other.speech,
        other.samples.tolist(),
    )


def reading() -> list[threading.Thread]:
    """Threads of feeds that are alive."""
    return [thread for thread in threading.enumerate() if thread.name == "audio"]


@pytest.mark.parametrize(
    "options",
    [
        VAD,
        Options(windows="vad", channels="split"),
        Options(windows="fixed"),
        Options(windows="off", channels="split"),
    ],
    ids=lambda options: f"{options.windows} {options.channels}",
)
def test_the_windows_are_those_that_are_cut_by_hand(recording: Path, options: Options) -> None:
    expected = by_hand(recording, options)
    clock = StageClock()
    with WindowFeed(Source("path", str(recording)), options, Loud(), clock, SHORT, 2) as feed:
        found = list(feed.windows(patiently))
        assert feed.tracks == (2 if options.channels == "split" else 1)
    assert len(found) == len(expected) > 5
    for heard, other in zip(found, expected, strict=True):
        assert heard is not None
        assert heard.track == other.track
        assert same(heard.window, other.window)
    assert feed.decoded_samples == 70 * RATE
    speech = [span for heard in expected for span in heard.window.speech]
    assert feed.speech_samples == sum(span.end - span.start for span in speech)
    assert set(clock.times().seconds) == {"decode", "vad"}
    assert not reading()


class Gated(Loud):
    """Hears nothing until it is let.

    Args:
        breaks_at: the block at whose beginning it raises, counted from 0.
    """

    def __init__(self, breaks_at: int | None = None) -> None:
        self.open = threading.Event()
        self.blocks = 0
        self._breaks_at = breaks_at

    def stream(self) -> LoudStream:
        gate = self

        class Stream(LoudStream):
            def push(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
                assert gate.open.wait(60)
                if gate.blocks == gate._breaks_at:
                    raise KnownError(ErrorCode.FILE_VANISHED, "It has gone.")
                gate.blocks += 1
                return super().push(samples)

        return Stream()


def test_who_does_not_wait_is_given_none(recording: Path) -> None:
    detector = Gated()
    with feeding(recording, VAD, detector) as feed:
        patient = False
        heard: Iterator[Heard | None] = feed.windows(lambda: patient)
        assert [next(heard) for _ in range(3)] == [None] * 3
        detector.open.set()
        patient = True
        first = next(heard)
    assert first is not None
    assert same(first.window, by_hand(recording, VAD)[0].window)


def test_an_error_arrives_after_the_windows_before_it(recording: Path) -> None:
    detector = Gated(breaks_at=1)
    detector.open.set()
    found: list[Heard | None] = []
    with feeding(recording, VAD, detector) as feed:  # noqa: SIM117
        with pytest.raises(KnownError, match="It has gone"):
            found.extend(feed.windows(patiently))  # extend keeps what came before
    expected = [h for h in by_hand(recording, VAD) if h.window.pieces[-1].file_start < 26 * RATE]
    assert len(found) >= len(expected) - 1 > 3
    for heard, other in zip(found, expected, strict=False):
        assert heard is not None
        assert same(heard.window, other.window)
    assert not reading()


@pytest.mark.parametrize("consumed", [0, 1])
def test_leaving_early_ends_the_thread(recording: Path, consumed: int) -> None:
    detector = Gated()
    detector.open.set()
    with feeding(recording, VAD, detector, ahead=1) as feed:
        heard = feed.windows(patiently)
        assert all(next(heard) for _ in range(consumed))
        assert reading()
    assert not reading()


def test_no_more_is_read_ahead_than_there_is_room_for(recording: Path) -> None:
    """A window is asked for only after the one before was taken: blocks are read as they go."""
    detector = Gated()
    detector.open.set()
    with feeding(recording, VAD, detector, ahead=1) as feed:
        heard = feed.windows(patiently)
        first = next(heard)
        assert first is not None
        assert detector.blocks == 1  # of three; its other windows wait for room
        list(heard)
    assert detector.blocks == 4  # three and the rest of the last frame


def test_a_source_that_cannot_be_read_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(KnownError) as caught:
        feeding(tmp_path / "none.wav", VAD, Loud())
    assert caught.value.code is ErrorCode.FILE_MISSING
    assert not reading()


def test_warnings_are_there_at_the_end(recording: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.wav"
    cut.write_bytes(recording.read_bytes()[:1_000_000])
    with feeding(cut, VAD, Loud()) as feed:
        assert list(feed.windows(patiently))
    assert len(feed.warnings) == 1
    assert "damaged" in feed.warnings[0]


def test_a_length_is_whole_milliseconds() -> None:
    assert [duration_ms(samples) for samples in (0, 15, 16, 16_000 * 3600)] == [0, 0, 1, 3_600_000]
