"""transformers' Whisper as the reference: one greedy pass a window, by its own processors.

``WhisperForConditionalGeneration.generate`` goes on by seeking within a window where timestamps
are written, so the generation below it is called, with the processors that Whisper's would build.
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class Reference:
    """The model in float32, and in float64 where two candidates are to be told apart.

    Args:
        folder: of the model, in Hugging Face's form.
    """

    def __init__(self, folder: Path) -> None:
        from transformers import GenerationConfig, WhisperForConditionalGeneration

        whisper: Any = WhisperForConditionalGeneration
        settings: Any = GenerationConfig
        self._model = whisper.from_pretrained(str(folder), dtype=torch.float32).eval()
        self._settings = self._model.generation_config
        self.eot = int(self._model.config.eos_token_id)
        self._timestamp_begin = int(self._settings.no_timestamps_token_id) + 1
        self._greedy = settings(
            num_beams=1,
            do_sample=False,
            eos_token_id=self.eot,
            pad_token_id=self.eot,
            decoder_start_token_id=self._model.config.decoder_start_token_id,
            max_length=self._model.config.max_target_positions,
        )
        self._model.generation_config = self._greedy  # else its unset fields come from there
        self._exact: Any = None

    @torch.inference_mode()
    def encode(self, mel: Tensor) -> Any:
        """What the encoder gives for features ``[n, n_mels, 3000]``."""
        return self._model.get_encoder()(mel)

    @torch.inference_mode()
    def generate(self, encoded: Any, prompt: tuple[int, ...], timestamps: bool) -> list[list[int]]:
        """The tokens of each window, without prompt and end token."""
        from transformers import GenerationMixin

        n = encoded.last_hidden_state.shape[0]
        ids: Any = GenerationMixin.generate(
            self._model,
            encoder_outputs=copy.copy(encoded),
            decoder_input_ids=torch.tensor([prompt] * n),
            generation_config=self._greedy,
            logits_processor=self._processors(len(prompt), timestamps, due=True),
        )
        return [self._until_end(row[len(prompt) :]) for row in ids.tolist()]

    @torch.inference_mode()
    def gap(
        self, mel: Tensor, prompt: tuple[int, ...], said: Sequence[int], a: int, b: int
    ) -> float:
        """How much the choice between tokens ``a`` and ``b`` after ``said`` hangs on, in logits.

        Between text and a timestamp that is how far all timestamps together are from the likeliest
        text token, as the timestamp rule compares them; infinite where a rule forbids a candidate.
        Computed in float64.
        """
        self._exact = self._exact or copy.deepcopy(self._model).double()
        timestamps = prompt[-1] != self._timestamp_begin - 1
        ids = torch.tensor([[*prompt, *said]])
        scores = self._exact(input_features=mel[None].double(), decoder_input_ids=ids).logits[:, -1]
        for processor in self._processors(len(prompt), timestamps, due=False):
            scores = processor(ids, scores)
        row, begin = scores[0], self._timestamp_begin
        if timestamps and (a >= begin) != (b >= begin):
            difference = row[begin:].logsumexp(0) - row[:begin].max()
        else:
            difference = row[a] - row[b]
        return abs(float(difference)) if math.isfinite(difference) else math.inf

    def _until_end(self, tokens: list[int]) -> list[int]:
        return tokens[: tokens.index(self.eot)] if self.eot in tokens else tokens

    def _processors(self, prompt_length: int, timestamps: bool, *, due: bool) -> Any:
        """What Whisper's own generate masks with, in its order.

        Args:
            prompt_length: tokens before the first generated one.
            timestamps: whether they are written.
            due: whether a timestamp is forced where all together are likelier than any text.
        """
        from transformers import LogitsProcessorList
        from transformers.generation.logits_process import (
            SuppressTokensAtBeginLogitsProcessor,
            SuppressTokensLogitsProcessor,
            WhisperTimeStampLogitsProcessor,
        )

        settings = self._settings
        found = [
            SuppressTokensAtBeginLogitsProcessor(
                settings.begin_suppress_tokens, begin_index=prompt_length
            ),
            SuppressTokensLogitsProcessor(settings.suppress_tokens),
        ]
        if timestamps:
            found.append(
                WhisperTimeStampLogitsProcessor(
                    settings, begin_index=prompt_length, _detect_timestamp_from_logprob=due
                )
            )
        return LogitsProcessorList(found)
