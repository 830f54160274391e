"""The real models, converted and loaded once a session."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from remote.optimized_loader import load_model
from remote.tokens import Tokenizer
from remote.whisper import Whisper
from tests.remote.model_factory import starter_model


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model folder and what is in it, in float32 on the CPU."""

    folder: Path
    model: Whisper
    tokenizer: Tokenizer


def loaded(folder: Path) -> Loaded:
    return Loaded(folder, load_model(folder)[0], Tokenizer.from_folder(folder))


@pytest.fixture(scope="session")
def tiny_en(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(starter_model("tiny.en", tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(starter_model("base", tmp_path_factory.getbasetemp()))
