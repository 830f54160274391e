"""The page, read back by html.parser: complete, closed, self-contained, and nothing in it is a tag
that was said."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given

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

VOID = {"meta"}
TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "p", "strong", "article",
    "a", "time", "b",
}  # fmt: skip


class Page(HTMLParser):
    """The elements of a page in order, each with its attributes and all text in it."""

    def __init__(self, written: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(written)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attributes) -> None:
        text: list[str] = []
        assert tag in TAGS
        self.elements.append((tag, dict(attributes), text))
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_endtag(self, tag) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data) -> None:
        for _, text in self._open:
            text.append(data)

    def all(self, wanted: str) -> list[tuple[dict[str, str | None], str]]:
        return [(given, "".join(text)) for tag, given, text in self.elements if tag == wanted]

    def text(self, wanted: str) -> str:
        ((_, text),) = self.all(wanted)
        return text


def page(transcript: Transcript) -> Page:
    return Page(render(transcript, Format.HTML).decode())


@given(transcripts(split=True))
def test_a_page_holds_all_that_was_said_by_paragraph(transcript):
    found = [(given, text) for given, text in page(transcript).all("p") if "id" in given]
    passages = document(transcript).passages
    assert [text for _, text in found] == [f"{p.time} {p.speaker} {p.text}" for p in passages]
    assert bare("".join(p.text for p in passages)) == readable(said(transcript))
    assert len({given["id"] for given, _ in found}) == len(found)


def test_each_time_is_a_link_to_its_own_paragraph():
    read = page(TWO_CHANNELS)
    ids = [given["id"] for given, _ in read.all("p") if "id" in given]
    assert ids == ["t00:00:00", "t00:00:00-2"]
    assert [given["href"] for given, _ in read.all("a")] == [f"#{name}" for name in ids]
    assert read.all("time") == [
        ({"datetime": "PT0S"}, "00:00:00"),
        ({"datetime": "PT0.5S"}, "00:00:00"),
    ]


def test_a_name_is_text_in_the_title_and_in_the_heading():
    read = page(Transcript(Path("<script>&amp;.wav"), ()))
    assert read.text("title") == read.text("h1") == "<script>&amp;.wav"


def test_it_says_what_is_known_and_what_is_missing():
    texts = [(given.get("class"), text) for given, text in page(WHOLE).all("p")]
    assert texts == [
        ("facts", "Length 00:00:12 · English · Transcribed by Farscribe with tiny.en"),
        ("note", "Hm."),
        ("note", "Somebody may speak where there is no text: 00:00:03–00:00:04."),
        (None, "00:00:00 Hello there. Bye."),
    ]


def test_it_says_that_it_is_incomplete_and_why():
    note = "This text is incomplete. It is damaged. The text ends at 00:00:02."
    assert ({"class": "note"}, note) in page(BROKEN).all("p")
    assert page(NOTHING).all("p")[-1] == ({"class": "note"}, "No speech was found.")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("it", {"lang": "it"}),
        ("jw", {"lang": "jv"}),
        ("ar", {"lang": "ar", "dir": "rtl"}),
        ("", {}),
    ],
)
def test_the_text_says_its_language_and_direction_to_a_screen_reader(code, expected):
    read = page(Transcript(Path("a"), (Segment(0, 900, "X", language=code),)))
    ((given, _),) = read.all("article")
    assert given == {"aria-label": "Transcript", **expected}
    assert read.all("html")[0][0] == {"lang": "en"}


def test_it_needs_nothing_but_itself():
    read = page(WHOLE)
    addresses = [v for _, given, _ in read.elements for k, v in given.items() if k in TO_ELSEWHERE]
    assert all(str(address).startswith("#") for address in addresses)
    assert "url(" not in read.text("style")
    assert "@import" not in read.text("style")


def test_colours_are_readable_in_light_in_dark_and_on_paper():
    style = page(WHOLE).text("style")
    themes = [dict(re.findall(r"--(\w+): (#\w+)", rule)) for rule in style.split(":root {")[1:]]
    assert len(themes) == 3
    for colours in themes:
        for ink in ("ink", "quiet"):
            assert contrast(colours[ink], colours["paper"]) >= 7
        assert contrast(colours["ink"], colours["mark"]) >= 7


TO_ELSEWHERE = {"src", "href", "action", "srcset", "data", "poster"}


def contrast(first: str, second: str) -> float:
    """WCAG 2.2: the contrast ratio of two colours, 1..21."""
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(c * 2 for c in colour[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
