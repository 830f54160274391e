"""The journal of one job: what was asked, what came, what was settled and told, line by line.

A file that only grows. Each record is a line of JSON: messages as the wire has them (the request,
its blocks, the numbered events), and four kinds of its own:

    language   code, probability       detected; before anything is settled
    settled    part, wall_s            a part that need not be decoded again (remote.sink.Settled)
    begin                              the job was taken up (again); many in a row without
                                       anything settled between them tell of one that kills
    pause                              it was put aside in order: that begin killed nobody

What a crash cuts off is the end of the last line; opening the journal takes that off. An event is
on the disk before anyone is told of it. It must not decode or send anything.
"""

import errno
import json
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tenacity import (
    Retrying,
    retry_if_exception,
    sleep_using_event,
    stop_when_event_set,
    wait_fixed,
)

from remote import protocol
from remote.block_audio import BlockList
from remote.blocks import write_all
from remote.protocol import Blocks, Done, Failed, Message, Progress, Segments, Transcribe
from remote.sink import Past, Settled

Event = Progress | Segments | Done | Failed

DEADLY_BEGINS = 6
"""So often a job is taken up without getting anywhere before it is given up."""

_ROOM_S = 1.0
"""Seconds between two tries to write where the disk is full."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)


class Journal:
    """One job's journal, open for writing; any thread may use it.

    Args:
        path: of the file.
        stop: once it is set, a write that waits for room on the disk gives up.
    """

    request: Transcribe

    def __init__(self, path: Path, stop: threading.Event | None = None) -> None:
        self.path = path
        self.audio = BlockList()
        self.ended = False
        self.begins = 0
        self.full = False
        self._events: list[bytes] = []
        self._settled: dict[int, Settled] = {}
        self._told: dict[int | None, int] = {}
        self._language = ("", 1.0)
        self._walls = [0.0]
        self._lock = threading.Lock()
        self._stop = stop or threading.Event()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    @classmethod
    def create(cls, path: Path, request: Transcribe, stop: threading.Event | None = None) -> Self:
        """The journal of a new job; the request is on the disk.

        Raises:
            OSError: it cannot be written.
        """
        journal = cls(path, stop)
        journal.request = request
        try:
            journal._write_once(protocol.encode(request), sync=True)
        except OSError:
            journal.close()
            path.unlink(missing_ok=True)
            raise
        return journal

    @classmethod
    def open(cls, path: Path, stop: threading.Event | None = None) -> Self | None:
        """The journal of a job from before; None where not even the request is there whole."""
        journal = cls(path, stop)
        good = 0
        requested = False
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n") or not journal._replay(line):
                    break
                requested = requested or hasattr(journal, "request")
                good += len(line)
        if not requested:
            journal.close()
            return None
        os.ftruncate(journal._file, good)
        return journal

    # ── what is in it ───────────────────────────────────────────────────────────────────────

    @property
    def seq(self) -> int:
        """Number of the last event."""
        return len(self._events)

    def events(self, after: int) -> list[bytes]:
        """Events as lines of the wire, from number ``after + 1`` on."""
        return self._events[max(0, after) :]  # without the lock: a write may wait for room

    @property
    def past(self) -> Past:
        """What need not be done again."""
        with self._lock:
            language, probability = self._language
            return Past(
                language, probability, dict(self._settled), dict(self._told), sum(self._walls)
            )

    def _replay(self, line: bytes) -> bool:
        """Takes in a record; False where the line is damaged."""
        try:
            body = json.loads(line)
            kind = body["type"]
            if kind in ("language", "settled", "begin", "pause"):
                self._replay_own(kind, body)
                return True
            message = protocol.decode(line)
        except (ValueError, KeyError, TypeError, RecursionError, protocol.WireError):
            log.warning("%s: a record is damaged; the journal is taken up before it", self.path)
            return False
        self._take_in(message, line)
        return True

    def _replay_own(self, kind: str, body: dict[str, Any]) -> None:
        match kind:
            case "language":
                self._language = (str(body["code"]), float(body["probability"]))
            case "settled":
                part = protocol.from_plain(Settled, body["part"])
                self._settled[part.key] = part
                self._walls[-1] = float(body["wall_s"])
                self.begins = 0
            case "pause":
                self.begins = max(0, self.begins - 1)
            case _:
                self._walls.append(0.0)
                self.begins += 1

    def _take_in(self, message: Message | None, line: bytes) -> None:
        match message:
            case Transcribe():
                self.request = message
            case Blocks(_, first, blocks, complete, warnings):
                self.audio.add(first, blocks, complete=complete, warnings=warnings)
            case Progress() | Segments() | Done() | Failed():
                self._events.append(line)
                self.ended = self.ended or isinstance(message, Done | Failed)
                for segment in message.segments if isinstance(message, Segments) else ():
                    self._told[segment.channel] = self._told.get(segment.channel, 0) + 1
            case _:
                pass

    # ── what is added ───────────────────────────────────────────────────────────────────────

    def tell(self, event: Callable[[int], Event]) -> None:
        """The event, made for the next number, is on the disk; nothing once the job has ended."""
        with self._lock:
            if self.ended:
                return
            message = event(self.seq + 1)
            line = protocol.encode(message)
            # Progress is worth nothing after a crash: it need not wait for the disk.
            self._write(line, sync=not isinstance(message, Progress))
            self._take_in(message, line)

    def add_blocks(self, message: Blocks) -> None:
        """Blocks are noted.

        Raises:
            WireError: they cannot follow those that are known; nothing was noted.
        """
        with self._lock:
            before = self.audio.blocks, self.audio.complete
            self._take_in(message, b"")
            if (self.audio.blocks, self.audio.complete) != before:
                self._write(protocol.encode(message), sync=True)

    def heard(self, code: str, probability: float) -> None:
        """The language was detected."""
        with self._lock:
            if self.ended:
                return
            self._language = (code, probability)
            self._write_own({"type": "language", "code": code, "probability": probability})

    def settle(self, part: Settled, wall_s: float) -> None:
        """A part need not be decoded again; it reaches the disk with the next event at the latest.

        Args:
            part: what became of it.
            wall_s: seconds that this run has worked on the job.
        """
        with self._lock:
            if self.ended:
                return
            self._settled[part.key] = part
            self.begins = 0
            plain = protocol.to_plain(part)
            self._write_own({"type": "settled", "part": plain, "wall_s": round(wall_s, 3)})

    def begin(self) -> None:
        """The job is taken up. That alone makes it no younger."""
        with self._lock:
            if self.ended:
                return
            self.begins += 1
            self._walls.append(0.0)
            before = os.fstat(self._file)
            self._write_own({"type": "begin"}, sync=True)
            os.utime(self.path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def pause(self) -> None:
        """The job is put aside."""
        with self._lock:
            if not self.ended and self.begins:
                self.begins -= 1
                self._write_own({"type": "pause"}, sync=True)

    def _write_own(self, body: dict[str, Any], *, sync: bool = False) -> None:
        line = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self._write(line.encode("utf-8", "surrogatepass") + b"\n", sync=sync)

    def _write(self, line: bytes, *, sync: bool) -> None:
        """The line is in the file, whole; where the disk is full, once there is room."""
        for attempt in Retrying(
            retry=retry_if_exception(_is_full),
            wait=wait_fixed(_ROOM_S),
            stop=stop_when_event_set(self._stop),
            sleep=sleep_using_event(self._stop),
            reraise=True,
        ):
            with attempt:
                self._write_once(line, sync=sync)

    def _write_once(self, line: bytes, *, sync: bool) -> None:
        end = os.fstat(self._file).st_size
        try:
            write_all(self._file, line)
            if sync:
                os.fsync(self._file)
        except OSError as error:
            self.full = _is_full(error)
            os.ftruncate(self._file, end)  # no half a line stays
            raise
        self.full = False

    def close(self) -> None:
        """Lets go of the file; idempotent."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


def _is_full(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _FULL
