"""What a reader is told before the text."""

from pathlib import Path

import pytest

from app.domain.exports.document import clock, document
from app.domain.transcript import Transcript
from remote.protocol import Gap, Segment, Summary
from tests.app.domain.exports.transcripts import BROKEN, DAMAGED, WHOLE


@pytest.mark.parametrize(
    ("milliseconds", "shown"),
    [(0, "00:00:00"), (999, "00:00:00"), (61_000, "00:01:01"), (360_000_000, "100:00:00")],
)
def test_a_time_is_hours_minutes_and_whole_seconds(milliseconds, shown):
    assert clock(milliseconds) == shown


def test_a_whole_transcript_is_not_called_incomplete():
    assert document(WHOLE).incomplete == ""


def test_a_broken_one_says_why_and_where_it_ends():
    assert document(BROKEN).incomplete == "It is damaged. The text ends at 00:00:02."
    nothing = Transcript(Path("a"), error=DAMAGED)
    assert document(nothing).incomplete == "It is damaged. There is no text."
    assert document(nothing).notes == ()


def test_many_gaps_are_counted_rather_than_listed():
    gaps = tuple(Gap(i * 5000, i * 5000 + 1000) for i in range(12))
    (note,) = document(Transcript(Path("a"), (Segment(0, 1, "X"),), Summary(gaps=gaps))).notes
    assert note.startswith("Somebody may speak where there is no text: 00:00:00–00:00:01, ")
    assert note.endswith("00:00:45–00:00:46 and 2 more places.")


def test_a_language_without_a_name_is_told_by_its_code():
    assert document(Transcript(Path("a"), (Segment(0, 1, "X", language="xx"),))).facts == ("xx",)
