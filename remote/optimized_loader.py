"""Loads a model the fastest way that works: GPU state, then memory-mapped, then transformers.

Each failure falls to the next strategy with its reason in the report. All three end in the same
contiguous buffer and give the same logits. Run as a command it tries the three side by side.
It must not fetch models, nor import transformers before the last strategy needs it.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

if not __package__:  # `python optimized_loader.py`: imports start at the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import safetensors
import torch
from torch import Tensor

from remote import gpu_memory_persist, gpu_state, model_folder, models
from remote.dtype_choice import DTYPES, checked_device, fastest_dtype
from remote.gpu_state import BUFFER_DTYPES, State, dtype_name
from remote.layout import WhisperShape, pack
from remote.load_report import STRATEGIES, Attempt, LoadReport, Trial, table
from remote.packing import (
    FreeBytes,
    allocate,
    free_memory_bytes,
    out_of_memory,
    pack_mapped,
    unreadable,
)
from remote.protocol import ErrorCode, ExitCode, KnownError, WireError, from_plain, to_plain
from remote.timing import StageClock, peak_memory_bytes
from remote.whisper import Whisper

__all__ = ["STRATEGIES", "Attempt", "LoadReport", "fastest_dtype", "load_model"]

log = logging.getLogger(__name__)

_STAGING_BYTES = 64 << 20
"""Pinned memory per half: one is copied to the device while the other is read."""


def load_model(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    strategies: Sequence[str] = STRATEGIES,
    free_bytes: FreeBytes = free_memory_bytes,
) -> tuple[Whisper, LoadReport]:
    """The model of a folder, ready to run, and how it was loaded.

    Args:
        folder: a complete model folder.
        device: "cpu", "cuda" or "cuda:1".
        dtype: "float32", "float16", "bfloat16", or "int8" (CPU alone).
        strategies: those to try, in this order.
        free_bytes: tells the free memory of a device.

    Raises:
        KnownError: UNKNOWN_OPTION or DEVICE_MISSING where the device cannot do that;
            OUT_OF_MEMORY where the weights do not fit; else what is wrong with the model.
            Nothing is then held on the device.
    """
    begin = time.perf_counter()
    where = checked_device(device, dtype)
    shape = WhisperShape.from_config(model_folder.read_json(folder / model_folder.CONFIG))
    failures: list[tuple[str, KnownError]] = []
    for strategy in strategies:
        task = _Task(folder, where, dtype, shape, free_bytes, StageClock(str(where)))
        try:
            with out_of_memory(where):
                buffer = _LOADERS[strategy](task)
                with task.clock.stage("build"):
                    model = Whisper(shape, buffer, int8=dtype == "int8")
        except KnownError as error:
            log.info("%s: strategy %s does not work: %s", folder.name, strategy, error.message)
            # Without its traceback, whose frames would keep this attempt's buffer.
            failures.append((strategy, KnownError(error.code, error.message, error.hint)))
            continue
        return model, _report(task, strategy, failures, time.perf_counter() - begin)
    raise _worst(failures)


@dataclass(slots=True)
class _Task:
    """One strategy's attempt: what is asked, and what it leaves to report."""

    folder: Path
    device: torch.device
    dtype: str
    shape: WhisperShape
    free_bytes: FreeBytes
    clock: StageClock
    notes: list[str] = field(default_factory=list)
    bytes_read: int = 0
    mapped: bool = False

    def allocate(self) -> Tensor:
        """An unfilled buffer on the device."""
        return allocate(self.shape, BUFFER_DTYPES[self.dtype], self.device, self.free_bytes)


# ── the strategies ───────────────────────────────────────────────────────────────────────────


def _from_gpu_state(task: _Task) -> Tensor:
    """The state's buffer: as it is mapped on the CPU, else read straight to the device."""
    path = gpu_state.state_path(task.folder, task.dtype)
    with task.clock.stage("read"):
        state = gpu_state.read_state(path)
        _check_state(state, task)
    task.bytes_read = path.stat().st_size
    if task.device.type == "cpu":
        task.mapped = True
        return state.buffer
    buffer = task.allocate()
    _stream(state, buffer, task.clock)
    return buffer


def _check_state(state: State, task: _Task) -> None:
    """Nothing, where the state is of this model; notes where it was made somewhere else."""
    manifest, name = state.manifest, state.path.name
    record = model_folder.read_record(task.folder)
    if manifest.shape != task.shape:
        raise _refused(name, "is of a model of another size than config.json says")
    if manifest.dtype != dtype_name(BUFFER_DTYPES[task.dtype]):
        raise _refused(name, f"holds {manifest.dtype}, not what {task.dtype} needs")
    if record and manifest.revision != record.revision:
        raise _refused(name, f"is of revision {manifest.revision!r}, not {record.revision!r}")
    if manifest.weights != gpu_state.weights_identity(task.folder):
        raise _refused(name, f"was not made from the {model_folder.WEIGHTS} beside it")
    if gpu_state.release(manifest.torch) != gpu_state.release(torch.__version__):
        raise _refused(name, f"was written by torch {manifest.torch}, this is {torch.__version__}")
    here = gpu_state.describe_device(task.device)
    made = (manifest.device_name, manifest.capability)
    if made != here:
        old, new = (f"{n} (capability {c})" if c else n for n, c in (made, here))
        task.notes.append(f"The GPU state was made on {old} and is used on {new}.")


def _refused(name: str, why: str) -> KnownError:
    return KnownError(ErrorCode.MODEL_INCOMPLETE, f"{name} {why}.", "Make it again.")


def _stream(
    state: State, target: Tensor, clock: StageClock, staging_bytes: int = _STAGING_BYTES
) -> None:
    """The state's bytes into ``target``, in one pass through two halves of pinned memory.

    They are read from the file rather than through the mapping: reading costs one copy and no
    page of the process's own.
    """
    cuda = target.is_cuda
    raw = target.view(torch.uint8)
    halves = _staging(min(staging_bytes, len(raw)), pinned=cuda)
    copied = [torch.cuda.Event() for _ in range(2 * cuda)]
    begin, reading = time.perf_counter(), 0.0
    with state.path.open("rb", buffering=0) as file:
        file.seek(state.offset)
        for turn, part in enumerate(raw.split(halves.shape[1])):
            half = halves[turn % 2][: len(part)]
            if cuda:
                copied[turn % 2].synchronize()  # at once, where it was never recorded
            started = time.perf_counter()
            _read_all(file, half.numpy().data, state.path)
            reading += time.perf_counter() - started
            part.copy_(half, non_blocking=True)
            if cuda:
                copied[turn % 2].record(torch.cuda.current_stream(target.device))
    if cuda:
        torch.cuda.synchronize(target.device)
    clock.add("read", reading)
    clock.add("to-device", time.perf_counter() - begin - reading)


def _staging(half_bytes: int, *, pinned: bool) -> Tensor:
    """Two halves of host memory, uint8 ``[2, half_bytes]``; pinned where the system lets us."""
    try:
        return torch.empty((2, half_bytes), dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError:
        if not pinned:
            raise
        log.info("No memory can be pinned: copying to the device takes longer.")
        return torch.empty((2, half_bytes), dtype=torch.uint8)


def _read_all(file: FileIO, view: memoryview, path: Path) -> None:
    """``view`` filled from the file, which may give less than asked at a time."""
    while view:
        count = file.readinto(view)
        if not count:
            raise unreadable(path, "it ends too early")
        view = view[count:]


def _from_mapped_weights(task: _Task) -> Tensor:
    """The weights packed slot by slot, straight from the mapped file."""
    with task.clock.stage("read"):
        buffer = task.allocate()
        task.bytes_read = pack_mapped(task.folder, task.shape, buffer)
    return buffer


def _from_transformers(task: _Task) -> Tensor:
    """The weights as transformers loads them, then packed."""
    with task.clock.stage("import"):
        try:
            from transformers import WhisperForConditionalGeneration
            from transformers.utils import logging as transformers_logging
        except ImportError as error:
            raise KnownError(
                ErrorCode.ENGINE_MISSING, f"transformers cannot be imported: {error}."
            ) from error
    transformers_logging.disable_progress_bar()
    with task.clock.stage("read"):
        try:
            loaded: Any = WhisperForConditionalGeneration.from_pretrained(
                task.folder,
                dtype=BUFFER_DTYPES[task.dtype],
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            first = str(error).strip().partition("\n")[0]
            raise unreadable(task.folder, f"transformers says {first}") from error
        model, info = loaded
        missing = sorted({*info["missing_keys"]} - {"proj_out.weight"})
        if missing:  # transformers would go on with random numbers
            raise unreadable(task.folder, f"{missing[0]} is missing")
    with task.clock.stage("to-device"):
        buffer = task.allocate()
        pack(task.shape, model.state_dict(), buffer)
    task.bytes_read = (task.folder / model_folder.WEIGHTS).stat().st_size
    return buffer


_LOADERS: Mapping[str, Callable[[_Task], Tensor]] = {
    "gpu-state": _from_gpu_state,
    "memory-mapped": _from_mapped_weights,
    "standard": _from_transformers,
}


# ── the report ───────────────────────────────────────────────────────────────────────────────


def _report(
    task: _Task, strategy: str, failures: Sequence[tuple[str, KnownError]], wall_s: float
) -> LoadReport:
    cuda = task.device.type == "cuda"
    return LoadReport(
        strategy=strategy,
        attempts=tuple(Attempt(name, error.message) for name, error in failures),
        notes=tuple(task.notes),
        device=str(task.device),
        dtype=task.dtype,
        stages=task.clock.times(),
        wall_s=wall_s,
        bytes_read=task.bytes_read,
        mapped=task.mapped,
        peak_memory_bytes=peak_memory_bytes(),
        device_memory_bytes=torch.cuda.max_memory_allocated(task.device) if cuda else 0,
    )


def _worst(failures: Sequence[tuple[str, KnownError]]) -> KnownError:
    """The failure to tell of: too little memory, else the first that is not the state's."""
    errors = [error for _, error in failures]
    full = [error for error in errors if error.code == ErrorCode.OUT_OF_MEMORY]
    others = [error for name, error in failures if name != "gpu-state"]
    return (full or others or errors)[0]


# ── the command ──────────────────────────────────────────────────────────────────────────────


def try_strategies(model: str | None, device: str | None, dtype: str | None) -> str:
    """A table of the three strategies, each tried in a process of its own, and which is used.

    Raises:
        KnownError: all that models.resolve raises; UNKNOWN_OPTION, DEVICE_MISSING.
    """
    folder = models.resolve(model or gpu_memory_persist.default_model()).resolve()
    shape = WhisperShape.from_config(model_folder.read_json(folder / model_folder.CONFIG))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or fastest_dtype(shape, device)
    checked_device(device, dtype)
    path = gpu_state.state_path(folder, dtype)
    lines = [f"{folder.name}, {dtype} on {device}"]
    made = None
    if not path.exists():
        lines.append(f"There is no {path.name}: one is made for this test and removed after it.")
        try:
            made = gpu_memory_persist.preload_gpu_model(folder, device=device, dtype=dtype)
        except KnownError as error:
            lines.append(f"It cannot be made: {error.message}")
    try:
        trials = [_tried(folder, strategy, device, dtype) for strategy in STRATEGIES]
    finally:
        if made:
            made.unlink(missing_ok=True)
    return "\n".join([*lines, "", table(trials, bool(made))])


def _tried(folder: Path, strategy: str, device: str, dtype: str) -> Trial:
    """The trial that a child process made."""
    child = [sys.executable, "-m", "remote.optimized_loader", "trial", "--model", str(folder)]
    options = ["--strategy", strategy, "--device", device, "--dtype", dtype]
    done = subprocess.run(
        [*child, *options],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        trial: Trial = from_plain(Trial, json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, WireError):
        last = (done.stderr.splitlines() or ["nothing said"])[-1]
        return Trial(strategy, f"Its process ended with status {done.returncode}: {last}.")
    return trial


def _trial(folder: Path, strategy: str, device: str, dtype: str) -> Trial:
    """One strategy's load in this process, and its logits of a fixed input."""
    try:
        model, report = load_model(folder, device=device, dtype=dtype, strategies=(strategy,))
    except KnownError as error:
        return Trial(strategy, error.message)
    logits = gpu_memory_persist.probe(model)
    return Trial(strategy, "", report, logits, peak_memory_bytes())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    options = _parser().parse_args(arguments)
    try:
        if options.verb == "trial":
            trial = _trial(Path(options.model), options.strategy, options.device, options.dtype)
            print(json.dumps(to_plain(trial)))
        else:
            print(try_strategies(options.model, options.device, options.dtype))
    except KnownError as error:
        print(error, file=sys.stderr)
        return error.code.exit_code
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="optimized_loader", description="Try the three ways to load a model, side by side."
    )
    parser.add_argument("verb", choices=("test", "trial"), metavar="test")
    parser.add_argument("--model", help="name or folder (default: the largest that is here)")
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    parser.add_argument("--dtype", choices=DTYPES, help="default: the fastest there")
    parser.add_argument("--strategy", choices=STRATEGIES, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
