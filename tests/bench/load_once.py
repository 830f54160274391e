"""One load of a model in a fresh process: ``python -m tests.bench.load_once WAY FOLDER``.

It prints one line of JSON: seconds, and the memory held after the load and at its peak, in bytes.
WAY is a strategy, or "transformers" for from_pretrained alone, which nothing of ours follows.
Memory is from /proc: anonymous memory is the process's own; the rest of the resident memory is
pages of files, which the system takes back when it needs them.
"""

import json
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

_LOOK_S = 0.005
_FIELDS = {"RssAnon:": "anonymous", "VmRSS:": "resident"}


class Peaks:
    """Watches this process's memory from a thread until its block ends."""

    def __init__(self) -> None:
        self.bytes: dict[str, int] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_S):
            self._look()

    def _look(self) -> None:
        for name, value in memory().items():
            self.bytes[name] = max(value, self.bytes.get(name, 0))


def memory() -> dict[str, int]:
    """Bytes that this process holds now: anonymous, and resident in all."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {_FIELDS[cells[0]]: int(cells[1]) * 1024 for cells in lines if cells[0] in _FIELDS}


def read_from_disk() -> int:
    """Bytes that this process has made the disks read."""
    lines = (line.split() for line in Path("/proc/self/io").read_text().splitlines())
    return next(int(count) for name, count in lines if name == "read_bytes:")


def main() -> None:
    """Loads once, then computes logits where a third argument asks for it."""
    way, folder, logits = sys.argv[1], Path(sys.argv[2]), sys.argv[3:] == ["logits"]
    before, read_before = memory(), read_from_disk()
    begin, cpu_begin = time.perf_counter(), time.process_time()
    with Peaks() as loading:
        load = _transformers if way == "transformers" else _ours
        model, import_s = load(folder, way)
    result: dict[str, object] = {
        "import_s": import_s,
        "load_s": time.perf_counter() - begin - import_s,
        "before": before,
        "loaded": loading.bytes,
    }
    if logits:
        with Peaks() as computing:
            result["logits"] = _logits(model)
        result["logits_s"] = time.perf_counter() - begin
        result["logits_cpu_s"] = time.process_time() - cpu_begin
        result["computed"] = computing.bytes
    result["read_bytes"] = read_from_disk() - read_before
    print(json.dumps(result))


def _ours(folder: Path, strategy: str) -> tuple[object, float]:
    """The model, and the seconds that imports took."""
    begin = time.perf_counter()
    from remote.optimized_loader import load_model

    imported_s = time.perf_counter() - begin
    model, report = load_model(folder, dtype="float32", strategies=(strategy,))
    return model, imported_s + report.stages.seconds.get("import", 0.0)


def _transformers(folder: Path, _: str) -> tuple[object, float]:
    begin = time.perf_counter()
    from transformers import WhisperForConditionalGeneration
    from transformers.utils import logging

    imported_s = time.perf_counter() - begin
    logging.disable_progress_bar()
    model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model, imported_s


def _logits(model: object) -> list[float]:
    from remote.gpu_memory_persist import PROBE_LOGITS, probe, probe_input
    from remote.layout import WhisperShape
    from remote.whisper import Whisper

    if isinstance(model, Whisper):
        return list(probe(model))
    theirs = model
    shape = WhisperShape.from_config(theirs.config.to_dict())  # type: ignore[attr-defined]
    mel, tokens = probe_input(shape)
    with torch.inference_mode():
        found = theirs(input_features=mel, decoder_input_ids=tokens)  # type: ignore[operator]
    last = found.logits[0, -1]
    return [float(value) for value in last[:: max(1, shape.vocab // PROBE_LOGITS)][:PROBE_LOGITS]]


if __name__ == "__main__":
    main()
