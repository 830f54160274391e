"""The real models, converted and loaded once a session."""

import pytest

from tests.remote.loaded_model import Loaded, loaded
from tests.remote.model_factory import starter_model


@pytest.fixture(scope="session")
def tiny_en(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(starter_model("tiny.en", tmp_path_factory.getbasetemp()))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(starter_model("base", tmp_path_factory.getbasetemp()))
