"""The command in a folder of its own, with a library of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the command keeps everything."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("FARSCRIBE_HOME", str(folder))
    return folder


@pytest.fixture
def farscribe(fake_engine, tmp_path, monkeypatch) -> Callable[..., int]:
    """Runs the command, with a fake engine."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, start: str = "well") -> int:
        return main(arguments, engine_program=fake_engine(start))

    return run
