"""The systems that are measured, each behind one call and each loaded once in its own process.

As a command it is such a process: it loads one system and answers a JSON line for every JSON line
it is asked. ``Child`` is the other end. A process each keeps the systems' threads and memory apart;
one that waits for its next line uses no processor time.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.bench.common import ROOT, Json, bench_extra, give_up, threads

SYSTEMS: Mapping[str, str] = {
    "ours": "dtype chosen by the machine",
    "ours-float32": "",
    "ours-int8": "",
    "ours-bfloat16": "",
    "faster-whisper": "int8, sequential, greedy with its fallback",
    "faster-whisper-batched-8": "int8, batches of 8, timestamps",
    "faster-whisper-batched-16": "int8, batches of 16, timestamps",
    "faster-whisper-batched-8-untimed": "int8, batches of 8, its default without timestamps",
    "transformers": "long-form generate, greedy, timestamps, float32",
}
"""What can be measured, and how it is set."""


class System(Protocol):
    """A loaded model that transcribes files."""

    def transcribe(self, path: str, language: str | None, words: bool) -> list[Json]:
        """Segments as the scorer reads them: start and end in seconds, text, words.

        Args:
            path: of the recording.
            language: code, or None to leave it to the system.
            words: also give the time of each word.
        """
        ...


class Ours:
    """Farscribe, in this process.

    Args:
        model: name or folder.
        dtype: or None for the fastest.
    """

    def __init__(self, model: str, dtype: str | None) -> None:
        from remote.direct_transcribe import open_engine

        self._engine = open_engine(model, device="cpu", dtype=dtype)

    def transcribe(self, path: str, language: str | None, words: bool) -> list[Json]:
        """See System."""
        from remote.direct_transcribe import Collected
        from remote.protocol import Options, Source

        sink = Collected()
        self._engine.transcriber.transcribe(
            Source("path", path), Options(words=words, language=language), sink
        )
        return [
            _segment(s.start_ms / 1000, s.end_ms / 1000, s.text,
                     [(w.start_ms / 1000, w.end_ms / 1000, w.text) for w in s.words])
            for s in sink.found
        ]  # fmt: skip


class FasterWhisper:
    """faster-whisper in int8, greedy.

    Args:
        model: CTranslate2 folder, or a name.
        batch: windows side by side; 0 for its sequential mode.
        timestamps: of its batched mode; its sequential mode always writes them.
    """

    def __init__(self, model: str, batch: int, timestamps: bool) -> None:
        import faster_whisper

        self._model = faster_whisper.WhisperModel(
            model, device="cpu", compute_type="int8", cpu_threads=threads()
        )
        self._batched: dict[str, Any] = {}
        if batch:
            self._model = faster_whisper.BatchedInferencePipeline(self._model)
            self._batched = {"batch_size": batch, "without_timestamps": not timestamps}

    def transcribe(self, path: str, language: str | None, words: bool) -> list[Json]:
        """See System."""
        segments, _ = self._model.transcribe(
            path, beam_size=1, language=language, word_timestamps=words, **self._batched
        )
        return [
            _segment(s.start, s.end, s.text, [(w.start, w.end, w.word) for w in s.words or ()])
            for s in segments
        ]


class Transformers:
    """transformers' long-form ``generate``: greedy, with timestamps, in float32.

    Args:
        folder: of the model, in Hugging Face's form.
    """

    def __init__(self, folder: str) -> None:
        import torch
        from transformers import (
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
            WhisperTokenizer,
        )

        self._model: Any = WhisperForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        )
        self._extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self._tokenizer = WhisperTokenizer.from_pretrained(folder)

    def transcribe(self, path: str, language: str | None, words: bool) -> list[Json]:
        """See System; its words are not timed."""
        from tests.bench.recordings import samples

        features = self._extractor(
            samples(Path(path)).astype("float32") / 32768,
            sampling_rate=16_000,
            return_tensors="pt",
            truncation=False,
            padding="longest",
            return_attention_mask=True,
        )
        choice: Json = {"language": language, "task": "transcribe"} if language else {}
        found = self._model.generate(
            features.input_features,
            attention_mask=features.attention_mask,
            return_timestamps=True,
            return_segments=True,
            num_beams=1,
            do_sample=False,
            **choice,
        )
        return [
            _segment(float(s["start"]), float(s["end"]), self._text(s["tokens"]), [])
            for s in found["segments"][0]
        ]

    def _text(self, tokens: Any) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))


def load(name: str, model: str, peer_model: str) -> System:
    """A system of SYSTEMS, ready.

    Args:
        name: of the system.
        model: our name or folder of the model.
        peer_model: CTranslate2 folder or name of the same.
    """
    if name.startswith("faster-whisper"):
        batch = next((int(part) for part in name.split("-") if part.isdigit()), 0)
        return FasterWhisper(peer_model, batch, not name.endswith("untimed"))
    if name == "transformers":
        from remote import models

        return Transformers(str(models.resolve(model)))
    return Ours(model, name.partition("-")[2] or None)


def require(names: list[str]) -> None:
    """Nothing, where these systems are known and installed; else the bench ends."""
    for name in names:
        if name not in SYSTEMS:
            give_up(f"There is no system {name!r}; there are {', '.join(SYSTEMS)}.")
        if name.startswith("faster-whisper") and not importlib.util.find_spec("faster_whisper"):
            give_up(f"faster-whisper is not installed: {bench_extra()}")


class Child:
    """A system in a process of its own, as a context manager.

    Args:
        name: of SYSTEMS.
        model: our name or folder of the model.
        peer_model: CTranslate2 folder or name of the same.
    """

    def __init__(self, name: str, model: str, peer_model: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.systems", name, model, peer_model],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads()), "TQDM_DISABLE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        self.load_s = float(self._answer()["load_s"])

    def __enter__(self) -> Self:
        """The system, loaded."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Ends the process."""
        if kind is None:
            assert self._process.stdin
            self._process.stdin.close()
        else:
            self._process.kill()
        self._process.wait()

    def transcribe(self, path: Path, language: str | None, *, words: bool) -> Json:
        """A hypothesis as the scorer reads it, with ``wall_s`` beside it."""
        assert self._process.stdin
        asked = {"path": str(path.resolve()), "language": language, "words": words}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Json:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            give_up(f"{self.name} ended by itself, with status {self._process.wait()}.")
        body: Json = json.loads(line)
        return body


def _segment(start: float, end: float, text: str, words: list[tuple[float, float, str]]) -> Json:
    timed = [{"start": begin, "end": over, "word": word} for begin, over, word in words]
    return {"start": start, "end": end, "text": text, "words": timed}


def _serve(name: str, model: str, peer_model: str) -> None:
    """Answers until its input ends; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    begin = time.perf_counter()
    system = load(name, model, peer_model)
    print(json.dumps({"load_s": time.perf_counter() - begin}), file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_hypothesis(system, json.loads(line))), file=answers, flush=True)


def _hypothesis(system: System, asked: Json) -> Json:
    segments: list[Json] = []
    error = None
    begin = time.perf_counter()
    try:
        segments = system.transcribe(asked["path"], asked["language"], asked["words"])
    except Exception as problem:  # noqa: BLE001 - a peer may refuse a bad file in any way
        error = f"{type(problem).__name__}: {problem}"
    wall_s = time.perf_counter() - begin
    text = " ".join(segment["text"].strip() for segment in segments)
    return {"text": text, "segments": segments, "error": error, "wall_s": wall_s}


if __name__ == "__main__":
    _serve(*sys.argv[1:4])
