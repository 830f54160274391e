"""The conversation with a resident engine on a host.

It connects, lets the host be made fit, and then hands messages to and fro. It must not know what
they mean beyond their being the first, or the engine's word that it cannot start. Whatever ends
it here, the engine on the host goes on with its jobs.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import paramiko

from app.adapters.ssh.commands import NO_PYTHON
from app.adapters.ssh.connection import Connection
from app.adapters.ssh.parcel import Parcel
from app.adapters.ssh.stream import Stream
from app.adapters.ssh.threads import in_thread
from app.domain.engine_output import message_in
from app.domain.errors import from_failed
from app.domain.events import EngineLog, LinkEvent, Silence
from remote import protocol
from remote.protocol import (
    Down,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    KnownError,
    Missing,
    Note,
    Put,
    Up,
    WireError,
)

_NO_SHELL = (126, 127)
"""Exit statuses by which shells say that they cannot run a program."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long is too long, in seconds.

    Args:
        silence_s: without a line, after which the user is told; the host's heart beats every 2 s.
        lost_s: without a line, after which the link is given up.
        grace_s: for the far end to end by itself.
    """

    silence_s: float = 6.0
    lost_s: float = 12.0
    grace_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Session:
    """An open link, for what else goes over it.

    Args:
        connection: that it goes over.
        heard_s: when the host was last heard on the conversation, by the monotonic clock.
        turn: whose turn it is to write what is large.
    """

    connection: Connection
    heard_s: Callable[[], float]
    turn: threading.Lock = field(default_factory=threading.Lock)


class SshLink:
    """A link to a host. It implements the port ``EngineLink``.

    Opening ends when the user is logged in. Making the host fit comes after it, so that its lines
    are told by ``receive``, as are its failures.

    Args:
        name: the host's, for sentences.
        connect: makes the connection.
        command: of the engine's end on the host.
        parcel: the engine's files, where the host asks for them.
        changed: is given the session when the engine has said Hello, and None at the end.
        limits: see there.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Awaitable[Connection]],
        command: str,
        parcel: Parcel,
        *,
        changed: Callable[[Session | None], None],
        limits: Limits,
    ) -> None:
        self._name = name
        self._connect = connect
        self._command = command
        self._parcel = parcel
        self._changed = changed
        self._limits = limits
        self._opening: asyncio.Task[None] | None = None
        self._sending: asyncio.Task[None] | None = None
        self._connection: Connection | None = None
        self._stream: Stream | None = None
        self._session: Session | None = None
        self._arrived: asyncio.Queue[Up | EngineLog | KnownError | None] = asyncio.Queue()
        self._ended = asyncio.Event()
        self._held: list[bytes] = []
        self._greeted = False
        self._silent = False
        self._killed = False
        self._error: KnownError | None = None

    async def open(self) -> None:
        """Connects and logs in.

        Raises:
            KnownError: host-unreachable, host-unknown, host-changed, host-refused, host-unfit, or
                link-lost where it was killed meanwhile.
        """
        if self._killed:
            raise self._closed()
        self._opening = asyncio.create_task(self._open())
        try:
            await asyncio.wait({self._opening})
        finally:
            self._opening.cancel()
        if self._opening.cancelled():
            raise self._closed()
        self._opening.result()

    async def send(self, message: Down) -> None:
        """Sends one message; before the engine has said Hello, it is kept until then."""
        line = protocol.encode(message)
        if self._greeted and self._stream is not None:
            self._stream.write(line)
        else:
            self._held.append(line)

    async def receive(self) -> LinkEvent:
        """The next message, log line or silence; what makes the host fit is told as log lines.

        Raises:
            KnownError: link-lost where nothing was heard for too long or the connection ended;
                host-unfit, disk-full or whatever the engine says where it cannot start;
                engine-died where its end on the host ended by itself; version.
        """
        if self._error is not None:
            raise self._error
        try:
            while True:
                event = self._sorted_out(await self._next())
                if event is not None:
                    return event
        except KnownError as error:
            self._error = error
            self.kill()
            raise

    async def close(self) -> None:
        """Ends the conversation, then the connection; jobs of the engine go on."""
        self._killed = True
        try:
            if self._opening is not None:
                self._opening.cancel()
                await asyncio.wait({self._opening})
            if self._stream is not None and self._connection is not None:
                self._stream.finish()
                async with asyncio.timeout(self._limits.grace_s):
                    await self._ended.wait()
        except TimeoutError:
            log.info("%s did not end the conversation by itself", self._name)
        finally:
            self.kill()

    def kill(self) -> None:
        """Cuts the connection at once."""
        self._killed = True
        if self._session is not None:  # else the store is another link's
            self._session = None
            self._changed(None)
        for task in (self._opening, self._sending):
            if task is not None:
                task.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cut()

    # ── opening ─────────────────────────────────────────────────────────────────────────────

    async def _open(self) -> None:
        connection = await self._connect()
        log.info("connected to %s", self._name)
        try:
            async with asyncio.timeout(self._limits.lost_s):
                channel = await in_thread(partial(connection.execute, self._command))
        except (TimeoutError, OSError, EOFError, paramiko.SSHException) as error:
            connection.cut()
            if isinstance(error, paramiko.ChannelException):
                raise no_session(self._name) from error
            raise lost(self._name) from error
        except BaseException:
            connection.cut()
            raise
        self._connection = connection
        self._stream = Stream(channel, self._take_line, self._take_note)

    # ── reading ─────────────────────────────────────────────────────────────────────────────

    def _take_line(self, line: bytes | KnownError | None) -> None:
        if not isinstance(line, bytes):
            self._ended.set()
            self._arrived.put_nowait(line)
            return
        try:
            message = message_in(line)
        except WireError as error:
            self._arrived.put_nowait(error)
        else:
            if message is not None:
                self._arrived.put_nowait(message)

    def _take_note(self, line: str) -> None:
        self._arrived.put_nowait(EngineLog(line))

    async def _next(self) -> Up | EngineLog | Silence:
        """What comes next.

        Raises:
            KnownError: nothing does any more.
        """
        if self._stream is None:
            raise self._closed()
        while not (self._ended.is_set() and self._arrived.empty()):
            limit_s = self._limits.lost_s if self._silent else self._limits.silence_s
            left_s = self._stream.heard_s + limit_s - time.monotonic()
            try:
                async with asyncio.timeout(max(0.0, left_s)):
                    item = await self._arrived.get()
            except TimeoutError:
                quiet_s = time.monotonic() - self._stream.heard_s
                if quiet_s >= self._limits.silence_s and not self._silent:
                    self._silent = True  # told before the end, however late we look
                    return Silence(quiet_s)
                if quiet_s >= self._limits.lost_s:
                    raise lost(self._name, quiet_s) from None
                continue
            self._silent = False
            if isinstance(item, KnownError):
                raise item
            if item is not None:
                return item
        raise await self._death(self._stream)

    def _sorted_out(self, item: Up | EngineLog | Silence) -> LinkEvent | None:
        """What of it is told; before Hello, the host itself speaks rather than the engine.

        Raises:
            KnownError: the engine's own, where it cannot start.
        """
        if isinstance(item, Failed) and not item.job:
            raise from_failed(item)
        if self._greeted:
            return item
        match item:
            case Hello():
                self._greet()
            case Note(text):
                return EngineLog(text)
            case Missing():
                self._sending = asyncio.create_task(self._send_parcel())
                return EngineLog(f"Sending the engine to {self._name}.")
            case Heartbeat():
                return None
        return item

    def _greet(self) -> None:
        self._greeted = True
        if self._stream is None or self._connection is None:
            return
        for line in self._held:
            self._stream.write(line)
        self._held.clear()
        stream = self._stream
        self._session = Session(self._connection, lambda: stream.heard_s)
        self._changed(self._session)

    async def _send_parcel(self) -> None:
        content = await in_thread(self._parcel.packed)
        if self._stream is not None:
            self._stream.write(protocol.encode(Put(self._parcel.id, len(content))) + content)

    # ── the end ─────────────────────────────────────────────────────────────────────────────

    def _closed(self) -> KnownError:
        return KnownError(ErrorCode.LINK_LOST, f"The link to {self._name} has been closed.")

    async def _death(self, stream: Stream) -> KnownError:
        """Why the far end has ended: its exit status, or none where the connection broke."""
        if self._killed:
            return self._closed()
        status = await in_thread(partial(stream.status, self._limits.grace_s))
        words = f': "{stream.tail[-1].strip()}"' if stream.tail else ""
        if status < 0:
            return lost(self._name)
        if self._greeted or status not in (NO_PYTHON, *_NO_SHELL):
            return KnownError(
                ErrorCode.ENGINE_DIED,
                f"The engine on {self._name} ended (exit status {status}){words}.",
                "Try it again.",
            )
        if status == NO_PYTHON:
            found = f" (it has {', '.join(stream.tail)})" if stream.tail else ""
            return KnownError(
                ErrorCode.HOST_UNFIT,
                f"{self._name} has no Python 3.11 or newer{found}.",
                "Install one there, or name it: ssh://user@host?python=/path/to/python3",
            )
        return KnownError(
            ErrorCode.HOST_UNFIT,
            f"{self._name} cannot run a shell command{words}.",
            "Farscribe needs a machine with a POSIX shell, such as Linux or macOS.",
        )


def lost(name: str, quiet_s: float | None = None) -> KnownError:
    """The error of a link that has ended, or says nothing any more."""
    how = "broke off" if quiet_s is None else f"has been silent for {quiet_s:.0f} s"
    return KnownError(
        ErrorCode.LINK_LOST,
        f"The link to {name} {how}.",
        "What has arrived is kept, and the engine there goes on.",
    )


def no_session(name: str) -> KnownError:
    """The error of a host on which a user may not run anything more."""
    return KnownError(
        ErrorCode.HOST_UNFIT,
        f"{name} lets this user run no further command.",
        "Allow it in its sshd_config (MaxSessions 10, which is the default).",
    )
