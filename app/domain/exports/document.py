"""What md, docx and html have in common: title, facts, warnings, paragraphs with their times.

A reader of these must not take a part for the whole: a transcript that failed says so, and why, as
does one with speech that nothing was written for. It must not know how any of them looks.

Characters that XML and HTML cannot hold (controls, halves of surrogate pairs, noncharacters) are
replaced by U+FFFD, which is what a reader of Markdown or HTML would make of the first of them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.domain.languages import LANGUAGES
from app.domain.paragraphs import paragraphs
from app.domain.transcript import Transcript, one_line
from remote.protocol import KnownError, Summary

_UNWRITABLE = re.compile(
    "[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ud800-\\udfff\\ufdd0-\\ufdef\\ufffe\\uffff"
    + "".join(f"\\U{plane:04x}fffe\\U{plane:04x}ffff" for plane in range(1, 0x11))
    + "]"
)
_TAGS = {"jw": "jv"}  # Whisper's code where it is not the one of BCP 47
_RIGHT_TO_LEFT = frozenset({"ar", "fa", "he", "ps", "sd", "ur", "yi"})
_MOST_GAPS = 10


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph as it is printed.

    Args:
        start_ms: where it begins in the file.
        speaker: who speaks, "" where channels were mixed.
        text: one line, not empty.
    """

    start_ms: int
    speaker: str
    text: str

    @property
    def time(self) -> str:
        """Where it begins, as hours, minutes and seconds."""
        return clock(self.start_ms)


@dataclass(frozen=True, slots=True)
class Document:
    """A transcript for readers. All strings are one line and can be written in XML.

    Args:
        title: name of the recording.
        facts: length, language, model; what is known of them.
        incomplete: why the text is not all that was said, and where it ends; "" where it is.
        notes: what else a reader should know before trusting it.
        passages: the text.
        language: BCP 47 tag, "" where nothing was heard.
        right_to_left: how the language is written.
    """

    title: str
    facts: tuple[str, ...]
    incomplete: str
    notes: tuple[str, ...]
    passages: tuple[Passage, ...]
    language: str
    right_to_left: bool


def document(transcript: Transcript) -> Document:
    """The transcript for readers."""
    passages = tuple(
        Passage(
            item.start_ms,
            "" if item.channel is None else f"Channel {item.channel + 1}",
            _writable(item.text),
        )
        for item in paragraphs(transcript.segments)
    )
    language = transcript.language
    return Document(
        title=_writable(transcript.source.name) or "Transcript",
        facts=tuple(map(_writable, _facts(transcript))),
        incomplete=_writable(_incomplete(transcript, transcript.error)) if transcript.error else "",
        notes=tuple(map(_writable, _notes(transcript))),
        passages=passages,
        language=_TAGS.get(language, language),
        right_to_left=language in _RIGHT_TO_LEFT,
    )


def clock(milliseconds: int) -> str:
    """A time in a file as 01:02:03, cut to the second, so that it is never after the words."""
    minutes, seconds = divmod(milliseconds // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}"


def _facts(transcript: Transcript) -> Iterator[str]:
    if transcript.summary:
        yield f"Length {clock(transcript.summary.duration_ms)}"
    if transcript.language:
        yield LANGUAGES.get(transcript.language, transcript.language)
    if transcript.engine and transcript.engine.model:
        yield f"Transcribed by Farscribe with {transcript.engine.model}"


def _incomplete(transcript: Transcript, error: KnownError) -> str:
    if not transcript.segments:
        return f"{error.message} There is no text."
    end_ms = max(segment.end_ms for segment in transcript.segments)
    return f"{error.message} The text ends at {clock(end_ms)}."


def _notes(transcript: Transcript) -> Iterator[str]:
    if transcript.summary:
        yield from transcript.summary.warnings
        yield from _gaps(transcript.summary)
    if not transcript.error and not any(s.text.strip() for s in transcript.segments):
        yield "No speech was found."


def _gaps(summary: Summary) -> Iterator[str]:
    if not summary.gaps:
        return
    times = [f"{clock(gap.start_ms)}–{clock(gap.end_ms)}" for gap in summary.gaps]
    more = len(times) - _MOST_GAPS
    listed = ", ".join(times[:_MOST_GAPS]) + (f" and {more} more places" if more > 0 else "")
    yield f"Somebody may speak where there is no text: {listed}."


def _writable(text: str) -> str:
    return _UNWRITABLE.sub("\ufffd", one_line(text))
