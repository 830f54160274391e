"""Which part of a recording is at work, and the text of finished parts in the order of the file.

Windows finish in any order, and a window may leave a rest that is decoded by itself; a part's
segments go out when everything before it on its track has gone out. It keeps no audio beyond the
parts at work and touches neither model nor device.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from remote.chunking import Span, Window
from remote.protocol import Gap, Segment
from remote.segments import uncovered

_PER_MS = 16
"""Samples in a millisecond at 16 kHz."""

_MIN_GAP = 1000 * _PER_MS
"""Speech without text that is reported: one second."""


@dataclass(slots=True)
class Part:
    """A stretch of a track that is decoded by itself: a window, or the rest of one."""

    key: int
    track: int
    window: Window
    segments: tuple[Segment, ...] | None = None


class Ledger:
    """The parts of one recording.

    Args:
        tracks: channels that are transcribed by themselves; 1 where they are mixed.
        publish: is handed segments in time order within their track.
    """

    def __init__(self, tracks: int, publish: Callable[[tuple[Segment, ...]], None]) -> None:
        self.windows = 0
        self.covered_samples = 0
        self.gaps: list[Gap] = []
        self._publish = publish
        self._split = tracks > 1
        self._order: list[deque[Part]] = [deque() for _ in range(tracks)]
        self._done = [0] * tracks
        self._reached = 0
        self._again: deque[Part] = deque()

    @property
    def busy(self) -> bool:
        """Whether parts are open that have no text yet."""
        return any(self._order)

    @property
    def done_ms(self) -> int:
        """How far the text has gone out; never less than before.

        A track on which nothing is open is not waited for: it may be silent to the end.
        """
        return self._reached // _PER_MS

    def open(self, track: int, window: Window) -> Part:
        """A new part at the end of a track."""
        part = self._part(track, window)
        self._order[track].append(part)
        self.windows += 1
        return part

    def settle(self, part: Part, segments: tuple[Segment, ...], rest: Window | None) -> None:
        """Notes a part's text; its rest, if any, is to be fetched by ``again``.

        Args:
            part: an open one.
            segments: its text, in time order.
            rest: what of its window is to be decoded by itself.
        """
        part.segments = segments
        if rest is not None:
            follower = self._part(part.track, rest)
            order = self._order[part.track]
            order.insert(order.index(part) + 1, follower)
            self._again.append(follower)
        self._note_coverage(part, rest)
        self._flush(part.track)

    def again(self) -> Part | None:
        """The next part that is to be decoded before anything new, if any."""
        return self._again.popleft() if self._again else None

    def restart(self, without: Collection[int] = ()) -> None:
        """Every open part but those ``without`` is decoded again: what was at work is lost."""
        self._again = deque(
            part
            for order in self._order
            for part in order
            if part.segments is None and part.key not in without
        )

    def _part(self, track: int, window: Window) -> Part:
        # By its place in the file, so that what is drawn by chance for it is the same each time.
        return Part(window.pieces[0].file_start * len(self._order) + track, track, window)

    def _note_coverage(self, part: Part, rest: Window | None) -> None:
        """Counts the speech that has text; a rest counts when it is settled itself."""
        until = rest.pieces[0].file_start if rest else part.window.file_sample(1 << 40)
        speech = [Span(s.start, min(s.end, until)) for s in part.window.speech if s.start < until]
        missing = uncovered(speech, part.segments or ())
        heard = sum(span.end - span.start for span in speech)
        self.covered_samples += heard - sum(span.end - span.start for span in missing)
        channel = part.track if self._split else None
        self.gaps += [
            Gap(span.start // _PER_MS, span.end // _PER_MS, channel)
            for span in missing
            if span.end - span.start >= _MIN_GAP
        ]

    def _flush(self, track: int) -> None:
        order = self._order[track]
        ready: list[Segment] = []
        while order and order[0].segments is not None:
            part = order.popleft()
            ready += part.segments or ()
            self._done[track] = part.window.file_sample(1 << 40)
        behind = [
            done for done, open_parts in zip(self._done, self._order, strict=True) if open_parts
        ]
        self._reached = max(self._reached, min(behind, default=max(self._done)))
        if ready:
            self._publish(tuple(ready))
