"""From a client's connection to the resident worker: attach, receive, status, stop.

These are started for every connection, so nothing heavy is loaded. It must not know what the
lines mean beyond what the commands ask for.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from remote import protocol
from remote.blocks import BlockFolder, serve_store, write_all
from remote.protocol import (
    ErrorCode,
    ExitCode,
    Failed,
    Heartbeat,
    Hello,
    Jobs,
    KnownError,
    List,
    Message,
    Ping,
    Stop,
)

START_S = 60.0
"""Seconds that a worker may take until it listens; its model is loaded after that."""

_CHUNK_BYTES = 64 * 1024
_SOCKET_PATH_BYTES = 100
"""Longest path that every system takes as the name of a socket (sun_path, 104 or 108 bytes)."""


def default_spool() -> Path:
    """$FARSCRIBE_SPOOL, or a folder in the user's home."""
    given = os.environ.get("FARSCRIBE_SPOOL")
    return Path(given).expanduser() if given else Path.home() / ".farscribe" / "spool"


def socket_path(spool: Path) -> Path:
    """Where the worker of this spool listens."""
    path = spool.resolve() / "worker.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"farscribe-{os.getuid()}-{digest}.sock"


@contextmanager
def locked(spool: Path) -> Iterator[None]:
    """The folder, made where it is missing, is one worker's own within the block.

    Raises:
        KnownError: another worker has it.
    """
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(spool / "worker.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise KnownError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"Another worker is at work in {spool}.",
            "Use that one: fast_transcribe.py attach.",
        ) from error
    try:
        yield
    finally:
        lock.release()


def code_hash() -> str:
    """What tells this engine's code from another version of it."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def receive(spool: Path) -> int:
    """Serves the conversation of the block store on standard input and output."""
    serve_store(partial(os.read, 0), partial(write_all, 1), BlockFolder(spool / "blocks"))
    return ExitCode.OK


def attach(spool: Path, start: Sequence[str] | None) -> int:
    """Joins standard input and output with the worker, until one of the two ends.

    Args:
        spool: of the worker.
        start: program and arguments that start one where none runs, or where the one that runs
            is of another version; None to start none.

    Raises:
        KnownError: there is no worker, or it could not be started.
    """
    if start is not None:
        _retire_other_version(spool)
    try:
        worker = _connect(spool)
    except OSError as error:
        if start is None:
            raise _no_worker() from error
        worker = _start(spool, start)
    with worker, suppress(ConnectionError):  # either end may go at any time
        threading.Thread(target=_forward, args=(worker,), daemon=True).start()
        while data := worker.recv(_CHUNK_BYTES):
            write_all(1, data)
    return ExitCode.OK


def _forward(worker: socket.socket) -> None:
    with suppress(OSError):
        while data := os.read(0, _CHUNK_BYTES):
            worker.sendall(data)
        worker.shutdown(socket.SHUT_WR)


def status(spool: Path) -> int:
    """Prints what the worker does.

    Raises:
        KnownError: there is no worker.
    """
    with _connected(spool) as worker:
        lines = _ask(worker, List(), Ping())
        found = {type(message): message for message in lines(Hello, Jobs, Heartbeat)}
    for message in found.values():
        print(protocol.encode(message).decode("utf-8"), end="")
    return ExitCode.OK


def stop(spool: Path, *, now: bool) -> int:
    """Asks the worker to end, and waits until it has.

    Raises:
        KnownError: there is no worker.
    """
    with _connected(spool) as worker:
        worker.sendall(protocol.encode(Stop(now)))
        while worker.recv(_CHUNK_BYTES):
            pass
    return ExitCode.OK


def _ask(worker: socket.socket, *questions: Message) -> Callable[..., Iterator[Message]]:
    """A function that gives the first message of each of the types it is given."""
    for question in questions:
        worker.sendall(protocol.encode(question))

    def answers(*wanted: type[Message]) -> Iterator[Message]:
        missing = set(wanted)
        for line in protocol.lines(iter(partial(worker.recv, _CHUNK_BYTES), b"")):
            message = protocol.decode(line)
            if message is not None and type(message) in missing:
                missing.discard(type(message))
                yield message
            if not missing:
                return

    return answers


def _connected(spool: Path) -> socket.socket:
    try:
        return _connect(spool)
    except OSError as error:
        raise _no_worker() from error


def _connect(spool: Path) -> socket.socket:
    path = socket_path(spool)
    if path.stat().st_uid != os.getuid():
        raise PermissionError(f"{path} is not ours")
    worker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        worker.connect(str(path))
    except BaseException:
        worker.close()
        raise
    return worker


def _retire_other_version(spool: Path) -> None:
    """Ends a worker whose code is not this: its jobs go on in the one that is started next."""
    try:
        facts = json.loads((spool / "worker.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if facts.get("code") == code_hash():
        return
    with suppress(KnownError, OSError):
        stop(spool, now=True)


def _start(spool: Path, command: Sequence[str]) -> socket.socket:
    """A connection to a worker that was just started, and lives on by itself."""
    spool.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = spool / "worker.log"
    begin = path.stat().st_size if path.exists() else 0
    with path.open("ab") as log:
        worker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    until = Retrying(
        # One that has ended may have found that another client started one at the same moment.
        retry=retry_if_exception(lambda error: isinstance(error, OSError) and alive()),
        wait=wait_fixed(0.05),
        stop=stop_after_delay(START_S),
        reraise=True,
    )
    ended = False

    def alive() -> bool:
        nonlocal ended
        before, ended = ended, worker.poll() is not None
        return not before

    try:
        return until(_connect, spool)
    except OSError as error:
        words = path.read_bytes()[begin:].decode("utf-8", "replace").strip().splitlines()
        raise KnownError(
            ErrorCode.ENGINE_DIED,
            f"The worker did not start: {words[-1] if words else 'it said nothing'}.",
            f"Look into {path}.",
        ) from error


def _no_worker() -> KnownError:
    return KnownError(
        ErrorCode.ENGINE_MISSING,
        "No worker is running here.",
        "Start one: fast_transcribe.py serve.",
    )


def refuse(error: KnownError) -> None:
    """Tells the client on standard output why there is no conversation."""
    line = protocol.encode(Failed("", 0, error.code, error.message, error.hint))
    with suppress(OSError):
        write_all(1, line)


def serve_command(program: Path, spool: Path, options: Sequence[str]) -> list[str]:
    """What starts a worker: this Python, and the front door with these options."""
    return [sys.executable, str(program), "serve", "--spool", str(spool), *options]
