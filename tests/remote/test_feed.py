"""Windows read ahead on a thread: the same ones, in order, and no thread outlives its reader."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from remote.audio import AudioReader
from remote.chunking import Window, Windower, WindowSettings
from remote.feed import Heard, WindowFeed, duration_ms, open_source
from remote.protocol import ErrorCode, KnownError, Options, Source
from remote.timing import StageClock
from tests.remote.doubles import Loud
from tests.remote.loopback_server import PATIENCE_S, held
from tests.remote.recordings import RATE, write

SHORT = WindowSettings(max_window_s=4.0, max_gap_s=3.0, cut_search_s=1.0)
VAD = Options(windows="vad")


def bursts(seconds: int, seed: int = 0) -> NDArray[np.int16]:
    """Noise that comes and goes, int16 [seconds * 16000]."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0, 3000], 2 * seconds), RATE // 2)
    return np.asarray(rng.normal(0, 1, len(level)) * level, np.int16)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two channels, 70 s: more than two blocks."""
    channels = np.stack([bursts(70, 1), bursts(70, 2)])
    return write(tmp_path_factory.mktemp("audio") / "two.wav", channels)


class Feeding(WindowFeed):
    """A feed whose test waits for it."""

    def __init__(self, path: Path | str, options: Options = VAD, *, aside: bool = False) -> None:
        self.clock = StageClock()
        self.ready = threading.Event()
        source = Source("url" if isinstance(path, str) else "path", str(path))
        reader = open_source(source, options, self.clock)
        super().__init__(reader, options, Loud(), self.clock, SHORT, self.ready.set, aside)

    def patiently(self) -> Iterator[Heard]:
        while not self.exhausted:
            self.ready.clear()
            heard = self.next()
            if heard is not None:
                yield heard
            elif not self.ended:
                assert self.ready.wait(PATIENCE_S)


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
@pytest.mark.parametrize("aside", [False, True])
def test_the_windows_are_those_that_are_cut_by_hand(
    recording: Path, options: Options, aside: bool
) -> None:
    expected = by_hand(recording, options)
    with Feeding(recording, options, aside=aside) as feed:
        found = list(feed.patiently())
        assert feed.tracks == (2 if options.channels == "split" else 1)
    assert len(found) == len(expected) > 5
    for heard, other in zip(found, expected, strict=True):
        assert heard.track == other.track
        assert same(heard.window, other.window)
    assert feed.decoded_samples == 70 * RATE
    if options.windows != "fixed":  # whose windows count as speech whole
        speech = [span for heard in expected for span in heard.window.speech]
        assert feed.speech_samples == sum(span.end - span.start for span in speech)
    assert set(feed.clock.times().seconds) == {"decode", "vad"}
    assert not reading()


def test_who_does_not_wait_is_given_none_while_more_is_being_read(recording: Path) -> None:
    expected = by_hand(recording, VAD)
    second = 2 * 2 * RATE  # bytes: two channels of int16
    with held(recording, 44 * second) as hold, Feeding(hold.url) as feed:
        heard = feed.patiently()
        found = [next(heard) for _ in range(3)]
        while (window := feed.next()) is not None:  # the rest of the first block
            found.append(window)
        assert [feed.next() for _ in range(3)] == [None] * 3
        assert not feed.ended
        assert 3 < len(found) < len(expected)
        hold.release.set()
        found += heard
    assert len(found) == len(expected)
    for ours, other in zip(found, expected, strict=True):
        assert same(ours.window, other.window)


def test_an_error_arrives_after_the_windows_before_it(tmp_path: Path) -> None:
    # Longer than is read ahead, and cut short under the reader's hands.
    path = write(tmp_path / "long.wav", np.tile(bursts(60), 8)[None])
    expected = by_hand(path, VAD)
    with Feeding(path) as feed:
        heard = feed.patiently()
        found = [next(heard)]
        os.truncate(path, 1_000_000)
        with pytest.raises(KnownError) as caught:
            found.extend(heard)  # what came before the error is kept
    assert caught.value.code is ErrorCode.FILE_VANISHED
    assert 1 <= len(found) < len(expected)  # how many depends on how far the thread had read
    for ours, other in zip(found, expected, strict=False):
        assert same(ours.window, other.window)
    assert not reading()


@pytest.mark.parametrize("consumed", [0, 1])
def test_leaving_early_ends_the_thread(tmp_path: Path, consumed: int) -> None:
    path = write(tmp_path / "long.wav", np.tile(bursts(60), 8)[None])
    with Feeding(path) as feed:
        heard = feed.patiently()
        assert all(next(heard) for _ in range(consumed))
        assert reading()  # it waits for room
    assert not reading()


def test_a_source_that_cannot_be_read_leaves_no_thread(tmp_path: Path) -> None:
    with pytest.raises(KnownError) as caught:
        Feeding(tmp_path / "none.wav")
    assert caught.value.code is ErrorCode.FILE_MISSING
    assert not reading()


def test_warnings_are_there_at_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "cut.flac", bursts(20)[None], codec="flac")
    os.truncate(path, path.stat().st_size // 2)
    with Feeding(path) as feed:
        assert list(feed.patiently())
    assert len(feed.warnings) == 1
    assert "cut.flac" in feed.warnings[0]


def test_a_length_is_whole_milliseconds() -> None:
    assert [duration_ms(samples) for samples in (0, 15, 16, 16_000 * 3600)] == [0, 0, 1, 3_600_000]
