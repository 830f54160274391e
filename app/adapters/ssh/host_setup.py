"""Runs on the host, before the engine and then as it: the engine's files and Python packages.

It is sent as text and run by any Python 3.11 there, so it uses the standard library alone and
nothing of this program. It speaks the wire on its standard streams: Note for people, Missing for
the engine's files (answered by Put and their bytes), Failed with an empty job when it gives up.
When all is there it becomes the engine's process, on the same streams.

    ~/.farscribe/engine/ID/remote   the engine, ID by its content; the two newest are kept
    ~/.farscribe/venv               its packages; farscribe.json in it is written last
    ~/.farscribe/setup.log          what pip said
"""

import contextlib
import errno
import fcntl
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

KEPT = 2
"""Engines that stay: this one, and the one before, which another client may still use."""

TAIL_LINES = 3
NO_SPACE = ("No space left on device", "Disk quota exceeded")

# What is told for what pip or venv write: the first fragment that is found decides. Their exit
# statuses do not say why; where they word things differently one day, only the next step is lost.
CURES = {
    "ensurepip is not available": "Install Python's venv there: sudo apt install python3-venv.",
    "No module named": "Install Python's venv there: sudo apt install python3-venv.",
    "NewConnectionError": "That machine cannot reach the package index: give it a network.",
    "NameResolutionError": "That machine cannot reach the package index: give it a network.",
    "ProxyError": "Its proxy refuses: check HTTPS_PROXY there.",
    "timed out": "Its connection is too slow or broke off: run it again.",
    "No matching distribution": "There is no build for its Python: use one of 3.11 to 3.14.",
    "Permission denied": "Let this user write to ~/.farscribe there.",
}


class SetupError(Exception):
    """The host cannot be made fit."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


def main(request: dict[str, Any], python: str, beat: int) -> None:
    """Makes the host fit and becomes the engine's process; ends with status 1 where it cannot.

    Args:
        request: "engine" is its id; "requirements" and their "requirements_id", absent where
            ``python`` has all; "arguments" of the engine; "host", its name for sentences.
        python: what runs this.
        beat: process that shows on our output that we live.
    """
    home = Path.home() / ".farscribe"
    engine = home / "engine" / request["engine"]
    try:
        runner = prepare(home, engine, request, python)
    except SetupError as error:
        fail(beat, error.code, error.message, error.hint)
    except OSError as error:
        fail(beat, *explained(error, request["host"]))
    silence(beat)
    script = str(engine / "remote" / "fast_transcribe.py")
    os.execvp(runner, [runner, script, *request["arguments"]])  # noqa: S606 - that is the point


def prepare(home: Path, engine: Path, request: dict[str, Any], python: str) -> str:
    """The Python that has all the engine needs; the engine is there, too."""
    venv = home / "venv"
    runner = str(venv / "bin" / "python") if "requirements" in request else python
    ready = engine.is_dir() and ("requirements" not in request or is_fit(venv, request))
    if not ready:
        home.mkdir(mode=0o700, exist_ok=True)
        with (home / "setup.lock").open("a") as lock:
            claim(lock)
            if not engine.is_dir():
                fetch(engine, request["engine"])
            if "requirements" in request and not is_fit(venv, request):
                install(venv, home / "setup.log", request, python)
    os.utime(engine)
    return runner


def claim(lock: io.TextIOWrapper) -> None:
    """Nobody else changes anything here until the file is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("Another set-up is at work on that machine; waiting for it.")
        fcntl.flock(lock, fcntl.LOCK_EX)


# ── the engine's files ───────────────────────────────────────────────────────────────────────


def fetch(engine: Path, name: str) -> None:
    """The engine is there, whole; older ones are gone."""
    folder = engine.parent
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.part"):
        shutil.rmtree(old)
    say({"type": "missing", "job": "", "blocks": [name]})
    part = folder / f"{name}.part"
    content = io.BytesIO(take())
    with tarfile.open(fileobj=content, mode="r:gz") as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(part, filter="data")
        else:  # Python 3.11.0 to 3.11.3
            tar.extractall(part)  # noqa: S202 - it is from the one who may run anything here
    part.rename(engine)
    newest = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in [path for path in newest if path != engine][KEPT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)


def take() -> bytes:
    """The bytes that follow a Put on our input, and no byte more."""
    line = b""
    while not line.endswith(b"\n"):
        line += read(1)
    wanted = int(json.loads(line)["bytes"])
    content = bytearray()
    while len(content) < wanted:
        content += read(wanted - len(content))
    return bytes(content)


def read(most: int) -> bytes:
    """Some bytes of our input, unbuffered: what is left belongs to the engine."""
    found = os.read(0, min(most, 1 << 20))
    if not found:
        sys.exit(1)  # the client has gone
    return found


# ── its packages ─────────────────────────────────────────────────────────────────────────────


def is_fit(venv: Path, request: dict[str, Any]) -> bool:
    """Whether the environment was made whole, of this, and its Python is still there."""
    try:
        found = json.loads((venv / "farscribe.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(found == made_of(request)) and (venv / "bin" / "python").exists()


def made_of(request: dict[str, Any]) -> dict[str, str]:
    """What an environment must have been made of to be of use."""
    version = ".".join(map(str, sys.version_info[:2]))
    return {"requirements": request["requirements_id"], "python": version}


def install(venv: Path, log: Path, request: dict[str, Any], python: str) -> None:
    """The environment has all packages. What a set-up that broke off has done is kept."""
    host = request["host"]
    note(f"Setting up Farscribe on {host} in ~/.farscribe/venv (once, a few minutes).")
    (venv / "farscribe.json").unlink(missing_ok=True)
    inside = str(venv / "bin" / "python")
    with log.open("a") as kept:
        if not works([inside, "-m", "pip", "--version"]):
            making = [python, "-m", "venv", "--clear", str(venv)]
            run(making, kept, f"{host} cannot make a Python environment")
        pip = [inside, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
        pip += ["--prefer-binary", *request["requirements"]]
        run(pip, kept, f"{host} cannot install what the engine needs")
    marker = venv / "farscribe.part"
    marker.write_text(json.dumps(made_of(request)))
    marker.rename(venv / "farscribe.json")
    note(f"{host} is set up.")


def works(command: list[str]) -> bool:
    """Whether the command runs and ends well."""
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def run(command: list[str], log: io.TextIOWrapper, failure: str) -> None:
    """The command has succeeded; its lines were told as they came."""
    lines: list[str] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        try:
            for line in child.stdout or ():
                lines.append(line.rstrip())
                log.write(line)
                log.flush()
                note(line.rstrip())
        except BaseException:  # nobody hears us any more, or the disk is full
            child.kill()
            raise
    if child.returncode == 0:
        return
    text = "\n".join(lines)
    if any(sign in text for sign in NO_SPACE):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    cure = next((cure for sign, cure in CURES.items() if sign in text), "")
    last = " ".join(lines[-TAIL_LINES:])
    hint = cure or f"The whole log is in {log.name} there."
    raise SetupError("host-unfit", f"{failure}: {last}", hint)


# ── telling ──────────────────────────────────────────────────────────────────────────────────


def say(message: dict[str, Any]) -> None:
    """One line to the client."""
    os.write(1, json.dumps(message).encode() + b"\n")


def note(text: str) -> None:
    """One line for people."""
    if text.strip():
        say({"type": "note", "text": text})


def explained(error: OSError, host: str) -> tuple[str, str, str]:
    """Code, sentence and next step for what the system refuses."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return (
            "disk-full",
            f"There is no space left on {host}.",
            "Free about 6 GB in the home folder there, then run it again.",
        )
    return (
        "host-unfit",
        f"{host} cannot be set up: {error}.",
        "Let this user write to ~/.farscribe there.",
    )


def silence(beat: int) -> None:
    """From here on, a heart that beats is the engine's own."""
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(beat, signal.SIGTERM)
        os.waitpid(beat, 0)


def fail(beat: int, code: str, message: str, hint: str) -> None:
    """Says why, and ends."""
    silence(beat)
    say({"type": "failed", "job": "", "seq": 0, "code": code, "message": message, "hint": hint})
    sys.exit(1)


if __name__ == "__main__":
    main(json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
