"""The command, with an engine that runs without a model."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.adapters.library.library import SqliteLibrary
from app.cli.main import main
from remote import protocol
from remote.protocol import Done, ExitCode, Failed, Hello, Transcribe

ROOT = Path(__file__).parents[3]
posix = pytest.mark.skipif(os.name != "posix", reason="signals")


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def names() -> set[str]:
    return {str(path.relative_to(Path.cwd())) for path in Path.cwd().rglob("*") if path.is_file()}


# ── text and files ───────────────────────────────────────────────────────────────────────────


def test_the_transcript_goes_to_standard_output_and_the_figures_to_standard_error(
    farscribe, capsys
):
    touch("a.wav")
    assert farscribe("transcribe", "a.wav") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "a begins.\na ends.\n"
    assert "tiny.en on cpu, float32" in err
    assert "a.wav: Hm." in err
    assert "generate=0.20" in err
    assert "94.4 %" in err
    assert names() == {"a.wav"}


def test_quiet_prints_nothing_but_the_text(farscribe, capsys):
    touch("a.wav")
    assert farscribe("transcribe", "a.wav", "--quiet") == ExitCode.OK
    assert capsys.readouterr() == ("a begins.\na ends.\n", "")


def test_formats_are_written_beside_the_recording(farscribe, capsys):
    touch("x/a.wav")
    assert farscribe("transcribe", "x", "--format", "txt,srt,vtt,json,tsv") == ExitCode.OK
    assert names() == {"x/a.wav", *(f"x/a.{kind}" for kind in ("txt", "srt", "vtt", "json", "tsv"))}
    assert Path("x/a.txt").read_text(encoding="utf-8") == "a begins.\na ends.\n"
    body = json.loads(Path("x/a.json").read_text(encoding="utf-8"))
    assert [segment["start"] for segment in body["segments"]] == [0.0, 1.0]
    out, err = capsys.readouterr()
    assert out == ""
    assert "a.wav: written to" in err


def test_a_folder_for_the_output_alone_means_plain_text(farscribe):
    touch("a.wav", "b/a.mp3")
    assert farscribe("transcribe", ".", "--output", "new/out") == ExitCode.OK
    assert names() >= {"new/out/a.txt", "new/out/a (2).txt"}


def test_a_file_that_is_there_is_kept_unless_it_may_be_replaced(farscribe):
    touch("a.wav", "a.txt")
    assert farscribe("transcribe", "a.wav", "--format", "txt") == ExitCode.OK
    assert Path("a.txt").read_bytes() == b""
    assert Path("a (2).txt").read_bytes()
    assert farscribe("transcribe", "a.wav", "--format", "txt", "--overwrite") == ExitCode.OK
    assert Path("a.txt").read_bytes() == b"a begins.\na ends.\n"


def test_json_prints_the_messages_of_the_wire_and_names_the_file_of_each_job(farscribe, capsys):
    touch("a.wav")
    assert farscribe("transcribe", "a.wav", "absent.wav", "--json") == ExitCode.INPUT
    out, err = capsys.readouterr()
    messages = [protocol.decode(line.encode()) for line in out.splitlines()]
    files = {m.job: Path(m.source.value).name for m in messages if isinstance(m, Transcribe)}
    ends = {files[m.job]: type(m) for m in messages if isinstance(m, Done | Failed)}
    assert ends == {"a.wav": Done, "absent.wav": Failed}
    assert any(isinstance(m, Hello) for m in messages)
    assert err == "absent.wav: There is no such file. Check its name and folder.\n"


# ── errors ───────────────────────────────────────────────────────────────────────────────────


def test_one_bad_file_does_not_stop_the_rest_and_gives_the_exit_status(farscribe, capsys):
    touch("a.wav", "bad.wav", "c.wav")
    assert farscribe("transcribe", ".") == ExitCode.INPUT
    out, err = capsys.readouterr()
    assert "a ends." in out
    assert "c ends." in out
    assert "bad.wav: It is no audio. Try another.\n" in err
    assert "not-audio" in err


def test_a_file_that_fails_leaves_a_json_that_says_why(farscribe):
    touch("bad.wav")
    assert farscribe("transcribe", "bad.wav", "--format", "txt,json") == ExitCode.INPUT
    assert names() == {"bad.wav", "bad.json"}
    assert json.loads(Path("bad.json").read_text(encoding="utf-8"))["error_code"] == "not-audio"


def test_silence_is_no_error(farscribe, capsys):
    touch("empty.wav")
    assert farscribe("transcribe", "empty.wav") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    assert "empty.wav: no speech was found." in err


def test_an_engine_that_dies_once_is_not_noticed_but_for_a_line(farscribe, capsys):
    touch("die-once.wav")
    assert farscribe("transcribe", "die-once.wav") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == "die-once begins.\ndie-once ends.\n"
    assert "A new engine tries once more." in err


def test_an_engine_that_is_not_installed_is_a_sentence_with_the_way_out(farscribe, capsys):
    touch("a.wav", "b.wav")
    assert farscribe("transcribe", ".", start="incomplete") == ExitCode.DEVICE
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count('pip install "farscribe[worker]"') == 1


def test_a_model_that_is_missing_is_told_before_any_file(farscribe, capsys):
    touch("a.wav")
    assert farscribe("transcribe", "a.wav", start="unloadable") == ExitCode.MODEL
    assert "farscribe: There is no model x. Add it.\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--language", "klingon"],
        ["--language", "it"],
        ["--task", "translate"],
        ["--task", "sing"],
        ["--format", "doc"],
        ["--subtitle-chars", "3", "--format", "srt"],
        ["--windows", "open"],
        ["--nonsense"],
    ],
)
def test_a_wrong_option_is_found_before_the_work_starts(farscribe, capsys, arguments):
    touch("a.wav")
    try:
        status = farscribe("transcribe", "a.wav", *arguments, start="dead")
    except SystemExit as exit_:
        status = exit_.code
    out, err = capsys.readouterr()
    assert status == ExitCode.USAGE
    assert out == ""
    assert "It burns." not in err


def test_an_output_that_cannot_be_is_found_before_the_work_starts(farscribe, capsys):
    touch("a.wav", "file")
    assert farscribe("transcribe", "a.wav", "--output", "file/x", start="dead") == ExitCode.OUTPUT
    assert "Choose another folder with --output." in capsys.readouterr().err


COMMAND = (
    "import sys; from app.cli.main import main;"
    " sys.exit(main(sys.argv[2:], engine_program=eval(sys.argv[1])))"
)
FULL = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9, 9)); {COMMAND}"


def start(command: str, engine: list[str], *arguments: str, **settings) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", command, repr(engine), "transcribe", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        **settings,
    )


@posix
def test_a_full_disk_is_told_before_any_work_is_done(fake_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("FARSCRIBE_HOME", str(tmp_path / "home"))
    (tmp_path / "a.wav").touch()
    with start(FULL, fake_engine("dead"), str(tmp_path / "a.wav")) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.OUTPUT
    assert "It burns." not in err
    assert "full" in err
    assert out == ""


@posix
def test_a_text_that_cannot_be_written_is_printed_and_the_next_file_goes_on(farscribe, capsys):
    long = "a" * 251  # with ".wav" as long as a name may be, with ".json" longer
    touch(f"{long}.wav", "b.wav")
    assert farscribe("transcribe", ".", "--format", "json") == ExitCode.OUTPUT
    out, err = capsys.readouterr()
    assert f"{long} begins.\n{long} ends.\n" in out
    assert "cannot be written" in err
    assert "b.json" in names()


def test_what_was_asked_is_kept_with_its_text(farscribe, tmp_path, monkeypatch):
    monkeypatch.setenv("FARSCRIBE_HOME", str(tmp_path / "home"))
    touch("a.wav", "bad.wav")
    farscribe("transcribe", "a.wav", "bad.wav", "absent.wav")

    async def look() -> dict[str, tuple[str, str]]:
        library = SqliteLibrary(tmp_path / "home" / "library.sqlite")
        entries = await library.entries()
        kept = {e.path.name: (str(e.state), (await library.transcript(e.id)).text) for e in entries}
        await library.close()
        return kept

    assert asyncio.run(look()) == {
        "a.wav": ("done", "a begins. a ends."),
        "bad.wav": ("failed", ""),
    }


@posix
def test_a_run_that_was_killed_goes_on_when_it_is_started_again(fake_engine, tmp_path, monkeypatch):
    monkeypatch.setenv("FARSCRIBE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    touch("hang.wav")
    jobs = []
    for stop in (signal.SIGKILL, signal.SIGINT):
        with start(COMMAND, fake_engine(), "hang.wav", "--json") as process:
            assert process.stdout is not None
            lines = iter(process.stdout)
            jobs += [next(json.loads(line)["job"] for line in lines if '"transcribe"' in line)]
            assert any("hang begins." in line for line in lines)
            process.send_signal(stop)
            process.communicate(timeout=60)
    assert jobs[0] == jobs[1]


# ── stopping ─────────────────────────────────────────────────────────────────────────────────


def until(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    assert any(word in line for line in process.stdout)


@posix
def test_ctrl_c_stops_in_order_with_the_text_so_far(fake_engine, tmp_path):
    for name in ("x/hang.wav", "y/hang.wav"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    with start(COMMAND, fake_engine(), str(tmp_path), "--json") as process:
        until(process, "hang begins.")
        until(process, "hang begins.")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.CANCELLED
    assert err.count("hang.wav: The transcription was cancelled.") == 2
    assert "Traceback" not in err
    assert out.count('"code":"cancelled"') == 2


@posix
def test_a_second_ctrl_c_stops_an_engine_that_does_not_listen(fake_engine, tmp_path):
    (tmp_path / "deaf.wav").touch()
    with start(COMMAND, fake_engine(), str(tmp_path), "--json") as process:
        until(process, "deaf begins.")
        process.send_signal(signal.SIGINT)
        until(process, '"type":"cancel"')
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=4)  # well within the patience for the first
    assert process.returncode == ExitCode.CANCELLED
    assert "Traceback" not in err


@posix
def test_a_reader_that_has_had_enough_ends_the_work_without_a_traceback(fake_engine, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.wav").touch()
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-c", COMMAND, repr(fake_engine()), "transcribe", str(tmp_path)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, check=False, timeout=60)
    os.close(writing)
    assert done.returncode == ExitCode.OUTPUT
    assert b"Traceback" not in done.stderr


# ── the rest ─────────────────────────────────────────────────────────────────────────────────


def test_without_arguments_the_help_is_shown(capsys):
    assert main([]) == ExitCode.OK
    assert "transcribe" in capsys.readouterr().out


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == ExitCode.OK
    assert capsys.readouterr().out.startswith("farscribe ")
