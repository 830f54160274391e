"""Stands in for fast_transcribe.py on a host: `attach` and `receive`, without an engine.

Copied beside protocol.py into a folder ``remote`` that travels to the host. How `attach` behaves is
told by the name of its model:

    silent     says Hello, then no more         mute        not even Hello
    dies       an exit status after Hello       unloadable  a model that is missing
    foreign    another version of the protocol  anything    Hello, then heartbeats

A job's Transcribe is answered by Done. `receive` stores blocks in $FARSCRIBE_SPOOL or
~/.farscribe/spool; a file "full" there makes the disk full, "slow" makes it never answer.
"""

import hashlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if not __package__:  # imports start at the folder above
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from remote import protocol
from remote.protocol import (
    Done,
    ErrorCode,
    Failed,
    Have,
    Heartbeat,
    Held,
    Hello,
    Message,
    Note,
    Ping,
    Put,
    Stored,
    Summary,
    Transcribe,
)

BEAT_S = float(os.environ.get("WIRE_HOST_BEAT_S", "0.2"))
SPOOL = Path(os.environ.get("FARSCRIBE_SPOOL") or Path.home() / ".farscribe" / "spool")

lock = threading.Lock()


def send(*messages: Message) -> None:
    with lock:
        for message in messages:
            sys.stdout.buffer.write(protocol.encode(message))
        sys.stdout.buffer.flush()


def attach(model: str) -> int:
    print("attaching", file=sys.stderr, flush=True)
    match model:
        case "mute":
            sys.stdin.buffer.read()
            return 0
        case "unloadable":
            send(Failed("", 0, ErrorCode.MODEL_MISSING, "There is no model x.", "Add it."))
            return 4
        case "foreign":
            print('{"type":"hello","major":99}', flush=True)
            return 0
    send(Hello(1, 1, "0", model, "cpu", "float32", "standard", 0.1))
    if model == "dies":
        print("It burns.", file=sys.stderr, flush=True)
        return 3
    if model != "silent":
        threading.Thread(target=beat, daemon=True).start()
    for line in sys.stdin.buffer:
        match protocol.decode(line):
            case Transcribe(job):
                send(Note("working"), Done(job, 1, Summary(1000)))
            case Ping():
                send(Heartbeat(0))
    return 0


def beat() -> None:
    while True:
        threading.Event().wait(BEAT_S)
        send(Heartbeat(0))


def receive() -> int:
    SPOOL.mkdir(parents=True, exist_ok=True)
    stream = sys.stdin.buffer
    for message in messages(stream):
        match message:
            case Have(blocks):
                send(Held(tuple(block for block in blocks if (SPOOL / block).is_file())))
            case Put(block, size):
                data = stream.read(size)
                if len(data) < size:
                    return 1
                store(block, data)
    return 0


def messages(stream: BinaryIO) -> Iterator[Message]:
    while line := stream.readline():
        message = protocol.decode(line)
        if message is not None:
            yield message


def store(block: str, data: bytes) -> None:
    if (SPOOL / "slow").exists():
        return
    if (SPOOL / "full").exists():
        send(Failed(block, 0, ErrorCode.DISK_FULL, "The disk is full.", "Free some."))
    elif hashlib.sha256(data).hexdigest() != block:
        send(Failed(block, 0, ErrorCode.WIRE, "The bytes are others.", "Send it again."))
    else:
        part = SPOOL / f"{block}.{os.getpid()}"
        part.write_bytes(data)
        part.rename(SPOOL / block)
        send(Stored(block))


def main(arguments: list[str]) -> int:
    if arguments == ["receive"]:
        return receive()
    verb, start, option, model, *_ = arguments
    assert (verb, start, option) == ("attach", "--start", "--model")
    return attach(model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
