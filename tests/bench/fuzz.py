"""Strange lines to both ends of the wire: each is a message or a typed error, and nothing hangs.

Valid lines are cut, flipped, spliced, nested, given other kinds and huge numbers; others are mere
bytes. Every input goes to the decoder, to the client's reading, to a conversation with a worker,
and to a store. It ends with the first that does anything else than it should, and prints it.
"""

import argparse
import faulthandler
import json
import logging
import random
import re
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from app.domain.engine_output import message_in
from remote import protocol
from remote.blocks import BlockFolder, serve_store
from remote.conversation import Conversation
from remote.protocol import (
    Acknowledge,
    Block,
    Blocks,
    Cancel,
    Done,
    ErrorCode,
    Failed,
    Gap,
    Have,
    Heartbeat,
    Held,
    Hello,
    JobPlace,
    Jobs,
    List,
    Message,
    Missing,
    Note,
    Options,
    Ping,
    Progress,
    Put,
    Segment,
    Segments,
    Source,
    StageTimes,
    Stored,
    Summary,
    Transcribe,
    WireError,
    Word,
)
from remote.spool import Spool
from remote.worker import Worker
from tests.bench.common import bench_parser
from tests.remote.doubles import HandDesk

INPUTS = 120_000
BATCH = 100
"""Inputs to one conversation and to one store."""

HANG_S = 60.0
"""No batch takes a thousandth of that."""

_ID = "0123456789abcdef" * 4
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_VALUE = re.compile(rb'(?<=:)(?:"[^"]*"|-?\d+(?:\.\d+)?|null|true|false|\[\])')
_NUMBERS = (
    b"0", b"-1", b"1e308", b"1e999", b"-1e999", b"NaN", b"Infinity", b"9" * 40, b"9" * 5000,
    b"-" + b"9" * 400, b"0.1", b"1E+2", b"00", b"0x10", b"18446744073709551616",
)  # fmt: skip
_VALUES = (
    b"null", b"true", b"{}", b"[]", b'""', b'"\\ud800"', b'"\\u0000"', b"[[]]", b'{"type":"ping"}',
    b'"../../etc/passwd"', b'"' + b"x" * 3000 + b'"', b'["a",1]', b"'a'",
    "\"½\"".encode(), b'"\xff"',
)  # fmt: skip

SAMPLES: tuple[Message, ...] = (
    Transcribe("a", Source("blocks", "x.mp3", 60_000, 2), Options(language="en"), "base", 3),
    Transcribe("b", Source("path", "/nowhere/x.wav")),
    Blocks("a", 0, (Block(_ID, 480_000), Block(_ID, 1)), True, ("It ends early.",)),
    Acknowledge("a", 1),
    Cancel("b"),
    Ping(),
    List(),
    Have((_ID, "x")),
    Put(_ID, 20),
    Hello(1, 1, "0.1.0", "base", "cpu", "int8", "standard", 0.4, ("A note.",)),
    Progress("a", 1, "decode", 0, None),
    Segments("a", 2, (Segment(0, 900, "Hm — ½ 日本", (Word(0, 900, "Hm"),), 1, "de"),)),
    Done("a", 3, Summary(gaps=(Gap(0, 1000),), stages=StageTimes({"vad": 0.1}))),
    Failed("a", 3, ErrorCode.NOT_AUDIO, "It is no audio.", "Choose another."),
    Heartbeat(1, 2, 3),
    Note("Fetching."),
    Missing("a", (_ID,)),
    Jobs((JobPlace("a", "running", 1, 2),)),
    Held((_ID,)),
    Stored(_ID),
)


class Lines:
    """Strange lines, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._whole = [protocol.encode(message).rstrip(b"\n") for message in SAMPLES]
        self._ways: tuple[Callable[[bytes], bytes], ...] = (
            lambda line: line,
            self._noise,
            self._cut,
            self._flipped,
            self._spliced,
            self._numbered,
            self._of_another_kind,
            self._nested,
            self._keyed,
            lambda line: self._flipped(self._of_another_kind(self._numbered(line))),
        )

    def next(self) -> bytes:
        """One line, without its end."""
        way = self._chance.choice(self._ways)
        return way(self._chance.choice(self._whole)).replace(b"\n", b" ")

    def _noise(self, _line: bytes) -> bytes:
        return self._chance.randbytes(self._chance.randrange(200))

    def _cut(self, line: bytes) -> bytes:
        a, b = sorted(self._chance.choices(range(len(line) + 1), k=2))
        return line[a:b] if self._chance.random() < 0.3 else line[:b]

    def _flipped(self, line: bytes) -> bytes:
        changed = bytearray(line or b" ")
        for _ in range(self._chance.randint(1, 4)):
            changed[self._chance.randrange(len(changed))] = self._chance.randrange(256)
        return bytes(changed)

    def _spliced(self, line: bytes) -> bytes:
        return self._cut(line) + self._cut(self._chance.choice(self._whole))

    def _numbered(self, line: bytes) -> bytes:
        return self._replaced(_NUMBER, line, _NUMBERS)

    def _of_another_kind(self, line: bytes) -> bytes:
        return self._replaced(_VALUE, line, _VALUES)

    def _replaced(self, what: "re.Pattern[bytes]", line: bytes, by: Sequence[bytes]) -> bytes:
        found = list(what.finditer(line))
        if not found:
            return line
        place = self._chance.choice(found)
        return line[: place.start()] + self._chance.choice(by) + line[place.end() :]

    def _nested(self, line: bytes) -> bytes:
        depth = self._chance.choice((3, self._chance.randrange(1500), 100_000))
        deep = self._chance.choice((b"[", b'{"a":')) * depth
        return self._replaced(_VALUE, line, (deep, deep + b"1" + b"]" * depth))

    def _keyed(self, line: bytes) -> bytes:
        key, value = self._chance.choice((b"job", b"type", b"seq", b"x")), b"7"
        return line[:-1] + b',"' + key + b'":' + self._chance.choice((value, *_VALUES)) + b"}"


class Ends:
    """Both ends of the wire, as far as lines go.

    Args:
        folder: empty; the worker's.
    """

    def __init__(self, folder: Path) -> None:
        self._store = BlockFolder(folder / "store")
        self._worker = Worker(HandDesk(), Spool(folder / "spool"))
        self.found: Counter[str] = Counter()

    def take(self, lines: Sequence[bytes]) -> None:
        """Nothing, if all do with these lines what they should.

        Raises:
            AssertionError: they do not; or whatever else came out.
        """
        for line in lines:
            self.found[self.decoded(line)] += 1
        stream = b"\n".join(lines) + b"\n"
        self.converse(stream)
        self.put(stream)

    def decoded(self, line: bytes) -> str:
        """What a line is."""
        try:
            message = protocol.decode(line)
        except WireError as refusal:
            error = refusal
        else:
            message_in(line)
            assert message is None or protocol.decode(protocol.encode(message)) == message
            return "messages" if message is not None else "unknown types"
        assert len(error.message) < 400
        assert error.code in {ErrorCode.WIRE, ErrorCode.VERSION}
        with suppress(WireError):  # of another version
            message_in(line)
        return "typed errors"

    def converse(self, stream: bytes) -> None:
        """A client says all that to a worker, in pieces."""
        heard: list[bytes] = []
        conversation = Conversation(self._worker, heard.append)
        self._worker.join(conversation)
        conversation.read(protocol.lines(_pieces(stream + protocol.encode(List()))))
        self._worker.leave(conversation)
        conversation.end()
        conversation.write()
        answers = [protocol.decode(line) for line in heard]
        assert isinstance(answers[0], Hello)
        assert any(isinstance(answer, Jobs) for answer in answers)
        for job in self._worker.open_jobs:
            job.fail(protocol.KnownError(ErrorCode.CANCELLED, "It was cancelled."))
        for place in self._worker.jobs().jobs:
            self._worker.acknowledge(place.job, place.seq)
        assert self._worker.jobs() == Jobs(())

    def put(self, stream: bytes) -> None:
        """A client says all that to a store; again where that ends the conversation."""
        left = stream
        while left:
            read = _Read(left)
            answers: list[bytes] = []
            serve_store(read, answers.append, self._store)
            for line in answers:
                assert isinstance(protocol.decode(line), Held | Stored | Failed)
            left = left[read.at :]


class _Read:
    """Gives a stream line by line, as a network may."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream
        self.at = 0

    def __call__(self, most: int) -> bytes:
        end = self._stream.find(b"\n", self.at) + 1 or len(self._stream)
        piece = self._stream[self.at : min(end, self.at + most)]
        self.at += len(piece)
        return piece


def _pieces(stream: bytes) -> Iterator[bytes]:
    for start in range(0, len(stream), 1000):
        yield stream[start : start + 1000]


def fuzz(folder: Path, seed: int, inputs: int) -> Counter[str]:
    """How many inputs were what.

    Raises:
        AssertionError: one was treated otherwise than it should be; the notes say which.
    """
    lines, ends = Lines(seed), Ends(folder)
    for number in range(0, inputs, BATCH):
        batch = [lines.next() for _ in range(BATCH)]
        faulthandler.dump_traceback_later(HANG_S, exit=True)
        try:
            ends.take(batch)
        except BaseException as error:
            error.add_note(f"seed {seed}, inputs {number} to {number + BATCH}")
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
    return ends.found


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    options = _parser().parse_args(arguments)
    seed = secrets.randbits(32) if options.seed is None else options.seed
    print(f"seed {seed}, {options.inputs} inputs", flush=True)
    logging.disable()  # each of them is a line in the log
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # no disk is to be waited for
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        begin = time.perf_counter()
        found = fuzz(Path(folder), seed, options.inputs)
        seconds = time.perf_counter() - begin
    print("| inputs | " + " | ".join(found) + " | crashes | hangs | seconds |")
    print("| ---: " * (len(found) + 4) + "|")
    counts = " | ".join(map(str, found.values()))
    print(f"| {found.total()} | {counts} | 0 | 0 | {seconds:.0f} |")
    if options.json:
        options.json.write_text(json.dumps({"seed": seed, "seconds": seconds, **found}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = bench_parser("fuzz", __doc__)
    parser.add_argument("--seed", type=int, help="of the inputs (default: another each time)")
    parser.add_argument("--inputs", type=int, default=INPUTS, help="default: %(default)s")
    return parser
