"""The windows of a recording: read on a thread of their own, cut where they are used.

The thread reads and resamples while the device decodes; a bounded queue keeps it from running
further ahead than memory allows. Voice activity runs on the consumer's thread, between two
batches: two threads that both spread their products over all cores would wait for each other
(measured on two cores: voice activity 2 to 4 times as long, encoding 1.3 times).
It knows nothing of models.
"""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue

import numpy as np
import numpy.typing as npt

from remote.audio import SAMPLE_RATE, AudioReader
from remote.chunking import Detector, Window, Windower, WindowSettings
from remote.protocol import Options, Source
from remote.timing import StageClock

_BLOCK_S = 30.0
"""Read at once: enough for batched voice activity, little enough for an early first text."""

_BLOCKS_AHEAD = 8
"""Four minutes, 8 MB a channel."""

_LEAVE_S = 2.0
"""Seconds to wait for a read to return before it is left to return by itself."""

_LOOK_S = 0.1
"""Seconds between two looks at whether anybody still wants to wait."""

Int16 = npt.NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class Heard:
    """A window of one channel (``track`` 0 where channels are mixed)."""

    track: int
    window: Window


class WindowFeed:
    """The windows of one source, as a context manager that owns the reading thread.

    Args:
        source: path or address of the recording.
        options: how to cut and which channels.
        detector: voice activity.
        clock: is told the seconds of the stages decode and vad.
        settings: of the windows.

    Raises:
        KnownError: the source cannot be read; nothing stays open.
    """

    def __init__(
        self,
        source: Source,
        options: Options,
        detector: Detector,
        clock: StageClock,
        settings: WindowSettings,
    ) -> None:
        self.decoded_samples = 0
        self.speech_samples = 0
        self.warnings: tuple[str, ...] = ()
        where = Path(source.value) if source.kind == "path" else source.value
        with clock.stage("decode"):
            self._reader = AudioReader(where, split=options.channels == "split", block_s=_BLOCK_S)
        self.info = self._reader.info
        self.tracks = self._reader.tracks
        self._windowers = [
            Windower(options.windows, detector, settings) for _ in range(self.tracks)
        ]
        self._clock = clock
        self._queue: Queue[Int16 | BaseException | None] = Queue(maxsize=_BLOCKS_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audio", daemon=True)

    def __enter__(self) -> "WindowFeed":
        """Starts reading."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops reading; the file is closed, or will be where its server keeps it waiting."""
        self._stop.set()
        until = time.monotonic() + _LEAVE_S
        while self._thread.is_alive() and time.monotonic() < until:
            self._drain()
            self._thread.join(0.01)

    def windows(self, wanted: Callable[[], bool]) -> Iterator[Heard | None]:
        """The windows in the order in which they are cut; None where none is ready yet.

        Args:
            wanted: whether to wait for the next window rather than to give None; asked again
                while it waits, so that it may also break off by an exception.

        Raises:
            KnownError: reading broke off; the windows before stay valid.
        """
        while True:
            waiting = wanted()
            try:
                item = self._queue.get(waiting, _LOOK_S)
            except Empty:
                if not waiting:
                    yield None
                continue
            if isinstance(item, BaseException):
                raise item
            yield from self._cut(item)
            if item is None:
                self.warnings = self._reader.warnings
                return

    def _cut(self, block: Int16 | None) -> Iterator[Heard]:
        """The windows that a block completes; those that are left at the end, which is None."""
        for track, windower in enumerate(self._windowers):
            with self._clock.stage("vad"):
                windows = windower.finish() if block is None else windower.push(block[track])
            yield from (Heard(track, window) for window in windows)
        self.decoded_samples += 0 if block is None else block.shape[1]
        self.speech_samples = sum(windower.speech_samples for windower in self._windowers)

    def _run(self) -> None:
        try:
            blocks = iter(self._reader)
            while not self._stop.is_set():
                with self._clock.stage("decode"):
                    block = next(blocks, None)
                self._put(block)
                if block is None:
                    return
        except BaseException as error:  # noqa: BLE001  (raised again where windows are used)
            self._put(error)
        finally:
            self._reader.close()

    def _put(self, item: Int16 | BaseException | None) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except Full:
                continue
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
