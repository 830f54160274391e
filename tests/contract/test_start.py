"""What a start loads: it is quick because heavy libraries stay out until they are needed."""

import importlib.util
import os
import subprocess
import sys

import pytest

from tests.contract.tree import ROOT

HELP = "import sys, app.__main__ as m; sys.argv[1:] = {}\ntry: m.main()\nexcept SystemExit: pass"
HEAVY = set(
    "PySide6 asyncio av boto3 cryptography docx filelock huggingface_hub numpy paramiko pysubs2"
    " rich sqlite3 tenacity torch transformers watchdog".split()
)
VERBS = "doctor export history remove resume retry search show stats transcribe watch".split()
QUICK_S = 0.3
"""Of processor time, so that a busy machine does not count; a start that is felt is longer."""
COLD = {"torch._dynamo", "torch._inductor", "transformers"}


def loaded(code: str) -> set[str]:
    """Names of all modules that a fresh Python has loaded after this code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_the_help_of_no_verb_loads_anything_heavy() -> None:
    calls = [["--help"], ["--version"], [], *([verb, "--help"] for verb in VERBS)]
    assert loaded("\n".join(map(HELP.format, calls))) & HEAVY == set()


def test_the_help_of_models_loads_nothing_heavy() -> None:
    assert loaded(HELP.format(["models", "--help"])) & {"numpy", "torch", "transformers"} == set()


@pytest.mark.skipif(os.name != "posix", reason="processor time of a child")
def test_help_comes_at_once() -> None:
    taken_s = []
    for _ in range(3):
        before = os.times()
        loaded(HELP.format(["--help"]))
        taken_s.append(os.times().children_user - before.children_user)
    assert min(taken_s) < QUICK_S


@pytest.mark.skipif(
    importlib.util.find_spec("remote.direct_transcribe") is None, reason="not there yet"
)
def test_the_engine_loads_neither_transformers_nor_the_compiler() -> None:
    assert loaded("import remote.direct_transcribe") & COLD == set()
