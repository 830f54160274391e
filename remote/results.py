"""A finished transcript as text, JSON, SubRip or WebVTT, and its way to a file or to S3.

The JSON is the client's (``app/domain/exports.py`` documents it), less what only a client knows.
It must not transcribe.
"""

import errno
import html
import json
import os
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from remote.protocol import ErrorCode, Hello, KnownError, Segment, Summary, to_plain

FORMATS = ("text", "json", "srt", "vtt")

_SUFFIXES = {".txt": "text", ".json": "json", ".srt": "srt", ".vtt": "vtt"}
_TYPES = {"text": "text/plain", "json": "application/json", "srt": "text/plain", "vtt": "text/vtt"}
_ATTEMPTS = 4

# pysubs2 keeps text as Advanced SubStation, where these begin commands; stand-ins of the Unicode
# private use area carry them through unread.
_TO_STANDINS = str.maketrans({"\\": "\uf8f0", "{": "\uf8f1", "}": "\uf8f2"})
_FROM_STANDINS = str.maketrans({"\uf8f0": "\\", "\uf8f1": "{", "\uf8f2": "}"})


def format_of(path: str) -> str | None:
    """The format that a file name asks for; None where it asks for none."""
    return _SUFFIXES.get(Path(path).suffix.lower())


def render(
    kind: str, name: str, segments: Sequence[Segment], summary: Summary, hello: Hello
) -> str:
    """The whole content of a result file.

    Args:
        kind: of FORMATS.
        name: of the recording.
        segments: in time order.
        summary: of the job.
        hello: of the engine.
    """
    if kind == "text":
        return "".join(f"{segment.text}\n" for segment in segments)
    if kind == "json":
        return (
            json.dumps(_body(name, segments, summary, hello), ensure_ascii=False, indent=1) + "\n"
        )
    return _subtitles(kind, segments)


def write(path: Path, content: str) -> None:
    """The file, whole or not at all. What is no file (a pipe, a device) is written to as it is.

    Raises:
        KnownError: DISK_FULL or OUTPUT_UNWRITABLE; what was there before is untouched.
    """
    data = content.encode("utf-8", "replace")  # file names may hold what is no Unicode
    part = path.with_name(f".{os.getpid()}.part")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise KnownError(
            ErrorCode.DISK_FULL if full else ErrorCode.OUTPUT_UNWRITABLE,
            f"{path} could not be written: {error.strerror or error}.",
            "Free some space." if full else "Choose another place with --output.",
        ) from error


def upload(address: str, content: str, kind: str) -> None:
    """Sends a result to ``s3://bucket/key`` or to a presigned http(s) address, with retries.

    Raises:
        KnownError: UNKNOWN_OPTION as check_address does; UPLOAD_FAILED. An address that carries
            a signature is not repeated in it.
    """
    check_address(address)
    parts = urlsplit(address)
    if parts.scheme == "s3":
        _upload_s3(parts.netloc, parts.path.lstrip("/"), content, kind)
    else:
        _upload_presigned(address, content)


def check_address(address: str) -> None:
    """Nothing, where this is an address that a result may be sent to.

    Raises:
        KnownError: UNKNOWN_OPTION.
    """
    try:
        parts = urlsplit(address)
        host = parts.hostname if parts.port != 0 else None  # reading the port checks it
    except ValueError:
        host = None
    else:
        s3 = parts.scheme == "s3" and parts.path.strip("/")
        written = address.isascii() and address.isprintable() and " " not in address
        if host and (s3 or (parts.scheme in ("http", "https") and written)):
            return
    raise KnownError(
        ErrorCode.UNKNOWN_OPTION,
        f"{address.partition('?')[0]} is no place to upload to.",
        "Give s3://bucket/key or a presigned https address.",
    )


def _upload_s3(bucket: str, key: str, content: str, kind: str) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    retries = Config(retries={"mode": "standard", "total_max_attempts": _ATTEMPTS})
    try:
        boto3.client("s3", config=retries).put_object(
            Bucket=bucket, Key=key, Body=content.encode(), ContentType=_TYPES[kind]
        )
    except (BotoCoreError, ClientError) as error:
        raise KnownError(
            ErrorCode.UPLOAD_FAILED,
            f"The upload to s3://{bucket}/{key} failed: {error}",
            "Check the AWS credentials and the bucket, or give --output to keep the result here.",
        ) from error


def _upload_presigned(address: str, content: str) -> None:
    from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

    tries = Retrying(
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(0.2, max=5),
        retry=retry_if_exception(_passing),
        reraise=True,
    )
    try:
        for attempt in tries:
            with attempt:
                _put(address, content.encode())
    except (OSError, HTTPException) as error:
        host = urlsplit(address).hostname
        raise KnownError(
            ErrorCode.UPLOAD_FAILED,
            f"The upload to {host} failed: {getattr(error, 'reason', error)}.",
            "Presigned addresses expire: ask for a new one, or give --output.",
        ) from error


def _put(address: str, data: bytes) -> None:
    # By itself urllib names the type of a web form, which a signature may not allow.
    request = urllib.request.Request(  # noqa: S310  (check_address has seen it)
        address, data, {"Content-Type": ""}, method="PUT"
    )
    try:
        with urllib.request.urlopen(request, timeout=60):  # noqa: S310
            pass
    except urllib.error.HTTPError as error:
        error.close()
        raise


def _passing(error: BaseException) -> bool:
    """Whether a later try may succeed: no answer, or a server's own fault."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500
    return isinstance(error, OSError)


def _body(name: str, segments: Sequence[Segment], summary: Summary, hello: Hello) -> dict[str, Any]:
    return {
        "format": "farscribe-transcript",
        "version": 1,
        "source": name,
        "text": " ".join(segment.text for segment in segments),
        "language": summary.language,
        "language_probability": summary.language_probability,
        "duration": summary.duration_ms / 1000,
        "segments": [_segment(segment) for segment in segments],
        "coverage": round(summary.coverage, 4),
        "gaps": [
            {"start": gap.start_ms / 1000, "end": gap.end_ms / 1000, "channel": gap.channel}
            for gap in summary.gaps
        ],
        "wall": round(summary.wall_s, 3),
        "speed": round(summary.speed, 2),
        "stages": {key: round(value, 4) for key, value in summary.stages.seconds.items()},
        "warnings": list(summary.warnings),
        "engine": {
            "model": hello.model,
            "device": hello.device,
            "dtype": hello.dtype,
            "strategy": hello.strategy,
            "version": hello.engine,
        },
        "error": None,
        "error_code": None,
    }


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "start": segment.start_ms / 1000,
        "end": segment.end_ms / 1000,
        "text": segment.text,
        "language": segment.language,
        "channel": segment.channel,
        "words": [
            {
                "start": word.start_ms / 1000,
                "end": word.end_ms / 1000,
                "word": word.text,
                "probability": word.probability,
            }
            for word in segment.words
        ],
        **to_plain(segment.quality),
    }


def _subtitles(kind: str, segments: Sequence[Segment]) -> str:
    import pysubs2

    file = pysubs2.SSAFile()
    for segment in segments:
        text = segment.text if kind == "srt" else html.escape(segment.text, quote=False)
        event = pysubs2.SSAEvent(start=segment.start_ms, end=segment.end_ms)
        event.plaintext = " ".join(text.split()).translate(_TO_STANDINS)
        file.append(event)
    return file.to_string(kind).translate(_FROM_STANDINS)
