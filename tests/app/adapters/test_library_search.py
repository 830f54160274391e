"""Whatever a user types finds what was said, and never breaks the search."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.adapters.library.searching import expression, marks
from tests.app.adapters.library_jobs import Shelf, entry, segments


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Shelf(tmp_path / "library.sqlite") as opened:
        yield opened


@pytest.fixture(scope="module")
def kept_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A library for many examples of one test."""
    with Shelf(tmp_path_factory.mktemp("library") / "library.sqlite") as opened:
        yield opened


@pytest.mark.parametrize(
    ("typed", "asked"),
    [
        ("two words", '"two" "words"'),
        ('"a phrase" word', '"a phrase" "word"'),
        ('an "open quote', '"an" "open quote"'),
        ("don't NEAR(x) OR -y AND* text:z", '"don\'t" "NEAR(x)" "OR" "-y" "AND*" "text:z"'),
        ('"" - … "?!"', ""),
        ("a\0b", '"a" "b"'),
        ("", ""),
    ],
)
def test_quotes_make_phrases_and_everything_else_is_words(typed, asked):
    assert expression(typed) == asked


def test_all_words_must_be_there_in_any_order_and_phrases_as_they_are(shelf):
    shelf.has_said("the quick brown fox", "the brown quick dog", "a fox")
    assert shelf.found("quick brown") == ["the quick brown fox", "the brown quick dog"]
    assert shelf.found('"quick brown"') == ["the quick brown fox"]
    assert shelf.found("brown fox") == ["the quick brown fox"]
    assert shelf.found("fox cat") == []
    assert shelf.found("") == shelf.found("…") == []


@pytest.mark.parametrize("typed", ["CAFE", "café", "Cafe\u0301", "naive", "ANGSTROM", "łódź"])
def test_case_and_accents_do_not_matter(shelf, typed):
    text = "Café naïve ångström ŁÓDŹ"
    shelf.has_said(text)
    assert shelf.found(typed) == [text]


@pytest.mark.parametrize(
    ("text", "part", "elsewhere"),
    [
        ("我们今天用GPU集群训练模型。", "集群训练", "群集"),
        ("我们今天用GPU集群训练模型。", "gpu 今天", "天今"),
        ("東京タワーに行きました", "タワー", "ワタ"),
        ("한국어를 배웁니다", "한국어", "국한"),
        ("ภาษาไทยง่ายมาก", "ไทย", "ยไท"),
        ("हिन्दी भाषा", "हिन्दी", "हिन्द"),
        ("привет, мир", "МИР", "ми"),
    ],
)
def test_scripts_without_spaces_are_found_by_any_part(shelf, text, part, elsewhere):
    shelf.has_said("something else", text)
    assert shelf.found(part) == [text]
    assert shelf.found(elsewhere) == []


def test_hits_are_marked_in_the_text(shelf):
    shelf.has_said('He said: "Go, go!" and went.', "我们用GPU集群训练")
    (hit,) = shelf.search('go "AND went"')
    assert [hit.snippet[a:b] for a, b in hit.marks] == ["Go", "go", "and went"]
    (hit,) = shelf.search("集群 gpu")
    assert sorted(hit.snippet[a:b] for a, b in hit.marks) == ["GPU", "集群"]
    assert marks("no hit") == ()


def test_hits_come_newest_job_first_and_in_the_order_of_the_file(shelf):
    for number in range(3):
        shelf.has_said(f"{number} a word", "nothing", f"{number} b word", content=str(number))
    hits = shelf.search("word")
    assert [hit.snippet[:3] for hit in hits] == ["2 a", "2 b", "1 a", "1 b", "0 a", "0 b"]
    assert [(hit.segment, hit.start_ms, hit.end_ms) for hit in hits[:2]] == [
        (0, 0, 900),
        (2, 2000, 2900),
    ]
    assert hits[0].entry == shelf.entries()[0]
    assert shelf.search("word", limit=2) == hits[:2]
    assert shelf.search("word", limit=0) == ()


def test_what_the_user_has_made_of_a_text_is_found_and_what_was_heard_is_not(shelf):
    job = shelf.has_said("the bass player", "the other")
    shelf.edit(job, 0, "der Baß 集群")
    assert shelf.found("baß") == shelf.found("集群") == ["der Baß 集群"]
    assert shelf.found("bass") == shelf.found("player") == []
    shelf.edit(job, 0, "")
    assert shelf.found("the") == ["the other"]
    shelf.edit(job, 0, None)
    assert shelf.found("bass") == ["the bass player"]
    assert shelf.found("baß") == shelf.found("集") == []


def test_text_is_found_while_its_job_is_running(shelf):
    job = entry()
    shelf.add([job])
    shelf.append(job.id, [segments(job.id, 1, ["first part"])])
    shelf.append(job.id, [segments(job.id, 2, ["second part"], 5000)])
    assert shelf.found("part") == ["first part", "second part"]


@given(st.text(), st.text())
@settings(max_examples=150)
def test_whatever_is_typed_gives_an_answer_within_the_text(kept_shelf, said, typed):
    job = kept_shelf.has_said(said)
    for query in (typed, said, f'"{typed}'):
        for hit in kept_shelf.search(query):
            places = [place for mark in hit.marks for place in mark]
            assert places == sorted(places)
            assert all(0 <= place <= len(hit.snippet) for place in places)
    kept_shelf.remove(job)
    assert kept_shelf.search(said) == ()


@given(
    st.lists(
        st.text(st.sampled_from("abcéßøЖ集群タア한กहि\u0301 '-1"), min_size=1).filter(
            lambda word: any(letter.isalnum() for letter in word)
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=100)
def test_a_text_is_found_by_each_of_its_words_and_as_a_phrase(kept_shelf, words):
    said = " ".join(words)
    job = kept_shelf.has_said(said)
    for query in (said, f'"{said}"', words[0], words[-1]):
        assert kept_shelf.found(query) == [said]
    kept_shelf.remove(job)
