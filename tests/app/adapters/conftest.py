"""A real host for the tests of the SSH adapter."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.adapters.ssh_host import Host, engine_folder
from tests.helpers.proxy import Proxy


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own keys stay out of it."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder on the host that has the engine after the first test, and that engine."""
    folder = tmp_path_factory.mktemp("host")
    engine_folder(folder)
    (folder / "home").mkdir()
    return folder


@pytest.fixture
def sshd(shared: Path, tmp_path: Path) -> Iterator[Host]:
    """An sshd that runs; nothing is in its spool."""
    host = Host(tmp_path / "sshd", shared / "remote", shared / "home")
    host.start()
    yield host
    host.kill()
    shutil.rmtree(host.home / ".farscribe" / "spool", ignore_errors=True)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Host]:
    """An sshd that runs, on a host that has never seen us."""
    host = Host(tmp_path / "sshd", engine_folder(tmp_path / "engine"))
    host.start()
    yield host
    host.kill()


@pytest.fixture
def proxy(sshd: Host) -> Iterator[Callable[..., Proxy]]:
    """Makes a proxy before that sshd."""
    made: list[Proxy] = []

    def make(**network: tuple[float, float]) -> Proxy:
        made.append(Proxy(sshd.port, **network))
        return made[-1]

    yield make
    for item in made:
        item.close()
