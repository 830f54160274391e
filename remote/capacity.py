"""How many windows a device holds at once, and how it says that it holds no more."""

import torch

from remote.whisper import Whisper

ROWS = {"cpu": 16, "cuda": 64}
"""Windows decoded side by side where memory allows."""

_MEMORY_SHARE = 0.5
"""Of the free memory that the rows' caches may take."""


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the device, or this computer, had no memory left.

    PyTorch's CPU allocator raises a plain RuntimeError whose text is all there is to go by.
    """
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )
