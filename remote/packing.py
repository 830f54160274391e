"""The weights of a model folder into one buffer, without a second copy of them in memory.

It must not know of state files, nor import transformers.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from remote import model_folder
from remote.layout import WhisperShape, buffer_size, pack
from remote.protocol import ErrorCode, KnownError

_RELEASE_BYTES = 256 << 20
"""Mapped weights read before their pages are given back."""

FreeBytes = Callable[[torch.device], int | None]
"""Tells the free memory of a device; None where only the attempt tells."""


def free_memory_bytes(device: torch.device) -> int | None:
    """Bytes free on a GPU, those that torch keeps for reuse included; None for the CPU."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def allocate(
    shape: WhisperShape,
    dtype: torch.dtype,
    device: torch.device,
    free_bytes: FreeBytes = free_memory_bytes,
) -> Tensor:
    """An unfilled buffer for a model of this shape.

    Raises:
        KnownError: OUT_OF_MEMORY.
    """
    needed = buffer_size(shape) * dtype.itemsize
    free = free_bytes(device)
    if free is not None and free < needed:
        raise no_memory(device, f"{needed / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free")
    try:
        return torch.empty(buffer_size(shape), dtype=dtype, device=device)
    except RuntimeError as error:  # the CPU's allocator has no error of its own
        raise no_memory(device, f"{needed / 1e9:.2f} GB are needed") from error


def pack_mapped(folder: Path, shape: WhisperShape, buffer: Tensor) -> int:
    """Bytes of the weights file, whose tensors are now in the buffer.

    Raises:
        KnownError: MODEL_INCOMPLETE with what is wrong; the buffer must then not be used.
    """
    path = folder / model_folder.WEIGHTS
    try:
        pack(shape, _MappedTensors(path), buffer)
    except (safetensors.SafetensorError, OSError) as error:
        raise unreadable(path, str(error)) from error
    return path.stat().st_size


class _MappedTensors(Mapping[str, Tensor]):
    """The tensors of a safetensors file, mapped; pages that were read are given back as it goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        file: Any = safetensors.safe_open(self._path, "pt")
        self._file = file
        self._names = frozenset(file.keys())
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


def unreadable(path: Path, why: str) -> KnownError:
    """The error for a file of a model that cannot be used, with the reason."""
    return KnownError(
        ErrorCode.MODEL_INCOMPLETE,
        f"{path.name} cannot be read: {why}.",
        "Remove it and make or add it again.",
    )


@contextmanager
def out_of_memory(device: torch.device) -> Iterator[None]:
    """The block, with too little memory told as such.

    Raises:
        KnownError: OUT_OF_MEMORY.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise no_memory(device, "the model does not fit") from error


def no_memory(device: torch.device, why: str) -> KnownError:
    """The error for weights that do not fit on a device."""
    what = "This computer" if device.type == "cpu" else "The GPU"
    return KnownError(
        ErrorCode.OUT_OF_MEMORY,
        f"{what} has too little memory: {why}.",
        "Close other programs, or choose a smaller model or a smaller dtype.",
    )
