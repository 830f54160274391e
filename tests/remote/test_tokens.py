"""Ids, prompts and words, for every kind of Whisper vocabulary."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote.languages import NAMES, language_code, name_of
from remote.protocol import ErrorCode, KnownError
from remote.tokens import MAX_VOCABULARY_TOKENS, WITHOUT_SPACES, Tokenizer, merge_punctuation
from tests.remote.model_factory import LANGUAGES, starter_model, write_model

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_folder(write_model(tmp_path_factory.mktemp("multilingual")))


@pytest.fixture(scope="module")
def english(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = write_model(tmp_path_factory.mktemp("english"), multilingual=False)
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module", params=["small vocabulary", "tiny.en", "base"])
def tokenizer(request: pytest.FixtureRequest, multilingual: Tokenizer) -> Tokenizer:
    """The factory's, and the real ones where their packages are installed."""
    if request.param == "small vocabulary":
        return multilingual
    factory: pytest.TempPathFactory = request.getfixturevalue("tmp_path_factory")
    return Tokenizer.from_folder(starter_model(request.param, factory.getbasetemp()))


def refused(call: object, *arguments: object) -> KnownError:
    with pytest.raises(KnownError) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value


# ── ids ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("name", "size", "eot", "timestamp_begin"),
    [("tiny.en", 51864, 50256, 50363), ("base", 51865, 50257, 50364)],
)
def test_the_ids_of_the_published_models_are_found(
    tmp_path_factory: pytest.TempPathFactory, name: str, size: int, eot: int, timestamp_begin: int
) -> None:
    tokenizer = Tokenizer.from_folder(starter_model(name, tmp_path_factory.getbasetemp()))
    assert (tokenizer.vocab_size, tokenizer.eot, tokenizer.sot) == (size, eot, eot + 1)
    assert tokenizer.timestamp_begin == tokenizer.no_timestamps + 1 == timestamp_begin
    assert tokenizer.no_speech == tokenizer.no_timestamps - 1
    assert tokenizer.sot_prev == tokenizer.no_speech - 1
    assert tokenizer.transcribe == tokenizer.translate + 1
    assert tokenizer.multilingual is (name == "base")
    assert len(tokenizer.languages) == (99 if name == "base" else 0)
    assert tokenizer.vocab_size - tokenizer.timestamp_begin == 1501


def test_the_hundredth_language_moves_the_ids_behind_it(tmp_path: Path) -> None:
    before = Tokenizer.from_folder(write_model(tmp_path / "v2"))
    after = Tokenizer.from_folder(write_model(tmp_path / "v3", mels=128, languages=100))
    assert after.vocab_size == before.vocab_size + 1
    assert after.timestamp_begin == before.timestamp_begin + 1
    assert after.translate == before.translate + 1
    assert after.languages["yue"] == after.translate - 1
    assert "yue" not in before.languages
    assert refused(before.language_code, "Cantonese").code == ErrorCode.UNKNOWN_LANGUAGE
    assert after.language_code("Cantonese") == "yue"


def test_what_the_generation_settings_lack_comes_from_the_vocabulary(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", encoder_layers=1, decoder_layers=3)
    expected = Tokenizer.from_folder(folder)
    path = folder / "generation_config.json"
    body = json.loads(path.read_text())
    for key in ("lang_to_id", "task_to_id", "alignment_heads", "max_initial_timestamp_index"):
        del body[key]
    path.write_text(json.dumps(body))
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.languages == expected.languages
    assert list(tokenizer.languages) == list(LANGUAGES[:99])
    assert tokenizer.alignment_heads == ((1, 0), (1, 1), (2, 0), (2, 1))
    assert tokenizer.max_initial_timestamp_index == 50


def test_suppression_is_read_from_the_older_place_too(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    generation, config = folder / "generation_config.json", folder / "config.json"
    body = json.loads(generation.read_text())
    moved = {key: body.pop(key) for key in ("suppress_tokens", "begin_suppress_tokens")}
    generation.write_text(json.dumps(body))
    assert Tokenizer.from_folder(folder).suppress == ()
    config.write_text(json.dumps({**json.loads(config.read_text()), **moved}))
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.suppress == tuple(moved["suppress_tokens"])
    assert tokenizer.begin_suppress == tuple(moved["begin_suppress_tokens"])


def test_a_vocabulary_that_is_not_whispers_is_a_known_error(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    path = folder / "tokenizer.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "added_tokens": []}))
    assert refused(Tokenizer.from_folder, folder).code == ErrorCode.MODEL_UNSUPPORTED
    path.write_text("{")
    assert refused(Tokenizer.from_folder, folder).code == ErrorCode.MODEL_INCOMPLETE


# ── text ─────────────────────────────────────────────────────────────────────────────────────


@given(text=TEXTS)
def test_decoding_what_was_encoded_gives_the_text_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=TEXTS)
def test_text_never_becomes_a_control_id(tokenizer: Tokenizer, text: str) -> None:
    for written in (text, f"<|endoftext|>{text}<|0.00|>", f"{text}<|startoftranscript|>"):
        assert all(i < tokenizer.eot for i in tokenizer.encode(written))
        assert tokenizer.decode(tokenizer.encode(written)) == written


def test_control_ids_and_timestamps_are_skipped_in_decoding(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" and")
    around = [
        tokenizer.sot,
        tokenizer.timestamp_begin,
        *ids,
        tokenizer.vocab_size - 1,
        tokenizer.eot,
    ]
    assert tokenizer.decode(around) == " and"


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_ids_equal_those_of_transformers(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    transformers = pytest.importorskip("transformers")
    folder = starter_model(name, tmp_path_factory.getbasetemp())
    theirs = transformers.WhisperTokenizerFast.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    assert len(theirs) == ours.vocab_size
    for text in (
        " And so, my fellow Americans",
        "L'été – où ça?",
        " 今日は天気がいい",
        "a\n\n b\t1234",
    ):
        ids = theirs.encode(text, add_special_tokens=False)
        assert ours.encode(text) == ids
        assert ours.decode(ids) == theirs.decode(ids, clean_up_tokenization_spaces=False)
    for token in ("<|endoftext|>", "<|notimestamps|>", "<|0.00|>", "<|30.00|>"):
        assert theirs.convert_tokens_to_ids(token) in (
            ours.eot,
            ours.no_timestamps,
            ours.timestamp_begin,
            ours.vocab_size - 1,
        )


# ── prompts ──────────────────────────────────────────────────────────────────────────────────


def test_a_prompt_names_language_and_task_for_a_multilingual_model(multilingual: Tokenizer) -> None:
    t = multilingual
    german = t.languages["de"]
    assert t.prompt("de", "transcribe", True) == [t.sot, german, t.transcribe]
    assert t.prompt("de", "translate", False) == [t.sot, german, t.translate, t.no_timestamps]


def test_a_prompt_of_an_english_model_has_neither(english: Tokenizer) -> None:
    assert english.prompt(None, "transcribe", True) == [english.sot]
    assert english.prompt("en", "transcribe", False) == [english.sot, english.no_timestamps]


def test_an_english_model_refuses_other_languages_and_translation(english: Tokenizer) -> None:
    error = refused(english.prompt, "de", "transcribe", True)
    assert error.code == ErrorCode.UNKNOWN_LANGUAGE
    assert "German" in error.message
    assert "multilingual" in error.hint
    assert refused(english.prompt, None, "translate", True).code == ErrorCode.UNKNOWN_OPTION


def test_a_language_must_be_known_before_a_multilingual_prompt(multilingual: Tokenizer) -> None:
    with pytest.raises(ValueError, match="detected"):
        multilingual.prompt(None, "transcribe", True)
    with pytest.raises(ValueError, match="task"):
        multilingual.prompt("en", "summarise", True)


def test_vocabulary_stands_in_front_and_only_its_end_counts(multilingual: Tokenizer) -> None:
    t = multilingual
    prompt = t.prompt("en", "transcribe", True, " Farscribe, worst of times ")
    assert prompt[0] == t.sot_prev
    assert t.decode(prompt) == " Farscribe, worst of times"
    assert prompt[-3:] == t.prompt("en", "transcribe", True)
    long = t.prompt("en", "transcribe", True, "nothing " * 500)
    assert len(long) == 1 + MAX_VOCABULARY_TOKENS + 3
    assert t.prompt("en", "transcribe", True, "  ") == t.prompt("en", "transcribe", True)


# ── words ────────────────────────────────────────────────────────────────────────────────────


@given(text=TEXTS, language=st.sampled_from(["en", "de", "ja", "th", "zh"]))
def test_words_joined_are_the_text_and_no_id_is_lost(
    tokenizer: Tokenizer, text: str, language: str
) -> None:
    ids = tokenizer.encode(text)
    words = tokenizer.split_words(ids, language)
    assert "".join(word for word, _ in words) == text
    assert [i for _, run in words for i in run] == ids


@given(data=st.data())
def test_words_of_any_ids_joined_are_what_decoding_gives(
    tokenizer: Tokenizer, data: st.DataObject
) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.eot - 1), max_size=30))
    for language in ("en", "ja"):
        words = tokenizer.split_words(ids, language)
        assert "".join(word for word, _ in words) == tokenizer.decode(ids)
        assert [i for _, run in words for i in run] == ids


def test_words_are_split_at_spaces_and_punctuation(tokenizer: Tokenizer) -> None:
    text = " Well, there was (almost) nothing!"
    words = [word for word, _ in tokenizer.split_words(tokenizer.encode(text), "en")]
    assert words[:4] == [" Well", ",", " there", " was"]
    assert words[-2:] == [" nothing", "!"]


def test_languages_without_spaces_are_split_by_characters(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("今日は天気")
    for language in WITHOUT_SPACES:
        pieces = [piece for piece, _ in tokenizer.split_words(ids, language)]
        assert all("\ufffd" not in piece for piece in pieces)
        assert len(pieces) >= 2
    assert [word for word, _ in tokenizer.split_words(ids, "en")] == ["今日は天気"]


def test_a_control_id_is_a_word_of_its_own_without_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("nothing")
    words = tokenizer.split_words([tokenizer.timestamp_begin, *ids, tokenizer.eot], "en")
    assert words == [("", [tokenizer.timestamp_begin]), ("nothing", ids), ("", [tokenizer.eot])]
    cut = tokenizer.encode("今")[:1]
    words = tokenizer.split_words([*cut, tokenizer.eot], "en")
    assert [run for _, run in words] == [cut, [tokenizer.eot]]


def test_punctuation_joins_its_word_and_leaves_its_time() -> None:
    words = [" He", " said", ",", ' "', "no", "!", '"', " (", "twice", ")", "."]
    assert merge_punctuation(words) == [
        (" He", 0),
        (" said,", 1),
        (' "no!"', 4),
        (' (twice).', 8),
    ]  # fmt: skip
    assert merge_punctuation([]) == []
    assert merge_punctuation([","]) == [(",", 0)]


@given(
    words=st.lists(st.sampled_from([" a", "b", ",", " (", ")", ' "', ".", " ", "。"]), max_size=12)
)
def test_merging_punctuation_loses_no_text_and_keeps_order(words: list[str]) -> None:
    merged = merge_punctuation(words)
    assert "".join(text for text, _ in merged) == "".join(words)
    indexes = [i for _, i in merged]
    assert indexes == sorted(set(indexes))


# ── languages ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ("German", "de"),
        ("german", "de"),
        ("de", "de"),
        ("DE", "de"),
        ("de-AT", "de"),
        ("pt_BR", "pt"),
        (" Haitian  creole ", "ht"),
        ("Mandarin", "zh"),
        ("Deutsch", "de"),
        ("日本語", "ja"),
        ("iw", "he"),
        ("myanmar", "my"),
    ],
)
def test_a_language_is_known_by_name_or_code(typed: str, code: str) -> None:
    assert language_code(typed) == code


def test_every_code_and_every_name_leads_to_its_language() -> None:
    assert list(NAMES) == list(LANGUAGES)
    for code in NAMES:
        assert language_code(code) == code
        assert language_code(name_of(code).upper()) == code


def test_an_unknown_language_gets_near_names() -> None:
    error = refused(language_code, "Germn")
    assert error.code == ErrorCode.UNKNOWN_LANGUAGE
    assert "German (de)" in error.hint
    assert "Germn" in error.message
    assert refused(language_code, "qqqq").hint
    assert refused(language_code, "").hint


@given(typed=st.text(max_size=20))
def test_whatever_is_typed_gives_a_code_or_a_known_error(typed: str) -> None:
    try:
        code = language_code(typed)
    except KnownError as error:
        code = error.code
    assert code in {*NAMES, ErrorCode.UNKNOWN_LANGUAGE}
