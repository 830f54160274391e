"""Transcripts to be written: one with everything in it, and whatever hypothesis makes of them."""

import unicodedata
from pathlib import Path

from hypothesis import strategies as st

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
DAMAGED = KnownError(ErrorCode.AUDIO_DAMAGED, "It is damaged.", "Copy it again.")
BROKEN = Transcript(Path("/x/a.wav"), SEGMENTS, error=DAMAGED)
NOTHING = Transcript(Path("/x/a.wav"), (), Summary(1000))
TWO_CHANNELS = Transcript(
    Path("/x/a.wav"),
    (Segment(0, 900, "Hello?", channel=0), Segment(500, 900, "Yes.", channel=1)),
)

# Text that means something to a format: tags, commands, arrows, separators, markup.
tricky = st.text(
    st.sampled_from(list("ab<>&{}\\nNh\t\"',;-: \n\r\u2028é日*_`~[]()#!|.1=\x00\x07"))
    | st.characters(codec="utf-8"),
    max_size=60,
).filter(lambda text: not any("\uf8f0" <= c <= "\uf8f2" for c in text))


@st.composite
def transcripts(draw, texts=tricky, split: bool = False) -> Transcript:
    """Segments in time order; where ``split``, of two channels."""
    segments, place = [], 0
    for text in draw(st.lists(texts, max_size=5)):
        place += draw(st.integers(1, 3000))
        channel = draw(st.sampled_from([0, 1])) if split else None
        segments.append(Segment(place, place + draw(st.integers(0, 3000)), text, channel=channel))
        place = segments[-1].end_ms
    return Transcript(Path("/a.wav"), tuple(segments), Summary(duration_ms=place))


def bare(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


def said(transcript: Transcript) -> str:
    """All that is said, without white space."""
    return bare("".join(segment.text for segment in transcript.segments))


def readable(text: str) -> str:
    """The text as XML and HTML can hold it: without controls and noncharacters."""
    return "".join("\ufffd" if _unwritable(char) else char for char in text)


def _unwritable(char: str) -> bool:
    code = ord(char)
    noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF
    return noncharacter or unicodedata.category(char) in ("Cc", "Cs")
