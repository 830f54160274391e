"""The loading strategies on a large model of random weights: time, bytes read, peak memory.

Each load is a process of its own, on the CPU in float32, once with the model's files dropped from
the page cache and then with them in it. The import of PyTorch comes before the clock; other imports
are a column of their own.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.common import ROOT, Json, Report, bench_parser, comma_list, give_up, say

WAYS = ("gpu-state", "memory-mapped", "standard", "transformers")
YARDSTICK = "standard"
ALONE = "transformers"
"""Without our packing: the fairer yardstick, as transformers 5 maps float32 weights too."""
CACHES = ("cold", "warm")
MEMORY_SHARE = 50
FASTER = 5
"""The GPU state is to take at most so many percent of standard loading's memory, and at most one
part in so many of its time."""

COLUMNS = (
    "strategy",
    "page cache",
    "imports",
    "load",
    "× standard",
    "to first logits",
    "processor time of it",
    "from disk",
    "peak of load",
    "anonymous of it",
    "peak with logits",
    "anonymous of it",
)


def main(arguments: Sequence[str]) -> int:
    """The bench; its exit status."""
    parser = bench_parser("load", __doc__)
    parser.add_argument("--size", choices=("turbo", "small", "tiny"), default="turbo")
    parser.add_argument("--folder", type=Path, help="where to write the model (temporary folder)")
    parser.add_argument(
        "--ways", type=comma_list, default=WAYS, metavar="A,B", help=", ".join(WAYS)
    )
    parser.add_argument("-n", type=int, default=3, help="loads of each kind; their median counts")
    options = parser.parse_args(arguments)
    if not Path("/proc/self/io").exists():
        give_up("Memory and reading are measured through /proc, which this system has not.")
    with TemporaryDirectory(prefix="farscribe-bench-", dir=options.folder) as temporary:
        folder = Path(temporary) / options.size
        _make(folder, options.size)
        runs = {
            (way, cache): [_load(way, folder, cache, turn == 0) for turn in range(options.n)]
            for way in options.ways
            for cache in CACHES
        }
        sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    report(options.size, options.n, runs, sizes).deliver(options.json)
    return 0


def _make(folder: Path, size: str) -> None:
    """The model and its state, by a process whose memory is gone before anything is measured."""
    say(f"writing a random model of the size of {size}")
    code = (
        "import sys; from pathlib import Path; "
        "from tests.bench.random_model import SHAPES, write_random_model; "
        "from remote.gpu_memory_persist import preload_gpu_model; "
        "folder = Path(sys.argv[1]); write_random_model(folder, SHAPES[sys.argv[2]]); "
        "print(preload_gpu_model(folder, device='cpu', dtype='float32'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), size],
        cwd=ROOT,
        check=False,
        stdout=subprocess.DEVNULL,
    )
    if done.returncode:
        give_up(f"Writing the model ended with status {done.returncode}.")


def _load(way: str, folder: Path, cache: str, logits: bool) -> Json:
    """What one process measured; on the first of a kind the logits too."""
    for path in folder.iterdir():
        _drop(path) if cache == "cold" else _fill(path, way)
    command = [sys.executable, "-m", "tests.bench.load_once", way, str(folder)]
    done = subprocess.run(
        [*command, *(["logits"] if logits else [])],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        give_up(f"Loading by {way} failed.\n{done.stderr}")
    run: Json = json.loads(done.stdout.splitlines()[-1])
    say(f"{way}, {cache}: {run['load_s']:.2f} s")
    return run


def _drop(path: Path) -> None:
    """The file is no longer in the page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())  # pages not written yet cannot be dropped
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _fill(path: Path, way: str) -> None:
    """The file is in the page cache, where this way of loading reads it."""
    if (path.suffix == ".pt") == (way == "gpu-state"):
        with path.open("rb") as file:
            while file.read(1 << 24):
                pass


def report(
    size: str, n: int, runs: Mapping[tuple[str, str], Sequence[Json]], sizes: Mapping[str, int]
) -> Report:
    """A row for each strategy and state of the page cache, and whether the targets are met."""
    standard = {cache: found for (way, cache), found in runs.items() if way == YARDSTICK}
    rows = [_row(way, cache, found, standard.get(cache)) for (way, cache), found in runs.items()]
    weights = next(count for name, count in sizes.items() if name.endswith(".safetensors"))
    return Report(
        title=f"Loading a model of the size of {size}, float32, {weights / 1e9:.2f} GB, on the CPU",
        n=f"{n} loads each, the median; 1 with logits",
        columns=COLUMNS,
        rows=rows,
        notes=_notes(runs),
        numbers={
            "runs": [
                {"strategy": way, "cache": cache, "loads": list(found)}
                for (way, cache), found in runs.items()
            ]
        },
    )


def _row(way: str, cache: str, found: Sequence[Json], standard: Sequence[Json] | None) -> list[str]:
    load_s, first = median(found, "load_s"), found[0]
    loaded, computed = first["loaded"], first["computed"]
    return [
        "from_pretrained alone" if way == "transformers" else way,
        cache,
        f"{median(found, 'import_s'):.2f} s",
        f"{load_s:.2f} s",
        f"{median(standard, 'load_s') / load_s:.1f}" if standard else "-",
        f"{first['logits_s']:.1f} s",
        f"{first['logits_cpu_s']:.1f} s",
        f"{first['read_bytes'] / 1e9:.2f} GB",
        f"{loaded['resident'] / 1e9:.2f} GB",
        f"{loaded['anonymous'] / 1e9:.2f} GB",
        f"{max(loaded['resident'], computed['resident']) / 1e9:.2f} GB",
        f"{max(loaded['anonymous'], computed['anonymous']) / 1e9:.2f} GB",
    ]


def _notes(runs: Mapping[tuple[str, str], Sequence[Json]]) -> list[str]:
    notes = []
    for cache in CACHES:
        for other, words in ((YARDSTICK, "standard"), (ALONE, "from_pretrained alone")):
            if ("gpu-state", cache) in runs and (other, cache) in runs:
                compared = _compared(runs["gpu-state", cache], runs[other, cache])
                notes.append(f"{cache}, the GPU state against {words}: {compared}")
    notes.append(f"the targets: {FASTER}× the speed, {MEMORY_SHARE} % of the peak memory")
    notes.append(
        "the GPU state on the CPU is mapped: its load reads next to nothing, the first pass reads "
        "the rest, so with a cold cache its load leaves out what the others' includes"
    )
    notes.append("wall time far above processor time and reading means that others had the machine")
    answers = {way: found[0]["logits"] for (way, _), found in runs.items()}
    ours = [answer for way, answer in answers.items() if way != ALONE]
    equal = "equal" if all(answer == ours[0] for answer in ours) else "NOT equal"
    notes.append(f"logits of our strategies: {equal}")
    if ALONE in answers:
        pairs = zip(answers[ALONE], ours[0], strict=True)
        notes.append(f"transformers' own within {max(abs(a - b) for a, b in pairs):.1g} of them")
    notes.append(f"every process holds {_before(runs):.2f} GB before it loads")
    notes.append("anonymous memory is the process's own; the rest is pages of mapped files")
    return notes


def _compared(state: Sequence[Json], other: Sequence[Json]) -> str:
    faster = median(other, "load_s") / median(state, "load_s")
    share = 100 * state[0]["loaded"]["resident"] / other[0]["loaded"]["resident"]
    later = 100 * peak(state[0], "resident") / peak(other[0], "resident")
    own = 100 * peak(state[0], "anonymous") / peak(other[0], "anonymous")
    return (
        f"load {faster:.1f}× faster ({_with_imports(other) / _with_imports(state):.1f}× with "
        f"imports), peak memory of the load {share:.0f} %, once logits are computed {later:.0f} % "
        f"({own:.0f} % of anonymous memory)"
    )


def _with_imports(found: Sequence[Json]) -> float:
    return median(found, "load_s") + median(found, "import_s")


def median(found: Sequence[Json], name: str) -> float:
    """The median of a number over several loads."""
    return statistics.median(float(run[name]) for run in found)


def peak(run: Json, kind: str) -> float:
    """The most memory of a kind that a process held, logits included."""
    return float(max(run["loaded"][kind], run["computed"][kind]))


def _before(runs: Mapping[tuple[str, str], Sequence[Json]]) -> float:
    most = max(int(run["before"]["resident"]) for found in runs.values() for run in found)
    return most / 1e9
