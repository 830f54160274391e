"""Which token may come next: as in transformers, and as a plain maximum over what is permitted."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from remote.rules import Recent, TokenRules, Vocabulary

EOT, NO_TIMESTAMPS, BEGIN, SIZE = 30, 38, 39, 70
VOCABULARY = Vocabulary(
    size=SIZE,
    eot=EOT,
    no_timestamps=NO_TIMESTAMPS,
    timestamp_begin=BEGIN,
    suppress=(1, 2, 32, 33),
    begin_suppress=(5, EOT),
    max_initial_timestamp=10,
)
NEVER = float("-inf")

tokens = st.integers(0, SIZE - 1)
stamps = st.integers(BEGIN, SIZE - 1)
histories = st.lists(st.one_of(tokens, stamps), max_size=8)


@st.composite
def scores(draw: st.DrawFn, rows: int) -> Tensor:
    """Logits of so many rows; timestamps together, or a single one, are at times the likelier."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    logits = torch.randn(rows, SIZE, generator=generator) * draw(st.sampled_from([0.1, 1.0, 10.0]))
    logits[:, BEGIN:] += draw(st.sampled_from([-20.0, -3.0, 0.0, 3.0]))
    logits[:, EOT] += draw(st.sampled_from([0.0, 20.0]))
    return logits


def recent_of(said: list[list[int]]) -> Recent:
    """What the decoder notes of each row's tokens; of none, as of what a row held before."""
    return Recent(
        count=torch.tensor([len(row) for row in said]),
        last=torch.tensor([row[-1] if row else 55 for row in said]),
        before=torch.tensor([row[-2] if len(row) > 1 else 60 for row in said]),
        stamp=torch.tensor([([t for t in row if t >= BEGIN] or [0])[-1] for row in said]),
    )


def applied(logits: Tensor, said: list[list[int]], *, timestamps: bool = True) -> Tensor:
    logits = logits.clone()
    TokenRules(VOCABULARY, timestamps=timestamps).apply(logits, recent_of(said))
    return logits


def permitted(said: list[int], *, timestamps: bool = True) -> set[int]:
    """What may follow where all tokens are equally likely, but for the rule on their sum."""
    logits = torch.zeros(1, SIZE)
    logits[:, BEGIN:] -= 100.0
    row = applied(logits, [said], timestamps=timestamps)[0]
    return {token for token, score in enumerate(row.tolist()) if score != NEVER}


def ours_as_transformers_has_it(begin: int) -> Any:
    """The three logits processors of transformers with this vocabulary, one after another."""
    from transformers.generation import logits_process as theirs

    config: Any = SimpleNamespace(
        no_timestamps_token_id=NO_TIMESTAMPS,
        eos_token_id=EOT,
        bos_token_id=EOT,
        max_initial_timestamp_index=VOCABULARY.max_initial_timestamp,
    )
    return (
        theirs.SuppressTokensLogitsProcessor(list(VOCABULARY.suppress)),
        theirs.SuppressTokensAtBeginLogitsProcessor(list(VOCABULARY.begin_suppress), begin),
        theirs.WhisperTimeStampLogitsProcessor(config, begin_index=begin),
    )


@pytest.mark.parametrize("timestamps", [True, False])
@given(data=st.data())
def test_the_rules_are_those_of_transformers(timestamps: bool, data: st.DataObject) -> None:
    said = data.draw(st.lists(histories, min_size=1, max_size=4))
    logits = data.draw(scores(len(said)))
    prompt = [34, 35]
    processors = ours_as_transformers_has_it(len(prompt))
    for row, history in enumerate(said):  # theirs takes rows of one length
        expected = logits[row : row + 1].clone()
        ids = torch.tensor([prompt + history])
        for processor in processors if timestamps else processors[:2]:
            expected = processor(ids, expected)
        found = applied(logits[row : row + 1], [history], timestamps=timestamps)
        assert torch.equal(found, expected)


@given(st.data())
def test_a_rows_rules_do_not_depend_on_its_company(data: st.DataObject) -> None:
    said = data.draw(st.lists(histories, min_size=2, max_size=4))
    logits = data.draw(scores(len(said)))
    alone = [applied(logits[i : i + 1], [row]) for i, row in enumerate(said)]
    assert torch.equal(applied(logits, said), torch.cat(alone))


@pytest.mark.parametrize("timestamps", [True, False])
@given(data=st.data())
def test_the_likeliest_token_is_the_maximum_of_what_the_rules_leave(
    timestamps: bool, data: st.DataObject
) -> None:
    said = data.draw(st.lists(histories.filter(bool), min_size=1, max_size=4))
    logits = data.draw(scores(len(said)))
    expected = applied(logits, said, timestamps=timestamps).log_softmax(1).max(1)
    rules = TokenRules(VOCABULARY, timestamps=timestamps)
    token, logprob = rules.likeliest(logits, recent_of(said))
    assert token.tolist() == expected.indices.tolist()
    assert torch.allclose(logprob, expected.values, atol=1e-5)


def test_the_likeliest_is_right_where_nothing_but_one_token_is_left() -> None:
    logits = torch.full((1, SIZE), NEVER)
    logits[0, EOT] = -7.0
    rules = TokenRules(VOCABULARY, timestamps=True)
    token, logprob = rules.likeliest(logits, recent_of([[BEGIN, 3, BEGIN + 2]]))
    assert (token.item(), logprob.item()) == (EOT, 0.0)


def test_a_window_begins_with_a_timestamp_of_its_first_steps() -> None:
    assert permitted([]) == set(range(BEGIN, BEGIN + VOCABULARY.max_initial_timestamp + 1))


def test_after_the_first_timestamp_comes_text() -> None:
    text = permitted([BEGIN])
    assert max(text) < BEGIN
    assert {3, EOT} <= text
    assert not {1, 2, 32, 33, NO_TIMESTAMPS} & text


def test_a_phrase_is_closed_by_a_later_time_and_the_next_opens_no_earlier() -> None:
    said = [BEGIN + 4, 3]
    assert min(t for t in permitted(said) if t >= BEGIN) == BEGIN + 5
    said += [BEGIN + 9]
    after = permitted(said)
    assert min(t for t in after if t >= BEGIN) == BEGIN + 9
    assert min(after) == EOT  # a second timestamp or the end, and no text
    said += [BEGIN + 9]
    assert max(permitted(said)) < BEGIN


def test_timestamps_that_are_together_likelier_than_any_word_win() -> None:
    logits = torch.zeros(1, SIZE)
    logits[0, 3] = 1.0  # the likeliest of all, but 25 timestamps share more
    found = applied(logits, [[BEGIN, 7]])
    assert found[0, :BEGIN].max() == NEVER


def test_without_timestamps_only_suppression_applies() -> None:
    everything = set(range(SIZE)) - {1, 2, 32, 33}
    assert permitted([3, 4], timestamps=False) == everything
    assert permitted([], timestamps=False) == everything - {5, EOT}
