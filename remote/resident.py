"""The resident worker: a process that keeps the model and outlives its clients.

It listens on a Unix socket that only its user may open, takes up the jobs from before, and goes
when it is told to, or after a time without work. ``pipe`` is the same worker for one client on
standard input and output. It must not be imported by anything but the front door.
"""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from remote import protocol
from remote.blocks import write_all
from remote.bridge import code_hash, locked, socket_path
from remote.conversation import Conversation
from remote.desk import Desk
from remote.direct_transcribe import Engine
from remote.models import Progress
from remote.protocol import ExitCode, Failed, KnownError, Note
from remote.spool import Spool
from remote.worker import Worker

SWEEP_S = 600.0
_LOOK_S = 1.0
_NOTE_S = 1.0
_CHUNK_BYTES = 64 * 1024
_LAST_WORDS_S = 2.0
"""Seconds that clients get to take in what they were told before the process ends."""

Open = Callable[[str, Progress], Engine]
"""Opens a model by its name, and tells how far it has been fetched."""

log = logging.getLogger(__name__)


class House:
    """Worker and desk in one folder, with their threads.

    Args:
        folder: the spool; locked by its caller.
        open_model: opens a model by name.
        model: to open at once.
    """

    def __init__(self, folder: Path, open_model: Open, model: str) -> None:
        self.stop = threading.Event()
        self.spool = Spool(folder, stop=self.stop)
        self._open_model = open_model
        self.desk = Desk(self._open, self.spool.blocks, model=model, changed=self._changed)
        self.worker = Worker(self.desk, self.spool)

    def _changed(self, hello: protocol.Hello) -> None:
        self.worker.announce(hello)

    def start(self) -> None:
        """Works and beats from now on."""
        for name, run in (("desk", self._work), ("heartbeat", self.worker.beat)):
            threading.Thread(target=run, name=name, daemon=True).start()

    def when_stopped(self, then: Callable[[], None]) -> None:
        """Calls ``then`` once the desk has broken down, or ``end`` was called."""

        def wait() -> None:
            self.stop.wait()
            then()

        threading.Thread(target=wait, name="stop", daemon=True).start()

    def end(self) -> None:
        """Ends in order; jobs that are at work go on another time."""
        self.stop.set()
        self.worker.stopping.set()
        self.worker.pause()

    def _work(self) -> None:
        try:
            self.desk.run()
        except KnownError as error:
            self.worker.announce(Failed("", 0, error.code, error.message, error.hint))
        except BaseException:
            log.exception("the engine has a bug and ends; its jobs go on when it starts again")
            raise
        finally:
            self.stop.set()

    def _open(self, model: str) -> Engine:
        """Opens a model; that it is being fetched first is told to all."""
        told_s = -_NOTE_S

        def fetching(done: int, total: int) -> None:
            nonlocal told_s
            if time.monotonic() - told_s >= _NOTE_S:
                told_s = time.monotonic()
                self.worker.moved()
                share = f", {100 * done // total} % of {total / 1e6:.0f} MB" if total else ""
                self.worker.announce(Note(f"Fetching {model}{share}."))

        return self._open_model(model, fetching)


def serve(
    folder: Path, open_model: Open, model: str,
    *, idle_exit_s: float = 0.0, idle_command: str = "", idle_after_s: float = 0.0,
) -> int:  # fmt: skip
    """Runs the resident worker until it is stopped; its exit status.

    Args:
        folder: the spool; locked by its caller.
        open_model: opens a model by name.
        model: to open at once.
        idle_exit_s: ends after so long without any work moving; 0 for never. Jobs that stand
            still go on when it starts again.
        idle_command: is run, once, when nothing has moved for ``idle_after_s``: powers a machine
            off that costs money.
        idle_after_s: see there; jobs that stand still count as idle.
    """
    with ExitStack() as stack:
        _write_facts(folder)  # before it listens: whoever connects may look at them
        listener = stack.enter_context(_listening(folder))
        house = House(folder, open_model, model)
        house.worker.recover()
        house.start()
        threading.Thread(target=_accept, args=(listener, house), daemon=True).start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: house.stop.set())
        _watch(house, idle_exit_s, idle_command, idle_after_s)
        house.end()
        threading.Event().wait(_LOOK_S / 10)
        socket_path(folder).unlink(missing_ok=True)
    return ExitCode.OK


def _watch(house: House, exit_s: float, command: str, after_s: float) -> None:
    """Returns when the worker is to end."""
    since_sweep = 0.0
    while not house.stop.wait(_LOOK_S):
        since_sweep += _LOOK_S
        if since_sweep >= SWEEP_S:
            since_sweep = 0.0
            house.worker.sweep()
        idle_s = house.worker.idle_s()
        if command and idle_s >= after_s:
            log.warning("nothing has moved for %.0f s: running %s", idle_s, command)
            subprocess.run(command, shell=True, check=False)  # noqa: S602 - the owner's own words
            command = ""
        if exit_s and idle_s >= exit_s:
            log.info("nothing has moved for %.0f s: ending", idle_s)
            return


def _listening(folder: Path) -> socket.socket:
    path = socket_path(folder)
    path.unlink(missing_ok=True)  # of a worker that was killed: the lock says that it is gone
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(64)
    return listener


def _write_facts(folder: Path) -> None:
    facts = {"pid": os.getpid(), "code": code_hash()}
    (folder / "worker.json").write_text(json.dumps(facts), encoding="utf-8")


def _accept(listener: socket.socket, house: House) -> None:
    while not house.stop.is_set():
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_client, args=(client, house), daemon=True).start()


def _client(client: socket.socket, house: House) -> None:
    with client:
        conversation = Conversation(house.worker, client.sendall, partial(_stop, house))
        house.worker.join(conversation)
        writer = threading.Thread(target=conversation.write, daemon=True)
        writer.start()
        try:
            conversation.read(protocol.lines(iter(partial(client.recv, _CHUNK_BYTES), b"")))
        finally:
            house.worker.leave(conversation)
            conversation.end()
            writer.join(_LAST_WORDS_S)
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)  # of one who does not read to the end


def _stop(house: House, now: bool) -> None:
    """A client wants the engine to end."""
    if now:
        house.stop.set()
        return

    def when_quiet() -> None:
        house.worker.wait_until_quiet()
        house.stop.set()

    threading.Thread(target=when_quiet, daemon=True).start()


# ── one client on standard input and output ──────────────────────────────────────────────────


def pipe(folder: Path | None, open_model: Open, model: str) -> int:
    """Serves one client until its input ends and its jobs have; its exit status.

    Args:
        folder: the spool; one for this process alone where None, or where another has it.
        open_model: opens a model by name.
        model: to open first.
    """
    lines, send = take_stdio()
    with ExitStack() as stack:
        house = House(_own_folder(folder, stack), open_model, model)
        try:
            house.desk.open_first()
        except KnownError as error:
            send(protocol.encode(Failed("", 0, error.code, error.message, error.hint)))
            return error.code.exit_code
        house.worker.recover(begin=False)
        conversation = Conversation(house.worker, send)
        house.worker.join(conversation)
        house.start()
        reading = (conversation, lines, house)
        threading.Thread(target=_read_to_the_end, args=reading, daemon=True).start()
        house.when_stopped(conversation.end)
        conversation.write()
        broken = house.stop.is_set()
        house.end()
    return ExitCode.BUG if broken else ExitCode.OK


def _read_to_the_end(conversation: Conversation, lines: Iterator[bytes], house: House) -> None:
    conversation.read(lines)
    house.worker.wait_until_quiet(audio=False)
    conversation.end()


def _own_folder(folder: Path | None, stack: ExitStack) -> Path:
    if folder is not None:
        try:
            stack.enter_context(locked(folder))
        except KnownError:
            log.info("another process works in %s: this one keeps nothing", folder)
        else:
            return folder
    return Path(
        stack.enter_context(TemporaryDirectory(prefix="farscribe-", ignore_cleanup_errors=True))
    )


def take_stdio() -> tuple[Iterator[bytes], Callable[[bytes], None]]:
    """Standard input as lines, and a function that sends a line to standard output.

    From then on standard output belongs to the wire alone: what any library prints goes to
    standard error instead. Both ends are bare descriptors, because a thread that is blocked in
    a buffered ``sys.stdin`` would keep the interpreter from ending.
    """
    sys.stdout.flush()
    up = os.dup(1)
    os.dup2(2, 1)

    return protocol.lines(iter(partial(os.read, 0, _CHUNK_BYTES), b"")), partial(write_all, up)
