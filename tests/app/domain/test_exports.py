"""A transcript as each format, read back by other readers where there are any."""

import csv
import io
import json
from pathlib import Path

import pysubs2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.exports import render
from app.domain.settings import Format, SubtitleRules
from app.domain.subtitles import cues
from app.domain.transcript import Transcript
from remote.protocol import (
    ErrorCode,
    Gap,
    Hello,
    KnownError,
    Quality,
    Segment,
    StageTimes,
    Summary,
    Word,
)

HELLO = Hello(1, 0, "0.1.0", "tiny.en", "cpu", "float32", "gpu-state", 0.2)
SUMMARY = Summary(
    12_000,
    10_000,
    9_000,
    (Gap(3000, 4000),),
    "en",
    0.98,
    StageTimes({"decode": 0.1}),
    0.5,
    warnings=("Hm.",),
)
SEGMENTS = (
    Segment(0, 1500, "Hello there.", (Word(0, 700, " Hello", 0.9), Word(700, 1500, " there."))),
    Segment(2000, 2900, "Bye.", language="en", quality=Quality(-0.25, 1.1, 0.01)),
)
WHOLE = Transcript(Path("/x/a.wav"), SEGMENTS, SUMMARY, HELLO)

# Text that means something to a format: tags, commands, arrows, separators.
tricky = st.text(
    st.sampled_from(list("ab<>&{}\\nNh\t\"',;-: \n\r\u2028é日")) | st.characters(codec="utf-8"),
    max_size=60,
).filter(lambda text: not any("\uf8f0" <= c <= "\uf8f2" for c in text))


@st.composite
def transcripts(draw) -> Transcript:
    segments, place = [], 0
    for text in draw(st.lists(tricky, max_size=5)):
        place += draw(st.integers(1, 3000))
        segments.append(Segment(place, place + draw(st.integers(0, 3000)), text))
        place = segments[-1].end_ms
    return Transcript(Path("/a.wav"), tuple(segments), Summary(duration_ms=place))


def bare(text: str) -> str:
    return "".join(text.split())


def said(transcript: Transcript) -> str:
    return bare("".join(segment.text for segment in transcript.segments))


def unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def blocks(text: str, after: int) -> list[list[str]]:
    """Subtitle files as blocks of lines, without what stands before the first."""
    body = text.split("\n\n")[after:]
    return [block.split("\n") for block in body if block]


# ── what must hold for any text ──────────────────────────────────────────────────────────────


@given(transcripts())
def test_txt_has_every_word_and_one_line_for_each_segment(transcript):
    text = render(transcript, Format.TXT)
    assert bare(text) == said(transcript)
    assert text.count("\n") == sum(bool(bare(s.text)) for s in transcript.segments)


@given(transcripts())
def test_json_gives_back_every_segment_to_the_millisecond(transcript):
    body = json.loads(render(transcript, Format.JSON))
    assert [
        (round(s["start"] * 1000), round(s["end"] * 1000), s["text"]) for s in body["segments"]
    ] == [(s.start_ms, s.end_ms, s.text) for s in transcript.segments]


@given(transcripts())
def test_tsv_has_three_columns_whatever_is_said(transcript):
    rows = list(
        csv.reader(
            io.StringIO(render(transcript, Format.TSV)), delimiter="\t", quoting=csv.QUOTE_NONE
        )
    )
    assert rows[0] == ["start", "end", "text"]
    assert all(len(row) == 3 for row in rows)
    assert bare("".join(row[2] for row in rows[1:])) == said(transcript)


@given(transcripts())
def test_srt_and_vtt_hold_every_cue_with_its_text_unchanged(transcript):
    expected = ["\n".join(cue.lines) for cue in cues(transcript.segments, SubtitleRules())]
    srt = blocks(render(transcript, Format.SRT), 0)
    assert ["\n".join(block[2:]) for block in srt] == expected
    vtt = blocks(render(transcript, Format.VTT), 1)
    assert [unescaped("\n".join(block[2:])) for block in vtt] == expected
    assert not any("-->" in "\n".join(block[2:]) for block in vtt)


# ── by example ───────────────────────────────────────────────────────────────────────────────


def test_subtitles_are_read_back_by_another_reader():
    for kind in (Format.SRT, Format.VTT):
        read = pysubs2.SSAFile.from_string(render(WHOLE, kind))
        assert [(e.start, e.end, e.plaintext) for e in read] == [
            (0, 1500, "Hello there."),
            (2000, 2900, "Bye."),
        ]


def test_vtt_escapes_what_would_be_a_tag():
    text = render(Transcript(Path("a"), (Segment(0, 1, "a <b> & c"),)), Format.VTT)
    assert "a &lt;b&gt; &amp; c" in text


def test_json_says_what_was_measured_and_by_whom():
    body = json.loads(render(WHOLE, Format.JSON))
    assert (body["format"], body["version"]) == ("farscribe-transcript", 1)
    assert body["text"] == "Hello there. Bye."
    assert body["source"] == "a.wav"
    assert body["duration"] == 12.0
    assert body["coverage"] == 0.9
    assert body["gaps"] == [{"start": 3.0, "end": 4.0, "channel": None}]
    assert body["speed"] == 24.0
    assert body["stages"] == {"decode": 0.1}
    assert body["warnings"] == ["Hm."]
    assert body["engine"]["strategy"] == "gpu-state"
    assert body["error"] is None
    assert body["segments"][0]["words"] == [
        {"start": 0.0, "end": 0.7, "word": " Hello", "probability": 0.9},
        {"start": 0.7, "end": 1.5, "word": " there.", "probability": 1.0},
    ]
    assert body["segments"][1]["avg_logprob"] == -0.25


def test_json_of_a_failed_recording_carries_the_error_and_what_there_is():
    error = KnownError(ErrorCode.AUDIO_DAMAGED, "It is damaged.", "Copy it again.")
    body = json.loads(render(Transcript(Path("a"), SEGMENTS, error=error), Format.JSON))
    assert body["error"] == "It is damaged. Copy it again."
    assert body["error_code"] == "audio-damaged"
    assert body["text"] == "Hello there. Bye."
    assert body["duration"] is None


@pytest.mark.parametrize(("language", "text"), [("en", "a b"), ("ja", "ab"), ("", "a b")])
def test_running_text_has_spaces_where_the_language_has(language, text):
    segments = (Segment(0, 1, "a", language=language), Segment(1, 2, "b", language=language))
    assert Transcript(Path("x"), segments).text == text


def test_channels_are_named_in_every_format():
    segments = (Segment(0, 900, "Hello?", channel=0), Segment(500, 900, "Yes.", channel=1))
    both = Transcript(Path("a"), segments)
    assert render(both, Format.TXT) == "[1] Hello?\n[2] Yes.\n"
    assert "[2] Yes." in render(both, Format.SRT)
    assert render(both, Format.TSV).splitlines()[0] == "start\tend\ttext\tchannel"
    assert [s["channel"] for s in json.loads(render(both, Format.JSON))["segments"]] == [0, 1]


def test_nothing_said_is_a_file_without_text():
    nothing = Transcript(Path("a"), (), Summary(1000))
    assert render(nothing, Format.TXT) == ""
    assert render(nothing, Format.SRT) == ""
    assert render(nothing, Format.VTT).startswith("WEBVTT")
    assert json.loads(render(nothing, Format.JSON))["text"] == ""
