"""What a person sees, on streams that are terminals or not."""

import io
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.adapters.terminal.progress import clock_time
from app.adapters.terminal.screen import Screen
from app.domain.events import (
    AlreadyDone,
    Delayed,
    Delivered,
    DeliveryFailed,
    EngineLog,
    EngineLost,
    EngineReady,
    EngineUnavailable,
    FilesPassed,
    JobChanged,
    JobEnded,
    JobsAdded,
    LinkBack,
    LinkLost,
    Recovered,
    Silence,
    StartedOver,
    TextArrived,
)
from app.domain.history import Entry, JobSettings
from app.domain.intake import Passed
from app.domain.jobs import Job, JobState
from app.domain.transcript import Transcript
from remote.protocol import (
    ErrorCode,
    Hello,
    KnownError,
    Progress,
    Segment,
    StageTimes,
    Summary,
)

HELLO = Hello(1, 0, "0", "tiny.en", "NVIDIA L4", "float16", "gpu-state", 0.24, ("A note.",))
ERROR = KnownError(ErrorCode.NOT_AUDIO, "It is no audio.", "Try another.")
SAID = (Segment(0, 900, "Hello there."), Segment(1000, 1900, "Bye."))
SUMMARY = Summary(
    62_000, 2000, 1900, stages=StageTimes({"decode": 0.1}), wall_s=2.0, warnings=("Hm.",)
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Desk:
    """A screen and what was written on it."""

    def __init__(self, *, out_is_tty: bool = False, err_is_tty: bool = False, **settings) -> None:
        self.out = Terminal() if out_is_tty else io.StringIO()
        self.err = Terminal() if err_is_tty else io.StringIO()
        self.now = 0.0
        self.screen = Screen(out=self.out, err=self.err, clock=lambda: self.now, **settings)

    def tell(self, *events) -> "Desk":
        for event in events:
            self.screen(event)
        return self

    @property
    def said(self) -> str:
        return self.out.getvalue()

    @property
    def noted(self) -> str:
        return self.err.getvalue()


def job(name: str = "a") -> Job:
    return Job(name, Path(f"/x/{name}.wav"))


def ended(name: str = "a", segments=SAID, summary=SUMMARY, error=None) -> JobEnded:
    state = JobState.FAILED if error else JobState.DONE
    of = Job(name, Path(f"/x/{name}.wav"), state, summary=None if error else summary, error=error)
    return JobEnded(of, Transcript(of.path, segments, of.summary, HELLO, error))


def test_the_text_of_one_file_is_printed_alone_so_that_it_can_be_piped():
    desk = Desk().tell(JobsAdded((job(),)), ended())
    assert desk.said == "Hello there.\nBye.\n"


def test_the_texts_of_several_files_stand_under_their_names():
    desk = Desk().tell(JobsAdded((job("a"), job("b"))), ended("a"), ended("b", SAID[:1]))
    assert desk.said == ("== /x/a.wav ==\nHello there.\nBye.\n\n== /x/b.wav ==\nHello there.\n\n")


def test_text_that_is_written_to_files_is_not_printed():
    desk = Desk(text=False).tell(JobsAdded((job(),)), ended())
    desk.tell(Delivered(job(), (Path("/x/a.txt"),)))
    assert desk.said == ""
    assert "a.wav: written to /x/a.txt" in desk.noted


def test_text_that_could_not_be_written_is_printed_so_that_it_is_not_lost():
    full = KnownError(ErrorCode.DISK_FULL, "Full.", "Make room.")
    desk = Desk(text=False).tell(JobsAdded((job(),)), ended())
    desk.tell(DeliveryFailed(job(), Transcript(Path("/x/a.wav"), SAID), full))
    assert desk.said == "== /x/a.wav ==\nHello there.\nBye.\n\n"
    assert "a.wav: Full. Make room.\n" in desk.noted


def test_an_error_is_the_file_the_sentence_and_the_next_step_and_its_text_is_kept():
    desk = Desk(quiet=True).tell(JobsAdded((job(),)), ended(segments=SAID[:1], error=ERROR))
    assert desk.noted == "a.wav: It is no audio. Try another.\n"
    assert desk.said == "Hello there.\n"


def test_an_engine_that_cannot_start_is_told_once_and_not_for_each_file():
    desk = Desk().tell(JobsAdded((job("a"), job("b"))), EngineUnavailable(ERROR))
    desk.tell(ended("a", (), error=ERROR), ended("b", (), error=ERROR))
    assert desk.noted == "farscribe: It is no audio. Try another.\n"
    assert desk.said == ""


def test_on_a_terminal_the_text_of_one_file_appears_as_it_is_made_and_only_once():
    desk = Desk(out_is_tty=True).tell(JobsAdded((job(),)), TextArrived(job(), SAID[:1]))
    assert desk.said == "Hello there.\n"
    desk.tell(EngineLost(job(), ERROR, again=True), StartedOver(job()))
    desk.tell(TextArrived(job(), SAID[:1]), TextArrived(job(), SAID[1:]), ended())
    assert desk.said == "Hello there.\nBye.\n"
    assert "tries once more" in desk.noted


def test_what_does_the_work_is_named_with_its_notes():
    noted = Desk().tell(EngineReady(HELLO)).noted
    assert "tiny.en on NVIDIA L4, float16 (gpu-state, loaded in 0.2 s)\nA note.\n" in noted


def test_silence_warnings_and_files_passed_over_are_told():
    passed = tuple(Passed(Path(f"/x/{i}.txt"), "not audio or video") for i in range(5))
    desk = Desk().tell(JobsAdded((job(),)), FilesPassed(passed), Silence(20.0))
    desk.tell(ended(segments=()))
    assert "Passed over 5 files: 0.txt (not audio or video)" in desk.noted
    assert "and 2 more." in desk.noted
    assert "No word from the engine for 20 s." in desk.noted
    assert "a.wav: Hm." in desk.noted
    assert "a.wav: no speech was found." in desk.noted


def test_what_the_link_does_is_told_in_words():
    lost = KnownError(ErrorCode.LINK_LOST, "The connection broke off.")
    desk = Desk().tell(JobsAdded((job(),)), LinkLost(lost), LinkLost(lost, 1, 0.4), LinkBack(3.2))
    assert desk.noted == (
        "The connection broke off. Trying to get there again; nothing is lost.\n"
        "The engine is reached again after 3 s.\n"
    )


def test_a_job_that_stands_still_is_told_once_for_each_reason():
    full = KnownError(ErrorCode.DISK_FULL, "The disk of the machine is full.", "Make room.")
    desk = Desk(quiet=True).tell(*[Delayed(job(), full, 0.2)] * 3)
    assert desk.noted == (
        "a.wav: The disk of the machine is full. Make room. It is tried again until it works.\n"
    )


def test_an_engine_that_dies_with_many_jobs_is_told_once():
    desk = Desk().tell(*[EngineLost(job(name), ERROR, again=True) for name in "abc"])
    assert desk.noted.count("tries once more") == 1


def test_what_goes_on_from_before_and_what_was_done_before_is_told():
    entry = Entry("1", job().path, JobSettings(), datetime(2026, 3, 4, tzinfo=UTC))
    desk = Desk().tell(Recovered((job("a"), job("b"))), AlreadyDone(job(), entry))
    assert "Going on where the program ended before: a.wav, b.wav.\n" in desk.noted
    assert "a.wav was transcribed before, on 2026-03-04.\n" in desk.noted


def test_of_several_jobs_the_first_is_shown_until_it_has_ended():
    desk = Desk(err_is_tty=True).tell(JobsAdded((job("a"), job("b"))))
    desk.tell(JobChanged(job("a").started()), JobChanged(job("b").started()))
    assert "b.wav" not in desk.noted
    desk.tell(ended("a"), JobChanged(job("b").started().sent(30_000, 60_000)))
    desk.screen.close()
    assert "[2/2] b.wav" in desk.noted
    assert "sending the audio" in desk.noted


def test_quiet_means_text_and_errors_alone():
    desk = Desk(quiet=True, err_is_tty=True)
    desk.tell(JobsAdded((job(),)), FilesPassed((Passed(Path("/b"), "hidden"),)))
    desk.tell(EngineReady(HELLO), Silence(20.0), JobChanged(job().started()), ended())
    desk.screen.table([ended().job])
    desk.screen.close()
    assert desk.said == "Hello there.\nBye.\n"
    assert desk.noted == ""


def test_the_progress_line_names_file_stage_speed_and_time_left():
    desk = Desk(err_is_tty=True).tell(JobsAdded((job("a[b]"), job("c"))))
    running = job("a[b]").started()
    running = running.after(Progress("a[b]", 1, "generate", 0, 100_000))
    desk.tell(EngineLog("Fetching 50%"), JobChanged(running))
    desk.now = 2.0
    running = running.after(Progress("a[b]", 2, "generate", 60_000, 100_000))
    desk.tell(JobChanged(running))
    desk.screen.close()
    plain = " ".join(desk.noted.split())
    assert "[1/2] a[b].wav" in plain
    assert "writing 60 % 30× real time 0:01 left" in plain


def test_no_progress_is_drawn_where_nobody_watches():
    desk = Desk().tell(JobsAdded((job(),)), JobChanged(job().started()))
    desk.screen.close()
    assert desk.noted == ""


def test_text_and_progress_do_not_mix_on_one_terminal():
    desk = Desk(out_is_tty=True, err_is_tty=True)
    desk.err = desk.out
    desk.tell(JobsAdded((job(),)), JobChanged(job().started()), TextArrived(job(), SAID))
    desk.screen.close()
    assert desk.said == "Hello there.\nBye.\n"


def test_the_table_shows_each_file_on_one_line_also_in_a_file():
    desk = Desk()
    jobs = [ended("a").job, ended("a-rather-long-name" * 4).job, ended("b", error=ERROR).job]
    desk.screen.table(jobs)
    lines = [line.strip() for line in desk.noted.splitlines()]
    row = next(line for line in lines if line.startswith("a.wav"))
    assert row.split() == ["a.wav", "1:02", "2.00", "s", "31.0", "95.0", "%", "decode=0.10"]
    assert any(line.split() == ["b.wav", "not-audio"] for line in lines)
    assert any(line.startswith("2 files") for line in lines)


def test_nothing_done_needs_no_table():
    desk = Desk()
    desk.screen.table([ended(error=ERROR).job])
    assert desk.noted == ""


def test_names_cannot_command_the_terminal():
    desk = Desk()
    evil = Job("1", Path("/x/\x1b[2Ja.wav"), JobState.FAILED, error=ERROR)
    desk.tell(
        JobsAdded((evil, job())), JobEnded(evil, Transcript(evil.path, SAID, None, None, ERROR))
    )
    assert "\x1b" not in desk.noted + desk.said


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0:00"), (59.4, "0:59"), (3599.9, "1:00:00"), (3725, "1:02:05")]
)
def test_times_are_written_as_people_do(seconds, shown):
    assert clock_time(seconds) == shown
