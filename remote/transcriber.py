"""The way of recordings through the engine: windows, batches, text in the order of each file.

Windows come from reading threads, are encoded a few at a time, decoded side by side, and settled
while later windows are still being read. Any number of recordings share the device: they take
turns window by window, so that a short one does not wait behind a long one, and one that fails
ends alone.

It must not know where models come from or what the segments are written to.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch

from remote.capacity import is_out_of_memory, rows_that_fit
from remote.chunking import Detector, WindowSettings
from remote.decoding import TEMPERATURES, Decoded, Decoder, Request, detect_languages
from remote.features import SAMPLE_RATE, LogMel
from remote.feed import Reader, WindowFeed, open_source
from remote.inbox import Alone, Inbox
from remote.ledger import Part
from remote.packing import no_memory
from remote.protocol import KnownError, Options, Source, Summary
from remote.recording import Recording, bug, cancelled
from remote.rules import TokenRules, vocabulary_of
from remote.sink import Past, Sink
from remote.timing import StageClock
from remote.tokens import Tokenizer
from remote.whisper import Whisper
from remote.writing import Writer

ENCODE_WINDOWS = 4
"""Windows encoded at once: enough to fill the processor, few enough for an early first text."""

LONG_MS = 120_000
FIRST_WINDOW_S = 10.0
"""The first window of a recording of two minutes or more is short, so that its text is there
early. In a shorter one it would cost context, and so accuracy; in these it is one cut more."""

ALIGN_WINDOWS = 4
"""Windows of a recording whose words are timed at once."""

TOKENS_PER_SECOND = 15
TOKENS_SPARE = 40
"""Most tokens of a window: its seconds times the first, plus the second. Fast English speech
takes 7 a second with its timestamps, scripts without letters of their own up to twice that."""

_LOOK_S = 0.1
"""Seconds between two looks at recordings of which nothing can be decoded yet."""

_WITHIN = ("vad", "mel", "encode", "align")
"""Stages that happen while the next result is waited for."""

Work = tuple[Recording, Part]

log = logging.getLogger(__name__)


class Transcriber:
    """Transcribes recordings with one model, any number side by side.

    Args:
        model: the Whisper.
        tokenizer: of the same model.
        detector: voice activity.
        rows: windows decoded side by side; None for what fits the device.
        settings: how speech is cut into windows.
        hear_aside: voice activity has threads of its own; by default where the model is not on
            the CPU.
    """

    def __init__(
        self,
        model: Whisper,
        tokenizer: Tokenizer,
        detector: Detector,
        *,
        rows: int | None = None,
        settings: WindowSettings | None = None,
        hear_aside: bool | None = None,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.rows = rows or rows_that_fit(model)
        self.wake = threading.Event()
        self._detector = detector
        self._settings = settings or WindowSettings()
        self._aside = model.device.type != "cpu" if hear_aside is None else hear_aside
        self._mel = LogMel(model.shape.n_mels, model.device)
        self._rules = TokenRules(vocabulary_of(tokenizer), timestamps=True, device=model.device)
        self._writer = Writer(model, tokenizer)
        self._decoder: Decoder | None = None
        self._at_work: deque[Recording] = deque()
        self._alone: Recording | None = None

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
        self.language_of(options)
        outcome: list[Summary | KnownError] = []
        clock = self.clock()
        with self.feed(open_source(source, options, clock), options, clock) as feed:
            recording = self.recording(
                feed, options, sink, clock, ended=outcome.append, cancelled=cancelled
            )
            self.run(Alone(recording))
        if isinstance(outcome[0], KnownError):
            raise outcome[0]
        return outcome[0]

    def clock(self) -> StageClock:
        """A clock for the stages of one recording."""
        return StageClock(str(self.model.device))

    def feed(self, reader: Reader, options: Options, clock: StageClock) -> WindowFeed:
        """The windows of an opened recording, to be entered before it is decoded."""
        settings = self._settings
        if (reader.info.duration_ms or 0) >= LONG_MS:
            settings = replace(settings, first_window_s=FIRST_WINDOW_S)
        return WindowFeed(
            reader, options, self._detector, clock, settings, self.wake.set, self._aside
        )

    def recording(
        self,
        feed: WindowFeed,
        options: Options,
        sink: Sink,
        clock: StageClock,
        *,
        past: Past | None = None,
        ended: Callable[[Summary | KnownError], None],
        cancelled: Callable[[], bool],
    ) -> Recording:
        """A recording that ``run`` can take; may be called on any thread.

        Raises:
            KnownError: an option does not suit the model.
        """
        language = self.language_of(options)
        return Recording(
            feed, options, sink, clock,
            language=language, past=past, ended=ended, is_cancelled=cancelled,
        )  # fmt: skip

    def run(self, inbox: Inbox) -> None:
        """Decodes recordings until the inbox is closed and every one it gave has ended."""
        if self.model.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.model.device)
        while True:
            try:
                self._decode(inbox)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                self._halve_rows(error)
            else:
                return

    def language_of(self, options: Options) -> str:
        """The code that decoding is to use; "" where it is to be detected. Checks the options."""
        if options.language is None and self.tokenizer.multilingual:
            self.tokenizer.prompt("en", options.task, True)
            return ""
        language = self.tokenizer.language_code(options.language or "en")
        self.tokenizer.prompt(language, options.task, True)
        return language

    # ── the device ──────────────────────────────────────────────────────────────────────────

    def _decode(self, inbox: Inbox) -> None:
        """Decodes until the inbox is closed and nothing is left at work."""
        decoder = self._decoder or self._new_decoder()
        results = decoder.run(self._requests(inbox))
        while (decoded := self._timed(inbox, results)) is not None:
            recording: Recording = decoded.request.owner
            recording.finished.append(decoded)
            self._alone = None
            words = recording.options.words and recording.told
            if len(recording.finished) >= (min(ALIGN_WINDOWS, self.rows) if words else 1):
                self._settle(recording)

    def _timed(self, inbox: Inbox, results: Iterator[Decoded]) -> Decoded | None:
        """The next result; the seconds it took go to those recordings that had rows at work."""
        rows = {r: len(r.parts) for r in self._at_work}
        before, begin = _seconds_within(rows), time.perf_counter()
        self._idle_s = 0.0
        try:
            return next(results, None)
        finally:
            spent = max(0.0, time.perf_counter() - begin - self._idle_s)
            inbox.worked(spent)
            rows |= {r: max(rows.get(r, 0), len(r.parts)) for r in self._at_work}
            generating = max(0.0, spent - _seconds_within(rows) + before)
            for recording, count in rows.items():
                recording.clock.add("generate", generating * count / max(1, sum(rows.values())))

    def _requests(self, inbox: Inbox) -> Iterator[list[Request]]:
        """Batches of encoded windows; an empty one where none is ready and others are at work."""
        while self._turn(inbox):
            work = self._next_work()
            for recording in self._at_work:
                if not work or not recording.parts.keys() - _keys(recording.finished):
                    self._settle(recording)  # rather than let text wait for what is to come
            if not work and not any(recording.parts for recording in self._at_work):
                self._rest()
                continue
            if work:
                self._encode(work)
            yield [self._request(*item) for item in work if item[0].wanted]

    def _turn(self, inbox: Inbox) -> bool:
        """Takes in what is new and lets go of what is over; False where nothing is left to do."""
        while (recording := inbox.next()) is not None:
            if not self._at_work:
                self._alone = recording
            self._at_work.append(recording)
        for recording in list(self._at_work):
            if recording.cancelled:
                recording.fail(cancelled())
            elif recording.wanted and not recording.finished and recording.complete:
                recording.end(self._device_memory())
            if not recording.wanted:
                self._at_work.remove(recording)
        return bool(self._at_work) or inbox.open

    def _rest(self) -> None:
        """Waits until something may be ready."""
        begin = time.perf_counter()
        self.wake.wait(_LOOK_S)
        self.wake.clear()
        self._idle_s += time.perf_counter() - begin

    def _next_work(self) -> list[Work]:
        """Up to so many parts as are encoded at once; recordings take turns, part by part.

        The first window of a recording that has the device for itself goes alone, so that its
        text is there early: each step is quicker the fewer rows take part.
        """
        first = self._alone if self._alone in self._at_work else None
        if first is not None and first.parts:
            return []
        most = 1 if first is not None else self._encoded_at_once
        work: list[Work] = []
        passed = 0
        while len(work) < most and passed < len(self._at_work):
            recording = self._at_work[0]
            self._at_work.rotate(-1)
            with self._guarded(recording, "voice activity does not fit"):
                parts = recording.next_parts(1)
                work += [(recording, part) for part in parts]
                passed = 0 if parts else passed + 1
            if not recording.wanted:
                passed += 1
        return work

    @property
    def _encoded_at_once(self) -> int:
        return min(ENCODE_WINDOWS, self.rows)

    def _encode(self, work: Sequence[Work]) -> None:
        for start in range(0, len(work), self._encoded_at_once):
            some = work[start : start + self._encoded_at_once]
            with self._shared(some, "mel"):
                mel = self._mel([part.window.samples for _, part in some]).to(self.model.dtype)
            with self._shared(some, "encode"), torch.inference_mode():
                audio = self.model.encode(mel)
            for (recording, part), features in zip(some, audio, strict=True):
                recording.audio[part.key] = features
                recording.parts[part.key] = part
        for recording in dict.fromkeys(recording for recording, _ in work):
            if not recording.language:
                self._detect_language(recording)

    @contextmanager
    def _shared(self, work: Sequence[Work], stage: str) -> Iterator[None]:
        """The seconds of the block go to this stage of the recordings, by their parts."""
        clock = self.clock()
        with clock.stage(stage):
            yield
        for recording, _ in work:
            recording.clock.add(stage, clock.times().seconds[stage] / len(work))

    def _detect_language(self, recording: Recording) -> None:
        """The language of the file: windows vote with their probabilities."""
        codes = list(self.tokenizer.languages)
        ids = [self.tokenizer.languages[code] for code in codes]
        batches = torch.stack(list(recording.audio.values())).split(self._encoded_at_once)
        votes = torch.cat(
            [detect_languages(self.model, audio, self.tokenizer.sot, ids) for audio in batches]
        ).mean(0)
        best = int(votes.argmax())
        with self._guarded(recording):
            recording.heard_as(codes[best], float(votes[best]))

    def _request(self, recording: Recording, part: Part) -> Request:
        options = recording.options
        prompt = self.tokenizer.prompt(recording.language, options.task, True, options.vocabulary)
        seconds = len(part.window.samples) / SAMPLE_RATE
        return Request(
            key=part.key,
            audio=recording.audio[part.key],
            prompt=tuple(prompt),
            sot=prompt.index(self.tokenizer.sot),
            max_tokens=round(seconds * TOKENS_PER_SECOND) + TOKENS_SPARE,
            temperatures=TEMPERATURES if options.fallback else TEMPERATURES[:1],
            owner=recording,
            wanted=lambda: recording.wanted,
        )

    def _settle(self, recording: Recording) -> None:
        with self._guarded(recording):
            self._writer.settle(recording)

    @contextmanager
    def _guarded(self, recording: Recording, too_large: str = "") -> Iterator[None]:
        """What goes wrong with one recording ends it and no other.

        Too little memory is everybody's affair, except where ``too_large`` says what did not fit
        and the recording has lost its place by that.
        """
        try:
            yield
        except KnownError as error:
            recording.fail(error)
        except Exception as error:
            if is_out_of_memory(error):
                if not too_large:
                    raise
                recording.fail(no_memory(self.model.device, too_large))
                return
            log.exception("a bug")
            recording.fail(bug(error))

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
        """Fewer windows side by side from now on; where there was but one, every recording ends.

        Raises:
            KnownError: OUT_OF_MEMORY where there is nothing that could be left out.
        """
        self._decoder = None
        if self.rows == 1:
            too_little = no_memory(self.model.device, "not even one window fits")
            if not self._at_work:
                raise too_little from error
            for recording in self._at_work:
                recording.fail(too_little)
            return
        for recording in self._at_work:
            recording.decode_again()
        self.rows //= 2
        log.warning("out of memory: going on with %d windows side by side", self.rows)
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def _device_memory(self) -> int:
        cuda = self.model.device.type == "cuda"
        return torch.cuda.max_memory_allocated() if cuda else 0


def _seconds_within(recordings: Collection[Recording]) -> float:
    return sum(
        recording.clock.times().seconds.get(name, 0.0)
        for recording in recordings
        for name in _WITHIN
    )


def _keys(finished: Sequence[Decoded]) -> set[int]:
    return {decoded.request.key for decoded in finished}
