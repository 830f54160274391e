"""Text to read: txt as it was said, a segment a line; md as a document in paragraphs.

Markdown is CommonMark with GitHub's strikethrough and autolinks. What would be read as markup is
escaped, and nothing else, so that the raw file stays readable too.
"""

import re
from collections.abc import Iterator

from app.domain.exports.document import Document, Passage, document
from app.domain.transcript import Transcript, channel_label, one_line

# A backslash, a backtick and the like anywhere; an underscore unless it stands within a word; an
# ampersand only where a character reference would begin.
_MARKUP = re.compile(r"[\\`*\[\]<~]|(?<![^\W_])_|_(?![^\W_])|&(?=#?\w+;)")


def txt(transcript: Transcript) -> str:
    """A line for each segment, with its channel where they were kept apart."""
    lines = ((channel_label(s), one_line(s.text)) for s in transcript.segments)
    return "".join(f"{label}{text}\n" for label, text in lines if text)


def md(transcript: Transcript) -> str:
    """A title, a line of facts, what is missing, and paragraphs that begin with their time."""
    return "\n\n".join(_blocks(document(transcript))) + "\n"


def _blocks(content: Document) -> Iterator[str]:
    title = _plain(content.title).replace("#", r"\#")  # at its end they would be taken off
    yield f"# {title}"
    if content.facts:
        yield " · ".join(map(_plain, content.facts))
    if content.incomplete:
        yield f"> **This text is incomplete.** {_plain(content.incomplete)}"
    yield from (f"> **Note.** {_plain(note)}" for note in content.notes)
    yield from map(_paragraph, content.passages)


def _paragraph(passage: Passage) -> str:
    head = f"{passage.time} · {passage.speaker}" if passage.speaker else passage.time
    return f"**{head}** {_plain(passage.text)}"


def _plain(text: str) -> str:
    return _MARKUP.sub(r"\\\g<0>", text)
