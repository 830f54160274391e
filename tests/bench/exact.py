"""Token for token against transformers' greedy ``generate``, window by window, in float32.

Both hear the same log-mel features, one pass a window, with timestamps and without. Where they
differ, transformers' model in float64 says how far apart the two candidates of the first
difference are: a gap of rounding size is no error of either.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from remote import models
from remote.chunking import Windower
from remote.decoding import Decoder, Request
from remote.features import LogMel
from remote.optimized_loader import load_model
from remote.protocol import KnownError
from remote.rules import TokenRules
from remote.tokens import Tokenizer
from remote.transcriber import vocabulary_of
from remote.voice_activity import SpeechDetector
from tests.bench.common import (
    Recording,
    Report,
    add_eval,
    bench_parser,
    comma_list,
    eval_folder,
    recordings,
    say,
)
from tests.bench.recordings import Int16, blocks
from tests.bench.reference import Reference

ROWS = 8
"""Windows side by side, in both."""

SHARE = 99.9
GAP = 1e-3
"""At least so many percent are to be identical; the rest is to hang on less than this gap."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One window of one recording, cut in mode "vad" or "fixed"."""

    name: str
    mode: str
    language: str
    samples: Int16


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a window's tokens part: the place, both candidates, the gap that decides."""

    window: str
    position: int
    ours: int
    theirs: int
    gap: float


@dataclass(frozen=True, slots=True)
class Tally:
    """One model on the windows of one mode, with timestamps or without."""

    model: str
    mode: str
    timestamps: bool
    windows: int
    differences: tuple[Difference, ...]

    @property
    def share(self) -> float:
        """Percent of the windows that are identical."""
        return 100 * (1 - len(self.differences) / self.windows)


def main(arguments: Sequence[str]) -> int:
    """The bench; its exit status."""
    parser = bench_parser("exact", __doc__)
    add_eval(parser)
    parser.add_argument(
        "--models", type=comma_list, default=["tiny.en", "base"], metavar="A,B", help="tiny.en,base"
    )
    parser.add_argument(
        "--modes", type=comma_list, default=["fixed", "vad"], metavar="A,B", help="fixed,vad"
    )
    parser.add_argument("--groups", type=comma_list, default=[], metavar="A,B", help="prefixes")
    parser.add_argument("--only", type=comma_list, default=[], metavar="A,B", help="ids' prefixes")
    parser.add_argument("--limit", type=int, help="the first so many recordings")
    options = parser.parse_args(arguments)
    chosen = recordings(
        eval_folder(options.eval), groups=options.groups, only=options.only, limit=options.limit
    )
    detector = SpeechDetector.load()
    heard = [
        window
        for mode in options.modes
        for recording in chosen
        for window in cut(recording, mode, detector)
    ]
    tallies = [tally for name in options.models for tally in compare(name, heard)]
    report(tallies, len(chosen)).deliver(options.json)
    return 0


def cut(recording: Recording, mode: str, detector: SpeechDetector) -> list[Heard]:
    """The windows of a recording: every 30 s, silent or not, or at silence."""
    windower = Windower("vad" if mode == "vad" else "off", detector)
    found = []
    try:
        for block in blocks(recording.path):
            found += windower.push(block)
    except KnownError as error:
        say(f"{recording.id}: {error.message}")
    found += windower.finish()
    return [
        Heard(f"{recording.id}#{window.index}", mode, recording.language, window.samples)
        for window in found
        if len(window.samples)
    ]


def compare(name: str, heard: Sequence[Heard]) -> Iterator[Tally]:
    """Tallies of one model."""
    folder = models.resolve(name)
    ours, theirs = Ours(folder), Reference(folder)
    batches = list(_batches(heard, by_language=ours.tokenizer.multilingual))
    differences: dict[tuple[str, bool], list[Difference]] = {}
    for number, batch in enumerate(batches, 1):
        mel = ours.mel([window.samples for window in batch])
        audio = ours.encode(mel)
        encoded = theirs.encode(mel)
        for timestamps in (True, False):
            prompt = ours.prompt(batch[0].language, timestamps)
            mine = ours.generate(audio, prompt, timestamps)
            reference = theirs.generate(encoded, prompt, timestamps)
            parted = differences.setdefault((batch[0].mode, timestamps), [])
            for i, window in enumerate(batch):
                if mine[i] != reference[i]:
                    parted.append(
                        _difference(theirs, window.name, mel[i], prompt, mine[i], reference[i])
                    )
                    say(f"{name}: {parted[-1]}")
        say(f"{name}: batch {number} of {len(batches)}")
    for (mode, timestamps), parted in differences.items():
        count = sum(window.mode == mode for window in heard)
        yield Tally(name, mode, timestamps, count, tuple(parted))


def _batches(heard: Sequence[Heard], *, by_language: bool) -> Iterator[list[Heard]]:
    """Windows of one mode, and of one language where the prompt depends on it."""
    groups: dict[tuple[str, str], list[Heard]] = {}
    for window in heard:
        groups.setdefault((window.mode, window.language if by_language else ""), []).append(window)
    for group in groups.values():
        for i in range(0, len(group), ROWS):
            yield group[i : i + ROWS]


class Ours:
    """Our model and its greedy decoding, without fallback.

    Args:
        folder: of the model.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = Tokenizer.from_folder(folder)
        self._model, _ = load_model(folder, device="cpu", dtype="float32")
        self.mel = LogMel(self._model.shape.n_mels)
        self._decoders = {timestamps: self._decoder(timestamps) for timestamps in (True, False)}

    def encode(self, mel: Tensor) -> Tensor:
        """Audio features, ``[n, audio_ctx, d_model]``."""
        with torch.inference_mode():
            return self._model.encode(mel)

    def prompt(self, language: str, timestamps: bool) -> tuple[int, ...]:
        """The tokens that decoding starts from."""
        known = language if self.tokenizer.multilingual else "en"
        return tuple(self.tokenizer.prompt(known, "transcribe", timestamps))

    def generate(self, audio: Tensor, prompt: tuple[int, ...], timestamps: bool) -> list[list[int]]:
        """The tokens of each window, without prompt and end token."""
        requests = [
            Request(
                key=key,
                audio=features,
                prompt=prompt,
                sot=0,
                max_tokens=self._model.shape.text_ctx,
                temperatures=(0.0,),
            )
            for key, features in enumerate(audio)
        ]
        found = {d.request.key: d.tokens for d in self._decoders[timestamps].run(iter([requests]))}
        return [list(found[key]) for key in range(len(requests))]

    def _decoder(self, timestamps: bool) -> Decoder:
        tokenizer = self.tokenizer
        return Decoder(
            self._model,
            TokenRules(vocabulary_of(tokenizer), timestamps=timestamps),
            eot=tokenizer.eot,
            no_speech=tokenizer.no_speech,
            timestamp_begin=tokenizer.timestamp_begin,
            text_of=tokenizer.decode,
            rows=ROWS,
        )


def _difference(
    theirs: Reference,
    window: str,
    mel: Tensor,
    prompt: tuple[int, ...],
    mine: Sequence[int],
    reference: Sequence[int],
) -> Difference:
    """The first place where they part; an end counts as the end token."""
    ended = theirs.eot
    pairs = list(zip([*mine, ended], [*reference, ended], strict=False))
    position = next(i for i, (a, b) in enumerate(pairs) if a != b)
    a, b = pairs[position]
    gap = theirs.gap(mel, prompt, reference[:position], a, b)
    return Difference(window, position, a, b, gap)


def report(tallies: Sequence[Tally], count: int) -> Report:
    """A row for each model, mode and kind of decoding, and the sum."""
    rows = [[t.model, t.mode, "with" if t.timestamps else "without", *_cells([t])] for t in tallies]
    rows.append(["all", "", "", *_cells(tallies)])
    notes = [
        f"{t.model}, {'with' if t.timestamps else 'without'} timestamps, {t.mode}: {d.window} "
        f"differs at token {d.position}: {d.ours}, transformers {d.theirs}; gap {d.gap:.2e}"
        for t in tallies
        for d in t.differences
    ]
    wanted = f"wanted: at least {SHARE} % identical, the others with a gap below {GAP}"
    return Report(
        title="Token-exact with transformers' generate, float32",
        n=f"1, over {count} recordings; {ROWS} windows side by side",
        columns="model,cut,timestamps,windows,identical,share,largest gap".split(","),
        rows=rows,
        notes=[wanted, *notes],
        numbers={"tallies": [_plain(t) for t in tallies]},
    )


def _cells(tallies: Sequence[Tally]) -> list[str]:
    windows = sum(t.windows for t in tallies)
    gaps = [d.gap for t in tallies for d in t.differences]
    same = windows - len(gaps)
    share = f"{100 * same / windows:.2f} %" if windows else "–"
    return [str(windows), str(same), share, f"{max(gaps):.2e}" if gaps else "–"]


def _plain(tally: Tally) -> dict[str, Any]:
    return {
        "model": tally.model,
        "mode": tally.mode,
        "timestamps": tally.timestamps,
        "windows": tally.windows,
        "share": tally.share,
        "differences": [
            {"window": d.window, "position": d.position, "ours": d.ours, "theirs": d.theirs,
             "gap": d.gap}
            for d in tally.differences
        ],
    }  # fmt: skip
