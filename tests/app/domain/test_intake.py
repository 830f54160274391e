"""Rules on names."""

from pathlib import PurePath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.intake import is_hidden, is_media, natural_key


@pytest.mark.parametrize("name", ["a.wav", "A.MP3", "b.c.opus", "x.mkv", "y.amr", "z.wma"])
def test_audio_and_video_are_known_by_their_suffix(name):
    assert is_media(PurePath(name))


@pytest.mark.parametrize("name", ["a.txt", "wav", ".wav", "a.wav.part", "b"])
def test_anything_else_is_not(name):
    assert not is_media(PurePath(name))


def test_a_leading_dot_hides():
    assert is_hidden(PurePath("x/.a.wav"))
    assert not is_hidden(PurePath(".x/a.wav"))


def test_numbers_are_sorted_by_their_value():
    names = ["take 10", "Take 9", "take 1", "intro", "take"]
    assert sorted(names, key=natural_key) == ["intro", "take", "take 1", "Take 9", "take 10"]


@given(st.lists(st.text()))
def test_any_names_can_be_sorted(names):
    assert len(sorted(names, key=natural_key)) == len(names)
