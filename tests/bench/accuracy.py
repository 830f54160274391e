"""Accuracy on the eval set: word error rate, start times, words invented, edge cases.

Every system transcribes every recording in a process of its own; the eval set's own scorer
compares. Languages are forced, as a multilingual model's guess is another question.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.common import (
    OUT,
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
)
from tests.bench.peer_models import ctranslate2_model
from tests.bench.systems import SYSTEMS, Child, require

_EVERY = 20
"""Recordings between two lines of progress."""


@dataclass(frozen=True, slots=True)
class Result:
    """A system's score, and what it took; the seconds are of the recordings that can be read."""

    score: Json
    audio_s: float
    wall_s: float


_Cell = Callable[[Result], str]
"""Writes one number of a system."""


def main(arguments: Sequence[str]) -> int:
    """The bench; its exit status."""
    parser = bench_parser("accuracy", __doc__)
    add_eval(parser)
    parser.add_argument("--model", default="tiny.en", help="name or folder")
    parser.add_argument("--peer-model", help="faster-whisper's form of it")
    parser.add_argument(
        "--systems", type=comma_list, default=["ours", "faster-whisper"], metavar="A,B",
        help=", ".join(SYSTEMS),
    )  # fmt: skip
    parser.add_argument("--groups", type=comma_list, default=[], metavar="A,B", help="prefixes")
    parser.add_argument("--languages", type=comma_list, default=[], metavar="A,B", help="codes")
    parser.add_argument("--only", type=comma_list, default=[], metavar="A,B", help="ids' prefixes")
    parser.add_argument("--limit", type=int, help="the first so many recordings")
    parser.add_argument("--no-words", action="store_true", help="do not time words")
    parser.add_argument("--out", type=Path, default=OUT / "accuracy", help="for the hypotheses")
    options = parser.parse_args(arguments)
    require(options.systems)
    folder = eval_folder(options.eval)
    chosen = [
        recording
        for recording in recordings(
            folder, groups=options.groups, languages=options.languages, only=options.only
        )
        if suits(recording, options.model)
    ][: options.limit]
    results: dict[str, Result] = {}
    with ctranslate2_model(options.model, options.peer_model) as peer_model:
        for name in options.systems:
            out = options.out / f"{Path(options.model).name}-{name}"
            with Child(name, options.model, peer_model) as child:
                audio_s, wall_s = transcribe_all(
                    child, chosen, out, english=options.model.endswith(".en"),
                    words=not options.no_words,
                )  # fmt: skip
            results[name] = Result(score(folder, out), audio_s, wall_s)
    report(options.model, len(chosen), results).deliver(options.json)
    return 0


def suits(recording: Recording, model: str) -> bool:
    """Whether the model can know what is said: English models are not scored on Italian."""
    return (
        recording.language == "en" or recording.expect != "transcript" or not model.endswith(".en")
    )


def transcribe_all(
    child: Child, chosen: Sequence[Recording], out: Path, *, english: bool, words: bool
) -> tuple[float, float]:
    """Writes hypotheses, none but these left in the folder; seconds of audio and of wall time."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.json"):
        old.unlink()
    audio_s = wall_s = 0.0
    for number, recording in enumerate(chosen, 1):
        forced = not english and recording.expect == "transcript"
        hypothesis = child.transcribe(
            recording.path, recording.language if forced else None, words=words
        )
        text = json.dumps(hypothesis, ensure_ascii=False)
        (out / f"{recording.id}.json").write_text(text, encoding="utf-8")
        audio_s += recording.seconds
        wall_s += hypothesis["wall_s"]
        if number % _EVERY == 0 or number == len(chosen):
            say(f"{child.name}: {number} of {len(chosen)}, {wall_s:.0f} s")
    return audio_s, wall_s


def report(model: str, count: int, results: Mapping[str, Result]) -> Report:
    """A column for each system."""
    rows = [
        [label, *(cell(result) for result in results.values())]
        for label, cell in _measures([result.score for result in results.values()])
    ]
    failed = [
        f"{name}: {check['id']} was to be {check['expect']!r} and is {check['got']!r}"
        for name, result in results.items()
        for check in result.score["checks"]
        if not check["ok"]
    ]
    return Report(
        title=f"Accuracy of {model}",
        n=f"1, over {count} recordings",
        columns=["", *results],
        rows=rows,
        notes=[*(f"{name}: {SYSTEMS[name]}" for name in results if SYSTEMS[name]), *failed],
        numbers={"model": model, "systems": {name: _plain(r) for name, r in results.items()}},
    )


def _plain(result: Result) -> Json:
    return {"audio_s": result.audio_s, "wall_s": result.wall_s, "score": result.score}


class _Share:
    """Errors among the words of a group, as a cell."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, result: Result) -> str:
        """The rate, and of how many words."""
        group = result.score["groups"].get(self._key)
        return f"{group['wer']:.2f} % of {group['words']}" if group else "–"


def _measures(scores: Sequence[Json]) -> list[tuple[str, _Cell]]:
    keys = {key for found in scores for key in found["groups"]}
    order = sorted(keys, key=lambda key: (key.partition(":")[0] != "all-en", key))
    labels = {"all-en": "WER, all English", "all-other": "WER, all other languages"}
    shares: list[tuple[str, _Cell]] = [
        (labels.get(key, f"{_unit(key)}, {key.replace(':', ' ')}"), _Share(key)) for key in order
    ]
    return [
        *shares,
        ("start error, median", lambda result: _ms(result.score["start_median_ms"])),
        ("start error, p90", lambda result: _ms(result.score["start_p90_ms"])),
        ("starts matched", _starts),
        ("words in noise", _noise),
        ("edge cases as expected", _edges),
        ("× real time", lambda result: f"{result.audio_s / result.wall_s:.1f}"),
    ]


def _unit(key: str) -> str:
    return "CER" if key in ("language:ja", "language:zh") else "WER"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f} ms"


def _starts(result: Result) -> str:
    timed = [row for row in result.score["files"] if "start_n" in row]
    matched, total = (sum(row[key] for row in timed) for key in ("start_n", "start_total"))
    return f"{matched} of {total}" if timed else "–"


def _noise(result: Result) -> str:
    counts = [row["noise_words"] for row in result.score["files"] if "noise_words" in row]
    return str(sum(counts)) if counts else "–"


def _edges(result: Result) -> str:
    checks = result.score["checks"]
    return f"{sum(check['ok'] for check in checks)} of {len(checks)}" if checks else "–"
