"""txt is as it was said; md is read back by a parser of CommonMark."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from markdown_it import MarkdownIt
from markdown_it.token import Token

from app.domain.exports.document import document
from app.domain.exports.rendering import render
from app.domain.settings import Format
from app.domain.transcript import Transcript
from remote.protocol import Segment
from tests.app.domain.exports.transcripts import (
    BROKEN,
    TWO_CHANNELS,
    WHOLE,
    bare,
    readable,
    said,
    transcripts,
)

MARKDOWN = MarkdownIt("commonmark").enable("strikethrough")


def text(transcript: Transcript, kind: Format = Format.MD) -> str:
    return render(transcript, kind).decode()


def blocks(markdown: str) -> Iterator[tuple[str, list[Token]]]:
    """The kind of each block that holds text, and what is in it."""
    tokens = MARKDOWN.parse(markdown)
    for before, token in pairwise(tokens):
        if token.type == "inline":
            yield before.tag, token.children or []


def plain(parts: list[Token]) -> str:
    return "".join(part.content for part in parts)


@given(transcripts())
def test_txt_has_every_word_and_one_line_for_each_segment(transcript):
    written = text(transcript, Format.TXT)
    assert bare(written) == said(transcript)
    assert written.count("\n") == sum(bool(bare(s.text)) for s in transcript.segments)


def test_txt_names_channels():
    assert text(TWO_CHANNELS, Format.TXT) == "[1] Hello?\n[2] Yes.\n"


@given(transcripts(split=True))
def test_md_read_by_a_parser_is_what_was_said_and_nothing_in_it_is_markup(transcript):
    (title, *_), _facts, *rest = blocks(text(transcript))
    passages = document(transcript).passages
    found = rest[len(rest) - len(passages) :]
    assert title == "h1"
    for (tag, parts), passage in zip(found, passages, strict=True):
        assert tag == "p"
        kinds = [part.type for part in parts if part.type != "text" or part.content]
        assert kinds == ["strong_open", "text", "strong_close", "text"]
        assert plain(parts) == f"{passage.time} · {passage.speaker} {passage.text}"
    assert bare("".join(p.text for p in passages)) == readable(said(transcript))


@pytest.mark.parametrize(
    "name", ["C #", "# a #", "a_b_c.wav", "_a_.wav", "*.wav", "[x](y).wav", "R&amp;D.wav", "a\\"]
)
def test_a_title_is_the_name_of_the_recording_whatever_is_in_it(name):
    (_, title), *_ = blocks(text(Transcript(Path(name), (Segment(0, 900, "Yes."),))))
    assert plain(title) == name


def test_what_is_no_markup_stays_as_it_is():
    raw = "It's 5 - 3 = 2 (not 1.5) & AT&T's #1! At a_b@c.org, they said: \"x > y\"."
    assert raw in text(Transcript(Path("a"), (Segment(0, 900, raw),)))


def test_md_is_a_title_facts_notes_and_paragraphs_with_times():
    assert text(WHOLE) == (
        "# a.wav\n\n"
        "Length 00:00:12 · English · Transcribed by Farscribe with tiny.en\n\n"
        "> **Note.** Hm.\n\n"
        "> **Note.** Somebody may speak where there is no text: 00:00:03–00:00:04.\n\n"
        "**00:00:00** Hello there. Bye.\n"
    )


def test_md_says_that_it_is_incomplete_and_why():
    assert text(BROKEN) == (
        "# a.wav\n\n"
        "English\n\n"
        "> **This text is incomplete.** It is damaged. The text ends at 00:00:02.\n\n"
        "**00:00:00** Hello there. Bye.\n"
    )


def test_md_names_channels():
    assert "**00:00:00 · Channel 1** Hello?\n\n**00:00:00 · Channel 2** Yes.\n" in text(
        TWO_CHANNELS
    )
