"""Which token may come next: Whisper's suppression and timestamp rules, as tensors.

Source: ``ApplyTimestampRules`` and ``SuppressTokens`` of openai/whisper ``decoding.py``; the same
rules as transformers' ``WhisperTimeStampLogitsProcessor``. Everything happens on the device of
the logits, for all rows at once and without reading a value back.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from remote.tokens import Tokenizer

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


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """What the token rules need to know of a tokenizer."""
    return Vocabulary(
        size=tokenizer.vocab_size,
        eot=tokenizer.eot,
        no_timestamps=tokenizer.no_timestamps,
        timestamp_begin=tokenizer.timestamp_begin,
        suppress=tokenizer.suppress,
        begin_suppress=tokenizer.begin_suppress,
        max_initial_timestamp=tokenizer.max_initial_timestamp_index,
    )


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
        first = (recent.count == 0)[:, None]
        logits.add_(self._always).add_(torch.where(first, self._at_first, 0.0))
        if not self._timestamps:
            return
        begin = self._vocabulary.timestamp_begin
        text, stamps = logits[:, :begin], logits[:, begin:]
        closing = self._mask_stamps(stamps, recent)
        logits[:, : self._vocabulary.eot].masked_fill_(closing[:, None], _FORBIDDEN)
        text.masked_fill_(first, _FORBIDDEN)
        # A timestamp is due where all timestamps together are likelier than any one text token.
        due = stamps.logsumexp(1) > text.amax(1)
        text.masked_fill_(due[:, None], _FORBIDDEN)

    def likeliest(self, logits: Tensor, recent: Recent) -> tuple[Tensor, Tensor]:
        """The likeliest permitted token of each row, int64 ``[n]``, and its log-probability.

        The same as ``apply`` and then the maximum of a log-softmax, for rows that have generated
        a token already; with a third of the passes over the vocabulary.

        Args:
            logits: float32 ``[n, vocab]``, overwritten.
            recent: of the same ``n`` rows, every count at least 1.
        """
        logits.add_(self._always)
        if not self._timestamps:
            token, total = _best(logits)
            return token, logits.gather(1, token[:, None])[:, 0] - total
        eot, begin = self._vocabulary.eot, self._vocabulary.timestamp_begin
        stamps = logits[:, begin:]
        closing = self._mask_stamps(stamps, recent)
        word, word_sum = _best(logits[:, :eot])
        special, special_sum = _best(logits[:, eot:begin])
        stamp, stamp_sum = _best(stamps)
        word_top = logits.gather(1, word[:, None])[:, 0]
        word_top = torch.where(closing, _FORBIDDEN, word_top)
        word_sum = torch.where(closing, _FORBIDDEN, word_sum)
        special_top = logits.gather(1, special[:, None] + eot)[:, 0]
        stamp_top = logits.gather(1, stamp[:, None] + begin)[:, 0]

        text_top = torch.maximum(word_top, special_top)
        due = stamp_sum > text_top
        text = torch.where(word_top >= special_top, word, special + eot)
        is_stamp = due | (stamp_top > text_top)
        token = torch.where(is_stamp, stamp + begin, text)
        everything = torch.logaddexp(torch.logaddexp(word_sum, special_sum), stamp_sum)
        total = torch.where(due, stamp_sum, everything)
        return token, torch.where(is_stamp, stamp_top, text_top) - total

    def _mask_stamps(self, stamps: Tensor, recent: Recent) -> Tensor:
        """Masks timestamps ``[n, 1501]``; says where an open segment has to be closed now."""
        begin = self._vocabulary.timestamp_begin
        after_stamp = (recent.count > 0) & (recent.last >= begin)
        after_pair = after_stamp & ((recent.count == 1) | (recent.before >= begin))
        closing = after_stamp & ~after_pair
        lowest = torch.where(closing, recent.stamp, recent.stamp + 1) - begin
        too_low = self._steps < torch.where(recent.stamp > 0, lowest, 0)[:, None]
        late = self._steps > self._vocabulary.max_initial_timestamp
        too_high = (recent.count == 0)[:, None] & late
        stamps.masked_fill_(too_low | too_high | after_pair[:, None], _FORBIDDEN)
        return closing


def _mask(size: int, tokens: Sequence[int]) -> Tensor:
    mask = torch.zeros(size)
    mask[list(tokens)] = _FORBIDDEN
    return mask


def _best(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the largest logit of each row, and the logarithm of the sum of all exponentials.

    By way of log_softmax: on the CPU its kernel is three times as fast as logsumexp where many
    logits are minus infinity (1.7 against 5.2 ms for 16 rows of 51,864).
    """
    best = logits.argmax(1)
    top = logits.gather(1, best[:, None])
    share = logits.log_softmax(1).gather(1, best[:, None])
    return best, torch.where(top == _FORBIDDEN, _FORBIDDEN, top - share)[:, 0]
