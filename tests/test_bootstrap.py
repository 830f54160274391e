"""The real bootstrap.py with the real venv and pip, on a small product made of empty packages.

No network: pip is given a folder of wheels that are written here.
"""

import ast
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {"torch": "2.13.0", "transformers": "5.23.0", "av": "18.0.0", "pytest": "9.0.0"}

# Stands for the product: says how it was started, then ends as it is told or waits for Ctrl-C.
PRODUCT = """
import os, sys
def main():
    try:
        print("arguments", *sys.argv[1:], flush=True)
        print("folder", os.getcwd(), flush=True)
        if "wait" in sys.argv:
            sys.stdin.read()
    except KeyboardInterrupt:
        sys.exit(77)
    sys.exit(5 if "fail" in sys.argv else 0)
"""
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
METADATA = """Metadata-Version: 2.1
Name: farscribe
Version: 0
Provides-Extra: worker
Provides-Extra: starter
Provides-Extra: dev
Requires-Dist: transformers; extra == 'worker'
Requires-Dist: av; extra == 'worker'
Requires-Dist: pytest; extra == 'dev'
"""
BACKEND = f"""
import os, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "farscribe-0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("farscribe.pth", os.getcwd())
        info = "farscribe-0.dist-info/"
        wheel.writestr(info + "METADATA", {METADATA!r})
        wheel.writestr(info + "WHEEL", {WHEEL!r})
        wheel.writestr(info + "entry_points.txt", "[console_scripts]\\nfarscribe = app.main:main")
        wheel.writestr(info + "RECORD", "")
    return name
"""


@dataclass
class Copy:
    """A repository with this bootstrap in it, an environment folder, a pip without network."""

    root: Path
    wheels: Path
    venv: Path

    def start(self, *arguments: str, **variables: str) -> "subprocess.Popen[str]":
        """The bootstrap as a process of its own, started from the folder above the repository."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
        settings = {
            "FARSCRIBE_VENV": str(self.venv),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
        }
        return subprocess.Popen(
            [sys.executable, str(self.root / "bootstrap.py"), *arguments],
            cwd=self.root.parent,
            env={**kept, **settings, **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *arguments: str, **variables: str) -> tuple[int, str, str]:
        """Exit status, output and messages of one call."""
        process = self.start(*arguments, **variables)
        output, messages = process.communicate()
        return process.returncode, output, messages

    def log(self) -> str:
        return (self.venv / "bootstrap.log").read_text()


def write_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "")
        wheel.writestr(f"{name}/__main__.py", "import sys; print('tests', *sys.argv[1:])")
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        wheel.writestr(f"{info}/WHEEL", WHEEL)
        wheel.writestr(f"{info}/RECORD", "")


def make_copy(folder: Path) -> Copy:
    copy = Copy(folder / "repository", folder / "wheels", folder / "venv")
    for package in ("app", "remote"):
        (copy.root / package).mkdir(parents=True)
        (copy.root / package / "__init__.py").touch()
    (copy.root / "app" / "main.py").write_text(PRODUCT)
    (copy.root / "backend.py").write_text(BACKEND)
    (copy.root / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
    )
    shutil.copy(ROOT / "bootstrap.py", copy.root)
    copy.wheels.mkdir()
    for name, version in PACKAGES.items():
        write_wheel(copy.wheels, name, version)
    return copy


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    """A copy that two processes have set up for `run` at the same time."""
    copy = make_copy(tmp_path_factory.mktemp("ready"))
    for process in [copy.start("run", "one"), copy.start("run", "two")]:
        _, messages = process.communicate()
        assert process.returncode == 0, messages
    return copy


@pytest.fixture
def bare(tmp_path: Path) -> Copy:
    """A copy where nothing has been set up."""
    return make_copy(tmp_path)


def test_older_pythons_can_read_it_as_far_as_the_sentence_about_their_age() -> None:
    source = (ROOT / "bootstrap.py").read_text()
    tree = ast.parse(source, feature_version=(3, 7))
    kinds = [type(node) for node in tree.body]
    check = kinds.index(ast.If)
    assert "version_info" in ast.unparse(tree.body[check])
    assert set(kinds[1:check]) == {ast.Import, ast.ImportFrom}


def test_without_a_verb_it_says_how_to_use_it(bare: Copy) -> None:
    code, output, _ = bare.call()
    assert code == 2
    assert "bootstrap.py run" in output
    assert not bare.venv.exists()


def test_of_two_at_once_one_sets_up_and_the_other_waits(ready: Copy) -> None:
    assert ready.log().count("Successfully installed torch") == 1


def test_run_without_recordings_transcribes_the_sample(ready: Copy) -> None:
    code, output, _ = ready.call("run")
    assert code == 0
    sample = ready.root / "resources" / "sample.flac"
    assert output.startswith(f"arguments transcribe {sample} --model tiny.en")


def test_run_hands_on_arguments_folder_and_exit_status(ready: Copy) -> None:
    code, output, _ = ready.call("run", "fail", "--words")
    assert code == 5
    assert output == f"arguments transcribe fail --words\nfolder {ready.root.parent}\n"


def test_once_set_up_it_needs_neither_pip_nor_a_network(ready: Copy) -> None:
    before = ready.log()
    code, _, messages = ready.call("run", PIP_FIND_LINKS=str(ready.root))
    assert (code, messages) == (0, "")
    assert ready.log() == before


def test_ctrl_c_reaches_what_it_started(ready: Copy) -> None:
    process = ready.start("run", "wait")
    assert process.stdout is not None
    assert process.stdout.readline().startswith("arguments")
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 77


def test_test_adds_the_tools_and_runs_pytest_in_the_repository(ready: Copy) -> None:
    code, output, messages = ready.call("test", "-x")
    assert (code, output) == (0, "tests -x\n"), messages
    code, _, messages = ready.call("run", PIP_FIND_LINKS=str(ready.root))
    assert (code, messages) == (0, "")


def test_a_set_up_that_was_killed_is_made_anew(bare: Copy) -> None:
    process = bare.start("run")
    assert process.stderr is not None
    assert process.stderr.readline().startswith("Setting up Farscribe")
    process.kill()
    process.communicate()
    code, output, messages = bare.call("run")
    assert code == 0, messages
    assert output.startswith("arguments")
    assert "left unfinished" in messages


def test_a_package_that_was_lost_is_noticed(ready: Copy) -> None:
    shutil.rmtree(next(ready.venv.glob("lib/python*/site-packages/transformers")))
    code, _, messages = ready.call("run")
    assert code == 0, messages
    assert "broken" in messages


def test_an_environment_whose_python_is_gone_is_made_anew(ready: Copy) -> None:
    python = ready.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nowhere/python")
    code, _, messages = ready.call("run")
    assert code == 0, messages
    assert "broken" in messages


def test_what_pip_cannot_do_is_told_with_the_next_step_and_goes_on_from_there(bare: Copy) -> None:
    code, output, messages = bare.call("run", PIP_FIND_LINKS=str(bare.root))
    assert (code, output) == (1, "")
    assert "stopped at PyTorch" in messages
    assert "No matching distribution found for torch" in messages
    assert "no ready build" in messages
    assert str(bare.venv / "bootstrap.log") in messages
    code, _, messages = bare.call("run")
    assert code == 0
    assert "virtual environment" not in messages


def test_a_folder_with_other_things_in_it_is_left_alone(bare: Copy) -> None:
    bare.venv.mkdir()
    (bare.venv / "novel.txt").write_text("mine")
    code, _, messages = bare.call("run")
    assert code == 1
    assert "FARSCRIBE_VENV" in messages
    assert [item.name for item in bare.venv.iterdir()] == ["novel.txt"]


@pytest.mark.skipif(os.name == "nt", reason="apt is of Debian")
@pytest.mark.parametrize(
    ("apt", "code", "sentence"),
    [(True, 0, "Installing python3"), (False, 1, "make virtual environments")],
)
def test_python_without_its_venv_module_is_cured_by_apt_or_named(
    bare: Copy, apt: bool, code: int, sentence: str
) -> None:
    """Debian's bare Python: venv is there, ensurepip is not until its package is installed."""
    tools = bare.root / "tools"
    tools.mkdir()
    if apt:
        (tools / "apt-get").write_text(f"#!/bin/sh\necho $* >> {tools}/called\n")
        (tools / "apt-get").chmod(0o755)
    program = (
        "import os, sys; sys.modules['ensurepip'] = None; os.geteuid = lambda: 0\n"
        f"sys.path.insert(0, {str(bare.root)!r}); import bootstrap; bootstrap.require_venv()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PATH": str(tools)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert sentence in done.stderr
    if apt:
        assert "install --yes python3." in (tools / "called").read_text()
