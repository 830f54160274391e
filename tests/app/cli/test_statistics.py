import csv
import io

from tests.app.cli.shelves import fill


def rows(capsys):
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_stats_gives_length_wall_speeds_stages_and_coverage_and_a_total(farscribe, home, capsys):
    fill(home)
    farscribe("stats")
    *_, line, total = capsys.readouterr().out.splitlines()
    # 28 s of work, at least the engine's 30 s; 2 s of waiting before and half a second after.
    expected = "1:02:03 32.50 s 115 186 2.00 s 1.50 s 2.00 s 20.00 s 0.50 s 90.0 %".split()
    assert line.split() == ["whale", "song.mp3", *expected]
    assert total.split() == ["all", *expected]


def test_stats_gives_programs_every_figure(farscribe, home, capsys):
    jobs = fill(home)
    farscribe("stats", "--csv")
    (row,) = rows(capsys)
    assert (row["job"], row["file"], row["model"]) == (jobs["done"], "whale song.mp3", "base")
    figures = ("audio_s", "wall_s", "upload_s", "vad_s", "generate_s", "coverage", "sent_bytes")
    assert [row[name] for name in figures] == [
        "3723.000",
        "32.500",
        "1.500",
        "",
        "20.000",
        "0.9000",
        "1234",
    ]


def test_stats_by_model_machine_or_day(farscribe, home, capsys):
    fill(home)
    for by, name in (("model", "base"), ("machine", "this-computer"), ("day", "2026-08-05")):
        farscribe("stats", "--by", by, "--csv")
        (row,) = rows(capsys)
        assert (row[by], row["files"]) == (name, "1")
        farscribe("stats", "--by", by)
        assert name in capsys.readouterr().out


def test_stats_of_nothing_are_a_heading(farscribe, capsys):
    farscribe("stats", "--csv")
    assert rows(capsys) == []
