"""Reader of CTranslate2's ``model.bin`` for Whisper, and its tensors under Hugging Face names.

The starter packages ship their weights in this format. It must not know where a file comes from,
nor write one: it turns a stream of bytes into named arrays.

The file, little endian: u32 format version 6, string "WhisperSpec", u32 revision, u32 count; per
variable a string name, u8 rank, u32 per dimension, u8 type, u32 bytes, data; then aliases, which
Whisper needs none of (the output projection is the token embedding). A string is a u16 length
and that many bytes, the last of them NUL. Source: ctranslate2/specs/model_spec.py,
https://github.com/OpenNMT/CTranslate2.
"""

import struct
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from remote.protocol import ErrorCode, KnownError

Array = np.ndarray[Any, np.dtype[Any]]

FORMAT_VERSION = 6
_DTYPES = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}

_PLACES = {
    "encoder/conv1": "model.encoder.conv1",
    "encoder/conv2": "model.encoder.conv2",
    "encoder/position_encodings": "model.encoder.embed_positions",
    "encoder/layer_norm": "model.encoder.layer_norm",
    "decoder/embeddings": "model.decoder.embed_tokens",
    "decoder/position_encodings": "model.decoder.embed_positions",
    "decoder/layer_norm": "model.decoder.layer_norm",
}
_LAYER_PLACES: dict[str, tuple[str, ...]] = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}
_KINDS = {"gamma": "weight", "beta": "bias", "encodings": "weight"}


class Readable(Protocol):
    """What the reader asks of a stream."""

    def read(self, count: int, /) -> bytes:
        """The next ``count`` bytes; fewer only at the end."""
        ...


def read_variables(stream: Readable) -> Iterator[tuple[str, Array]]:
    """Every variable of the file in its order, as (name, array); one in memory at a time.

    Args:
        stream: the file from its first byte; read forward only.

    Raises:
        KnownError: MODEL_UNSUPPORTED where this is no Whisper file of format version 6 or holds a
            type this reader does not know; MODEL_INCOMPLETE where the file ends too early.
    """
    version, spec = _unpack(stream, "<I"), _string(stream)
    if version != FORMAT_VERSION or spec != "WhisperSpec":
        raise _unsupported(f"version {version}, {spec!r}")
    _revision, count = _unpack(stream, "<I"), _unpack(stream, "<I")
    for _ in range(count):
        name, rank = _string(stream), _unpack(stream, "<B")
        shape = struct.unpack(f"<{rank}I", _exactly(stream, 4 * rank))
        kind, size_bytes = _unpack(stream, "<B"), _unpack(stream, "<I")
        if kind not in _DTYPES:
            raise _unsupported(f"{name} of type {kind}")
        yield name, np.frombuffer(_exactly(stream, size_bytes), _DTYPES[kind]).reshape(shape)


def hugging_face_tensors(stream: Readable) -> dict[str, Array]:
    """The weights under the names of transformers' WhisperForConditionalGeneration.

    Stacked projections are taken apart; the key biases are left out, for Whisper has none and
    CTranslate2 writes zeros. Settings stored as scalars are left out too.

    Raises:
        KnownError: as read_variables; MODEL_UNSUPPORTED also for a name that Whisper does not have.
    """
    tensors: dict[str, Array] = {}
    for name, array in read_variables(stream):
        if array.ndim:
            place, _, kind = name.rpartition("/")
            parts = _parts(place)
            for part, piece in zip(parts, np.split(array, len(parts)), strict=True):
                tensors[f"{part}.{_KINDS.get(kind, kind)}"] = piece
    return {name: array for name, array in tensors.items() if not name.endswith("k_proj.bias")}


def _parts(place: str) -> tuple[str, ...]:
    if place in _PLACES:
        return (_PLACES[place],)
    side, _, rest = place.partition("/layer_")
    number, _, inner = rest.partition("/")
    if side not in ("encoder", "decoder") or inner not in _LAYER_PLACES:
        raise _unsupported(f"the variable {place}")
    return tuple(f"model.{side}.layers.{number}.{part}" for part in _LAYER_PLACES[inner])


def _string(stream: Readable) -> str:
    return _exactly(stream, _unpack(stream, "<H"))[:-1].decode("utf-8", "replace")


def _unpack(stream: Readable, layout: str) -> int:
    (value,) = struct.unpack(layout, _exactly(stream, struct.calcsize(layout)))
    return int(value)


def _exactly(stream: Readable, count: int) -> bytes:
    data = stream.read(count)
    if len(data) != count:
        raise KnownError(
            ErrorCode.MODEL_INCOMPLETE,
            "The CTranslate2 model file ends before its last variable.",
            "Install the package that holds it again.",
        )
    return data


def _unsupported(what: str) -> KnownError:
    return KnownError(
        ErrorCode.MODEL_UNSUPPORTED, f"Not a CTranslate2 Whisper file this can read: {what}."
    )
