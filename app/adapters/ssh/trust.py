"""Whether a host is the one it was: keys of hosts are pinned, and a new one is the user's choice.

Keys are looked up in the user's own files, which are never written, and in one of ours. It must
not talk to a host.
"""

import os
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry

from app.adapters.ssh.address import Host
from remote.protocol import ErrorCode, KnownError


class KnownHosts(paramiko.MissingHostKeyPolicy):
    """The keys that are trusted for one host, and what happens where there is none.

    Args:
        host: whose.
        own: our file of keys; it need not exist.
        trust: fingerprint ("SHA256:…") that the user has checked; a new key of this fingerprint
            is stored in ``own``.
    """

    def __init__(self, host: Host, own: Path, trust: str | None = None) -> None:
        self._host = host
        self._own = own
        self._trust = trust

    def load_into(self, client: paramiko.SSHClient) -> None:
        """Makes the client hold the host against these keys.

        Raises:
            KnownError: host-unknown where a file of keys cannot be read.
        """
        for file in (*self._host.known_hosts, self._own):
            try:
                client.load_system_host_keys(str(file))
            except (FileNotFoundError, NotADirectoryError):
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise KnownError(
                    ErrorCode.HOST_UNKNOWN,
                    f"The file of known hosts {file} cannot be read: {error}.",
                    "Make it readable, or move it away.",
                ) from error
        client.set_missing_host_key_policy(self)

    def missing_host_key(
        self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
    ) -> None:
        """Nothing, where the user has said that this key is right: it is stored.

        Raises:
            KnownError: host-unknown.
        """
        del client, hostname  # the name is in the host
        found = key.fingerprint
        if self._trust is not None and self._trust.rstrip("=") == found:
            self._store(key)
            return
        other = "" if self._trust is None else f", not {self._trust}"
        raise KnownError(
            ErrorCode.HOST_UNKNOWN,
            f"{self._host.name} is not known here: its {key.algorithm_name} key is {found}{other}.",
            "Compare it with what ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub says on that machine,"
            f" then run this again with --trust-host {found}",
        )

    def changed(self, key: paramiko.PKey) -> KnownError:
        """The error of a host that shows another key than before."""
        file = next(filter(self._names_host, (*self._host.known_hosts, self._own)), self._own)
        name = self._host.key_name
        return KnownError(
            ErrorCode.HOST_CHANGED,
            f"{self._host.name} is not the machine it was: its {key.algorithm_name} key is now"
            f" {key.fingerprint}. Somebody may be listening in, or it was set up anew.",
            f"Only if you know why, forget the old key: ssh-keygen -f '{file}' -R '{name}'"
            f" (it removes the lines of {name} from that file).",
        )

    def _names_host(self, file: Path) -> bool:
        return file.is_file() and self._host.key_name in paramiko.HostKeys(str(file))

    def _store(self, key: paramiko.PKey) -> None:
        line = HostKeyEntry([self._host.key_name], key).to_line()
        try:
            self._own.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
            with os.fdopen(os.open(self._own, flags, 0o600), "a", encoding="ascii") as file:
                file.write(line or "")
        except OSError as error:
            raise KnownError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"The key of {self._host.name} cannot be stored in {self._own}: {error.strerror}.",
                "Make the folder writable, or set FARSCRIBE_HOME to another one.",
            ) from error
