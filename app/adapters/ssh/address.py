"""Which host is meant: ``ssh://[user@]host[:port][?python=PATH]`` and ~/.ssh/config together.

It reads that one file and connects to nothing.
"""

import getpass
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import paramiko

from remote.protocol import ErrorCode, KnownError

SSH_PORT = 22
_QUERY = {"python"}
_DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True, slots=True)
class Host:
    """A host as it is reached and logged in to.

    Args:
        name: as the user names it: the address without its query.
        user: who logs in there.
        hostname, port: what is connected to.
        key_name: what the host is called in files of known hosts.
        python: an interpreter there that has all the engine needs; "" where one is set up.
        identities: key files that the user has named for this host, or the default ones.
        named_identities: whether the user has named them.
        agent: whether keys of the agent may be tried.
        known_hosts: files of host keys that the user's ssh trusts.
    """

    name: str
    user: str
    hostname: str
    port: int
    key_name: str
    python: str = ""
    identities: tuple[Path, ...] = ()
    named_identities: bool = False
    agent: bool = True
    known_hosts: tuple[Path, ...] = ()


def resolve(address: str, ssh_folder: Path) -> Host:
    """The host that an address names.

    Args:
        address: see the module.
        ssh_folder: the user's ~/.ssh.

    Raises:
        KnownError: unknown-option where it is no such address, or where the user's configuration
            asks for a way that is not gone here.
    """
    parts = _parts(address)
    alias = parts.hostname or ""
    config = _configured(ssh_folder / "config", alias)
    _check_way(alias, config)
    hostname = config.get("hostname", alias)
    port = parts.port or _port(config.get("port"))
    key_name = config.get("hostkeyalias") or (
        hostname if port == SSH_PORT else f"[{hostname}]:{port}"
    )
    named = cast("Sequence[str]", config.get("identityfile", ()))  # the one that is a list
    files = [Path(item).expanduser() for item in named]
    return Host(
        name=f"ssh://{parts.netloc}",
        user=unquote(parts.username or "") or config.get("user") or getpass.getuser(),
        hostname=hostname,
        port=port,
        key_name=key_name,
        python=parse_qs(parts.query).get("python", [""])[0],
        identities=tuple(files or [ssh_folder / name for name in _DEFAULT_KEYS]),
        named_identities=bool(files),
        agent=config.get("identitiesonly", "no").lower() != "yes",
        known_hosts=_known_hosts(config, ssh_folder),
    )


def _parts(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        usable = parts.port != 0 and parts.hostname is not None
    except ValueError:  # a port that is no number, brackets that do not close
        usable = False
    query = parse_qs(parts.query, keep_blank_values=True) if usable else {}
    if not usable or parts.scheme != "ssh" or parts.path not in ("", "/") or query.keys() - _QUERY:
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION,
            f'"{address.partition("?")[0]}" is no address of a machine.',
            "Write it as ssh://user@host or ssh://user@host:2222.",
        )
    if parts.password is not None:
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION,
            f"The address of {parts.hostname} holds a password, which others can read there.",
            "Leave it out: you are asked for it, or better use a key.",
        )
    return parts


def _configured(file: Path, alias: str) -> paramiko.SSHConfigDict:
    """What the user's configuration says of a host."""
    try:
        return paramiko.SSHConfig.from_path(str(file)).lookup(alias)
    except (FileNotFoundError, NotADirectoryError):
        return paramiko.SSHConfig().lookup(alias)
    except (OSError, UnicodeDecodeError, paramiko.SSHException) as error:
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION,
            f"The file {file} cannot be read: {error}.",
            "Correct it; ssh itself needs it too.",
        ) from error


def _check_way(alias: str, config: paramiko.SSHConfigDict) -> None:
    for option in ("ProxyJump", "ProxyCommand"):
        if config.get(option.lower(), "none").lower() != "none":
            raise KnownError(
                ErrorCode.UNKNOWN_OPTION,
                f"~/.ssh/config reaches {alias} with {option}, which Farscribe cannot do.",
                f"Open a tunnel with ssh -L 2222:localhost:22 {alias} and use"
                " ssh://user@localhost:2222.",
            )


def _port(text: str | None) -> int:
    return int(text) if text and text.isdecimal() else SSH_PORT


def _known_hosts(config: paramiko.SSHConfigDict, ssh_folder: Path) -> tuple[Path, ...]:
    named = config.get("userknownhostsfile", "").split()
    if named:
        return tuple(Path(item).expanduser() for item in named if item.lower() != "none")
    return (ssh_folder / "known_hosts", ssh_folder / "known_hosts2")
