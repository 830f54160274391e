"""The one-way rule of ARCHITECTURE.md: who may import whom, and what nobody may."""

import ast
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.contract.tree import ROOT, modules, tool

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OURS = {"app", "remote", "ami", "tests"}
READ_NOT_IMPORTED = {"silero-vad"}
"""Only its weights are used: importing it would set the number of torch's threads to one."""


def imported(path: Path) -> set[str]:
    """Top names of all packages that a module imports anywhere, in functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def declared(*extras: str) -> set[str]:
    """Distributions that pyproject.toml names: those of the thin client and of these extras."""
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][e] for e in extras)]
    return {canonical(Requirement(line).name) for group in lists for line in group}


def canonical(distribution: str) -> str:
    return distribution.lower().replace("_", "-").replace(".", "-")


def imports(*folders: str) -> dict[str, set[str]]:
    """What these folders import beyond the standard library and us: package to distributions."""
    owners = packages_distributions()
    packages = {package for path in modules(*folders) for package in imported(path)}
    return {
        package: set(map(canonical, owners[package]))
        for package in packages - sys.stdlib_module_names - OURS
        if package in owners  # what is not installed at all fails by itself, or is meant to
    }


def test_imports_go_one_way_only() -> None:
    done = subprocess.run(
        [tool("lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("app", []), ("remote", ["worker"]), ("tests", ["worker", "dev", "bench"])],
)
def test_what_is_imported_is_declared(folder: str, extras: list[str]) -> None:
    found = imports(folder)
    assert {package for package, owners in found.items() if not owners & declared(*extras)} == set()


def test_what_is_declared_is_imported() -> None:
    used = set().union(*imports("app", "remote").values())
    assert declared("worker") - used == READ_NOT_IMPORTED


@pytest.mark.parametrize("module", ["remote/protocol.py", "bootstrap.py"])
def test_these_need_the_standard_library_alone(module: str) -> None:
    assert imported(ROOT / module) <= sys.stdlib_module_names
