"""Looks at this computer: what farscribe needs here, and whether it is there.

It changes nothing but for a file that it writes and removes again.
"""

import asyncio
import json
import os
import platform
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from app.domain.checkup import Finding, Health
from remote.protocol import ErrorCode

ENOUGH_BYTES = 5 * 2**30
"""Room for a large model, and for the work of a day."""

LITTLE_BYTES = 2**28

_ENGINE = "torch safetensors tokenizers silero_vad av numpy huggingface_hub tenacity".split()
"""What an engine cannot do without."""

_INSTALL = 'pip install "farscribe[worker]"'
_PATIENCE_S = 60


@dataclass(frozen=True, slots=True)
class LocalCheckup:
    """A check of this computer; it is a Checkup.

    Args:
        home: where everything is kept.
        models: program and arguments that list models as JSON; none where there is no engine.
        environment: of that program.
        model: that is used unless another is named.
    """

    home: Path
    models: Sequence[str]
    environment: Mapping[str, str]
    model: str

    async def __call__(self) -> AsyncIterator[Finding]:
        """Looks at one thing after another."""
        checks: list[Callable[[], Finding]] = [
            python,
            partial(folder, self.home),
            partial(room, self.home),
            partial(spool, self.home / "programs"),
            reader,
            engine,
            gpu,
        ]
        if self.models:
            checks.append(partial(models, self.models, self.environment, self.model))
        for check in checks:
            yield await asyncio.to_thread(check)


def python() -> Finding:
    """The interpreter that runs farscribe."""
    found = f"{platform.python_version()} in {sys.prefix}"
    if struct.calcsize("P") < 8:
        hint = "PyTorch needs 64 bits: install another Python."
        return Finding("python", Health.BAD, f"{found}, of 32 bits", hint)
    return Finding("python", Health.OK, found)


def folder(home: Path) -> Finding:
    """Where everything is kept."""
    whence = "from FARSCRIBE_HOME" if "FARSCRIBE_HOME" in os.environ else "the usual place"
    try:
        home.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=home).close()
    except OSError as error:
        return Finding(
            "folder", Health.BAD,
            f"{home} ({whence}) cannot be written: {(error.strerror or str(error)).lower()}",
            "Make it writable, or set FARSCRIBE_HOME to another folder.",
            ErrorCode.OUTPUT_UNWRITABLE,
        )  # fmt: skip
    return Finding("folder", Health.OK, f"{home} ({whence})")


def room(home: Path) -> Finding:
    """Space on the disk of that folder."""
    there = next((place for place in (home, *home.parents) if place.exists()), Path.cwd())
    free = shutil.disk_usage(there).free
    message = f"{free / 2**30:.1f} GB free"
    if free < LITTLE_BYTES:
        hint = "Free some space, or set FARSCRIBE_HOME to a folder on another disk."
        return Finding("disk", Health.BAD, message, hint, ErrorCode.DISK_FULL)
    if free < ENOUGH_BYTES:
        hint = "It is enough for texts; a large model takes 3 to 6 GB."
        return Finding("disk", Health.WARN, message, hint)
    return Finding("disk", Health.OK, message)


def spool(programs: Path) -> Finding:
    """Unfinished work of engines on this computer."""
    files = [path for path in programs.glob("*.spool/**/*") if path.is_file()]
    size_bytes = 0
    for path in files:
        try:
            size_bytes += path.stat().st_size
        except OSError:  # it is being worked on
            continue
    kept = f"{size_bytes / 2**20:.1f} MB of unfinished work" if files else "empty"
    return Finding("spool", Health.OK, kept)


def reader() -> Finding:
    """What reads audio files."""
    try:
        import av
    except ImportError as error:
        hint = f"Install it again: {_INSTALL}"
        return Finding(
            "audio", Health.BAD, f"PyAV cannot be loaded: {error}", hint, ErrorCode.ENGINE_MISSING
        )
    ffmpeg = ".".join(map(str, av.library_versions["libavcodec"]))
    return Finding("audio", Health.OK, f"PyAV {av.__version__} with FFmpeg's libavcodec {ffmpeg}")


def engine() -> Finding:
    """The packages of the engine; they are not loaded."""
    missing = [name for name in _ENGINE if find_spec(name) is None]
    if missing:
        return Finding(
            "engine", Health.WARN,
            f"not installed here ({', '.join(missing)} missing): only hosts can transcribe",
            f"To transcribe on this computer too: {_INSTALL}",
        )  # fmt: skip
    return Finding("engine", Health.OK, f"installed, with PyTorch {metadata.version('torch')}")


def gpu() -> Finding:
    """NVIDIA GPUs here, and whether PyTorch could use them."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    seen = _printed(query, os.environ).splitlines()
    if not seen:
        apple = sys.platform == "darwin" and platform.machine() == "arm64"
        return Finding("gpu", Health.OK, "Apple's own" if apple else "none: the processor works")
    if find_spec("torch") is not None and metadata.version("torch").endswith("+cpu"):
        return Finding(
            "gpu", Health.WARN, f"{'; '.join(seen)}, but PyTorch is a build for processors only",
            "Install one with CUDA: pip install --force-reinstall torch",
        )  # fmt: skip
    return Finding("gpu", Health.OK, "; ".join(seen))


def models(command: Sequence[str], environment: Mapping[str, str], usual: str) -> Finding:
    """The models that are here."""
    try:
        listed = json.loads(_printed(command, environment))
        ready = [item["name"] for item in listed if item["state"] == "ready"]
        at_hand = [item["name"] for item in listed if item["state"] == "starter"]
    except (ValueError, KeyError, TypeError):
        hint = "See: farscribe models list"
        return Finding("models", Health.WARN, "they cannot be listed", hint)
    if usual in ready:
        return Finding("models", Health.OK, ", ".join(ready))
    here = ", ".join(ready) if ready else "none"
    if usual in at_hand:
        return Finding("models", Health.OK, f"{here}; {usual} comes at its first use")
    hint = f"Bring the usual one: farscribe models add {usual}"
    return Finding("models", Health.WARN, f"{here}; {usual} is not here", hint)


def _printed(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What a command prints; nothing where it fails."""
    if shutil.which(command[0]) is None:
        return ""
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=dict(environment),
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
