"""The whole product over SSH on loopback: real client, real sshd, real worker, real model."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.sshd import needs_sshd
from tests.loopback.rig import ROOT, Rig
from tests.loopback.test_transcribe import SAMPLE
from tests.loopback.test_transcribe import pytestmark as needs_model

pytestmark = [needs_model, needs_sshd]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory):
    with Rig(tmp_path_factory.mktemp("rig")) as rig:
        yield rig


def test_the_text_over_ssh_is_that_of_this_computer(rig: Rig, tmp_path: Path) -> None:
    here = subprocess.run(
        [sys.executable, "-m", "app", "transcribe", str(SAMPLE), "--quiet", "--words",
         "--format", "srt", "--output", str(tmp_path / "here")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert here.returncode == 0, here.stderr
    there = rig.transcribe(
        [SAMPLE], "--quiet", "--words", "--audio", "flac", "--format", "srt",
        "--output", str(tmp_path / "there"),
    )  # fmt: skip
    _, err = there.communicate(timeout=280)
    assert there.returncode == 0, err
    one, other = (tmp_path / place / "sample.srt" for place in ("here", "there"))
    assert one.read_text() == other.read_text()
    assert "ask not" in one.read_text()
    assert rig.journals() == []  # fetched, acknowledged, forgotten
    assert not any((rig.spool / "blocks").glob("*/*"))


def test_a_host_that_is_not_known_is_not_trusted_until_its_fingerprint_is_given(rig: Rig) -> None:
    known = rig.home / ".ssh" / "known_hosts"
    line = known.read_text()
    known.write_text("")
    try:
        client = rig.transcribe([SAMPLE], "--again")
        _, err = client.communicate(timeout=120)
        assert client.returncode == 7
        assert rig.sshd.fingerprint in err
        assert "--trust-host" in err
        client = rig.transcribe([SAMPLE], "--again", "--trust-host", rig.sshd.fingerprint)
        out, err = client.communicate(timeout=120)
        assert client.returncode == 0, err
        assert "ask not" in out
        client = rig.transcribe([SAMPLE])  # known from now on, and transcribed before
        out, err = client.communicate(timeout=120)
        assert client.returncode == 0, err
        assert "ask not" in out
    finally:
        known.write_text(line)
