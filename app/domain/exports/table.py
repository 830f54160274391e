"""A row for each segment: csv for spreadsheets, tsv as openai/whisper writes it.

A text that begins with "=", "+", "-" or "@" is written as it was said. Some spreadsheets would
take it for a formula, and putting an apostrophe before it is the usual guard; but then a program
reads what nobody said. Who opens a csv of a recording they do not trust should import its columns
as text.
"""

import csv
import io

from app.domain.transcript import Transcript, one_line

_BYTE_ORDER_MARK = "\ufeff"


def csv_text(transcript: Transcript) -> str:
    """Comma separated values (RFC 4180): seconds, channel (from 0), language, text.

    It begins with a byte order mark, without which Excel does not take it for UTF-8.
    """
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["start", "end", "channel", "language", "text"])
    for segment in transcript.segments:
        start, end = (f"{ms / 1000:.3f}" for ms in (segment.start_ms, segment.end_ms))
        channel = "" if segment.channel is None else segment.channel
        writer.writerow([start, end, channel, segment.language, one_line(segment.text)])
    return _BYTE_ORDER_MARK + table.getvalue()


def tsv_text(transcript: Transcript) -> str:
    """Milliseconds and text, and the channel from 0 where there are any."""
    apart = bool(transcript.channels)
    table = io.StringIO()
    writer = csv.writer(
        table, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    writer.writerow(["start", "end", "text", *(["channel"] * apart)])
    for segment in transcript.segments:
        channel = [segment.channel] * apart
        writer.writerow([segment.start_ms, segment.end_ms, one_line(segment.text), *channel])
    return table.getvalue()
