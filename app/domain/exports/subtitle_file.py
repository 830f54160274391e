"""Subtitles: SubRip, WebVTT and Advanced SubStation, written by pysubs2.

What is shown when is the matter of ``app.domain.subtitles``; this only gives it a format.
"""

import html
import io

import pysubs2
from pysubs2.formats.substation import SubstationFormat
from pysubs2.time import ms_to_times

from app.domain.settings import SubtitleRules
from app.domain.subtitles import cues
from app.domain.transcript import Transcript, one_line

# pysubs2 keeps text as Advanced SubStation, where these begin commands; stand-ins of the Unicode
# private use area carry them through unread.
_TO_STANDINS = str.maketrans({"\\": "\uf8f0", "{": "\uf8f1", "}": "\uf8f2"})
_FROM_STANDINS = str.maketrans({"\uf8f0": "\\", "\uf8f1": "{", "\uf8f2": "}"})

# Advanced SubStation has no escape for them that all players know, and what stands between braces
# is not shown at all. Their full-width forms look alike and are.
_FULL_WIDTH = str.maketrans({"\\": "\uff3c", "{": "\uff5b", "}": "\uff5d"})

_WIDTH, _HEIGHT = 1920, 1080
_STYLE = pysubs2.SSAStyle(
    fontsize=_HEIGHT / 16,  # 42 characters take about two thirds of the width
    outline=3,
    shadow=1,
    marginl=_WIDTH // 20,
    marginr=_WIDTH // 20,
    marginv=_HEIGHT // 20,
)


def srt(transcript: Transcript, rules: SubtitleRules) -> str:
    """SubRip."""
    return _file(transcript, rules, _TO_STANDINS).to_string("srt").translate(_FROM_STANDINS)


def vtt(transcript: Transcript, rules: SubtitleRules) -> str:
    """WebVTT; there "<" opens a tag and "&" a character reference."""
    file = _file(transcript, rules, _TO_STANDINS)
    for event in file:
        event.text = html.escape(event.text, quote=False)
    return file.to_string("vtt").translate(_FROM_STANDINS)


def ass(transcript: Transcript, rules: SubtitleRules) -> str:
    """Advanced SubStation, laid out for a picture of 1920 × 1080, which players scale."""
    file = _file(transcript, rules, _FULL_WIDTH)
    file.info |= {
        "Title": one_line(transcript.source.name),
        "PlayResX": str(_WIDTH),
        "PlayResY": str(_HEIGHT),
    }
    file.styles["Default"] = _STYLE
    text = io.StringIO()
    _AnyLength.to_file(file, text, "ass", header_notice="Made by Farscribe")
    return text.getvalue()


class _AnyLength(SubstationFormat):
    """Advanced SubStation with times of ten hours and more.

    pysubs2 1.8 writes these as 9:59:59.99, as one digit of hours is what the format's first
    description has; libass and VSFilter read any number of digits.
    """

    @staticmethod
    def ms_to_timestamp(requested_ms: int) -> str:
        """The time as H:MM:SS.cc, rounded."""
        hours, minutes, seconds, ms = ms_to_times(requested_ms + 5)
        return f"{hours}:{minutes:02}:{seconds:02}.{ms // 10:02}"


def _file(
    transcript: Transcript, rules: SubtitleRules, characters: dict[int, str]
) -> pysubs2.SSAFile:
    file = pysubs2.SSAFile()
    for cue in cues(transcript.segments, rules):
        event = pysubs2.SSAEvent(start=cue.start_ms, end=cue.end_ms)
        event.plaintext = "\n".join(cue.lines).translate(characters)
        file.append(event)
    return file
