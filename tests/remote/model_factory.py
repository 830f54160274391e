"""A tiny Whisper with random weights, written as a real model folder in a fraction of a second.

Same files, tensor names and kinds of ids as a folder of the Hugging Face hub; only narrower and
with a small vocabulary. It cannot transcribe: it is for shapes, loading and token exactness.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from remote import model_starter

CORPUS = """the quick brown fox jumps over the lazy dog, and nothing happens. It was the best of
times, it was the worst of times; we shall see what the others think about that! Don't you know?
Well, you know, there is a meeting at the house (with them) this morning - and I think that they
are going to be there, too. What do you want? "Nothing," she said. Questo è perché. Über größte
что это такое, и потом они пошли дальше. 今日は天気がいいですね。 नमस्ते दुनिया 123 456 2024"""

LANGUAGES = tuple(
    (
        "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no "
        "th ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw "
        "gl mr pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl "
        "mg as tt haw ln ha ba jw su yue"
    ).split()
)
TIMESTAMPS = tuple(f"<|{step * 0.02:.2f}|>" for step in range(1501))


@dataclass(frozen=True, slots=True)
class Shape:
    """What the factory builds; see write_model for the meaning of each number."""

    mels: int
    multilingual: bool
    languages: int
    d_model: int
    heads: int
    ffn: int
    encoder_layers: int
    decoder_layers: int


def write_model(
    folder: Path,
    *,
    mels: int = 80,
    multilingual: bool = True,
    languages: int = 99,
    d_model: int = 32,
    heads: int = 2,
    ffn: int = 64,
    encoder_layers: int = 2,
    decoder_layers: int = 2,
    dtype: str = "float32",
    seed: int = 0,
) -> Path:
    """The folder, with a complete random Whisper in it; the same arguments give the same bytes.

    Args:
        folder: created where it is not there yet.
        mels: mel bins, 80 or 128 (large-v3, turbo).
        multilingual: False for an .en model: one language, no task tokens to force.
        languages: languages of the vocabulary: 99, or 100 as large-v3 has (adds yue).
        d_model: width, a multiple of heads; ffn: width of the feed-forward layers.
        heads: attention heads of each layer of encoder and decoder.
        encoder_layers: depth of the encoder; decoder_layers: of the decoder.
        dtype: of the weights on disk, "float32" or "float16".
        seed: of the random weights.
    """
    shape = Shape(
        mels, multilingual, languages, d_model, heads, ffn, encoder_layers, decoder_layers
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(languages)
    vocabulary = tokenizer.get_vocab()
    ids = {token: vocabulary[token] for token in _specials(languages)}
    vocab_size = tokenizer.get_vocab_size()
    tokenizer.save(str(folder / "tokenizer.json"))
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer"})
    _write(folder / "config.json", _config(shape, vocab_size, ids, dtype))
    _write(folder / "generation_config.json", _generation_config(shape, ids, tokenizer))
    _write(folder / "preprocessor_config.json", preprocessor_config(mels))
    tensors = dict(_tensors(shape, vocab_size, np.random.default_rng(seed)))
    save_file(
        {name: np.ascontiguousarray(value.astype(dtype)) for name, value in tensors.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def starter_model(name: str, sessions_folder: Path) -> Path:
    """The folder of a real starter model ("tiny.en" or "base"); skips the test where it is absent.

    Args:
        name: of the starter.
        sessions_folder: `tmp_path_factory.getbasetemp()`, so that it is converted once a session.
    """
    if not model_starter.installed(name):
        pytest.skip(f"the starter package of {name} is not installed")
    folder = sessions_folder / "starter-models" / name
    if not folder.exists():
        staging = folder.with_name(f".{name}")
        staging.mkdir(parents=True)
        model_starter.convert(name, staging)
        staging.rename(folder)
    return folder


def preprocessor_config(mels: int) -> dict[str, Any]:
    """What transformers' WhisperFeatureExtractor reads."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "chunk_length": 30,
        "feature_size": mels,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "sampling_rate": 16000,
    }


def _specials(languages: int) -> list[str]:
    tasks = ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    names = ["endoftext", "startoftranscript", *LANGUAGES[:languages], *tasks]
    return [f"<|{name}|>" for name in names]


def _tokenizer(languages: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=alphabet, special_tokens=[], show_progress=False
    )
    tokenizer.train_from_iterator([CORPUS], trainer)
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in _specials(languages)])
    # Timestamps are plain added tokens in the hub's files, not special ones.
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in TIMESTAMPS])
    return tokenizer


def _write(path: Path, body: dict[str, Any]) -> None:
    path.write_text(json.dumps(body, indent=1), encoding="utf-8")


def _config(shape: Shape, vocab_size: int, ids: dict[str, int], dtype: str) -> dict[str, Any]:
    eot = ids["<|endoftext|>"]
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "activation_function": "gelu",
        "d_model": shape.d_model,
        "encoder_layers": shape.encoder_layers,
        "decoder_layers": shape.decoder_layers,
        "encoder_attention_heads": shape.heads,
        "decoder_attention_heads": shape.heads,
        "encoder_ffn_dim": shape.ffn,
        "decoder_ffn_dim": shape.ffn,
        "num_hidden_layers": shape.encoder_layers,
        "num_mel_bins": shape.mels,
        "max_source_positions": 1500,
        "max_target_positions": 448,
        "vocab_size": vocab_size,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "torch_dtype": dtype,
        "bos_token_id": eot,
        "eos_token_id": eot,
        "pad_token_id": eot,
        "decoder_start_token_id": ids["<|startoftranscript|>"],
    }


def _generation_config(shape: Shape, ids: dict[str, int], tokenizer: Tokenizer) -> dict[str, Any]:
    eot = ids["<|endoftext|>"]
    names = ("translate", "transcribe", "startoflm", "startofprev", "nospeech")
    control = [ids["<|startoftranscript|>"], *(ids[f"<|{name}|>"] for name in names)]
    body = {
        "alignment_heads": [[shape.decoder_layers - 1, head] for head in range(shape.heads)],
        "begin_suppress_tokens": [tokenizer.token_to_id("Ġ"), eot],
        "suppress_tokens": [*(tokenizer.token_to_id(text) for text in '"#(-'), *sorted(control)],
        "bos_token_id": eot,
        "eos_token_id": eot,
        "pad_token_id": eot,
        "decoder_start_token_id": ids["<|startoftranscript|>"],
        "is_multilingual": shape.multilingual,
        "max_initial_timestamp_index": 50,
        "max_length": 448,
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "return_timestamps": False,
    }
    if shape.multilingual:
        codes = [f"<|{code}|>" for code in LANGUAGES[: shape.languages]]
        body["lang_to_id"] = {code: ids[code] for code in codes}
        body["task_to_id"] = {
            "transcribe": ids["<|transcribe|>"],
            "translate": ids["<|translate|>"],
        }
    return body


def _tensors(
    shape: Shape, vocab_size: int, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    width = shape.d_model
    yield "model.encoder.conv1.weight", _random(rng, width, shape.mels, 3)
    yield "model.encoder.conv1.bias", _random(rng, width)
    yield "model.encoder.conv2.weight", _random(rng, width, width, 3)
    yield "model.encoder.conv2.bias", _random(rng, width)
    yield "model.encoder.embed_positions.weight", _random(rng, 1500, width)
    yield "model.decoder.embed_tokens.weight", _random(rng, vocab_size, width)
    yield "model.decoder.embed_positions.weight", _random(rng, 448, width)
    for side, depth in (("encoder", shape.encoder_layers), ("decoder", shape.decoder_layers)):
        for layer in range(depth):
            yield from _layer(f"model.{side}.layers.{layer}", side == "decoder", shape, rng)
        yield from _norm(f"model.{side}.layer_norm", width, rng)


def _layer(
    name: str, decoder: bool, shape: Shape, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    width = shape.d_model
    for attention in ("self_attn", "encoder_attn") if decoder else ("self_attn",):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{name}.{attention}.{part}.weight", _random(rng, width, width)
            if part != "k_proj":  # Whisper's key projection has no bias
                yield f"{name}.{attention}.{part}.bias", _random(rng, width)
        yield from _norm(f"{name}.{attention}_layer_norm", width, rng)
    yield f"{name}.fc1.weight", _random(rng, shape.ffn, width)
    yield f"{name}.fc1.bias", _random(rng, shape.ffn)
    yield f"{name}.fc2.weight", _random(rng, width, shape.ffn)
    yield f"{name}.fc2.bias", _random(rng, width)
    yield from _norm(f"{name}.final_layer_norm", width, rng)


def _norm(name: str, width: int, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", 1 + _random(rng, width) / 10
    yield f"{name}.bias", _random(rng, width)


def _random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normal, scaled by fan-in so that activations keep their size through the layers."""
    fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
    return rng.normal(0, fan_in**-0.5, shape).astype(np.float32)
