"""Paragraphs: what must hold for any segments, and where they end by example."""

from hypothesis import given
from hypothesis import strategies as st

from app.domain.paragraphs import Paragraph, paragraphs
from remote.protocol import Segment


@st.composite
def segments(draw) -> list[Segment]:
    found, place = [], 0
    texts = st.text(st.sampled_from("ab. \n日"), max_size=12) | st.just("word " * 50 + "end.")
    for text in draw(st.lists(texts, max_size=12)):
        place += draw(st.integers(-500, 4000))
        start = max(0, place)
        place = start + draw(st.integers(0, 3000))
        channel = draw(st.sampled_from([None, 0, 1]))
        language = draw(st.sampled_from(["en", "ja"]))
        found.append(Segment(start, place, text, (), channel, language))
    return found


def bare(text: str) -> str:
    return "".join(text.split())


@given(segments())
def test_no_text_is_lost_doubled_or_changed(found):
    made = paragraphs(found)
    assert bare("".join(p.text for p in made)) == bare("".join(s.text for s in found))
    assert all(p.text == " ".join(p.text.split()) != "" for p in made)


@given(segments())
def test_a_paragraph_is_of_one_channel_and_begins_with_a_segment(found):
    starts = {(s.start_ms, s.channel) for s in found}
    for paragraph in paragraphs(found):
        assert (paragraph.start_ms, paragraph.channel) in starts
        assert paragraph.start_ms <= paragraph.end_ms


def said(*segments: Segment) -> list[str]:
    return [paragraph.text for paragraph in paragraphs(segments)]


def test_sentences_that_follow_each_other_are_one_paragraph():
    made = paragraphs([Segment(0, 900, "One."), Segment(2000, 3000, "Two.")])
    assert made == (Paragraph(0, 3000, "One. Two."),)


def test_two_seconds_without_speech_end_a_paragraph():
    assert said(Segment(0, 900, "One."), Segment(2900, 3500, "Two.")) == ["One.", "Two."]
    assert said(Segment(0, 900, "One."), Segment(2899, 3500, "Two.")) == ["One. Two."]


def test_another_channel_ends_a_paragraph():
    made = said(
        Segment(0, 900, "One.", channel=0),
        Segment(900, 1500, "two,", channel=1),
        Segment(1500, 2000, "three.", channel=1),
        Segment(2000, 2500, "Four.", channel=0),
    )
    assert made == ["One.", "two, three.", "Four."]


def test_a_pause_is_counted_from_the_end_of_all_that_came_before():
    made = said(
        Segment(0, 9000, "Long,"), Segment(100, 200, "short,"), Segment(10_000, 11_000, "on.")
    )
    assert made == ["Long, short, on."]


def speech(*texts: str, language: str = "en") -> list[int]:
    """The words of each paragraph, where segments follow each other without a pause."""
    found = [Segment(i, i + 1, text, language=language) for i, text in enumerate(texts)]
    return [len(paragraph.text.split()) for paragraph in paragraphs(found)]


def test_a_long_paragraph_ends_with_its_sentence():
    ten = "word " * 9
    assert speech(*[f"{ten}end."] * 26) == [130, 130]
    assert speech(*[f"{ten}on"] * 14, f"{ten}end.", f"{ten}end.") == [150, 10]


def test_a_paragraph_without_full_stops_ends_all_the_same():
    assert speech(*["word " * 10] * 50) == [250, 250]


def test_text_without_spaces_is_joined_without_them_and_ends_as_well():
    assert said(Segment(0, 1, "今日は", language="ja"), Segment(1, 2, "雨。", language="ja")) == [
        "今日は雨。"
    ]
    assert len(speech(*["今日は雨です。" * 10] * 8, language="ja")) == 2
