"""A connection to a host: dialled, the host's key checked, the user logged in.

It knows nothing of what is said over it.
"""

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import paramiko
from paramiko.ssh_exception import IncompatiblePeer
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_random_exponential,
)

from app.adapters.ssh.address import Host
from app.adapters.ssh.login import Login
from app.adapters.ssh.threads import in_thread
from app.adapters.ssh.trust import KnownHosts
from remote.protocol import ErrorCode, KnownError

CONNECT_S = 10.0
"""For the TCP connection, and once more for the host's first line: a host that is up needs 1 s."""

AUTH_S = 30.0
"""For each answer to a login; hosts that ask a directory server take some seconds."""

WINDOW_BYTES = 64 * 1024 * 1024
"""What the host may send before we have read it: more than any line has on its way (a gigabit
over 300 ms is 38 MB)."""

PACKET_BYTES = 64 * 1024

_CIPHER = "aes128-gcm@openssh.com"
"""The fastest of those that paramiko and OpenSSH share, where the processor has AES."""

_NOTICE_S = 2.0
_QUIET = logging.NullHandler()

log = logging.getLogger(__name__)


class UnreachableError(KnownError):
    """The host does not answer yet; it may be starting."""

    def __init__(self, host: Host, why: str) -> None:
        super().__init__(
            ErrorCode.HOST_UNREACHABLE,
            f"{host.name} does not answer ({why}).",
            f"Is it on, and is {host.hostname} port {host.port} right and open in its firewall?",
        )


class Connection:
    """A login on a host. Its calls may be made on any thread."""

    def __init__(self, client: paramiko.SSHClient, sock: socket.socket) -> None:
        self._client = client
        self._sock = sock
        self._opening = threading.Lock()

    @property
    def alive(self) -> bool:
        """Whether nothing has ended it yet; one that is frozen still counts as alive."""
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def execute(self, command: str) -> paramiko.Channel:
        """A channel with this command at its end; blocks for two turns.

        Raises:
            paramiko.ChannelException: the host allows no more sessions.
            OSError, EOFError, paramiko.SSHException: the connection has ended.
        """
        transport = self._client.get_transport()
        if transport is None:
            raise EOFError
        with self._opening:  # paramiko keeps one reason for all refusals
            channel = transport.open_session()
        channel.exec_command(command)
        return channel

    def cut(self) -> None:
        """Ends it at once, with everything on it; does not block. Idempotent."""
        _shut(self._sock)
        end = partial(_end, self._client, self._sock)
        threading.Thread(target=end, daemon=True, name="ssh").start()


async def connect(
    host: Host, keys: KnownHosts, login: Callable[[], Login], patience_s: float = 0.0
) -> Connection:
    """A connection, logged in.

    Args:
        host: where to.
        keys: what the host is held against.
        login: makes the ways in, once for each attempt.
        patience_s: how long a host that does not answer is tried again: it may be starting.

    Raises:
        KnownError: host-unreachable, host-unknown, host-changed, host-refused. Nothing stays
            open, nor when it is cancelled.
    """
    retrying = AsyncRetrying(
        retry=retry_if_exception_type(UnreachableError),
        stop=stop_after_delay(patience_s),
        wait=wait_random_exponential(multiplier=0.1, max=2),
        reraise=True,
    )
    connection: Connection = await retrying(_connect_once, host, keys, login)
    return connection


async def _connect_once(host: Host, keys: KnownHosts, login: Callable[[], Login]) -> Connection:
    sock = await _dial(host)
    try:
        greet = partial(_greet, sock, host, keys, login())
        return await in_thread(greet, undo=Connection.cut)
    except BaseException:  # cancelled too: then the thread finds its socket shut
        _shut(sock)
        raise


async def _dial(host: Host) -> socket.socket:
    """A TCP connection, to the first of the host's addresses that answers."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host.hostname, host.port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise KnownError(
            ErrorCode.HOST_UNREACHABLE,
            f"There is no host named {host.hostname}.",
            "Check the name, and that you are online.",
        ) from error
    failure: OSError = OSError("no address")
    for family, kind, number, _, address in found:
        sock = socket.socket(family, kind, number)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_S):
                await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
        else:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return sock
    raise UnreachableError(host, _why(failure)) from failure


def _why(failure: OSError) -> str:
    """In the system's words: asyncio has put its own over them."""
    return os.strerror(failure.errno).lower() if failure.errno else "no answer"


def _greet(sock: socket.socket, host: Host, keys: KnownHosts, login: Login) -> Connection:
    """The connection over a socket; blocks while the user is asked for secrets."""
    client = paramiko.SSHClient()
    try:
        keys.load_into(client)
        _open(client, sock, host, keys, login)
    except BaseException:
        _end(client, sock)
        raise
    return Connection(client, sock)


def _open(
    client: paramiko.SSHClient, sock: socket.socket, host: Host, keys: KnownHosts, login: Login
) -> None:
    try:
        client.connect(
            host.key_name,  # and port 22, so that this very name is looked up among the keys
            sock=sock,
            username=host.user,
            timeout=CONNECT_S,
            banner_timeout=CONNECT_S,
            auth_timeout=AUTH_S,
            transport_factory=_transport,  # type: ignore[arg-type] # stubs of an older call
            auth_strategy=login,
        )
    except paramiko.BadHostKeyException as error:
        raise keys.changed(error.key) from error
    except IncompatiblePeer as error:
        raise KnownError(
            ErrorCode.HOST_UNFIT,
            f"{host.name} knows none of the ciphers that are still safe ({error}).",
            "Update OpenSSH there.",
        ) from error
    except (paramiko.SSHException, OSError, EOFError) as error:
        # No first line, or it broke off: paramiko has no exception of its own for these, and
        # both are what a host does that is starting.
        raise UnreachableError(host, str(error) or "it hung up") from error


def _transport(sock: socket.socket, **settings: object) -> paramiko.Transport:
    _quieten()
    transport = paramiko.Transport(
        sock,
        default_window_size=WINDOW_BYTES,
        default_max_packet_size=PACKET_BYTES,
        **settings,  # type: ignore[arg-type]
    )
    options = transport.get_security_options()
    options.ciphers = sorted(options.ciphers, key=lambda cipher: cipher != _CIPHER)
    return transport


def _quieten() -> None:
    """What paramiko logs is for whoever debugs: a lost connection is a traceback to it."""
    library = logging.getLogger("paramiko")
    library.addHandler(_QUIET)
    library.propagate = log.isEnabledFor(logging.DEBUG)


def _shut(sock: socket.socket) -> None:
    """Both ends learn that it is over, at once."""
    with suppress(OSError):  # it was closed already
        sock.shutdown(socket.SHUT_RDWR)


def _end(client: paramiko.SSHClient, sock: socket.socket) -> None:
    """Closes everything; blocks for a moment."""
    _shut(sock)
    transport = client.get_transport()
    if transport is not None and transport.is_alive():
        # Its thread reads from the socket: it must notice the end before the number of the
        # socket can be given to another one (paramiko#520).
        transport.join(_NOTICE_S)
    client.close()
    sock.close()
