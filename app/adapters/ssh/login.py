"""How a user logs in: the agent, key files with their passphrases, a password; in this order.

Secrets come from a keyring or from whoever is asked, and stay in memory. It must not print.
"""

import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from paramiko.auth_strategy import (
    AuthResult,
    AuthSource,
    AuthStrategy,
    InMemoryPrivateKey,
    Password,
)
from paramiko.pkey import UnknownKeyType

from app.adapters.ssh.address import Host
from remote.protocol import ErrorCode, KnownError

Ask = Callable[[str], str | None]
"""Asks the user for a secret, on a thread that may wait; None where there is none to be had."""

Recall = Callable[[str], str | None]
"""The secret that is remembered for a name, if there is one."""

TRIES = 3
"""How often a passphrase or a password may be mistyped; ssh has the same rule."""

_SERVICE = "farscribe"
_BY_PASSWORD = {"password", "keyboard-interactive"}

log = logging.getLogger(__name__)


def from_keyring(name: str) -> str | None:
    """The secret that the system's keyring has for this name under the service "farscribe".

    None where there is no store to look into.
    """
    import keyring
    from keyring.errors import KeyringError

    try:
        return keyring.get_password(_SERVICE, name)
    except KeyringError as error:
        log.debug("no keyring: %s", error)
        return None


class Login(AuthStrategy):
    """The ways into one host, tried one after another until it opens.

    Args:
        host: where, and as whom.
        ask: for a passphrase or password that nothing remembers.
        recall: see Recall; asked first.
    """

    def __init__(self, host: Host, ask: Ask, recall: Recall = from_keyring) -> None:
        super().__init__(ssh_config=paramiko.SSHConfig())
        self._host = host
        self._ask = ask
        self._recall = recall
        self._allowed: set[str] = set()
        self._tried: list[str] = []

    def authenticate(self, transport: paramiko.Transport) -> AuthResult:
        """Logs in.

        Raises:
            KnownError: host-refused, with all that was tried.
        """
        try:
            transport.auth_none(self._host.user)
        except paramiko.BadAuthenticationType as answer:
            self._allowed = set(answer.allowed_types)
        for source in self.get_sources():
            if transport.is_authenticated():
                break
            try:
                # More than one way may be asked for: then the host says what is still wanted.
                self._allowed = set(source.authenticate(transport)) or self._allowed
            except (paramiko.SSHException, EOFError, OSError) as error:
                log.info("%s refused one way to log in: %s", self._host.name, error)
            if transport.is_authenticated() or not transport.is_active():
                break
        if not transport.is_authenticated():
            raise self._refused()
        return AuthResult(self)

    def get_sources(self) -> Iterator[AuthSource]:
        """The ways, each made when its turn comes, as a user may have to be asked for it."""
        if "publickey" in self._allowed:
            if self._host.named_identities:
                yield from self._open_files()
            if self._host.agent:
                yield from self._agent()
            if not self._host.named_identities:
                yield from self._open_files()
            yield from self._locked_files()
        yield from self._passwords()

    def _agent(self) -> Iterator[AuthSource]:
        try:
            agent = paramiko.Agent()
        except (paramiko.SSHException, OSError) as error:
            log.info("the agent does not answer: %s", error)
            return
        try:
            for key in agent.get_keys():
                self._tried.append(f"the agent's key {key.comment or key.fingerprint}")
                yield InMemoryPrivateKey(self._host.user, key)
        finally:
            agent.close()

    def _open_files(self) -> Iterator[AuthSource]:
        for path in self._host.identities:
            try:
                key = _load(path)
            except TypeError:  # it has a passphrase
                continue
            except _UNUSABLE as error:
                if self._host.named_identities or not isinstance(error, FileNotFoundError):
                    self._tried.append(f"the key {path} (which cannot be read)")
                    log.info("the key %s cannot be read: %s", path, error)
                continue
            self._tried.append(f"the key {path}")
            yield InMemoryPrivateKey(self._host.user, key)

    def _locked_files(self) -> Iterator[AuthSource]:
        for path in self._host.identities:
            if not _is_locked(path):
                continue
            self._tried.append(f"the key {path} (its passphrase was wrong or not given)")
            for secret in self._secrets(str(path), f"Passphrase of {path}: "):
                try:
                    key = _load(path, secret)
                except _UNUSABLE:
                    continue
                self._tried[-1] = f"the key {path}"
                yield InMemoryPrivateKey(self._host.user, key)
                break

    def _passwords(self) -> Iterator[AuthSource]:
        if not self._allowed & _BY_PASSWORD:
            return
        user, host = self._host.user, self._host
        name = f"{user}@{host.hostname}:{host.port}"
        for secret in self._secrets(name, f"Password of {user}@{host.hostname}: "):
            if "a password" not in self._tried:
                self._tried.append("a password")
            yield Password(user, partial(str, secret))

    def _secrets(self, name: str, question: str) -> Iterator[str]:
        """Secrets to try: the one that is remembered, then what the user says."""
        remembered = self._recall(name)
        if remembered:
            yield remembered
        for _ in range(TRIES):
            answer = self._ask(question)
            if not answer:
                return
            yield answer

    def _refused(self) -> KnownError:
        tried = f" Tried: {', '.join(self._tried)}." if self._tried else " There is no key to try."
        return KnownError(
            ErrorCode.HOST_REFUSED,
            f"{self._host.name} does not let {self._host.user} in.{tried}",
            "Check the user name; a key that works with ssh works here too"
            f" (ssh-copy-id -p {self._host.port} {self._host.user}@{self._host.hostname}).",
        )


_UNUSABLE = (
    OSError,
    ValueError,
    UnsupportedAlgorithm,
    paramiko.SSHException,
    UnknownKeyType,
)


def _load(path: Path, passphrase: str | None = None) -> paramiko.PKey:
    """The key in a file; TypeError where it has a passphrase and none was given."""
    # paramiko hands the passphrase on to cryptography, which wants bytes.
    secret = None if passphrase is None else passphrase.encode()
    return paramiko.PKey.from_path(path, secret)  # type: ignore[arg-type]


def _is_locked(path: Path) -> bool:
    try:
        _load(path)
    except TypeError:
        return True
    except _UNUSABLE:
        return False
    return False
