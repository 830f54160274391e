"""Safetensors files as files: is one whole, and several made into one, without reading tensors.

For reading and writing tensors there is the library; this is for what it cannot do in constant
memory. Format: https://github.com/huggingface/safetensors#format
"""

import json
import shutil
from pathlib import Path
from typing import Any

from remote.protocol import ErrorCode, KnownError

_HEADER_LENGTH_BYTES = 8
_BLOCK_BYTES = 1 << 20


def join(parts: list[Path], target: Path) -> None:
    """One safetensors file with the tensors of several, in constant memory and any dtype.

    The library writes a file only from tensors in memory, which for large-v2 in float32 is 6 GB.
    So headers are joined and the data copied as it is; format:
    https://github.com/huggingface/safetensors#format
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    base = 0
    for part in parts:
        tensors, start = header(part)
        for name, tensor in tensors.items():
            begin, end = tensor["data_offsets"]
            entries[name] = {**tensor, "data_offsets": [base + begin, base + end]}
        base += part.stat().st_size - start
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts aligned, as the library writes it
    with target.open("wb") as out:
        out.write(len(text).to_bytes(_HEADER_LENGTH_BYTES, "little") + text)
        for part in parts:
            with part.open("rb") as file:
                file.seek(header(part)[1])
                shutil.copyfileobj(file, out, _BLOCK_BYTES)


def header(path: Path) -> tuple[dict[str, Any], int]:
    """The tensors' entries of a safetensors file, and the offset of its data in bytes.

    Raises:
        KnownError: MODEL_INCOMPLETE where the file is cut short or no safetensors file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_HEADER_LENGTH_BYTES), "little")
        start = _HEADER_LENGTH_BYTES + length
        text = file.read(length) if start <= size else b""
    try:
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        end = start + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _not_whole(path, "its header cannot be read") from error
    if end != size:
        raise _not_whole(path, f"it has {size} bytes of {end}")
    return entries, start


def _not_whole(path: Path, why: str) -> KnownError:
    return KnownError(
        ErrorCode.MODEL_INCOMPLETE, f"{path} is no whole safetensors file: {why}.", "Copy it again."
    )
