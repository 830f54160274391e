"""What was asked for before: given from the library, done again, gone on with."""

import json
import shutil
from pathlib import Path

from app.domain.history import JobSettings
from app.domain.jobs import JobState
from app.domain.settings import EngineSettings
from remote import protocol
from remote.protocol import ExitCode, Hello, Transcribe
from tests.app.adapters.library_jobs import Shelf, entry

SAMPLE = Path(__file__).parents[3] / "resources" / "sample.flac"


def record(name: str, content: str = "") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content or name)
    return path


def states(home: Path) -> list[tuple[str, str]]:
    with Shelf(home / "library.sqlite") as shelf:
        return [(item.path.name, item.state.value) for item in reversed(shelf.entries())]


def left(home: Path, name: str, **fields) -> str:
    """A job that a program has left unfinished."""
    path = record(name).absolute()
    job = entry(path=path, state=JobState.RUNNING, size_bytes=path.stat().st_size, **fields)
    with Shelf(home / "library.sqlite") as shelf:
        shelf.add([job])
    return job.id


# ── transcribe ───────────────────────────────────────────────────────────────────────────────


def test_the_same_content_is_given_from_the_library_without_an_engine(farscribe, home, capsys):
    record("a.wav", "x")
    farscribe("transcribe", "a.wav")
    capsys.readouterr()
    record("copy.wav", "x")
    assert farscribe("transcribe", "copy.wav", start="dead") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "a begins.\na ends.\n"
    assert "copy.wav: its text is in the library" in err
    assert "--again" in err
    assert states(home) == [("a.wav", "done")]


def test_again_does_it_anew(farscribe, home):
    record("a.wav")
    farscribe("transcribe", "a.wav")
    assert farscribe("transcribe", "a.wav", "--again") == ExitCode.OK
    assert states(home) == [("a.wav", "done")] * 2


def test_other_settings_are_other_work(farscribe, home):
    record("a.wav")
    farscribe("transcribe", "a.wav")
    farscribe("transcribe", "a.wav", "--words")
    farscribe("transcribe", "a.wav", "--words", "--quiet")
    assert states(home) == [("a.wav", "done")] * 2


def test_old_and_new_recordings_come_with_their_names(farscribe, capsys):
    record("a.wav")
    farscribe("transcribe", "a.wav")
    capsys.readouterr()
    record("b.wav")
    assert farscribe("transcribe", "a.wav", "b.wav", "--quiet") == ExitCode.OK
    out = capsys.readouterr().out
    assert out.count("== ") == 2
    assert "a.wav ==\na begins." in out
    assert "b.wav ==\nb begins." in out


def test_files_are_written_of_what_the_library_has(farscribe):
    record("a.wav")
    farscribe("transcribe", "a.wav")
    farscribe("transcribe", "a.wav", "--format", "srt,md", start="dead")
    assert Path("a.srt").exists()
    assert Path("a.md").exists()


def test_programs_are_told_it_as_any_other_job(farscribe, capsys):
    record("a.wav")
    farscribe("transcribe", "a.wav")
    capsys.readouterr()
    farscribe("transcribe", "a.wav", "--json", start="dead")
    messages = [protocol.decode(line.encode()) for line in capsys.readouterr().out.splitlines()]
    assert [type(m).__name__ for m in messages] == ["Transcribe", "Segments", "Done"]
    assert len({m.job for m in messages}) == 1


# ── retry ────────────────────────────────────────────────────────────────────────────────────


def test_retry_does_what_failed_once_more_with_its_settings(farscribe, home, capsys):
    record("a.wav")
    assert farscribe("transcribe", "a.wav", "--words", start="dead") == ExitCode.DEVICE
    capsys.readouterr()
    assert farscribe("retry", "--failed", "--json") == ExitCode.OK
    messages = [protocol.decode(line.encode()) for line in capsys.readouterr().out.splitlines()]
    (request,) = [m for m in messages if isinstance(m, Transcribe)]
    assert request.options.words
    assert states(home) == [("a.wav", "failed"), ("a.wav", "done")]
    assert farscribe("retry", "--failed") == ExitCode.OK
    assert "Nothing has failed" in capsys.readouterr().err
    assert len(states(home)) == 2


def test_retry_takes_jobs_by_name_and_writes_files_where_that_is_asked_for(farscribe, capsys):
    record("a.wav")
    farscribe("transcribe", "a.wav")
    farscribe("history", "--json")
    job = json.loads(capsys.readouterr().out.splitlines()[-1])["job"]
    assert farscribe("retry", job[:8], "--format", "txt") == ExitCode.OK
    assert Path("a.txt").read_text() == "a begins.\na ends.\n"


def test_retry_wants_to_know_what(farscribe, capsys):
    for arguments in ([], ["--failed", "abc"]):
        assert farscribe("retry", *arguments) == ExitCode.USAGE
        assert "--failed" in capsys.readouterr().err


# ── resume ───────────────────────────────────────────────────────────────────────────────────


def test_resume_goes_on_with_what_was_left_whatever_its_settings(farscribe, home, capsys):
    first = left(home, "a.wav")
    left(home, "b.wav", settings=JobSettings(engine=EngineSettings("base", "cpu", "float32")))
    assert farscribe("resume") == ExitCode.OK
    out, err = capsys.readouterr()
    assert "a ends." in out
    assert "b ends." in out
    assert "Going on where the program ended before" in err
    assert states(home) == [("a.wav", "done"), ("b.wav", "done")]
    with Shelf(home / "library.sqlite") as shelf:
        assert shelf.entry(first).state is JobState.DONE


def test_resume_can_be_told_which_machine(farscribe, home, capsys):
    left(home, "a.wav")
    assert farscribe("resume", "--on", "ssh://nobody@elsewhere") == ExitCode.OK
    assert "Nothing is unfinished" in capsys.readouterr().err
    assert states(home) == [("a.wav", "running")]


# ── machines ─────────────────────────────────────────────────────────────────────────────────


def test_a_machine_that_is_none_is_found_before_anything_else(farscribe, home, capsys):
    record("a.wav")
    for name in ("gpu-box", "http://far"):
        assert farscribe("transcribe", "a.wav", "--on", name) == ExitCode.USAGE
        assert "ssh://user@host" in capsys.readouterr().err
    assert not (home / "library.sqlite").exists()


def test_a_host_that_does_not_answer_fails_the_job_which_then_runs_here(farscribe, home, capsys):
    shutil.copy(SAMPLE, "a.flac")
    host = "ssh://nobody@127.0.0.1:1"
    assert farscribe("transcribe", "a.flac", "--on", host) == ExitCode.NETWORK
    assert "127.0.0.1 port 1" in capsys.readouterr().err
    assert farscribe("retry", "--failed", "--on", "this-computer") == ExitCode.OK
    assert states(home) == [("a.flac", "failed"), ("a.flac", "done")]


def test_the_engine_is_named(farscribe, capsys):
    record("a.wav")
    farscribe("transcribe", "a.wav", "--json")
    messages = map(protocol.decode, capsys.readouterr().out.encode().splitlines())
    assert any(isinstance(message, Hello) for message in messages)
