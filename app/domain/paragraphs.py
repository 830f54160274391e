"""Segments gathered into paragraphs, as a reader wants them: pure rules.

A paragraph ends where somebody else speaks (another channel), where nobody speaks for a while, or
with a sentence once it is long. No text is lost or changed but for its white space.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.languages import UNSPACED
from app.domain.subtitles import ends_sentence
from app.domain.transcript import one_line
from remote.protocol import Segment

PAUSE_MS = 2000
"""Silence that parts two thoughts rather than two sentences."""

_LONG_WORDS = 120  # about ten lines of a printed page: from here on the next sentence end will do
_LONGEST_WORDS = 240  # a model that leaves out full stops must not make one block of an hour
_WORD_CHARACTERS = 2  # of a script without spaces between words: most Chinese words have two


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text of one channel, without a line break, from ``start_ms`` up to ``end_ms`` of the file."""

    start_ms: int
    end_ms: int
    text: str
    channel: int | None = None


def paragraphs(segments: Iterable[Segment]) -> tuple[Paragraph, ...]:
    """The paragraphs of a recording, in the order of its segments; those without text left out."""
    made: list[Paragraph] = []
    words = 0
    for segment in segments:
        text = one_line(segment.text)
        if not text:
            continue
        unspaced = segment.language in UNSPACED
        count = len(text) // _WORD_CHARACTERS if unspaced else len(text.split())
        if made and not _ends(made[-1], segment, words):
            made[-1] = _longer(made[-1], segment, text if unspaced else f" {text}")
            words += count
        else:
            made.append(Paragraph(segment.start_ms, segment.end_ms, text, segment.channel))
            words = count
    return tuple(made)


def _ends(before: Paragraph, segment: Segment, words: int) -> bool:
    """Whether a paragraph of so many words ends before this segment."""
    return (
        segment.channel != before.channel
        or segment.start_ms - before.end_ms >= PAUSE_MS
        or words > _LONGEST_WORDS
        or (words > _LONG_WORDS and ends_sentence(before.text))
    )


def _longer(before: Paragraph, segment: Segment, text: str) -> Paragraph:
    end_ms = max(before.end_ms, segment.end_ms)
    return Paragraph(before.start_ms, end_ms, before.text + text, before.channel)
