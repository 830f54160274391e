"""Which token may come next: Whisper's suppression and timestamp rules, as tensors.

Source: ``ApplyTimestampRules`` and ``SuppressTokens`` of openai/whisper ``decoding.py``; the same
rules as transformers' ``WhisperTimeStampLogitsProcessor``. Everything happens on the device of
the logits, for all rows at once and without reading a value back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FORBIDDEN = float("-inf")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The few facts about the tokens that the rules need.

    ``max_initial_timestamp`` is the latest first timestamp of a window, in steps of 20 ms.
    """

    size: int
    eot: int
    no_timestamps: int
    timestamp_begin: int
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    max_initial_timestamp: int = 50


@dataclass(frozen=True, slots=True)
class Recent:
    """What each row has said so far, as far as the rules ask. All int64 ``[n]``.

    Args:
        count: tokens generated, the prompt not counted.
        last, before: the newest token and the one before it (anything where there is none).
        stamp: the newest timestamp token, 0 where there is none.
    """

    count: Tensor
    last: Tensor
    before: Tensor
    stamp: Tensor


class TokenRules:
    """Masks logits in place.

    Args:
        vocabulary: the model's.
        timestamps: whether timestamps are to be generated; without, only suppression applies.
        device: where the logits are.
    """

    def __init__(
        self, vocabulary: Vocabulary, *, timestamps: bool, device: torch.device | str = "cpu"
    ) -> None:
        self._vocabulary = vocabulary
        self._timestamps = timestamps
        always = vocabulary.suppress + ((vocabulary.no_timestamps,) if timestamps else ())
        self._always = _mask(vocabulary.size, always).to(device)
        self._at_first = _mask(vocabulary.size, vocabulary.begin_suppress).to(device)
        self._steps = torch.arange(vocabulary.size - vocabulary.timestamp_begin, device=device)

    def apply(self, logits: Tensor, recent: Recent) -> None:
        """Sets what must not come next to minus infinity.

        Args:
            logits: float32 ``[n, vocab]``, overwritten.
            recent: of the same ``n`` rows.
        """
        logits.add_(self._always)
        first = (recent.count == 0)[:, None]
        logits.add_(torch.where(first, self._at_first, 0.0))
        if self._timestamps:
            self._apply_timestamps(logits, recent, first)

    def _apply_timestamps(self, logits: Tensor, recent: Recent, first: Tensor) -> None:
        begin = self._vocabulary.timestamp_begin
        text, stamps = logits[:, :begin], logits[:, begin:]
        after_stamp = (recent.count > 0) & (recent.last >= begin)
        after_pair = after_stamp & ((recent.count < 2) | (recent.before >= begin))  # noqa: PLR2004
        closing = after_stamp & ~after_pair

        lowest = torch.where(closing, recent.stamp, recent.stamp + 1) - begin
        too_low = self._steps < torch.where(recent.stamp > 0, lowest, 0)[:, None]
        too_high = first & (self._steps > self._vocabulary.max_initial_timestamp)
        stamps.masked_fill_(too_low | too_high | after_pair[:, None], _FORBIDDEN)

        logits[:, : self._vocabulary.eot].masked_fill_(closing[:, None], _FORBIDDEN)
        text.masked_fill_(first, _FORBIDDEN)
        # A timestamp is due where all timestamps together are likelier than any one text token.
        due = stamps.logsumexp(1) > text.amax(1)
        text.masked_fill_(due[:, None], _FORBIDDEN)


def _mask(size: int, tokens: Sequence[int]) -> Tensor:
    mask = torch.zeros(size)
    mask[list(tokens)] = _FORBIDDEN
    return mask
