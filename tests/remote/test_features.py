"""Log-mel features: the numbers of transformers' extractor, for windows short and full."""

import warnings

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import WhisperFeatureExtractor

from remote.features import FRAMES, SAMPLE_RATE, WINDOW_SAMPLES, LogMel, mel_filters

Samples = npt.NDArray[np.int16]
TOLERANCE = 1e-6


def speech_like(seconds: float, seed: int = 0, loudness: float = 0.3) -> Samples:
    """A buzz of moving pitch whose loudness rises and falls as syllables do, with some noise."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    pitch = 120 + 40 * np.sin(2 * np.pi * 0.7 * time + rng.uniform(0, 6))
    phase = 2 * np.pi * np.cumsum(pitch) / SAMPLE_RATE
    buzz = sum((np.sin(k * phase) / k for k in range(1, 20)), start=np.zeros_like(time))
    syllables = np.clip(np.sin(2 * np.pi * 4 * time), 0, None) ** 2
    mixed = loudness * buzz * syllables / 3 + 0.002 * rng.standard_normal(len(time))
    return (np.clip(mixed, -1, 1) * 32767).astype(np.int16)


def expected(windows: list[Samples], n_mels: int) -> torch.Tensor:
    """What transformers makes of the same samples."""
    extractor = WhisperFeatureExtractor(feature_size=n_mels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of padding, which is what is asked for
        made = extractor(
            [window.astype(np.float32) / 32768 for window in windows],
            sampling_rate=SAMPLE_RATE,
            return_tensors="pt",
        )
    return torch.as_tensor(made["input_features"])


@pytest.mark.parametrize("n_mels", [80, 128])
@pytest.mark.parametrize("seconds", [0.05, 0.5, 7.3, 29.99, 30.0])
def test_a_window_has_the_features_of_transformers(seconds: float, n_mels: int) -> None:
    window = speech_like(seconds)
    found = LogMel(n_mels)([window])
    assert found.shape == (1, n_mels, FRAMES)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected([window], n_mels), rtol=0, atol=TOLERANCE)


def test_windows_of_unequal_length_in_a_batch_have_the_features_of_each_alone() -> None:
    windows = [speech_like(s, seed) for seed, s in enumerate((30.0, 0.2, 12.0))]
    together = LogMel(80)(windows)
    torch.testing.assert_close(together, expected(windows, 80), rtol=0, atol=TOLERANCE)
    for row, window in zip(together, windows, strict=True):
        torch.testing.assert_close(row, LogMel(80)([window])[0], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "window",
    [
        np.zeros(SAMPLE_RATE, np.int16),
        np.ones(1, np.int16),
        np.full(SAMPLE_RATE, 32767, np.int16),
        np.tile(np.array([32767, -32768], np.int16), SAMPLE_RATE),
        speech_like(3, loudness=0.0001),
    ],
    ids=["silence", "one sample", "direct current", "clipped", "very quiet"],
)
def test_extreme_windows_have_the_features_of_transformers(window: Samples) -> None:
    found = LogMel(80)([window])
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, expected([window], 80), rtol=0, atol=TOLERANCE)


@settings(max_examples=25)
@given(length=st.integers(1, 3 * SAMPLE_RATE), seed=st.integers(0, 9))
def test_any_length_has_the_features_of_transformers(length: int, seed: int) -> None:
    window = speech_like(3, seed)[:length]
    torch.testing.assert_close(LogMel(80)([window]), expected([window], 80), rtol=0, atol=TOLERANCE)


def test_the_samples_are_left_as_they_were() -> None:
    window = speech_like(1)
    before = window.copy()
    LogMel(80)([window])
    assert np.array_equal(window, before)


@pytest.mark.parametrize("n_mels", [80, 128])
def test_the_filters_are_those_of_transformers(n_mels: int) -> None:
    reference = WhisperFeatureExtractor(feature_size=n_mels).mel_filters
    np.testing.assert_allclose(mel_filters(n_mels), reference.T, rtol=0, atol=1e-7)


def test_a_window_is_thirty_seconds() -> None:
    assert WINDOW_SAMPLES == 30 * SAMPLE_RATE
