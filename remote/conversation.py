"""One client's conversation with the worker, over any pair of byte streams.

Lines come in on one thread and go out on another, each at its own pace: a client that does not
read holds up nobody. What goes out is asked for when there is room: the events of each followed
job, by number, from where this client has them. It must not know what the lines travel on.
"""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator

from remote import protocol
from remote.journal import Journal
from remote.protocol import (
    Acknowledge,
    Blocks,
    Cancel,
    Failed,
    List,
    Message,
    Ping,
    Stop,
    Transcribe,
    WireError,
)
from remote.worker import Worker

log = logging.getLogger(__name__)

_MOST_QUEUED = 1000
"""Messages that wait for a client who does not read; of more, the oldest are dropped. None of
them matters when it is old: events of jobs do not wait here."""


class Conversation:
    """A client's lines in, the worker's lines out.

    Args:
        worker: does what is asked.
        send: writes one line; called by one thread at a time; an OSError means nobody listens.
        stop: is called when the client wants the engine to end (now, or when its jobs have ended).
    """

    def __init__(
        self,
        worker: Worker,
        send: Callable[[bytes], None],
        stop: Callable[[bool], None] = lambda _now: None,
    ) -> None:
        self.hung_up = threading.Event()
        self._worker = worker
        self._send = send
        self._stop = stop
        self._posted: deque[bytes] = deque(maxlen=_MOST_QUEUED)
        self._followed: dict[str, tuple[Journal, int]] = {}
        self._news = threading.Condition()
        self._woken = False
        self._ending = False
        self._unknown_types: set[str] = set()

    # ── out ─────────────────────────────────────────────────────────────────────────────────

    def post(self, message: Message) -> None:
        """Sends a message soon."""
        with self._news:
            self._posted.append(protocol.encode(message))
            self._news.notify()

    def wake(self) -> None:
        """Looks for new events soon."""
        with self._news:
            self._woken = True
            self._news.notify()

    def write(self) -> None:
        """Sends until the conversation is ended or nobody listens any more."""
        try:
            while (lines := self._wait()) is not None:
                for line in lines:
                    self._send(line)
        except OSError as error:
            log.info("a client is gone (%s)", error)
        self.hung_up.set()

    def end(self) -> None:
        """What is there to send is still sent; then ``write`` returns."""
        with self._news:
            self._ending = True
            self._news.notify()

    def _wait(self) -> list[bytes] | None:
        """The lines to send next; None at the end."""
        with self._news:
            while True:
                self._woken = False
                lines = list(self._posted)
                self._posted.clear()
                lines += self._new_events()
                if lines:
                    return lines
                if self._ending:
                    return None
                self._news.wait_for(lambda: self._posted or self._woken or self._ending)

    def _new_events(self) -> list[bytes]:
        lines = []
        for job, (journal, after) in list(self._followed.items()):
            events = journal.events(after)
            lines += events
            self._followed[job] = (journal, after + len(events))
            if journal.ended and after + len(events) >= journal.seq:
                del self._followed[job]
        return lines

    # ── in ──────────────────────────────────────────────────────────────────────────────────

    def read(self, lines: Iterator[bytes]) -> None:
        """Does what the lines ask, to their end."""
        try:
            for line in lines:
                self._read_line(line)
        except (OSError, WireError) as error:
            log.warning("the input broke off (%s)", error)

    def _read_line(self, line: bytes) -> None:
        try:
            message = protocol.decode(line)
        except WireError as error:
            log.warning("skipped a line: %s", error)
            return
        match message:
            case Transcribe():
                self._follow(message)
            case Blocks():
                self._worker.add_blocks(message)
            case Acknowledge(job, seq):
                self._worker.acknowledge(job, seq)
            case Cancel(job):
                self._worker.cancel(job)
            case Ping():
                self.post(self._worker.heartbeat())
            case List():
                self.post(self._worker.jobs())
            case Stop(now):
                self._stop(now)
            case _:
                self._log_once(json.loads(line)["type"])

    def _follow(self, request: Transcribe) -> None:
        answer = self._worker.accept(request)
        if isinstance(answer, Failed):
            self.post(answer)
            return
        with self._news:
            self._followed[request.job] = (answer, request.after)
            self._woken = True
            self._news.notify()
        if missing := self._worker.missing(request.job):
            self.post(missing)

    def _log_once(self, kind: str) -> None:
        if kind not in self._unknown_types:
            self._unknown_types.add(kind)
            log.warning("messages of type %.40r are not for this engine: skipped", kind)
