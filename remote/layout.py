"""Where each of a Whisper's weights lies in one contiguous buffer, for every size of Whisper.

``layout`` is the map, ``pack`` fills a buffer from a Hugging Face state dict. The buffer is what
the GPU state file holds. It must not compute with the weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from remote.protocol import ErrorCode, KnownError

ALIGN = 64
"""Elements that each tensor's offset is rounded up to: 128 bytes or more, whole cache lines."""


@dataclass(frozen=True, slots=True)
class WhisperShape:
    """Every size that tells one Whisper from another."""

    n_mels: int
    audio_ctx: int
    d_model: int
    audio_heads: int
    audio_layers: int
    audio_ffn: int
    text_ctx: int
    text_heads: int
    text_layers: int
    text_ffn: int
    vocab: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "WhisperShape":
        """The shape that a Hugging Face ``config.json`` describes.

        Raises:
            KnownError: MODEL_UNSUPPORTED where the file describes another architecture.
        """
        try:
            return cls(
                n_mels=config["num_mel_bins"],
                audio_ctx=config["max_source_positions"],
                d_model=config["d_model"],
                audio_heads=config["encoder_attention_heads"],
                audio_layers=config["encoder_layers"],
                audio_ffn=config["encoder_ffn_dim"],
                text_ctx=config["max_target_positions"],
                text_heads=config["decoder_attention_heads"],
                text_layers=config["decoder_layers"],
                text_ffn=config["decoder_ffn_dim"],
                vocab=config["vocab_size"],
            )
        except KeyError as error:
            raise KnownError(
                ErrorCode.MODEL_UNSUPPORTED,
                f"The model's config.json is not that of a Whisper model: {error} is missing.",
                "Choose a Whisper model; `farscribe models list` shows them.",
            ) from error

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(math.prod(slot.shape) for slot in layout(self))


@dataclass(frozen=True, slots=True)
class Slot:
    """One tensor's place in the buffer; ``sources`` are its rows' names in a Hugging Face file.

    A source that starts with ``0:`` stands for zeros (Whisper's keys have no bias).
    """

    name: str
    offset: int
    shape: tuple[int, ...]
    sources: tuple[str, ...]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def layout(shape: WhisperShape) -> tuple[Slot, ...]:
    """The slots of every weight, in the order in which a forward pass reads them."""
    slots: list[Slot] = []
    offset = 0
    for name, size, sources in _tensors(shape):
        slots.append(Slot(name, offset, size, sources))
        offset += -(-math.prod(size) // ALIGN) * ALIGN
    return tuple(slots)


def buffer_size(shape: WhisperShape) -> int:
    """Elements of the whole buffer, padding included."""
    last = layout(shape)[-1]
    return last.offset + -(-last.size // ALIGN) * ALIGN


def pack(shape: WhisperShape, tensors: Mapping[str, Tensor], buffer: Tensor) -> None:
    """Copies a Hugging Face state dict into the buffer, converting dtype and device.

    Args:
        shape: the sizes that the tensors must have.
        tensors: by their Hugging Face names; may be memory-mapped.
        buffer: ``[buffer_size(shape)]``, any float dtype and device; written in place.

    Raises:
        KnownError: MODEL_INCOMPLETE where a tensor is missing or has another shape; the buffer
            is then partly written and must not be used.
    """
    for slot in layout(shape):
        target = buffer[slot.offset : slot.offset + slot.size].view(slot.shape)
        parts = target.split(slot.shape[0] // len(slot.sources))
        for part, source in zip(parts, slot.sources, strict=True):
            if source.startswith("0:"):
                part.zero_()
                continue
            found = tensors.get(source)
            if found is None or found.shape != part.shape:
                what = "missing" if found is None else f"of shape {tuple(found.shape)}"
                raise KnownError(
                    ErrorCode.MODEL_INCOMPLETE,
                    f"The model's tensor {source} is {what}; {tuple(part.shape)} was expected.",
                    "Remove the model and add it again.",
                )
            part.copy_(found)


def _tensors(shape: WhisperShape) -> list[tuple[str, tuple[int, ...], tuple[str, ...]]]:
    d = shape.d_model
    tensors = [
        _whole("encoder.conv1.weight", (d, shape.n_mels, 3), "encoder.conv1.weight"),
        _whole("encoder.conv1.bias", (d,), "encoder.conv1.bias"),
        _whole("encoder.conv2.weight", (d, d, 3), "encoder.conv2.weight"),
        _whole("encoder.conv2.bias", (d,), "encoder.conv2.bias"),
        _whole("encoder.positions", (shape.audio_ctx, d), "encoder.embed_positions.weight"),
    ]
    for i in range(shape.audio_layers):
        tensors += _layer(f"encoder.{i}", f"encoder.layers.{i}", d, shape.audio_ffn)
    tensors += _layer_norm("encoder.norm", "encoder.layer_norm", d)
    cross = [
        f"decoder.layers.{i}.encoder_attn.{kind}_proj"
        for i in range(shape.text_layers)
        for kind in "kv"
    ]
    tensors += _linear("decoder.cross_kv", tuple(cross), len(cross) * d, d)
    tensors += [
        _whole("decoder.tokens", (shape.vocab, d), "decoder.embed_tokens.weight"),
        _whole("decoder.positions", (shape.text_ctx, d), "decoder.embed_positions.weight"),
    ]
    for i in range(shape.text_layers):
        name, source = f"decoder.{i}", f"decoder.layers.{i}"
        tensors += _layer(name, source, d, shape.text_ffn)
        tensors += _layer_norm(f"{name}.cross_norm", f"{source}.encoder_attn_layer_norm", d)
        tensors += _linear(f"{name}.cross_q", (f"{source}.encoder_attn.q_proj",), d, d)
        tensors += _linear(f"{name}.cross_out", (f"{source}.encoder_attn.out_proj",), d, d)
    tensors += _layer_norm("decoder.norm", "decoder.layer_norm", d)
    return [(name, size, tuple(map(_source, sources))) for name, size, sources in tensors]


_Tensor = tuple[str, tuple[int, ...], tuple[str, ...]]


def _layer(name: str, source: str, d: int, ffn: int) -> list[_Tensor]:
    attention = tuple(f"{source}.self_attn.{kind}_proj" for kind in "qkv")
    return [
        *_layer_norm(f"{name}.attn_norm", f"{source}.self_attn_layer_norm", d),
        *_linear(f"{name}.qkv", attention, 3 * d, d),
        *_linear(f"{name}.out", (f"{source}.self_attn.out_proj",), d, d),
        *_layer_norm(f"{name}.ffn_norm", f"{source}.final_layer_norm", d),
        *_linear(f"{name}.fc1", (f"{source}.fc1",), ffn, d),
        *_linear(f"{name}.fc2", (f"{source}.fc2",), d, ffn),
    ]


def _linear(name: str, sources: tuple[str, ...], rows: int, columns: int) -> list[_Tensor]:
    biases = tuple(f"0:{s}" if s.endswith("k_proj") else f"{s}.bias" for s in sources)
    return [
        (f"{name}.weight", (rows, columns), tuple(f"{s}.weight" for s in sources)),
        (f"{name}.bias", (rows,), biases),
    ]


def _layer_norm(name: str, source: str, d: int) -> list[_Tensor]:
    return [_whole(f"{name}.{part}", (d,), f"{source}.{part}") for part in ("weight", "bias")]


def _whole(name: str, size: tuple[int, ...], source: str) -> _Tensor:
    return name, size, (source,)


def _source(name: str) -> str:
    return name if name.startswith("0:") else f"model.{name}"
