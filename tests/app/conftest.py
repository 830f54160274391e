"""The fake engine as a program to start."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FAKE_ENGINE = Path(__file__).with_name("fake_engine.py")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Program and arguments of a fake engine that starts in a given way; see its docstring."""
    memory = tmp_path_factory.mktemp("memory")
    return lambda how="well": [sys.executable, str(FAKE_ENGINE), how, str(memory)]


@pytest.fixture(autouse=True)
def _engine_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find the packages of the repository."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
