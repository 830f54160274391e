"""Small parts: modules, functions and folder names stay within the limits of CONTRIBUTING.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.contract.tree import ROOMS, ROOT, files, modules, name

MODULE_LINES = 400
FUNCTION_LINES = 50
FORBIDDEN = {"core", "utils", "common", "helpers", "misc"}
LONGER = {"remote/protocol.py": 760}
"""The wire is one file on purpose: both ends hold the same bytes."""


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Where each function of a module is, and its lines, decorators and docstring included."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(item.lineno for item in node.decorator_list)])
            yield f"{name(path)}:{first} {node.name}", (node.end_lineno or first) - first + 1


def test_no_module_is_long() -> None:
    lengths = {name(path): len(path.read_bytes().splitlines()) for path in modules()}
    limits = {module: LONGER.get(module, MODULE_LINES) for module in lengths}
    assert {m: n for m, n in lengths.items() if n > limits[m]} == {}


def test_no_function_is_long() -> None:
    lengths = dict(item for path in modules() for item in functions(path))
    assert {where: lines for where, lines in lengths.items() if lines > FUNCTION_LINES} == {}


def test_no_folder_is_named_after_nothing_in_particular() -> None:
    names = {part for path in files(*ROOMS) for part in path.relative_to(ROOT).parts[:-1]}
    assert names & FORBIDDEN == set()


def test_init_files_are_empty() -> None:
    assert [
        name(path) for path in modules() if path.name == "__init__.py" and path.read_bytes()
    ] == []
