"""A recording cut into windows of at most 30 s, and the way back from window time to file time.

Modes
    vad     windows hold speech only. They are cut where nobody speaks and do not overlap; a pause
            inside a window that is longer than the model bears is shortened (spliced out).
    fixed   a cut every 30 s, whatever is said there; windows without any speech are left out.
    off     a cut every 30 s, and every window is kept, silent or not. A recording of up to 30 s
            is one window.

Streaming: samples go in as they come, windows come out as soon as they can no longer grow, and
only what may still be needed is held. Where the cuts fall does not depend on the block sizes.

It must not read files, resample or run the model.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from remote.audio import SAMPLE_RATE
from remote.voice_activity import FRAME, Detector, RegionTracker
from remote.windows import PER_MS, Piece, Span, Window, WindowSettings

__all__ = ["Detector", "Piece", "Span", "Window", "WindowSettings", "Windower"]

Int16 = NDArray[np.int16]


class Windower:
    """Samples in, windows out; one recording (or channel) each.

    Args:
        mode: "vad", "fixed" or "off".
        detector: hears speech; may be None in mode "off" alone.
        settings: how speech is found and cut.

    Raises:
        ValueError: the mode needs a detector and there is none.
    """

    def __init__(
        self,
        mode: Literal["vad", "fixed", "off"],
        detector: Detector | None,
        settings: WindowSettings | None = None,
    ) -> None:
        settings = settings or WindowSettings()
        if mode != "off" and detector is None:
            raise ValueError(f"mode {mode!r} needs a detector")
        self._stream = detector.stream() if detector and mode != "off" else None
        self._audio = _Held()
        self._cutter: _SpeechCutter | _RegularCutter = (
            _SpeechCutter(self._audio, settings)
            if mode == "vad"
            else _RegularCutter(self._audio, settings, keep_all=mode == "off")
        )

    @property
    def speech_samples(self) -> int:
        """Speech found so far, in samples; in mode "off" everything."""
        return self._cutter.speech_samples

    @property
    def held_samples(self) -> int:
        """Samples of the file that are held for windows to come (beside an open window's own)."""
        return self._audio.end - self._audio.start

    def push(self, samples: Int16) -> list[Window]:
        """The windows that these samples complete.

        Args:
            samples: int16 [n], any n: what follows the samples pushed before.
        """
        self._audio.append(samples)
        found = self._stream.push(samples) if self._stream else _NOTHING
        return self._cutter.advance(found.tolist())

    def finish(self) -> list[Window]:
        """The windows that are left; the recording ends here."""
        found = self._stream.finish() if self._stream else _NOTHING
        return self._cutter.advance(found.tolist()) + self._cutter.finish()


class _Held:
    """The part of the recording that may still be needed, addressed by samples of the file."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self._blocks: list[Int16] = []

    def append(self, samples: Int16) -> None:
        """Nothing; a copy of ``samples`` follows what is held."""
        self._blocks.append(samples.copy())
        self.end += len(samples)

    def take(self, start: int, end: int) -> Int16:
        """A copy of the samples from ``start`` to ``end``, which must be held."""
        return self._joined()[start - self.start : end - self.start].copy()

    def forget(self, before: int) -> None:
        """Nothing; samples before ``before`` are let go of."""
        if before <= self.start:
            return
        before = min(before, self.end)
        self._blocks = [self._joined()[before - self.start :].copy()]
        self.start = before

    def _joined(self) -> Int16:
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.zeros(0, np.int16), *self._blocks])]
        return self._blocks[0]


class _SpeechCutter:
    """Mode vad: regions of speech, packed into windows while they fit."""

    def __init__(self, audio: _Held, settings: WindowSettings) -> None:
        self.speech_samples = 0
        self._audio = audio
        self._tracker = _tracker(settings)
        self._pad = settings.pad_ms * PER_MS
        self._pause = max(settings.max_pause_ms * PER_MS, 2 * self._pad)
        self._gap = round(settings.max_gap_s * SAMPLE_RATE)
        self._longest = round(min(settings.first_window_s, settings.max_window_s) * SAMPLE_RATE)
        self._longest_later = round(settings.max_window_s * SAMPLE_RATE)
        self._search = round(settings.cut_search_s * SAMPLE_RATE)
        self._count = 0
        self._last_end = 0  # of the last region placed, in this window or one before
        self._draft: _Draft | None = None

    def advance(self, probabilities: Sequence[float]) -> list[Window]:
        """The windows that the next frames complete."""
        windows: list[Window] = []
        for probability in probabilities:
            closed = self._tracker.feed(probability)
            if closed:
                windows += self._place(*closed)
            elif self._tracker.counts:
                windows += self._make_room()
            elif self._draft and self._quiet_for() >= self._gap:
                windows += self._close(self._pad)
        self._audio.forget(self._needed_from())
        return windows

    def finish(self) -> list[Window]:
        """The last windows."""
        closed = self._tracker.finish(self._audio.end)
        windows = self._place(*closed) if closed else []
        return windows + self._close(self._audio.end - self._last_end)

    def _quiet_for(self) -> int:
        end = self._tracker.at if self._tracker.start is None else self._tracker.start
        return end - self._last_end

    def _needed_from(self) -> int:
        if self._draft:
            return self._last_end
        start = self._tracker.at if self._tracker.start is None else self._tracker.start
        return start - self._pad

    def _make_room(self) -> list[Window]:
        """The windows that the open region pushes out because it has grown too long for them."""
        start, end = self._tracker.start or 0, self._tracker.end
        windows: list[Window] = []
        if self._draft and not self._fits(self._draft, start, end):
            windows += self._close((start - self._last_end) // 2)
        if not self._draft and end - start + self._lead(start) > self._longest:
            cut = self._best_cut(start, start - self._lead(start) + self._longest)
            self._tracker.cut(cut)
            windows += self._place(start, cut)
            windows += self._close(0)
        return windows

    def _best_cut(self, start: int, latest: int) -> int:
        """The middle of the frame before ``latest`` in which speech is least probable."""
        first = start // FRAME
        earliest = max(first + 1, -(-(latest - self._search) // FRAME))
        frames = range(earliest, (latest - FRAME // 2) // FRAME + 1)
        history = self._tracker.history
        quietest = min(reversed(frames), key=lambda frame: history[frame - first])
        return quietest * FRAME + FRAME // 2

    def _place(self, start: int, end: int) -> list[Window]:
        """The window, if any, that had to go before this region found its place."""
        windows: list[Window] = []
        if self._draft and not self._fits(self._draft, start, end):
            windows += self._close((start - self._last_end) // 2)
        if self._draft is None:
            self._draft = _Draft(start - self._lead(start))
        elif start - self._last_end > self._pause:
            half = self._pause // 2
            self._draft.extend(self._audio, self._last_end + half)
            self._draft.skip_to(start - (self._pause - half))
        self._draft.extend(self._audio, end)
        self._draft.speech.append(Span(start, end))
        self._last_end = end
        self.speech_samples += end - start
        self._audio.forget(end)
        return windows

    def _lead(self, start: int) -> int:
        """Samples kept before a region that opens a window."""
        return min(self._pad, (start - self._last_end + 1) // 2 if self._count else start)

    def _fits(self, draft: "_Draft", start: int, end: int) -> bool:
        pause = min(start - self._last_end, self._pause)
        return draft.length + pause + end - start <= self._longest

    def _close(self, pad: int) -> list[Window]:
        """The open window, if any, with up to ``pad`` samples after its last region."""
        draft, self._draft = self._draft, None
        if draft is None:
            return []
        room = self._longest - draft.length
        draft.extend(self._audio, self._last_end + min(pad, self._pad, room))
        self._count += 1
        self._longest = self._longest_later
        return [draft.window(self._count - 1)]


class _Draft:
    """A window that is being filled."""

    def __init__(self, start: int) -> None:
        self.length = 0
        self.speech: list[Span] = []
        self._starts = [start]
        self._ends = [start]
        self._parts: list[Int16] = []

    def extend(self, audio: _Held, end: int) -> None:
        """Nothing; the window goes on without a gap up to ``end``."""
        self._parts.append(audio.take(self._ends[-1], end))
        self.length += end - self._ends[-1]
        self._ends[-1] = end

    def skip_to(self, start: int) -> None:
        """Nothing; the window goes on at ``start``: what lies between is left out."""
        self._starts.append(start)
        self._ends.append(start)

    def window(self, index: int) -> Window:
        """The finished window."""
        ends = zip(self._starts, self._ends, strict=True)
        pieces = tuple(Piece(start, end - start) for start, end in ends)
        return Window(index, np.concatenate(self._parts), pieces, tuple(self.speech))


class _RegularCutter:
    """Modes fixed and off: a cut every so many samples."""

    def __init__(self, audio: _Held, settings: WindowSettings, *, keep_all: bool) -> None:
        self.speech_samples = 0
        self._audio = audio
        self._tracker = None if keep_all else _tracker(settings)
        self._length = round(settings.max_window_s * SAMPLE_RATE)
        self._count = 0
        self._heard_until = 0  # end of the last region, closed or counting

    def advance(self, probabilities: Sequence[float]) -> list[Window]:
        """The windows that the next frames, or without a detector the samples held, complete."""
        if self._tracker is None:
            return self._whole(self._audio.end)
        windows: list[Window] = []
        for probability in probabilities:
            closed = self._tracker.feed(probability)
            if closed:
                self._hear(*closed)
            start, at = self._tracker.start, self._tracker.at
            windows += self._whole(at if start is None else start)
            if self._tracker.counts:
                # Not up to ``at``: what is quiet now is speech again if the region goes on.
                self._heard_until = self._tracker.end
                windows += self._whole(self._tracker.end)
        return windows

    def finish(self) -> list[Window]:
        """The last windows; the very last may be shorter."""
        closed = self._tracker.finish(self._audio.end) if self._tracker else None
        if closed:
            self._hear(*closed)
        windows = self._whole(self._audio.end)
        if self._audio.start < self._audio.end:
            windows += self._cut(self._audio.end)
        return windows

    def _hear(self, start: int, end: int) -> None:
        self._heard_until = end
        self.speech_samples += end - start

    def _whole(self, until: int) -> list[Window]:
        """The whole windows before ``until``, up to which it is certain where speech is."""
        windows: list[Window] = []
        while self._audio.start + self._length <= min(until, self._audio.end):
            windows += self._cut(self._audio.start + self._length)
        return windows

    def _cut(self, end: int) -> list[Window]:
        start = self._audio.start
        samples = self._audio.take(start, end)
        self._audio.forget(end)
        if self._tracker is None:
            self.speech_samples += end - start
        elif self._heard_until <= start:
            return []
        self._count += 1
        pieces = (Piece(start, end - start),)
        return [Window(self._count - 1, samples, pieces, (Span(start, end),))]


_NOTHING = np.zeros(0, np.float32)


def _tracker(settings: WindowSettings) -> RegionTracker:
    return RegionTracker(
        settings.threshold,
        settings.neg_threshold,
        settings.min_speech_ms * PER_MS,
        settings.min_silence_ms * PER_MS,
    )
