"""What is told of a recording while it becomes text, and what is kept of it to go on from.

Nouns and a listener that does nothing: no torch, no files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from remote.protocol import Segment


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a part: enough to go on from it without decoding it again.

    Args:
        key: of the part: by its place in the file and its track.
        segments: its text.
        reached: sample of its window from which on a rest is decoded by itself.
        tokens: generated for it; fallback: whether it was decoded again at a higher temperature.
    """

    key: int
    segments: tuple[Segment, ...]
    reached: int
    tokens: int = 0
    fallback: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of a recording from before the engine started again.

    Args:
        language: that was detected; "" for none.
        language_probability: 0..1.
        settled: parts, by key.
        told: segments that have been told, by channel.
        wall_s: seconds that were worked on it.
    """

    language: str = ""
    language_probability: float = 1.0
    settled: Mapping[int, Settled] = field(default_factory=dict)
    told: Mapping[int | None, int] = field(default_factory=dict)
    wall_s: float = 0.0


class Sink:
    """Hears what becomes of a recording while it happens, on the thread that transcribes.

    Every method does nothing; override what is of interest. An exception ends the recording.
    """

    def progress(self, stage: str, done_ms: int, total_ms: int | None) -> None:
        """So much of the recording is done; ``total_ms`` is None while its length is unknown."""

    def segments(self, segments: tuple[Segment, ...]) -> None:
        """More text, in time order within its channel."""

    def settled(self, part: Settled) -> None:
        """A part is done; told before its segments are."""

    def language(self, code: str, probability: float) -> None:
        """The language was detected; told before any part is settled."""
