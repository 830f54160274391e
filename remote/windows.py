"""What a window is: which stretches of the file it holds, and the way between its time and theirs.

It must not decide where to cut: that is chunking's work.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from remote.audio import SAMPLE_RATE

MAX_WINDOW_S = 30.0
"""What Whisper sees at once."""

PER_MS = SAMPLE_RATE // 1000
"""Samples in a millisecond."""

Int16 = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the file: samples ``start`` to ``end`` (the one after the last), 16 kHz."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the file that is in a window whole: ``length`` samples from ``file_start``."""

    file_start: int
    length: int


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How speech is found and cut.

    Args:
        threshold: probability at which speech begins, 0..1.
        neg_threshold: probability under which it may end, at most ``threshold``.
        min_speech_ms: shorter sounds are dropped.
        min_silence_ms: shorter pauses do not end a stretch of speech.
        pad_ms: kept before and after speech (half the pause where that is shorter).
        max_pause_ms: longer pauses inside a window are shortened to this, or to twice ``pad_ms``
            where that is longer.
        max_gap_s: a longer pause ends the window.
        max_window_s: the longest window, at most 30.
        first_window_s: the longest first window, for an early first text.
        cut_search_s: speech without a pause is cut within this last part of the window, where
            the probability of speech is lowest.
    """

    threshold: float = 0.5
    neg_threshold: float = 0.35
    min_speech_ms: int = 250
    min_silence_ms: int = 100
    pad_ms: int = 200
    max_pause_ms: int = 1000
    max_gap_s: float = 15.0
    max_window_s: float = MAX_WINDOW_S
    first_window_s: float = MAX_WINDOW_S
    cut_search_s: float = 8.0

    def __post_init__(self) -> None:
        """Settings that could not work are refused with a ValueError."""
        if not 0.0 <= self.neg_threshold <= self.threshold <= 1.0:
            raise ValueError("0 <= neg_threshold <= threshold <= 1 does not hold")
        if min(self.min_speech_ms, self.min_silence_ms, self.pad_ms, self.max_pause_ms) < 0:
            raise ValueError("a negative time")
        if not 1.0 <= self.max_window_s <= MAX_WINDOW_S:
            raise ValueError("max_window_s is not within 1 to 30 s")
        shortest_s = min(self.first_window_s, self.max_window_s)
        if not 0.1 <= self.cut_search_s <= shortest_s - 0.5 - self.pad_ms / 1000:
            raise ValueError("pad_ms and cut_search_s leave less than half a second of the window")
        if not 2 * self.pad_ms / 1000 <= self.max_gap_s <= 600.0:
            raise ValueError("max_gap_s is not within twice pad_ms and 600 s")


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """What the model hears at once.

    Args:
        index: 0 for the first window of the recording.
        samples: int16 [n], 16 kHz, n <= 480000: the pieces, spliced back to back.
        pieces: which stretches of the file these are, in order and disjoint.
        speech: speech in them, in samples of the file; in modes fixed and off the whole window.
    """

    index: int
    samples: Int16
    pieces: tuple[Piece, ...]
    speech: tuple[Span, ...]

    def file_ms(self, window_ms: float, *, end: bool = False) -> int:
        """The time in the file at which something in the window happens, in milliseconds.

        Args:
            window_ms: time from the start of the window; times outside it count as its edges.
            end: at a splice, where two times of the file meet, give the end of the earlier piece
                (right for something that ends there) and not the start of the later.
        """
        return _to_ms(self.file_sample(round(window_ms * PER_MS), end=end))

    def file_sample(self, window_sample: int, *, end: bool = False) -> int:
        """As file_ms, in samples at 16 kHz."""
        at = max(0, window_sample)
        for piece in self.pieces:
            if at < piece.length or (end and at == piece.length):
                return piece.file_start + at
            at -= piece.length
        last = self.pieces[-1]
        return last.file_start + last.length

    def window_ms(self, file_ms: float) -> int:
        """The time in the window of a time in the file; what was left out is where it was cut."""
        return _to_ms(self.window_sample(round(file_ms * PER_MS)))

    def window_sample(self, file_sample: int) -> int:
        """As window_ms, in samples at 16 kHz."""
        before = 0
        for piece in self.pieces:
            if file_sample < piece.file_start + piece.length:
                return before + max(0, file_sample - piece.file_start)
            before += piece.length
        return before


def _to_ms(samples: int) -> int:
    return (samples + PER_MS // 2) // PER_MS
