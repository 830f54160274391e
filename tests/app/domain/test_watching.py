from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.watching import Settling, Sight, is_watched, left_out
from remote.protocol import ErrorCode, KnownError

A = Path("/in/a.wav")


def test_a_file_is_taken_once_it_has_not_changed_for_a_while():
    settling = Settling(3.0)
    assert not settling.see(A, Sight(1, 1), 0.0)
    assert settling.next_s(1.0) == 2.0
    assert settling.due(2.9) == ()
    assert settling.due(3.0) == (A,)
    assert settling.see(A, Sight(1, 1), 3.0)
    assert settling.next_s(3.0) is None


@pytest.mark.parametrize("later", [Sight(2, 1), Sight(1, 2)])
def test_a_file_that_grew_or_was_written_waits_anew(later):
    settling = Settling(3.0)
    settling.see(A, Sight(1, 1), 0.0)
    assert not settling.see(A, later, 3.0)
    assert not settling.see(A, later, 5.0)
    assert settling.see(A, later, 6.0)


def test_looks_in_between_do_not_make_it_settle_later():
    settling = Settling(3.0)
    for moment in (0.0, 1.0, 2.0):
        assert not settling.see(A, Sight(1, 1), moment)
    assert settling.see(A, Sight(1, 1), 3.0)


def test_a_file_that_is_gone_is_forgotten():
    settling = Settling(3.0)
    settling.see(A, Sight(1, 1), 0.0)
    assert not settling.see(A, None, 1.0)
    assert settling.next_s(1.0) is None


def test_an_empty_file_is_never_taken_and_not_looked_at_for_ever():
    settling = Settling(3.0)
    settling.see(A, Sight(0, 1), 0.0)
    assert not settling.see(A, Sight(0, 1), 3.0)
    assert settling.next_s(3.0) is None


@given(st.lists(st.tuples(st.floats(0.1, 5), st.integers(0, 2)), max_size=30))
def test_what_is_taken_has_stood_still_for_the_whole_time(steps):
    settling, now, since, before = Settling(3.0), 0.0, 0.0, None
    for pause, size in steps:
        now += pause
        sight = Sight(size, 0)
        taken = settling.see(A, sight, now)
        if sight != before:
            since = now
        assert not taken or (now - since >= 3.0 and size > 0)
        before = None if taken else sight


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/in/a.wav", True),
        ("/in/deep/er/a.MP4", True),
        ("/in/a.txt", False),
        ("/in/a.wav.part", False),
        ("/in/.a.wav", False),
        ("/in/.farscribe-1234", False),
        ("/in/.hidden/a.wav", False),
        ("/in/texts/a.wav", False),
        ("/in/texts-of-mine/a.wav", True),
    ],
)
def test_recordings_are_wanted_and_hidden_unfinished_and_own_files_never(path, wanted):
    assert is_watched(Path(path), Path("/in"), [Path("/in/texts")]) is wanted


def test_a_hidden_folder_may_be_watched_itself():
    assert is_watched(Path("/opt/.in/a.wav"), Path("/opt/.in"), [])


def test_what_farscribe_writes_within_a_watched_folder_is_left_out():
    own = [Path("/in/texts"), Path("/data")]
    assert left_out([Path("/in")], own) == (Path("/in/texts"),)


@pytest.mark.parametrize("folder", ["/data", "/data/deep"])
def test_a_folder_that_farscribe_fills_cannot_be_watched(folder):
    with pytest.raises(KnownError) as caught:
        left_out([Path("/in"), Path(folder)], [Path("/data")])
    assert caught.value.code is ErrorCode.UNKNOWN_OPTION
