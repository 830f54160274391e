"""A transcript as the content of a file, in any of the formats.

Each has one writer, and they lie together by family:

    running_text    txt, md
    subtitle_file   srt, vtt, ass
    table           csv, tsv
    json_file       json
    word_document   docx
    html_page       html

Pure: a transcript in, bytes out; files are written elsewhere. Two third-party names are known in
this room, pysubs2 and python-docx. Both only give values the form of a file format and touch
nothing of the user's (python-docx reads the template that comes with it); behind a port every
caller would carry an adapter for what is a rule. This module is imported only where something is
exported, and python-docx, which is slow to load, only where a docx is made.

Text is UTF-8. In every format it is what the segments say but for white space, with these
exceptions, each said in its module: ass has no way to write braces and backslashes; docx, html
and md cannot hold control characters.
"""

from collections.abc import Callable

from app.domain.exports import (
    html_page,
    json_file,
    running_text,
    subtitle_file,
    table,
    word_document,
)
from app.domain.settings import Format, SubtitleRules
from app.domain.transcript import Transcript

_Writer = Callable[[Transcript], str]
_SubtitleWriter = Callable[[Transcript, SubtitleRules], str]

_WRITERS: dict[Format, _Writer] = {
    Format.TXT: running_text.txt,
    Format.MD: running_text.md,
    Format.JSON: json_file.json_text,
    Format.CSV: table.csv_text,
    Format.TSV: table.tsv_text,
    Format.HTML: html_page.html_text,
}
_SUBTITLE_WRITERS: dict[Format, _SubtitleWriter] = {
    Format.SRT: subtitle_file.srt,
    Format.VTT: subtitle_file.vtt,
    Format.ASS: subtitle_file.ass,
}


def render(transcript: Transcript, kind: Format, rules: SubtitleRules | None = None) -> bytes:
    """The whole content of a file; the lines of a text end with a newline.

    Args:
        transcript: what to write; one that failed is written as far as it came.
        kind: the format.
        rules: the layout of srt, vtt and ass; the usual one where None.
    """
    if kind is Format.DOCX:
        return word_document.docx_bytes(transcript)
    if kind in _SUBTITLE_WRITERS:
        text = _SUBTITLE_WRITERS[kind](transcript, rules or SubtitleRules())
    else:
        text = _WRITERS[kind](transcript)
    return text.encode("utf-8", "replace")  # names of files may hold what is no Unicode
