"""A host with SSH as a machine that an engine runs on: what ties this package together."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from app.adapters.ssh import commands
from app.adapters.ssh.address import resolve
from app.adapters.ssh.connection import connect
from app.adapters.ssh.link import Limits, SshLink
from app.adapters.ssh.login import Ask, Login, Recall, from_keyring
from app.adapters.ssh.parcel import parcel, worker_requirements
from app.adapters.ssh.store import SshStore
from app.adapters.ssh.trust import KnownHosts
from app.domain.settings import EngineSettings


class SshMachine:
    """A host with SSH. It implements the port ``Machine``.

    Args:
        address: ``ssh://[user@]host[:port][?python=PATH]``.
        engine: what decodes there.
        engine_folder: the package ``remote`` of this program, which travels to the host.
        known_hosts: our file of trusted host keys; it need not exist.
        ask: see Ask.
        trust: fingerprint of the host's key that the user has checked.
        patience_s: how long a host that does not answer is tried again: it may be starting.
        ssh_folder: the user's own configuration, keys and known hosts; ~/.ssh where None.
        recall: see Recall.
        requirements: what pip installs there; the extra "worker" of this program where None.
        limits: how long is too long.

    Raises:
        KnownError: unknown-option where the address cannot be used.
    """

    def __init__(
        self,
        address: str,
        engine: EngineSettings,
        *,
        engine_folder: Path,
        known_hosts: Path,
        ask: Ask,
        trust: str | None = None,
        patience_s: float = 0.0,
        ssh_folder: Path | None = None,
        recall: Recall = from_keyring,
        requirements: Sequence[str] | None = None,
        limits: Limits | None = None,
    ) -> None:
        self._name = address
        self._host = host = resolve(address, ssh_folder or Path.home() / ".ssh")
        self._limits = limits or Limits()
        self._parcel = parcel(engine_folder)
        self._requirements = requirements
        self._arguments = _arguments(engine)
        keys = KnownHosts(host, known_hosts, trust)
        self._connect = partial(connect, host, keys, partial(Login, host, ask, recall), patience_s)
        self._store = SshStore(
            host.name,
            commands.receive(host.python, self._parcel.id),
            lost_s=self._limits.lost_s,
        )

    @property
    def name(self) -> str:
        """The address as the user gave it."""
        return self._name

    @property
    def store(self) -> SshStore:
        """The host's blocks; it works while a link is open and the engine has said Hello."""
        return self._store

    def link(self) -> SshLink:
        """A new conversation with the engine there, not opened yet.

        Raises:
            KnownError: engine-missing where it is not known what the host needs.
        """
        host, requirements = self._host, self._requirements
        if requirements is None:
            requirements = () if host.python else worker_requirements()
        return SshLink(
            host.name,
            self._connect,
            commands.start(host.name, host.python, self._parcel.id, requirements, self._arguments),
            self._parcel,
            changed=self._store.changed,
            limits=self._limits,
        )


def _arguments(engine: EngineSettings) -> list[str]:
    """Of fast_transcribe.py: the engine's end of a conversation, started where none runs."""
    arguments = ["attach", "--start", "--model", engine.model]
    for name, value in (("--device", engine.device), ("--dtype", engine.dtype)):
        if value:
            arguments += [name, value]
    return arguments
