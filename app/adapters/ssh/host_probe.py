"""Runs on a host, under the Python that was found there: looks what it has, and changes nothing.

Standard library only, Python 3.11. It is given the name of the engine's folder as its argument and
prints one line of JSON.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

_PATIENCE_S = 10


def look(engine_id: str, python: str) -> dict[str, Any]:
    """What there is.

    Args:
        engine_id: name of the engine's folder.
        python: that has all the engine needs; "" for the environment that is set up there.
    """
    home = Path.home()
    ours = home / ".farscribe"
    runner = Path(python) if python else ours / "venv" / "bin" / "python"
    engine = ours / "engine" / engine_id / "remote" / "fast_transcribe.py"
    fit = runner.exists() if python else (ours / "venv" / "farscribe.json").exists()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "home": str(home),
        "free_bytes": shutil.disk_usage(home).free,
        "writable": os.access(ours if ours.exists() else home, os.W_OK),
        "fit": fit and runner.exists(),
        "engine": engine.is_file(),
        "gpus": output(["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]),
        "worker": output([str(runner), str(engine), "status"]) if fit and engine.is_file() else [],
    }


def output(command: list[str]) -> list[str]:
    """The lines that a command prints; none where it does not run or fails."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


if __name__ == "__main__":
    print(json.dumps(look(sys.argv[2], sys.argv[3])))
