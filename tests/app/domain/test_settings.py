"""What is wrong with an order is found before the work starts."""

import re

import pytest

from app.domain.errors import exit_status, sentence
from app.domain.languages import LANGUAGES, UNSPACED, language_code
from app.domain.settings import EngineSettings, Format, SubtitleRules, check, formats
from remote.languages import NAMES
from remote.protocol import ErrorCode, ExitCode, KnownError, Options


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ("it", "it"),
        ("IT", "it"),
        ("Italian", "it"),
        ("pt-BR", "pt"),
        ("zh_TW", "zh"),
        ("haitian creole", "ht"),
        ("auto", None),
        ("", None),
    ],
)
def test_a_language_is_known_by_code_region_or_name(given, code):
    assert language_code(given) == code


def test_a_language_that_is_misspelt_is_refused_with_a_guess():
    with pytest.raises(KnownError, match=re.escape("Did you mean Italian?")) as caught:
        language_code("italien")
    assert caught.value.code is ErrorCode.UNKNOWN_LANGUAGE
    with pytest.raises(KnownError, match="Give a code such as it"):
        language_code("xx")


def test_client_and_engine_know_the_same_languages():
    assert {code: name.replace(" ", "_") for code, name in LANGUAGES.items()} == dict(NAMES)


def test_there_are_the_hundred_languages_of_whisper():
    assert len(LANGUAGES) == 100
    assert set(LANGUAGES) > UNSPACED


def test_formats_are_a_list_with_commas_each_once():
    assert formats("srt, TXT,.json,srt") == (Format.SRT, Format.TXT, Format.JSON)
    assert formats("") == ()
    with pytest.raises(
        KnownError, match="txt, md, srt, vtt, ass, json, csv, tsv, docx, html"
    ) as caught:
        formats("srt,doc")
    assert caught.value.code is ErrorCode.UNKNOWN_OPTION


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (Options(language="it"), ErrorCode.UNKNOWN_LANGUAGE),
        (Options(task="translate"), ErrorCode.UNKNOWN_OPTION),
    ],
)
def test_an_english_model_is_not_asked_for_another_language(options, code):
    with pytest.raises(KnownError) as caught:
        check(EngineSettings("tiny.en"), options)
    assert caught.value.code is code
    assert caught.value.code.exit_code is ExitCode.USAGE
    check(EngineSettings("base"), options)


def test_english_and_detection_suit_every_model():
    check(EngineSettings("tiny.en"), Options(language="en"))
    check(EngineSettings("tiny.en"), Options())


@pytest.mark.parametrize(
    "rules",
    [
        {"max_chars": 15},
        {"max_chars": 2000},
        {"max_lines": 0},
        {"max_lines": 11},
        {"max_cps": 4},
        {"max_cps": 101},
    ],
)
def test_subtitle_rules_that_hold_no_text_or_leave_no_time_are_refused(rules):
    with pytest.raises(KnownError) as caught:
        SubtitleRules(**rules)
    assert caught.value.code is ErrorCode.UNKNOWN_OPTION


def test_the_exit_status_is_that_of_the_first_error_and_130_where_cancelled():
    full = KnownError(ErrorCode.DISK_FULL, "Full.")
    bad = KnownError(ErrorCode.NOT_AUDIO, "Bad.")
    assert exit_status([]) == 0
    assert exit_status([full, bad]) == ExitCode.OUTPUT
    assert exit_status([bad, full]) == ExitCode.INPUT
    assert exit_status([bad, KnownError(ErrorCode.CANCELLED, "")]) == ExitCode.CANCELLED


def test_an_error_is_one_line_of_subject_sentence_and_next_step():
    error = KnownError(ErrorCode.NOT_AUDIO, "It is\nno audio.", "Try another.")
    assert sentence("a.wav", error) == "a.wav: It is no audio. Try another."
