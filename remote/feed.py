"""Audio, voice activity and windows on a thread of their own, ahead of the device.

The thread reads, resamples and cuts while the device decodes; a bounded queue keeps it from
running further ahead than memory allows. It knows nothing of models.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue

from remote.audio import SAMPLE_RATE, AudioReader
from remote.chunking import Detector, Window, Windower, WindowSettings
from remote.protocol import Options, Source
from remote.timing import StageClock

_BLOCK_S = 30.0
"""Read at once: enough for batched voice activity, little enough for an early first text."""


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
        ahead: windows kept waiting at most.

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
        ahead: int,
    ) -> None:
        self.decoded_samples = 0
        self.speech_samples = 0
        self.warnings: tuple[str, ...] = ()
        where = Path(source.value) if source.kind == "path" else source.value
        with clock.stage("decode"):
            self._reader = AudioReader(
                where, split=options.channels == "split", block_s=_BLOCK_S
            )
        self.info = self._reader.info
        self.tracks = self._reader.tracks
        self._windowers = [
            Windower(options.windows, detector, settings) for _ in range(self.tracks)
        ]
        self._clock = clock
        self._queue: Queue[Heard | BaseException | None] = Queue(maxsize=ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="audio", daemon=True)

    def __enter__(self) -> "WindowFeed":
        """Starts reading."""
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        """Stops reading and closes the file."""
        self._stop.set()
        while self._thread.is_alive():
            self._drain()
            self._thread.join(0.01)
        self._reader.close()

    def windows(self, wanted: Callable[[], bool]) -> Iterator[Heard | None]:
        """The windows in the order in which they were cut; None where none is ready yet.

        Args:
            wanted: whether to wait for the next window rather than to give None.

        Raises:
            KnownError: reading broke off; the windows before stay valid.
        """
        while True:
            try:
                item = self._queue.get(block=wanted())
            except Empty:
                yield None
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def _run(self) -> None:
        try:
            self._read()
            self._put(None)
        except BaseException as error:  # handed to the thread that consumes, whole
            self._put(error)

    def _read(self) -> None:
        blocks = iter(self._reader)
        while not self._stop.is_set():
            with self._clock.stage("decode"):
                block = next(blocks, None)
            if block is None:
                break
            self.decoded_samples += block.shape[1]
            for track, windower in enumerate(self._windowers):
                with self._clock.stage("vad"):
                    windows = windower.push(block[track])
                self._hand_on(track, windows)
        for track, windower in enumerate(self._windowers):
            with self._clock.stage("vad"):
                windows = windower.finish()
            self._hand_on(track, windows)
        self.warnings = self._reader.warnings

    def _hand_on(self, track: int, windows: list[Window]) -> None:
        self.speech_samples = sum(windower.speech_samples for windower in self._windowers)
        for window in windows:
            self._put(Heard(track, window))

    def _put(self, item: Heard | BaseException | None) -> None:
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
