"""Each token's time lies on the cheapest path through its attention, and where it is said."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from remote.alignment import STEP_S, Spoken, token_times, warp
from remote.features import LogMel
from tests.remote.loaded_model import Loaded, loaded
from tests.remote.model_factory import write_model
from tests.remote.recordings import speech

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

# ── the path ─────────────────────────────────────────────────────────────────────────────────

sizes = st.tuples(st.integers(1, 7), st.integers(1, 9))
matrices = sizes.flatmap(
    lambda size: arrays(np.float32, size, elements=st.integers(-8, 8).map(float))
)


def cheapest(costs: Float32) -> float:
    """Cost of the cheapest path from the first cell to the last, cell by cell."""
    total = np.full(costs.shape, np.inf)
    for i, j in np.ndindex(costs.shape):
        before = [total[i - 1, j - 1]] if i and j else [0.0] if i == j == 0 else []
        before += [total[i - 1, j]] if i else []
        before += [total[i, j - 1]] if j else []
        total[i, j] = costs[i, j] + min(before)
    return float(total[-1, -1])


def cost_of(costs: Float32, first: Int64) -> float:
    """Cost of the cheapest path that enters each row at the given position."""
    total = 0.0
    for row, enters in enumerate(first):
        if row + 1 == len(first):
            return float(total + costs[row, enters:].sum())
        leaves = int(first[row + 1])
        until = [costs[row, enters:end].sum() for end in {leaves, leaves + 1} if end > enters]
        total += min(until)
    raise AssertionError("a matrix without rows")


@given(matrices)
def test_the_path_is_as_cheap_as_any(costs: Float32) -> None:
    (first,) = warp([costs])
    assert first[0] == 0
    assert (np.diff(first) >= 0).all()
    assert cost_of(costs, first) == pytest.approx(cheapest(costs))


@given(st.lists(matrices, min_size=1, max_size=4))
def test_a_path_does_not_depend_on_its_company(matrices: list[Float32]) -> None:
    together = warp(matrices)
    for found, costs in zip(together, matrices, strict=True):
        (alone,) = warp([costs])
        assert found.tolist() == alone.tolist()


def test_a_path_follows_a_clear_diagonal() -> None:
    costs = np.zeros((4, 8), np.float32)
    for row, enters in enumerate((0, 1, 4, 6)):
        costs[row, enters : enters + 2] = -1.0
    (first,) = warp([costs])
    assert first.tolist() == [0, 1, 4, 6]


def test_a_row_alone_and_a_position_alone_have_a_path() -> None:
    assert [first.tolist() for first in warp([np.ones((1, 5), np.float32)])] == [[0]]
    assert [first.tolist() for first in warp([np.ones((5, 1), np.float32)])] == [[0] * 5]


# ── with a model ─────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(write_model(tmp_path_factory.mktemp("model")))


def spoken(loaded: Loaded, tokens: list[int], samples: NDArray[np.int16]) -> Spoken:
    with torch.inference_mode():
        audio = loaded.model.encode(LogMel(loaded.model.shape.n_mels)([samples]))[0]
    return Spoken(audio, tuple(tokens), -(-len(samples) // 320))


def times_of(loaded: Loaded, *windows: Spoken) -> list[NDArray[np.float64]]:
    tokenizer = loaded.tokenizer
    start = tokenizer.prompt("en", "transcribe", False)
    return token_times(loaded.model, windows, start, tokenizer.eot, tokenizer.alignment_heads)


def test_times_rise_within_the_window_one_more_than_tokens(small: Loaded) -> None:
    rng = np.random.default_rng(0)
    windows = [
        spoken(small, list(rng.integers(0, 400, tokens)), speech()[:samples])
        for tokens, samples in ((1, 320), (3, 700), (12, 40_000), (40, 176_000))
    ]
    for window, times in zip(windows, times_of(small, *windows), strict=True):
        assert len(times) == len(window.tokens) + 1
        assert times[0] == 0.0
        assert (np.diff(times) >= 0).all()
        assert times[-1] < window.positions * STEP_S


def test_a_windows_times_do_not_depend_on_its_company(small: Loaded) -> None:
    windows = [
        spoken(small, [5, 6, 7], speech()[:30_000]),
        spoken(small, [9] * 20, speech()),
        spoken(small, [4, 300], speech()[50_000:60_000]),
    ]
    together = times_of(small, *windows)
    for window, times in zip(windows, together, strict=True):
        assert times.tolist() == times_of(small, window)[0].tolist()


def test_words_are_where_another_program_has_them(tiny_en: Loaded) -> None:
    """faster-whisper 1.2.1, float32, with the same weights and text."""
    expected = {
        "so": (0.76, 1.06),
        "my": (1.06, 1.46),
        "fellow": (1.46, 1.76),
        "Americans": (1.76, 2.26),
        "ask": (2.26, 3.88),
        "your": (5.70, 6.02),
        "country": (6.02, 6.36),
        "can": (6.36, 6.76),
        "do": (6.76, 7.02),
        "for": (7.02, 7.26),
    }
    text = " And so my fellow Americans ask not what your country can do for you"
    ids = tiny_en.tokenizer.encode(text)
    (times,) = times_of(tiny_en, spoken(tiny_en, ids, speech()))
    at, found = 0, dict[str, tuple[float, float]]()
    for word, tokens in tiny_en.tokenizer.split_words(ids, "en"):
        found[word.strip()] = (times[at], times[at + len(tokens)])
        at += len(tokens)
    for word, when in expected.items():
        assert found[word] == pytest.approx(when, abs=0.05), word
