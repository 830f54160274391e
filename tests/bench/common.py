"""What every bench shares: the eval set, the scorer, the facts of the machine, the table.

It must not import a model library: a bench that starts child processes stays light itself.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "resources" / "sample.flac"
"""Eleven seconds of speech, for warming up and for starting."""

EVAL = ROOT.parent / "shared" / "eval"
OUT = ROOT / "build" / "bench"

Json = dict[str, Any]
"""A JSON object as read from or written to a file; its shape is its writer's."""


def give_up(sentence: str) -> NoReturn:
    """Ends the bench with a sentence for its user."""
    raise SystemExit(sentence)


# ── command line ─────────────────────────────────────────────────────────────────────────────


def bench_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every bench has."""
    summary = (description or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m tests.bench {name}", description=summary)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers here as well")
    return parser


def add_eval(parser: argparse.ArgumentParser) -> None:
    """The option that names the eval set."""
    parser.add_argument("--eval", type=Path, metavar="FOLDER", help=f"the eval set ({EVAL})")


def comma_list(value: str) -> list[str]:
    """The parts of a comma separated option."""
    return [part.strip() for part in value.split(",") if part.strip()]


# ── the eval set ─────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Recording:
    """One file of the eval set; ``seconds`` is 0.0 where it is broken."""

    id: str
    path: Path
    language: str
    group: str
    expect: str
    seconds: float


def eval_folder(given: Path | None) -> Path:
    """The eval set; ends the bench with a sentence where there is none."""
    folder = given or EVAL
    if not (folder / "manifest.jsonl").is_file():
        give_up(f"There is no eval set in {folder}: give its folder with --eval.")
    return folder


def recordings(
    folder: Path,
    *,
    groups: Sequence[str] = (),
    languages: Sequence[str] = (),
    only: Sequence[str] = (),
    limit: int | None = None,
) -> list[Recording]:
    """The recordings of the eval set that are asked for.

    Args:
        folder: of the eval set.
        groups: prefixes of groups; none for all.
        languages: codes; none for all.
        only: prefixes of ids; none for all.
        limit: the first so many of those.
    """
    lines = (folder / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    found = [_recording(folder, json.loads(line)) for line in lines if line.strip()]
    chosen = [
        r
        for r in found
        if (not groups or r.group.startswith(tuple(groups)))
        and (not languages or r.language in languages)
        and (not only or r.id.startswith(tuple(only)))
    ]
    if not chosen:
        give_up("No recording of the eval set is left by these options.")
    return chosen[:limit]


def _recording(folder: Path, row: Json) -> Recording:
    return Recording(
        row["id"], folder / row["path"], row["language"], row["group"], row["expect"],
        float(row["seconds"] or 0.0),
    )  # fmt: skip


def score(folder: Path, hypotheses: Path) -> Json:
    """What the eval set's own scorer says of the hypotheses that are there."""
    with tempfile.TemporaryDirectory() as temporary:
        numbers = Path(temporary) / "score.json"
        scorer = [sys.executable, str(folder / "score.py"), str(hypotheses)]
        done = subprocess.run(
            [*scorer, "--only-present", "--quiet", "--json", str(numbers)],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            needs = f"It needs jiwer and whisper-normalizer: {bench_extra()}"
            give_up(f"The scorer failed. {needs}\n{done.stderr.strip()}")
        body: Json = json.loads(numbers.read_text(encoding="utf-8"))
        return body


def bench_extra() -> str:
    """How to install what the benches compare with."""
    return "pip install -e '.[bench]'"


# ── the machine and the table ────────────────────────────────────────────────────────────────


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def threads() -> int:
    """Threads that every system gets: $OMP_NUM_THREADS, or one for each core."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() else cores()


def cpu_model() -> str:
    """What the processor calls itself."""
    cpuinfo = Path("/proc/cpuinfo")  # Linux's platform module knows only the architecture
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def facts() -> dict[str, str]:
    """When, where and with which versions something was measured."""
    names = ("farscribe", "torch", "transformers", "faster-whisper")
    versions = ", ".join(f"{name} {_version(name)}" for name in names)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": f"{cpu_model()}, {cores()} cores",
        "versions": f"Python {platform.python_version()}, {versions}",
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "from its sources" if name == "farscribe" else "not installed"


@dataclass(frozen=True, slots=True)
class Report:
    """A result, for people and for programs.

    Args:
        title: of the table.
        n: how often each thing was measured, and what the numbers are of that.
        columns: their names.
        rows: their cells, in the form in which they are to be read.
        notes: sentences below the table.
        numbers: the same unrounded, for --json.
    """

    title: str
    n: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        """Title, facts, table and notes."""
        lines = [f"### {self.title}", ""]
        lines += [f"- {name}: {value}" for name, value in {**facts(), "n": self.n}.items()]
        lines += ["", _line(self.columns), _line(["---"] * len(self.columns))]
        lines += [_line(row) for row in self.rows]
        if self.notes:
            lines += ["", *(f"- {note}" for note in self.notes)]
        return "\n".join(lines) + "\n"

    def deliver(self, path: Path | None) -> None:
        """Prints it, and writes its numbers where they are wanted."""
        print(self.markdown(), flush=True)
        if path:
            body = {"title": self.title, **facts(), "n": self.n, **self.numbers}
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(body, ensure_ascii=False, indent=1) + "\n", "utf-8")


def say(sentence: str) -> None:
    """A line of progress on standard error."""
    print(sentence, file=sys.stderr, flush=True)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
