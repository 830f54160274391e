"""Decoded frames of any rate, coding and number of channels as 16 kHz blocks, by libav's filters.

It must not read files or keep time: samples follow samples.
"""

from collections.abc import Iterator

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.filter import Graph
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
"""Samples per second of everything the engine hears."""

Int16 = NDArray[np.int16]


class Mixer:
    """libav's mixer and resampler for frames of one kind: frames in, blocks out.

    Args:
        like: a frame of that kind.
        block: samples per block at 16 kHz.
        split: keep the channels apart instead of mixing them.
    """

    def __init__(self, like: AudioFrame, block: int, split: bool) -> None:
        self._kind = _kind(like)
        self._graph = graph = Graph()
        channels = like.layout.nb_channels
        nodes = [
            graph.add(
                "abuffer",
                sample_rate=str(like.sample_rate),
                sample_fmt=like.format.name,
                channel_layout=like.layout.name,
                time_base=f"1/{like.sample_rate}",
            )
        ]
        if channels > 1 and not split:
            # The same weight for every channel, adding up to one: nothing clips, and no
            # channel (the one with the speech, a surround or a low one) is left out.
            mix = "+".join(f"{1 / channels:.9f}*c{index}" for index in range(channels))
            nodes.append(graph.add("pan", f"mono|c0={mix}"))
        nodes.append(graph.add("aresample", str(SAMPLE_RATE)))
        nodes.append(graph.add("aformat", "sample_fmts=s16"))
        nodes.append(graph.add("abuffersink"))
        graph.link_nodes(*nodes).configure()
        graph.set_audio_frame_size(block)
        self._source, self._sink = nodes[0], nodes[-1]
        self._block_in = block * like.sample_rate / SAMPLE_RATE
        self._waiting = 0.0  # samples pushed that have not left in a block

    def takes(self, frame: AudioFrame) -> bool:
        """Whether ``frame`` is of the kind this mixer was built for."""
        return _kind(frame) == self._kind

    def push(self, frame: AudioFrame | None) -> None:
        """Nothing; the samples are on their way. None says that no more follow."""
        if frame is not None:
            frame.pts = None  # time is the reader's affair; here samples follow samples
            self._waiting += frame.samples
        self._source.push(frame)

    def pull(self) -> Iterator[Int16]:
        """The whole blocks that are ready, int16 [channels, n]."""
        if self._waiting >= self._block_in:  # asking libav in vain costs as much as decoding
            yield from self._pull()

    def _pull(self) -> Iterator[Int16]:
        while True:
            try:
                frame = self._sink.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            if isinstance(frame, AudioFrame) and frame.samples:
                self._waiting -= self._block_in
                # Interleaved, as PyAV (18) miscounts the planes of eight channels or more.
                samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels)
                yield np.ascontiguousarray(samples.T, np.int16)

    def finish(self) -> Iterator[Int16]:
        """What is left, with the tail of the resampler."""
        self.push(None)
        return self._pull()


def silence_like(frame: AudioFrame, samples: int) -> AudioFrame:
    """A frame of ``samples`` silent samples, of the same kind as ``frame``."""
    kind, layout, rate = frame.format, frame.layout.name, frame.sample_rate
    silence = AudioFrame(format=kind.packed.name, layout=layout, samples=samples)
    silence.sample_rate = rate
    # Unsigned bytes are the only coding whose middle is not all zero bits.
    middle = b"\x80" if kind.name.startswith("u8") else b"\0"
    (plane,) = silence.planes
    plane.update(middle * plane.buffer_size)
    if not kind.is_planar:
        return silence
    # By libav, as PyAV (18) miscounts the planes of eight channels or more.
    (silence,) = AudioResampler(kind.name, layout, rate).resample(silence)
    return silence


def _kind(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate
