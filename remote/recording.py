"""One recording on its way through the engine: what is read, at work, settled and told.

A Recording belongs to the thread that decodes. What
was settled before a crash comes back as its ``Past`` and is not decoded again. It must not touch
the model.
"""

import time
from collections.abc import Callable

from torch import Tensor

from remote.decoding import Decoded
from remote.feed import WindowFeed, duration_ms
from remote.ledger import Ledger, Part
from remote.protocol import ErrorCode, KnownError, Options, Segment, Summary
from remote.segments import rest_of
from remote.sink import Past, Settled, Sink
from remote.timing import StageClock, peak_memory_bytes

LANGUAGE_WINDOWS = 5
"""Windows of speech that vote on the language of a file."""


class Recording:
    """One recording, opened and read from.

    Args:
        feed: its windows; read from already, and stopped when the recording ends.
        options: of its transcription.
        sink: is told what becomes of it.
        clock: seconds by stage; the feed has the same.
        language: code that decoding is to use; "" where it is to be detected.
        past: what is known of it from before.
        ended: is handed the summary, or the error, on the decoding thread.
        is_cancelled: whether it is to end without more text; asked at each look at the rows.
    """

    def __init__(
        self,
        feed: WindowFeed,
        options: Options,
        sink: Sink,
        clock: StageClock,
        *,
        language: str,
        past: Past | None = None,
        ended: Callable[[Summary | KnownError], None],
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        past = past or Past()
        self.options = options
        self.sink = sink
        self.clock = clock
        self.language = language or past.language
        self.audio: dict[int, Tensor] = {}
        self.finished: list[Decoded] = []
        self.parts: dict[int, Part] = {}
        self.told = 0
        self._language_probability = past.language_probability
        self._feed = feed
        self._past = past
        self._unsaid = dict(past.told)
        self._ledger = Ledger(feed.tracks, self._publish)
        self._ended = ended
        self._over = False
        self._is_cancelled = is_cancelled
        self._unheard: list[Part] = []
        self._begin = time.perf_counter()
        self._tokens = self._fallbacks = 0

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for its text."""
        return not self._over and not self._is_cancelled()

    @property
    def cancelled(self) -> bool:
        """Whether it is to end without more text."""
        return self._is_cancelled()

    @property
    def complete(self) -> bool:
        """Whether every part of it is settled and no more will come."""
        return self._feed.exhausted and not self._ledger.busy and not self._unheard

    def next_parts(self, most: int) -> list[Part]:
        """Up to ``most`` parts to decode now, what is left over before what is new.

        While the language is unknown: all that vote on it at once, or none yet.

        Raises:
            KnownError: reading broke off.
        """
        if not self.language:
            return self._voters()
        parts: list[Part] = []
        while len(parts) < most and (part := self._next_part()) is not None:
            parts.append(part)
        return parts

    def _voters(self) -> list[Part]:
        while len(self._unheard) < LANGUAGE_WINDOWS and (part := self._next_part()) is not None:
            self._unheard.append(part)
        if len(self._unheard) < LANGUAGE_WINDOWS and not self._feed.exhausted:
            return []
        parts, self._unheard = self._unheard, []
        return parts

    def _next_part(self) -> Part | None:
        """The next part whose text is not known from before."""
        while True:
            part = self._ledger.again()
            if part is None:
                heard = self._feed.next()
                if heard is None:
                    return None
                part = self._ledger.open(heard.track, heard.window)
            known = self._past.settled.get(part.key)
            if known is None:
                return part
            self._note(part, known)

    def heard_as(self, language: str, probability: float) -> None:
        """Nothing; the language was detected."""
        self.language, self._language_probability = language, round(probability, 4)
        self.sink.language(language, self._language_probability)

    def settle(self, part: Part, settled: Settled) -> None:
        """Notes a part that was decoded now; what is in order is told."""
        self.sink.settled(settled)
        self._note(part, settled)

    def _note(self, part: Part, settled: Settled) -> None:
        self._tokens += settled.tokens
        self._fallbacks += settled.fallback
        self._ledger.settle(part, settled.segments, rest_of(part.window, settled.reached))

    def tell_progress(self) -> None:
        """Tells how far the text has come."""
        total_ms = self._feed.info.duration_ms
        if self._feed.ended:
            total_ms = duration_ms(self._feed.decoded_samples)
        self.sink.progress("generate", self._ledger.done_ms, total_ms)

    def _publish(self, segments: tuple[Segment, ...]) -> None:
        """Tells segments, but for those that were told before the engine started again."""
        new = []
        for segment in segments:
            before = self._unsaid.get(segment.channel, 0)
            if before:
                self._unsaid[segment.channel] = before - 1
            else:
                new.append(segment)
        self.told += len(segments)
        if new:
            self.sink.segments(tuple(new))

    def decode_again(self) -> None:
        """What was at work has been lost with the device's memory: it goes round once more."""
        self.audio.clear()
        self.parts.clear()
        self.finished.clear()
        unheard = {part.key for part in self._unheard}
        self._ledger.restart(without=unheard)

    def end(self, device_memory_bytes: int = 0) -> None:
        """The end of a complete recording."""
        self._finish(self._summary(device_memory_bytes))

    def fail(self, error: KnownError) -> None:
        """The end of any other; what was told stays valid."""
        self._finish(error)

    def _finish(self, outcome: Summary | KnownError) -> None:
        if self._over:
            return
        self._over = True
        self._feed.stop()
        self.audio.clear()
        self.parts.clear()
        self._ended(outcome)

    @property
    def wall_s(self) -> float:
        """Seconds since it was opened, and those of before the engine started again."""
        return self._past.wall_s + time.perf_counter() - self._begin

    def _summary(self, device_memory_bytes: int) -> Summary:
        feed, ledger = self._feed, self._ledger
        return Summary(
            duration_ms=duration_ms(feed.decoded_samples),
            speech_ms=duration_ms(feed.speech_samples),
            covered_ms=duration_ms(ledger.covered_samples),
            gaps=tuple(sorted(ledger.gaps, key=lambda gap: gap.start_ms)),
            language=self.language,
            language_probability=self._language_probability,
            stages=self.clock.times(),
            wall_s=self.wall_s,
            windows=ledger.windows,
            fallbacks=self._fallbacks,
            tokens=self._tokens,
            peak_memory_bytes=peak_memory_bytes(),
            device_memory_bytes=device_memory_bytes,
            warnings=feed.warnings,
        )


def cancelled() -> KnownError:
    """The error of a recording that nobody wants any more."""
    return KnownError(ErrorCode.CANCELLED, "The transcription was cancelled.")


def bug(error: Exception) -> KnownError:
    """The error of a recording that met a mistake of ours."""
    return KnownError(
        ErrorCode.BUG,
        f"The engine has a bug: {type(error).__name__}: {error}.",
        "Please report it with the log.",
    )
