"""From process start to the first text, with where the time goes: ours beside the libraries'.

Each system is a fresh process on the sample recording; the clock starts when it is started and
stops when its first text can be read. They take turns; the first round is apart, as it fills the
page cache.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.bench.common import ROOT, SAMPLE, Report, bench_parser, comma_list, give_up, say
from tests.bench.peer_models import ctranslate2_model
from tests.bench.systems import require

MEASURED = ["ours", "transformers", "faster-whisper"]
YARDSTICK = "transformers"
COLUMNS = ("system", "first text", "range", "start and imports", "load", "transcribe")


@dataclass(frozen=True, slots=True)
class Start:
    """Seconds to the first text, and those of them that loading and transcribing took.

    The rest of the total is the interpreter, its imports and all that is neither.
    """

    total_s: float
    load_s: float
    text_s: float

    @property
    def before_s(self) -> float:
        """Interpreter, imports and the rest."""
        return self.total_s - self.load_s - self.text_s


def main(arguments: Sequence[str]) -> int:
    """The bench; its exit status."""
    parser = bench_parser("startup", __doc__)
    parser.add_argument("--model", default="tiny.en", help="name or folder")
    parser.add_argument("--peer-model", help="faster-whisper's form of it")
    parser.add_argument("--audio", type=Path, default=SAMPLE, help="the recording")
    parser.add_argument(
        "--systems", type=comma_list, default=MEASURED, metavar="A,B", help=", ".join(MEASURED)
    )
    parser.add_argument("-n", type=int, default=5, help="rounds after the first, at least 1")
    options = parser.parse_args(arguments)
    require(options.systems)
    from remote import models

    folder = str(models.resolve(options.model))
    starts: dict[str, list[Start]] = {name: [] for name in options.systems}
    with ctranslate2_model(options.model, options.peer_model) as peer_model:
        where = {"ours": options.model, "transformers": folder, "faster-whisper": peer_model}
        for turn in range(options.n + 1):
            for name in options.systems:
                start = _start(name, where[name], options.audio)
                starts[name].append(start)
                say(f"{turn}: {name}: {start.total_s:.2f} s")
    imports = _imports(options.model, options.audio) if "ours" in starts else {}
    report(options.model, options.n, starts, imports).deliver(options.json)
    return 0


def _start(name: str, model: str, audio: Path) -> Start:
    if name == "ours":
        return _ours(model, audio)
    line, total_s = _first_line(
        [sys.executable, "-m", "tests.bench.first_text", name, model, str(audio)], '"text"'
    )
    body = json.loads(line)
    return Start(total_s, body["load_s"], body["text_s"])


def _ours(model: str, audio: Path) -> Start:
    """The front door as a user has it, its events read as they come."""
    begin = time.perf_counter()
    with _process(_command(model, audio)) as process:
        assert process.stdout
        hello, hello_s = _until(process.stdout, '"type":"hello"', begin)
        _, total_s = _until(process.stdout, '"type":"segments"', begin)
        process.stdout.read()
    load_s = float(json.loads(hello)["load_s"])
    return Start(total_s, load_s, total_s - hello_s)


def _command(model: str, audio: Path) -> list[str]:
    command = [sys.executable, "-m", "remote.fast_transcribe", "--json-lines", "--model", model]
    return [*command, str(audio.resolve())]


def _first_line(command: Sequence[str], mark: str) -> tuple[str, float]:
    begin = time.perf_counter()
    with _process(command) as process:
        assert process.stdout
        found = _until(process.stdout, mark, begin)
        process.stdout.read()
    return found


def _process(command: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        encoding="utf-8",
    )


def _until(lines: Iterable[str], mark: str, begin: float) -> tuple[str, float]:
    """The first line with ``mark`` in it, and when it came."""
    for line in lines:
        if mark in line:
            return line, time.perf_counter() - begin
    return give_up(f"A process ended without a line with {mark}.")


def _imports(model: str, audio: Path) -> dict[str, float]:
    """Seconds of the imports of our process by top-level package, as -X importtime counts them."""
    command = _command(model, audio)
    done = subprocess.run(
        [command[0], "-X", "importtime", *command[1:]],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
        encoding="utf-8",
    )
    seconds: dict[str, float] = {}
    for line in done.stderr.splitlines():
        kind, _, rest = line.partition(":")
        cells = rest.split("|")
        if kind == "import time" and cells[0].strip().isdigit():
            package = cells[2].strip().partition(".")[0]
            seconds[package] = seconds.get(package, 0.0) + int(cells[0]) / 1e6
    return seconds


def report(
    model: str, n: int, starts: Mapping[str, Sequence[Start]], imports: Mapping[str, float]
) -> Report:
    """A row for each system."""
    yardstick = starts.get(YARDSTICK)
    compared = _median([start.total_s for start in yardstick[1:]]) if yardstick else None
    return Report(
        title=f"Process start to first text, {model}, in seconds",
        n=f"median of {n}, taking turns, after a first round",
        columns=[*COLUMNS, f"to {YARDSTICK}", "first round"],
        rows=[_row(name, found, compared) for name, found in starts.items()],
        notes=_import_notes(imports),
        numbers={
            "model": model,
            "imports_s": dict(imports),
            "starts": {name: [asdict(s) for s in found] for name, found in starts.items()},
        },
    )


def _row(name: str, found: Sequence[Start], compared: float | None) -> list[str]:
    """The cells of one system; ``compared`` is what its median is divided by."""
    warm = found[1:]
    totals = sorted(start.total_s for start in warm)
    median = _median(totals)
    stages = (
        [start.before_s for start in warm],
        [start.load_s for start in warm],
        [start.text_s for start in warm],
    )
    return [
        name,
        f"{median:.2f}",
        f"{totals[0]:.2f}–{totals[-1]:.2f}",
        *(f"{_median(stage):.2f}" for stage in stages),
        f"{median / compared:.2f}" if compared else "–",
        f"{found[0].total_s:.2f}",
    ]


def _import_notes(imports: Mapping[str, float]) -> list[str]:
    if not imports:
        return []
    largest = sorted(imports, key=lambda name: -imports[name])[:6]
    parts = ", ".join(f"{name} {imports[name]:.2f} s" for name in largest)
    total = sum(imports.values())
    return [f"our imports, timed by -X importtime (which slows them): {total:.2f} s; {parts}"]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
