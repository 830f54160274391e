"""Subtitle files, read back by pysubs2 where it reads what is there, and by eye where not."""

from itertools import pairwise
from pathlib import Path

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.exports.rendering import render
from app.domain.settings import Format, SubtitleRules
from app.domain.subtitles import cues
from app.domain.transcript import Transcript
from remote.protocol import Segment
from tests.app.domain.exports.transcripts import TWO_CHANNELS, WHOLE, transcripts

SUBTITLES = (Format.SRT, Format.VTT, Format.ASS)

# pysubs2 takes tags out of what it reads, and a last line of digits for the number of a cue.
ordinary = st.text(st.sampled_from("abé日 \n,.?!'\"-—:;%()[]"), max_size=80)


def text(transcript: Transcript, kind: Format) -> str:
    return render(transcript, kind).decode()


def read(transcript: Transcript, kind: Format) -> list[pysubs2.SSAEvent]:
    return list(pysubs2.SSAFile.from_string(text(transcript, kind), format_=kind.value))


def shown(transcript: Transcript) -> list[str]:
    return ["\n".join(cue.lines) for cue in cues(transcript.segments, SubtitleRules())]


def unescaped(written: str) -> str:
    return written.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def blocks(written: str, after: int) -> list[list[str]]:
    """Subtitle files as blocks of lines, without what stands before the first."""
    body = written.split("\n\n")[after:]
    return [block.split("\n") for block in body if block]


@given(transcripts())
def test_srt_and_vtt_hold_every_cue_with_its_text_unchanged(transcript):
    expected = shown(transcript)
    srt = blocks(text(transcript, Format.SRT), 0)
    assert ["\n".join(block[2:]) for block in srt] == expected
    vtt = blocks(text(transcript, Format.VTT), 1)
    assert [unescaped("\n".join(block[2:])) for block in vtt] == expected
    assert not any("-->" in "\n".join(block[2:]) for block in vtt)


@given(transcripts())
def test_ass_holds_every_cue_and_no_text_in_it_is_a_command(transcript):
    full_width = str.maketrans("\\{}", "＼｛｝")
    expected = [shown.translate(full_width) for shown in shown(transcript)]
    assert [event.plaintext for event in read(transcript, Format.ASS)] == expected


@given(transcripts(ordinary, split=True))
def test_another_reader_finds_the_same_cues_at_the_same_times(transcript):
    expected = cues(transcript.segments, SubtitleRules())
    for kind in SUBTITLES:
        found = read(transcript, kind)
        assert [event.plaintext for event in found] == ["\n".join(c.lines) for c in expected]
        exact_ms = 5 if kind is Format.ASS else 0
        for event, cue in zip(found, expected, strict=True):
            assert abs(event.start - cue.start_ms) <= exact_ms
            assert abs(event.end - cue.end_ms) <= exact_ms
            assert event.end > event.start


@given(transcripts())
def test_no_two_cues_overlap_in_the_hundredths_of_ass(transcript):
    found = read(transcript, Format.ASS)
    assert all(a.end <= b.start for a, b in pairwise(found))


@pytest.mark.parametrize("kind", SUBTITLES)
def test_times_and_text_by_example(kind):
    assert [(e.start, e.end, e.plaintext) for e in read(WHOLE, kind)] == [
        (0, 1500, "Hello there."),
        (2000, 2900, "Bye."),
    ]


def test_vtt_escapes_what_would_be_a_tag():
    written = text(Transcript(Path("a"), (Segment(0, 1, "a <b> & c"),)), Format.VTT)
    assert "a &lt;b&gt; &amp; c" in written


def test_ass_goes_on_after_ten_hours():
    late = 10 * 3_600_000 + 61_234
    written = text(Transcript(Path("a"), (Segment(late, late + 2000, "Still here."),)), Format.ASS)
    assert "10:01:01.23,10:01:03.23,Default,,0,0,0,,Still here." in written


def test_a_name_cannot_add_a_line_to_the_head_of_ass():
    named = Transcript(Path("a\nPlayResX: 1"), (Segment(0, 900, "Yes."),))
    found = pysubs2.SSAFile.from_string(text(named, Format.ASS))
    assert found.info["PlayResX"] == "1920"
    assert found.info["Title"] == "a PlayResX: 1"


def test_channels_are_named_and_shown_together():
    for kind in SUBTITLES:
        assert [event.plaintext for event in read(TWO_CHANNELS, kind)] == ["[1] Hello?", "[2] Yes."]
