"""Log-mel spectrograms of speech windows, on the device that will read them.

The numbers are those of openai/whisper's ``log_mel_spectrogram`` (and of transformers' feature
extractor): 25 ms Hann windows every 10 ms, mel filters of Slaney's form, base-10 logarithm,
80 dB of range below the window's own maximum. It knows nothing of files or of time.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16_000
N_FFT = 400
"""25 ms."""
HOP = 160
"""10 ms."""
WINDOW_SAMPLES = 30 * SAMPLE_RATE
FRAMES = WINDOW_SAMPLES // HOP
"""3000 frames in a window; the encoder halves them to 1500 positions of 20 ms."""

_FLOOR = 1e-10
_RANGE = 8.0
"""Powers of ten kept below the loudest cell of a window."""


class LogMel:
    """Turns windows of samples into the encoder's input.

    Args:
        n_mels: 80, or 128 for large-v3 and turbo.
        device: where the spectrogram is made and stays.
    """

    def __init__(self, n_mels: int, device: torch.device | str = "cpu") -> None:
        self.n_mels = n_mels
        self.device = torch.device(device)
        self._hann = torch.hann_window(N_FFT, device=self.device)
        self._filters = torch.from_numpy(mel_filters(n_mels)).to(self.device)

    def __call__(self, windows: Sequence[npt.NDArray[np.int16]]) -> Tensor:
        """Log-mel features, float32 ``[len(windows), n_mels, 3000]``, about -1..1.

        Args:
            windows: int16 ``[n]`` each, 16 kHz, n <= 480,000; shorter ones count as followed by
                silence, whose frames are filled in rather than computed.
        """
        longest = max(len(window) for window in windows)
        reach = min(WINDOW_SAMPLES, -(-(longest + N_FFT) // HOP) * HOP)
        batch = np.zeros((len(windows), reach), dtype=np.int16)
        for row, window in zip(batch, windows, strict=True):
            row[: len(window)] = window
        samples = torch.from_numpy(batch).to(self.device).float().div_(32768)
        spectrum = torch.stft(samples, N_FFT, HOP, window=self._hann, return_complex=True)
        power = spectrum[..., :-1].abs().square_()
        log = torch.matmul(self._filters, power).clamp_min_(_FLOOR).log10_()
        log = torch.maximum(log, log.amax((1, 2), keepdim=True) - _RANGE)
        silence = (log.amax((1, 2), keepdim=True) - _RANGE).clamp_min_(np.log10(_FLOOR))
        padded = F.pad(log, (0, FRAMES - log.shape[2]))
        padded[:, :, log.shape[2] :] = silence
        return padded.add_(4).div_(4)


def mel_filters(n_mels: int) -> npt.NDArray[np.float32]:
    """Triangular filters of equal area on Slaney's mel scale, float32 ``[n_mels, 201]``.

    Linear below 1 kHz (15 mels a kHz), logarithmic above (27 mels for a factor of 6.4); Slaney,
    "Auditory Toolbox", 1998.
    """
    hertz = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges = _mel_to_hertz(np.linspace(0, _hertz_to_mel(SAMPLE_RATE / 2), n_mels + 2))
    rising = (hertz - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - hertz) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.maximum(0, np.minimum(rising, falling))
    area = 2 / (edges[2:] - edges[:-2])
    return (triangles * area[:, None]).astype(np.float32)


_KNEE_HERTZ = 1000.0
_KNEE_MEL = 15.0
_LOG_STEP = np.log(6.4) / 27


def _hertz_to_mel(hertz: float) -> float:
    if hertz < _KNEE_HERTZ:
        return hertz * _KNEE_MEL / _KNEE_HERTZ
    return float(_KNEE_MEL + np.log(hertz / _KNEE_HERTZ) / _LOG_STEP)


def _mel_to_hertz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    linear = mel * _KNEE_HERTZ / _KNEE_MEL
    return np.where(mel < _KNEE_MEL, linear, _KNEE_HERTZ * np.exp(_LOG_STEP * (mel - _KNEE_MEL)))
