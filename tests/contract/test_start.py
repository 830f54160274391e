"""What a start loads: it is quick because heavy libraries stay out until they are needed."""

import importlib.util
import subprocess
import sys

import pytest

from tests.contract.tree import ROOT

HELP = "import sys, app.__main__ as m; sys.argv[1:] = {}\ntry: m.main()\nexcept SystemExit: pass"
HEAVY = {"PySide6", "av", "boto3", "huggingface_hub", "numpy", "torch", "transformers"}
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


@pytest.mark.parametrize("arguments", [["--help"], ["transcribe", "--help"], ["models", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    assert loaded(HELP.format(arguments)) & HEAVY == set()


@pytest.mark.skipif(
    importlib.util.find_spec("remote.direct_transcribe") is None, reason="not there yet"
)
def test_the_engine_loads_neither_transformers_nor_the_compiler() -> None:
    assert loaded("import remote.direct_transcribe") & COLD == set()
