"""Rows that other programs read."""

import csv
import io
from pathlib import Path

from hypothesis import given

from app.domain.exports.rendering import render
from app.domain.settings import Format
from app.domain.transcript import Transcript
from remote.protocol import Segment
from tests.app.domain.exports.transcripts import (
    TWO_CHANNELS,
    WHOLE,
    bare,
    said,
    transcripts,
)


def csv_rows(transcript: Transcript) -> list[list[str]]:
    written = render(transcript, Format.CSV).decode("utf-8-sig")
    return list(csv.reader(io.StringIO(written, newline=""), strict=True))


@given(transcripts(split=True))
def test_csv_has_five_columns_whatever_is_said(transcript):
    head, *rows = csv_rows(transcript)
    assert head == ["start", "end", "channel", "language", "text"]
    assert [
        (round(float(start) * 1000), round(float(end) * 1000), channel, language, bare(text))
        for start, end, channel, language, text in rows
    ] == [
        (s.start_ms, s.end_ms, str(s.channel), s.language, bare(s.text))
        for s in transcript.segments
    ]


def test_csv_is_as_rfc_4180_says_behind_a_byte_order_mark():
    quoted = Transcript(Path("a"), (Segment(61_500, 62_000, 'He said "no", twice.', (), 0, "en"),))
    assert render(quoted, Format.CSV) == (
        b"\xef\xbb\xbfstart,end,channel,language,text\r\n"
        b'61.500,62.000,0,en,"He said ""no"", twice."\r\n'
    )


def test_csv_changes_no_text_that_a_spreadsheet_may_take_for_a_formula():
    said = "=1+1, is what he typed"
    assert csv_rows(Transcript(Path("a"), (Segment(0, 900, said),)))[1][-1] == said


@given(transcripts())
def test_tsv_has_three_columns_whatever_is_said(transcript):
    written = render(transcript, Format.TSV).decode()
    rows = list(
        csv.reader(io.StringIO(written, newline="\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    )
    assert rows[0] == ["start", "end", "text"]
    assert all(len(row) == 3 for row in rows)
    assert bare("".join(row[2] for row in rows[1:])) == said(transcript)


def test_tsv_is_milliseconds_and_text_and_the_channel_where_there_are_any():
    assert render(WHOLE, Format.TSV) == (
        b"start\tend\ttext\n0\t1500\tHello there.\n2000\t2900\tBye.\n"
    )
    assert render(TWO_CHANNELS, Format.TSV) == (
        b"start\tend\ttext\tchannel\n0\t900\tHello?\t0\n500\t900\tYes.\t1\n"
    )
