"""A transcript as JSON, for programs: nothing that is known of it is left out.

The JSON, version 1 (keys may be added within a version; unknown ones are to be ignored):

    format        "farscribe-transcript"
    version       1
    source        name of the recording, without its folder
    text          all of it as one line
    language      code, "" where nothing was heard;  language_probability 0..1 or null
    duration      seconds of audio, or null where the job did not complete
    segments      in time order, each
        start, end    seconds, to the millisecond
        text
        language      code
        channel       number from 0, null where channels were mixed
        words         each start, end (seconds), word, probability; empty unless asked for
        avg_logprob, compression_ratio, no_speech_prob, temperature   as in the wire's Quality
    coverage      share of the detected speech that the text covers, 0..1, or null
    gaps          speech that no segment covers: start, end (seconds), channel
    wall          seconds the transcription took, speed  seconds of audio per second; or null
    stages        seconds by stage
    warnings      sentences
    engine        model, device, dtype, strategy, version; null where no engine was reached
    error         null, or the sentence why the text is not complete;  error_code  its stable word
"""

import json

from app.domain.transcript import Transcript
from remote.protocol import Gap, Segment, Word

JSON_VERSION = 1


def json_text(transcript: Transcript) -> str:
    """All that is known of the recording, as one object, indented by one space."""
    summary, engine, error = transcript.summary, transcript.engine, transcript.error
    body = {
        "format": "farscribe-transcript",
        "version": JSON_VERSION,
        "source": transcript.source.name,
        "text": transcript.text,
        "language": transcript.language,
        "language_probability": summary.language_probability if summary else None,
        "duration": _s(summary.duration_ms) if summary else None,
        "segments": [_json_segment(segment) for segment in transcript.segments],
        "coverage": round(summary.coverage, 4) if summary else None,
        "gaps": [_json_gap(gap) for gap in summary.gaps] if summary else [],
        "wall": round(summary.wall_s, 3) if summary else None,
        "speed": round(summary.speed, 2) if summary else None,
        "stages": {k: round(v, 4) for k, v in summary.stages.seconds.items()} if summary else {},
        "warnings": list(summary.warnings) if summary else [],
        "engine": engine
        and {
            "model": engine.model,
            "device": engine.device,
            "dtype": engine.dtype,
            "strategy": engine.strategy,
            "version": engine.engine,
        },
        "error": str(error) if error else None,
        "error_code": error.code.value if error else None,
    }
    return json.dumps(body, ensure_ascii=False, indent=1) + "\n"


def _json_segment(segment: Segment) -> dict[str, object]:
    quality = segment.quality
    return {
        "start": _s(segment.start_ms),
        "end": _s(segment.end_ms),
        "text": segment.text,
        "language": segment.language,
        "channel": segment.channel,
        "words": [_json_word(word) for word in segment.words],
        "avg_logprob": round(quality.avg_logprob, 4),
        "compression_ratio": round(quality.compression_ratio, 4),
        "no_speech_prob": round(quality.no_speech_prob, 4),
        "temperature": quality.temperature,
    }


def _json_word(word: Word) -> dict[str, object]:
    return {
        "start": _s(word.start_ms),
        "end": _s(word.end_ms),
        "word": word.text,
        "probability": round(word.probability, 4),
    }


def _json_gap(gap: Gap) -> dict[str, object]:
    return {"start": _s(gap.start_ms), "end": _s(gap.end_ms), "channel": gap.channel}


def _s(milliseconds: int) -> float:
    return milliseconds / 1000
