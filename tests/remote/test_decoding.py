"""Windows decode as in transformers, each as if it were alone, and again only where it failed."""

import random
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from remote.decoding import (
    MAX_COMPRESSION_RATIO,
    TEMPERATURES,
    Decoded,
    Decoder,
    Request,
    compression_ratio,
    detect_languages,
)
from remote.features import LogMel
from remote.linear import int8_works
from remote.optimized_loader import load_model
from remote.rules import TokenRules, Vocabulary, vocabulary_of
from remote.tokens import Tokenizer
from remote.whisper import Whisper
from tests.remote.doubles import Script, Scripted
from tests.remote.loaded_model import Loaded, loaded
from tests.remote.model_factory import write_model
from tests.remote.recordings import speech

GREEDY = (0.0,)
MOST = 25
"""Tokens that models with random weights are let write: they seldom end by themselves."""

# ── as in transformers ───────────────────────────────────────────────────────────────────────

SHAPES: Mapping[str, Mapping[str, Any]] = {
    "80 mels": {},
    "128 mels, as large-v3": {"mels": 128, "languages": 100},
    ".en, deep decoder": {"multilingual": False, "encoder_layers": 1, "decoder_layers": 3},
    "distilled": {"encoder_layers": 3, "decoder_layers": 1, "heads": 4},
}


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def random_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Loaded:
    return loaded(write_model(tmp_path_factory.mktemp("model"), **SHAPES[request.param]))


def random_windows() -> list[np.ndarray[Any, np.dtype[np.int16]]]:
    """Noise of two loudnesses and lengths, and speech."""
    rng = np.random.default_rng(3)
    noise = [rng.normal(0, level, n) for level, n in ((3000, 9_000), (300, 480_000))]
    return [*(window.astype(np.int16) for window in noise), speech()]


def features(model: Whisper, windows: Sequence[np.ndarray[Any, Any]]) -> tuple[Tensor, Tensor]:
    """Log-mel features and what the encoder makes of them."""
    mel = LogMel(model.shape.n_mels)(windows)
    with torch.inference_mode():
        return mel, model.encode(mel)


def decoder(
    model: Whisper, tokenizer: Tokenizer, *, rows: int = 2, timestamps: bool = True
) -> Decoder:
    return Decoder(
        model,
        TokenRules(vocabulary_of(tokenizer), timestamps=timestamps),
        eot=tokenizer.eot,
        no_speech=tokenizer.no_speech,
        timestamp_begin=tokenizer.timestamp_begin,
        text_of=tokenizer.decode,
        rows=rows,
    )


def requests(
    audio: Tensor,
    prompt: Sequence[int],
    tokenizer: Tokenizer,
    *,
    most: int = MOST,
    temperatures: tuple[float, ...] = GREEDY,
) -> list[Request]:
    sot = list(prompt).index(tokenizer.sot)
    return [
        Request(key, window, tuple(prompt), sot, most, temperatures)
        for key, window in enumerate(audio)
    ]


def by_key(results: Iterable[Decoded]) -> dict[int, Decoded]:
    return {decoded.request.key: decoded for decoded in results}


@cache
def reference(folder: Path) -> Any:
    """The model as transformers has it."""
    from transformers import WhisperForConditionalGeneration

    return WhisperForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    )


def theirs(
    folder: Path, tokenizer: Tokenizer, mel: Tensor, prompt: Sequence[int], timestamps: bool, n: int
) -> tuple[list[list[int]], list[list[float]]]:
    """Tokens that transformers writes after the prompt, its end token included; their logprobs.

    One pass over the window: Whisper's own generate would go on behind its last timestamp.
    """
    from transformers import GenerationConfig, GenerationMixin
    from transformers.generation import logits_process

    model = reference(folder)
    config = GenerationConfig(
        max_length=len(prompt) + n,
        num_beams=1,
        do_sample=False,
        pad_token_id=tokenizer.eot,
        output_scores=True,
        return_dict_in_generate=True,
    )
    rule = logits_process.WhisperTimeStampLogitsProcessor(model.generation_config, len(prompt))
    ids = torch.tensor([prompt] * len(mel))
    out = GenerationMixin.generate(
        model,
        mel,
        generation_config=config,
        decoder_input_ids=ids,
        decoder_attention_mask=torch.ones_like(ids),
        logits_processor=[rule] if timestamps else [],
    )
    scores = torch.stack(out.scores, 1).log_softmax(-1)
    tokens = out.sequences[:, len(prompt) :]
    logprobs = scores.gather(2, tokens[:, :, None])[:, :, 0].tolist()
    ends = [[*row, tokenizer.eot].index(tokenizer.eot) + 1 for row in tokens.tolist()]
    return (
        [row[:end] for row, end in zip(tokens.tolist(), ends, strict=True)],
        [row[:end] for row, end in zip(logprobs, ends, strict=True)],
    )


def compare(
    loaded: Loaded, windows: Sequence[np.ndarray[Any, Any]], timestamps: bool, most: int
) -> None:
    """The same tokens and probabilities as transformers', window by window."""
    model, tokenizer = loaded.model, loaded.tokenizer
    mel, audio = features(model, windows)
    prompt = tokenizer.prompt("en", "transcribe", timestamps)
    asked = requests(audio, prompt, tokenizer, most=most)
    found = by_key(decoder(model, tokenizer, timestamps=timestamps).run(iter([asked])))
    expected, logprobs = theirs(loaded.folder, tokenizer, mel, prompt, timestamps, most)
    for key, (tokens, sure) in enumerate(zip(expected, logprobs, strict=True)):
        decoded = found[key]
        assert [*decoded.tokens, *[tokenizer.eot] * decoded.complete] == tokens
        assert decoded.avg_logprob == pytest.approx(sum(sure) / len(sure), abs=1e-3)
        assert decoded.token_logprobs == pytest.approx(sure[: len(decoded.tokens)], abs=1e-3)


@pytest.mark.parametrize("timestamps", [True, False])
def test_random_models_of_every_shape_write_the_tokens_of_transformers(
    random_model: Loaded, timestamps: bool
) -> None:
    compare(random_model, random_windows(), timestamps, MOST)


@pytest.mark.parametrize("timestamps", [True, False])
def test_a_real_model_writes_the_tokens_of_transformers(tiny_en: Loaded, timestamps: bool) -> None:
    compare(tiny_en, [speech()], timestamps, 100)


def test_a_real_model_writes_what_whispers_own_generate_writes(tiny_en: Loaded) -> None:
    model, tokenizer = tiny_en.model, tiny_en.tokenizer
    mel, audio = features(model, [speech()])
    asked = requests(audio, tokenizer.prompt("en", "transcribe", True), tokenizer, most=100)
    (found,) = decoder(model, tokenizer).run(iter([asked]))
    ids = reference(tiny_en.folder).generate(
        mel,
        attention_mask=torch.ones(1, 3000),
        return_timestamps=True,
        num_beams=1,
        do_sample=False,
    )
    expected = [token for token in ids[0].tolist() if token not in (tokenizer.sot, tokenizer.eot)]
    assert list(found.tokens) == expected


def test_no_speech_is_read_at_the_start_token(random_model: Loaded) -> None:
    model, tokenizer = random_model.model, random_model.tokenizer
    mel, audio = features(model, random_windows()[:2])
    prompt = tokenizer.prompt("en", "transcribe", True, "house, meeting")
    found = by_key(decoder(model, tokenizer).run(iter([requests(audio, prompt, tokenizer)])))
    with torch.inference_mode():
        logits = reference(random_model.folder)(
            mel, decoder_input_ids=torch.tensor([prompt] * 2)
        ).logits
    heard = logits[:, prompt.index(tokenizer.sot)].softmax(1)[:, tokenizer.no_speech]
    assert [found[key].no_speech_prob for key in (0, 1)] == pytest.approx(heard.tolist(), rel=1e-3)


def test_languages_are_as_likely_as_transformers_has_it(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made = loaded(write_model(tmp_path_factory.mktemp("model"), seed=5))
    mel, audio = features(made.model, random_windows())
    ids = list(made.tokenizer.languages.values())
    found = detect_languages(made.model, audio, made.tokenizer.sot, ids)
    assert found.shape == (3, len(ids))
    assert found.sum(1).tolist() == pytest.approx([1.0] * 3)
    expected = reference(made.folder).detect_language(mel)
    assert [ids[best] for best in found.argmax(1).tolist()] == expected.tolist()


# ── company ──────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return loaded(write_model(tmp_path_factory.mktemp("model"), seed=1))


@pytest.fixture(scope="module", params=["float32", "int8"])
def crowd(
    request: pytest.FixtureRequest, small: Loaded
) -> tuple[Whisper, Tokenizer, list[Request], dict[int, Decoded]]:
    """A model, nine windows of it with two kinds of prompt, and what each becomes alone."""
    if request.param == "int8" and not int8_works():
        pytest.skip("torch has no int8 products here")
    model, tokenizer = load_model(small.folder, dtype=request.param)[0], small.tokenizer
    rng = np.random.default_rng(8)
    sounds = [rng.normal(0, 2000, n).astype(np.int16) for n in rng.integers(8000, 90_000, 9)]
    _, audio = features(model, sounds)
    asked = [
        Request(
            key,
            window,
            tuple(prompt := tokenizer.prompt("en", "transcribe", True, "house" * (key % 4 == 1))),
            prompt.index(tokenizer.sot),
            10 + 5 * (key % 3),
            GREEDY if key % 2 else TEMPERATURES[:3],
        )
        for key, window in enumerate(audio)
    ]
    alone = decoder(model, tokenizer, rows=1)
    return model, tokenizer, asked, by_key(d for one in asked for d in alone.run(iter([[one]])))


@pytest.mark.parametrize("rows", [2, 5, 16])
def test_a_windows_text_does_not_depend_on_its_company(
    crowd: tuple[Whisper, Tokenizer, list[Request], dict[int, Decoded]], rows: int
) -> None:
    model, tokenizer, asked, alone = crowd
    asked = random.Random(rows).sample(asked, len(asked))
    batches = [asked[:1], [], asked[1:4], asked[4:]]
    found = by_key(decoder(model, tokenizer, rows=rows).run(iter(batches)))
    assert {key: decoded.tokens for key, decoded in found.items()} == {
        key: decoded.tokens for key, decoded in alone.items()
    }
    for key, decoded in found.items():
        assert decoded.attempts == alone[key].attempts
        assert decoded.avg_logprob == pytest.approx(alone[key].avg_logprob, abs=1e-4)
        assert decoded.no_speech_prob == pytest.approx(alone[key].no_speech_prob, rel=1e-3)


# ── with a script for a model ────────────────────────────────────────────────────────────────

EOT, SOT, NO_SPEECH, PREVIOUS, NO_TIMESTAMPS, BEGIN, SIZE = 100, 101, 102, 103, 104, 105, 120
WORDS = Vocabulary(SIZE, EOT, NO_TIMESTAMPS, BEGIN, (NO_SPEECH,), ())


def says(*tokens: int) -> Script:
    """Exactly these tokens, then the end."""

    def script(text: tuple[int, ...]) -> Mapping[int, float]:
        said = len(text) - text.index(SOT) - 1
        return {tokens[said] if said < len(tokens) else EOT: 0.0}

    return script


def letters(ids: Sequence[int]) -> str:
    """Text of tokens: a letter each, so that repetition is seen as such."""
    return "".join(chr(0x4E00 + 97 * i) if i < EOT else "" for i in ids)


def scripted(
    *scripts: Script, rows: int = 2, text_ctx: int = 64
) -> tuple[Decoder, Callable[..., Request]]:
    """A decoder of a scripted model, and what makes a request for the window of a script."""
    model = Scripted(SIZE, scripts, text_ctx)
    made = Decoder(
        model,
        TokenRules(WORDS, timestamps=False),
        eot=EOT,
        no_speech=NO_SPEECH,
        timestamp_begin=BEGIN,
        text_of=letters,
        rows=rows,
    )

    def request(
        number: int,
        *,
        most: int = 50,
        temperatures: tuple[float, ...] = GREEDY,
        before: tuple[int, ...] = (),
    ) -> Request:
        prompt = (*before, SOT)
        return Request(number, model.window(number), prompt, len(before), most, temperatures)

    return made, request


@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(1, 4), st.integers(0))
def test_rows_are_refilled_without_mixing_up_windows(
    lengths: list[int], rows: int, seed: int
) -> None:
    chance = random.Random(seed)
    texts = [chance.choices(range(EOT), k=length) for length in lengths]
    decoding, request = scripted(*(says(*text) for text in texts), rows=rows)
    contexts = ((), (PREVIOUS, 1), (PREVIOUS, 1, 2))
    asked = [request(i, before=chance.choice(contexts)) for i in range(len(texts))]
    chance.shuffle(asked)
    batches: list[list[Request]] = []
    while asked:
        size = chance.randint(0, 3)
        batches.append(asked[:size])
        asked = asked[size:]
    found = list(decoding.run(iter(batches)))
    assert sorted(decoded.request.key for decoded in found) == list(range(len(texts)))
    for decoded in found:
        assert list(decoded.tokens) == texts[decoded.request.key]
        assert decoded.complete
        assert decoded.avg_logprob == pytest.approx(0.0, abs=1e-4)
        assert decoded.generated == len(texts[decoded.request.key]) + 1
        assert decoded.attempts == 1


def test_a_window_that_nobody_wants_any_more_gives_up_its_row() -> None:
    decoding, request = scripted(says(*[1] * 6), says(2, 3), says(4, 5, 6), rows=2)
    unwanted = threading.Event()
    asked = [request(i) for i in range(3)]
    asked[0] = replace(asked[0], wanted=lambda: not unwanted.is_set(), owner="the first")
    asked[2] = replace(asked[2], owner="the third")
    results = decoding.run(iter([asked]))
    assert next(results).request.key == 1
    unwanted.set()
    assert [(found.request.key, found.request.owner) for found in results] == [(2, "the third")]
    assert [f.tokens for f in decoding.run(iter([[request(1)]]))] == [(2, 3)]


def test_the_next_windows_are_asked_for_only_when_there_is_room() -> None:
    decoding, request = scripted(*(says(*range(5 + i)) for i in range(6)), rows=2)
    asked: list[int] = []

    def one_by_one() -> Iterator[list[Request]]:
        for number in range(6):
            asked.append(number)
            yield [request(number)]

    for done, _ in enumerate(decoding.run(one_by_one()), 1):
        assert len(asked) <= 2 + done


def test_a_run_that_is_left_midway_leaves_the_decoder_usable() -> None:
    decoding, request = scripted(says(1), says(2, 3, 4, 5, 6), says(7, 8), rows=3)
    first = next(decoding.run(iter([[request(0), request(1), request(2)]])))
    assert first.tokens == (1,)
    again = by_key(decoding.run(iter([[request(1), request(0)]])))
    assert {key: decoded.tokens for key, decoded in again.items()} == {
        0: (1,),
        1: (2, 3, 4, 5, 6),
    }


def test_a_run_that_breaks_off_leaves_the_decoder_usable() -> None:
    decoding, request = scripted(says(1), says(2, 3, 4, 5, 6), rows=2)

    def broken() -> Iterator[list[Request]]:
        yield [request(1)]
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(decoding.run(broken()))
    (decoded,) = decoding.run(iter([[request(0)]]))
    assert decoded.tokens == (1,)


def endless(text: tuple[int, ...]) -> Mapping[int, float]:
    return {len(text) % 90: 0.0}


def test_a_text_without_end_is_cut_off_at_the_most_tokens() -> None:
    decoding, request = scripted(endless, says(1, 2, 3))
    found = by_key(decoding.run(iter([[request(0, most=7), request(1, most=3)]])))
    assert found[0].tokens == (1, 2, 3, 4, 5, 6, 7)
    assert not found[0].complete
    assert found[1].tokens == (1, 2, 3)
    assert not found[1].complete  # its end did not come before the limit


def test_a_text_never_grows_beyond_the_models_context() -> None:
    decoding, request = scripted(endless, text_ctx=16)
    (decoded,) = decoding.run(iter([[request(0, most=99, before=(PREVIOUS, 1, 2))]]))
    assert len(decoded.tokens) == 16 - 4
    assert not decoded.complete


def test_without_windows_there_is_nothing() -> None:
    decoding, _ = scripted()
    assert list(decoding.run(iter([]))) == []
    assert list(decoding.run(iter([[], []]))) == []


# ── once more, warmer ────────────────────────────────────────────────────────────────────────


def stuck(text: tuple[int, ...]) -> Mapping[int, float]:
    """Repeats itself where the likeliest token is taken; nearly as likely it ends."""
    return {8: 0.01, EOT: 0.0} if len(text) > 3 else {8: 0.0}


def unsure(text: tuple[int, ...]) -> Mapping[int, float]:
    """Ten words, each of them one of 90 that are equally likely."""
    return dict.fromkeys(range(90), 0.0) if len(text) < 11 else {EOT: 0.0}


def silent(text: tuple[int, ...]) -> Mapping[int, float]:
    """Not sure of anything; certain that nobody speaks."""
    if len(text) == 1:
        return {NO_SPEECH: 10.0} | dict.fromkeys(range(90), 0.0)
    return unsure(text)


def test_only_the_window_that_fails_is_decoded_again_until_it_passes() -> None:
    decoding, request = scripted(says(1, 2, 3), stuck, says(4, 5), rows=3)
    asked = [request(i, temperatures=TEMPERATURES) for i in range(3)]
    found = by_key(decoding.run(iter([asked])))
    assert (found[0].attempts, found[2].attempts) == (1, 1)
    assert (found[0].temperature, found[2].temperature) == (0.0, 0.0)
    assert found[0].tokens == (1, 2, 3)
    assert found[2].tokens == (4, 5)
    again = found[1]
    assert again.attempts > 1
    assert again.temperature == TEMPERATURES[again.attempts - 1]
    assert again.acceptable
    assert again.compression_ratio <= MAX_COMPRESSION_RATIO
    assert again.generated > len(again.tokens)


def test_greedy_alone_keeps_what_fails() -> None:
    decoding, request = scripted(stuck)
    (decoded,) = decoding.run(iter([[request(0)]]))
    assert set(decoded.tokens) == {8}
    assert decoded.compression_ratio > MAX_COMPRESSION_RATIO
    assert not decoded.acceptable
    assert decoded.attempts == 1


def test_where_every_temperature_fails_the_surest_is_kept() -> None:
    decoding, request = scripted(unsure)
    (decoded,) = decoding.run(iter([[request(0, temperatures=TEMPERATURES)]]))
    assert decoded.attempts == len(TEMPERATURES)
    assert decoded.avg_logprob < -1.0
    assert len(decoded.tokens) == 10


def test_silence_is_not_decoded_again() -> None:
    decoding, request = scripted(silent)
    (decoded,) = decoding.run(iter([[request(0, temperatures=TEMPERATURES)]]))
    assert decoded.silent
    assert decoded.acceptable
    assert decoded.attempts == 1
    assert decoded.no_speech_prob > 0.9


@settings(max_examples=5)
@given(st.permutations(range(5)), st.integers(1, 4))
def test_a_sample_is_the_same_for_the_same_window_in_any_company(
    order: list[int], rows: int
) -> None:
    scripts = (unsure, stuck, says(1, 2), stuck, unsure)
    decoding, request = scripted(*scripts, rows=rows)
    asked = [request(number, temperatures=TEMPERATURES[:3]) for number in order]
    found = by_key(decoding.run(iter([asked])))
    alone, _ = scripted(*scripts, rows=1)
    for one in asked:
        (expected,) = alone.run(iter([[one]]))
        assert found[one.key].tokens == expected.tokens
        assert found[one.key].temperature == expected.temperature


# ── the measures ─────────────────────────────────────────────────────────────────────────────


def test_the_compression_ratio_tells_repetition_from_speech() -> None:
    assert compression_ratio("") == 0.0
    assert compression_ratio("ask not what your country can do for you") < 1.5
    assert compression_ratio("thank you. " * 30) > 2.4


@given(st.text(min_size=1))
def test_the_compression_ratio_counts_bytes(text: str) -> None:
    raw = text.encode()
    assert compression_ratio(text) == len(raw) / len(zlib.compress(raw))
