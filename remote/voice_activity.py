"""Where somebody speaks: the probability of speech in every 32 ms of a recording.

The network is silero-vad for 16 kHz (https://github.com/snakers4/silero-vad, MIT), with the
weights its package carries, in plain torch on any device. Its Fourier transform and convolutions
see one frame at a time, so they run over all frames of a block at once. Its LSTM remembers for
minutes (a start from zero 16 s earlier still moves single probabilities by 0.5), so it is not cut
into overlapped spans: it runs once over each block, from the state the block before left.

The network is nearly deaf to recordings far below the usual level: of speech turned down by 34 dB
it finds 88 % of the frames, by 46 dB 27 %. So quiet stretches are turned up before it hears them,
by the loudest frame of late; with that it finds 99 %, and no more than before in mere noise.

It must not cut audio or decide on windows: that is chunking's work.
"""

import importlib.util
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from remote.protocol import ErrorCode, KnownError

FRAME = 512
"""Samples per probability: 32 ms at 16 kHz."""

CONTEXT = 64
"""Samples before a frame that the network also sees."""

Int16 = NDArray[np.int16]
Float32 = NDArray[np.float32]
State = tuple[torch.Tensor, torch.Tensor]

_SEEN = CONTEXT + FRAME
_REFLECT = 64  # samples mirrored after the frame, as the network was trained
_FFT = 256
_HOP = 128
_STEPS = 4  # Fourier transforms per frame: (576 + 64 - 256) / 128 + 1
_BINS = _FFT // 2 + 1
_HIDDEN = 128
_USUAL_PEAK = 0.25  # of full scale: a recording whose loudest frame is below is turned up to it
_MOST_GAIN = 40.0  # 32 dB; more would turn the rounding of 16 bits into noise
_FADE_S = 20.0  # in which the memory of the loudest frame halves
_FADE = math.log(2) / _FADE_S * FRAME / 16_000  # per frame
_FLOOR = math.log(1e-6)  # of the peak, natural logarithm; below one step of 16 bits
_SUB_BATCH = 512  # frames through the convolutions at once: their activations stay in the cache


class ProbabilityStream(Protocol):
    """Speech probabilities of one recording, frame by frame of 512 samples."""

    def push(self, samples: Int16) -> Float32:
        """The probabilities of the frames that these samples complete."""
        ...

    def finish(self) -> Float32:
        """The probabilities of what is left."""
        ...


class Detector(Protocol):
    """What hears speech: SpeechDetector, or a test's own."""

    def stream(self) -> ProbabilityStream:
        """A stream for a new recording."""
        ...


class SpeechDetector:
    """The network, loaded once and shared by any number of streams and threads.

    Args:
        weights: by the names of silero-vad's safetensors file.
        device: where to run it.
        most_gain: how far quiet stretches may be turned up; 1.0 for the bare network.
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        device: str = "cpu",
        most_gain: float = _MOST_GAIN,
    ) -> None:
        self.device = torch.device(device)
        self.most_gain = most_gain
        w = {name: tensor.to(self.device) for name, tensor in weights.items()}
        # Row 0 of the network's Fourier basis is the cosine of frequency 0: the bare (Hann) window.
        self._hann = w["stft_conv.weight"][0, 0]
        self._conv1 = (w["conv1.bias"], _by_taps(w["conv1.weight"]))
        self._conv2 = (w["conv2.bias"], _by_taps(w["conv2.weight"]))
        # The third convolution starts on its left padding, the fourth has padding on both sides:
        # the taps that only ever meet zeros are left out.
        self._conv3 = (w["conv3.bias"], _by_taps(w["conv3.weight"][..., 1:]))
        self._conv4 = (w["conv4.bias"], _by_taps(w["conv4.weight"][..., 1:2]))
        gates = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self._lstm = [w[f"lstm_cell.{name}"] for name in gates]
        self._final = (w["final_conv.weight"][0, :, 0], w["final_conv.bias"])

    @classmethod
    def load(cls, device: str = "cpu", most_gain: float = _MOST_GAIN) -> Self:
        """The detector with the weights of the installed package silero-vad.

        Raises:
            KnownError: model-missing; the package or its weights are not there.
        """
        return cls(load_file(_weights_path()), device, most_gain)

    def stream(self) -> "SpeechStream":
        """A new recording's stream, at its first sample."""
        return SpeechStream(self)

    def probabilities(self, samples: Int16) -> Float32:
        """Speech probability of each frame of a whole recording.

        Args:
            samples: int16 [n], 16 kHz mono.

        Returns:
            float32 [ceil(n / 512)], 0..1; the last frame is filled up with zeros.
        """
        stream = self.stream()
        return np.concatenate([stream.push(samples), stream.finish()])

    def initial_state(self) -> State:
        """The LSTM's state before the first frame: zeros, float32 [1, 1, 128] twice."""
        zero = torch.zeros(1, 1, _HIDDEN, device=self.device)
        return zero, zero

    @torch.inference_mode()
    def run(self, samples: Float32, state: State) -> tuple[Float32, State]:
        """Speech probabilities of successive frames, and the state after the last.

        Args:
            samples: float32 [64 + frames * 512], -1..1: the context of the first frame, then the
                frames.
            state: what the frame before left.

        Returns:
            float32 [frames], and the state for the next frame.
        """
        frames = torch.from_numpy(samples).unfold(0, _SEEN, FRAME)
        starts = range(0, len(frames), _SUB_BATCH)
        seen = torch.cat([self._features(frames[at : at + _SUB_BATCH]) for at in starts])
        hidden, h, c = torch.lstm(seen[None], state, self._lstm, True, 1, 0.0, False, False, True)
        weight, bias = self._final
        speech = torch.sigmoid(hidden[0].relu() @ weight + bias)
        return speech.cpu().numpy(), (h, c)

    def _features(self, frames: torch.Tensor) -> torch.Tensor:
        """What the LSTM reads: float32 [n, 576] on the CPU -> float32 [n, 128] on the device."""
        n = frames.shape[0]
        wave = torch.empty(n, _SEEN + _REFLECT, device=self.device)
        wave[:, :_SEEN] = frames
        wave[:, _SEEN:] = wave[:, _SEEN - 1 - _REFLECT : _SEEN - 1].flip(1)
        spectrum = torch.fft.rfft(wave.unfold(1, _FFT, _HOP) * self._hann)
        squares = torch.view_as_real(spectrum).square_()
        # Each convolution is one matrix product over a view: with time before channels, the
        # taps of one output lie side by side. The zero rows around are the padding.
        padded = wave.new_zeros(n, _STEPS + 2, _BINS)
        padded[:, 1:-1] = (squares[..., 0] + squares[..., 1]).sqrt_()
        taps = padded.as_strided((n, _STEPS, 3 * _BINS), (padded.stride(0), _BINS, 1))
        x = _convolve(taps.reshape(-1, 3 * _BINS), *self._conv1)
        padded = x.new_zeros(n, _STEPS + 1, _HIDDEN)
        padded[:, 1:] = x.view(n, _STEPS, _HIDDEN)
        taps = padded.as_strided((n, 2, 3 * _HIDDEN), (padded.stride(0), 2 * _HIDDEN, 1))
        x = _convolve(taps.reshape(-1, 3 * _HIDDEN), *self._conv2)
        x = _convolve(x.view(n, -1), *self._conv3)
        return _convolve(x, *self._conv4)


class RegionTracker:
    """Speech regions out of successive probabilities, by silero's rule with two thresholds.

    A region opens at a probability of ``threshold`` and closes when it has been under
    ``neg_threshold`` for ``min_silence``; it counts where it is longer than ``min_speech``.

    Args:
        threshold: probability, 0..1.
        neg_threshold: probability, at most ``threshold``.
        min_speech: samples.
        min_silence: samples.
    """

    def __init__(
        self, threshold: float, neg_threshold: float, min_speech: int, min_silence: int
    ) -> None:
        self._threshold = threshold
        self._neg_threshold = neg_threshold
        self._min_speech = min_speech
        self._min_silence = min_silence
        self._quiet_from: int | None = None
        self._cut = False  # the open region is the rest of one that was cut: it always counts
        self.at = 0
        """First sample of the next frame."""
        self.start: int | None = None
        """First sample of the open region."""
        self.history: list[float] = []
        """Probabilities of the open region's frames, from the frame that holds ``start``."""

    @property
    def end(self) -> int:
        """The sample after the open region, as far as it is certain to be speech."""
        return self.at if self._quiet_from is None else self._quiet_from

    @property
    def counts(self) -> bool:
        """Whether a region is open and will not be dropped as too short."""
        return self.start is not None and (self._cut or self.end - self.start > self._min_speech)

    def feed(self, probability: float) -> tuple[int, int] | None:
        """The region (start, end) that this frame closes, if it counts."""
        begin = self.at
        self.at += FRAME
        if probability >= self._threshold:
            self._quiet_from = None
            if self.start is None:
                self.start = begin
        if self.start is None:
            return None
        self.history.append(probability)
        if probability < self._neg_threshold:
            if self._quiet_from is None:
                self._quiet_from = begin
            if begin - self._quiet_from >= self._min_silence:
                return self._close(self._quiet_from)
        return None

    def finish(self, length: int) -> tuple[int, int] | None:
        """The region that the end of the recording, at ``length`` samples, closes."""
        return None if self.start is None else self._close(min(self.end, length))

    def cut(self, at: int) -> None:
        """Nothing; the open region starts at ``at`` from now on, and its rest always counts."""
        if self.start is None:
            return
        gone = at // FRAME - self.start // FRAME
        del self.history[:gone]
        self.start = at
        self._cut = True

    def _close(self, end: int) -> tuple[int, int] | None:
        start, counts = self.start, self._cut
        self.start, self._quiet_from, self._cut = None, None, False
        self.history.clear()
        if start is None or not (counts or end - start > self._min_speech) or end <= start:
            return None
        return start, end


class SpeechStream:
    """One recording on its way through the detector, in blocks of any size.

    The probabilities do not depend on how the recording is cut, beyond the rounding of float32.
    """

    def __init__(self, detector: SpeechDetector) -> None:
        self._detector = detector
        self._state = detector.initial_state()
        self._context = np.zeros(CONTEXT, np.float32)  # the end of the last frame, as it was heard
        self._rest = np.zeros(0, np.int16)  # what fills no frame yet
        self._peak = _FLOOR

    def push(self, samples: Int16) -> Float32:
        """The probabilities of the frames that ``samples`` complete.

        Args:
            samples: int16 [n], any n: what follows the samples pushed before.

        Returns:
            float32 [frames], following those returned before.
        """
        waiting = np.concatenate([self._rest, samples])
        frames = len(waiting) // FRAME
        self._rest = waiting[frames * FRAME :]
        if not frames:
            return np.zeros(0, np.float32)
        heard = self._levelled(waiting[: frames * FRAME].reshape(frames, FRAME)).reshape(-1)
        seen = np.concatenate([self._context, heard])
        speech, self._state = self._detector.run(seen, self._state)
        self._context = seen[-CONTEXT:].copy()
        return speech

    def finish(self) -> Float32:
        """The probability of the frame that is left, filled up with zeros; or nothing."""
        return self.push(np.zeros(-len(self._rest) % FRAME, np.int16))

    def _levelled(self, frames: Int16) -> Float32:
        """Frames int16 [n, 512] as float32, -1..1, turned up where all of late has been quiet.

        The peak is that of the loudest frame so far, fading with every frame since.
        """
        loudest = np.maximum(frames.max(axis=1), -frames.min(axis=1).astype(np.int32)) / 32768
        faded = _FADE * np.arange(1, len(frames) + 1)
        risen = np.log(np.maximum(loudest, 1e-6)) + faded
        peaks = np.maximum(np.maximum.accumulate(risen), self._peak) - faded
        self._peak = float(peaks[-1])
        gains = np.clip(_USUAL_PEAK / np.exp(peaks), 1.0, self._detector.most_gain)
        levelled: Float32 = frames * (gains[:, None] / 32768).astype(np.float32)
        return levelled


def _by_taps(weight: torch.Tensor) -> torch.Tensor:
    """A convolution's weight [out, in, taps] as the matrix [taps * in, out]."""
    return weight.permute(2, 1, 0).reshape(-1, weight.shape[0]).contiguous()


def _convolve(taps: torch.Tensor, bias: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.addmm(bias, taps, weight).relu_()


def _weights_path() -> Path:
    # Found without importing it: the package's import pulls in torchaudio and onnxruntime.
    spec = importlib.util.find_spec("silero_vad")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / "silero_vad_16k.safetensors"
        if path.is_file():
            return path
    raise KnownError(
        ErrorCode.MODEL_MISSING,
        "The voice activity model (package silero-vad) is not installed.",
        'Install it with: pip install "farscribe[worker]".',
    )
