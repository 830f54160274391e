"""Recordings read whole, and longer or shorter ones made from them."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from remote.audio import SAMPLE_RATE, AudioReader

Int16 = NDArray[np.int16]


def blocks(path: Path) -> Iterator[Int16]:
    """The recording in blocks, int16 [n], 16 kHz mono."""
    with AudioReader(path) as reader:
        for block in reader:
            yield block[0]


def samples(path: Path) -> Int16:
    """The whole recording, int16 [n], 16 kHz mono."""
    return np.concatenate([np.zeros(0, np.int16), *blocks(path)])


def write_flac(source: Path, target: Path, seconds: float) -> None:
    """A FLAC file of exactly so many seconds: the source from its start, over and over."""
    left = round(seconds * SAMPLE_RATE)
    written = 0
    with av.open(str(target), "w") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        while left:
            for block in blocks(source):
                part = np.ascontiguousarray(block[None, :left])
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
                frame.sample_rate = SAMPLE_RATE
                frame.pts = written
                container.mux(stream.encode(frame))
                written += part.shape[1]
                left -= part.shape[1]
                if not left:
                    break
        container.mux(stream.encode(None))
