"""What must hold in every format."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.domain.exports.rendering import render
from app.domain.settings import Format, SubtitleRules
from app.domain.transcript import Transcript
from remote.protocol import Segment
from tests.app.domain.exports.transcripts import NOTHING, WHOLE

TEXTS = [kind for kind in Format if kind is not Format.DOCX]
FOR_READERS = [Format.MD, Format.HTML]


@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_ends_with_a_newline(kind):
    assert render(WHOLE, kind).endswith(b"\n")


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_utf_8_even_where_the_name_of_the_file_is_not(kind):
    named = Transcript(Path("/x/caf\udce9.wav"), (Segment(0, 900, "Un café."),))
    assert "Un café." in render(named, kind).decode("utf-8")


def test_a_word_document_takes_a_name_that_is_no_unicode():
    named = Transcript(Path("/x/caf\udce9.wav"), (Segment(0, 900, "Un café."),))
    assert render(named, Format.DOCX).startswith(b"PK")


def test_nothing_said_is_a_file_without_text():
    assert render(NOTHING, Format.TXT) == b""
    assert render(NOTHING, Format.SRT) == b""
    assert render(NOTHING, Format.VTT).startswith(b"WEBVTT")
    assert b"Dialogue" not in render(NOTHING, Format.ASS)
    assert json.loads(render(NOTHING, Format.JSON))["text"] == ""


def test_subtitle_rules_reach_every_kind_of_subtitles():
    narrow = SubtitleRules(max_chars=16)
    long = Transcript(Path("a"), (Segment(0, 4000, "one two three four five six"),))
    for kind in (Format.SRT, Format.VTT, Format.ASS):
        assert b"one two three four five six" in render(long, kind)
        assert b"one two three four five six" not in render(long, kind, narrow)


def test_python_docx_is_loaded_only_where_a_word_document_is_made():
    code = "import sys, app.domain.exports.rendering; sys.exit('docx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
