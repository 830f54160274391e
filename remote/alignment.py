"""When each token was said: dynamic time warping over the cross-attention.

One teacher-forced pass gives the attention of the alignment heads; normalised and smoothed, its
cheapest monotone path says at which 20 ms step each token begins. Method and constants:
openai/whisper ``timing.py``; the path is found for a batch of windows at once, along the
anti-diagonals. It knows tokens and window time only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from remote.whisper import Slots, Whisper

STEP_S = 0.02
"""Seconds of one position of the encoder."""

_MEDIAN_WIDTH = 7
_EXCHANGES = (
    (0, 5), (0, 3), (1, 6), (2, 4), (0, 1), (3, 5), (2, 6),
    (2, 3), (3, 6), (4, 5), (1, 4), (1, 3), (3, 4),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spoken:
    """A window whose text is known.

    Args:
        audio: ``[audio_ctx, d_model]``.
        tokens: text tokens, without timestamps and specials; at least one.
        positions: positions of 20 ms that hold sound.
    """

    audio: Tensor
    tokens: tuple[int, ...]
    positions: int


@torch.inference_mode()
def token_times(
    model: Whisper,
    spoken: Sequence[Spoken],
    start: Sequence[int],
    eot: int,
    heads: Sequence[tuple[int, int]],
) -> list[npt.NDArray[np.float64]]:
    """Seconds in the window at which each token begins, and the end of the last: ``[tokens + 1]``.

    Args:
        model: the Whisper that wrote the text.
        spoken: the windows; aligned as one batch.
        start: prompt to force the text after, "no timestamps" its last token.
        eot: end token, which pads shorter texts.
        heads: (layer, head) pairs that follow the speech.
    """
    texts = [(*start, *window.tokens[: model.shape.text_ctx - len(start)]) for window in spoken]
    longest = max(map(len, texts))
    rows = slice(0, len(texts))
    device = model.device
    tokens = torch.tensor([(*t, *[eot] * (longest - len(t))) for t in texts], device=device)
    positions = torch.arange(longest, device=device).expand(len(texts), -1)
    slots = Slots(model, len(texts), longest)
    slots.fill(rows, model.cross(torch.stack([window.audio for window in spoken])))
    seen: list[Tensor] = []

    def watch(layer: int, queries: Tensor, keys: Tensor) -> None:
        chosen = [head for at, head in heads if at == layer]
        if chosen:
            products = queries[:, chosen].float() @ keys[:, chosen].float().transpose(2, 3)
            seen.append(products * queries.shape[-1] ** -0.5)

    model.decode(tokens, positions, slots, rows, longest, watch)
    products = torch.cat(seen, 1)[:, :, len(start) - 1 :]
    costs = [
        -_salience(products[i, :, : len(text) - len(start) + 1, : window.positions]).cpu().numpy()
        for i, (text, window) in enumerate(zip(texts, spoken, strict=True))
    ]
    return [first.astype(np.float64) * STEP_S for first in warp(costs)]


def _salience(products: Tensor) -> Tensor:
    """Attention ``[heads, tokens, positions]`` as one smoothed matrix ``[tokens, positions]``."""
    weights = products.softmax(-1)
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, unbiased=False)
    weights = (weights - mean) / deviation.clamp_min(1e-9)
    half = _MEDIAN_WIDTH // 2
    if weights.shape[-1] > half:
        padded = torch.nn.functional.pad(weights, (half, half), mode="reflect")
        weights = _median(list(padded.unfold(-1, _MEDIAN_WIDTH, 1).unbind(-1)))
    return weights.mean(0)


def _median(values: list[Tensor]) -> Tensor:
    """Elementwise median of seven tensors, by the 13 exchanges of Devillard's ``opt_med7``.

    Ten times as fast as sorting each seven (Devillard, "Fast median search", 1998).
    """
    for low, high in _EXCHANGES:
        a, b = values[low], values[high]
        values[low], values[high] = torch.minimum(a, b), torch.maximum(a, b)
    return values[3]


def warp(costs: Sequence[npt.NDArray[np.float32]]) -> list[npt.NDArray[np.int64]]:
    """For each cost matrix ``[tokens, positions]`` the position at which its path enters each row.

    The path is the cheapest from the first cell to the last by steps right, down and diagonal.
    """
    rows, columns = (max(cost.shape[axis] for cost in costs) for axis in (0, 1))
    moves = _cheapest_moves(costs, rows, columns)
    return [_walk_back(moves[:, i], *cost.shape) for i, cost in enumerate(costs)]


def _cheapest_moves(
    costs: Sequence[npt.NDArray[np.float32]], rows: int, columns: int
) -> npt.NDArray[np.int8]:
    """Best last step into each cell: 0 diagonal, 1 down, 2 right; ``[diagonal, matrix, row]``."""
    count = len(costs)
    skewed = np.full((rows + columns - 1, count, rows), np.inf, np.float32)
    for i, cost in enumerate(costs):
        for row in range(cost.shape[0]):
            skewed[row : row + cost.shape[1], i, row] = cost[row]
    moves = np.zeros(skewed.shape, np.int8)
    older = np.full(
        (count, rows + 1), np.inf, np.float32
    )  # totals two diagonals back, shifted by 1
    newer = older.copy()
    older[:, 0] = 0.0
    for diagonal in range(len(skewed)):
        down, right, across = newer[:, :-1], newer[:, 1:], older[:, :-1]
        steps = np.stack((across, down, right))
        best = steps.argmin(0)
        moves[diagonal] = best
        totals = np.full_like(newer, np.inf)
        totals[:, 1:] = np.take_along_axis(steps, best[None], 0)[0] + skewed[diagonal]
        older, newer = newer, totals
    return moves


def _walk_back(moves: npt.NDArray[np.int8], rows: int, columns: int) -> npt.NDArray[np.int64]:
    """Positions at which the path enters each row, from the moves ``[diagonal, row]``."""
    first = np.zeros(rows, np.int64)
    row, column = rows - 1, columns - 1
    while row > 0:
        move = moves[row + column, row]
        if move != 2:
            first[row] = column
            row -= 1
        if move != 1:
            column -= 1
    return first
