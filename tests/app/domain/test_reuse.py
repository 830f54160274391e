from dataclasses import replace

import pytest

from app.domain.history import JobSettings
from app.domain.jobs import JobState
from app.domain.reuse import dealt_with, gives_the_same, still_failed
from app.domain.settings import EngineSettings
from remote.protocol import ErrorCode, Options
from tests.app.domain.entries import entry, failed


def test_the_same_work_counts_wherever_it_was_done():
    done = entry(settings=JobSettings("ssh://far"))
    assert gives_the_same(done, JobSettings())


@pytest.mark.parametrize(
    "other",
    [
        JobSettings(engine=EngineSettings("base")),
        JobSettings(engine=EngineSettings(dtype="int8")),
        JobSettings(options=Options(words=True)),
    ],
)
def test_other_settings_are_other_work(other):
    assert not gives_the_same(entry(), other)


@pytest.mark.parametrize("state", set(JobState) - {JobState.DONE})
def test_only_what_is_done_counts(state):
    assert not gives_the_same(entry(state=state), JobSettings())


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (entry(), True),
        (entry(state=JobState.RUNNING), False),
        (failed("a", ErrorCode.NOT_AUDIO), True),
        (failed("a", ErrorCode.NO_AUDIO_TRACK), True),
        (failed("a", ErrorCode.HOST_UNREACHABLE), False),
        (failed("a", ErrorCode.CANCELLED), False),
        (failed("a", ErrorCode.OUT_OF_MEMORY), False),
    ],
)
def test_a_watched_file_is_tried_again_unless_the_file_itself_was_at_fault(known, expected):
    assert dealt_with(known) is expected


def test_what_was_tried_again_since_has_not_failed_any_more():
    first, second = failed("a.wav"), failed("b.wav")
    again = entry("a.wav")
    assert still_failed([again, second, first]) == (second,)


def test_of_several_failures_of_one_file_the_newest_is_meant_and_the_oldest_file_comes_first():
    old, new, other = failed("a.wav"), failed("a.wav"), failed("b.wav")
    assert still_failed([other, new, old]) == (new, other)


def test_with_other_settings_it_is_another_job():
    words = JobSettings(options=replace(Options(), words=True))
    first = failed("a.wav")
    assert still_failed([entry("a.wav", settings=words), first]) == (first,)
