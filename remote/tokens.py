"""Text to token ids and back: the vocabulary of one model, its control ids, prompts and words.

Works on the raw `tokenizers` library; ids come from the model's own files, so .en, multilingual
and large-v3 vocabularies all fit. It must not import torch or transformers, nor decide what to
suppress beyond what the model's files say.
"""

import codecs
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import tokenizers

from remote.languages import language_code, name_of
from remote.model_folder import CONFIG, GENERATION_CONFIG, TOKENIZER, read_json
from remote.model_settings import (
    MAX_INITIAL_TIMESTAMP_INDEX,
    MAX_TARGET_POSITIONS,
    MULTILINGUAL_VOCABULARY,
    language_ids,
    load_tokenizer,
    special_ids,
)
from remote.protocol import ErrorCode, KnownError

MAX_VOCABULARY_TOKENS = MAX_TARGET_POSITIONS // 2 - 1
"""223 tokens of prompt at most: half the decoder's context, less <|startofprev|>."""

WITHOUT_SPACES = frozenset({"zh", "ja", "th", "lo", "my", "yue"})
"""Languages written without spaces between words (openai/whisper, split_to_word_tokens)."""

PREPENDED = "\"'“¿([{-"
APPENDED = "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """The vocabulary of one model.

    Args:
        eot: <|endoftext|>. Every id from here on is a control id or a timestamp, all below is text.
        sot: <|startoftranscript|>.
        sot_prev: <|startofprev|>, in front of a prompt.
        transcribe: the task token, as is translate; both exist in .en vocabularies without use.
        no_speech: <|nospeech|>, whose probability at sot tells silence.
        no_timestamps: <|notimestamps|>.
        timestamp_begin: <|0.00|>; 1501 timestamps follow in steps of 0.02 s.
        vocab_size: width of the model's logits.
        multilingual: whether language and task can be chosen.
        languages: code to id; empty for .en models.
        suppress: ids never to be written.
        begin_suppress: ids not to begin with.
        max_initial_timestamp_index: the first timestamp is at most so many steps of 0.02 s.
        alignment_heads: (decoder layer, head) whose cross-attention follows the time in the audio.
    """

    eot: int
    sot: int
    sot_prev: int
    transcribe: int
    translate: int
    no_speech: int
    no_timestamps: int
    timestamp_begin: int
    vocab_size: int
    multilingual: bool
    languages: Mapping[str, int]
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]
    max_initial_timestamp_index: int
    alignment_heads: tuple[tuple[int, int], ...]
    _text: tokenizers.Tokenizer = field(repr=False)

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """The vocabulary of a complete model folder.

        Raises:
            KnownError: MODEL_UNSUPPORTED where it is not Whisper's; MODEL_INCOMPLETE where a file
                cannot be read.
        """
        raw = load_tokenizer(folder / TOKENIZER)
        config = read_json(folder / CONFIG)
        generation = {**config, **read_json(folder / GENERATION_CONFIG)}
        ids = special_ids(raw)
        vocab_size = int(config["vocab_size"])
        multilingual = bool(
            generation.get("is_multilingual", vocab_size >= MULTILINGUAL_VOCABULARY)
        )
        limit = generation.get("max_initial_timestamp_index")
        return cls(
            eot=ids["endoftext"],
            sot=ids["startoftranscript"],
            sot_prev=ids["startofprev"],
            transcribe=ids["transcribe"],
            translate=ids["translate"],
            no_speech=ids["nospeech"],
            no_timestamps=ids["notimestamps"],
            timestamp_begin=ids["notimestamps"] + 1,
            vocab_size=vocab_size,
            multilingual=multilingual,
            languages=_languages(raw, generation) if multilingual else {},
            suppress=_ids(generation.get("suppress_tokens")),
            begin_suppress=_ids(generation.get("begin_suppress_tokens")),
            max_initial_timestamp_index=MAX_INITIAL_TIMESTAMP_INDEX
            if limit is None
            else int(limit),
            alignment_heads=_alignment_heads(generation, config),
            _text=_plain(raw),
        )

    def encode(self, text: str) -> list[int]:
        """The ids of a text; control tokens written out in it are text like any other."""
        return list(self._text.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, control ids and timestamps skipped; a cut character becomes U+FFFD."""
        return self._text.decode([i for i in ids if i < self.eot], skip_special_tokens=False)

    def language_code(self, typed: str) -> str:
        """The code for what a user typed, such as "German" or "DE"; an .en model knows "en" alone.

        Raises:
            KnownError: UNKNOWN_LANGUAGE, with near names or the reason.
        """
        return language_code(typed, self.languages or ("en",))

    def prompt(
        self, language: str | None, task: str, timestamps: bool, vocabulary: str = ""
    ) -> list[int]:
        """The ids that decoding starts from.

        [<|startofprev|> + vocabulary] + sot [+ language + task] [+ <|notimestamps|>], where
        language and task are of multilingual models alone.

        Args:
            language: code; None or "en" for an .en model.
            task: "transcribe" or "translate".
            timestamps: whether timestamps are to be written.
            vocabulary: names and terms to expect; its last 223 tokens count.

        Raises:
            KnownError: UNKNOWN_LANGUAGE where the model does not know it; UNKNOWN_OPTION for
                translation by an .en model.
            ValueError: no language for a multilingual model: it is to be detected before.
        """
        ids: list[int] = []
        words = vocabulary.strip()
        if words:
            ids += [self.sot_prev, *self.encode(f" {words}")[-MAX_VOCABULARY_TOKENS:]]
        ids += [self.sot, *self._choices(language, task)]
        return ids if timestamps else [*ids, self.no_timestamps]

    def _choices(self, language: str | None, task: str) -> list[int]:
        if task not in ("transcribe", "translate"):
            raise ValueError(f"no task of Whisper: {task!r}")
        if not self.multilingual:
            code = self.language_code(language or "en")
            if task == "translate":
                raise KnownError(
                    ErrorCode.UNKNOWN_OPTION,
                    f"This model writes {name_of(code)} only and cannot translate.",
                    "Choose a multilingual model, such as base or large-v3.",
                )
            return []
        if language is None:
            raise ValueError("the language of a multilingual model is to be detected first")
        chosen = self.translate if task == "translate" else self.transcribe
        return [self.languages[self.language_code(language)], chosen]

    def split_words(self, ids: Sequence[int], language: str) -> list[tuple[str, list[int]]]:
        """Words with their ids: no id is lost, and the words joined are the decoded text.

        A word keeps the space in front of it; punctuation is a word of its own, to be merged by
        merge_punctuation once times are known. Where words have no spaces between them, each
        character is a word. A control id or timestamp is a word without text. After
        openai/whisper, tokenizer.py, split_to_word_tokens.
        """
        pieces = self._characters(ids)
        if language in WITHOUT_SPACES:
            return pieces
        words: list[tuple[str, list[int]]] = []
        after_control = True
        for text, tokens in pieces:
            control = tokens[0] >= self.eot
            # As in the source, "in" asks for a run of punctuation: '!"' is one, '?.' is not.
            apart = text.startswith(" ") or text.strip() in string.punctuation
            if control or apart or after_control:
                words.append((text, tokens))
            else:
                before, ids_before = words[-1]
                words[-1] = (before + text, ids_before + tokens)
            after_control = control
        return words

    def _characters(self, ids: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The shortest runs of ids that are whole characters, with their text."""
        reader = codecs.getincrementaldecoder("utf-8")("replace")
        pieces: list[tuple[str, list[int]]] = []
        text, run = "", list[int]()
        for i in ids:
            if i >= self.eot:
                rest = text + reader.decode(b"", final=True)
                reader.reset()
                pieces += [(rest, run)] if run else []
                pieces.append(("", [i]))
                text, run = "", []
                continue
            text += reader.decode(_token_bytes(self._text, i))
            run.append(i)
            if not reader.getstate()[0]:
                pieces.append((text, run))
                text, run = "", []
        if run:
            pieces.append((text + reader.decode(b"", final=True), run))
        return pieces


def merge_punctuation(
    words: Sequence[str], prepended: str = PREPENDED, appended: str = APPENDED
) -> list[tuple[str, int]]:
    """Words with their punctuation, each with the index of the word whose time it has.

    An opening mark joins the word behind it, a closing one the word before; neither changes the
    word's time. The texts joined stay the same. After openai/whisper, timing.py,
    merge_punctuations.
    """
    texts = list(words)
    behind = len(texts) - 1
    for i in range(len(texts) - 2, -1, -1):
        if texts[i].startswith(" ") and texts[i].strip() in prepended:
            texts[behind], texts[i] = texts[i] + texts[behind], ""
        else:
            behind = i
    before = 0
    for i in range(1, len(texts)):
        if not texts[before].endswith(" ") and texts[i] in appended:
            texts[before], texts[i] = texts[before] + texts[i], ""
        else:
            before = i
    return [(text, i) for i, text in enumerate(texts) if text]


def _plain(raw: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same vocabulary without its control tokens, for which text can thus not be mistaken."""
    plain = tokenizers.Tokenizer(raw.model)
    if raw.normalizer is not None:
        plain.normalizer = raw.normalizer
    plain.pre_tokenizer = raw.pre_tokenizer
    plain.decoder = raw.decoder
    return plain


def _languages(raw: tokenizers.Tokenizer, generation: Mapping[str, Any]) -> Mapping[str, int]:
    given = generation.get("lang_to_id")
    if isinstance(given, dict) and given:
        return {str(token).strip("<|>"): int(i) for token, i in given.items()}
    return language_ids(raw)


def _ids(given: object) -> tuple[int, ...]:
    return (
        tuple(i for i in given if isinstance(i, int) and i >= 0) if isinstance(given, list) else ()
    )


def _alignment_heads(
    generation: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[int, int], ...]:
    """As the model's files say, else all heads of the upper half (openai/whisper, model.py)."""
    given = generation.get("alignment_heads")
    if given:
        return tuple((int(layer), int(head)) for layer, head in given)
    layers, heads = int(config["decoder_layers"]), int(config["decoder_attention_heads"])
    return tuple((layer, head) for layer in range(layers // 2, layers) for head in range(heads))


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the rest for what follows U+0100."""
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(0xAE, 0x100),
    ]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(256 + i): byte for i, byte in enumerate(others)
    }


_BYTES = _byte_of_character()


def _token_bytes(tokenizer: tokenizers.Tokenizer, i: int) -> bytes:
    token = tokenizer.id_to_token(i) or ""
    return bytes(_BYTES[character] for character in token)
