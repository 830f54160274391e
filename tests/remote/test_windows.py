"""Window time and file time: exact both ways, also where a pause was cut out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.chunking import Piece, Window, WindowSettings

SPLICED = Window(
    index=0,
    samples=np.zeros(16_000 + 8_000 + 4_000, np.int16),
    pieces=(Piece(32_000, 16_000), Piece(80_000, 8_000), Piece(96_000, 4_000)),
    speech=(),
)


@st.composite
def windows(draw: st.DrawFn) -> Window:
    """A window of up to six pieces with gaps between them."""
    pieces, at = [], 0
    for gap, length in draw(
        st.lists(st.tuples(st.integers(1, 50_000), st.integers(1, 50_000)), min_size=1, max_size=6)
    ):
        pieces.append(Piece(at + gap, length))
        at += gap + length
    length = sum(piece.length for piece in pieces)
    return Window(0, np.zeros(length, np.int16), tuple(pieces), ())


def test_times_inside_a_piece_move_with_it() -> None:
    assert [SPLICED.file_ms(ms) for ms in (0, 1, 999, 1250, 1499, 1600)] == [
        2000,
        2001,
        2999,
        5250,
        5499,
        6100,
    ]


def test_at_a_splice_a_start_and_an_end_are_on_their_own_sides() -> None:
    assert (SPLICED.file_ms(1000), SPLICED.file_ms(1000, end=True)) == (5000, 3000)
    assert (SPLICED.file_ms(1500), SPLICED.file_ms(1500, end=True)) == (6000, 5500)


def test_times_outside_the_window_are_its_edges() -> None:
    assert SPLICED.file_ms(-20) == SPLICED.file_ms(-20, end=True) == 2000
    assert SPLICED.file_ms(99_000) == SPLICED.file_ms(99_000, end=True) == 6250
    assert SPLICED.window_ms(0) == 0
    assert SPLICED.window_ms(99_000) == 1750


def test_what_was_left_out_is_where_it_was_cut() -> None:
    assert [SPLICED.window_ms(ms) for ms in (2999, 3000, 4000, 5000, 5001)] == [
        999,
        1000,
        1000,
        1000,
        1001,
    ]


@given(windows(), st.data())
def test_every_sample_comes_back_from_where_it_went(window: Window, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(window.samples) - 1))
    there = window.file_sample(at)
    assert any(p.file_start <= there < p.file_start + p.length for p in window.pieces)
    assert window.window_sample(there) == at
    assert window.window_sample(window.file_sample(at, end=True)) == at


@given(windows(), st.integers(-5_000, 320_000), st.integers(-5_000, 320_000), st.booleans())
def test_later_in_the_window_is_later_in_the_file(
    window: Window, one: int, other: int, end: bool
) -> None:
    first, last = sorted((one, other))
    assert window.file_sample(first, end=end) <= window.file_sample(last, end=end)
    assert window.file_sample(first, end=True) <= window.file_sample(first)
    assert window.window_sample(first) <= window.window_sample(last)


@given(windows(), st.data())
def test_milliseconds_are_those_of_the_nearest_sample(window: Window, data: st.DataObject) -> None:
    ms = data.draw(st.integers(0, len(window.samples) // 16))
    assert abs(window.file_ms(ms) - window.file_sample(ms * 16) / 16) <= 0.5
    assert abs(window.file_ms(ms, end=True) - window.file_sample(ms * 16, end=True) / 16) <= 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 0.3},
        {"neg_threshold": 0.6},
        {"neg_threshold": -0.1},
        {"pad_ms": -1},
        {"max_window_s": 30.1},
        {"max_window_s": 0.5},
        {"cut_search_s": 30.0},
        {"pad_ms": 25_000, "max_gap_s": 60.0},
        {"max_gap_s": 0.1},
        {"max_gap_s": 1e6},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"."):
        WindowSettings(**wrong)
