"""Two commands on a bare machine: set everything up once, then do what was asked.

    python3 bootstrap.py run [recordings, folders, options of `farscribe transcribe`]
    python3 bootstrap.py test [options of pytest]

`run` transcribes the recordings; where none are named, the sample in resources/.
`test` runs the tests. Both work offline once they have been set up. Everything is installed into
one virtual environment: .venv beside this file, or the folder that FARSCRIBE_VENV names.

Standard library only, and in words that older Pythons can read as far as the check below. It must
not import the product: it runs before there is one.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if sys.version_info < (3, 11):  # noqa: UP036 - whoever has an older one shall read why
    sys.exit("Farscribe needs Python 3.11 or newer; this one is " + sys.version.split()[0] + ".")

WINDOWS = os.name == "nt"
ROOT = Path(__file__).resolve().parent
TORCH = "torch==2.13.0"
EXTRAS = {"run": {"worker", "starter"}, "test": {"worker", "starter", "dev"}}
PROBES = {"run": ["torch", "transformers", "av", "app", "remote"], "test": ["torch", "pytest"]}
PIP = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--prefer-binary"]

SETUP_FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
TERMINATED = 143  # 128 + SIGTERM

# What is told for what pip writes: the first fragment that is found decides. pip's exit status
# does not say why; where it words things differently one day, only the next step is lost.
CURES = {
    "No space left on device": "The disk is full: free about 5 GB, then run the same command.",
    "Disk quota exceeded": "The disk quota is used up: free about 5 GB, then run it again.",
    "NewConnectionError": "The package index cannot be reached: go online, then run it again.",
    "NameResolutionError": "The package index cannot be reached: go online, then run it again.",
    "ProxyError": "The proxy refuses: check HTTPS_PROXY, then run the same command.",
    "timed out": "The connection is too slow or broke off: run the same command again.",
    "Connection reset": "The connection broke off: run the same command again.",
    "No matching distribution": "There is no ready build for this Python or this computer: try "
    "a 64-bit Python between 3.11 and 3.14.",
    "Permission denied": "A folder is not writable: name another one in FARSCRIBE_VENV.",
}


class SetupError(Exception):
    """Setting up cannot go on; the text says why and what to do next."""


class Environment:
    """The virtual environment: made once, looked at quickly, repaired where it broke.

    Three files in it keep the record. ``farscribe.json`` says what is installed and is written
    last. ``farscribe.busy`` exists while something changes, so that one which is left over tells
    of a change that was cut off. ``farscribe.lock`` is held by the one process that may change it.

    Args:
        folder: where it is or shall be.
        root: the repository.
    """

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.root = root
        self.scripts = folder / ("Scripts" if WINDOWS else "bin")
        self.python = self.scripts / ("python.exe" if WINDOWS else "python")
        self.log = folder / "bootstrap.log"
        self._stamp = folder / "farscribe.json"
        self._busy = folder / "farscribe.busy"
        self._lock = folder / "farscribe.lock"

    def prepare(self, verb: str) -> None:
        """All that ``verb`` needs is installed; quick and offline where it was already.

        Raises:
            SetupError: it is not. The same command goes on from there, or starts over where
                going on would not be safe.
        """
        if self._ready(verb):
            return
        self._claim()
        with self._locked() as lock:
            if self._ready(verb):  # by the process that held the lock
                return
            self._mend()
            extras = sorted(EXTRAS[verb] | self._installed())
            self._stamp.unlink(missing_ok=True)
            self._busy.touch()
            say(f"Setting up Farscribe in {self.folder} (once, a few minutes).")
            if not self._finds("pip"):
                require_venv()
                self._step("virtual environment", [sys.executable, "-m", "venv", self.folder], lock)
            pip = [self.python, "-I", *PIP]
            # First and alone, so that pip's own settings decide which build of it is taken.
            self._step("PyTorch", [*pip, TORCH], lock)
            self._step("Farscribe", [*pip, "-e", f"{self.root}[{','.join(extras)}]"], lock)
            self._busy.unlink()
            self._stamp.write_text(json.dumps({**self._identity(), "extras": extras}))

    def _identity(self) -> dict[str, str]:
        """What an environment must have been made of and for, to be of use here and now."""
        made_of = b"".join((self.root / n).read_bytes() for n in ("pyproject.toml", "bootstrap.py"))
        return {
            "folder": str(self.folder),
            "root": str(self.root),
            "content": hashlib.sha256(made_of).hexdigest(),
        }

    def _record(self) -> dict[str, Any]:
        try:
            found = json.loads(self._stamp.read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _installed(self) -> set[str]:
        return set(self._record().get("extras", ()))

    def _ready(self, verb: str) -> bool:
        same = self._identity().items() <= self._record().items()
        return same and self._installed() >= EXTRAS[verb] and self._finds(*PROBES[verb])

    def _finds(self, *packages: str) -> bool:
        """Whether its Python starts and finds these (without importing them: 0.1 s)."""
        code = f"import importlib.util as i, sys; sys.exit(not all(map(i.find_spec, {packages})))"
        try:
            # Isolated, as the current folder is not what is installed.
            found = subprocess.run(
                [self.python, "-I", "-c", code], capture_output=True, check=False
            )
        except OSError:
            return False
        return found.returncode == 0

    def _claim(self) -> None:
        """The folder exists and is ours to fill."""
        ours = [self._stamp, self._busy, self._lock, self.folder / "pyvenv.cfg"]
        if self.folder.is_dir() and any(self.folder.iterdir()) and not any(map(Path.exists, ours)):
            raise SetupError(
                f"{self.folder} holds other things: name a new folder in FARSCRIBE_VENV."
            )
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Until the end of the block, no other process changes the environment."""
        with self._lock.open("a") as handle:
            waiting = False
            while not try_lock(handle.fileno()):
                if not waiting:
                    say("Another set-up is at work here; waiting for it.")
                waiting = True
                time.sleep(0.2)
            yield handle.fileno()

    def _mend(self) -> None:
        """Whatever cannot be built upon is removed."""
        record = self._record()
        moved = record.get("folder", str(self.folder)) != str(self.folder)
        lost = any(not self._finds(*PROBES[v]) for v in EXTRAS if EXTRAS[v] <= self._installed())
        dead = os.path.lexists(self.python) and not self._finds("sys")
        if not (self._busy.exists() or moved or lost or dead):
            return
        say("Clearing away an environment that is broken or was left unfinished.")
        for item in self.folder.iterdir():
            if item == self._lock:
                continue
            if item.is_dir() and not item.is_symlink():
                shutil.rmtree(item)
            else:
                item.unlink()

    def _step(self, title: str, command: list[Any], lock: int) -> None:
        """The command has succeeded; what it wrote is in the log."""
        with self.log.open("ab") as log:
            start = log.seek(0, os.SEEK_END)
            # The child holds the lock too: should this process be killed, nobody else begins
            # before the child has ended.
            with subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=() if WINDOWS else (lock,),
                process_group=None if WINDOWS else 0,
            ) as child:
                try:
                    seconds = watch(title, child, self.log, start)
                except BaseException:
                    stop(child)
                    raise
        if child.returncode == 0:
            say(f"  {title}: {seconds:.0f} s")
            return
        if child.returncode > 0:  # it ended by itself and left things in order
            self._busy.unlink()
        raise SetupError(explain(title, self.log, start))


def require_venv() -> None:
    """Python can make virtual environments. Debian ships that part as a package of its own.

    Raises:
        SetupError: it cannot, and this process may not install the package.
    """
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0:
        say(f"  Installing {package}, which Python needs for virtual environments.")
        subprocess.run([apt, "update"], check=False, capture_output=True)
        install = [apt, "install", "--yes", package]
        if subprocess.run(install, check=False, capture_output=True).returncode == 0:
            return
    raise SetupError(
        f"Python cannot make virtual environments here. Next step: sudo apt install {package}"
        if apt
        else "Python cannot make virtual environments here: install its modules venv and ensurepip."
    )


def offer_sshd() -> None:
    """An SSH server is there for the tests that need one; else one line says how to get it.

    It is installed by itself only where that starts no server: as root, without systemd.
    """
    if WINDOWS or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin:/usr/bin"):
        return
    apt = shutil.which("apt-get")
    if apt and os.geteuid() == 0 and not Path("/run/systemd/system").exists():
        say("  Installing openssh-server, which some tests need.")
        subprocess.run([apt, "update"], check=False, capture_output=True)
        install = [apt, "install", "--yes", "--no-install-recommends", "openssh-server"]
        if subprocess.run(install, check=False, capture_output=True).returncode == 0:
            return
    say("Tests over SSH are skipped; they run after: sudo apt install openssh-server")


def stop(child: "subprocess.Popen[bytes]") -> None:
    """Ends the child and what it started, which would go on writing otherwise."""
    if WINDOWS:
        child.terminate()
    else:
        os.killpg(child.pid, signal.SIGTERM)


def watch(title: str, child: "subprocess.Popen[bytes]", log: Path, start: int) -> float:
    """Seconds until the child ended; meanwhile a terminal shows that it lives."""
    begin = time.monotonic()
    terminal = sys.stderr.isatty()
    wipe = "\r\033[K"
    while True:
        try:
            child.wait(timeout=1)
        except subprocess.TimeoutExpired:
            if terminal:
                line = f"  {title}: {time.monotonic() - begin:.0f} s  {last_lines(log, start, 1)}"
                show = line[: shutil.get_terminal_size().columns - 1]
                print(wipe + show, end="", file=sys.stderr, flush=True)
            continue
        if terminal:
            print(wipe, end="", file=sys.stderr, flush=True)
        return time.monotonic() - begin


def explain(title: str, log: Path, start: int) -> str:
    """Why a step failed: the end of what it wrote, and the next step."""
    text = last_lines(log, start, 10_000)
    cure = next((cure for sign, cure in CURES.items() if sign in text), "See the log for more.")
    tail = "\n".join(f"    {line}" for line in text.splitlines()[-12:])
    return f"Setting up stopped at {title}:\n{tail}\n{cure}\nThe whole log: {log}"


def last_lines(log: Path, start: int, count: int) -> str:
    """The last ``count`` lines that were written from byte ``start`` on."""
    with log.open("rb") as handle:
        handle.seek(start)
        return "\n".join(handle.read().decode(errors="replace").strip().splitlines()[-count:])


def try_lock(handle: int) -> bool:
    """Whether the open file is now locked by us; it is freed when the last holder ends."""
    if sys.platform == "win32":
        import msvcrt

        with contextlib.suppress(OSError):
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            return True
        return False
    import fcntl

    with contextlib.suppress(BlockingIOError):
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    return False


def say(line: str) -> None:
    """One line to the user, apart from what the product itself prints."""
    print(line, file=sys.stderr, flush=True)


def command_for(verb: str, arguments: list[str], scripts: Path) -> list[str]:
    """What the verb starts once all is installed."""
    if verb == "test":
        return [str(scripts / "python"), "-m", "pytest", *arguments]
    farscribe = shutil.which("farscribe", path=str(scripts)) or str(scripts / "farscribe")
    sample = [str(ROOT / "resources" / "sample.flac"), "--model", "tiny.en"]
    return [farscribe, "transcribe", *(arguments or sample)]


def become(command: list[str]) -> None:
    """Does not return: the command takes this process over, its exit status and Ctrl-C too."""
    if WINDOWS:  # which has no exec that keeps the console waiting
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)  # noqa: S606 - a list, and no shell is wanted


def main(arguments: list[str]) -> None:
    """Sets up what the first argument needs, then becomes it."""
    verb = arguments[0] if arguments else ""
    if verb not in EXTRAS:
        print(__doc__.strip().rpartition("\n\n")[0])
        sys.exit(0 if verb in {"-h", "--help"} else USAGE)
    folder = Path(os.environ.get("FARSCRIBE_VENV") or ROOT / ".venv").expanduser().absolute()
    environment = Environment(folder, ROOT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))
    try:
        environment.prepare(verb)
    except SetupError as error:
        say(str(error))
        sys.exit(SETUP_FAILED)
    except OSError as error:
        say(f"Cannot set up: {error}. Free disk space or name another folder in FARSCRIBE_VENV.")
        sys.exit(SETUP_FAILED)
    except KeyboardInterrupt:
        say("Stopped. The same command starts over.")
        sys.exit(INTERRUPTED)
    if verb == "test":
        offer_sshd()
        os.chdir(ROOT)
    become(command_for(verb, arguments[1:], environment.scripts))


if __name__ == "__main__":
    main(sys.argv[1:])
