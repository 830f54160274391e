"""The repository's own files, as the contract tests look at them."""

import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("app", "remote", "ami")
FOLDERS = (*ROOMS, "tests", "docs", "resources", ".ci")


def files(*folders: str, suffix: str = "") -> list[Path]:
    """All files below these folders (all of ours where none are named), without caches."""
    found = [path for folder in folders or FOLDERS for path in (ROOT / folder).rglob("*")]
    if not folders:
        found += ROOT.glob("*.*")
    return sorted(
        path
        for path in found
        if path.is_file() and path.name.endswith(suffix) and "__pycache__" not in path.parts
    )


def modules(*folders: str) -> list[Path]:
    """The Python files of these folders; of the product where none are named."""
    product = [] if folders else [ROOT / "bootstrap.py"]
    return [*files(*(folders or ROOMS), suffix=".py"), *product]


def name(path: Path) -> str:
    """The path as a reader of the repository writes it."""
    return path.relative_to(ROOT).as_posix()


def tool(command: str) -> str:
    """A command that is installed beside this Python, whether or not it is on the PATH."""
    found = shutil.which(command, path=str(Path(sys.executable).parent))
    assert found, f"{command} is not installed: python3 bootstrap.py test"
    return found
