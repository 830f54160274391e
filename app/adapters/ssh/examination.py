"""Looks at a host without changing it: reached, known, let in, and what there is.

One step after another; the first that fails is the last, as the rest needs it.
"""

import base64
import json
import shlex
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import paramiko

from app.adapters.ssh.address import Host, resolve
from app.adapters.ssh.commands import NO_PYTHON, PYTHONS
from app.adapters.ssh.connection import Connection, connect
from app.adapters.ssh.link import lost, no_session
from app.adapters.ssh.login import Ask, Login, Recall, from_keyring
from app.adapters.ssh.parcel import parcel
from app.adapters.ssh.threads import in_thread
from app.adapters.ssh.trust import KnownHosts
from app.domain.checkup import Finding, Health, from_error
from remote import protocol
from remote.protocol import ErrorCode, Heartbeat, Hello, Jobs, KnownError, Message

ROOM_BYTES = 8 * 2**30
"""What PyTorch with CUDA, its packages and a large model take in the home folder."""

ANSWER_S = 40.0
"""For all that is looked at there: each of its two commands may take 10 s."""

_PROBE = Path(__file__).with_name("host_probe.py")

# One line without single quotes, to be quoted by any shell; see commands.py.
_FIND = (
    "probe=$1; engine=$2; given=$3; shift 3;"
    ' for python in "$@"; do'
    ' if "$python" -S -c "import sys; sys.exit(sys.version_info < (3, 11))"'
    " </dev/null >/dev/null 2>&1; then"
    ' exec "$python" -S -c "import base64, sys, zlib;'
    ' exec(zlib.decompress(base64.b64decode(sys.argv[1])))" "$probe" "$engine" "$given";'
    " fi; done;"
    ' for python in "$@"; do "$python" -V 2>&1; done;'
    f" exit {NO_PYTHON}"
)

_STEPS = {
    ErrorCode.HOST_UNREACHABLE: "reach",
    ErrorCode.HOST_UNKNOWN: "host key",
    ErrorCode.HOST_CHANGED: "host key",
    ErrorCode.HOST_REFUSED: "login",
}
"""Where a connection failed, by the error; what comes before it went well."""


@dataclass(frozen=True, slots=True)
class HostExamination:
    """A check of one host; it is a Checkup.

    Args: as of SshMachine.
    """

    address: str
    engine_folder: Path
    known_hosts: Path
    ask: Ask
    trust: str | None = None
    ssh_folder: Path | None = None
    recall: Recall = from_keyring

    async def __call__(self) -> AsyncIterator[Finding]:
        """Looks at one thing after another."""
        try:
            host = resolve(self.address, self.ssh_folder or Path.home() / ".ssh")
        except KnownError as error:
            yield from_error("address", error)
            return
        keys = KnownHosts(host, self.known_hosts, self.trust)
        try:
            login = partial(Login, host, self.ask, self.recall)
            connection = await connect(host, keys, login)
        except KnownError as error:
            for finding in _failed(host, error):
                yield finding
            return
        for finding in _reached(host, "reach", "host key", "login"):
            yield finding
        try:
            async for finding in self._inside(host, connection):
                yield finding
        finally:
            connection.cut()

    async def _inside(self, host: Host, connection: Connection) -> AsyncIterator[Finding]:
        command = _command(parcel(self.engine_folder).id, host.python)
        try:
            status, text = await in_thread(partial(_answer, connection, command))
        except paramiko.ChannelException:
            yield from_error("login", no_session(host.name))
            return
        except (OSError, EOFError, paramiko.SSHException):
            yield from_error("reach", lost(host.name))
            return
        if status != 0:
            yield _no_python(status, text)
            return
        for finding in found(host.name, json.loads(text.splitlines()[-1])):
            yield finding


def found(name: str, seen: dict[str, Any]) -> list[Finding]:
    """What the host has, as findings.

    Args:
        name: of the host.
        seen: what host_probe.py gives.
    """
    return [
        Finding("python", Health.OK, f"{seen['python']} on {seen['system']}"),
        _room(name, seen),
        Finding("gpu", Health.OK, "; ".join(seen["gpus"]))
        if seen["gpus"]
        else Finding("gpu", Health.WARN, "none is seen there: its processor does the work"),
        _engine(seen),
        _worker(seen),
    ]


def _room(name: str, seen: dict[str, Any]) -> Finding:
    free = f"{seen['free_bytes'] / 2**30:.1f} GB free in {seen['home']}"
    if not seen["writable"]:
        return Finding(
            "disk", Health.BAD, f"~/.farscribe cannot be written on {name}",
            "Let this user write there.", ErrorCode.HOST_UNFIT,
        )  # fmt: skip
    if seen["free_bytes"] < 2**28:
        hint = "Free some space in the home folder there."
        return Finding("disk", Health.BAD, free, hint, ErrorCode.DISK_FULL)
    if not seen["fit"] and seen["free_bytes"] < ROOM_BYTES:
        hint = f"Setting up the engine may take {ROOM_BYTES / 2**30:.0f} GB: free some space."
        return Finding("disk", Health.WARN, free, hint)
    return Finding("disk", Health.OK, free)


def _engine(seen: dict[str, Any]) -> Finding:
    if seen["fit"] and seen["engine"]:
        return Finding("engine", Health.OK, "installed, of this version")
    if seen["fit"]:
        text = "its packages are installed; this version of the engine is sent at the first use"
        return Finding("engine", Health.OK, text)
    text = "not installed yet; the first transcription sets it up, which takes some minutes"
    return Finding("engine", Health.WARN, text)


def _worker(seen: dict[str, Any]) -> Finding:
    messages: dict[type, Message] = {}
    for line in seen["worker"]:
        message = protocol.decode(line.encode())
        if message is not None:
            messages[type(message)] = message
    hello = messages.get(Hello)
    if not isinstance(hello, Hello):
        return Finding("worker", Health.OK, "does not run now; it is started when it is needed")
    jobs, heart = messages.get(Jobs), messages.get(Heartbeat)
    parts = [f"runs {hello.model} on {hello.device}, {hello.dtype}"]
    if isinstance(jobs, Jobs):
        parts.append(f"{len(jobs.jobs)} jobs" if len(jobs.jobs) != 1 else "1 job")
    if isinstance(heart, Heartbeat) and heart.memory_bytes:
        parts.append(f"{heart.memory_bytes / 2**30:.1f} GB of memory")
    return Finding("worker", Health.OK, ", ".join(parts))


# ── the way there ────────────────────────────────────────────────────────────────────────────


def _reached(host: Host, *steps: str) -> list[Finding]:
    words = {
        "reach": f"{host.hostname} port {host.port} answers",
        "host key": "it is the one that is known",
        "login": f"as {host.user}",
    }
    return [Finding(step, Health.OK, words[step]) for step in steps]


def _failed(host: Host, error: KnownError) -> list[Finding]:
    step = _STEPS.get(error.code, "reach")
    steps = ["reach", "host key", "login"]
    return [*_reached(host, *steps[: steps.index(step)]), from_error(step, error)]


def _command(engine: str, python: str) -> str:
    probe = base64.b64encode(zlib.compress(_PROBE.read_bytes(), 9)).decode()
    given = [shlex.quote(item) for item in (probe, engine, python)]
    pythons = [shlex.quote(item) for item in ([python] if python else PYTHONS)]
    return " ".join(["exec", "sh", "-c", shlex.quote(_FIND), "sh", *given, *pythons])


def _answer(connection: Connection, command: str) -> tuple[int, str]:
    """Exit status of a command and what it printed; blocks."""
    channel = connection.execute(command)
    channel.settimeout(ANSWER_S)
    with channel.makefile("rb") as file:
        text = file.read().decode("utf-8", "replace")
    return channel.recv_exit_status(), text


def _no_python(status: int, text: str) -> Finding:
    if status == NO_PYTHON:
        there = ", ".join(line for line in text.splitlines() if line.startswith("Python"))
        message = f"there is no Python 3.11 or newer{f' (only {there})' if there else ''}"
        hint = "Install one there, or name it: ssh://user@host?python=/path/to/python3"
    else:
        message = f"a shell command cannot be run there (exit status {status})"
        hint = "Farscribe needs a machine with a POSIX shell, such as Linux or macOS."
    return Finding("python", Health.BAD, message, hint, ErrorCode.HOST_UNFIT)
