"""What the documents say is there: commands, options, exit statuses, files. No machine's paths."""

import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from remote.protocol import ExitCode
from tests.contract.tree import ROOT, files, modules, name

README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = files(suffix=".md")
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line and not line.startswith("#")
]

# Homes and mounts of somebody's machine. /opt, /var, /tmp and /proc may be meant.
MACHINE_PATH = re.compile(r"(?<![\w.:/~-])/(?:home|root|Users|work|mnt|media)/[\w.]+")
INDEX = re.compile(r"(?:index-url|INDEX_URL|find-links|FIND_LINKS|trusted-host)[ =]+(\S+)")
PUBLIC_INDEXES = ("https://download.pytorch.org/",)


@cache
def help_of(*command: str) -> str:
    """What `farscribe … --help` or `python -m remote.… --help` prints."""
    module = ["-m", "app", *command[1:]] if command[0] == "farscribe" else ["-m", *command]
    done = subprocess.run(
        [sys.executable, *module, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def options(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def table(heading: str) -> str:
    """A section of the README."""
    found = re.search(rf"^#+ {heading}$(.*?)(?=^#|\Z)", README, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {heading}"
    return found[1]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_exists(command: str) -> None:
    words = shlex.split(command, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    match words:
        case ["git" | "cd" | "pip", *_]:
            return
        case ["python3", "bootstrap.py", verb, *_]:
            assert f"bootstrap.py {verb}" in (ROOT / "bootstrap.py").read_text(encoding="utf-8")
            return
        case ["farscribe", verb, *_]:
            text = help_of("farscribe", verb)
        case ["python", "-m", module, *_]:
            text = help_of(module)
        case ["python", script, *_]:
            assert (ROOT / script).is_file()
            text = help_of(script.removesuffix(".py").replace("/", "."))
        case _:
            pytest.fail(f"nobody knows this command: {command}")
    assert options(command) <= options(text)


def test_the_readme_names_every_option_of_transcribe_and_no_other() -> None:
    assert options(table("Options")) == options(help_of("farscribe", "transcribe")) - {"--help"}


def test_the_readme_names_every_exit_status() -> None:
    rows = re.findall(r"^\| (\d+) \|", table("Exit status"), re.MULTILINE)
    assert rows == [str(int(code)) for code in ExitCode]


def test_the_architecture_names_every_module_of_the_engine_and_no_other() -> None:
    document = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    (engine,) = re.findall(r"^remote/ .*?^app/", document, re.MULTILINE | re.DOTALL)
    there = {path.name for path in modules("remote")} - {"__init__.py"}
    assert set(re.findall(r"\w+\.py", engine)) == there


@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_nothing_names_a_path_of_somebodys_machine_or_a_private_index() -> None:
    found = []
    for path in files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a recording, an icon
            continue
        found += [f"{name(path)}: {place}" for place in MACHINE_PATH.findall(text)]
        found += [
            f"{name(path)}: {index}"
            for index in INDEX.findall(text)
            if path.suffix == ".md" and not index.startswith(PUBLIC_INDEXES)
        ]
    assert found == []
