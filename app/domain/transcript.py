"""The transcript of one recording: what was said, how it was measured, what went wrong.

A pure value; files and formats are elsewhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from app.domain.languages import UNSPACED
from remote.protocol import Hello, KnownError, Segment, Summary


@dataclass(frozen=True, slots=True)
class Transcript:
    """All that is known of one recording after its job has ended.

    Args:
        source: the recording.
        segments: finished text in time order (of all channels together).
        summary: measurements; None where the job did not complete.
        engine: who did it; None where no engine was reached.
        error: why the job did not complete; the segments before it stay valid.
    """

    source: Path
    segments: tuple[Segment, ...] = ()
    summary: Summary | None = None
    engine: Hello | None = None
    error: KnownError | None = None

    @property
    def text(self) -> str:
        """All segments as one line of running text."""
        between = "" if self.language in UNSPACED else " "
        return between.join(segment.text for segment in self.segments if segment.text)

    @property
    def language(self) -> str:
        """Code of the language of the file; "" where nothing was heard."""
        if self.summary and self.summary.language:
            return self.summary.language
        return next((segment.language for segment in self.segments if segment.language), "")

    @property
    def channels(self) -> tuple[int, ...]:
        """The channels that were kept apart, in order; empty where they were mixed."""
        return tuple(sorted({s.channel for s in self.segments if s.channel is not None}))


def in_time_order(segments: Iterable[Segment]) -> tuple[Segment, ...]:
    """Segments by their start, and by channel where two start at once."""
    return tuple(sorted(segments, key=lambda s: (s.start_ms, s.channel or 0)))


def channel_label(segment: Segment) -> str:
    """What stands before its text: "[1] " for the first channel, "" where they were mixed."""
    return "" if segment.channel is None else f"[{segment.channel + 1}] "


def one_line(text: str) -> str:
    """The text with each stretch of white space as one space, and none at its ends."""
    return " ".join(text.split())
