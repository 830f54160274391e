import json
import sqlite3

from remote.protocol import ExitCode
from tests.app.cli.shelves import fill


def findings(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_doctor_tells_what_is_there_and_what_to_do(farscribe, home, capsys):
    fill(home)
    assert farscribe("doctor") == ExitCode.OK
    out, err = capsys.readouterr()
    assert f"{home} (from FARSCRIBE_HOME)" in out
    assert "3 recordings" in out
    assert "farscribe resume" in out
    assert "farscribe retry --failed" in out
    assert "warn" in err


def test_doctor_goes_on_to_the_host_and_ends_with_its_error(farscribe, capsys):
    assert farscribe("doctor", "--on", "ssh://a@127.0.0.1:1", "--json") == ExitCode.NETWORK
    *_, last = findings(capsys)
    assert (last["subject"], last["health"], last["code"]) == ("reach", "bad", "host-unreachable")
    assert last["hint"]


def test_a_library_that_cannot_be_used_is_one_bad_line_among_good_ones(farscribe, home, capsys):
    with sqlite3.connect(home / "library.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9999999")
    connection.close()
    assert farscribe("doctor", "--json") == ExitCode.OUTPUT
    bad = [finding for finding in findings(capsys) if finding["health"] == "bad"]
    assert [finding["code"] for finding in bad] == ["library-newer"]
