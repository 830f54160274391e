from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.history import JobSettings
from app.domain.statistics import By, figures, grouped, measured, together
from remote.protocol import Hello, StageTimes, Summary
from tests.app.domain.entries import NOON, entry, failed, timed


def test_the_wall_goes_from_the_wait_for_the_machine_to_the_delivered_text():
    line = figures(timed("a.wav", 10, 14, stages={"wait": 2.0, "return": 0.5}))
    assert line.wall_s == pytest.approx(6.5)
    assert line.speed == pytest.approx(60 / 6.5)
    assert line.generation_speed == pytest.approx(100)


def test_stages_of_both_ends_stand_in_the_order_of_the_work():
    done = timed("a.wav", 0, 5, stages={"return": 0.1, "upload": 3.0, "wait": 1.0})
    assert list(figures(done).stages_s) == ["upload", "wait", "generate", "return"]


def test_a_clock_that_was_set_back_does_not_make_it_faster_than_it_was():
    summary = Summary(60_000, wall_s=3.0)
    assert figures(timed("a.wav", 10, 2, summary=summary)).wall_s == 3.0
    assert figures(entry("a.wav", summary=summary)).wall_s == 3.0


def test_recordings_done_side_by_side_do_not_count_twice():
    line = together("all", [timed("a", 0, 10), timed("b", 5, 12), timed("c", 20, 21)])
    assert line.wall_s == pytest.approx(13)
    assert line.audio_s == 180
    assert line.files == 3
    assert line.coverage == pytest.approx(0.9)


def test_what_was_not_timed_has_no_speed():
    line = figures(entry("a", summary=Summary(1000)))
    assert (line.speed, line.generation_speed, line.coverage) == (None, None, 1.0)


def test_only_what_is_complete_is_measured():
    done = timed("a", 0, 1)
    assert measured([failed("b"), done, entry("c")]) == (done,)


def test_groups_are_by_the_model_that_did_it():
    hello = Hello(1, 1, "0", "base", "cpu", "int8", "standard", 0.1)
    entries = [timed("a", 0, 1, engine=hello), timed("b", 0, 1), timed("c", 1, 2, engine=hello)]
    assert [(g.name, g.files) for g in grouped(entries, By.MODEL)] == [("base", 2), ("tiny.en", 1)]


def test_groups_are_by_machine_or_day():
    entries = [
        timed("a", 0, 1, settings=JobSettings("ssh://far")),
        timed("b", 0, 1, added_at=NOON + timedelta(days=2)),
        failed("c"),
    ]
    assert [g.name for g in grouped(entries, By.MACHINE)] == ["ssh://far", "this-computer"]
    assert len({g.name for g in grouped(entries, By.DAY)}) == 2


seconds = st.floats(0, 1000)


@given(st.lists(st.tuples(seconds, seconds), min_size=1))
def test_all_together_take_at_most_the_sum_and_at_least_the_longest(spans):
    entries = [timed("a", start, start + length) for start, length in spans]
    each = [figures(one).wall_s for one in entries]
    whole = together("all", entries).wall_s
    assert max(each) - 1e-3 <= whole <= sum(each) + 1e-3


def test_stage_times_add_up():
    summary = Summary(1000, stages=StageTimes({"vad": 1.0, "new": 2.0}))
    line = together("all", [entry("a", summary=summary), entry("b", summary=summary)])
    assert line.stages_s == {"vad": 2.0, "new": 4.0}
