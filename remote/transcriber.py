"""The way of one recording through the engine: windows, batches, text in the order of the file.

``Transcriber`` owns the way of a recording through the engine. Windows come from a reading
thread, are encoded a few at a time, decoded side by side, cut into segments and told to a sink in
the order of the file while later windows are still being read.

It must not know where models come from or what the segments are written to.
"""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from remote.alignment import Spoken, token_times
from remote.capacity import is_out_of_memory, rows_that_fit
from remote.chunking import Detector, WindowSettings
from remote.decoding import TEMPERATURES, Counters, Decoded, Decoder, Request, detect_languages
from remote.features import HOP, SAMPLE_RATE, LogMel
from remote.feed import Heard, WindowFeed, duration_ms
from remote.ledger import Ledger, Part
from remote.packing import no_memory
from remote.protocol import (
    ErrorCode,
    KnownError,
    Options,
    Segment,
    Source,
    Summary,
    Word,
)
from remote.rules import TokenRules, vocabulary_of
from remote.segments import Phrase, phrase_words, phrases, rest_of, to_segments
from remote.timing import StageClock, peak_memory_bytes
from remote.tokens import Tokenizer
from remote.whisper import Whisper

ENCODE_WINDOWS = 4
"""Windows encoded at once: enough to fill the processor, few enough for an early first text."""

ALIGN_WINDOWS = 4
"""Windows whose words are timed at once."""

LANGUAGE_WINDOWS = 5
"""Windows of speech that vote on the language of a file."""

TOKENS_PER_SECOND = 15
TOKENS_SPARE = 40
"""Most tokens of a window: its seconds times the first, plus the second. Fast English speech
takes 7 a second with its timestamps, scripts without letters of their own up to twice that."""

log = logging.getLogger(__name__)


class Sink(Protocol):
    """Hears what becomes of a recording while it happens, on the thread that transcribes."""

    def progress(self, stage: str, done_ms: int, total_ms: int | None) -> None:
        """So much of the recording is done; ``total_ms`` is None while its length is unknown."""

    def segments(self, segments: tuple[Segment, ...]) -> None:
        """More text, in time order within its channel."""


@dataclass(slots=True)
class _Job:
    """One recording on its way: features of the parts at work, by key, and what is decoded."""

    options: Options
    sink: Sink
    clock: StageClock
    feed: WindowFeed
    ledger: Ledger
    language: str
    cancelled: Callable[[], bool]
    audio: dict[int, Tensor]
    parts: dict[int, Part]
    finished: list[Decoded]
    language_probability: float = 1.0
    patient: bool = False

    def check(self) -> None:
        """Nothing, unless the job was cancelled: then KnownError."""
        if self.cancelled():
            raise KnownError(ErrorCode.CANCELLED, "The transcription was cancelled.")

    def waits(self) -> bool:
        """Whether the next window is worth waiting for."""
        self.check()
        return self.patient or not self.ledger.busy


class Transcriber:
    """Transcribes recordings with one model, one after another.

    Args:
        model: the Whisper.
        tokenizer: of the same model.
        detector: voice activity.
        rows: windows decoded side by side; None for what fits the device.
        settings: how speech is cut into windows.
    """

    def __init__(
        self,
        model: Whisper,
        tokenizer: Tokenizer,
        detector: Detector,
        *,
        rows: int | None = None,
        settings: WindowSettings | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.rows = rows or rows_that_fit(model)
        self._detector = detector
        self._settings = settings or WindowSettings()
        self._mel = LogMel(model.shape.n_mels, model.device)
        self._rules = TokenRules(vocabulary_of(tokenizer), timestamps=True, device=model.device)
        self._decoder: Decoder | None = None

    def transcribe(
        self,
        source: Source,
        options: Options,
        sink: Sink,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Summary:
        """What the recording was; its text goes to the sink as it is made.

        Raises:
            KnownError: the source cannot be read, an option does not suit the model, the device
                is out of memory even for one window, or the job was cancelled. Segments that
                the sink has heard stay valid.
        """
        begin = time.perf_counter()
        language = self._forced_language(options)
        clock = StageClock(str(self.model.device))
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.model.device)
        with WindowFeed(source, options, self._detector, clock, self._settings) as feed:
            ledger = Ledger(feed.tracks, sink.segments)
            job = _Job(options, sink, clock, feed, ledger, language, cancelled, {}, {}, [])
            work = self._run(job)
        return self._summary(job, work, time.perf_counter() - begin)

    def _forced_language(self, options: Options) -> str:
        """The code that decoding is to use; "" where it is to be detected. Checks the options."""
        if options.language is None and self.tokenizer.multilingual:
            self.tokenizer.prompt("en", options.task, True)
            return ""
        language = self.tokenizer.language_code(options.language or "en")
        self.tokenizer.prompt(language, options.task, True)
        return language

    def _run(self, job: _Job) -> Counters:
        """Decodes everything, with half the rows again and again where memory runs out."""
        work = Counters()
        heard = self._windows(job)
        while True:
            try:
                self._decode(job, work, heard)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve_rows(error)
                job.audio.clear()
                job.parts.clear()
                job.finished.clear()
                job.ledger.restart()
                continue
            if not job.ledger.busy:
                return work

    def _windows(self, job: _Job) -> Iterator[Heard | None]:
        """The windows as they are needed; that voice activity has too little memory is told."""
        try:
            yield from job.feed.windows(job.waits)
        except (MemoryError, RuntimeError) as error:  # what was heard so far is lost with it
            if not is_out_of_memory(error):
                raise
            raise no_memory(self.model.device, "voice activity does not fit") from error

    def _decode(self, job: _Job, work: Counters, heard: Iterator[Heard | None]) -> None:
        """Decodes until the recording is at its end; rests of the last windows may be left."""
        decoder = self._decoder or self._new_decoder()
        decoder.counters = work
        wanted = min(ALIGN_WINDOWS, self.rows) if job.options.words else 1
        results = decoder.run(self._requests(job, heard), job.check)
        while (decoded := _timed(job.clock, results)) is not None:
            job.finished.append(decoded)
            if len(job.finished) >= wanted:
                self._settle(job)
        self._settle(job)

    def _requests(self, job: _Job, heard: Iterator[Heard | None]) -> Iterator[list[Request]]:
        """Batches of encoded windows; an empty one where none is ready and others are at work."""
        while (parts := self._next_parts(job, heard, self._encoded_at_once)) is not None:
            job.check()
            if not parts:
                self._settle(job)  # rather than let text wait for what is still being read
            if parts and not job.language:
                job.patient = True
                parts += self._next_parts(job, heard, LANGUAGE_WINDOWS - len(parts)) or []
                job.patient = False
            if parts:
                self._encode(job, parts)
            if parts and not job.language:
                self._detect_language(job)
            yield [self._request(job, part) for part in parts]

    def _next_parts(self, job: _Job, heard: Iterator[Heard | None], most: int) -> list[Part] | None:
        """Up to ``most`` parts to decode, what is left over before what is new; None at the end."""
        parts: list[Part] = []
        while len(parts) < most and (part := job.ledger.again()):
            parts.append(part)
        if len(parts) >= most:
            return parts
        for item in heard:
            if item is None:
                return parts
            parts.append(job.ledger.open(item.track, item.window))
            if len(parts) >= most:
                return parts
        return parts or None

    @property
    def _encoded_at_once(self) -> int:
        return min(ENCODE_WINDOWS, self.rows)

    def _encode(self, job: _Job, parts: Sequence[Part]) -> None:
        for start in range(0, len(parts), self._encoded_at_once):
            some = parts[start : start + self._encoded_at_once]
            with job.clock.stage("mel"):
                mel = self._mel([part.window.samples for part in some]).to(self.model.dtype)
            with job.clock.stage("encode"), torch.inference_mode():
                audio = self.model.encode(mel)
            for part, features in zip(some, audio, strict=True):
                job.audio[part.key] = features
                job.parts[part.key] = part

    def _detect_language(self, job: _Job) -> None:
        """The language of the file: windows vote with their probabilities."""
        codes = list(self.tokenizer.languages)
        ids = [self.tokenizer.languages[code] for code in codes]
        batches = torch.stack(list(job.audio.values())).split(self._encoded_at_once)
        votes = torch.cat(
            [detect_languages(self.model, audio, self.tokenizer.sot, ids) for audio in batches]
        ).mean(0)
        best = int(votes.argmax())
        job.language, job.language_probability = codes[best], float(votes[best])

    def _request(self, job: _Job, part: Part) -> Request:
        options = job.options
        prompt = self.tokenizer.prompt(job.language, options.task, True, options.vocabulary)
        seconds = len(part.window.samples) / SAMPLE_RATE
        return Request(
            key=part.key,
            audio=job.audio[part.key],
            prompt=tuple(prompt),
            sot=prompt.index(self.tokenizer.sot),
            max_tokens=round(seconds * TOKENS_PER_SECOND) + TOKENS_SPARE,
            temperatures=TEMPERATURES if options.fallback else TEMPERATURES[:1],
        )

    def _settle(self, job: _Job) -> None:
        """Turns decoded windows into segments; what is in order goes out."""
        if not job.finished:
            return
        found: list[tuple[Decoded, tuple[Phrase, ...], int]] = []
        for decoded in job.finished:
            length = len(job.parts[decoded.request.key].window.samples)
            begin = self.tokenizer.timestamp_begin
            if decoded.silent:
                found.append((decoded, (), length))
            else:
                found.append(
                    (decoded, *phrases(decoded.tokens, begin, length, complete=decoded.complete))
                )
        words = self._words(job, found) if job.options.words else {}
        for decoded, said, reached in found:
            part = job.parts.pop(decoded.request.key)
            job.audio.pop(decoded.request.key)
            segments = to_segments(
                part.window,
                said,
                self.tokenizer,
                language="en" if job.options.task == "translate" else job.language,
                channel=part.track if job.options.channels == "split" else None,
                quality=decoded.quality,
                words=words.get(decoded.request.key),
            )
            job.ledger.settle(part, segments, rest_of(part.window, reached))
        job.finished.clear()
        total = job.feed.info.duration_ms
        job.sink.progress("generate", job.ledger.done_ms, total)

    def _words(
        self, job: _Job, found: Sequence[tuple[Decoded, tuple[Phrase, ...], int]]
    ) -> dict[int, list[tuple[Word, ...]]]:
        """Words of each phrase, by the key of the window."""
        spoken = [(decoded, said, reached) for decoded, said, reached in found if said]
        if not spoken:
            return {}
        with job.clock.stage("align"):
            times = token_times(
                self.model,
                [self._spoken(job, *window) for window in spoken],
                self.tokenizer.prompt(job.language, job.options.task, False),
                self.tokenizer.eot,
                self.tokenizer.alignment_heads,
            )
        words: dict[int, list[tuple[Word, ...]]] = {}
        for (decoded, said, _), begins in zip(spoken, times, strict=True):
            window, at = job.parts[decoded.request.key].window, 0
            words[decoded.request.key] = phrase_lists = []
            for phrase in said:
                size = len(phrase.tokens)
                sure = [2.718281828**p for p in decoded.token_logprobs[phrase.first :][:size]]
                phrase_lists.append(
                    phrase_words(
                        window, phrase, self.tokenizer, job.language,
                        begins[at : at + size + 1].tolist(), sure,
                    )
                )  # fmt: skip
                at += size
        return words

    def _spoken(self, job: _Job, decoded: Decoded, said: Sequence[Phrase], reached: int) -> Spoken:
        window = job.parts[decoded.request.key].window
        samples = reached if rest_of(window, reached) else len(window.samples)
        tokens = tuple(token for phrase in said for token in phrase.tokens)
        positions = min(self.model.shape.audio_ctx, -(-samples // (2 * HOP)))
        return Spoken(job.audio[decoded.request.key], tokens, positions)

    def _new_decoder(self) -> Decoder:
        tokenizer = self.tokenizer
        self._decoder = Decoder(
            self.model,
            self._rules,
            eot=tokenizer.eot,
            no_speech=tokenizer.no_speech,
            timestamp_begin=tokenizer.timestamp_begin,
            text_of=tokenizer.decode,
            rows=self.rows,
        )
        return self._decoder

    def _halve_rows(self, error: BaseException) -> None:
        """Fewer windows side by side from now on.

        Raises:
            KnownError: OUT_OF_MEMORY where there was but one.
        """
        self._decoder = None
        if self.rows == 1:
            raise no_memory(self.model.device, "not even one window fits") from error
        self.rows //= 2
        log.warning("out of memory: going on with %d windows side by side", self.rows)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _summary(self, job: _Job, work: Counters, wall_s: float) -> Summary:
        feed, ledger = job.feed, job.ledger
        cuda = self.model.device.type == "cuda"
        return Summary(
            duration_ms=duration_ms(feed.decoded_samples),
            speech_ms=duration_ms(feed.speech_samples),
            covered_ms=duration_ms(ledger.covered_samples),
            gaps=tuple(sorted(ledger.gaps, key=lambda gap: gap.start_ms)),
            language=job.language,
            language_probability=round(job.language_probability, 4),
            stages=job.clock.times(),
            wall_s=wall_s,
            windows=ledger.windows,
            fallbacks=work.fallbacks,
            tokens=work.tokens,
            peak_memory_bytes=peak_memory_bytes(),
            device_memory_bytes=torch.cuda.max_memory_allocated() if cuda else 0,
            warnings=feed.warnings,
        )


def _timed(clock: StageClock, results: Iterator[Decoded]) -> Decoded | None:
    """The next result; its seconds go to "generate", less those of the stages within."""
    before, begin = _seconds_within(clock), time.perf_counter()
    try:
        return next(results, None)
    finally:
        within = _seconds_within(clock) - before
        clock.add("generate", max(0.0, time.perf_counter() - begin - within))


def _seconds_within(clock: StageClock) -> float:
    seconds = clock.times().seconds
    return sum(seconds.get(name, 0.0) for name in ("vad", "mel", "encode", "align"))
