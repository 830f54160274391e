"""Stand-ins for what decodes and listens: models that follow a script or lack memory."""

import weakref
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from remote.job import Job
from remote.layout import WhisperShape
from remote.protocol import Hello, Segment
from remote.sink import Settled, Sink
from remote.tokens import Tokenizer
from remote.whisper import Slots, Watch, Whisper

Script = Callable[[tuple[int, ...]], Mapping[int, float]]
"""All tokens of a text so far, prompt included, to the logits of the next; others are unlikely."""

UNLIKELY = -30.0


class Scripted(Whisper):
    """Says of each window what its script has; keeps its memory in the decoder's slots alone.

    Args:
        vocab: number of tokens.
        scripts: by number; the first number of a window's features says which is its.
        text_ctx: positions of a text.
    """

    def __init__(self, vocab: int, scripts: Sequence[Script], text_ctx: int = 64) -> None:
        self.shape = WhisperShape(80, 2, 4, 1, 1, 4, text_ctx, 1, 1, 4, vocab)
        self.buffer = torch.zeros(0)
        self.device = torch.device("cpu")
        self.dtype = self.cache_dtype = torch.float32
        self.int8 = False
        self.scripts = scripts
        self.most_encoded = 0

    def window(self, number: int) -> Tensor:
        """Features of the window that script ``number`` is for."""
        return torch.full((self.shape.audio_ctx, self.shape.d_model), float(number))

    def encode(self, mel: Tensor) -> Tensor:
        self.most_encoded = max(self.most_encoded, len(mel))
        return torch.zeros(len(mel), self.shape.audio_ctx, self.shape.d_model)

    def cross(self, audio: Tensor) -> Tensor:
        return audio[None, None, :, None].expand(1, 2, -1, 1, -1, -1)

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Slots,
        rows: slice,
        length: int,
        watch: Watch | None = None,
    ) -> Tensor:
        assert int(positions.max()) < length <= slots.length
        written = slots.self_kv[0, 0, rows, 0, :, 0]
        written.scatter_(1, positions, tokens.float())
        number = slots.cross_kv[0, 0, rows, 0, 0, 0]
        steps = positions.shape[1]
        return torch.cat(
            [
                number[:, None, None].expand(-1, steps, 1),
                positions[:, :, None].float(),
                written[:, None].expand(-1, steps, -1),
            ],
            2,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        rows = []
        for number, position, *written in hidden.int().tolist():
            likely = self.scripts[number](tuple(written[: position + 1]))
            rows.append([likely.get(token, UNLIKELY) for token in range(self.shape.vocab)])
        return torch.tensor(rows)


def says(tokenizer: Tokenizer, *said: int | float | str) -> Script:
    """Words and timestamps in seconds; then the end."""
    tokens: list[int] = []
    for item in said:
        if isinstance(item, str):
            tokens += tokenizer.encode(item)
        else:
            tokens.append(tokenizer.timestamp_begin + round(item * 50))

    def script(text: tuple[int, ...]) -> Mapping[int, float]:
        at = len(text) - 3  # after start, language and task
        return {tokens[at] if 0 <= at < len(tokens) else tokenizer.eot: 0.0}

    return script


class Cramped(Whisper):
    """Another model's weights on a device with memory for a few windows at once only.

    Args:
        model: whose weights.
        encoded: windows that it can encode at once.
        decoded: rows that it can decode at once.
        caches: how often there is no memory for the decoder's caches before there is.

    It counts: ``calls`` of decode, windows encoded and decoded at once at most, and caches that
    were ``kept`` while new ones were made after a refusal.
    """

    def __init__(
        self, model: Whisper, *, encoded: int = 99, decoded: int = 99, caches: int = 0
    ) -> None:
        self._encoded, self._decoded, self._caches = encoded, decoded, 0
        self._used: list[weakref.ref[Slots]] = []
        self._refused = False
        self.kept: list[int] = []
        super().__init__(model.shape, model.buffer, int8=model.int8)
        self._caches = caches
        self.most_encoded = self.most_decoded = self.calls = 0

    @property
    def cache_dtype(self) -> torch.dtype:
        """Read where caches are made, after a refusal first of all: what is kept then is noted."""
        if self._refused:
            self.kept.append(sum(slots() is not None for slots in self._used))
            self._refused = False
        self._caches -= 1
        self._check(self._caches >= 0)
        return self._cache_dtype

    @cache_dtype.setter
    def cache_dtype(self, dtype: torch.dtype) -> None:
        self._cache_dtype = dtype

    def encode(self, mel: Tensor) -> Tensor:
        self._check(len(mel) > self._encoded)
        self.most_encoded = max(self.most_encoded, len(mel))
        return super().encode(mel)

    def cross(self, audio: Tensor) -> Tensor:
        self._check(len(audio) > self._decoded)
        return super().cross(audio)

    def decode(
        self,
        tokens: Tensor,
        positions: Tensor,
        slots: Slots,
        rows: slice,
        length: int,
        watch: Watch | None = None,
    ) -> Tensor:
        self._check(rows.stop > self._decoded)
        self.most_decoded = max(self.most_decoded, rows.stop)
        self.calls += 1
        if all(used() is not slots for used in self._used):
            self._used.append(weakref.ref(slots))
        return super().decode(tokens, positions, slots, rows, length, watch)

    def _check(self, full: bool) -> None:
        if full:
            self._refused = True
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


class Kept(Sink):
    """A sink that keeps what it hears.

    Args:
        on_segments: is told of new segments before they are kept.
    """

    def __init__(self, on_segments: Callable[[], None] = lambda: None) -> None:
        self.found: list[Segment] = []
        self.done_ms: list[int] = []
        self.totals: list[int | None] = []
        self.parts: list[Settled] = []
        self.heard_as = ("", 0.0)
        self._on_segments = on_segments

    def progress(self, stage: str, done_ms: int, total_ms: int | None) -> None:
        self.done_ms.append(done_ms)
        self.totals.append(total_ms)

    def segments(self, segments: tuple[Segment, ...]) -> None:
        self._on_segments()
        self.found += segments

    def settled(self, part: Settled) -> None:
        self.parts.append(part)

    def language(self, code: str, probability: float) -> None:
        self.heard_as = (code, probability)

    @property
    def text(self) -> str:
        return " ".join(segment.text for segment in self.found)


class Loud:
    """A detector that takes loud for speech."""

    def stream(self) -> "LoudStream":
        return LoudStream()


class LoudStream:
    def __init__(self) -> None:
        self._left = np.zeros(0, np.int16)

    def push(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
        samples = np.concatenate([self._left, samples])
        whole = len(samples) // 512 * 512
        self._left = samples[whole:]
        loudest = np.abs(samples[:whole].astype(np.int32)).reshape(-1, 512).max(1)
        return np.asarray(loudest > 500, np.float32)

    def finish(self) -> NDArray[np.float32]:
        return self.push(np.zeros(-len(self._left) % 512, np.int16))


def text(*words: str, channel: int | None = None) -> tuple[Segment, ...]:
    """A segment for each word, one a second."""
    return tuple(
        Segment(i * 1000, i * 1000 + 900, word, channel=channel) for i, word in enumerate(words)
    )


class HandDesk:
    """A desk whose work is done by the test: it keeps the jobs that it is given."""

    def __init__(self) -> None:
        self.hello = Hello(1, 1, "0", "tiny.en", "cpu", "float32", "standard", 0.1)
        self.jobs: dict[str, Job] = {}
        self.taken: list[str] = []
        self.dropped: list[str] = []
        self.seconds = 0.0

    def take(self, job: Job) -> None:
        self.jobs[job.name] = job
        self.taken.append(job.name)

    def drop(self, job: Job) -> None:
        self.dropped.append(job.name)

    def device_memory(self) -> tuple[int, int]:
        return 7, 9

    def worked_s(self) -> float:
        return self.seconds
