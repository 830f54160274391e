"""Windows hold all speech once, in order, never too long, wherever the blocks are cut."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from remote.chunking import Span, Window, Windower, WindowSettings
from tests.remote.doubles import Loud
from tests.remote.recordings import RATE

FRAME = 512
SECOND = 16_000
MODES = ("vad", "fixed", "off")

Int16 = NDArray[np.int16]
Float32 = NDArray[np.float32]


class Script:
    """A detector that says what it was told to, frame by frame; silence after that."""

    def __init__(self, probabilities: Sequence[float]) -> None:
        self.probabilities = probabilities

    def stream(self) -> "ScriptStream":
        return ScriptStream(self.probabilities)


class ScriptStream:
    def __init__(self, probabilities: Sequence[float]) -> None:
        self.probabilities = probabilities
        self.samples = 0
        self.said = 0

    def push(self, samples: Int16) -> Float32:
        self.samples += len(samples)
        return self._say(self.samples // FRAME)

    def finish(self) -> Float32:
        return self._say(-(-self.samples // FRAME))

    def _say(self, until: int) -> Float32:
        frames = range(self.said, until)
        self.said = until
        known = len(self.probabilities)
        said = [self.probabilities[at] if at < known else 0.0 for at in frames]
        return np.array(said, np.float32)


def sound(samples: int) -> Int16:
    """Samples that tell one place from another."""
    at = np.arange(samples, dtype=np.uint32)
    return ((at * np.uint32(2_654_435_761)) >> np.uint32(16)).astype(np.uint16).view(np.int16)


def seconds(*runs: tuple[float, float]) -> list[float]:
    """(probability, seconds) runs as probabilities of frames."""
    return [p for p, s in runs for _ in range(round(s * SECOND / FRAME))]


def cut(
    mode: str,
    probabilities: Sequence[float],
    samples: Int16,
    settings: WindowSettings | None = None,
    block: int = 10 * SECOND,
) -> list[Window]:
    windower = Windower(mode, Script(probabilities), settings)  # type: ignore[arg-type]
    blocks = (samples[at : at + block] for at in range(0, len(samples), block))
    windows = [window for part in blocks for window in windower.push(part)]
    return windows + windower.finish()


def regions(probabilities: Sequence[float], length: int, rules: WindowSettings) -> list[Span]:
    """silero's get_speech_timestamps without its padding, written down once more."""
    found: list[Span] = []
    start, quiet, in_speech = 0, 0, False
    for frame, p in enumerate(probabilities):
        at = frame * FRAME
        if p >= rules.threshold:
            quiet = 0
            if not in_speech:
                in_speech, start = True, at
        if p < rules.neg_threshold and in_speech:
            quiet = quiet or at
            if at - quiet >= rules.min_silence_ms * 16:
                found.append(Span(start, quiet))
                in_speech, quiet = False, 0
    if in_speech:
        found.append(Span(start, quiet or min(length, len(probabilities) * FRAME)))
    return [span for span in found if span.end - span.start > rules.min_speech_ms * 16]


@st.composite
def recordings(draw: st.DrawFn) -> tuple[list[float], Int16]:
    """Probabilities in runs of up to 2 s, and as many samples (the last frame cut short)."""
    runs = draw(
        st.lists(
            st.tuples(st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.8, 1.0]), st.integers(1, 60)),
            max_size=25,
        )
    )
    probabilities = [p for p, frames in runs for _ in range(frames)]
    short = draw(st.integers(0, FRAME - 1))
    return probabilities, sound(max(0, len(probabilities) * FRAME - short))


@st.composite
def rules(draw: st.DrawFn) -> WindowSettings:
    longest = draw(st.sampled_from([1.0, 1.3, 2.0, 5.0]))
    pad_ms = draw(st.sampled_from([0, 30, 200, 350]))
    return WindowSettings(
        min_speech_ms=draw(st.sampled_from([0, 100, 250])),
        min_silence_ms=draw(st.sampled_from([0, 100, 160])),
        pad_ms=pad_ms,
        max_pause_ms=draw(st.sampled_from([0, 100, 500, 2000])),
        max_gap_s=draw(st.sampled_from([0.7, 1.0, 3.0])),
        max_window_s=longest,
        cut_search_s=draw(st.sampled_from([0.1, longest - 0.5 - pad_ms / 1000])),
    )


# ── what holds for every window ──────────────────────────────────────────────────────────────


@given(recordings(), rules(), st.sampled_from(MODES))
def test_windows_are_short_ordered_and_hold_the_samples_of_the_file(
    recording: tuple[list[float], Int16], settings: WindowSettings, mode: str
) -> None:
    probabilities, samples = recording
    at = 0
    for index, window in enumerate(cut(mode, probabilities, samples, settings)):
        assert window.index == index
        assert 0 < len(window.samples) <= settings.max_window_s * SECOND
        for piece in window.pieces:
            assert piece.length > 0
            assert at <= piece.file_start
            at = piece.file_start + piece.length
        assert at <= len(samples)
        parts = [samples[p.file_start : p.file_start + p.length] for p in window.pieces]
        assert np.array_equal(window.samples, np.concatenate(parts))


@given(recordings(), rules(), st.sampled_from(MODES), st.integers(1, 40_000))
def test_the_size_of_the_blocks_changes_nothing(
    recording: tuple[list[float], Int16], settings: WindowSettings, mode: str, block: int
) -> None:
    probabilities, samples = recording
    once = cut(mode, probabilities, samples, settings, block=len(samples) + 1)
    block = max(block, len(samples) // 200)
    parts = cut(mode, probabilities, samples, settings, block=block)
    assert [(w.pieces, w.speech) for w in parts] == [(w.pieces, w.speech) for w in once]


@given(recordings(), rules())
def test_all_speech_is_in_exactly_one_window(
    recording: tuple[list[float], Int16], settings: WindowSettings
) -> None:
    probabilities, samples = recording
    windows = cut("vad", probabilities, samples, settings)
    heard = np.zeros(len(samples), np.int8)
    held = np.zeros(len(samples), np.int8)
    for window in windows:
        for span in window.speech:
            heard[span.start : span.end] += 1
        for piece in window.pieces:
            held[piece.file_start : piece.file_start + piece.length] += 1
    expected = np.zeros(len(samples), np.int8)
    for span in regions(probabilities, len(samples), settings):
        expected[span.start : span.end] = 1
    assert np.array_equal(heard, expected)
    assert held.max(initial=0) <= 1
    assert np.all(held[expected == 1] == 1)


@given(recordings(), rules())
def test_a_window_ends_only_where_the_next_speech_does_not_fit(
    recording: tuple[list[float], Int16], settings: WindowSettings
) -> None:
    probabilities, samples = recording
    windows = cut("vad", probabilities, samples, settings)
    wholes = regions(probabilities, len(samples), settings)
    pause = max(settings.max_pause_ms, 2 * settings.pad_ms) * 16
    for one, following in pairwise(windows):
        end, first = one.speech[-1].end, following.speech[0]
        if first.start == end:  # speech without a pause, cut in its midst
            assert len(one.speech) == 1
            continue
        whole = next(span for span in wholes if span.start == first.start)
        kept = one.window_sample(end) + min(first.start - end, pause)
        too_long = kept + whole.end - whole.start > settings.max_window_s * SECOND
        assert too_long or first.start - end >= settings.max_gap_s * SECOND


@given(recordings(), rules(), st.sampled_from(MODES))
def test_only_what_may_still_be_needed_is_held(
    recording: tuple[list[float], Int16], settings: WindowSettings, mode: str
) -> None:
    probabilities, samples = recording
    windower = Windower(mode, Script(probabilities), settings)  # type: ignore[arg-type]
    most = (settings.max_window_s + settings.max_gap_s + 1.0) * SECOND
    for at in range(0, len(samples), 4_000):
        windower.push(samples[at : at + 4_000])
        assert windower.held_samples <= most


def test_silence_is_let_go_of() -> None:
    windower = Windower("vad", Script([]))
    for _ in range(100):
        windower.push(sound(SECOND))
        assert windower.held_samples <= 1.3 * SECOND


@given(recordings(), rules())
def test_fixed_keeps_the_windows_with_speech_and_off_keeps_all(
    recording: tuple[list[float], Int16], settings: WindowSettings
) -> None:
    probabilities, samples = recording
    size = round(settings.max_window_s * SECOND)
    every = cut("off", probabilities, samples, settings)
    assert np.array_equal(np.concatenate([sound(0), *(w.samples for w in every)]), samples)
    assert all(len(window.samples) == size for window in every[:-1])
    speech = regions(probabilities, len(samples), settings)
    expected = [
        span
        for window in every
        for span in window.speech
        if any(s.start < span.end and s.end > span.start for s in speech)
    ]
    found = cut("fixed", probabilities, samples, settings)
    assert [window.speech[0] for window in found] == expected


# ── examples ─────────────────────────────────────────────────────────────────────────────────


def test_silence_and_short_noises_give_no_window() -> None:
    probabilities = seconds((0.0, 20), (1.0, 0.2), (0.0, 20))
    for mode in ("vad", "fixed"):
        assert cut(mode, probabilities, sound(len(probabilities) * FRAME)) == []


def test_no_sample_at_all_gives_no_window() -> None:
    for mode in MODES:
        assert cut(mode, [], sound(0)) == []


def test_speech_goes_with_a_little_of_what_is_around_it() -> None:
    probabilities = seconds((0.0, 3.2), (1.0, 3.2), (0.0, 3.2))
    (window,) = cut("vad", probabilities, sound(len(probabilities) * FRAME))
    assert window.speech == (Span(51_200, 102_400),)
    assert (window.file_ms(0), window.file_ms(99_999)) == (3000, 6600)


def test_a_long_pause_is_shortened_from_its_middle() -> None:
    probabilities = seconds((1.0, 3.2), (0.0, 6.4), (1.0, 3.2))
    (window,) = cut("vad", probabilities, sound(len(probabilities) * FRAME))
    assert [(p.file_start, p.length) for p in window.pieces] == [
        (0, 51_200 + 8_000),
        (153_600 - 8_000, 51_200 + 8_000),
    ]


def test_a_short_pause_is_kept_whole() -> None:
    probabilities = seconds((1.0, 3.2), (0.0, 0.96), (1.0, 3.2))
    (window,) = cut("vad", probabilities, sound(len(probabilities) * FRAME))
    assert len(window.pieces) == 1


def test_speech_without_a_pause_is_cut_where_it_is_least_certain() -> None:
    probabilities = seconds((1.0, 25.6), (0.45, 0.032), (1.0, 14.4))
    first, second = cut("vad", probabilities, sound(len(probabilities) * FRAME))
    dip = round(25.6 * SECOND) + FRAME // 2
    assert first.speech[-1].end == second.speech[0].start == dip
    assert first.pieces[-1].file_start + first.pieces[-1].length == second.pieces[0].file_start


def test_a_window_comes_out_as_soon_as_it_cannot_grow() -> None:
    probabilities = seconds((1.0, 19.2), (0.0, 1.28), (1.0, 19.2))
    samples = sound(len(probabilities) * FRAME)
    windower = Windower("vad", Script(probabilities))
    came = [
        at / SECOND for at in range(0, len(samples), FRAME) if windower.push(samples[at:][:FRAME])
    ]
    # 19.2 s, a pause shortened to 1 s, and 9.8 s of the second stretch are 30 s.
    assert came == [pytest.approx(19.2 + 1.28 + 9.8, abs=0.05)]


def test_a_window_does_not_wait_through_a_long_silence() -> None:
    probabilities = seconds((1.0, 3.2))
    windower = Windower("vad", Script(probabilities), WindowSettings(max_gap_s=5.0))
    assert windower.push(sound(8 * SECOND)) == []
    assert len(windower.push(sound(SECOND))) == 1


def test_speech_is_counted_in_every_mode() -> None:
    probabilities = seconds((1.0, 3.2), (0.0, 6.4), (1.0, 1.6))
    samples = sound(len(probabilities) * FRAME)
    for mode, expected in (("vad", 4.8), ("fixed", 4.8), ("off", 11.2)):
        windower = Windower(mode, Script(probabilities))  # type: ignore[arg-type]
        assert windower.speech_samples == 0
        windower.push(samples)
        windower.finish()
        assert windower.speech_samples == round(expected * SECOND), mode


def test_only_off_does_without_a_detector() -> None:
    assert len(Windower("off", None).push(sound(31 * SECOND))) == 1
    for mode in ("vad", "fixed"):
        with pytest.raises(ValueError, match="needs a detector"):
            Windower(mode, None)  # type: ignore[arg-type]


def test_the_caller_may_use_its_buffer_again() -> None:
    buffer = sound(SECOND)
    windower = Windower("off", None, replace(WindowSettings(), max_window_s=10.0))
    windower.push(buffer)
    buffer[:] = 0
    (window,) = windower.finish()
    assert np.array_equal(window.samples, sound(SECOND))


def test_the_first_window_may_be_shorter_than_the_others() -> None:
    settings = WindowSettings(first_window_s=6.0, cut_search_s=2.0, max_window_s=12.0)
    samples = np.full(RATE * 40, 3000, np.int16)
    windower = Windower("vad", Loud(), settings)
    lengths = [len(w.samples) / RATE for w in [*windower.push(samples), *windower.finish()]]
    assert 4.0 <= lengths[0] <= 6.0
    assert all(10.0 <= length <= 12.0 for length in lengths[1:-1])
    assert sum(lengths) == pytest.approx(40.0, abs=0.5)
