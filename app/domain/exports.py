"""A transcript as the text of a file: txt, srt, vtt, json, tsv.

Pure: strings in, a string out; files are written elsewhere. SubRip and WebVTT are written by
pysubs2. It is the one third-party name in this room: it formats strings and touches nothing, and
behind a port every caller would carry an adapter for what is a rule. It is imported with this
module, so this module is imported only where something is exported.

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

import csv
import html
import io
import json
from collections.abc import Callable

import pysubs2

from app.domain.settings import Format, SubtitleRules
from app.domain.subtitles import cues
from app.domain.transcript import Transcript, channel_label
from remote.protocol import Gap, Segment, Word

JSON_VERSION = 1

# pysubs2 keeps text as Advanced SubStation, where these begin commands; stand-ins of the Unicode
# private use area carry them through unread.
_TO_STANDINS = str.maketrans({"\\": "\uf8f0", "{": "\uf8f1", "}": "\uf8f2"})
_FROM_STANDINS = str.maketrans({"\uf8f0": "\\", "\uf8f1": "{", "\uf8f2": "}"})


def render(transcript: Transcript, kind: Format, rules: SubtitleRules | None = None) -> str:
    """The whole content of a file, its lines ending with a newline.

    Args:
        transcript: what to write; one that failed is written as far as it came.
        kind: the format.
        rules: the layout of srt and vtt; the usual one where None.
    """
    if kind in (Format.SRT, Format.VTT):
        return _subtitles(transcript, kind, rules or SubtitleRules())
    writers: dict[Format, Callable[[Transcript], str]] = {
        Format.TXT: _txt,
        Format.JSON: _json,
        Format.TSV: _tsv,
    }
    return writers[kind](transcript)


def _txt(transcript: Transcript) -> str:
    lines = ((channel_label(s), _one_line(s.text)) for s in transcript.segments)
    return "".join(f"{label}{text}\n" for label, text in lines if text)


def _subtitles(transcript: Transcript, kind: Format, rules: SubtitleRules) -> str:
    file = pysubs2.SSAFile()
    for cue in cues(transcript.segments, rules):
        text = "\n".join(cue.lines)
        if kind is Format.VTT:  # there "<" opens a tag and "&" a character reference
            text = html.escape(text, quote=False)
        event = pysubs2.SSAEvent(start=cue.start_ms, end=cue.end_ms)
        event.plaintext = text.translate(_TO_STANDINS)
        file.append(event)
    return file.to_string(kind.value).translate(_FROM_STANDINS)


def _tsv(transcript: Transcript) -> str:
    """Milliseconds and text, as openai/whisper writes it, and the channel where there are any."""
    apart = bool(transcript.channels)
    table = io.StringIO()
    writer = csv.writer(
        table, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    writer.writerow(["start", "end", "text", *(["channel"] * apart)])
    for segment in transcript.segments:
        channel = [segment.channel] * apart
        writer.writerow([segment.start_ms, segment.end_ms, _one_line(segment.text), *channel])
    return table.getvalue()


def _json(transcript: Transcript) -> str:
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


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _s(milliseconds: int) -> float:
    return milliseconds / 1000
