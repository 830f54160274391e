"""A real host for the tests of the SSH adapter."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.app.adapters.ssh_host import engine_folder
from tests.helpers.proxy import Proxy
from tests.helpers.sshd import Sshd


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """An sshd that runs, and a stand-in for the engine's folder beside it."""
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    engine_folder(tmp_path / "engine")
    folder = tmp_path / "sshd"
    folder.mkdir()
    host = Sshd(folder).start()
    yield host
    host.kill()


@pytest.fixture
def proxy(sshd: Sshd) -> Iterator[Callable[..., Proxy]]:
    """Makes a proxy before that sshd."""
    made: list[Proxy] = []

    def make(**network: tuple[float, float]) -> Proxy:
        made.append(Proxy(sshd.port, **network))
        return made[-1]

    yield make
    for item in made:
        item.close()
