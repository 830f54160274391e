"""From tokens to segments of the file, for every way in which a window's text may end."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.chunking import Piece, Span, Window
from remote.protocol import Quality, Segment, Word
from remote.segments import (
    MIN_REST_SPEECH,
    SAMPLES_PER_STEP,
    Phrase,
    in_speech,
    phrase_words,
    phrases,
    rest_of,
    to_segments,
    uncovered,
)
from remote.tokens import Tokenizer
from tests.remote.model_factory import write_model

BEGIN = 1000
LENGTH = 30 * 16_000
SECOND = 16_000


def at(seconds: float) -> int:
    """The timestamp token."""
    return BEGIN + round(seconds * 50)


def found(*tokens: int, complete: bool = True, length: int = LENGTH) -> list[tuple[object, ...]]:
    """Phrases as (start s, end s, tokens, index of the first), and the second reached."""
    said, reached = phrases(tokens, BEGIN, length, complete=complete)
    as_rows = [(p.start / SECOND, p.end / SECOND, p.tokens, p.first) for p in said]
    return [*as_rows, (reached / SECOND,)]


# ── phrases ──────────────────────────────────────────────────────────────────────────────────


def test_phrases_stand_between_pairs_of_timestamps() -> None:
    assert found(at(0), 1, 2, at(2), at(2.5), 3, at(4), at(4)) == [
        (0.0, 2.0, (1, 2), 1),
        (2.5, 4.0, (3,), 5),
        (4.0,),
    ]


def test_a_single_timestamp_at_the_end_is_how_far_the_model_got() -> None:
    assert found(at(1), 1, at(3)) == [(1.0, 3.0, (1,), 1), (3.0,)]


def test_a_text_that_ends_without_a_timestamp_goes_on_to_the_end_of_the_window() -> None:
    assert found(at(1), 1, at(3), at(3.2), 2, 3) == [
        (1.0, 3.0, (1,), 1),
        (3.2, 30.0, (2, 3), 4),
        (30.0,),
    ]
    assert found(1, 2) == [(0.0, 30.0, (1, 2), 0), (30.0,)]


def test_a_phrase_that_was_cut_off_is_left_to_the_rest() -> None:
    assert found(at(1), 1, at(3), at(3), 2, 3, complete=False) == [(1.0, 3.0, (1,), 1), (3.0,)]


def test_a_text_that_was_cut_off_in_its_only_phrase_is_kept() -> None:
    assert found(at(1), 1, 2, complete=False) == [(1.0, 30.0, (1, 2), 1), (30.0,)]


def test_nothing_said_is_nothing_reached() -> None:
    assert found() == [(0.0,)]
    assert found(at(0)) == [(0.0,)]


def test_times_beyond_the_window_are_cut_to_it() -> None:
    assert found(at(0), 1, at(28), length=10 * SECOND) == [(0.0, 10.0, (1,), 1), (10.0,)]


@given(
    st.lists(st.one_of(st.integers(0, 9), st.integers(BEGIN, BEGIN + 1500)), max_size=20),
    st.integers(1, LENGTH),
    st.booleans(),
)
def test_whatever_was_generated_phrases_are_in_the_window_and_hold_each_token_once(
    tokens: list[int], length: int, complete: bool
) -> None:
    said, reached = phrases(tokens, BEGIN, length, complete=complete)
    assert 0 <= reached <= length
    for phrase in said:
        assert 0 <= phrase.start <= phrase.end <= length
        assert tuple(tokens[phrase.first :][: len(phrase.tokens)]) == phrase.tokens
    kept = [token for phrase in said for token in phrase.tokens]
    text = [token for token in tokens if token < BEGIN]
    assert kept == (text if complete else text[: len(kept)])


# ── the rest of a window ─────────────────────────────────────────────────────────────────────


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """A window spliced from stretches of a file in which each sample is its own number."""
    pieces: list[Piece] = []
    speech: list[Span] = []
    end = 0
    gap, long = st.integers(1, 4000), st.integers(1, 3 * SECOND)
    for before, length in draw(st.lists(st.tuples(gap, long), min_size=1, max_size=4)):
        start = end + before
        end = start + length
        pieces.append(Piece(start, length))
        edges = draw(st.lists(st.integers(start, end), max_size=4, unique=True).map(sorted))
        speech += [Span(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    samples = np.concatenate([np.arange(p.file_start, p.file_start + p.length) for p in pieces])
    return Window(3, samples.astype(np.int16), tuple(pieces), tuple(speech))


def spoken(window: Window) -> int:
    return sum(span.end - span.start for span in window.speech)


@given(windows(), st.integers(-5, 13 * SECOND))
def test_a_rest_is_what_follows_of_samples_pieces_and_speech(window: Window, reached: int) -> None:
    rest = rest_of(window, reached)
    cut = window.file_sample(reached)
    left = sum(max(0, span.end - max(span.start, cut)) for span in window.speech)
    assert (rest is not None) == (reached > 0 and left >= MIN_REST_SPEECH)
    if rest is None:
        return
    assert rest.index == window.index
    assert rest.samples.tolist() == window.samples[reached:].tolist()
    expected = [
        np.arange(piece.file_start, piece.file_start + piece.length) for piece in rest.pieces
    ]
    assert rest.samples.tolist() == np.concatenate(expected).astype(np.int16).tolist()
    assert spoken(rest) == left
    assert rest.file_sample(0) == cut
    for at_sample in (0, 1, len(rest.samples) // 2, len(rest.samples) - 1):
        assert rest.file_sample(at_sample) == window.file_sample(reached + at_sample)


@given(windows(), st.lists(st.integers(1, 2 * SECOND), max_size=6))
def test_rests_of_rests_come_to_an_end(window: Window, steps: list[int]) -> None:
    rest: Window | None = window
    for step in steps:
        if rest is None:
            return
        shorter = rest_of(rest, step)
        assert shorter is None or len(shorter.samples) == len(rest.samples) - step
        rest = shorter


# ── times in the file ────────────────────────────────────────────────────────────────────────

# Heard: 10-12 s and 13-15 s of the file, spliced to half a second of pause between them.
SPLICED = Window(
    0,
    np.zeros(5 * SECOND, np.int16),
    (Piece(158_000, 38_000), Piece(206_000, 42_000)),
    (Span(160_000, 192_000), Span(208_000, 240_000)),
)


def ms(start_s: float, end_s: float) -> tuple[int, int]:
    """Where a stretch of the window is in the file."""
    return in_speech(SPLICED, round(start_s * SECOND), round(end_s * SECOND))


def test_a_time_in_speech_stays_where_it_is() -> None:
    assert ms(1.125, 1.625) == (11_000, 11_500)


def test_a_start_in_silence_moves_to_the_speech_after_it_and_an_end_to_that_before_it() -> None:
    assert ms(0.0, 1.0) == (10_000, 10_875)
    assert ms(1.0, 2.3) == (10_875, 12_000)
    assert ms(2.2, 4.8) == (13_000, 15_000)


def test_what_is_wholly_in_silence_stays_there() -> None:
    assert ms(4.55, 4.9) == (15_050, 15_400)


def test_a_phrase_that_ends_at_a_splice_ends_before_the_pause() -> None:
    assert ms(2.0, 2.375) == (11_875, 12_000)


@given(windows(), st.integers(0, 13 * SECOND), st.integers(0, 13 * SECOND))
def test_times_stay_within_what_the_model_said(window: Window, one: int, other: int) -> None:
    start, end = sorted((one, other))
    first, last = in_speech(window, start, end)
    lowest, highest = window.file_sample(start), window.file_sample(end, end=True)
    if lowest < highest:
        assert lowest // 16 <= first <= last <= highest // 16 + 1


@given(windows(), st.lists(st.integers(0, 13 * SECOND), min_size=2, max_size=9).map(sorted))
def test_one_after_another_in_the_window_is_so_in_the_file(window: Window, when: list[int]) -> None:
    spans = [in_speech(window, start, end) for start, end in pairwise(when)]
    spans = [(start, max(start, end)) for start, end in spans]
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start


# ── segments and words ───────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_folder(write_model(tmp_path_factory.mktemp("model")))


def phrase(tokenizer: Tokenizer, text: str, start_s: float, end_s: float) -> Phrase:
    return Phrase(round(start_s * SECOND), round(end_s * SECOND), tuple(tokenizer.encode(text)), 1)


def test_segments_have_their_phrases_times_and_no_space_around_their_text(
    tokenizer: Tokenizer,
) -> None:
    quality = Quality(-0.5, 1.2, 0.1, 0.2)
    said = [phrase(tokenizer, " the house", 0.5, 1.5), phrase(tokenizer, " a fox", 2.5, 4.0)]
    assert to_segments(
        SPLICED, said, tokenizer, language="en", channel=1, quality=quality
    ) == (
        Segment(10_375, 11_375, "the house", (), 1, "en", quality),
        Segment(13_000, 14_500, "a fox", (), 1, "en", quality),
    )  # fmt: skip


def test_phrases_without_text_are_no_segments(tokenizer: Tokenizer) -> None:
    said = [phrase(tokenizer, "  ", 0.5, 1.5), Phrase(0, SECOND, (tokenizer.sot,), 1)]
    assert to_segments(
        SPLICED, said, tokenizer, language="en", channel=None, quality=Quality()
    ) == ()  # fmt: skip


def test_words_set_the_times_of_their_segment(tokenizer: Tokenizer) -> None:
    said = [phrase(tokenizer, " the house", 0.0, 4.0), phrase(tokenizer, " fox", 4.0, 4.2)]
    words = (Word(10_500, 10_900, " the"), Word(10_900, 11_700, " house"))
    first, second = to_segments(
        SPLICED,
        said,
        tokenizer,
        language="en",
        channel=None,
        quality=Quality(),
        words=[words, ()],
    )
    assert (first.start_ms, first.end_ms, first.words) == (10_500, 11_700, words)
    assert (second.start_ms, second.end_ms, second.words) == (14_500, 14_700, ())


def test_no_segment_ends_before_it_starts(tokenizer: Tokenizer) -> None:
    (segment,) = to_segments(
        SPLICED,
        [phrase(tokenizer, " fox", 2.375, 2.375)],  # at the splice, where two times meet
        tokenizer,
        language="en",
        channel=None,
        quality=Quality(),
    )
    assert segment.start_ms <= segment.end_ms


def test_a_words_time_and_probability_are_its_tokens(tokenizer: Tokenizer) -> None:
    said = phrase(tokenizer, " the house, and", 0.0, 3.0)
    split = tokenizer.split_words(list(said.tokens), "en")
    assert [text for text, _ in split] == [" the", " house", ",", " and"]
    sizes = [len(ids) for _, ids in split]
    starts = np.cumsum([0, *sizes]) * 0.1 + 0.125
    times = np.interp(range(len(said.tokens) + 1), np.cumsum([0, *sizes]), starts).tolist()
    probabilities = [p for p, size in zip((0.1, 0.9, 0.2, 0.4), sizes, strict=True)
                     for _ in range(size)]  # fmt: skip
    words = phrase_words(SPLICED, said, tokenizer, "en", times, probabilities)
    assert [word.text for word in words] == [" the", " house,", " and"]
    assert [word.probability for word in words] == [0.1, 0.9, 0.4]
    begins = [round(10_000 + 100 * sum(sizes[:n])) for n in range(5)]
    assert [(word.start_ms, word.end_ms) for word in words] == [
        (begins[0], begins[1]),
        (begins[1], begins[2]),
        (begins[3], begins[4]),
    ]


@given(
    text=st.text(max_size=40),
    language=st.sampled_from(["en", "ru", "zh", "ja"]),
    data=st.data(),
)
def test_words_join_back_to_the_text_and_follow_each_other(
    tokenizer: Tokenizer, text: str, language: str, data: st.DataObject
) -> None:
    tokens = tuple(tokenizer.encode(text))
    steps = data.draw(st.lists(st.integers(0, 250), min_size=len(tokens) + 1, max_size=400))
    times = [step * 0.02 for step in sorted(steps)][: len(tokens) + 1]
    words = phrase_words(
        SPLICED, Phrase(0, LENGTH, tokens, 0), tokenizer, language, times, [0.5] * len(tokens)
    )
    joined = "".join(word.text for word in words)
    assert "".join(joined.split()) == "".join(tokenizer.decode(tokens).split())
    for word, after in pairwise(words):
        assert word.start_ms <= word.end_ms <= after.start_ms
    for word in words:
        assert 0.0 <= word.probability <= 1.0


# ── what is not covered ──────────────────────────────────────────────────────────────────────


def test_what_no_segment_covers_is_left() -> None:
    speech = [Span(0, 16_000), Span(32_000, 64_000)]
    segments = [Segment(500, 1200, "a"), Segment(2500, 3000, "b")]
    assert uncovered(speech, segments) == [
        Span(0, 8_000),
        Span(32_000, 40_000),
        Span(48_000, 64_000),
    ]
    assert uncovered(speech, []) == speech
    assert uncovered([], segments) == []


@given(
    st.lists(st.integers(0, 300), max_size=8, unique=True).map(sorted),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=6),
)
def test_covered_and_uncovered_are_the_whole(
    edges: list[int], covers: list[tuple[int, int]]
) -> None:
    speech = [Span(a, b) for a, b in zip(edges[::2], edges[1::2], strict=False)]
    segments = [Segment(min(pair), max(pair), "x") for pair in covers]
    heard = {sample for span in speech for sample in range(span.start, span.end)}
    said = {s for segment in segments for s in range(segment.start_ms * 16, segment.end_ms * 16)}
    left = [
        sample for span in uncovered(speech, segments) for sample in range(span.start, span.end)
    ]
    assert sorted(heard - said) == left


def test_a_step_is_twenty_milliseconds() -> None:
    assert SAMPLES_PER_STEP == 320
