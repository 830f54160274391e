"""What holds for every test: no user's models are touched, and property tests are repeatable."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# As the engine does for itself: threads that wait do not burn a busy machine's cores. Set before
# torch is loaded.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# The machine may be busy: a slow example is no bug. On CI the examples are the same each time.
settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Models and caches of a test run lie in a folder of that run, shared by its tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSCRIBE_HOME", str(tmp_path_factory.mktemp("home")))
        yield
