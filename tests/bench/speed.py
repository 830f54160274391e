"""Speed on the long recordings: seconds of audio transcribed in a second, and at what accuracy.

Every system is loaded once in a process of its own and warmed up on the sample. Then they take
turns, A B C A B C, so that what else the machine does falls on all of them; never two at once.
"""

import json
import statistics
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.common import (
    OUT,
    SAMPLE,
    Json,
    Recording,
    Report,
    add_eval,
    bench_parser,
    comma_list,
    eval_folder,
    recordings,
    say,
    score,
    threads,
)
from tests.bench.peer_models import ctranslate2_model
from tests.bench.recordings import write_flac
from tests.bench.systems import SYSTEMS, Child, require

MEASURED = [
    "ours",
    "ours-float32",
    "faster-whisper",
    "faster-whisper-batched-8",
    "faster-whisper-batched-16",
    "transformers",
]
YARDSTICK = "faster-whisper-batched-8"
"""The others' speeds are given as multiples of its speed."""

SLOW = "transformers"
"""Hears the first two minutes alone; its accuracy is not scored."""
SLOW_S = 120.0


@dataclass(slots=True)
class Runs:
    """One system on one recording."""

    audio_s: float
    walls_s: list[float] = field(default_factory=list)
    wer: float | None = None

    @property
    def speed(self) -> float:
        """Seconds of audio a second, the median of the runs."""
        return self.audio_s / statistics.median(self.walls_s)


def main(arguments: Sequence[str]) -> int:
    """The bench; its exit status."""
    parser = bench_parser("speed", __doc__)
    add_eval(parser)
    parser.add_argument("--model", default="tiny.en", help="name or folder")
    parser.add_argument("--peer-model", help="faster-whisper's form of it")
    parser.add_argument(
        "--systems", type=comma_list, default=MEASURED, metavar="A,B", help=", ".join(SYSTEMS)
    )
    parser.add_argument(
        "--only", type=comma_list, default=["long10-meeting", "long45-lecture"], metavar="A,B",
        help="ids' prefixes",
    )  # fmt: skip
    parser.add_argument("-n", type=int, default=3, help="rounds")
    parser.add_argument("--words", action="store_true", help="time words, where a system can")
    parser.add_argument("--out", type=Path, default=OUT / "speed", help="for the hypotheses")
    options = parser.parse_args(arguments)
    require(options.systems)
    folder = eval_folder(options.eval)
    chosen = recordings(folder, only=options.only)
    with ExitStack() as stack:
        peer_model = stack.enter_context(ctranslate2_model(options.model, options.peer_model))
        clips = Path(stack.enter_context(TemporaryDirectory(prefix="farscribe-bench-")))
        children = [
            stack.enter_context(Child(name, options.model, peer_model)) for name in options.systems
        ]
        outs = {child.name: options.out / child.name for child in children}
        runs = measure(children, chosen, options, outs, clips)
    for name, out in outs.items():
        if name != SLOW:
            _add_scores(runs, name, score(folder, out))
    report(options.model, options.n, chosen, options.systems, runs).deliver(options.json)
    return 0


def measure(
    children: Sequence[Child],
    chosen: Sequence[Recording],
    options: Namespace,
    outs: Mapping[str, Path],
    clips: Path,
) -> dict[tuple[str, str], Runs]:
    """The runs, by system and recording; the first round's hypotheses are written."""
    for child in children:
        child.transcribe(SAMPLE, None, words=options.words)
        say(f"{child.name} is warm; it was loaded in {child.load_s:.2f} s")
    runs: dict[tuple[str, str], Runs] = {}
    for turn in range(options.n):
        for recording in chosen:
            for child in children:
                heard = _clip(recording, clips) if child.name == SLOW else recording
                language = None if options.model.endswith(".en") else recording.language
                found = child.transcribe(heard.path, language, words=options.words)
                key = (child.name, recording.id)
                runs.setdefault(key, Runs(heard.seconds)).walls_s.append(found["wall_s"])
                speed = heard.seconds / found["wall_s"]
                error = f" {found['error']}" if found["error"] else ""
                say(f"{turn + 1}: {recording.id}, {child.name}: {speed:.1f} × real time{error}")
                if turn == 0:
                    _write(outs[child.name], recording.id, found)
    return runs


def _clip(recording: Recording, folder: Path) -> Recording:
    path = folder / f"{recording.id}.flac"
    seconds = min(SLOW_S, recording.seconds)
    if not path.exists():
        write_flac(recording.path, path, seconds)
    return Recording(
        recording.id, path, recording.language, recording.group, recording.expect, seconds
    )


def _write(folder: Path, name: str, hypothesis: Json) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(hypothesis, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")


def _add_scores(runs: Mapping[tuple[str, str], Runs], name: str, scored: Json) -> None:
    for row in scored["files"]:
        if (name, row["id"]) in runs:
            runs[name, row["id"]].wer = row["wer"]


def report(
    model: str,
    n: int,
    chosen: Sequence[Recording],
    systems: Sequence[str],
    runs: Mapping[tuple[str, str], Runs],
) -> Report:
    """A row for each system on each recording."""
    rows = []
    for recording in chosen:
        yardstick = runs.get((YARDSTICK, recording.id))
        for name in systems:
            run = runs[name, recording.id]
            ratio = f"{run.speed / yardstick.speed:.2f}" if yardstick else "–"
            wer = "–" if run.wer is None else f"{run.wer:.2f} %"
            spread = [run.audio_s / wall for wall in sorted(run.walls_s, reverse=True)]
            between = f"{spread[0]:.1f}–{spread[-1]:.1f}"
            rows.append([recording.id, name, f"{run.speed:.1f}", between, ratio, wer])
    notes = [f"{name}: {SYSTEMS[name]}" for name in systems if SYSTEMS[name]]
    notes += [f"{threads()} threads each; one at a time, each loaded once and warmed up"]
    if SLOW in systems:
        notes += [f"{SLOW} heard the first {SLOW_S:.0f} s alone and is not scored"]
    plain = [
        {"recording": key[1], "system": key[0], "audio_s": run.audio_s, "walls_s": run.walls_s,
         "speed": run.speed, "wer": run.wer}
        for key, run in runs.items()
    ]  # fmt: skip
    return Report(
        title=f"Speed of {model} on the CPU",
        n=f"median of {n}, taking turns",
        columns=["recording", "system", "× real time", "range", f"to {YARDSTICK}", "WER"],
        rows=rows,
        notes=notes,
        numbers={"model": model, "threads": threads(), "runs": plain},
    )
