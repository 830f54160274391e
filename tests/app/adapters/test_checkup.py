import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from app.adapters import checkup
from app.adapters.checkup import LocalCheckup
from app.domain.checkup import Finding, Health


def listing(*models: tuple[str, str]) -> list[str]:
    """A program that lists models."""
    text = json.dumps([{"name": name, "state": state} for name, state in models])
    return [sys.executable, "-S", "-c", f"print({text!r})"]


def models(*command: str) -> Finding:
    return checkup.models(command, os.environ, "tiny.en")


def test_everything_is_looked_at_in_order(tmp_path):
    local = LocalCheckup(tmp_path / "new", listing(("tiny.en", "ready")), os.environ, "tiny.en")

    async def run() -> list[Finding]:
        return [finding async for finding in local()]

    findings = asyncio.run(run())
    subjects = [finding.subject for finding in findings]
    assert subjects == "python folder disk spool audio engine gpu models".split()
    assert Health.BAD not in {finding.health for finding in findings}


@pytest.mark.parametrize(
    ("listed", "health", "word"),
    [
        ([("tiny.en", "ready"), ("base", "hub")], Health.OK, "tiny.en"),
        ([("tiny.en", "starter")], Health.OK, "comes at its first use"),
        ([("base", "ready"), ("tiny.en", "hub")], Health.WARN, "tiny.en is not here"),
    ],
)
def test_models_are_told_and_whether_the_usual_one_is_there(listed, health, word):
    finding = models(*listing(*listed))
    assert finding.health is health
    assert word in finding.message


@pytest.mark.parametrize("program", ["print('{')", "raise SystemExit(1)", "print('[1]')"])
def test_models_that_cannot_be_listed_are_a_warning(program):
    assert models(sys.executable, "-S", "-c", program).health is Health.WARN
    assert models("no-such-program").health is Health.WARN


def test_a_folder_that_cannot_be_written_is_bad_with_the_way_out(tmp_path):
    (tmp_path / "file").touch()
    finding = checkup.folder(tmp_path / "file" / "home")
    assert finding.health is Health.BAD
    assert "FARSCRIBE_HOME" in finding.hint


def test_the_check_leaves_no_file_behind(tmp_path):
    assert checkup.folder(tmp_path).health is Health.OK
    assert list(tmp_path.iterdir()) == []


def test_unfinished_work_is_weighed(tmp_path: Path):
    assert checkup.spool(tmp_path).message == "empty"
    (tmp_path / "0.spool" / "jobs").mkdir(parents=True)
    (tmp_path / "0.spool" / "jobs" / "a").write_bytes(bytes(3 * 2**20))
    assert checkup.spool(tmp_path).message == "3.0 MB of unfinished work"


def test_room_is_told_also_for_a_folder_that_is_not_there_yet(tmp_path):
    assert "GB free" in checkup.room(tmp_path / "not" / "yet").message
