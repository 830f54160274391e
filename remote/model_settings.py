"""The settings files of a model folder, where a source does not have them all.

Older folders of the hub lack tokenizer.json, generation_config.json or the timestamp tokens;
starter packages lack most. It must not touch weights, nor guess what is known.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from remote.model_folder import (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    read_json,
    write_json,
)
from remote.protocol import ErrorCode, KnownError

TIMESTAMPS = tuple(f"<|{step * 0.02:.2f}|>" for step in range(1501))
"""0.00 to 30.00 s in steps of 0.02 s, two positions of the encoder's 1500 a step of 10 ms mel."""

MAX_INITIAL_TIMESTAMP_INDEX = 50
"""A window's first timestamp is at most 1.00 s: 50 steps of 0.02 s (openai/whisper decoding.py)."""

MULTILINGUAL_VOCABULARY = 51865
"""Vocabularies from this size on are multilingual (openai/whisper model.py, is_multilingual)."""

MAX_TARGET_POSITIONS = 448


def complete(folder: Path) -> None:
    """Tokenizer, timestamps and generation settings written into a folder that lacks them.

    Raises:
        KnownError: MODEL_INCOMPLETE where neither a file nor what it can be made of is there;
            MODEL_UNSUPPORTED where the vocabulary is not Whisper's, or the model is no Whisper.
    """
    config = read_json(folder / CONFIG)
    if config.get("model_type") != "whisper":
        raise KnownError(
            ErrorCode.MODEL_UNSUPPORTED,
            f"{folder.name} is a model of type {config.get('model_type')}, not Whisper.",
            "Choose a Whisper model; `farscribe models list` names some.",
        )
    complete_tokenizer(folder)
    if not (folder / GENERATION_CONFIG).is_file():
        body = generation_config(
            load_tokenizer(folder / TOKENIZER),
            multilingual=int(config.get("vocab_size", 0)) >= MULTILINGUAL_VOCABULARY,
            suppress=config.get("suppress_tokens") or (),
            begin_suppress=config.get("begin_suppress_tokens") or (),
        )
        write_json(folder / GENERATION_CONFIG, body)


def complete_tokenizer(folder: Path) -> None:
    """A tokenizer.json in the folder that knows the 1501 timestamps; as it is where it does.

    Raises:
        KnownError: MODEL_INCOMPLETE without tokenizer.json and without vocab.json and merges.txt;
            MODEL_UNSUPPORTED where the vocabulary is not Whisper's.
    """
    path = folder / TOKENIZER
    tokenizer = load_tokenizer(path) if path.is_file() else _from_vocabulary(folder)
    if path.is_file() and tokenizer.token_to_id(TIMESTAMPS[-1]) is not None:
        return
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in TIMESTAMPS])
    first = tokenizer.token_to_id("<|notimestamps|>")
    if first is None or tokenizer.token_to_id(TIMESTAMPS[-1]) != first + len(TIMESTAMPS):
        raise _not_whisper(path)
    # Written by us and not by the library, whose error for a full disk has no errno.
    path.write_text(tokenizer.to_str(), encoding="utf-8")


def generation_config(
    tokenizer: Tokenizer,
    *,
    multilingual: bool,
    suppress: Sequence[int],
    begin_suppress: Sequence[int],
    alignment_heads: Sequence[Sequence[int]] = (),
) -> dict[str, Any]:
    """The generation settings as the hub's openai/whisper models have them.

    Args:
        tokenizer: complete, with timestamps.
        multilingual: whether languages and tasks can be chosen.
        suppress: ids never to be written.
        begin_suppress: ids not to begin with.
        alignment_heads: (layer, head) pairs whose cross-attention follows time; left out where
            they are not known.
    """
    ids = special_ids(tokenizer)
    eot = ids["endoftext"]
    body: dict[str, Any] = {
        "begin_suppress_tokens": list(begin_suppress),
        "bos_token_id": eot,
        "decoder_start_token_id": ids["startoftranscript"],
        "eos_token_id": eot,
        "is_multilingual": multilingual,
        "max_initial_timestamp_index": MAX_INITIAL_TIMESTAMP_INDEX,
        "max_length": MAX_TARGET_POSITIONS,
        "no_timestamps_token_id": ids["notimestamps"],
        "pad_token_id": eot,
        "prev_sot_token_id": ids["startofprev"],
        "return_timestamps": False,
        "suppress_tokens": list(suppress),
    }
    if alignment_heads:
        body["alignment_heads"] = [list(pair) for pair in alignment_heads]
    if multilingual:
        body["lang_to_id"] = {f"<|{code}|>": i for code, i in language_ids(tokenizer).items()}
        body["task"] = "transcribe"
        body["task_to_id"] = {name: ids[name] for name in ("transcribe", "translate")}
    return body


def preprocessor_config(mels: int) -> dict[str, Any]:
    """What transformers' WhisperFeatureExtractor reads: 25 ms windows each 10 ms, at 16 kHz."""
    return {
        "chunk_length": 30,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": mels,
        "hop_length": 160,
        "n_fft": 400,
        "n_samples": 480_000,
        "nb_max_frames": 3000,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "sampling_rate": 16_000,
    }


def load_tokenizer(path: Path) -> Tokenizer:
    """The vocabulary in a tokenizer.json.

    Raises:
        KnownError: MODEL_INCOMPLETE where it cannot be read.
    """
    try:
        return Tokenizer.from_buffer(path.read_bytes())
    except ValueError as error:
        raise KnownError(
            ErrorCode.MODEL_INCOMPLETE, f"{path} is damaged: {error}.", "Add the model again."
        ) from error


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of Whisper's control tokens by name, such as "endoftext".

    Raises:
        KnownError: MODEL_UNSUPPORTED where one is missing.
    """
    # Older vocabularies call "nospeech" "nocaptions"; the meaning and the place are the same.
    spellings = {
        "endoftext": ("endoftext",),
        "startoftranscript": ("startoftranscript",),
        "translate": ("translate",),
        "transcribe": ("transcribe",),
        "startofprev": ("startofprev",),
        "nospeech": ("nospeech", "nocaptions"),
        "notimestamps": ("notimestamps",),
    }
    ids = {}
    for name, known in spellings.items():
        found = [
            i for i in (tokenizer.token_to_id(f"<|{word}|>") for word in known) if i is not None
        ]
        if not found:
            raise _not_whisper(name)
        ids[name] = found[0]
    return ids


def language_ids(tokenizer: Tokenizer) -> Mapping[str, int]:
    """The languages of the vocabulary: code to id, in the order of ids.

    They lie between <|startoftranscript|> and the first task token in every Whisper vocabulary.
    """
    ids = special_ids(tokenizer)
    first, after = ids["startoftranscript"] + 1, min(ids["translate"], ids["transcribe"])
    codes = {i: str(tokenizer.id_to_token(i)).strip("<|>") for i in range(first, after)}
    return {code: i for i, code in codes.items()}


def _from_vocabulary(folder: Path) -> Tokenizer:
    """The tokenizer of a folder of the time before tokenizer.json."""
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    for path in (vocabulary, merges):
        if not path.is_file():
            raise KnownError(
                ErrorCode.MODEL_INCOMPLETE,
                f"{folder.name} has neither {TOKENIZER} nor {path.name}.",
                "Save its tokenizer with transformers: tokenizer.save_pretrained(folder).",
            )
    tokenizer = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = folder / "added_tokens.json"
    ids: dict[str, int] = read_json(added) if added.is_file() else {}
    eot = tokenizer.token_to_id("<|endoftext|>")
    if eot is not None:
        ids.setdefault("<|endoftext|>", eot)
    control = [text for text in sorted(ids, key=lambda text: ids[text]) if text not in TIMESTAMPS]
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    if any(tokenizer.token_to_id(text) != ids[text] for text in control):
        raise _not_whisper(added)
    return tokenizer


def _not_whisper(what: object) -> KnownError:
    return KnownError(
        ErrorCode.MODEL_UNSUPPORTED, f"The vocabulary is not Whisper's: {what} does not fit."
    )
