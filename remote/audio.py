"""A recording as blocks of 16 kHz int16 samples, out of whatever file or address holds it.

PyAV (libav, in the wheel) opens the container, decodes and resamples; the recording is streamed and
never held whole. All channels are mixed equally into one, or kept apart on request.

Times are those a player shows: where the container's time stamps jump forward by more than 100 ms
(a track that starts late, packets that are lost), silence is filled in; stamps that run back or
jump out of the recording are not believed, and sample follows sample.

It must not cut, judge or normalise what it hears, and no exception of libav leaves this module.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import av.error
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet

from remote.audio_mixer import SAMPLE_RATE, Int16, Mixer, silence_like
from remote.audio_source import Source
from remote.protocol import ErrorCode, KnownError

__all__ = ["SAMPLE_RATE", "AudioInfo", "AudioReader", "probe"]

_GAP_S = 0.1  # shorter jumps of the time stamps are rounding and jitter of the container
_LONGEST_GAP_S = 600.0  # believed where the container does not say how long the recording is
_SHORTAGE_S = 0.5  # less sound than announced by this much is damage: codec delays are below 0.2 s
_ONE_PLACE_S = 1.0  # damage that is closer together is told as one place
_MOST_READ_ERRORS = 100

_COUNTED = frozenset({"flac", "wav", "aiff", "mp3", "aac", "amr", "au", "caf", "w64"})
"""Containers without time stamps of their own: libav counts samples, so a jump is lost sound."""

_GUESSED_LENGTH = frozenset({"aac", "amr", "mp3", "ac3", "eac3", "dts", "mpegts", "mpeg"})
"""Containers that do not hold their length: what libav says is a guess from the bit rate."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AudioInfo:
    """What a file says of its sound before any of it is decoded.

    Args:
        duration_ms: length as announced (for some formats estimated); None where it is not known.
        channels: number of channels.
        sample_rate: samples per second in the file.
        codec: libav's name of the coding, e.g. "aac".
        container: libav's name of the file format, e.g. "mov,mp4,m4a,3gp,3g2,mj2".
    """

    duration_ms: int | None
    channels: int
    sample_rate: int
    codec: str
    container: str


def probe(source: str | Path) -> AudioInfo:
    """What the file or address says of its sound; nothing is decoded.

    Raises:
        KnownError: as AudioReader does on opening.
    """
    with AudioReader(source) as reader:
        return reader.info


class AudioReader:
    """A recording, opened, and its samples in successive blocks; a context manager.

    Iterate once. ``warnings`` is complete after the iteration.

    Args:
        source: path, or http(s) address.
        split: give each channel by itself instead of an equal mix of all.
        block_s: seconds in a block; all but the last (and one before a change of the sample rate)
            are as long.

    Raises:
        KnownError: file-missing, file-unreadable (a folder, no permission), file-empty, not-audio,
            no-audio-track, audio-damaged or offline. Nothing stays open.
    """

    info: AudioInfo
    tracks: int
    waited_s = 0.0
    """A file is there: reading it is work, not waiting."""

    def __init__(self, source: str | Path, *, split: bool = False, block_s: float = 10.0) -> None:
        self._source = Source.of(source)
        self._block = max(1, round(block_s * SAMPLE_RATE))
        self._split = split
        self._container = self._source.open()
        with ExitStack() as on_failure:
            on_failure.callback(self._container.close)
            self._stream, self.info = self._describe()
            on_failure.pop_all()
        self.tracks = self.info.channels if split else 1
        self._timeline = _Timeline(self._container, self.info)
        self._damage: list[float] = []  # where, in seconds
        self._reached = 0  # bytes of the file up to the end of the last packet
        self._warnings: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences for the user on what could not be read; complete after the iteration."""
        return self._warnings

    def __enter__(self) -> Self:
        """The reader itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the file."""
        self.close()

    def close(self) -> None:
        """Closes the file; more often than once is harmless."""
        self._container.close()

    def __iter__(self) -> Iterator[Int16]:
        """The blocks: int16 [tracks, n], 16 kHz, 0 < n <= block_s * 16000.

        Raises:
            KnownError: file-vanished or offline where reading breaks off, file-empty where there
                was not one sample, audio-damaged where none could be decoded. Blocks given out
                before stay valid.
        """
        try:
            yield from self._blocks()
        except av.error.FFmpegError as error:  # of the mixer or resampler
            raise self._source.damaged() from error
        self._conclude()

    def _blocks(self) -> Iterator[Int16]:
        mixer: Mixer | None = None
        for frame in self._frames():
            if mixer is None or not mixer.takes(frame):
                if mixer is not None:
                    yield from self._fitted(mixer.finish())
                mixer = Mixer(frame, self._block, self._split)
            for silence in self._gap_before(frame):
                mixer.push(silence)
                yield from self._fitted(mixer.pull())
            self._timeline.advance(frame)
            mixer.push(frame)
            yield from self._fitted(mixer.pull())
        if mixer is not None:
            yield from self._fitted(mixer.finish())

    def _describe(self) -> tuple[AudioStream, AudioInfo]:
        stream = self._container.streams.best("audio")
        if not isinstance(stream, AudioStream):
            raise KnownError(
                ErrorCode.NO_AUDIO_TRACK,
                f"{self._source.name} has no sound track.",
                "Choose a recording, or a video with sound.",
            )
        codec = stream.codec_context
        if codec is None:
            raise KnownError(
                ErrorCode.NOT_AUDIO,
                f"The sound of {self._source.name} is coded in a way that cannot be read here.",
                "Convert it to FLAC, MP3 or WAV and try again.",
            )
        if not codec.channels or not codec.sample_rate:
            raise self._source.damaged()
        length = self._container.duration
        return stream, AudioInfo(
            duration_ms=None if length is None else round(length / 1000),
            channels=codec.channels,
            sample_rate=codec.sample_rate,
            codec=codec.name,
            container=self._container.format.name,
        )

    def _frames(self) -> Iterator[AudioFrame]:
        """Decoded frames; packets that cannot be decoded are noted and left out."""
        for packet in self._packets():
            if packet.pos is not None:
                self._reached = packet.pos + packet.size
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                self._note_damage(type(error).__name__)
                continue
            yield from (frame for frame in frames if isinstance(frame, AudioFrame))

    def _packets(self) -> "Iterator[Packet[AudioStream]]":
        """Packets to the end of the file; after a place that cannot be read, those behind it."""
        for _ in range(_MOST_READ_ERRORS):
            try:
                yield from self._container.demux(self._stream)
            except av.error.InvalidDataError as error:
                self._note_damage(type(error).__name__)
            except (av.error.FFmpegError, OSError) as error:
                _log.debug("%s: %s", self._source.name, type(error).__name__)
                raise self._source.broken_off(self._timeline.seconds) from None
            else:
                return

    def _note_damage(self, why: str) -> None:
        at = self._timeline.seconds
        _log.debug("%s at %.1f s: %s", self._source.name, at, why)
        if not self._damage or at - self._damage[-1] > _ONE_PLACE_S:
            self._damage.append(at)

    def _gap_before(self, frame: AudioFrame) -> Iterator[AudioFrame]:
        gap = self._timeline.gap_before(frame)
        if not gap:
            return
        if self.info.container in _COUNTED:
            self._note_damage("sound is missing")
        _log.debug("%s: %.2f s of silence filled in", self._source.name, gap)
        left = round(gap * frame.sample_rate)
        while left:
            silence = silence_like(frame, min(left, frame.sample_rate))
            left -= silence.samples
            self._timeline.advance(silence)
            yield silence

    def _fitted(self, blocks: Iterator[Int16]) -> Iterator[Int16]:
        """Blocks with the announced number of tracks, also where a file changes it midway."""
        for block in blocks:
            if block.shape[0] == self.tracks:
                yield block
                continue
            fitted = np.zeros((self.tracks, block.shape[1]), np.int16)
            rows = min(self.tracks, block.shape[0])
            fitted[:rows] = block[:rows]
            yield fitted

    def _conclude(self) -> None:
        read_s = self._timeline.seconds
        announced_s = self._announced_s()
        short = announced_s - read_s > _SHORTAGE_S
        # libav takes a lost connection for the end of the file; a file that is cut off on the
        # server, too, ends early, but was fetched whole.
        whole = read_s and self._reached >= 0.9 * self._container.size
        if short and self._source.remote and not whole:
            raise self._source.broken_off(read_s)
        self._source.check_whole(read_s)
        if not read_s:
            raise self._nothing_read()
        name = self._source.name
        places = [at for at in self._damage if not (short and at > read_s - _ONE_PLACE_S)]
        if places:
            more = f" and {len(places) - 1} more places" if len(places) > 1 else ""
            self._warnings = (
                f"{name} is damaged at {places[0]:.1f} s{more}; words may be missing.",
            )
        elif short:
            where = f"{read_s:.1f} s of {announced_s:.1f} s"
            self._warnings = (f"{name} is damaged after {where}; the text ends there.",)

    def _announced_s(self) -> float:
        """Where the sound should end by what the file says; 0.0 where it does not say exactly."""
        stream, name = self._stream, self.info.container
        # An MP3 with an exact length has a Xing or LAME header, and so a start beyond zero.
        if name in _GUESSED_LENGTH and not (name == "mp3" and stream.start_time):
            return 0.0
        if stream.duration is not None and stream.time_base is not None:
            return float(stream.duration * stream.time_base)
        # With a picture beside it, the length of the whole is not that of the sound.
        alone = len(self._container.streams) == 1
        return (self._container.duration or 0) / 1_000_000 if alone else 0.0

    def _nothing_read(self) -> KnownError:
        if self._damage or self._reached:
            return self._source.damaged()
        return KnownError(
            ErrorCode.FILE_EMPTY,
            f"{self._source.name} holds no sound: its track has not one sample.",
            "Record or export it again.",
        )


class _Timeline:
    """Where in the file's own time the next sample belongs."""

    def __init__(self, container: InputContainer, info: AudioInfo) -> None:
        self.seconds = 0.0
        counted = info.container in _COUNTED and info.container != "mp3"
        # An MP3 starts at its encoder's delay, and a player shows that as zero; in the other
        # counted formats a start beyond zero means that sound before it is lost.
        start = 0 if counted else (container.start_time or 0)
        self._origin = start / 1_000_000
        self._end = None if info.duration_ms is None else info.duration_ms / 1000

    def gap_before(self, frame: AudioFrame) -> float:
        """Seconds of silence that belong before ``frame``; 0.0 where it follows directly."""
        time = frame.time  # a float of libav's time stamp; Fractions cost more than decoding MP3
        if time is None:
            return 0.0
        at = time - self._origin
        gap = at - self.seconds
        if abs(gap) <= _GAP_S:
            return 0.0
        outside = gap > _LONGEST_GAP_S if self._end is None else at > self._end + _GAP_S
        if gap < 0 or outside:
            self._origin += gap
            return 0.0
        return gap

    def advance(self, frame: AudioFrame) -> None:
        """Nothing; ``frame`` has been put in its place."""
        self.seconds += frame.samples / frame.sample_rate
