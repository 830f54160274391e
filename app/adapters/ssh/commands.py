"""The commands that are run on a host, as text for whatever shell its user has.

Pure strings. All that varies is quoted; what is clever happens in ``sh`` or in Python.
"""

import base64
import hashlib
import json
import shlex
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from remote import protocol
from remote.protocol import Heartbeat

NO_PYTHON = 86
"""Exit status of a host without a Python that is new enough; no shell uses it for itself."""

HOME = "~/.farscribe"
PYTHONS = ("python3", "python3.13", "python3.12", "python3.11", "python3.14")
_SETUP = Path(__file__).with_name("host_setup.py")

# One line without single quotes, to be quoted by any shell. A loop of its own says every 2 s that
# the host lives, whatever Python or pip do meanwhile; host_setup.py ends it. It must hold no
# stream of the session open longer than that.
_FIND = (
    "beat=$1; setup=$2; request=$3; shift 3;"
    ' (while sleep 2 >/dev/null && kill -0 $$ && echo "$beat"; do :; done) 2>/dev/null &'
    " beating=$!;"
    ' for python in "$@"; do'
    ' if "$python" -S -c "import sys; sys.exit(sys.version_info < (3, 11))"'
    " </dev/null >/dev/null 2>&1; then"
    ' exec "$python" -S -c "import base64, sys, zlib;'
    ' exec(zlib.decompress(base64.b64decode(sys.argv[1])))"'
    ' "$setup" "$request" "$python" $beating;'
    " fi; done;"
    " kill $beating;"
    ' for python in "$@"; do found=$("$python" -V 2>&1) && echo "$found" >&2; done;'
    f" exit {NO_PYTHON}"
)


def start(
    host: str, python: str, engine: str, requirements: Sequence[str], arguments: Sequence[str]
) -> str:
    """What makes the host fit and then becomes the engine's end of the conversation.

    Args:
        host: its name, for sentences.
        python: an interpreter there that has all the engine needs, or "".
        engine: id of the engine's folder.
        requirements: packages to install where there is no such interpreter.
        arguments: of fast_transcribe.py.
    """
    request: dict[str, Any] = {"host": host, "engine": engine, "arguments": list(arguments)}
    if not python:
        request["requirements"] = list(requirements)
        request["requirements_id"] = hashlib.sha256("\n".join(requirements).encode()).hexdigest()
    script = base64.b64encode(zlib.compress(_SETUP.read_bytes(), 9)).decode()
    beat = protocol.encode(Heartbeat(0)).decode().strip()
    given = [shlex.quote(item) for item in (beat, script, json.dumps(request))]
    pythons = [_path(item) for item in ([python] if python else PYTHONS)]
    return " ".join(["exec", "sh", "-c", shlex.quote(_FIND), "sh", *given, *pythons])


def receive(python: str, engine: str) -> str:
    """What takes blocks on a host that was made fit."""
    script = f"{HOME}/engine/{engine}/remote/fast_transcribe.py"
    return f"exec {_path(python or f'{HOME}/venv/bin/python')} {_path(script)} receive"


def _path(path: str) -> str:
    """A path on the host, quoted; "~/" is the home folder of the user there."""
    if path.startswith("~/"):
        return f'"$HOME"/{shlex.quote(path[2:])}'
    return shlex.quote(path)
