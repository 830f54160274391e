"""The windows of a recording: read on a thread of their own, cut where they are used.

The thread reads and resamples while the device decodes; a bounded queue keeps it from running
further ahead than memory allows. Where the model runs on the CPU too, voice activity runs on the
consumer's thread, between two batches: two threads that both spread their products over all cores
would wait for each other (measured on two cores: voice activity 2 to 4 times as long, encoding 1.3
times). Beside another device it runs on the reading thread, so that the device never waits for it.
It knows nothing of models.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Protocol

import numpy as np
import numpy.typing as npt

from remote.audio import SAMPLE_RATE, AudioInfo, AudioReader
from remote.chunking import Detector, Window, Windower, WindowSettings
from remote.protocol import Options, Source
from remote.timing import StageClock

BLOCK_S = 30.0
"""Read at once: enough for batched voice activity, little enough for an early first text."""

_BLOCKS_AHEAD = 4
"""Two minutes, 4 MB a channel: many recordings may be read at once."""

_LEAVE_S = 2.0
"""Seconds to wait for a read to return before it is left to return by itself."""

Int16 = npt.NDArray[np.int16]


class Reader(Protocol):
    """A recording as blocks of samples; iterated once, on the reading thread."""

    @property
    def info(self) -> AudioInfo:
        """What the file says of itself."""

    @property
    def tracks(self) -> int:
        """Channels that are kept apart; 1 where they are mixed."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user; complete after the iteration."""

    @property
    def waited_s(self) -> float:
        """Seconds of the iteration that went into waiting for audio to come."""

    def __iter__(self) -> Iterator[Int16]:
        """The blocks: int16 [tracks, n], 16 kHz."""

    def close(self) -> None:
        """Lets go of the recording; a read that waits may go on until it returns by itself."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A window of one channel (``track`` 0 where channels are mixed)."""

    track: int
    window: Window


@dataclass(frozen=True, slots=True)
class _Read:
    """A block, None at the end; and its windows, where these have been cut already."""

    block: Int16 | None
    cut: bool
    windows: list[Heard]


_Item = _Read | BaseException


def open_source(source: Source, options: Options, clock: StageClock) -> AudioReader:
    """The reader of a path or an address.

    Raises:
        KnownError: it cannot be read; nothing stays open.
    """
    where = Path(source.value) if source.kind == "path" else source.value
    with clock.stage("decode"):
        return AudioReader(where, split=options.channels == "split", block_s=BLOCK_S)


class WindowFeed:
    """The windows of one recording, as a context manager that owns the reader and its thread.

    Args:
        reader: of the recording; closed in the end.
        options: how to cut.
        detector: voice activity.
        clock: is told the seconds of the stages decode and vad.
        settings: of the windows.
        ready: called on the reading thread when ``next`` may have something new.
        aside: voice activity runs on the reading thread.
    """

    def __init__(
        self,
        reader: Reader,
        options: Options,
        detector: Detector,
        clock: StageClock,
        settings: WindowSettings,
        ready: Callable[[], None] = lambda: None,
        aside: bool = False,
    ) -> None:
        self.decoded_samples = 0
        self.speech_samples = 0
        self.warnings: tuple[str, ...] = ()
        self.ended = False
        self.info = reader.info
        self.tracks = reader.tracks
        self._reader = reader
        self._ready = ready
        self._aside = aside
        self._windowers = [
            Windower(options.windows, detector, settings) for _ in range(self.tracks)
        ]
        self._clock = clock
        self._cut_windows: deque[Heard] = deque()
        self._queue: Queue[_Item] = Queue(maxsize=_BLOCKS_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audio", daemon=True)

    def __enter__(self) -> "WindowFeed":
        """Starts reading."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops reading; the file is closed, or will be where its server keeps it waiting."""
        self.stop()
        until = time.monotonic() + _LEAVE_S
        while self._thread.is_alive() and time.monotonic() < until:
            self._drain()
            self._thread.join(0.01)

    def stop(self) -> None:
        """Stops reading without waiting for it: the thread closes the file when it returns."""
        self._stop.set()
        self._drain()

    def next(self) -> Heard | None:
        """The next window in the order in which they are cut; None where none is ready yet.

        After the last one it gives None and ``ended`` is true.

        Raises:
            KnownError: reading broke off; the windows before stay valid.
        """
        while not self._cut_windows and not self.ended:
            try:
                item = self._queue.get_nowait()
            except Empty:
                return None
            if isinstance(item, BaseException):
                raise item
            self._cut_windows += item.windows if item.cut else self._cut(item.block)
            if item.block is None:
                self.warnings = self._reader.warnings
                self.ended = True
        return self._cut_windows.popleft() if self._cut_windows else None

    @property
    def exhausted(self) -> bool:
        """Whether every window has been given."""
        return self.ended and not self._cut_windows

    def _cut(self, block: Int16 | None) -> list[Heard]:
        """The windows that a block completes; the end of the recording is None."""
        found: list[Heard] = []
        for track, windower in enumerate(self._windowers):
            with self._clock.stage("vad"):
                windows = windower.finish() if block is None else windower.push(block[track])
            found += [Heard(track, window) for window in windows]
        self.decoded_samples += 0 if block is None else block.shape[1]
        self.speech_samples = sum(windower.speech_samples for windower in self._windowers)
        return found

    def _run(self) -> None:
        try:
            blocks = iter(self._reader)
            while not self._stop.is_set():
                begin, waited_s = time.perf_counter(), self._reader.waited_s
                block = next(blocks, None)
                waited_s = self._reader.waited_s - waited_s
                self._clock.add("decode", max(0.0, time.perf_counter() - begin - waited_s))
                windows = self._cut(block) if self._aside else []
                self._put(_Read(block, self._aside, windows))
                if block is None:
                    return
        except BaseException as error:  # noqa: BLE001  (raised again where windows are used)
            self._put(error)
        finally:
            self._reader.close()

    def _put(self, item: "_Item") -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except Full:
                continue
            self._ready()
            return

    def _drain(self) -> None:
        while True:
            try:
                self._queue.get_nowait()
            except Empty:
                return


def duration_ms(samples: int) -> int:
    """Milliseconds of so many samples at 16 kHz."""
    return samples * 1000 // SAMPLE_RATE
