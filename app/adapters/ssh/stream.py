"""A command on a host as lines out and bytes in, on threads of its own, for one asyncio loop.

Reading and writing a channel of paramiko both block. It must not know what the lines mean.
"""

import asyncio
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial

import paramiko

from app.domain.engine_output import LogLines
from remote import protocol
from remote.protocol import KnownError, WireError

CHUNK_BYTES = 128 * 1024

PIECE_BYTES = 32 * 1024
"""What is written at once, and so how finely progress is seen; a packet of OpenSSH's."""

_TAIL_LINES = 40
_OVER = (OSError, EOFError, paramiko.SSHException)

log = logging.getLogger(__name__)


class Stream:
    """A command that runs on a host.

    Args:
        channel: with the command at its end.
        line: is given each line of its output, on the loop's thread; an error where no more can
            be read, or None at the end. Nothing comes after these two.
        note: is given each line of its log, on the loop's thread.
        turn: is entered for all that is written at once, and left when it is written.
    """

    def __init__(
        self,
        channel: paramiko.Channel,
        line: Callable[[bytes | KnownError | None], None],
        note: Callable[[str], None],
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.heard_s = time.monotonic()
        self.written_s = time.monotonic()
        self._channel = channel
        self._line = line
        self._note = note
        self._turn = turn or nullcontext()
        self._loop = asyncio.get_running_loop()
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        for work in (self._read_lines, self._read_log, self._write):
            threading.Thread(target=work, daemon=True, name="ssh").start()

    def write(self, data: bytes) -> None:
        """Sends bytes, after those before; what a dead command cannot take is dropped."""
        self._outgoing.put(data)

    def finish(self) -> None:
        """Ends the command's input, once all is written."""
        self._outgoing.put(None)

    def close(self) -> None:
        """Ends the command; does not block."""
        self.finish()
        threading.Thread(target=self._close, daemon=True, name="ssh").start()

    def status(self, wait_s: float) -> int:
        """The exit status of a command whose output has ended; -1 where the host told none.

        Blocks.
        """
        self._channel.status_event.wait(wait_s)
        return self._channel.exit_status

    def _close(self) -> None:
        with suppress(*_OVER):
            self._channel.close()

    def _read_lines(self) -> None:
        last: KnownError | None = None
        try:
            for line in protocol.lines(self._chunks(self._channel.recv)):
                self._tell(partial(self._line, line))
        except WireError as error:
            last = error
        self._tell(partial(self._line, last))

    def _read_log(self) -> None:
        lines = LogLines()
        for chunk in self._chunks(self._channel.recv_stderr):
            self._tell_log(lines.feed(chunk))
        self._tell_log(lines.end())

    def _chunks(self, receive: Callable[[int], bytes]) -> Iterator[bytes]:
        with suppress(*_OVER):
            while chunk := receive(CHUNK_BYTES):
                self.heard_s = time.monotonic()
                yield chunk

    def _tell_log(self, lines: list[str]) -> None:
        for line in lines:
            log.debug("host: %s", line)
            self.tail.append(line)
            self._tell(partial(self._note, line))

    def _tell(self, call: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(call)

    def _write(self) -> None:
        with suppress(*_OVER):
            while (data := self._outgoing.get()) is not None:
                with self._turn:
                    for start in range(0, len(data), PIECE_BYTES):
                        self._channel.sendall(data[start : start + PIECE_BYTES])
                        self.written_s = time.monotonic()
            self._channel.shutdown_write()
