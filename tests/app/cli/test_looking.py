import json

import pytest

from remote.protocol import ExitCode
from tests.app.cli.shelves import fill


@pytest.fixture
def jobs(home):
    return fill(home)


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


# ── history ──────────────────────────────────────────────────────────────────────────────────


def test_history_lists_the_newest_first_with_length_state_and_model(farscribe, jobs, capsys):
    assert farscribe("history") == ExitCode.OK
    first, second, third = capsys.readouterr().out.splitlines()[1:]
    assert first.split()[0] == jobs["running"][:8]
    assert "running" in first
    assert "link-lost" in second
    assert third.split()[3:] == ["1:02:03", "done", "base", "/rec/whale", "song.mp3"]


def test_history_can_be_narrowed(farscribe, jobs, capsys):
    for arguments, expected in (
        (["--state", "failed", "--state", "done"], ["failed", "done"]),
        (["--name", "LATER"], ["running"]),
        (["--limit", "1"], ["running"]),
        (["--limit", "0"], ["running", "failed", "done"]),
    ):
        farscribe("history", "--json", *arguments)
        assert [line["job"] for line in lines(capsys)] == [jobs[name] for name in expected]


def test_history_gives_programs_all_that_is_known(farscribe, jobs, capsys):
    farscribe("history", "--json")
    by = {line["job"]: line for line in lines(capsys)}
    done = by[jobs["done"]]
    assert done["length_s"] == 3723.0
    assert (done["model"], done["device"], done["dtype"]) == ("base", "cuda:0", "bfloat16")
    assert done["coverage"] == 0.9
    assert done["error"] is None
    error = {"code": "link-lost", "message": "It broke.", "hint": "Try again."}
    assert by[jobs["failed"]]["error"] == error
    assert by[jobs["failed"]]["machine"] == "ssh://far"


def test_an_empty_library_is_said_to_be_so(farscribe, capsys):
    for verb, *arguments in (["history"], ["search", "x"], ["stats"]):
        assert farscribe(verb, *arguments) == ExitCode.OK
        out, err = capsys.readouterr()
        assert out == ""
        assert err.endswith(".\n")
        assert farscribe(verb, *arguments, *([] if verb == "stats" else ["--json"])) == ExitCode.OK
        assert capsys.readouterr().out == ""


# ── search ───────────────────────────────────────────────────────────────────────────────────


def test_search_shows_file_time_and_text(farscribe, jobs, capsys):
    assert farscribe("search", "whale", "somebody") == ExitCode.OK
    heading, hit = capsys.readouterr().out.splitlines()
    assert heading == f"{jobs['done'][:8]}  /rec/whale song.mp3"
    assert hit.split() == ["1:01:01", "Somebody", "hears", "the", "whale."]


def test_search_finds_what_stands_in_quotes_as_it_stands(farscribe, jobs, capsys):
    farscribe("search", "the whale", "--json")
    found = lines(capsys)
    assert [hit["text"] for hit in found] == [
        "The whale sings.",
        "The whale sings.",
        "Somebody hears the whale.",
    ]
    assert [found[0]["text"][a:b] for a, b in found[0]["marks"]] == ["The whale"]
    farscribe("search", "whale the", "--json")
    assert lines(capsys) == []


def test_search_makes_the_hit_stand_out_on_a_terminal(farscribe, jobs):
    import os
    from pathlib import Path

    from app.cli.tables import hits_text
    from tests.app.adapters.library_jobs import Shelf

    with Shelf(Path(os.environ["FARSCRIBE_HOME"]) / "library.sqlite") as shelf:
        hits = shelf.search("sings")
    (_, text, *_) = hits_text(hits).renderables
    (span,) = [span for span in text.spans if "reverse" in str(span.style)]
    assert text.plain[span.start : span.end] == "sings"


# ── show ─────────────────────────────────────────────────────────────────────────────────────


def test_show_prints_the_text_with_edits_or_as_it_was_heard(farscribe, jobs, capsys):
    assert farscribe("show", jobs["done"]) == ExitCode.OK
    assert capsys.readouterr() == ("The whale sings.\nSomebody hears the whale.\n", "")
    farscribe("show", jobs["done"][:8], "--original")
    assert capsys.readouterr().out.endswith("\nNobody [b]hears[/b] the whale.\n")


def test_show_gives_times(farscribe, jobs, capsys):
    farscribe("show", jobs["done"], "--times")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "0:00:01",
        "1:01:01",
    ]


def test_show_gives_all_as_json(farscribe, jobs, capsys):
    farscribe("show", jobs["done"], "--json")
    assert json.loads(capsys.readouterr().out)["segments"][0]["text"] == "The whale sings."


def test_show_says_why_there_is_not_more(farscribe, jobs, capsys):
    farscribe("show", jobs["failed"])
    assert capsys.readouterr() == ("", "noise.wav: It broke. Try again.\n")
    farscribe("show", jobs["running"])
    out, err = capsys.readouterr()
    assert out == "The whale sings.\n"
    assert "not finished" in err


@pytest.mark.parametrize("verb", [["show"], ["remove"], ["retry"], ["export", "--format", "txt"]])
def test_a_job_that_is_not_there_is_told_with_the_next_step(farscribe, jobs, capsys, verb):
    assert farscribe(*verb, "zzz") == ExitCode.USAGE
    assert "farscribe history" in capsys.readouterr().err
