"""Recordings for tests: the speech clip of the repository, and files of every kind made from it."""

from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from numpy.typing import NDArray

SAMPLE = Path(__file__).parents[2] / "resources" / "sample.flac"
RATE = 16_000

Int16 = NDArray[np.int16]


@cache
def speech() -> Int16:
    """The 11 s clip as int16 [176000], 16 kHz, read without the code under test."""
    with av.open(str(SAMPLE)) as container:
        blocks = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.concatenate(blocks)


def bursts(seconds: int, seed: int = 0) -> Int16:
    """Noise that comes and goes, int16 [seconds * 16000]."""
    rng = np.random.default_rng(seed)
    level = np.repeat(rng.choice([0, 1500, 3000], 2 * seconds), RATE // 2)
    return np.asarray(rng.normal(0, 1, len(level)) * level, np.int16)


def at_rate(samples: Int16, rate: int) -> Int16:
    """Mono int16 [n] at 16 kHz as int16 [1, m] at another rate."""
    resampler = av.AudioResampler("s16", "mono", rate)
    frame = _frame(samples[None], "mono", RATE)
    frames = [*resampler.resample(frame), *resampler.resample(None)]
    return np.concatenate([frame.to_ndarray() for frame in frames], axis=1)


def write(
    path: Path,
    channels: Int16,
    *,
    codec: str = "pcm_s16le",
    rate: int = RATE,
    layout: str = "",
    bit_rate: int | None = None,
    container: str | None = None,
    picture: bool = False,
    jumps: Callable[[int], int] = lambda at: at,
    options: dict[str, str] | None = None,
) -> Path:
    """The path, where the channels have been written as a recording.

    Args:
        path: its ending chooses the container unless ``container`` does.
        channels: int16 [channels, n] at ``rate``.
        codec: libav's name of the encoder.
        rate: samples per second.
        layout: libav's name of the channel layout; empty for mono or stereo.
        bit_rate: bits per second.
        container: libav's name of the container.
        picture: also write a second of video, which starts at zero.
        jumps: sample number to the number that its time stamp shows.
        options: of the container.
    """
    layout = layout or {1: "mono", 2: "stereo"}[channels.shape[0]]
    with av.open(str(path), "w", format=container, options=options or {}) as output:
        stream = output.add_stream(codec, rate=rate)
        assert isinstance(stream, AudioStream)
        stream.layout = layout
        if bit_rate:
            stream.bit_rate = bit_rate
        if picture:
            _write_picture(output)
        output.start_encoding()
        _write_sound(output, stream, channels, jumps)
    return path


def write_picture_alone(path: Path) -> Path:
    """The path, where a second of silent film has been written."""
    with av.open(str(path), "w") as output:
        _write_picture(output)
    return path


def _write_picture(output: av.container.OutputContainer) -> None:
    stream = output.add_stream("mpeg4", rate=5)
    stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
    for index in range(5):
        frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")
        frame.pts = index
        output.mux(stream.encode(frame))
    output.mux(stream.encode(None))


def _write_sound(
    output: av.container.OutputContainer,
    stream: AudioStream,
    channels: Int16,
    jumps: Callable[[int], int],
) -> None:
    layout, rate = stream.layout.name, stream.rate
    convert = av.AudioResampler(stream.format.name, layout, rate)
    size = stream.frame_size or 1024
    for start in range(0, channels.shape[1], size):
        frame = _frame(channels[:, start : start + size], layout, rate)
        frame.pts = jumps(start)
        for ready in convert.resample(frame):
            ready.pts, ready.time_base = jumps(start), Fraction(1, rate)
            output.mux(stream.encode(ready))
    output.mux(stream.encode(None))


def _frame(channels: Int16, layout: str, rate: int) -> AudioFrame:
    packed = np.ascontiguousarray(channels.T).reshape(1, -1)
    frame = AudioFrame.from_ndarray(packed, format="s16", layout=layout)
    frame.sample_rate = rate
    frame.time_base = Fraction(1, rate)
    return frame


def lag_ms(found: Int16, expected: Int16) -> float:
    """Milliseconds by which ``found`` is later than ``expected``, where they are most alike."""
    size = 1 << (len(found) + len(expected)).bit_length()
    spectrum = np.fft.rfft(found, size) * np.conj(np.fft.rfft(expected, size))
    at = int(np.fft.irfft(spectrum, size).argmax())
    return (at if at < size // 2 else at - size) * 1000 / RATE


def joined(blocks: Iterable[Int16]) -> Int16:
    """Blocks int16 [tracks, n] as one."""
    return np.concatenate(list(blocks), axis=1)
