"""The JSON leaves nothing out."""

import json

import pytest
from hypothesis import given

from app.domain.exports.rendering import render
from app.domain.settings import Format
from tests.app.domain.exports.transcripts import BROKEN, TWO_CHANNELS, WHOLE, transcripts


@given(transcripts(split=True))
def test_json_gives_back_every_segment_to_the_millisecond(transcript):
    body = json.loads(render(transcript, Format.JSON))
    assert [
        (round(s["start"] * 1000), round(s["end"] * 1000), s["text"], s["channel"])
        for s in body["segments"]
    ] == [(s.start_ms, s.end_ms, s.text, s.channel) for s in transcript.segments]


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
    assert body["segments"][1]["avg_logprob"] == pytest.approx(-0.25)


def test_json_of_a_failed_recording_carries_the_error_and_what_there_is():
    body = json.loads(render(BROKEN, Format.JSON))
    assert body["error"] == "It is damaged. Copy it again."
    assert body["error_code"] == "audio-damaged"
    assert body["text"] == "Hello there. Bye."
    assert body["duration"] is None


def test_json_numbers_channels_from_0():
    body = json.loads(render(TWO_CHANNELS, Format.JSON))
    assert [segment["channel"] for segment in body["segments"]] == [0, 1]
