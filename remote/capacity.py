"""How many windows a device holds at once, and how it says that it holds no more."""

import ctypes
import sys

import torch

from remote.whisper import Whisper

ROWS = {"cpu": 16, "cuda": 64}
"""Windows decoded side by side where memory allows."""

_MEMORY_SHARE = 0.5
"""Of the free memory that the rows' caches may take."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_HEAP_BYTES = 1 << 30


def rows_that_fit(model: Whisper) -> int:
    """Windows that may decode side by side: as many as pay, and as the free memory holds."""
    shape, most = model.shape, ROWS.get(model.device.type, 16)
    row = 2 * shape.text_layers * shape.d_model * (shape.audio_ctx + shape.text_ctx)
    row_bytes = row * model.cache_dtype.itemsize
    if model.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(model.device)
    else:
        free = 2 * 2**30
    return max(1, min(most, int(free * _MEMORY_SHARE) // row_bytes))


def keep_freed_memory() -> None:
    """Large tensors come from the heap from now on, and what is freed stays for the next one.

    By default glibc maps every allocation of some megabytes anew and gives it back when it is
    freed, so that each layer of the encoder pays for fresh pages (10 % of the time, measured on
    tiny.en). Elsewhere than on glibc nothing happens. Constants from malloc.h, mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    if tune is not None:
        for parameter, value in (
            (_M_MMAP_THRESHOLD, _HEAP_BYTES),
            (_M_TRIM_THRESHOLD, _HEAP_BYTES),
        ):
            tune(parameter, value)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device, or this computer, had no memory left.

    PyTorch's CPU allocator raises a plain RuntimeError whose text is all there is to go by.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
