"""Ways to log in, through a real sshd and a real agent on loopback."""

import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

from app.adapters.ssh.login import from_keyring
from remote.protocol import ErrorCode
from tests.app.adapters.ssh_host import failure, greeted, machine, talk
from tests.helpers.sshd import make_key, needs_sshd

pytestmark = needs_sshd


class Asked:
    """A user who answers in turn, and then no more."""

    def __init__(self, *answers: str) -> None:
        self.answers = list(answers)
        self.questions: list[str] = []

    def __call__(self, question: str) -> str | None:
        self.questions.append(question)
        return self.answers.pop(0) if self.answers else None


def lock(sshd, passphrase: str = "open sesame") -> None:
    make_key(sshd.key, passphrase)
    sshd.authorize(sshd.key)


def test_a_key_file_lets_in_without_a_question(sshd):
    asked = Asked()
    talk(machine(sshd, ask=asked), greeted)
    assert asked.questions == []


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_other_kinds_of_keys_let_in_too(sshd, kind):
    sshd.key.unlink()
    key = sshd.client / f"id_{kind}"
    make_key(key, kind=kind)
    sshd.authorize(key)
    talk(machine(sshd), greeted)


def test_a_passphrase_is_asked_for_and_may_be_mistyped(sshd):
    lock(sshd)
    asked = Asked("wrong", "open sesame")
    talk(machine(sshd, ask=asked), greeted)
    assert asked.questions == [f"Passphrase of {sshd.key}: "] * 2


def test_a_passphrase_that_is_remembered_is_not_asked_for(sshd):
    lock(sshd)
    asked = Asked()
    remembered = {str(sshd.key): "open sesame"}
    talk(machine(sshd, ask=asked, recall=remembered.get), greeted)
    assert asked.questions == []


def test_no_passphrase_means_refused_with_what_was_tried(sshd):
    lock(sshd)
    asked = Asked("no", "no", "no", "never asked")
    error = failure(machine(sshd, ask=asked))
    assert error.code is ErrorCode.HOST_REFUSED
    assert f"the key {sshd.key} (its passphrase was wrong or not given)" in error.message
    assert len(asked.questions) == 3


def test_a_key_that_the_host_does_not_know_is_refused(sshd):
    make_key(sshd.folder / "other")
    sshd.authorize(sshd.folder / "other")
    error = failure(machine(sshd))
    assert error.code is ErrorCode.HOST_REFUSED
    assert f"Tried: the key {sshd.key}." in error.message
    assert "ssh-copy-id" in error.hint


def test_no_key_at_all_is_said_so(sshd):
    sshd.key.unlink()
    error = failure(machine(sshd))
    assert error.code is ErrorCode.HOST_REFUSED
    assert "There is no key to try." in error.message


def test_a_password_is_asked_for_only_where_the_host_takes_one(sshd):
    sshd.key.unlink()
    asked = Asked("wrong", "wrong too")
    failure(machine(sshd, ask=asked))
    assert asked.questions == []
    sshd.stop()
    sshd.configure(password=True)
    sshd.start()
    error = failure(machine(sshd, ask=asked))
    assert error.code is ErrorCode.HOST_REFUSED
    assert "Tried: a password." in error.message
    assert all(question.startswith("Password of ") for question in asked.questions)
    assert len(asked.questions) == 3


def test_a_key_that_the_configuration_names_is_used(sshd):
    key = sshd.folder / "elsewhere"
    sshd.key.rename(key)
    (sshd.client / "config").write_text(f"Host *\n IdentityFile {key}\n IdentitiesOnly yes\n")
    talk(machine(sshd), greeted)


def test_a_key_that_is_named_and_cannot_be_read_is_said_so(sshd):
    (sshd.client / "config").write_text(f"Host *\n IdentityFile {sshd.folder}/gone\n")
    error = failure(machine(sshd))
    assert f"the key {sshd.folder}/gone (which cannot be read)" in error.message


def test_a_damaged_key_is_passed_over(sshd):
    (sshd.client / "id_rsa").write_text("no key at all")
    talk(machine(sshd), greeted)


@pytest.mark.skipif(shutil.which("ssh-agent") is None, reason="no ssh-agent here")
def test_the_agent_lets_in(sshd, monkeypatch, tmp_path):
    address = str(tmp_path / "agent")
    with subprocess.Popen(["ssh-agent", "-D", "-a", address], stdout=subprocess.PIPE) as agent:
        try:
            assert agent.stdout is not None
            agent.stdout.readline()  # it listens
            monkeypatch.setenv("SSH_AUTH_SOCK", address)
            subprocess.run(["ssh-add", "-q", sshd.key], check=True)
            sshd.key.unlink()
            talk(machine(sshd), greeted)
        finally:
            agent.kill()


# paramiko leaves the socket unclosed that it could not connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_agent_that_is_gone_is_passed_over(sshd, monkeypatch, tmp_path):
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "nothing"))
    talk(machine(sshd), greeted)


class KeyringError(Exception):
    pass


@pytest.mark.parametrize(
    ("get_password", "found"),
    [
        (lambda service, name: f"{service}:{name}", "farscribe:a"),
        (lambda service, name: None, None),
        (lambda service, name: (_ for _ in ()).throw(KeyringError), None),
    ],
)
def test_secrets_are_looked_up_in_a_keyring_where_there_is_one(monkeypatch, get_password, found):
    errors = SimpleNamespace(KeyringError=KeyringError)
    keyring = SimpleNamespace(get_password=get_password, __spec__=object())
    monkeypatch.setitem(sys.modules, "keyring", keyring)
    monkeypatch.setitem(sys.modules, "keyring.errors", errors)
    assert from_keyring("a") == found
