"""Peak memory of three hours of speech against that of the first ten minutes of the same.

Each runs as a process of its own through the front door; the kernel says what it held at most.
The long recording is a real one, over and over, made once into a temporary folder.
"""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.common import (
    ROOT,
    Json,
    Report,
    add_eval,
    bench_parser,
    eval_folder,
    give_up,
    recordings,
    say,
)
from tests.bench.recordings import write_flac

_LOOK_S = 0.1
"""Between two looks at a process; its high-water mark never falls."""

LIMIT = 1.3
"""What the ratio is to stay below."""


@dataclass(frozen=True, slots=True)
class Run:
    """One recording through the front door."""

    audio_s: float
    peak_bytes: int
    summary: Json

    @property
    def speed(self) -> float:
        """Seconds of audio a second, without loading."""
        return self.audio_s / float(self.summary["wall_s"])


def main(arguments: Sequence[str]) -> int:
    """The bench; its exit status."""
    parser = bench_parser("memory", __doc__)
    add_eval(parser)
    parser.add_argument("--model", default="tiny.en", help="name or folder")
    parser.add_argument("--dtype", help="the fastest by default")
    parser.add_argument("--recording", default="long45-lecture", help="id of what is repeated")
    parser.add_argument("--short", type=float, default=600.0, metavar="SECONDS", help="600")
    parser.add_argument("--long", type=float, default=10_800.0, metavar="SECONDS", help="10800")
    parser.add_argument("--words", action="store_true", help="time words")
    options = parser.parse_args(arguments)
    if not Path("/proc/self/status").exists():
        give_up("Peak memory is read from /proc, which this system has not.")
    source = recordings(eval_folder(options.eval), only=[options.recording])[0]
    more = [*(["--dtype", options.dtype] if options.dtype else [])]
    more += ["--words"] if options.words else []
    runs = []
    with TemporaryDirectory(prefix="farscribe-bench-") as folder:
        for seconds in (options.short, options.long):
            path = Path(folder) / f"{seconds:.0f}.flac"
            write_flac(source.path, path, seconds)
            runs.append(_run(path, seconds, ["--model", options.model, *more]))
            say(f"{seconds:.0f} s: {runs[-1].peak_bytes / 2**20:.0f} MiB")
            path.unlink()
    report(options.model, source.id, runs).deliver(options.json)
    return 0


def _run(path: Path, seconds: float, options: Sequence[str]) -> Run:
    """Transcribes the file; its events go to a file, as a pipe nobody reads would fill up."""
    events = path.with_suffix(".jsonl")
    command = [sys.executable, "-m", "remote.fast_transcribe", "--json-lines", *options, str(path)]
    peak = 0
    with events.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output)
        while process.poll() is None:
            peak = max(peak, _peak_bytes(process.pid))
            time.sleep(_LOOK_S)
    if process.returncode:
        give_up(f"The transcription ended with status {process.returncode}.")
    last: Json = json.loads(events.read_bytes().splitlines()[-1])
    summary: Json = last["summary"]
    return Run(seconds, max(peak, int(summary["peak_memory_bytes"])), summary)


def _peak_bytes(process: int) -> int:
    """The high-water mark of a process; 0 where it has just ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = (line.split() for line in status.splitlines())
    return next((int(cells[1]) * 1024 for cells in found if cells[:1] == ["VmHWM:"]), 0)


def report(model: str, source: str, runs: Sequence[Run]) -> Report:
    """A row for each length."""
    first = runs[0].peak_bytes
    rows = [
        [
            f"{run.audio_s / 60:.3g} min",
            f"{run.peak_bytes / 2**20:.0f} MiB",
            f"{run.peak_bytes / first:.2f}",
            f"{run.speed:.1f}",
            str(run.summary["windows"]),
        ]
        for run in runs
    ]
    return Report(
        title=f"Peak memory of {model}",
        n="1 each, a fresh process",
        columns=["recording", "peak memory", "ratio", "× real time", "windows"],
        rows=rows,
        notes=[f"the recording is {source}, repeated; the ratio is to stay below {LIMIT}"],
        numbers={
            "model": model,
            "runs": [
                {"audio_s": run.audio_s, "peak_bytes": run.peak_bytes, "summary": run.summary}
                for run in runs
            ],
        },
    )
