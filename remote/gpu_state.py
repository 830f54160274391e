"""The GPU state file: every weight of a model in one contiguous buffer, and what they are.

A ``torch.save`` archive of plain values and one 1-D tensor, read with ``weights_only=True`` and
memory-mapped. The buffer holds plain weights, so a state made on one device serves on any other.
It knows the file, not the model folder's sources, and never runs a model.
"""

import hashlib
import os
import pickle
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from remote import model_folder
from remote.layout import WhisperShape, buffer_size, layout
from remote.packing import unreadable
from remote.protocol import ErrorCode, KnownError, WireError, from_plain, to_plain

FORMAT = 1
BUFFER_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.float32,  # quantised from it when the model is built
}
"""What the buffer holds, by the dtype that the model computes in."""

SAMPLES = 64
"""Pages of the buffer whose sums are compared at every load."""

_IDENTITY_SAMPLES = 16
_SAMPLE_BYTES = 4096
_HASH_BYTES = 1 << 24
_LOCAL_HEADER_BYTES = 30
"""Of a zip entry, before its name and extra field (PKWARE APPNOTE, 4.3.7)."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies in the buffer, in elements."""

    name: str
    offset: int
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a state file says about its buffer.

    Args:
        model: name of the model folder; revision: of its farscribe.json, may be empty.
        weights: identity of the weights it was made from (see ``weights_identity``).
        shape: of the model; slots: where each tensor lies.
        dtype: of the buffer.
        device_type: "cuda" or "cpu", where it was made and tried; device_name as it calls itself.
        capability: compute capability such as "8.9", empty on the CPU.
        torch: version that wrote it.
        sha256: of the buffer's bytes.
        samples: CRC-32 of pages spread over the buffer (see ``sample_offsets``).
        logits: of a fixed input (see gpu_memory_persist.probe).
        tolerance: largest difference from them, in logits, that counts as the same model.
    """

    model: str
    revision: str
    weights: str
    shape: WhisperShape
    slots: tuple[Place, ...]
    dtype: str
    device_type: str
    device_name: str
    capability: str
    torch: str
    sha256: str
    samples: tuple[int, ...]
    logits: tuple[float, ...]
    tolerance: float


@dataclass(frozen=True, slots=True)
class State:
    """An open state file.

    Args:
        path: the file; offset: of the buffer's first byte in it.
        buffer: memory-mapped, private: writing to it would not reach the file.
    """

    path: Path
    manifest: Manifest
    buffer: Tensor
    offset: int


def state_path(folder: Path, dtype: str) -> Path:
    """Where the state of a model folder lies for a dtype that the model computes in."""
    return folder / f"gpu_state-{dtype_name(BUFFER_DTYPES[dtype])}.pt"


def dtype_name(dtype: torch.dtype) -> str:
    """Its name without the library's, such as "float32"."""
    return str(dtype).removeprefix("torch.")


def describe_device(device: torch.device) -> tuple[str, str]:
    """What a device calls itself, and its compute capability such as "8.9" (empty on the CPU)."""
    if device.type != "cuda":
        return device.type, ""
    major, minor = torch.cuda.get_device_capability(device)
    return torch.cuda.get_device_name(device), f"{major}.{minor}"


def release(version: str) -> str:
    """A version without its build, "2.13.0" of "2.13.0+cpu": builds share one file format."""
    return version.partition("+")[0]


def places(shape: WhisperShape) -> tuple[Place, ...]:
    """Where each tensor of a model of this shape lies."""
    return tuple(Place(slot.name, slot.offset, slot.shape) for slot in layout(shape))


def weights_identity(folder: Path) -> str:
    """What tells the weights of a model folder from others: their size and a sum over 16 pages.

    Another training differs in every page; it takes milliseconds where the sha256 of the file
    takes seconds, and does not trust a record that may be older than the file.

    Raises:
        KnownError: MODEL_INCOMPLETE where the file is missing or cannot be read.
    """
    path = folder / model_folder.WEIGHTS
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            sums = sample(file, 0, size, _IDENTITY_SAMPLES)
    except OSError as error:
        raise unreadable(path, error.strerror or "it cannot be opened") from error
    return hashlib.sha256(repr((size, sums)).encode()).hexdigest()


def sample_offsets(size: int, count: int) -> Iterator[int]:
    """Where ``count`` pages begin that stand for ``size`` bytes: evenly, the last at the end."""
    last = max(0, size - _SAMPLE_BYTES)
    return iter(sorted({last * index // (count - 1) for index in range(count)}))


def sample(file: IO[bytes], offset: int, size: int, count: int) -> tuple[int, ...]:
    """CRC-32 of each page of 4 KiB that stands for ``size`` bytes from ``offset`` on."""
    sums = []
    for begin in sample_offsets(size, count):
        file.seek(offset + begin)
        sums.append(zlib.crc32(file.read(min(_SAMPLE_BYTES, size - begin))))
    return tuple(sums)


def write_state(path: Path, manifest: Manifest, buffer: Tensor) -> None:
    """The state file, complete or not at all: what was there before stays until it is written.

    Args:
        path: the file, in a folder that exists.
        manifest: its sha256 and samples may be empty: they are filled in here.
        buffer: 1-D, contiguous, on the CPU.

    Raises:
        KnownError: DISK_FULL, OUTPUT_UNWRITABLE; the folder is then as it was.
    """
    plain = to_plain(manifest)
    plain["sha256"] = sha256_of(buffer)
    raw = buffer.view(torch.uint8).numpy()
    plain["samples"] = [
        zlib.crc32(raw[begin : begin + _SAMPLE_BYTES].data)
        for begin in sample_offsets(raw.nbytes, SAMPLES)
    ]
    content = {"format": FORMAT, "manifest": plain, "buffer": buffer}
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with model_folder.writing(path):
        model_folder.require_space(path.parent, raw.nbytes)
        try:
            with partial.open("wb") as file:
                _save(content, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def read_state(path: Path) -> State:
    """The state in a file, its weights mapped but not read.

    Checked are the archive, the sums of its small parts, the manifest against itself and the
    buffer, and 64 sampled pages: that finds a file cut short, another format, and a stretch
    missing, zeroed or exchanged that is longer than 1/63 of the buffer. It does not find a few
    changed bytes; ``verify_state`` does.

    Raises:
        KnownError: MODEL_MISSING where there is no such file; MODEL_INCOMPLETE or MODEL_CHECKSUM
            with what is wrong with it.
    """
    try:
        offset, size = _buffer_entry(path)
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError as error:
        raise KnownError(
            ErrorCode.MODEL_MISSING,
            f"There is no {path.name}.",
            f"Run `python -m remote.gpu_memory_persist --model {path.parent}` to make it.",
        ) from error
    except _UNREADABLE as error:
        raise unreadable(path, "it is cut short or damaged") from error
    state = _state_in(path, content, offset)
    if state.buffer.nbytes != size:
        raise unreadable(path, "its buffer has another size than its entry")
    _check_samples(state)
    return state


def verify_state(state: State) -> None:
    """Nothing, where every byte of the buffer is what was written.

    Raises:
        KnownError: MODEL_CHECKSUM.
    """
    if sha256_of(state.buffer) != state.manifest.sha256:
        raise _differs(state.path, "its sha256 is not the one it was written with")


def sha256_of(buffer: Tensor) -> str:
    """The sha256 of a CPU tensor's bytes, hexadecimal."""
    digest = hashlib.sha256()
    for part in buffer.view(torch.uint8).split(_HASH_BYTES):
        digest.update(part.numpy())
    return digest.hexdigest()


_UNREADABLE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    OSError,
    EOFError,
    RuntimeError,  # what torch raises for a broken archive
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)
"""All that reading a damaged archive has been seen to raise."""


class _Reporting:
    """A file for ``torch.save``, which turns an error of writing into one that hides its cause."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(content: dict[str, Any], file: IO[bytes]) -> None:
    reporting = _Reporting(file)
    try:
        torch.save(content, reporting)  # type: ignore[arg-type]  # it only writes and flushes
    except RuntimeError as error:
        if reporting.error:
            raise reporting.error from error
        raise


def _buffer_entry(path: Path) -> tuple[int, int]:
    """Offset in the file and size of the buffer, from an archive whose small parts are whole."""
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        buffers = [entry for entry in entries if entry.filename.endswith("/data/0")]
        for entry in entries:
            if entry not in buffers:
                archive.read(entry)  # compares its CRC-32
        if len(buffers) != 1 or buffers[0].compress_type != zipfile.ZIP_STORED:
            raise zipfile.BadZipFile("there is no buffer as it was written")
        (found,) = buffers
        file.seek(found.header_offset)
        header = file.read(_LOCAL_HEADER_BYTES)
        name_bytes, extra_bytes = (int.from_bytes(header[i : i + 2], "little") for i in (26, 28))
        offset = found.header_offset + _LOCAL_HEADER_BYTES + name_bytes + extra_bytes
        return offset, found.file_size


def _state_in(path: Path, content: Any, offset: int) -> State:
    """The parts of a loaded archive, each of them checked."""
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise unreadable(path, f"it is not a state of format {FORMAT}")
    try:
        manifest: Manifest = from_plain(Manifest, content.get("manifest"))
    except WireError as error:
        raise unreadable(path, f"its manifest is wrong, {error.message}") from error
    buffer = content.get("buffer")
    if not isinstance(buffer, Tensor) or buffer.dim() != 1 or not buffer.is_contiguous():
        raise unreadable(path, "it holds no buffer")
    if dtype_name(buffer.dtype) != manifest.dtype:
        raise unreadable(path, f"its buffer is {dtype_name(buffer.dtype)}, not {manifest.dtype}")
    if manifest.slots != places(manifest.shape) or len(buffer) != buffer_size(manifest.shape):
        raise unreadable(path, "its weights lie in another order than this version reads")
    return State(path, manifest, buffer, offset)


def _check_samples(state: State) -> None:
    with state.path.open("rb") as file:
        found = sample(file, state.offset, state.buffer.nbytes, SAMPLES)
    if found != state.manifest.samples:
        raise _differs(state.path, "pages of it are not what was written")


def _differs(path: Path, how: str) -> KnownError:
    return KnownError(
        ErrorCode.MODEL_CHECKSUM,
        f"{path.name} is damaged: {how}.",
        "Remove it and make it again.",
    )
