"""The engine on this computer: a child process that speaks the wire on its standard streams.

It starts, reads, watches and ends the child; it must not know what the messages mean beyond
"the engine said it cannot start". The child gets a session of its own, so that Ctrl-C reaches
only the parent, which then ends it in order. If the parent dies instead, the child's input ends
and its next line finds no reader: either way nothing is left behind.
"""

import asyncio
import logging
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from app.domain.engine_output import LogLines, message_in
from app.domain.errors import from_failed
from app.domain.events import EngineLog, LinkEvent, Silence
from app.domain.history import THIS_COMPUTER
from remote import protocol
from remote.protocol import Down, ErrorCode, Failed, KnownError, Up, WireError

SILENCE_S = 20.0
"""Without a line for so long the user is told; the engine's heart beats every 2 s."""

GRACE_S = 5.0
"""How long a child may take to end once its input has ended, before it is killed."""

_TAIL_LINES = 40
_MISSING = re.compile(r"ModuleNotFoundError: No module named '([\w.]+)'")

log = logging.getLogger(__name__)


class Loopback:
    """A link to an engine in a child process. It implements the port ``EngineLink``.

    Args:
        command: program and arguments of the engine.
        folder: where it is started. "python -m" looks there first for modules, so it must be
            the engine's own folder and never the user's.
        environment: of the child; this process's own where None.
        silence_s: seconds without a line after which ``receive`` says so, once each time.
        grace_s: seconds that ``close`` waits before it kills.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
        silence_s: float = SILENCE_S,
        grace_s: float = GRACE_S,
    ) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._environment = environment
        self._silence_s = silence_s
        self._grace_s = grace_s
        self._process: asyncio.subprocess.Process | None = None
        self._arrived: asyncio.Queue[Up | EngineLog | KnownError | None] = asyncio.Queue()
        self._readers: list[asyncio.Task[None]] = []
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._silent_s = 0.0
        self._killed = False

    async def open(self) -> None:
        """Starts the child.

        Raises:
            KnownError: engine-missing where the program cannot be started at all.
        """
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._folder,
                env=self._environment,
                limit=protocol.MAX_LINE_BYTES,
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # on Windows
            )
        except OSError as error:
            raise _missing(str(error)) from error
        log.debug("engine %s started", self._process.pid)
        self._readers = [
            asyncio.create_task(read(stream))
            for read, stream in (
                (self._read_messages, self._process.stdout),
                (self._read_log, self._process.stderr),
            )
            if stream is not None
        ]
        if self._killed:  # while it was being started
            self.kill()

    async def send(self, message: Down) -> None:
        """Sends one message; what a dead child cannot take is dropped, ``receive`` tells."""
        if self._process is None or self._process.stdin is None:
            return
        with suppress(ConnectionError):
            self._process.stdin.write(protocol.encode(message))
            await self._process.stdin.drain()

    async def receive(self) -> LinkEvent:
        """The next message, log line or silence.

        Raises:
            KnownError: the child has ended (engine-died, engine-missing), said that it cannot
                start (its own code), speaks another version, or sent a line without an end.
        """
        try:
            async with asyncio.timeout(self._silence_s):
                item = await self._arrived.get()
        except TimeoutError:
            self._silent_s += self._silence_s
            return Silence(self._silent_s)
        self._silent_s = 0.0
        if item is None:
            raise await self._death()
        if isinstance(item, KnownError):
            raise item
        if isinstance(item, Failed) and not item.job:
            raise from_failed(item)
        return item

    async def close(self) -> None:
        """Ends the child's input, waits a moment for it to end, then kills it."""
        process = self._process
        if process is None:
            return
        try:
            if process.stdin is not None:
                process.stdin.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace_s):
                    await process.wait()
        finally:
            self.kill()
            await process.wait()
            for reader in self._readers:
                reader.cancel()
            self._process = None

    def kill(self) -> None:
        """Kills the child and whatever it has started, also one that is just being started."""
        self._killed = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)

    # ── reading ─────────────────────────────────────────────────────────────────────────────

    async def _read_messages(self, stream: asyncio.StreamReader) -> None:
        try:
            async for line in stream:
                self._read_line(line)
        except ValueError:  # StreamReader's word for a line over the limit
            self._arrived.put_nowait(WireError("The engine sent a line without an end."))
        finally:
            self._arrived.put_nowait(None)

    def _read_line(self, line: bytes) -> None:
        try:
            message = message_in(line)
        except WireError as error:
            self._arrived.put_nowait(error)
        else:
            if message is not None:
                self._arrived.put_nowait(message)

    async def _read_log(self, stream: asyncio.StreamReader) -> None:
        lines = LogLines()
        while chunk := await stream.read(4096):
            for line in lines.feed(chunk):
                self._keep(line)
        for line in lines.end():
            self._keep(line)

    def _keep(self, line: str) -> None:
        log.debug("engine: %s", line)
        self._tail.append(line)
        self._arrived.put_nowait(EngineLog(line))

    async def _death(self) -> KnownError:
        """Why the child has ended, from its exit status and its last words."""
        process = self._process
        if process is None:
            return KnownError(ErrorCode.ENGINE_DIED, "The engine has been closed.")
        try:
            async with asyncio.timeout(self._grace_s):
                await asyncio.wait(self._readers)
                await process.wait()
        except TimeoutError:  # it closed its output and yet lives
            self.kill()
            await process.wait()
        return _death(process.returncode or 0, list(self._tail))


class ThisComputer:
    """This computer as a machine that an engine runs on. It implements the port ``Machine``.

    Args:
        command, folder, environment: of each engine; see Loopback.
    """

    name = THIS_COMPUTER
    store = None
    """There is none: the engine reads the user's files itself."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        folder: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._environment = environment

    def link(self) -> Loopback:
        """A new engine, not started yet."""
        return Loopback(self._command, folder=self._folder, environment=self._environment)


def _death(status: int, tail: list[str]) -> KnownError:
    absent = [found[1] for line in tail if (found := _MISSING.match(line))]
    if absent and absent[-1].split(".")[0] != "remote":
        return _missing(f"no module {absent[-1]}")
    if tail:
        log.error("the engine's last lines:\n%s", "\n".join(tail))
    if status == -signal.SIGTERM or (sys.platform != "win32" and status == -signal.SIGKILL):
        return KnownError(
            ErrorCode.ENGINE_DIED,
            "The engine was stopped from outside, as happens when memory runs out.",
            "Close other programs or choose a smaller model.",
        )
    how = f"signal {-status}" if status < 0 else f"exit status {status}"
    last = f': "{tail[-1].strip()}"' if tail else ""
    return KnownError(
        ErrorCode.ENGINE_DIED, f"The engine stopped unexpectedly ({how}){last}.", "Try it again."
    )


def _missing(why: str) -> KnownError:
    return KnownError(
        ErrorCode.ENGINE_MISSING,
        f"The engine is not installed here ({why}).",
        'Install it with: pip install "farscribe[worker]"',
    )
