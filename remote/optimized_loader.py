"""Loads a model the fastest way that works: GPU state, then memory-mapped, then transformers.

Each failure falls to the next strategy with its reason in the report. All three end in the same
contiguous buffer and give the same logits. Run as a command it tries the three side by side.
It must not fetch models, nor import transformers before the last strategy needs it.
"""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

if not __package__:  # `python optimized_loader.py`: imports start at the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import safetensors
import torch
from torch import Tensor

from remote import gpu_state, model_folder
from remote.gpu_state import BUFFER_DTYPES, State, dtype_name
from remote.linear import int8_works
from remote.protocol import ErrorCode, KnownError, StageTimes
from remote.timing import StageClock, peak_memory_bytes
from remote.whisper import Whisper, WhisperShape, buffer_size, pack

log = logging.getLogger(__name__)

STRATEGIES = ("gpu-state", "memory-mapped", "standard")
"""Fastest first."""

_RELEASE_BYTES = 256 << 20
"""Mapped weights read before their pages are given back."""
_STAGING_BYTES = 64 << 20
"""Pinned memory per half: one is copied to the device while the other is read."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A strategy that did not work, and the sentence that says why."""

    strategy: str
    reason: str


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How a model was loaded.

    Args:
        strategy: the one that worked, of ``STRATEGIES``.
        attempts: those before it.
        notes: sentences worth knowing, such as a state made on another kind of device.
        device: where the model is; dtype: what it computes in.
        stages: seconds by stage: import (of transformers), read, to-device, build.
        wall_s: seconds in all, failed attempts included.
        bytes_read: size of the weights file that was used.
        mapped: whether the weights stay in that file, to be read as they are used.
        peak_memory_bytes: the most this process has held in host memory, since it started.
        device_memory_bytes: the most it has held on the device; 0 on the CPU.
    """

    strategy: str
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]
    device: str
    dtype: str
    stages: StageTimes
    wall_s: float
    bytes_read: int
    mapped: bool
    peak_memory_bytes: int
    device_memory_bytes: int


def free_memory_bytes(device: torch.device) -> int | None:
    """Bytes free on a GPU; None for the CPU, where only the attempt tells."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


def load_model(
    folder: Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    strategies: Sequence[str] = STRATEGIES,
    free_bytes: Callable[[torch.device], int | None] = free_memory_bytes,
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
            with gpu_state.out_of_memory(task.what, task.size_bytes):
                buffer = _LOADERS[strategy](task)
                with task.clock.stage("build"):
                    model = Whisper(shape, buffer, int8=dtype == "int8")
        except KnownError as error:
            log.info("%s: strategy %s does not work: %s", folder.name, strategy, error.message)
            failures.append((strategy, error))
            continue
        return model, _report(task, strategy, failures, time.perf_counter() - begin)
    raise _worst(failures)


def checked_device(device: str, dtype: str) -> torch.device:
    """The device, where it is there and computes in this dtype.

    Raises:
        KnownError: DEVICE_MISSING, UNKNOWN_OPTION.
    """
    if dtype not in BUFFER_DTYPES:
        raise _no_dtype(f"There is no dtype {dtype!r}.", ", ".join(BUFFER_DTYPES))
    kind, _, index = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in ("cpu", "cuda") or not (index or "0").isdigit() or int(index or 0) >= count:
        raise KnownError(
            ErrorCode.DEVICE_MISSING,
            f"There is no device {device!r} here.",
            "Choose cpu, or install a torch that sees the GPU.",
        )
    if kind == "cpu":
        if dtype == "int8" and not int8_works():
            raise _no_dtype("This torch does not multiply in int8 here.", "float32")
        return torch.device("cpu")
    if dtype == "int8":
        raise _no_dtype("int8 is for the CPU.", "float16")
    found = torch.device("cuda", int(index or 0))
    if dtype == "bfloat16" and torch.cuda.get_device_capability(found) < (8, 0):
        raise _no_dtype(f"{torch.cuda.get_device_name(found)} has no bfloat16.", "float16")
    return found


@dataclass(slots=True)
class _Task:
    """One strategy's attempt: what is asked, and what it leaves to report."""

    folder: Path
    device: torch.device
    dtype: str
    shape: WhisperShape
    free_bytes: Callable[[torch.device], int | None]
    clock: StageClock
    notes: list[str] = field(default_factory=list)
    bytes_read: int = 0
    mapped: bool = False

    @property
    def size_bytes(self) -> int:
        return buffer_size(self.shape) * BUFFER_DTYPES[self.dtype].itemsize

    @property
    def what(self) -> str:
        return "This computer" if self.device.type == "cpu" else "The GPU"

    def allocate(self) -> Tensor:
        """An unfilled buffer on the device."""
        free = self.free_bytes(self.device)
        if free is not None and free < self.size_bytes:
            raise gpu_state.no_memory(self.what, self.size_bytes, free)
        try:
            return torch.empty(
                buffer_size(self.shape), dtype=BUFFER_DTYPES[self.dtype], device=self.device
            )
        except RuntimeError as error:  # the CPU's allocator has no error of its own
            raise gpu_state.no_memory(self.what, self.size_bytes) from error


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
    halves = torch.empty((2, min(staging_bytes, len(raw))), dtype=torch.uint8, pin_memory=cuda)
    copied = [torch.cuda.Event() for _ in range(2 * cuda)]
    begin, reading = time.perf_counter(), 0.0
    with state.path.open("rb", buffering=0) as file:
        file.seek(state.offset)
        for turn, part in enumerate(raw.split(halves.shape[1])):
            half = halves[turn % 2][: len(part)]
            if cuda:
                copied[turn % 2].synchronize()  # at once, where it was never recorded
            started = time.perf_counter()
            _read_all(file, memoryview(half.numpy()), state.path)
            reading += time.perf_counter() - started
            part.copy_(half, non_blocking=True)
            if cuda:
                copied[turn % 2].record(torch.cuda.current_stream(target.device))
    if cuda:
        torch.cuda.synchronize(target.device)
    clock.add("read", reading)
    clock.add("to-device", time.perf_counter() - begin - reading)


def _read_all(file: FileIO, view: memoryview, path: Path) -> None:
    """``view`` filled from the file, which may give less than asked at a time."""
    while view:
        count = file.readinto(view)
        if not count:
            raise gpu_state.unreadable(path, "it ends too early")
        view = view[count:]


def _from_mapped_weights(task: _Task) -> Tensor:
    """The weights packed slot by slot, straight from the mapped file."""
    path = task.folder / model_folder.WEIGHTS
    with task.clock.stage("read"):
        buffer = task.allocate()
        try:
            pack(task.shape, _MappedTensors(path), buffer)
        except (safetensors.SafetensorError, OSError) as error:
            raise gpu_state.unreadable(path, str(error)) from error
    task.bytes_read = path.stat().st_size
    return buffer


class _MappedTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, mapped; pages that were read are given back as it goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self._file = safetensors.safe_open(self._path, "pt")
        self._names = frozenset(self._file.keys())
        self._read_bytes = 0

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        if self._read_bytes > _RELEASE_BYTES:
            self._open()  # drops the mapping, and with it the pages counted as this process's
        tensor: Tensor = self._file.get_tensor(name)
        self._read_bytes += tensor.nbytes
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _from_transformers(task: _Task) -> Tensor:
    """The weights as transformers loads them, then packed."""
    with task.clock.stage("import"):
        from transformers import WhisperForConditionalGeneration
        from transformers.utils import logging as transformers_logging
    transformers_logging.disable_progress_bar()
    with task.clock.stage("read"):
        try:
            model, info = WhisperForConditionalGeneration.from_pretrained(
                task.folder,
                dtype=BUFFER_DTYPES[task.dtype],
                local_files_only=True,
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
            raise gpu_state.unreadable(task.folder, f"transformers says {error}") from error
        missing = sorted({*info["missing_keys"]} - {"proj_out.weight"})
        if missing:  # transformers would go on with random numbers
            raise gpu_state.unreadable(task.folder, f"{missing[0]} is missing")
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


def _no_dtype(message: str, instead: str) -> KnownError:
    return KnownError(ErrorCode.UNKNOWN_OPTION, message, f"Choose {instead}.")
