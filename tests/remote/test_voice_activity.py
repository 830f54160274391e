"""The detector says what silero-vad's own network says, however the recording comes in."""

import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from remote.chunking import Window, Windower
from remote.protocol import ErrorCode, KnownError
from remote.voice_activity import FRAME, RegionTracker, SpeechDetector
from tests.remote.recordings import RATE, Int16, speech


@cache
def detector() -> SpeechDetector:
    return SpeechDetector.load()


@cache
def expected() -> NDArray[np.float32]:
    """The original network, frame by frame over the clip, with the weights that we use.

    The package's TorchScript file is of another training run than its safetensors file, so the
    weights of the latter are put into it.
    """
    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    model = torch.jit.load(str(Path(spec.origin).parent / "data" / "silero_vad.jit"))
    own = dict(model._model.named_parameters()) | dict(model._model.named_buffers())
    with torch.no_grad():
        for name, tensor in detector_weights().items():
            own[in_the_original(name)].copy_(tensor)
    samples = np.pad(speech(), (0, -len(speech()) % FRAME))
    wave = torch.from_numpy(samples).float() / 32_768
    with torch.inference_mode():
        said = [model(frame, RATE).item() for frame in wave.split(FRAME)]
    return np.array(said, np.float32)


def detector_weights() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    spec = find_spec("silero_vad")
    assert spec is not None
    assert spec.origin is not None
    return load_file(Path(spec.origin).parent / "data" / "silero_vad_16k.safetensors")


def in_the_original(name: str) -> str:
    layer, _, kind = name.partition(".")
    if layer == "stft_conv":
        return "stft.forward_basis_buffer"
    if layer == "final_conv":
        return f"decoder.decoder.2.{kind}"
    if layer == "lstm_cell":
        return f"decoder.rnn.{kind}"
    return f"encoder.{int(layer[-1]) - 1}.reparam_conv.{kind}"


@pytest.mark.filterwarnings("ignore:.*torch.jit.load.*:DeprecationWarning")
def test_probabilities_are_those_of_the_original_run_frame_by_frame() -> None:
    found = SpeechDetector.load(most_gain=1.0).probabilities(speech())
    assert found.dtype == np.float32
    assert found.shape == expected().shape
    assert np.abs(found - expected()).max() < 1e-4
    assert np.array_equal(found >= 0.5, expected() >= 0.5)
    assert 0.3 < (found >= 0.5).mean() < 0.95


@settings(max_examples=10)
@given(st.lists(st.integers(0, 60_000), max_size=12))
def test_the_size_of_the_blocks_does_not_matter(sizes: list[int]) -> None:
    once = detector().probabilities(speech())
    stream = detector().stream()
    blocks = np.split(speech(), np.cumsum(sizes).clip(max=len(speech())))
    parts = [*(stream.push(block) for block in blocks), stream.finish()]
    assert np.abs(np.concatenate(parts) - once).max() < 1e-5


def test_streams_do_not_disturb_each_other() -> None:
    alone = detector().probabilities(speech()[: 4 * RATE])
    one, other = detector().stream(), detector().stream()
    found = []
    for at in range(0, 4 * RATE, RATE):
        found.append(one.push(speech()[at : at + RATE]))
        other.push(speech()[::-1][at : at + RATE])
    assert np.abs(np.concatenate([*found, one.finish()]) - alone).max() < 1e-5


def test_there_is_a_probability_for_every_frame_begun() -> None:
    for samples, frames in ((0, 0), (1, 1), (FRAME, 1), (FRAME + 1, 2)):
        assert detector().probabilities(np.zeros(samples, np.int16)).shape == (frames,)


def windows(samples: Int16) -> list[Window]:
    windower = Windower("vad", detector())
    return windower.push(samples) + windower.finish()


def test_silence_noise_hum_and_clicks_are_no_speech() -> None:
    rng = np.random.default_rng(1)
    size = 30 * RATE
    white = rng.normal(size=size)
    tilt = 1 / np.sqrt(np.maximum(np.arange(size // 2 + 1), 1))
    pink = np.fft.irfft(np.fft.rfft(white) * tilt, size)
    hum = np.sin(2 * np.pi * 50 / RATE * np.arange(size))
    clicks = np.where(rng.random(size) < 2 / RATE, 1.0, 0.0)
    for name, noise in {"white": white, "pink": pink, "hum": hum, "clicks": clicks}.items():
        for level in (0.003, 0.03, 0.3):
            loud = noise / np.abs(noise).max() * level * 32_767
            assert windows(loud.astype(np.int16)) == [], (name, level)
    assert windows(np.zeros(size, np.int16)) == []


def test_speech_is_found_at_any_level() -> None:
    for level in (1.0, 0.1, 0.02, 0.005):
        (window,) = windows((speech() * level).astype(np.int16))
        assert window.speech[0].start < 0.6 * RATE, level
        assert window.speech[-1].end > 10 * RATE, level
        assert sum(span.end - span.start for span in window.speech) > 6.5 * RATE, level


def test_a_loud_voice_does_not_change_how_it_is_heard() -> None:
    loud = (speech().astype(np.float32) * 1.2).clip(-32_768, 32_767).astype(np.int16)
    as_it_is = SpeechDetector.load(most_gain=1.0).probabilities(loud)
    turned_up = detector().probabilities(loud)
    assert ((as_it_is >= 0.5) != (turned_up >= 0.5)).mean() < 0.02


def test_loading_does_not_import_the_package() -> None:
    SpeechDetector.load()
    assert "silero_vad" not in sys.modules


def test_without_the_package_the_next_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    with pytest.raises(KnownError) as caught:
        SpeechDetector.load()
    assert caught.value.code is ErrorCode.MODEL_MISSING
    assert "pip install" in caught.value.hint


# ── regions ──────────────────────────────────────────────────────────────────────────────────


def track(*probabilities: float) -> list[tuple[int, int]]:
    """The regions in frames, by silero's thresholds, at least 2 frames with pauses of 3."""
    tracker = RegionTracker(0.5, 0.35, min_speech=2 * FRAME, min_silence=3 * FRAME)
    found = [tracker.feed(p) for p in probabilities]
    found.append(tracker.finish(len(probabilities) * FRAME))
    return [(region[0] // FRAME, region[1] // FRAME) for region in found if region]


def test_a_region_ends_where_its_pause_began() -> None:
    assert track(0, 1, 1, 1, 0, 0, 0, 0, 0) == [(1, 4)]


def test_a_short_pause_does_not_end_a_region() -> None:
    assert track(1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0) == [(0, 7)]


def test_between_the_thresholds_a_region_goes_on_but_none_begins() -> None:
    assert track(0.4, 0.4, 1, 0.4, 0.4, 0.4, 0.4, 0, 0, 0, 0) == [(2, 7)]


def test_a_region_as_short_as_allowed_is_dropped() -> None:
    assert track(1, 1, 0, 0, 0, 0) == []
    assert track(1, 1, 1, 0, 0, 0, 0) == [(0, 3)]


def test_the_end_of_the_recording_ends_a_region() -> None:
    assert track(0, 1, 1, 1) == [(1, 4)]
    assert track(0, 1, 1, 1, 0, 0) == [(1, 4)]
