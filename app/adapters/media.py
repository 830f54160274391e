"""Recordings on this computer, cut into blocks that travel.

They are read by the engine's own reader, the one thing beyond the wire that both ends share: the
samples, and with FLAC the text, are those that an engine on this computer would give. Blocks are
coded on a few threads (libav lets go of Python's lock), a bounded number ahead.

It must not know where blocks go. The same samples give the same bytes, so what was sent once is
found again by its name.
"""

import hashlib
import io
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from app.domain.blocks import BLOCK_S, Codec, CodedBlock
from remote.audio import SAMPLE_RATE, AudioReader
from remote.protocol import Block, ErrorCode, KnownError

NICE = 10
"""How far behind other work coding stands (nice(2)): it gets a tenth where both want a core."""

_MOST_CODERS = 4
"""Opus is made at 600 times real time on one core: four feed any uplink that needs it."""

_QUIET = {"fflags": "+bitexact", "metadata_header_padding": "0"}
"""Of the containers: no version, no date, no random number, no room for notes."""

Int16 = NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class _Coding:
    """What libav is asked for.

    Args:
        container, encoder: libav's names.
        options: of the encoder.
        bit_rate: bits per second and track; None where it follows from the sound.
        rest: samples of silence behind each track where there are several.
    """

    container: str
    encoder: str
    options: Mapping[str, str]
    bit_rate: int | None = None
    rest: int = 0


_CODINGS = {
    # Levels 3 to 5 are the fastest and within 2 % of the smallest (measured on speech).
    Codec.FLAC: _Coding("flac", "flac", {"compression_level": "5"}),
    # Complexity 0 and long packets: 600 to 750 times real time on one core where the default
    # makes 70, and a word error rate that is no worse. The rest of 40 ms keeps a track from
    # sounding on in the next: twice what a frame of the codec reaches.
    Codec.OPUS: _Coding(
        "ogg",
        "libopus",
        {"application": "audio", "compression_level": "0", "frame_duration": "120", "vbr": "on"},
        bit_rate=32_000,
        rest=SAMPLE_RATE * 40 // 1000,
    ),
}


class Recordings:
    """The recordings on this computer. It implements the port ``Media``.

    Args:
        coders: threads that code blocks, for all recordings together; by default one for each
            core, and 4 at most.
    """

    def __init__(self, coders: int | None = None) -> None:
        self._coders = coders or min(_MOST_CODERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._coders, "coder", initializer=_yield_to_others)

    def fingerprint(self, path: Path) -> str:
        """sha256 of the file's bytes, 64 hexadecimal digits.

        Raises:
            KnownError: file-missing, file-unreadable or file-vanished.
        """
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:  # ValueError: a name that no file can have
            AudioReader(path).close()  # says what is wrong with it, in a sentence
            raise _vanished(path) from error

    def cut(self, path: Path, *, split: bool, codec: Callable[[], Codec]) -> "RecordingCut":
        """The recording, opened, to be sent as blocks.

        Args:
            path: of any audio or video file.
            split: keep channels apart.
            codec: asked before each block is coded, on the thread that iterates.

        Raises:
            KnownError: the file cannot be read; nothing stays open.
        """
        reader = AudioReader(path, split=split, block_s=BLOCK_S)
        return RecordingCut(reader, codec, self._pool, self._coders + 1)

    def close(self) -> None:
        """Lets the threads end, when the last cut has ended. Idempotent."""
        self._pool.shutdown(wait=False)


class RecordingCut:
    """A recording that is being cut into blocks. It implements the port ``Cut``.

    Args:
        reader: of the recording, opened.
        codec: asked before each block is coded.
        pool: codes.
        ahead: blocks that are read and not given yet, at most.
    """

    warnings: tuple[str, ...] = ()

    def __init__(
        self, reader: AudioReader, codec: Callable[[], Codec], pool: Executor, ahead: int
    ) -> None:
        self.duration_ms = reader.info.duration_ms
        self.tracks = reader.tracks
        self._reader = reader
        self._samples = iter(reader)
        self._codec = codec
        self._pool = pool
        self._ahead = ahead
        self._reading = threading.Lock()
        self._closed = False
        self._ended = False
        self._broke: KnownError | None = None

    def __iter__(self) -> Iterator[CodedBlock]:
        """The blocks in order, without a hole; each as soon as it is coded.

        Raises:
            KnownError: as AudioReader does where reading breaks off, behind the blocks before;
                cancelled after ``close``.
        """
        coming: deque[Future[CodedBlock]] = deque()
        try:
            while self._fill(coming):
                yield coming.popleft().result()
                self._check_open()
            if self._broke is not None:
                raise self._broke
            self.warnings = self._reader.warnings
        finally:
            for future in coming:
                future.cancel()
            self.close()

    def close(self) -> None:
        """Lets go of the file, or leaves it to the thread that is reading; from any thread."""
        self._closed = True
        if self._reading.acquire(blocking=False):
            try:
                self._reader.close()
            finally:
                self._reading.release()

    def _fill(self, coming: deque[Future[CodedBlock]]) -> bool:
        """Whether there is a block to give; reads ahead until the first one is coded."""
        while len(coming) < self._ahead and not (coming and coming[0].done()):
            samples = self._read()
            if samples is None:
                break
            coming.append(self._pool.submit(code, samples, self._codec()))
        return bool(coming)

    def _read(self) -> Int16 | None:
        """The next samples; None where there are no more, or reading has broken off."""
        if self._ended:
            return None
        with self._reading:
            self._check_open()
            try:
                samples = next(self._samples, None)
            except KnownError as error:
                self._broke, samples = error, None
        if self._closed:  # while it was reading, which close does not wait for
            self.close()
        self._check_open()
        self._ended = samples is None
        return samples

    def _check_open(self) -> None:
        # An end would look as if the recording were complete.
        if self._closed:
            raise KnownError(ErrorCode.CANCELLED, "The recording is not wanted any more.")


def _yield_to_others() -> None:
    """This thread takes what others leave, where the system has priorities of threads (Linux).

    Coding an hour must not keep the first text, or the user's own work, waiting.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def code(samples: Int16, codec: Codec) -> CodedBlock:
    """Samples as a block: a file of one channel, in which the tracks lie one after another.

    So any number of tracks fits into the plainest form of any codec, and none is heard in
    another. See ``remote.block_audio`` for the way back.

    Args:
        samples: int16 [tracks, n], 16 kHz.
        codec: how to code them.
    """
    coding = _CODINGS[codec]
    rows = np.pad(samples, ((0, 0), (0, coding.rest))) if len(samples) > 1 else samples
    data = _file(rows.reshape(1, -1), coding)
    block = Block(hashlib.sha256(data).hexdigest(), samples.shape[1])
    return CodedBlock(block, codec, data)


def _file(sound: Int16, coding: _Coding) -> bytes:
    frame = AudioFrame.from_ndarray(sound, format="s16", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    data = io.BytesIO()
    with av.open(data, "w", format=coding.container, container_options=dict(_QUIET)) as output:
        options = {"flags": "+bitexact", **coding.options}
        stream = cast(
            AudioStream, output.add_stream(coding.encoder, rate=SAMPLE_RATE, options=options)
        )
        stream.layout = "mono"
        stream.format = "s16"
        if coding.bit_rate is not None:
            stream.bit_rate = coding.bit_rate
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return data.getvalue()


def _vanished(path: Path) -> KnownError:
    return KnownError(
        ErrorCode.FILE_VANISHED,
        f"{path.name} went away while it was read.",
        "Check the disk or the network drive and try again.",
    )
