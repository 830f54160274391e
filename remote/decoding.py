"""Greedy decoding of many windows side by side, and again where the result is not to be trusted.

Windows share the device in rows: each step gives every row its next token, a finished row makes
room at once, and a window that fails the paper's thresholds is decoded again in place, at a
higher temperature, from the audio features that are still in its row. No row influences another:
a window's text does not depend on its company.

It knows tokens, not words or time; ``transcriber`` turns the one into the other.
"""

import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from remote.protocol import Quality
from remote.rules import Recent, TokenRules
from remote.whisper import Slots, Whisper

TEMPERATURES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
MAX_COMPRESSION_RATIO = 2.4
MIN_AVG_LOGPROB = -1.0
MAX_NO_SPEECH_PROB = 0.6
"""The four thresholds of Radford et al. 2022, section 4.5."""

_POLL_CUDA = 8
"""Steps between two looks at which rows have ended: each look waits for the device."""


@dataclass(frozen=True, slots=True)
class Request:
    """One window to decode.

    Args:
        key: the caller's number for it, returned with the result.
        audio: ``[audio_ctx, d_model]`` from ``Whisper.encode``.
        prompt: tokens the decoder starts from, the start token among them.
        sot: index of the start token in the prompt; there "no speech" is read.
        max_tokens: most tokens to generate.
        temperatures: to try in turn until a result passes; (0.0,) for greedy alone.
        owner: whatever the caller wants back with the result.
        wanted: asked at each look at the rows; a window that nobody wants any more gives up its
            row without a result.
    """

    key: int
    audio: Tensor
    prompt: tuple[int, ...]
    sot: int
    max_tokens: int
    temperatures: tuple[float, ...] = TEMPERATURES
    owner: Any = None
    wanted: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a window became.

    Args:
        request: what was asked.
        tokens: generated, without the prompt and without the end token.
        token_logprobs: natural log-probability of each, after the rules.
        avg_logprob: mean over the tokens, the end token included.
        no_speech_prob: probability of "no speech" before the first token.
        compression_ratio: of the text.
        temperature: at which it was decoded; attempts: how often the window was decoded.
        complete: False where max_tokens cut it off.
        generated: tokens over all attempts, the end tokens included.
    """

    request: Request
    tokens: tuple[int, ...]
    token_logprobs: tuple[float, ...]
    avg_logprob: float
    no_speech_prob: float
    compression_ratio: float
    temperature: float
    attempts: int
    complete: bool
    generated: int = 0

    @property
    def silent(self) -> bool:
        """Whether the model heard no speech and was not sure of what it wrote either."""
        return self.no_speech_prob > MAX_NO_SPEECH_PROB and self.avg_logprob < MIN_AVG_LOGPROB

    @property
    def acceptable(self) -> bool:
        """Whether it passes the thresholds, or is silence, which no temperature improves."""
        return self.silent or (
            self.compression_ratio <= MAX_COMPRESSION_RATIO and self.avg_logprob >= MIN_AVG_LOGPROB
        )

    @property
    def quality(self) -> Quality:
        """The same in the words of the wire."""
        return Quality(
            avg_logprob=round(self.avg_logprob, 4),
            compression_ratio=round(self.compression_ratio, 3),
            no_speech_prob=round(self.no_speech_prob, 4),
            temperature=self.temperature,
        )


@dataclass(slots=True)
class _Row:
    request: Request
    no_speech_prob: float = 0.0
    attempts: int = 0
    generated: int = 0
    best: Decoded | None = None

    @property
    def temperature(self) -> float:
        return self.request.temperatures[self.attempts]


@dataclass(slots=True)
class _State:
    """Per row on the device; the first ``active`` rows are in use."""

    last: Tensor
    before: Tensor
    stamp: Tensor
    count: Tensor
    position: Tensor
    limit: Tensor
    ended: Tensor
    tokens: Tensor
    logprobs: Tensor

    @classmethod
    def empty(cls, rows: int, length: int, device: torch.device) -> "_State":
        def numbers() -> Tensor:
            return torch.zeros(rows, dtype=torch.int64, device=device)

        return cls(
            last=numbers(),
            before=numbers(),
            stamp=numbers(),
            count=numbers(),
            position=numbers(),
            limit=numbers(),
            ended=torch.zeros(rows, dtype=torch.bool, device=device),
            tokens=torch.zeros(rows, length, dtype=torch.int64, device=device),
            logprobs=torch.zeros(rows, length, device=device),
        )

    def all(self) -> tuple[Tensor, ...]:
        return (
            self.last, self.before, self.stamp, self.count, self.position,
            self.limit, self.ended, self.tokens, self.logprobs,
        )  # fmt: skip


class Decoder:
    """Decodes a stream of windows, ``rows`` at a time.

    Args:
        model: the Whisper.
        rules: what may come next.
        eot, no_speech, timestamp_begin: the token ids it must tell apart.
        text_of: tokens to text, for the compression ratio.
        rows: windows side by side.
    """

    def __init__(
        self,
        model: Whisper,
        rules: TokenRules,
        *,
        eot: int,
        no_speech: int,
        timestamp_begin: int,
        text_of: Callable[[Sequence[int]], str],
        rows: int,
    ) -> None:
        self._model = model
        self._rules = rules
        self._eot = eot
        self._no_speech = no_speech
        self._timestamp_begin = timestamp_begin
        self._text_of = text_of
        self._slots = Slots(model, rows, model.shape.text_ctx)
        self._state = _State.empty(rows, model.shape.text_ctx, model.device)
        self._rows: list[_Row] = []
        self._poll = _POLL_CUDA if model.device.type == "cuda" else 1

    @torch.inference_mode()
    def run(
        self, requests: Iterator[Sequence[Request]], check: Callable[[], None] = lambda: None
    ) -> Iterator[Decoded]:
        """Results as windows finish, in any order.

        Args:
            requests: batches of windows; the next one is asked for when there is room for it,
                so an iterator that encodes lazily keeps few features alive. An empty batch
                means that nothing is ready yet.
            check: called at each look at which rows have ended; what it raises ends the run.

        Abandoning the iteration leaves the decoder ready for another run.
        """
        self._rows.clear()
        waiting: deque[Request] = deque()
        exhausted = False
        while not exhausted or waiting or self._rows:
            while not exhausted and len(waiting) < self._slots.rows - len(self._rows):
                batch = next(requests, None)
                if batch is None:
                    exhausted = True
                    break
                waiting.extend(batch)
                if not batch:
                    break
            self._admit(waiting)
            if self._rows:
                check()
                for _ in range(self._poll):
                    self._step()
                yield from self._finish()

    def _admit(self, waiting: deque[Request]) -> None:
        """Fills free rows, windows with equal prompts at once."""
        for _ in range(len(waiting)):
            if (request := waiting.popleft()).wanted():
                waiting.append(request)
        while waiting and len(self._rows) < self._slots.rows:
            start = len(self._rows)
            group = [waiting.popleft()]
            while (
                waiting
                and start + len(group) < self._slots.rows
                and (waiting[0].prompt, waiting[0].sot) == (group[0].prompt, group[0].sot)
            ):
                group.append(waiting.popleft())
            self._rows += [_Row(request) for request in group]
            where = slice(start, start + len(group))
            audio = torch.stack([request.audio for request in group])
            self._slots.fill(where, self._model.cross(audio))
            self._prefill(where)

    def _prefill(self, where: slice) -> None:
        """First token of the rows ``where`` (equal prompts), their cross-attention being there."""
        rows = self._rows[where]
        request = rows[0].request
        state, device, length = self._state, self._model.device, len(request.prompt)
        for tensor in state.all():
            tensor[where] = 0
        state.position[where] = length - 1
        limits = [min(row.request.max_tokens, self._slots.length - length) for row in rows]
        state.limit[where] = torch.tensor(limits, device=device)
        prompt = torch.tensor(request.prompt, device=device).expand(len(rows), -1)
        positions = torch.arange(length, device=device).expand(len(rows), -1)
        hidden = self._model.decode(prompt, positions, self._slots, where, length)
        heard = self._model.logits(hidden[:, request.sot]).softmax(1)[:, self._no_speech]
        for row, probability in zip(rows, heard.tolist(), strict=True):
            row.no_speech_prob = probability
        self._advance(where, self._model.logits(hidden[:, -1]), first=True)

    def _step(self) -> None:
        """One more token for every row in use."""
        where = slice(0, len(self._rows))
        state = self._state
        length = max(len(row.request.prompt) for row in self._rows) + int(
            state.count[where].max().item()
        )
        hidden = self._model.decode(
            state.last[where, None], state.position[where, None], self._slots, where, length
        )
        self._advance(where, self._model.logits(hidden[:, -1]), first=False)

    def _advance(self, where: slice, logits: Tensor, *, first: bool) -> None:
        """Chooses the rows' next tokens from their logits and takes note of them."""
        state = self._state
        recent = Recent(
            state.count[where], state.last[where], state.before[where], state.stamp[where]
        )
        token, logprob = self._choose(where, logits, recent, first=first)
        alive = ~state.ended[where]
        token = torch.where(alive, token, self._eot)
        index = state.count[where].clamp_max(state.tokens.shape[1] - 1)[:, None]
        state.tokens[where].scatter_(1, index, token[:, None])
        state.logprobs[where].scatter_(1, index, torch.where(alive, logprob, 0.0)[:, None])
        state.before[where] = state.last[where]
        state.last[where] = token
        state.stamp[where] = torch.where(token >= self._timestamp_begin, token, state.stamp[where])
        state.count[where] += alive
        state.position[where] += alive
        state.ended[where] |= (token == self._eot) | (state.count[where] >= state.limit[where])

    def _choose(
        self, where: slice, logits: Tensor, recent: Recent, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Token and log-probability per row: the likeliest, or a sample where it is warm."""
        rows = self._rows[where]
        if not first and not any(row.temperature > 0 for row in rows):
            return self._rules.likeliest(logits, recent)
        self._rules.apply(logits, recent)
        scores = logits.log_softmax(1)
        token = scores.argmax(1)
        for i, row in enumerate(rows):
            if row.temperature > 0:
                token[i] = self._sample(logits[i], row, int(recent.count[i]))
        return token, scores.gather(1, token[:, None])[:, 0]

    def _sample(self, logits: Tensor, row: _Row, count: int) -> Tensor:
        """A token by the row's temperature; the same one for the same window in any company."""
        seed = (row.request.key * len(TEMPERATURES) + row.attempts) * 1000 + count
        generator = torch.Generator(logits.device).manual_seed(seed)
        probabilities = (logits / row.temperature).softmax(0)
        return torch.multinomial(probabilities, 1, generator=generator)[0]

    def _finish(self) -> Iterator[Decoded]:
        """Takes out the rows that have ended, or starts them again at the next temperature."""
        for i in reversed([i for i, row in enumerate(self._rows) if not row.request.wanted()]):
            self._release(i)
        ended = self._state.ended[: len(self._rows)].tolist()
        for i in reversed([i for i, over in enumerate(ended) if over]):
            row = self._rows[i]
            decoded = self._read(i, row)
            row.attempts += 1
            if row.best is None or _better(decoded, row.best):
                row.best = decoded
            if decoded.acceptable or row.attempts == len(row.request.temperatures):
                self._release(i)
                yield replace(row.best, attempts=row.attempts, generated=row.generated)
            else:
                self._prefill(slice(i, i + 1))

    def _read(self, i: int, row: _Row) -> Decoded:
        count = int(self._state.count[i])
        tokens = self._state.tokens[i, :count].tolist()
        logprobs = self._state.logprobs[i, :count].tolist()
        complete = tokens[-1] == self._eot
        mean = sum(logprobs) / len(logprobs)
        if complete:
            tokens, logprobs = tokens[:-1], logprobs[:-1]
        row.generated += count
        return Decoded(
            request=row.request,
            tokens=tuple(tokens),
            token_logprobs=tuple(logprobs),
            avg_logprob=mean,
            no_speech_prob=row.no_speech_prob,
            compression_ratio=compression_ratio(self._text_of(tokens)),
            temperature=row.temperature,
            attempts=row.attempts + 1,
            generated=row.generated,
            complete=complete,
        )

    def _release(self, i: int) -> None:
        last = len(self._rows) - 1
        self._slots.move(last, i)
        for tensor in self._state.all():
            tensor[i] = tensor[last]
        self._rows[i] = self._rows[last]
        self._rows.pop()


def compression_ratio(text: str) -> float:
    """Bytes of the text over its bytes in zlib: above 2.4 it repeats itself; 0.0 if empty."""
    raw = text.encode("utf-8")
    return len(raw) / len(zlib.compress(raw)) if raw else 0.0


def _better(new: Decoded, old: Decoded) -> bool:
    """An acceptable result beats any other; then the surer of those that do not repeat."""
    return (new.acceptable, new.compression_ratio <= MAX_COMPRESSION_RATIO, new.avg_logprob) > (
        old.acceptable, old.compression_ratio <= MAX_COMPRESSION_RATIO, old.avg_logprob
    )  # fmt: skip


def detect_languages(model: Whisper, audio: Tensor, sot: int, languages: Sequence[int]) -> Tensor:
    """Probability of each language for each window, float32 ``[n, len(languages)]``.

    Args:
        model: a multilingual Whisper.
        audio: ``[n, audio_ctx, d_model]``.
        sot: the start token.
        languages: token ids of the languages.
    """
    n = audio.shape[0]
    with torch.inference_mode():
        slots = Slots(model, n, 1)
        slots.fill(slice(0, n), model.cross(audio))
        tokens = torch.full((n, 1), sot, device=model.device)
        hidden = model.decode(tokens, torch.zeros_like(tokens), slots, slice(0, n), 1)
        logits = model.logits(hidden[:, -1])
        return logits[:, list(languages)].softmax(1)
