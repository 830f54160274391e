"""A model folder with random float32 weights of any Whisper's size, for measuring how it loads.

It cannot transcribe, and its tokenizer is empty.
"""

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from remote.layout import WhisperShape, layout

SHAPES = {
    "turbo": WhisperShape(128, 1500, 1280, 20, 32, 5120, 448, 20, 4, 5120, 51866),
    "small": WhisperShape(80, 1500, 768, 12, 12, 3072, 448, 12, 12, 3072, 51865),
    "tiny": WhisperShape(80, 1500, 384, 6, 4, 1536, 448, 6, 4, 1536, 51865),
}

_FIELDS = {
    "num_mel_bins": "n_mels",
    "max_source_positions": "audio_ctx",
    "d_model": "d_model",
    "encoder_attention_heads": "audio_heads",
    "encoder_layers": "audio_layers",
    "encoder_ffn_dim": "audio_ffn",
    "max_target_positions": "text_ctx",
    "decoder_attention_heads": "text_heads",
    "decoder_layers": "text_layers",
    "decoder_ffn_dim": "text_ffn",
    "vocab_size": "vocab",
}


def write_random_model(folder: Path, shape: WhisperShape) -> None:
    """A folder that every strategy loads. It holds all weights in memory while it is written."""
    folder.mkdir(parents=True)
    config = {name: getattr(shape, ours) for name, ours in _FIELDS.items()}
    ids = dict.fromkeys(
        ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id"), 0
    )
    kind = {"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}
    _write(folder / "config.json", {**kind, **config, **ids, "torch_dtype": "float32"})
    _write(folder / "generation_config.json", {})
    _write(folder / "tokenizer.json", {})
    save_file(_tensors(shape), folder / "model.safetensors", {"format": "pt"})


def _tensors(shape: WhisperShape) -> dict[str, Tensor]:
    """Uniform noise scaled by fan-in; norms around 1. One stretch of noise serves all, shifted."""
    noise = torch.rand(1 << 24, generator=torch.Generator().manual_seed(0)).mul_(2).sub_(1)
    found: dict[str, Tensor] = {}
    for slot in layout(shape):
        size = (slot.shape[0] // len(slot.sources), *slot.shape[1:])
        for name in (name for name in slot.sources if not name.startswith("0:")):
            count, shift = math.prod(size), 7919 * len(found) % len(noise)
            flat = noise.roll(-shift).repeat(-(-count // len(noise)))[:count]
            scaled = flat.view(size) * (3 / math.prod(size[1:] or (100,))) ** 0.5
            found[name] = scaled + 1 if "norm.weight" in name else scaled
    return found


def _write(path: Path, body: dict[str, object]) -> None:
    path.write_text(json.dumps(body), encoding="utf-8")
