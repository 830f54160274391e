"""An engine without a model, as a child process: it speaks the wire and misbehaves on demand.

What it does with a job is written in the name of the recording, which need not exist:

    bad         says that it is no audio        die-always  dies in the middle of the job
    hang        waits to be cancelled           die-once    dies the first time only
    deaf        does not even hear Cancel       gap         leaves out a number
    empty       finds no speech                 garbage     prints what is no message
    long        a line over the limit           anything    says two segments

How it starts is told by its first argument: "well", "silent" (no Hello), "loading" (words on
standard error, then well), "unloadable" (a model that is missing), "incomplete" (a Python module
that is missing), "foreign" (another version of the protocol), "dead" (an exit status at once).
The second argument is a folder where it keeps what must outlive it.
"""

import os
import sys
from pathlib import Path

from remote import protocol
from remote.protocol import (
    Cancel,
    Done,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    Message,
    Ping,
    Progress,
    Segment,
    Segments,
    StageTimes,
    Summary,
    Transcribe,
)

HELLO = Hello(1, 0, "0", "tiny.en", "cpu", "float32", "standard", 0.1, ("A note.",))


def send(*messages: Message) -> None:
    for message in messages:
        sys.stdout.buffer.write(protocol.encode(message))
    sys.stdout.buffer.flush()


def start(how: str) -> None:
    match how:
        case "silent":
            sys.stdin.buffer.read()
            sys.exit(0)
        case "loading":
            sys.stderr.write("Fetching tiny.en:  50%\rFetching tiny.en: 100%\n")
            sys.stderr.flush()
        case "unloadable":
            send(Failed("", 0, ErrorCode.MODEL_MISSING, "There is no model x.", "Add it."))
            sys.exit(4)
        case "incomplete":
            import a_module_that_nobody_has  # type: ignore[import-not-found]  # noqa: F401
        case "foreign":
            print('{"type":"hello","major":99}', flush=True)
        case "dead":
            print("It burns.", file=sys.stderr)
            sys.exit(3)
    send(HELLO)


def first_time(name: str, memory: Path) -> bool:
    """Whether this engine and those before it have not seen the recording."""
    mark = memory / f"{name}.seen"
    if mark.exists():
        return False
    mark.touch()
    return True


def transcribe(job: Transcribe, memory: Path) -> None:
    name = job.job
    path = Path(job.source.value).stem
    if job.after:  # it keeps nothing
        send(Failed(name, 0, ErrorCode.NOT_FOUND, "There is no such job."))
        return
    send(Progress(name, 1, "generate", 1000, 2000))
    if path == "bad":
        send(Failed(name, 2, ErrorCode.NOT_AUDIO, "It is no audio.", "Try another."))
        return
    if path == "empty":
        send(Done(name, 2, Summary(2000)))
        return
    send(Segments(name, 2, (Segment(0, 900, f"{path} begins."),)))
    if path == "die-always" or (path == "die-once" and first_time(path, memory)):
        print("It burns.", file=sys.stderr, flush=True)
        os._exit(3)
    if path in ("hang", "deaf"):
        return
    if path == "garbage":
        print("a library prints something", flush=True)
    if path == "long":
        sys.stdout.buffer.write(b"x" * (protocol.MAX_LINE_BYTES + 1) + b"\n")
        sys.stdout.buffer.flush()
    send(
        Segments(name, 4 if path == "gap" else 3, (Segment(1000, 1900, f"{path} ends."),)),
        Done(name, 5 if path == "gap" else 4, summary()),
    )


def summary() -> Summary:
    stages = StageTimes({"decode": 0.01, "generate": 0.2})
    return Summary(2000, 1800, 1700, language="en", stages=stages, wall_s=0.25, warnings=("Hm.",))


def main(how: str, memory: Path) -> None:
    start(how)
    chunks = iter(lambda: os.read(0, 65536), b"")
    hanging: set[str] = set()
    for message in filter(None, map(protocol.decode, protocol.lines(chunks))):
        match message:
            case Transcribe(job, source):
                if Path(source.value).stem == "hang":
                    hanging.add(job)
                transcribe(message, memory)
            case Cancel(job) if job in hanging:
                hanging.remove(job)
                send(Failed(job, 3, ErrorCode.CANCELLED, "The transcription was cancelled."))
            case Ping():
                send(Heartbeat(0))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
