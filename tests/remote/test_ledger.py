"""Parts finish in any order; their text goes out in the order of the file, whole and once."""

import random
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from remote.chunking import Piece, Span, Window
from remote.ledger import Ledger, Part
from remote.protocol import Gap, Segment
from remote.segments import rest_of

SECOND = 16_000


def window(start_s: float, *speech_s: tuple[float, float], length_s: float = 10) -> Window:
    """A plain cut of the file; where no speech is named, all of it is."""
    start, length = round(start_s * SECOND), round(length_s * SECOND)
    spans = speech_s or ((start_s, start_s + length_s),)
    return Window(
        0,
        np.zeros(length, np.int16),
        (Piece(start, length),),
        tuple(Span(round(a * SECOND), round(b * SECOND)) for a, b in spans),
    )


def said(start_s: float, end_s: float, text: str = "x") -> tuple[Segment, ...]:
    return (Segment(round(start_s * 1000), round(end_s * 1000), text),)


def ledger(tracks: int = 1) -> tuple[Ledger, list[str]]:
    """A ledger and the texts that it has published."""
    published: list[str] = []
    return Ledger(tracks, lambda new: published.extend(s.text for s in new)), published


# ── in order, whole and once ─────────────────────────────────────────────────────────────────


class Decoding:
    """A decoder that finishes parts by chance, leaves rests by chance, and at times breaks down.

    The text of a part is one segment for each of its seconds, named after track and second.
    """

    def __init__(self, tracks: int, lengths: list[int], seed: int) -> None:
        self.published: list[Segment] = []
        self.ledger = Ledger(tracks, self.published.extend)
        self.at_work: list[Part] = []
        self.done_ms = [0]
        self.expected: list[list[str]] = []
        self.chance = random.Random(seed)
        self.to_come: list[list[Window]] = []
        for _ in range(tracks):
            ends = np.cumsum([0, *lengths]).tolist()
            self.to_come.append([window(a, length_s=b - a) for a, b in pairwise(ends)])
            self.expected.append([f"{len(self.expected)}:{s}" for s in range(ends[-1])])

    def run(self) -> None:
        while any(self.to_come) or self.ledger.busy:
            match self.chance.randrange(5):
                case 0:
                    self.open()
                case 1 if self.chance.random() < 0.2:
                    self.ledger.restart()
                    self.at_work.clear()
                case 2 | 3:
                    self.settle()
                case _:
                    if part := self.ledger.again():
                        self.at_work.append(part)

    def open(self) -> None:
        tracks = [track for track, windows in enumerate(self.to_come) if windows]
        if tracks:
            track = self.chance.choice(tracks)
            self.at_work.append(self.ledger.open(track, self.to_come[track].pop(0)))

    def settle(self) -> None:
        if not self.at_work:
            return
        part = self.at_work.pop(self.chance.randrange(len(self.at_work)))
        first = part.window.pieces[0].file_start // SECOND
        seconds = len(part.window.samples) // SECOND
        reached = self.chance.randint(1, seconds)
        rest = rest_of(part.window, reached * SECOND)
        segments = tuple(
            Segment(s * 1000, s * 1000 + 1000, f"{part.track}:{s}", channel=part.track)
            for s in range(first, first + reached)
        )
        self.ledger.settle(part, segments, rest)
        self.done_ms.append(self.ledger.done_ms)


@given(
    st.integers(1, 3), st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(0, 2**32)
)
def test_whatever_the_order_of_settling_all_text_goes_out_once_and_in_order(
    tracks: int, lengths: list[int], seed: int
) -> None:
    decoding = Decoding(tracks, lengths, seed)
    decoding.run()
    for track, expected in enumerate(decoding.expected):
        assert [s.text for s in decoding.published if s.channel == track] == expected
    ledger = decoding.ledger
    assert decoding.done_ms == sorted(decoding.done_ms)
    assert ledger.done_ms == sum(lengths) * 1000
    assert ledger.windows == tracks * len(lengths)
    assert ledger.covered_samples == tracks * sum(lengths) * SECOND
    assert ledger.gaps == []
    assert ledger.again() is None


def test_text_waits_for_what_is_before_it_on_its_track_alone() -> None:
    keeping, published = ledger(tracks=2)
    first, second = keeping.open(0, window(0)), keeping.open(0, window(10))
    other = keeping.open(1, window(0))
    keeping.settle(second, said(10, 20, "second"), None)
    assert published == []
    keeping.settle(other, said(0, 10, "other"), None)
    assert published == ["other"]
    keeping.settle(first, said(0, 10, "first"), None)
    assert published == ["other", "first", "second"]
    assert not keeping.busy


def test_a_rest_is_decoded_before_anything_new_and_stands_behind_its_part() -> None:
    keeping, published = ledger()
    first, second = keeping.open(0, window(0)), keeping.open(0, window(10))
    keeping.settle(first, said(0, 4, "a"), window(4, length_s=6))
    keeping.settle(second, said(10, 20, "c"), None)
    assert published == ["a"]
    rest = keeping.again()
    assert rest is not None
    assert rest.key not in {first.key, second.key}
    assert keeping.again() is None
    keeping.settle(rest, said(4, 10, "b"), None)
    assert published == ["a", "b", "c"]
    assert keeping.windows == 2


def test_a_part_without_text_lets_the_next_go_out() -> None:
    keeping, published = ledger()
    first, second = keeping.open(0, window(0)), keeping.open(0, window(10))
    keeping.settle(second, said(10, 20, "b"), None)
    keeping.settle(first, (), None)
    assert published == ["b"]
    assert keeping.done_ms == 20_000


def test_done_is_what_every_track_has_done() -> None:
    keeping, _ = ledger(tracks=2)
    left, right = keeping.open(0, window(0)), keeping.open(1, window(0, length_s=3))
    later = keeping.open(1, window(5, length_s=3))
    keeping.settle(left, said(0, 10), None)
    assert keeping.done_ms == 0
    keeping.settle(right, said(0, 3), None)
    assert keeping.done_ms == 3000
    keeping.settle(later, said(5, 8), None)
    assert keeping.done_ms == 10_000


def test_a_silent_track_holds_nothing_up() -> None:
    keeping, _ = ledger(tracks=2)
    keeping.settle(keeping.open(0, window(0)), said(0, 10), None)
    assert keeping.done_ms == 10_000
    early = keeping.open(1, window(4, length_s=3))  # found out late
    assert keeping.done_ms == 10_000
    keeping.settle(early, said(4, 7), None)
    assert keeping.done_ms == 10_000


def test_after_a_restart_every_open_part_is_decoded_again_and_no_settled_one() -> None:
    keeping, published = ledger()
    parts = [keeping.open(0, window(10 * i)) for i in range(4)]
    keeping.settle(parts[2], said(20, 24, "settled"), window(24, length_s=6))
    keeping.again()  # the rest is at work, too
    keeping.restart()
    again = [part for _ in range(9) if (part := keeping.again())]
    assert [part.window.pieces[0].file_start // SECOND for part in again] == [0, 10, 24, 30]
    for part in again:
        keeping.settle(part, said(0, 1, "again"), None)
    assert published == ["again", "again", "settled", "again", "again"]
    assert not keeping.busy


# ── coverage ─────────────────────────────────────────────────────────────────────────────────


def test_speech_without_text_is_a_gap_from_a_second_on() -> None:
    keeping, _ = ledger()
    part = keeping.open(0, window(0, (0, 2), (3, 6), (7, 9)))
    keeping.settle(part, (*said(0.5, 2), *said(3, 4.5), *said(8, 9)), None)
    assert keeping.covered_samples == round((1.5 + 1.5 + 1) * SECOND)
    assert keeping.gaps == [Gap(4500, 6000), Gap(7000, 8000)]


def test_speech_of_a_rest_counts_when_the_rest_is_settled() -> None:
    keeping, _ = ledger()
    part = keeping.open(0, window(0))
    keeping.settle(part, said(0, 4), window(4, length_s=6))
    assert keeping.covered_samples == 4 * SECOND
    assert keeping.gaps == []
    rest = keeping.again()
    assert rest is not None
    keeping.settle(rest, said(7, 10), None)
    assert keeping.covered_samples == 7 * SECOND
    assert keeping.gaps == [Gap(4000, 7000)]


def test_gaps_have_the_channel_where_there_are_several() -> None:
    keeping, _ = ledger(tracks=2)
    keeping.settle(keeping.open(1, window(0)), (), None)
    assert keeping.gaps == [Gap(0, 10_000, 1)]
    assert keeping.covered_samples == 0
