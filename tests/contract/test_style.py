"""Style, types and shell scripts, by the tools that know them; what they say is the message."""

import subprocess

import pytest

from tests.contract.tree import ROOT, files, name, tool

SCRIPTS = [path for path in files() if path.name.endswith(".sh") or path == ROOT / ".ci" / "run"]


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check"],
        ["ruff", "format", "--check"],
        ["mypy"],
        ["shellcheck", *map(name, SCRIPTS)],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_house_is_in_order(command: list[str]) -> None:
    done = subprocess.run(
        [tool(command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
