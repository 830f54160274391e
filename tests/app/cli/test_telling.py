import io
import os
import subprocess
import sys

import pytest

from app.cli import telling
from remote.protocol import ErrorCode, KnownError


def test_nobody_is_asked_where_nobody_sits(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("secret\n"))
    assert telling.ask("Password: ") is None


@pytest.mark.skipif(os.name != "posix", reason="terminals")
def test_a_secret_that_is_typed_at_a_terminal_is_not_shown_there():
    here, there = os.openpty()
    command = "from app.cli.telling import ask; print(ask('Password: '))"
    with subprocess.Popen(
        [sys.executable, "-c", command],
        stdin=there,
        stderr=there,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        shown = b""
        while b"Password: " not in shown:
            shown += os.read(here, 1000)
        os.write(here, b"secret\n")
        out, _ = process.communicate(timeout=30)
    os.close(there)
    os.close(here)
    assert out == "secret\n"
    assert b"secret" not in shown


def test_the_fingerprint_of_a_new_host_stands_on_a_line_that_can_be_copied(capsys):
    fingerprint = "SHA256:" + "x" * 43
    error = KnownError(
        ErrorCode.HOST_UNKNOWN,
        f"ssh://user@far is not known here: its ssh-ed25519 key is {fingerprint}.",
        f"Compare it, then run this again with --trust-host {fingerprint}",
    )
    telling.tell(error)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("farscribe: ssh://user@far is not known here")
    assert second.endswith(f"--trust-host {fingerprint}")
