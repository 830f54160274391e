"""From a window's tokens to Segments in file time, and to what the model left unsaid.

The model marks its segments by pairs of timestamps. What it says it did not finish, or what
voice activity heard after its last word, is the window's rest: it is decoded again by itself,
so that speech does not go missing after a pause. Pure rules; no model, no tensors.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from remote.chunking import Piece, Span, Window
from remote.features import SAMPLE_RATE
from remote.protocol import Quality, Segment, Word
from remote.tokens import Tokenizer, merge_punctuation

SAMPLES_PER_STEP = SAMPLE_RATE // 50
"""A timestamp counts steps of 20 ms."""

MIN_REST_SPEECH = SAMPLE_RATE
"""Speech after the last word that is worth another look: one second."""

_PER_MS = SAMPLE_RATE // 1000


@dataclass(frozen=True, slots=True)
class Phrase:
    """Text tokens between two timestamps; times in samples of the window.

    ``first`` is the index of its first token among the window's generated tokens.
    """

    start: int
    end: int
    tokens: tuple[int, ...]
    first: int


def phrases(
    tokens: Sequence[int], timestamp_begin: int, length: int, *, complete: bool
) -> tuple[tuple[Phrase, ...], int]:
    """The phrases of a window, and the sample up to which the model has dealt with it.

    Args:
        tokens: generated, timestamps among them.
        timestamp_begin: id of the timestamp 0.00.
        length: samples in the window; times beyond are cut to it.
        complete: False where the text was cut off: then an unclosed phrase is left to the rest,
            unless it is all there is.
    """
    found: list[Phrase] = []
    start, reached, first, text = 0, 0, 0, list[int]()
    for i, token in enumerate(tokens):
        if token < timestamp_begin:
            first = i if not text else first
            text.append(token)
            continue
        at = min((token - timestamp_begin) * SAMPLES_PER_STEP, length)
        if text:
            found.append(Phrase(start, max(at, start), tuple(text), first))
            text = []
        start = reached = at
    if text and (complete or not found):
        found.append(Phrase(start, length, tuple(text), first))
        reached = length
    return tuple(found), reached


def rest_of(window: Window, reached: int) -> Window | None:
    """The part of a window from sample ``reached`` on, if enough speech is left in it."""
    if reached <= 0:
        return None
    cut = window.file_sample(reached)
    speech = tuple(Span(max(span.start, cut), span.end) for span in window.speech if span.end > cut)
    if sum(span.end - span.start for span in speech) < MIN_REST_SPEECH:
        return None
    pieces: list[Piece] = []
    for piece in window.pieces:
        end = piece.file_start + piece.length
        if end > cut:
            start = max(piece.file_start, cut)
            pieces.append(Piece(start, end - start))
    length = sum(piece.length for piece in pieces)
    return replace(window, samples=window.samples[-length:], pieces=tuple(pieces), speech=speech)


def to_segments(
    window: Window,
    found: Iterable[Phrase],
    tokenizer: Tokenizer,
    *,
    language: str,
    channel: int | None,
    quality: Quality,
    words: Sequence[tuple[Word, ...]] | None = None,
) -> tuple[Segment, ...]:
    """The Segments of a window's phrases; those without text are left out.

    Args:
        window: for the way from window time to file time.
        found: its phrases.
        tokenizer: of the model.
        language: code to note.
        channel: to note.
        quality: of the window.
        words: of each phrase, in file time; they set the times of the segment.
    """
    segments: list[Segment] = []
    for i, phrase in enumerate(found):
        text = tokenizer.decode(phrase.tokens).strip()
        if not text:
            continue
        start, end = in_speech(window, phrase.start, phrase.end)
        spoken = words[i] if words else ()
        if spoken:
            start, end = spoken[0].start_ms, spoken[-1].end_ms
        segments.append(Segment(start, max(start, end), text, spoken, channel, language, quality))
    return tuple(segments)


def phrase_words(
    window: Window,
    phrase: Phrase,
    tokenizer: Tokenizer,
    language: str,
    times: Sequence[float],
    probabilities: Sequence[float],
) -> tuple[Word, ...]:
    """The words of a phrase with their times in the file.

    Args:
        window: for the way from window time to file time.
        phrase: whose words.
        tokenizer: of the model.
        language: decides whether words are told apart by spaces.
        times: seconds in the window at which each of its tokens begins, and the end of the last.
        probabilities: of each token.
    """
    split = tokenizer.split_words(list(phrase.tokens), language)
    ends = list(accumulate(len(ids) for _, ids in split))
    words: list[Word] = []
    for text, i in merge_punctuation([text for text, _ in split]):
        first, last = ends[i] - len(split[i][1]), ends[i]
        start, end = in_speech(
            window, round(times[first] * SAMPLE_RATE), round(times[last] * SAMPLE_RATE)
        )
        mean = sum(probabilities[first:last]) / (last - first)
        words.append(Word(start, max(start, end), text, round(mean, 4)))
    return tuple(word for word in words if word.text.strip())


def in_speech(window: Window, start: int, end: int) -> tuple[int, int]:
    """Window samples as file milliseconds, moved out of silence into the speech they belong to.

    A time that the model puts into a pause is off by as much: voice activity knows better where
    speech starts and ends. A start in silence moves to the next speech, an end to the last,
    where that leaves something between them.
    """
    first, last = window.file_sample(start), window.file_sample(end, end=True)
    after = next((span.start for span in window.speech if span.end > first), first)
    before = next((span.end for span in reversed(window.speech) if span.start < last), last)
    if first < after < last:
        first = after
    if first < before < last:
        last = before
    return round(first / _PER_MS), round(last / _PER_MS)


def uncovered(speech: Iterable[Span], segments: Iterable[Segment]) -> list[Span]:
    """Stretches of ``speech`` (samples of the file) that no segment covers."""
    left = list(speech)
    for segment in segments:
        start, end = segment.start_ms * _PER_MS, segment.end_ms * _PER_MS
        parts = [
            part
            for span in left
            for part in (
                Span(span.start, min(span.end, start)),
                Span(max(span.start, end), span.end),
            )
        ]
        left = [part for part in parts if part.start < part.end]
    return left
