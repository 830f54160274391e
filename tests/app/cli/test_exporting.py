from pathlib import Path

import pytest

from remote.protocol import ExitCode
from tests.app.adapters.library_jobs import Shelf
from tests.app.cli.shelves import fill


@pytest.fixture
def jobs(home):
    return fill(home)


def test_text_is_written_in_every_wanted_format_and_the_files_are_named(
    farscribe, jobs, home, capsys
):
    assert farscribe("export", jobs["done"], "--format", "txt,srt", "--output", "x") == ExitCode.OK
    files = capsys.readouterr().out.splitlines()
    assert files == ["x/whale song.txt", "x/whale song.srt"]
    assert "Somebody hears the whale." in Path(files[0]).read_text()
    with Shelf(home / "library.sqlite") as shelf:
        assert [str(path) for path in shelf.entry(jobs["done"]).exports] == files


def test_files_are_replaced_only_where_that_is_wanted(farscribe, jobs, capsys):
    for arguments in ([], [], ["--overwrite"]):
        farscribe("export", jobs["done"], "--format", "txt", "--output", "x", *arguments)
    assert capsys.readouterr().out.splitlines() == [
        "x/whale song.txt",
        "x/whale song (2).txt",
        "x/whale song.txt",
    ]


def test_subtitles_follow_the_rules_that_are_given(farscribe, jobs, capsys):
    options = ["--subtitle-chars", "16", "--subtitle-lines", "1", "--reading-speed", "10"]
    farscribe("export", jobs["done"], "--format", "srt", "--output", "x", *options)
    text = Path("x/whale song.srt").read_text()
    assert all(len(line) <= 16 for line in text.splitlines() if " --> " not in line)


def test_one_that_is_not_there_does_not_keep_the_rest_from_being_written(farscribe, jobs, capsys):
    arguments = ["--format", "txt", "--output", "x"]
    assert farscribe("export", "zzz", jobs["done"], *arguments) == ExitCode.USAGE
    assert capsys.readouterr().out == "x/whale song.txt\n"


def test_without_text_nothing_is_written_but_json(farscribe, jobs, capsys):
    arguments = [jobs["failed"], "--output", "x", "--format"]
    assert farscribe("export", *arguments, "txt") == ExitCode.OK
    out, err = capsys.readouterr()
    assert out == ""
    assert "no text" in err
    assert farscribe("export", *arguments, "json") == ExitCode.OK
    assert capsys.readouterr().out == "x/noise.json\n"


@pytest.mark.parametrize(
    "options", [["--format", ""], ["--format", "doc"], ["--reading-speed", "1"]]
)
def test_wrong_options_are_found_first(farscribe, jobs, options):
    arguments = options if "--format" in options else [*options, "--format", "srt"]
    assert farscribe("export", jobs["done"], *arguments) == ExitCode.USAGE


def test_a_recording_whose_folder_is_gone_is_told_where_else_to_write(farscribe, jobs, capsys):
    assert farscribe("export", jobs["done"], "--format", "txt") == ExitCode.OUTPUT
    assert "--output" in capsys.readouterr().err
