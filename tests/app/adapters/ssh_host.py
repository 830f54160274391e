"""A host and machines on it, as the tests of the SSH adapter use them."""

import asyncio
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from app.adapters.ssh.link import Limits, SshLink
from app.adapters.ssh.machine import SshMachine
from app.domain.events import LinkEvent
from app.domain.settings import EngineSettings
from remote import protocol
from remote.protocol import Hello, KnownError
from tests.helpers.sshd import Sshd

HELPERS = Path(__file__).parents[2] / "helpers"
QUICK = Limits(silence_s=0.6, lost_s=1.2, grace_s=3.0)
"""Fifth of the real ones and less; the stand-in's heart beats every 0.2 s."""


class Host(Sshd):
    """An sshd, and the engine's folder on this computer that is sent to it."""

    def __init__(self, folder: Path, engine: Path, home: Path | None = None) -> None:
        folder.mkdir()
        super().__init__(folder, home)
        self.engine = engine


def engine_folder(folder: Path) -> Path:
    """A package ``remote`` that travels: the wire, and a stand-in for the engine's front door."""
    package = folder / "remote"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    shutil.copy(protocol.__file__, package / "protocol.py")
    shutil.copy(HELPERS / "wire_host.py", package / "fast_transcribe.py")
    return package


def machine(
    sshd: Host,
    *,
    port: int | None = None,
    model: str = "tiny.en",
    python: str = sys.executable,
    known: bool = True,
    address: str = "",
    **settings: Any,
) -> SshMachine:
    """A machine on that host, by itself or through a proxy; it needs no set-up of Python."""
    port = port or sshd.port
    if known:
        (sshd.client / "known_hosts").write_text(sshd.known(port))
    settings.setdefault("engine_folder", sshd.engine)
    settings.setdefault("ask", lambda question: None)
    settings.setdefault("limits", QUICK)
    settings.setdefault("recall", lambda name: None)
    return SshMachine(
        address or f"ssh://127.0.0.1:{port}" + (f"?python={python}" if python else ""),
        EngineSettings(model=model),
        known_hosts=sshd.folder / "own" / "known_hosts",
        ssh_folder=sshd.client,
        **settings,
    )


@asynccontextmanager
async def linked(host: SshMachine) -> AsyncIterator[SshLink]:
    """A link that is open, and closed afterwards."""
    link = host.link()
    try:
        await link.open()
        yield link
    finally:
        await link.close()


def talk(host: SshMachine, say: Callable[[SshLink], Awaitable[Any]]) -> Any:
    """What was said over a link of its own."""

    async def run() -> Any:
        async with asyncio.timeout(30), linked(host) as link:
            return await say(link)

    return asyncio.run(run())


async def until(link: SshLink, kind: type) -> list[LinkEvent]:
    """Everything up to the first event of a kind."""
    events = [await link.receive()]
    while not isinstance(events[-1], kind):
        events.append(await link.receive())
    return events


async def greeted(link: SshLink) -> list[LinkEvent]:
    return await until(link, Hello)


async def death(link: SshLink) -> KnownError:
    """The error that ends the conversation."""
    while True:
        try:
            await link.receive()
        except KnownError as error:
            return error


def failure(host: SshMachine) -> KnownError:
    """Why there is no conversation with this host."""

    async def run() -> KnownError:
        try:
            async with asyncio.timeout(30), linked(host) as link:
                return await death(link)
        except KnownError as error:
            return error

    return asyncio.run(run())
