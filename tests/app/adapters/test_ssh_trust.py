"""Host keys: unknown, trusted, changed; through a real sshd on loopback."""

import stat

import pytest

from remote.protocol import ErrorCode
from tests.app.adapters.ssh_host import failure, greeted, machine, talk
from tests.helpers.sshd import needs_sshd

pytestmark = needs_sshd


def test_an_unknown_host_is_refused_with_its_fingerprint_and_how_to_trust_it(sshd):
    error = failure(machine(sshd, known=False))
    assert error.code is ErrorCode.HOST_UNKNOWN
    assert f"its ED25519 key is {sshd.fingerprint}" in error.message
    assert f"--trust-host {sshd.fingerprint}" in error.hint
    assert not (sshd.folder / "own").exists()


def test_a_fingerprint_that_the_user_has_checked_is_trusted_once_and_for_all(sshd):
    talk(machine(sshd, known=False, trust=sshd.fingerprint), greeted)
    own = sshd.folder / "own" / "known_hosts"
    assert own.read_text() == sshd.known()
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    talk(machine(sshd, known=False), greeted)
    talk(machine(sshd, known=False, trust=sshd.fingerprint), greeted)
    assert own.read_text() == sshd.known()


def test_another_fingerprint_than_the_hosts_is_not_trusted(sshd):
    error = failure(machine(sshd, known=False, trust="SHA256:other"))
    assert error.code is ErrorCode.HOST_UNKNOWN
    assert "not SHA256:other" in error.message
    assert sshd.fingerprint in error.hint


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_changed_host_key_is_refused_with_the_way_out_even_where_it_is_trusted(sshd, kind):
    known = sshd.known()
    sshd.stop()
    sshd.new_host_key(kind)
    sshd.start()
    (sshd.client / "known_hosts").write_text(known)
    error = failure(machine(sshd, known=False, trust=sshd.fingerprint))
    assert error.code is ErrorCode.HOST_CHANGED
    assert sshd.fingerprint in error.message
    command = f"ssh-keygen -f '{sshd.client / 'known_hosts'}' -R '[127.0.0.1]:{sshd.port}'"
    assert command in error.hint


def test_our_own_file_is_named_where_the_changed_key_is_in_it(sshd):
    talk(machine(sshd, known=False, trust=sshd.fingerprint), greeted)
    sshd.stop()
    sshd.new_host_key()
    sshd.start()
    error = failure(machine(sshd, known=False))
    assert error.code is ErrorCode.HOST_CHANGED
    assert str(sshd.folder / "own" / "known_hosts") in error.hint


def test_an_rsa_key_that_is_known_is_recognised(sshd):
    sshd.stop()
    sshd.new_host_key("rsa")
    sshd.start()
    talk(machine(sshd), greeted)


def test_a_file_of_known_hosts_that_cannot_be_read_is_named(sshd):
    (sshd.client / "known_hosts").mkdir()
    error = failure(machine(sshd, known=False))
    assert error.code is ErrorCode.HOST_UNKNOWN
    assert str(sshd.client / "known_hosts") in error.message


def test_a_key_that_cannot_be_stored_is_said_so(sshd):
    (sshd.folder / "own").write_text("a file where the folder should be")
    error = failure(machine(sshd, known=False, trust=sshd.fingerprint))
    assert error.code is ErrorCode.OUTPUT_UNWRITABLE
    assert "FARSCRIBE_HOME" in error.hint
