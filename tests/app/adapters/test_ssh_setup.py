"""What makes a host fit, through a real sshd on loopback; pythons that fail are shell scripts."""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from app.adapters.ssh import parcel
from app.adapters.ssh.link import Limits
from app.adapters.ssh.parcel import worker_requirements
from app.domain.events import EngineLog
from remote.protocol import ErrorCode, Hello
from tests.app.adapters.ssh_host import death, failure, greeted, linked, machine, talk, until
from tests.helpers.sshd import needs_sshd

pytestmark = needs_sshd

TOOLS = ("sh", "sleep", "mkdir", "cp", "cat", "chmod", "rm", "dirname")


def engines(fresh) -> set[str]:
    return {path.name for path in (fresh.home / ".farscribe" / "engine").iterdir()}


def logged(events) -> list[str]:
    return [event.line for event in events if isinstance(event, EngineLog)]


def change(fresh, text: str) -> None:
    """The engine's folder on this computer has other contents."""
    (fresh.engine / "more.py").write_text(text)


# ── the engine's files ───────────────────────────────────────────────────────────────────────


def test_the_engine_is_sent_when_it_differs_and_only_then(fresh):
    assert any("Sending the engine" in line for line in logged(talk(machine(fresh), greeted)))
    first = engines(fresh)
    assert not any("Sending" in line for line in logged(talk(machine(fresh), greeted)))
    assert engines(fresh) == first
    change(fresh, "a = 1\n")
    assert any("Sending" in line for line in logged(talk(machine(fresh), greeted)))
    assert len(engines(fresh)) == 2
    (sent,) = engines(fresh) - first
    assert (fresh.home / ".farscribe/engine" / sent / "remote/more.py").read_text() == "a = 1\n"


def test_the_two_newest_engines_are_kept(fresh):
    seen = []
    for number in range(3):
        change(fresh, f"a = {number}\n")
        talk(machine(fresh), greeted)
        seen.append(engines(fresh) - {name for names in seen for name in names})
    assert engines(fresh) == seen[-1] | seen[-2]


def test_what_python_makes_by_itself_is_not_sent(fresh, tmp_path):
    folder = fresh.engine
    before = parcel.parcel(folder).id
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").touch()
    assert parcel.parcel(folder).id == before


def test_a_sending_that_was_cut_off_is_begun_again(fresh):
    part = fresh.home / ".farscribe" / "engine" / "old.part"
    part.mkdir(parents=True)
    (part / "half").touch()
    talk(machine(fresh), greeted)
    assert len(engines(fresh)) == 1


def test_a_home_folder_that_may_not_be_written_is_said_so(fresh):
    (fresh.home / ".farscribe").write_text("in the way")
    error = failure(machine(fresh))
    assert error.code is ErrorCode.HOST_UNFIT
    assert "cannot be set up" in error.message


# ── an interpreter that is named ─────────────────────────────────────────────────────────────


def test_a_named_python_may_lie_in_the_home_folder_and_have_a_space_in_its_path(fresh):
    folder = fresh.home / "my pythons"
    folder.mkdir()
    script(folder / "python", f'exec {sys.executable} "$@"')
    host = machine(fresh, python="~/my%20pythons/python")

    async def say(link):
        await greeted(link)
        assert await host.store.have([]) == frozenset()

    talk(host, say)
    assert not (fresh.home / ".farscribe" / "venv").exists()


def test_a_named_python_that_is_not_there_is_said_so(fresh):
    error = failure(machine(fresh, python="/no/such/python"))
    assert error.code is ErrorCode.HOST_UNFIT
    assert "no Python 3.11" in error.message


# ── an environment of its own ────────────────────────────────────────────────────────────────


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def bare(fresh):
    """That host with nothing but a shell and a few tools, and what its python3 is."""
    folder = fresh.folder / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    fresh.stop()
    fresh.configure({"PATH": str(folder), "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"})
    fresh.start()

    def python(text: str, name: str = "python3") -> None:
        script(folder / name, text)

    return python


PYTHON = f'case "$*" in *"-m venv"*) {{venv}};; *) exec {sys.executable} "$@";; esac'
"""A python3 like ours, except for what it does when it is to make an environment."""

VENV = """
mkdir -p "$4/bin"
cat > "$4/bin/python" <<'END'
#!/bin/sh
case "$*" in
    *--version*) exit 0;;
    *"-m pip install"*) {pip};;
    *) exec {python} "$@";;
esac
END
chmod +x "$4/bin/python"
"""


def with_pip(pip: str) -> str:
    """A python3 whose environments have this pip."""
    return PYTHON.format(venv=VENV.format(pip=pip, python=sys.executable))


def test_a_host_without_python_is_unfit(fresh, bare):
    error = failure(machine(fresh, python=""))
    assert error.code is ErrorCode.HOST_UNFIT
    assert "has no Python 3.11 or newer." in error.message
    assert "?python=" in error.hint


def test_a_host_with_an_old_python_is_told_which(fresh, bare):
    bare('case "$1" in -V) echo Python 3.9.2;; *) exit 1;; esac')
    error = failure(machine(fresh, python=""))
    assert error.code is ErrorCode.HOST_UNFIT
    assert "(it has Python 3.9.2)" in error.message


def test_the_newer_of_two_pythons_is_found(fresh, bare):
    bare("exit 1")
    bare(with_pip("echo installed"), "python3.12")
    talk(machine(fresh, python=""), greeted)


def test_a_host_without_a_shell_is_unfit(fresh, bare):
    (fresh.folder / "bin" / "sh").unlink()
    error = failure(machine(fresh, python=""))
    assert error.code is ErrorCode.HOST_UNFIT
    assert "POSIX shell" in error.hint


def test_a_host_that_cannot_make_environments_is_told_what_to_install(fresh, bare):
    bare(PYTHON.format(venv="echo ensurepip is not available >&2; exit 1"))
    error = failure(machine(fresh, python=""))
    assert error.code is ErrorCode.HOST_UNFIT
    assert "apt install python3-venv" in error.hint


@pytest.mark.parametrize(
    ("pip", "code", "word"),
    [
        ("echo ERROR: No matching distribution found for torch; exit 1", "host-unfit", "3.11 to"),
        ("echo NewConnectionError; exit 1", "host-unfit", "network"),
        ("echo It burns.; exit 1", "host-unfit", "setup.log"),
        ("echo OSError: [Errno 28] No space left on device; exit 1", "disk-full", "Free about"),
    ],
)
def test_a_pip_that_fails_is_told_with_the_next_step(fresh, bare, pip, code, word):
    bare(with_pip(pip))
    error = failure(machine(fresh, python=""))
    assert error.code == code
    assert word in error.hint


def test_a_full_disk_is_told(fresh, bare):
    bare(with_pip("echo installing"))
    (fresh.home / ".farscribe").mkdir()
    (fresh.home / ".farscribe" / "setup.log").symlink_to("/dev/full")
    error = failure(machine(fresh, python=""))
    assert error.code is ErrorCode.DISK_FULL
    assert "no space left on ssh://" in error.message


def test_the_set_up_is_told_line_by_line_and_done_once(fresh, bare):
    bare(with_pip('echo "Collecting torch"; echo "Installing torch"'))
    told = logged(talk(machine(fresh, python=""), greeted))
    assert any("once, a few minutes" in line for line in told)
    at = told.index("Collecting torch")
    assert told[at + 1] == "Installing torch"
    assert "Collecting torch" in (fresh.home / ".farscribe" / "setup.log").read_text()
    assert "Collecting torch" not in logged(talk(machine(fresh, python=""), greeted))


def test_other_requirements_are_installed_again(fresh, bare):
    bare(with_pip("echo Collecting"))
    talk(machine(fresh, python=""), greeted)
    marker = fresh.home / ".farscribe" / "venv" / "farscribe.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "requirements": "others"}))
    assert "Collecting" in logged(talk(machine(fresh, python=""), greeted))


def test_a_set_up_that_was_interrupted_goes_on(fresh, bare):
    bare(with_pip('if [ -e "$HOME/on" ]; then echo going on; else echo first; sleep 600; fi'))

    async def say(link):
        while "first" not in logged(await until(link, EngineLog)):
            pass
        fresh.kill_sessions()
        assert (await death(link)).code is ErrorCode.LINK_LOST

    talk(machine(fresh, python=""), say)
    for pid in fresh.orphans():
        os.kill(pid, 9)
    (fresh.home / "on").touch()
    made = fresh.home / ".farscribe" / "venv" / "bin" / "python"
    before = made.stat().st_ino
    told = logged(talk(machine(fresh, python=""), greeted))
    assert "going on" in told
    assert made.stat().st_ino == before


def test_a_second_set_up_waits_for_the_first(fresh, bare):
    go = fresh.home / "go"
    os.mkfifo(go)
    bare(with_pip('echo first; cat "$HOME/go"'))

    async def say(link):
        while "first" not in logged(await until(link, EngineLog)):
            pass
        async with linked(machine(fresh, python="")) as other:
            event = await other.receive()
            while "Another set-up" not in getattr(event, "line", ""):
                event = await other.receive()
            go.write_text("done\n")
            await greeted(link)
            assert not any("Setting up" in line for line in logged(await greeted(other)))

    talk(machine(fresh, python=""), say)


def test_a_real_environment_with_a_real_package(fresh, tmp_path):
    wheel = tmp_path / "tiny_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("tiny_thing.py", "")
        info = "tiny_thing-1.0.dist-info"
        made.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-thing\nVersion: 1.0\n")
        made.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        made.writestr(f"{info}/RECORD", "")
    front = fresh.engine / "fast_transcribe.py"
    front.write_text(f"import tiny_thing\n{front.read_text()}")
    fresh.stop()
    path = f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin"
    fresh.configure({"PATH": path, "PIP_NO_INDEX": "1"})
    fresh.start()
    host = machine(fresh, python="", requirements=[str(wheel)], limits=Limits())
    events = talk(host, greeted)
    assert isinstance(events[-1], Hello)
    assert any("Successfully installed tiny-thing-1.0" in line for line in logged(events))


# ── what it needs ────────────────────────────────────────────────────────────────────────────


def test_the_requirements_are_those_of_the_worker():
    found = worker_requirements()
    assert any(line.startswith("torch") for line in found)
    assert not any("extra" in line or line.startswith("pytest") for line in found)


def test_other_conditions_of_a_requirement_are_kept_for_pip():
    lines = [
        "torch>=2; extra == 'worker'",
        'numpy; (sys_platform == "linux") and extra == "worker"',
        "rich>=13",
        "pytest; extra == 'dev'",
    ]
    assert worker_requirements(lines) == ("torch>=2", 'numpy; (sys_platform == "linux")')
