"""A client and a host that are two computers to each other: two homes, a real sshd, a bad network.

The host's worker is a process of its own, which outlives the client. Its device is the real one,
or a stand-in of fixed speed (tests.helpers.fixed_speed) where the work is to be long and cheap.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app.adapters.library.library import SqliteLibrary
from app.domain.history import Entry
from tests.helpers.proxy import Proxy
from tests.helpers.sshd import Sshd

ROOT = Path(__file__).parents[2]


class Rig:
    """Started by ``with``; everything is gone after it.

    Args:
        folder: empty.
        speed: of the device, in multiples of real time; the real device where None.
        mbits, delay_ms: of the network, (up, down).
    """

    def __init__(
        self, folder: Path, speed: float | None = None,
        *, mbits: tuple[float, float] = (0, 0), delay_ms: tuple[float, float] = (0, 0),
    ) -> None:  # fmt: skip
        self.folder = folder
        self._clients: list[subprocess.Popen[str]] = []
        self.home = folder / "client"
        self.spool = folder / "sshd" / "home" / ".farscribe" / "spool"
        (folder / "sshd").mkdir(parents=True)
        (self.home / ".ssh").mkdir(parents=True)
        self.sshd = Sshd(folder / "sshd", environment=self._host_environment(speed))
        self.sshd.start()
        self.proxy = Proxy(self.sshd.port, mbits=mbits, delay_ms=delay_ms)
        (self.home / ".ssh" / "known_hosts").write_text(self.sshd.known(self.proxy.port))
        key = self.home / ".ssh" / "id_ed25519"
        key.write_bytes(self.sshd.key.read_bytes())
        key.chmod(0o600)

    def _host_environment(self, speed: float | None) -> dict[str, str]:
        environment = {"FARSCRIBE_HOME": os.environ["FARSCRIBE_HOME"], "GOMP_SPINCOUNT": "10000"}
        if speed is not None:
            environment |= {
                "FARSCRIBE_FAKE_SPEED": str(speed),
                "FARSCRIBE_ROOT": str(ROOT),
                "PYTHONPATH": str(ROOT / "tests" / "helpers" / "host"),
            }
        return environment

    @property
    def address(self) -> str:
        return f"ssh://127.0.0.1:{self.proxy.port}?python={sys.executable}"

    def __enter__(self) -> "Rig":
        return self

    def __exit__(self, *_: object) -> None:
        for client in self._clients:
            client.kill()
            client.wait()
        with suppress(OSError):
            self.proxy.thaw()
        self.kill_worker()
        self.sshd.kill()
        self.proxy.close()

    # ── the client ──────────────────────────────────────────────────────────────────────────

    def farscribe(self, *arguments: str | Path) -> "subprocess.Popen[str]":
        """A client's process; its output is read by whoever waits for it."""
        environment = {**os.environ, "HOME": str(self.home), "FARSCRIBE_HOME": str(self.home)}
        environment.pop("SSH_AUTH_SOCK", None)
        client = subprocess.Popen(
            [sys.executable, "-m", "app", *map(str, arguments)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )
        self._clients.append(client)
        return client

    def transcribe(self, files: Sequence[Path], *options: str) -> "subprocess.Popen[str]":
        return self.farscribe("transcribe", *files, "--on", self.address, *options)

    def transcripts(self) -> dict[str, list[tuple[int, int, str]]]:
        """What the library has of each recording: start_ms, end_ms and text of its segments."""

        async def read() -> dict[str, list[tuple[int, int, str]]]:
            library = SqliteLibrary(self.home / "library.sqlite")
            try:
                found = {}
                for entry in await library.entries():
                    transcript = await library.transcript(entry.id)
                    found[entry.path.name] = [
                        (s.start_ms, s.end_ms, s.text) for s in transcript.segments
                    ]
                return found
            finally:
                await library.close()

        return asyncio.run(read())

    def entries(self) -> tuple[Entry, ...]:
        """The client's jobs, the newest first."""

        async def read() -> tuple[Entry, ...]:
            library = SqliteLibrary(self.home / "library.sqlite")
            try:
                return await library.entries()
            finally:
                await library.close()

        return asyncio.run(read())

    # ── the host ────────────────────────────────────────────────────────────────────────────

    def worker(self) -> int | None:
        """The worker's process, if one runs."""
        try:
            pid = int(json.loads((self.spool / "worker.json").read_text())["pid"])
            os.kill(pid, 0)
        except (OSError, ValueError, KeyError):
            return None
        return pid

    def kill_worker(self) -> bool:
        """Kills it, if one runs."""
        pid = self.worker()
        if pid is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    def journals(self) -> list[Path]:
        return list((self.spool / "jobs").glob("*.journal"))
