"""A real sshd on a loopback port, from a throwaway folder, for the user who runs the tests.

Its sessions have a home folder of their own, so that ``~/.farscribe`` there is nobody's. It can be
stopped, killed and started again on its port, with the same or another host key, and the sessions
on it can be killed.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path

import pytest

PROGRAM = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin")

needs_sshd = pytest.mark.skipif(
    PROGRAM is None, reason="no sshd here: apt-get install openssh-server"
)

CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
UsePAM no
StrictModes no
PasswordAuthentication {password}
KbdInteractiveAuthentication no
PermitRootLogin yes
MaxStartups 100
PrintMotd no
PrintLastLog no
LogLevel ERROR
{extra}
SetEnv {environment}
"""


class Sshd:
    """One sshd; started by ``start``.

    Args:
        folder: empty; its configuration and the client's folder go there.
        home: of its sessions; a new one in ``folder`` where None.
        environment: of its sessions; PATH is a usual one.
        extra: more lines of its configuration.
        password: whether it says that it takes passwords (it knows none).
    """

    def __init__(
        self,
        folder: Path,
        home: Path | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        extra: str = "",
        password: bool = False,
    ) -> None:
        self.folder = folder
        self.home = home or folder / "home"
        self.home.mkdir(exist_ok=True)
        self.port = free_port()
        self.client = folder / "client"  # what is ~/.ssh to the client
        self.client.mkdir()
        self.key = self.client / "id_ed25519"
        make_key(self.key)
        self.authorize(self.key)
        self.new_host_key()
        self._process: subprocess.Popen[bytes] | None = None
        self.configure(environment, extra, password=password)

    @property
    def address(self) -> str:
        return f"ssh://127.0.0.1:{self.port}"

    @property
    def host_key(self) -> str:
        """The public host key as files of known hosts have it: its type and its base64."""
        kind, key, *_ = (self.folder / "host_key.pub").read_text().split()
        return f"{kind} {key}"

    @property
    def fingerprint(self) -> str:
        command = ["ssh-keygen", "-lf", self.folder / "host_key.pub"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]

    def known(self, port: int | None = None) -> str:
        """The line of known_hosts for it, at its port or that of a proxy before it."""
        return f"[127.0.0.1]:{port or self.port} {self.host_key}\n"

    def configure(
        self,
        environment: Mapping[str, str] | None = None,
        extra: str = "",
        *,
        password: bool = False,
    ) -> None:
        values = {"HOME": str(self.home), "PATH": "/usr/local/bin:/usr/bin:/bin"}
        values |= environment or {}
        text = CONFIG.format(
            port=self.port,
            folder=self.folder,
            extra=extra,
            password="yes" if password else "no",
            environment=" ".join(f'"{name}={value}"' for name, value in values.items()),
        )
        (self.folder / "sshd_config").write_text(text)

    def authorize(self, key: Path) -> None:
        """Lets the key in, and no other."""
        public = key.with_name(f"{key.name}.pub").read_text()
        (self.folder / "authorized_keys").write_text(public)

    def new_host_key(self, kind: str = "ed25519") -> None:
        """The next start shows another host key."""
        make_key(self.folder / "host_key", kind=kind)

    def start(self) -> "Sshd":
        """It takes connections."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd gives up its rights there
        assert PROGRAM is not None
        command = [PROGRAM, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with (self.folder / "sshd.log").open("ab") as log:
            self._process = subprocess.Popen(command, stderr=log, start_new_session=True)
        wait_for_port(self.port, self._process)
        return self

    def stop(self) -> None:
        """It ends, and so do its sessions."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """It is killed with all its sessions."""
        self._end(signal.SIGKILL)

    def kill_sessions(self) -> int:
        """Kills the processes of all sessions; how many. The sshd goes on."""
        assert self._process is not None
        found = [pid for pid, name in descendants(self._process.pid) if name == "sshd"]
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(found)

    def commands(self) -> list[int]:
        """The processes of whatever its sessions run."""
        if self._process is None:
            return []
        return [pid for pid, name in descendants(self._process.pid) if name != "sshd"]

    def orphans(self) -> list[int]:
        """Processes of ended sessions that still run: they have the sessions' home folder."""
        mark = f"HOME={self.home}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def _end(self, number: int) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        below = [pid for pid, _ in descendants(process.pid)]
        process.send_signal(number)
        process.wait()
        for pid in {*below, *self.orphans()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def make_key(path: Path, passphrase: str = "", kind: str = "ed25519") -> None:
    """A new key pair at this path."""
    path.unlink(missing_ok=True)
    bits = ["-b", "2048"] if kind == "rsa" else []  # the usual 3072 take seconds to find
    command = [
        "ssh-keygen",
        "-q",
        "-t",
        kind,
        *bits,
        "-N",
        passphrase,
        "-C",
        path.name,
        "-f",
        str(path),
    ]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    """A port that stays free while nobody listens there.

    It is below those that systems give to outgoing connections: of these, one could take it
    between a stop and a start, or even connect to itself.
    """
    while True:
        port = random.randrange(10_000, 32_000)
        with suppress(OSError), closing(socket.create_server(("127.0.0.1", port))):
            return port


def wait_for_port(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Somebody listens there."""
    until = time.monotonic() + 10
    while True:
        assert process.poll() is None, "sshd has ended: see sshd.log in its folder"
        with suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        assert time.monotonic() < until, "sshd does not listen"
        time.sleep(0.01)  # there is no event to wait for


def descendants(pid: int) -> Iterator[tuple[int, str]]:
    """All processes below this one, with their programs' names."""
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, children.read_text().split()):
                with suppress(OSError):
                    yield child, Path(f"/proc/{child}/comm").read_text().strip()
                yield from descendants(child)
