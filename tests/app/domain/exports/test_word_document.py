"""Word documents, read back by python-docx."""

import io
from pathlib import Path

import docx
from docx.document import Document as WordDocument
from docx.oxml.ns import qn
from hypothesis import given, settings

from app.domain.exports.document import document
from app.domain.exports.rendering import render
from app.domain.settings import Format
from app.domain.transcript import Transcript
from remote.protocol import Segment
from tests.app.domain.exports.transcripts import (
    BROKEN,
    NOTHING,
    TWO_CHANNELS,
    WHOLE,
    bare,
    readable,
    said,
    transcripts,
)


def read(transcript: Transcript) -> WordDocument:
    return docx.Document(io.BytesIO(render(transcript, Format.DOCX)))


def lines(transcript: Transcript) -> list[tuple[str, str]]:
    return [(p.style.name, p.text) for p in read(transcript).paragraphs]


@settings(max_examples=25)  # each opens python-docx's template twice
@given(transcripts(split=True))
def test_a_word_document_holds_all_that_was_said_by_paragraph(transcript):
    passages = document(transcript).passages
    found = read(transcript).paragraphs[-len(passages) :] if passages else []
    for paragraph, passage in zip(found, passages, strict=True):
        time, speaker, text = paragraph.runs
        assert (time.style.name, time.text.strip()) == ("Time", passage.time)
        assert (speaker.style.name, speaker.text.strip()) == ("Speaker", passage.speaker)
        assert text.text == passage.text
    assert bare("".join(p.runs[-1].text for p in found)) == readable(said(transcript))


def test_it_is_a_title_facts_notes_and_paragraphs_with_times():
    assert lines(WHOLE) == [
        ("Title", "a.wav"),
        ("Normal", "Length 00:00:12 · English · Transcribed by Farscribe with tiny.en"),
        ("Note", "Hm."),
        ("Note", "Somebody may speak where there is no text: 00:00:03–00:00:04."),
        ("Normal", "00:00:00  Hello there. Bye."),
    ]


def test_it_says_that_it_is_incomplete_and_why():
    note = "This text is incomplete. It is damaged. The text ends at 00:00:02."
    assert ("Note", note) in lines(BROKEN)


def test_it_says_that_nothing_was_said():
    assert lines(NOTHING)[-1] == ("Note", "No speech was found.")


def test_it_names_channels():
    assert lines(TWO_CHANNELS)[1:] == [
        ("Normal", "00:00:00  Channel 1  Hello?"),
        ("Normal", "00:00:00  Channel 2  Yes."),
    ]


def test_its_properties_are_its_own_and_not_those_of_a_template():
    about = read(WHOLE).core_properties
    assert (about.title, about.author, about.language) == ("a.wav", "", "en")
    assert about.created is None
    assert about.modified is None


def test_a_name_that_is_longer_than_a_property_may_be_is_the_title_still():
    name = "x" * 300
    word = read(Transcript(Path(name), (Segment(0, 900, "Yes."),)))
    assert word.paragraphs[0].text == name
    assert word.core_properties.title == name[:255]


def test_a_language_that_is_read_from_the_right_is_laid_out_so():
    word = read(Transcript(Path("a"), (Segment(0, 900, "שלום.", language="he"),)))
    (default,) = word.styles.element.xpath("w:docDefaults//w:lang")
    assert default.get(qn("w:bidi")) == "he"
    assert word.styles["Normal"].element.xpath("w:pPr/w:bidi")
    assert word.paragraphs[-1].runs[-1].font.rtl
