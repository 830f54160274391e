"""Decoded windows as settled parts: phrases, word times, segments in file time.

It must not decide what is decoded or when: it only turns tokens into text.
"""

import math
from collections.abc import Sequence

from remote.alignment import Spoken, token_times
from remote.decoding import Decoded
from remote.features import HOP
from remote.ledger import Part
from remote.protocol import Word
from remote.recording import Recording
from remote.segments import Phrase, phrase_words, phrases, rest_of, to_segments
from remote.sink import Settled
from remote.tokens import Tokenizer
from remote.whisper import Whisper

_Found = tuple[Decoded, Part, tuple[Phrase, ...], int]
"""A window, its part, what was said in it, and the sample up to which it was dealt with."""


class Writer:
    """Turns what was decoded into text.

    Args:
        model: for word times.
        tokenizer: of the model.
    """

    def __init__(self, model: Whisper, tokenizer: Tokenizer) -> None:
        self._model = model
        self._tokenizer = tokenizer

    def settle(self, recording: Recording) -> None:
        """Settles the windows of a recording that have been decoded; what is in order is told."""
        if not recording.finished:
            return
        found = [self._found(recording, decoded) for decoded in recording.finished]
        words = self._words(recording, found) if recording.options.words else {}
        for decoded, part, said, reached in found:
            segments = to_segments(
                part.window,
                said,
                self._tokenizer,
                language=_language_of_text(recording),
                channel=part.track if recording.options.channels == "split" else None,
                quality=decoded.quality,
                words=words.get(part.key),
            )
            recording.parts.pop(part.key)
            recording.audio.pop(part.key)
            tokens, again = decoded.generated, decoded.attempts > 1
            recording.settle(part, Settled(part.key, segments, reached, tokens, again))
        recording.finished.clear()
        recording.tell_progress()

    def _found(self, recording: Recording, decoded: Decoded) -> _Found:
        part = recording.parts[decoded.request.key]
        length = len(part.window.samples)
        if decoded.silent:
            return decoded, part, (), length
        begin = self._tokenizer.timestamp_begin
        said, reached = phrases(decoded.tokens, begin, length, complete=decoded.complete)
        return decoded, part, said, reached

    def _words(
        self, recording: Recording, found: Sequence[_Found]
    ) -> dict[int, list[tuple[Word, ...]]]:
        """Words of each phrase, by the key of the part."""
        spoken = [window for window in found if window[2]]
        if not spoken:
            return {}
        tokenizer = self._tokenizer
        with recording.clock.stage("align"):
            times = token_times(
                self._model,
                [self._spoken(recording, *window) for window in spoken],
                tokenizer.prompt(recording.language, recording.options.task, False),
                tokenizer.eot,
                tokenizer.alignment_heads,
            )
        return {
            part.key: self._phrase_words(recording, decoded, part, said, begins.tolist())
            for (decoded, part, said, _), begins in zip(spoken, times, strict=True)
        }

    def _phrase_words(
        self, recording: Recording, decoded: Decoded, part: Part, said: Sequence[Phrase],
        begins: list[float],
    ) -> list[tuple[Word, ...]]:  # fmt: skip
        words, at = [], 0
        for phrase in said:
            size = len(phrase.tokens)
            sure = [math.exp(p) for p in decoded.token_logprobs[phrase.first :][:size]]
            words.append(
                phrase_words(
                    part.window, phrase, self._tokenizer, recording.language,
                    begins[at : at + size + 1], sure,
                )
            )  # fmt: skip
            at += size
        return words

    def _spoken(
        self, recording: Recording, decoded: Decoded, part: Part, said: Sequence[Phrase],
        reached: int,
    ) -> Spoken:  # fmt: skip
        samples = reached if rest_of(part.window, reached) else len(part.window.samples)
        tokens = tuple(token for phrase in said for token in phrase.tokens)
        positions = min(self._model.shape.audio_ctx, -(-samples // (2 * HOP)))
        return Spoken(recording.audio[decoded.request.key], tokens, positions)


def _language_of_text(recording: Recording) -> str:
    return "en" if recording.options.task == "translate" else recording.language
