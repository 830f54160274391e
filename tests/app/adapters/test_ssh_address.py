"""Addresses and ~/.ssh/config, without a host."""

import getpass
from pathlib import Path

import pytest

from app.adapters.ssh.address import resolve
from remote.protocol import ErrorCode, KnownError


def configured(folder: Path, text: str) -> Path:
    (folder / "config").write_text(text)
    return folder


def test_a_host_alone_is_the_local_user_on_port_22_with_the_usual_keys(tmp_path):
    host = resolve("ssh://box", tmp_path)
    assert (host.user, host.hostname, host.port) == (getpass.getuser(), "box", 22)
    assert (host.name, host.key_name, host.python) == ("ssh://box", "box", "")
    assert tmp_path / "id_ed25519" in host.identities
    assert not host.named_identities


def test_everything_in_an_address_is_taken(tmp_path):
    host = resolve("ssh://ada%40lab@box.example:2222?python=/opt/python", tmp_path)
    assert (host.user, host.hostname, host.port) == ("ada@lab", "box.example", 2222)
    assert host.name == "ssh://ada%40lab@box.example:2222"
    assert host.key_name == "[box.example]:2222"
    assert host.python == "/opt/python"


def test_an_address_of_version_6_may_be_meant(tmp_path):
    host = resolve("ssh://[::1]:2222", tmp_path)
    assert (host.hostname, host.port, host.key_name) == ("::1", 2222, "[::1]:2222")


def test_the_users_configuration_is_honoured(tmp_path):
    text = "Host gpu\n HostName 10.0.0.7\n User ada\n Port 2200\n IdentityFile /keys/gpu\n"
    host = resolve("ssh://gpu", configured(tmp_path, text))
    assert (host.user, host.hostname, host.port) == ("ada", "10.0.0.7", 2200)
    assert host.identities == (Path("/keys/gpu"),)
    assert host.named_identities
    assert host.key_name == "[10.0.0.7]:2200"


def test_the_address_goes_before_the_configuration(tmp_path):
    text = "Host gpu\n User ada\n Port 2200\n"
    host = resolve("ssh://bob@gpu:22", configured(tmp_path, text))
    assert (host.user, host.port) == ("bob", 22)


def test_names_and_files_of_host_keys_can_be_configured(tmp_path):
    text = "Host gpu\n HostKeyAlias the-gpu\n UserKnownHostsFile /a /b\n IdentitiesOnly yes\n"
    host = resolve("ssh://gpu", configured(tmp_path, text))
    assert host.key_name == "the-gpu"
    assert host.known_hosts == (Path("/a"), Path("/b"))
    assert not host.agent


@pytest.mark.parametrize(
    "address",
    [
        "ssh://",
        "http://box",
        "box",
        "ssh://box:0",
        "ssh://box:99999",
        "ssh://box:port",
        "ssh://[::1",
        "ssh://box/path",
        "ssh://box?pyton=/x",
    ],
)
def test_what_is_no_address_is_refused_with_an_example(tmp_path, address):
    with pytest.raises(KnownError) as caught:
        resolve(address, tmp_path)
    assert caught.value.code is ErrorCode.UNKNOWN_OPTION
    assert "ssh://user@host" in caught.value.hint


def test_a_password_in_an_address_is_refused_and_not_repeated(tmp_path):
    with pytest.raises(KnownError) as caught:
        resolve("ssh://ada:secret@box", tmp_path)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("option", ["ProxyJump bastion", "ProxyCommand nc %h %p"])
def test_a_way_that_is_not_gone_is_said_so_plainly(tmp_path, option):
    with pytest.raises(KnownError) as caught:
        resolve("ssh://gpu", configured(tmp_path, f"Host gpu\n {option}\n"))
    assert option.split()[0] in caught.value.message
    assert "tunnel" in caught.value.hint


def test_a_configuration_that_is_broken_is_named(tmp_path):
    with pytest.raises(KnownError) as caught:
        resolve("ssh://gpu", configured(tmp_path, "nonsense\n"))
    assert str(tmp_path / "config") in caught.value.message
