"""What a host must have before the engine can run there, made on this computer: pure reading.

The engine's folder, named by its content and packed; and the packages that it needs.
"""

import hashlib
import io
import re
import tarfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from remote.protocol import ErrorCode, KnownError

_DISTRIBUTION = "farscribe"
_EXTRA = re.compile(r"""\s*(?:\band\s+)?\bextra\s*==\s*['"]worker['"]\s*""")


@dataclass(frozen=True, slots=True)
class Parcel:
    """A folder named by its content.

    Args:
        folder: the engine's package, which keeps its name on the host.
        id: sha256 over names and contents, 64 hexadecimal digits.
    """

    folder: Path
    id: str

    def packed(self) -> bytes:
        """The folder as a compressed tar file (0.1 MB)."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for path in _files(self.folder):
                tar.add(path, arcname=_name(path, self.folder))
        return buffer.getvalue()


def parcel(folder: Path) -> Parcel:
    """The engine's package in this folder, without what Python makes by itself."""
    found = hashlib.sha256()
    for path in _files(folder):
        content = path.read_bytes()
        found.update(f"{_name(path, folder)}\0{len(content)}\0".encode())
        found.update(content)
    return Parcel(folder, found.hexdigest())


def worker_requirements(lines: list[str] | None = None) -> tuple[str, ...]:
    """What pip is to install for the engine: the extra "worker" of this very program.

    Args:
        lines: requirements as a distribution's metadata has them; ours where None.

    Raises:
        KnownError: engine-missing where this program was not installed, but only copied.
    """
    if lines is None:
        try:
            lines = metadata.requires(_DISTRIBUTION) or []
        except metadata.PackageNotFoundError as error:
            raise KnownError(
                ErrorCode.ENGINE_MISSING,
                "This farscribe was copied, not installed, so it does not know what a host needs.",
                "Install it: pip install farscribe",
            ) from error
    return tuple(_without_extra(line) for line in lines if _EXTRA.search(line))


def _without_extra(line: str) -> str:
    """The requirement without the condition that it belongs to an extra; others are for pip."""
    package, _, condition = line.partition(";")
    rest = _EXTRA.sub("", condition).strip()
    return f"{package.strip()}; {rest}" if rest else package.strip()


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )


def _name(path: Path, folder: Path) -> str:
    return f"{folder.name}/{path.relative_to(folder).as_posix()}"
