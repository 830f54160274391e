"""The wire: every message between a client and the engine, and the nouns they carry.

One message is one JSON object on one line (JSON Lines, UTF-8, closed by ``\\n``). Both ends hold
this very file: the client imports it, and the folder it lies in travels to the machine.
``PROTOCOL.md`` beside it says each field in words and holds a conversation that a test replays.

Standard library only. It must not touch files, sockets, clocks or devices.

Errors
    KnownError          the world's fault, told to the user: sentence, next step, exit code
      WireError         a line that is no message of this protocol
"""

import json
import math
import reprlib
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, IntEnum, StrEnum
from functools import cache
from typing import Any, Literal, Union

PROTOCOL_MAJOR = 1
PROTOCOL_MINOR = 1

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longest line that is read. An hour of words in one message is about 1 MB."""


class ExitCode(IntEnum):
    """What a command of farscribe leaves behind as its exit status."""

    OK = 0
    BUG = 1
    USAGE = 2
    INPUT = 3
    MODEL = 4
    OUTPUT = 5
    DEVICE = 6
    NETWORK = 7
    CANCELLED = 130


class ErrorCode(StrEnum):
    """Why a job failed. Stable words of the protocol: clients branch on them, never on text."""

    FILE_MISSING = "file-missing"
    FILE_UNREADABLE = "file-unreadable"
    FILE_EMPTY = "file-empty"
    FILE_VANISHED = "file-vanished"
    NOT_AUDIO = "not-audio"
    NO_AUDIO_TRACK = "no-audio-track"
    AUDIO_DAMAGED = "audio-damaged"
    UNKNOWN_OPTION = "unknown-option"
    UNKNOWN_LANGUAGE = "unknown-language"
    MODEL_MISSING = "model-missing"
    MODEL_INCOMPLETE = "model-incomplete"
    MODEL_CHECKSUM = "model-checksum"
    MODEL_UNSUPPORTED = "model-unsupported"
    OUT_OF_MEMORY = "out-of-memory"
    DEVICE_MISSING = "device-missing"
    DISK_FULL = "disk-full"
    OUTPUT_UNWRITABLE = "output-unwritable"
    OFFLINE = "offline"
    UPLOAD_FAILED = "upload-failed"
    ENGINE_MISSING = "engine-missing"
    ENGINE_DIED = "engine-died"
    HOST_UNKNOWN = "host-unknown"
    HOST_CHANGED = "host-changed"
    HOST_REFUSED = "host-refused"
    HOST_UNREACHABLE = "host-unreachable"
    HOST_UNFIT = "host-unfit"
    LINK_LOST = "link-lost"
    LIBRARY_LOCKED = "library-locked"
    LIBRARY_BROKEN = "library-broken"
    LIBRARY_NEWER = "library-newer"
    NOT_FOUND = "not-found"
    WIRE = "wire"
    VERSION = "version"
    CANCELLED = "cancelled"
    BUG = "bug"

    @property
    def exit_code(self) -> ExitCode:
        """The exit status that stands for this error."""
        return _EXIT_CODES.get(self, ExitCode.INPUT)


_EXIT_CODES = {
    ErrorCode.UNKNOWN_OPTION: ExitCode.USAGE,
    ErrorCode.UNKNOWN_LANGUAGE: ExitCode.USAGE,
    ErrorCode.MODEL_MISSING: ExitCode.MODEL,
    ErrorCode.MODEL_INCOMPLETE: ExitCode.MODEL,
    ErrorCode.MODEL_CHECKSUM: ExitCode.MODEL,
    ErrorCode.MODEL_UNSUPPORTED: ExitCode.MODEL,
    ErrorCode.OUT_OF_MEMORY: ExitCode.DEVICE,
    ErrorCode.DEVICE_MISSING: ExitCode.DEVICE,
    ErrorCode.DISK_FULL: ExitCode.OUTPUT,
    ErrorCode.OUTPUT_UNWRITABLE: ExitCode.OUTPUT,
    ErrorCode.OFFLINE: ExitCode.NETWORK,
    ErrorCode.UPLOAD_FAILED: ExitCode.NETWORK,
    ErrorCode.ENGINE_MISSING: ExitCode.DEVICE,
    ErrorCode.ENGINE_DIED: ExitCode.DEVICE,
    ErrorCode.HOST_UNKNOWN: ExitCode.NETWORK,
    ErrorCode.HOST_CHANGED: ExitCode.NETWORK,
    ErrorCode.HOST_REFUSED: ExitCode.NETWORK,
    ErrorCode.HOST_UNREACHABLE: ExitCode.NETWORK,
    ErrorCode.HOST_UNFIT: ExitCode.DEVICE,
    ErrorCode.LINK_LOST: ExitCode.NETWORK,
    ErrorCode.LIBRARY_LOCKED: ExitCode.OUTPUT,
    ErrorCode.LIBRARY_BROKEN: ExitCode.OUTPUT,
    ErrorCode.LIBRARY_NEWER: ExitCode.OUTPUT,
    ErrorCode.NOT_FOUND: ExitCode.USAGE,
    ErrorCode.WIRE: ExitCode.BUG,
    ErrorCode.VERSION: ExitCode.USAGE,
    ErrorCode.CANCELLED: ExitCode.CANCELLED,
    ErrorCode.BUG: ExitCode.BUG,
}


class KnownError(Exception):
    """Something the user can understand and act on; shown without a traceback.

    Args:
        code: the stable word for it.
        message: one sentence that says what happened, with the file or value it is about.
        hint: one sentence with the next step; empty where there is none.
    """

    def __init__(self, code: ErrorCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The sentence and the next step, as a user reads them."""
        return f"{self.message} {self.hint}".rstrip()


class WireError(KnownError):
    """A line that is no message of this protocol. Nothing was done because of it."""

    def __init__(self, message: str, code: ErrorCode = ErrorCode.WIRE, hint: str = "") -> None:
        super().__init__(code, message, hint)


# ── nouns ────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Word:
    """One word with its time in the file (integer milliseconds) and its mean token probability."""

    start_ms: int
    end_ms: int
    text: str
    probability: float = 1.0


@dataclass(frozen=True, slots=True)
class Quality:
    """How sure the model was of the window that a segment is from.

    Args:
        avg_logprob: mean log-probability per token, natural logarithm, <= 0.
        compression_ratio: UTF-8 bytes of the text over its zlib bytes; above 2.4 is repetition.
        no_speech_prob: probability of "no speech" at the first step, 0..1.
        temperature: 0.0 for greedy; higher where the thresholds failed and it was sampled again.
    """

    avg_logprob: float = 0.0
    compression_ratio: float = 1.0
    no_speech_prob: float = 0.0
    temperature: float = 0.0


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text with its time in the file: one type from the device to the subtitle file.

    Args:
        start_ms: first millisecond, counted from the start of the file.
        end_ms: the millisecond after the last; ``end_ms >= start_ms``.
        text: what was said, without leading or trailing space.
        words: word times where they were asked for, else empty.
        channel: number of the channel (0 is the first) where channels were kept apart, else None.
        language: ISO 639-1 code (Whisper's own code where there is none).
        quality: how sure the model was.
    """

    start_ms: int
    end_ms: int
    text: str
    words: tuple[Word, ...] = ()
    channel: int | None = None
    language: str = ""
    quality: Quality = Quality()


@dataclass(frozen=True, slots=True)
class Gap:
    """Detected speech that no segment covers."""

    start_ms: int
    end_ms: int
    channel: int | None = None


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds of wall time by stage; stages that run side by side may add up to more than the wall.

    The stages are decode (file to 16 kHz), vad, mel, encode, generate, align, and whatever a
    client adds (upload, wait, return). A stage that did not run is absent, not 0.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked of one transcription. Every field has a default that suits most files.

    Args:
        language: ISO 639-1 code, or None to detect it for each file.
        task: "transcribe", or "translate" into English (multilingual models only).
        words: also give the time of each word.
        windows: how speech is cut: "vad" at silence, "fixed" every 30 s where somebody speaks,
            "off" every 30 s, silent or not.
        channels: "mix" to mono, or "split" to transcribe each channel by itself.
        vocabulary: names and terms to expect, as a sentence or a comma separated list.
        fallback: decode a window again at higher temperature where it fails the thresholds.
    """

    language: str | None = None
    task: Literal["transcribe", "translate"] = "transcribe"
    words: bool = False
    windows: Literal["vad", "fixed", "off"] = "vad"
    channels: Literal["mix", "split"] = "mix"
    vocabulary: str = ""
    fallback: bool = True


@dataclass(frozen=True, slots=True)
class Source:
    """Where the audio is.

    Args:
        kind: "path" on the engine's machine, an http(s) "url", or "blocks" that the client sends.
        value: the path or the address; for blocks the name of the recording, for sentences.
        duration_ms: of blocks: the length that the client's file announces, if it does.
        tracks: of blocks: channels in each of them.
    """

    kind: Literal["path", "url", "blocks"]
    value: str
    duration_ms: int | None = None
    tracks: int = 1


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of a recording as a file of its own (FLAC, or Opus in Ogg), named by its content.

    Args:
        id: sha256 of the file's bytes, 64 hexadecimal digits.
        samples: per track at 16 kHz; what a codec adds to its ends is cut off.
    """

    id: str
    samples: int


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where a job of the engine is.

    Args:
        job: its name.
        state: "waiting" for its turn or for audio, "running", or "ended" and not acknowledged.
        seq: number of its last event.
        blocks: blocks of it that are known.
    """

    job: str
    state: Literal["waiting", "running", "ended"]
    seq: int
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """What a finished job was: measured, never estimated.

    Args:
        duration_ms: length of the audio that was read.
        speech_ms: speech found by voice activity (all channels added up).
        covered_ms: the part of speech_ms that lies within a segment.
        gaps: speech of at least a second that no segment covers.
        language: of the file; language_probability is 1.0 where it was forced.
        stages: seconds by stage.
        wall_s: seconds from accepting the job to its last segment.
        windows: windows decoded, fallbacks: windows decoded again, tokens: tokens generated.
        peak_memory_bytes: of the process; device_memory_bytes: peak on the device, 0 on the CPU.
        warnings: sentences for the user, such as a damaged file read up to the damage.
    """

    duration_ms: int = 0
    speech_ms: int = 0
    covered_ms: int = 0
    gaps: tuple[Gap, ...] = ()
    language: str = ""
    language_probability: float = 1.0
    stages: StageTimes = StageTimes()
    wall_s: float = 0.0
    windows: int = 0
    fallbacks: int = 0
    tokens: int = 0
    peak_memory_bytes: int = 0
    device_memory_bytes: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def speed(self) -> float:
        """Seconds of audio per second of wall time (RTFx); 0.0 where nothing was timed."""
        return self.duration_ms / 1000 / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def coverage(self) -> float:
        """Share of the detected speech that the text covers, 0..1; 1.0 where there was none."""
        return min(1.0, self.covered_ms / self.speech_ms) if self.speech_ms else 1.0


# ── messages down: from the client to the engine ─────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Transcribe:
    """Please transcribe this source, or go on telling about it.

    A job that the engine has already is not begun again: its events after number ``after`` are
    told, those that were told before among them, and then the new ones as they happen.

    Args:
        job: chosen by the client, unique for all time.
        source: where the audio is.
        options: what is asked.
        model: name of the model; the one that is loaded where it is "".
        after: number of the last event that the client has.
    """

    job: str
    source: Source
    options: Options = Options()
    model: str = ""
    after: int = 0


@dataclass(frozen=True, slots=True)
class Blocks:
    """These blocks of a job, ``first`` of them its block number ``first``, are in the store.

    Telling a block again changes nothing. ``complete`` says that no more follow.

    Args:
        job: a job whose source is blocks.
        first: number of the first of them, from 0.
        blocks: one after another, without a hole after those told before.
        complete: whether the recording ends with them.
        warnings: sentences on the recording, which go into the summary.
    """

    job: str
    first: int
    blocks: tuple[Block, ...]
    complete: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """The client has stored the events of a job up to number ``seq``.

    A job that has ended and is acknowledged to its end is forgotten, with its audio.
    """

    job: str
    seq: int


@dataclass(frozen=True, slots=True)
class List:
    """Which jobs are there? Answered by Jobs."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the engine: when its jobs have ended, or ``now``; those go on when it starts again."""

    now: bool = False


@dataclass(frozen=True, slots=True)
class Have:
    """To the store: which of these blocks are there? Answered by Held."""

    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Put:
    """To the store: the next ``bytes`` bytes after this line are block ``block``.

    Answered by Stored, or by Failed with the block's id as ``job`` (disk-full, or wire where the
    bytes are not what the id says); the conversation goes on.
    """

    block: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop this job; it ends with Failed(code="cancelled"). Unknown jobs are ignored."""

    job: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Are you there? Answered by a Heartbeat."""


# ── messages up: facts from the engine ───────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Hello:
    """First line of every conversation: who speaks, on what; again when the model has changed.

    Args:
        major, minor: protocol version; a client refuses another major.
        engine: version of farscribe on the machine.
        model, device, dtype: what decodes, e.g. "tiny.en", "cpu" or "NVIDIA L4", "int8"; all ""
            where a resident engine has no model loaded: another Hello follows when it has.
        strategy: how the model was loaded: "gpu-state", "memory-mapped" or "standard".
        load_s: seconds that took.
        notes: sentences worth showing, such as why a faster strategy was not used.
    """

    major: int
    minor: int
    engine: str
    model: str
    device: str
    dtype: str
    strategy: str
    load_s: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: ``done_ms`` of ``total_ms`` (None while the length is not known)."""

    job: str
    seq: int
    stage: str
    done_ms: int
    total_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Segments:
    """Finished text of one or more windows: in time order within a job (and channel)."""

    job: str
    seq: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """The job is complete: every segment of it has been sent before this line."""

    job: str
    seq: int
    summary: Summary


@dataclass(frozen=True, slots=True)
class Failed:
    """The job has ended without a complete transcript. Segments sent before stay valid."""

    job: str
    seq: int
    code: ErrorCode
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The engine lives.

    Args:
        jobs: accepted and not ended; queued: those of them that have not begun.
        memory_bytes: the most that the process has held.
        device_memory_bytes: in use on the device, of device_memory_total_bytes; 0 on the CPU.
        utilisation: share of the time since the last heartbeat that the device worked, 0..1.
        model: what is loaded; "" for nothing.
        idle_s: seconds since any job last moved on; jobs that stand still count as idle.
    """

    jobs: int
    memory_bytes: int = 0
    device_memory_bytes: int = 0
    queued: int = 0
    device_memory_total_bytes: int = 0
    utilisation: float = 0.0
    model: str = ""
    idle_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence for the user on what the engine is doing, such as what it is fetching."""

    text: str


@dataclass(frozen=True, slots=True)
class Missing:
    """Blocks of a job that were told and are not in the store: please put and tell them again."""

    job: str
    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Jobs:
    """The engine's jobs, in the order in which they came; the answer to List."""

    jobs: tuple[JobPlace, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """From the store: those of the blocks asked for that are there."""

    blocks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stored:
    """From the store: this block is there, whole, on the disk."""

    block: str


Down = Transcribe | Blocks | Acknowledge | Cancel | Ping | List | Stop | Have | Put
Up = Hello | Progress | Segments | Done | Failed | Heartbeat | Note | Missing | Jobs | Held | Stored
Message = Down | Up

_TYPES: dict[str, type[Message]] = {
    "transcribe": Transcribe,
    "blocks": Blocks,
    "acknowledge": Acknowledge,
    "cancel": Cancel,
    "ping": Ping,
    "list": List,
    "stop": Stop,
    "have": Have,
    "put": Put,
    "hello": Hello,
    "progress": Progress,
    "segments": Segments,
    "done": Done,
    "failed": Failed,
    "heartbeat": Heartbeat,
    "note": Note,
    "missing": Missing,
    "jobs": Jobs,
    "held": Held,
    "stored": Stored,
}
_NAMES = {cls: name for name, cls in _TYPES.items()}


def encode(message: Message) -> bytes:
    """One message as one line, newline included. Numbers that JSON cannot hold raise ValueError."""
    body = {"type": _NAMES[type(message)], **to_plain(message)}
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode("utf-8", "surrogatepass") + b"\n"


def decode(line: bytes) -> Message | None:
    """The message in a line; None for a type this version does not know (to be logged once).

    Unknown keys are ignored, missing ones take their default.

    Raises:
        WireError: not UTF-8, not a JSON object, a field missing or of the wrong kind, or longer
            than MAX_LINE_BYTES; with code "version" for a Hello of another major version.
    """
    if len(line) > MAX_LINE_BYTES:
        raise WireError(f"A line of {len(line)} bytes is longer than the protocol allows.")
    try:
        body = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise WireError(f"Not a line of JSON: {line[:80]!r}.") from error
    if not isinstance(body, dict) or not isinstance(body.get("type"), str):
        raise WireError(f"Not an object with a type: {line[:80]!r}.")
    cls = _TYPES.get(body["type"])
    if cls is None:
        return None
    if cls is Hello:
        check_version(body.get("major"))
    message: Message = from_plain(cls, body)
    return message


def check_version(major: object) -> None:
    """Nothing, where the other end speaks this major version.

    Raises:
        WireError: it does not; the sentence says which end to update.
    """
    if major == PROTOCOL_MAJOR:
        return
    older = isinstance(major, int) and major < PROTOCOL_MAJOR
    raise WireError(
        f"The engine speaks protocol {_shown(major)}, this program speaks {PROTOCOL_MAJOR}.",
        ErrorCode.VERSION,
        f"Update farscribe on {'the machine' if older else 'this computer'}.",
    )


def to_plain(value: Any) -> Any:
    """Dataclasses, enums, tuples and mappings as what JSON can hold; the rest as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    return value


def from_plain(kind: Any, value: Any, where: str = "") -> Any:
    """``value`` from JSON as the type ``kind``, checked at every level.

    Raises:
        WireError: a field is missing or of another kind; the sentence names it by its path.
    """
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass_from(kind, value, where)
    origin = typing.get_origin(kind)
    if origin is Literal:
        return _checked(value in typing.get_args(kind), value, kind, where)
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (arg for arg in typing.get_args(kind) if arg is not types.NoneType)
        return from_plain(inner, value, where)
    if origin is tuple:
        _checked(isinstance(value, list), value, kind, where)
        inner = typing.get_args(kind)[0]
        return tuple(from_plain(inner, item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Mapping:
        _checked(isinstance(value, dict), value, kind, where)
        inner = typing.get_args(kind)[1]
        return {key: from_plain(inner, item, f"{where}.{key}") for key, item in value.items()}
    if issubclass(kind, Enum):
        known = value in [member.value for member in kind]
        return kind(_checked(known, value, kind, where))
    if kind is float:
        real = isinstance(value, int | float) and not isinstance(value, bool)
        finite = real and abs(value) < 1e308 and math.isfinite(value)
        return float(_checked(finite, value, kind, where))
    return _checked(type(value) is kind, value, kind, where)


def _dataclass_from(kind: type, value: Any, where: str) -> Any:
    _checked(isinstance(value, dict), value, kind, where)
    found = {
        name: from_plain(hint, value[name], f"{where}.{name}")
        for name, hint in _hints(kind)
        if name in value
    }
    try:
        return kind(**found)
    except TypeError as error:
        raise WireError(f"{kind.__name__}{where} lacks a field: {error}.") from error


@cache
def _hints(kind: type) -> tuple[tuple[str, Any], ...]:
    return tuple(typing.get_type_hints(kind).items())


def _shown(value: Any) -> str:
    """A stranger's value in a sentence, however long or deep it is."""
    return reprlib.repr(value)[:80]


def _checked(ok: bool, value: Any, kind: Any, where: str) -> Any:
    if not ok:
        name = getattr(kind, "__name__", str(kind))
        raise WireError(f"{where or 'The message'} is no {name}: {_shown(value)}.")
    return value


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines out of byte chunks cut anywhere; a last line without its newline is dropped.

    Raises:
        WireError: a line grows over MAX_LINE_BYTES.
    """
    rest = bytearray()
    for chunk in chunks:
        *ends, begin = chunk.split(b"\n")
        for end in ends:
            yield bytes(rest + end)
            rest.clear()
        rest += begin
        if len(rest) > MAX_LINE_BYTES:
            raise WireError("A line is longer than the protocol allows.")
