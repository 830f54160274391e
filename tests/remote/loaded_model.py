"""A model folder and what is in it, for tests that decode."""

from dataclasses import dataclass
from pathlib import Path

from remote.optimized_loader import load_model
from remote.tokens import Tokenizer
from remote.whisper import Whisper


@dataclass(frozen=True, slots=True)
class Loaded:
    """A folder with its weights, in float32 on the CPU, and its vocabulary."""

    folder: Path
    model: Whisper
    tokenizer: Tokenizer


def loaded(folder: Path) -> Loaded:
    return Loaded(folder, load_model(folder)[0], Tokenizer.from_folder(folder))
