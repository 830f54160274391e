"""What events make of a job, and what the speed table makes of jobs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.jobs import Job, JobState, StageProgress
from app.domain.speed import speed_rows
from remote.protocol import (
    Done,
    ErrorCode,
    Failed,
    KnownError,
    Progress,
    Segments,
    StageTimes,
    Summary,
    WireError,
)

JOB = Job("1", Path("/x/a.wav"))


def events() -> list:
    return [
        Progress("1", 1, "decode", 500, 2000),
        Segments("1", 2, ()),
        Progress("1", 3, "generate", 100, 2000),
        Done("1", 4, Summary(2000)),
    ]


def test_a_job_goes_from_waiting_to_done():
    job = JOB.started()
    assert (job.state, job.attempt) == (JobState.RUNNING, 1)
    for event in events():
        job = job.after(event)
    assert job.state is JobState.DONE
    assert job.ended
    assert job.summary == Summary(2000)


def test_a_failed_job_says_why():
    job = JOB.started().after(Failed("1", 1, ErrorCode.NOT_AUDIO, "No audio.", "Hm."))
    assert job.state is JobState.FAILED
    assert str(job.error) == "No audio. Hm."


@given(st.lists(st.integers(0, 3), max_size=30))
def test_events_that_come_again_change_nothing(repeats):
    job = JOB.started()
    said = events()
    for place, event in enumerate(said):
        job = job.after(event)
        for again in repeats:
            assert job.after(said[min(again, place)]) is job
    assert job.state is JobState.DONE


def test_a_missing_event_is_an_error():
    with pytest.raises(WireError, match=r"event 2 of a\.wav was lost"):
        JOB.started().after(events()[0]).after(events()[2])


def test_a_job_that_is_tried_again_goes_on_and_one_that_was_forgotten_starts_over():
    job = JOB.started().after(events()[0]).waiting().started()
    assert (job.attempt, job.seq) == (2, 1)
    assert set(job.stages) == {"decode"}
    again = job.restarted()
    assert (again.attempt, again.seq, again.stages) == (2, 0, {})


def test_sending_is_the_stage_before_all_others():
    job = JOB.started().after(events()[0]).sent(800, 2000).sent(1600, 2000)
    assert list(job.stages) == ["upload", "decode"]
    assert job.stages["upload"] == StageProgress(1600, 2000)


def test_the_stage_that_is_furthest_behind_is_the_one_to_show():
    job = JOB.started()
    assert job.behind is None
    job = job.after(events()[0])
    assert job.behind == ("decode", StageProgress(500, 2000))
    job = job.after(events()[1]).after(events()[2])
    assert job.behind == ("generate", StageProgress(100, 2000))


def done(name: str, summary: Summary) -> Job:
    return Job(name, Path(f"/x/{name}"), JobState.DONE, summary=summary)


def test_the_speed_table_has_a_row_for_each_job_and_one_of_sums():
    stages = StageTimes({"decode": 0.5, "generate": 1.0})
    jobs = [
        done("a", Summary(60_000, 50_000, 40_000, stages=stages, wall_s=2.0)),
        JOB.failed(KnownError(ErrorCode.NOT_AUDIO, "")),
        done("b", Summary(30_000, 0, 0, stages=StageTimes({"align": 0.25}), wall_s=1.0)),
    ]
    first, failed, second, total = speed_rows(jobs)
    assert (first.audio_s, first.speed, first.coverage) == (60.0, 30.0, 0.8)
    assert (failed.error, failed.speed, failed.coverage) == ("not-audio", None, None)
    assert (second.speed, second.coverage) == (30.0, 1.0)
    assert (total.name, total.audio_s, total.wall_s, total.speed) == ("2 files", 90.0, 3.0, 30.0)
    assert total.coverage == 0.8
    assert total.stages_s == {"decode": 0.5, "generate": 1.0, "align": 0.25}


def test_the_speed_table_shows_the_stages_of_the_client_before_those_of_the_engine():
    summary = Summary(60_000, stages=StageTimes({"decode": 0.5}), wall_s=2.0)
    (row,) = speed_rows([done("a", summary).took({"wait": 1.0}).took({"return": 0.1})])
    assert list(row.stages_s.items()) == [("wait", 1.0), ("return", 0.1), ("decode", 0.5)]


def test_one_recording_needs_no_row_of_sums():
    assert len(speed_rows([done("a", Summary(1000, wall_s=1.0))])) == 1
