"""A worker whose device is a stand-in of fixed speed; everything else of it is real.

The device takes its time for every second of a window and says words that depend on what it hears
alone, so that two runs can be compared letter by letter. ``python -m tests.helpers.fixed_speed
serve --spool FOLDER`` is `fast_transcribe.py serve` with that device, at $FARSCRIBE_FAKE_SPEED
times real time. With tests/helpers/host on PYTHONPATH every worker that is started is one.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import tokenizers
import torch
from torch import Tensor

from remote import direct_transcribe, models, service_verbs
from remote.chunking import WindowSettings
from remote.direct_transcribe import Engine
from remote.features import SAMPLE_RATE
from remote.layout import WhisperShape
from remote.load_report import LoadReport
from remote.protocol import PROTOCOL_MAJOR, PROTOCOL_MINOR, Hello, KnownError, StageTimes
from remote.tokens import Tokenizer
from remote.transcriber import Transcriber, Work
from remote.voice_activity import SpeechDetector
from remote.whisper import Slots, Watch, Whisper

SPEED = "FARSCRIBE_FAKE_SPEED"
WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike".split()
UNLIKELY = -30.0


class Heard(Whisper):
    """Says six words of each window, which ones depends on its sound."""

    def __init__(self, tokenizer: Tokenizer, words: Sequence[int]) -> None:
        self.shape = WhisperShape(80, 1500, 4, 1, 1, 4, 64, 1, 1, 4, tokenizer.vocab_size)
        self.buffer = torch.zeros(0)
        self.device = torch.device("cpu")
        self.dtype = self.cache_dtype = torch.float32
        self.int8 = False
        self._begin = tokenizer.timestamp_begin
        self._eot = tokenizer.eot
        self._words = words
        self._prompt = len(tokenizer.prompt("en", "transcribe", True))

    def encode(self, mel: Tensor) -> Tensor:
        # Whole tenths: the sum of a window does not depend on the batch it is encoded in.
        sums = (mel.double().mean((1, 2)) * 1e6).round().long() % 99_991
        return sums.float()[:, None, None].expand(-1, self.shape.audio_ctx, 4).contiguous()

    def cross(self, audio: Tensor) -> Tensor:
        return audio[None, None, :, None].expand(1, 2, -1, 1, -1, -1)

    def decode(
        self, tokens: Tensor, positions: Tensor, slots: Slots, rows: slice, length: int,
        watch: Watch | None = None,
    ) -> Tensor:  # fmt: skip
        number = slots.cross_kv[0, 0, rows, 0, 0, 0]
        steps = positions.shape[1]
        return torch.stack([number[:, None].expand(-1, steps), positions.float()], 2)

    def logits(self, hidden: Tensor) -> Tensor:
        found = torch.full((*hidden.shape[:-1], self.shape.vocab), UNLIKELY)
        flat = found.view(-1, self.shape.vocab)
        for row, (number, position) in enumerate(hidden.reshape(-1, 2).long().tolist()):
            flat[row, self._next(number, position - self._prompt + 1)] = 10.0
        return found

    def _next(self, number: int, step: int) -> int:
        """The token after ``step`` generated ones: a start, six words, an end, the end token."""
        if step <= 0:
            return self._begin
        if step <= 6:
            return self._words[(number // 13 ** (step % 4) + step) % len(self._words)]
        return self._begin + 1500 if step == 7 else self._eot


class FixedSpeed(Transcriber):
    """Encodes at a fixed speed."""

    def __init__(self, speed: float, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._speed = speed

    def _encode(self, work: Sequence[Work]) -> None:
        seconds = sum(len(part.window.samples) for _, part in work) / SAMPLE_RATE
        begin = time.monotonic()
        super()._encode(work)
        time.sleep(max(0.0, seconds / self._speed - (time.monotonic() - begin)))


def open_engine(model: str, *, progress: Callable[[int, int], None], **_: Any) -> Engine:
    """The engine with that device."""
    folder = models.resolve("tiny.en")
    tokenizer = Tokenizer.from_folder(folder)
    vocabulary = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    words = [vocabulary.encode(f" {word}", add_special_tokens=False).ids[0] for word in WORDS]
    transcriber = FixedSpeed(
        float(os.environ[SPEED]), Heard(tokenizer, words), tokenizer,
        SpeechDetector.load("cpu"), rows=16, settings=WindowSettings(), hear_aside=True,
    )  # fmt: skip
    hello = Hello(
        PROTOCOL_MAJOR, PROTOCOL_MINOR, direct_transcribe.version(), model, "a stand-in",
        "float32", "standard", 0.0,
    )  # fmt: skip
    report = LoadReport(
        "standard", (), (), "cpu", "float32", StageTimes(), 0.0, 0, False, 0, 0
    )  # fmt: skip
    return Engine(transcriber, hello, report)


if __name__ == "__main__":
    direct_transcribe.open_engine = open_engine  # type: ignore[assignment]
    try:
        sys.exit(service_verbs.service(sys.argv[1:]))
    except KnownError as error:
        sys.exit(str(error))
