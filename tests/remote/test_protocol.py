"""The wire: round trips, strangers' lines, and PROTOCOL.md held to what protocol.py does."""

import dataclasses
import json
import re
import sys
import types
import typing
from collections.abc import Mapping
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote import protocol
from remote.protocol import (
    MAX_LINE_BYTES,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    Acknowledge,
    Block,
    Blocks,
    Cancel,
    Done,
    ErrorCode,
    ExitCode,
    Failed,
    Gap,
    Have,
    Heartbeat,
    Held,
    Hello,
    JobPlace,
    Jobs,
    KnownError,
    List,
    Message,
    Missing,
    Note,
    Options,
    Ping,
    Progress,
    Put,
    Quality,
    Segment,
    Segments,
    Source,
    StageTimes,
    Stop,
    Stored,
    Summary,
    Transcribe,
    WireError,
    Word,
    decode,
    encode,
    lines,
)
from tests.bench.fuzz import fuzz

DOCUMENT = (Path(protocol.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
DOWN = {
    "transcribe": Transcribe,
    "blocks": Blocks,
    "acknowledge": Acknowledge,
    "cancel": Cancel,
    "ping": Ping,
    "list": List,
    "stop": Stop,
    "have": Have,
    "put": Put,
}
UP = {
    "hello": Hello,
    "progress": Progress,
    "segments": Segments,
    "done": Done,
    "failed": Failed,
    "heartbeat": Heartbeat,
    "note": Note,
    "missing": Missing,
    "jobs": Jobs,
    "held": Held,
    "stored": Stored,
}
STORE = (Have, Put, Held, Stored)
NOUNS = (Source, Block, JobPlace, Options, Segment, Word, Quality, Summary, Gap, StageTimes)
MESSAGES: dict[str, type[Message]] = {**DOWN, **UP}

# ── round trips ──────────────────────────────────────────────────────────────────────────────

# What a file name, a transcript or a hint may hold: everything but lone halves of UTF-16 pairs.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
st.register_type_strategy(str, TEXT)
st.register_type_strategy(float, st.floats(min_value=-1e300, max_value=1e300))
MESSAGE = st.one_of(
    [
        st.builds(Hello, major=st.just(PROTOCOL_MAJOR)) if cls is Hello else st.from_type(cls)
        for cls in MESSAGES.values()
    ]
)


@given(MESSAGE)
def test_every_message_comes_back_as_it_went(message: Message) -> None:
    line = encode(message)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == message


@given(st.lists(MESSAGE, max_size=5), st.data())
def test_lines_are_found_again_however_the_bytes_are_cut(
    messages: list[Message], data: st.DataObject
) -> None:
    stream = b"".join(map(encode, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    chunks = [stream[a:b] for a, b in pairwise([0, *cuts, len(stream)])]
    assert [decode(line) for line in lines(iter(chunks))] == messages


def test_text_travels_as_utf_8_and_not_as_escapes() -> None:
    line = encode(Cancel("Привет 日本語 👋"))
    assert "Привет 日本語 👋" in line.decode("utf-8")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_hold_is_not_sent(number: float) -> None:
    message = Done("a", 1, Summary(wall_s=number))
    with pytest.raises(ValueError, match="JSON"):
        encode(message)


# ── lines of strangers ───────────────────────────────────────────────────────────────────────


def refused(line: bytes) -> WireError | None:
    """The error of decode; None where it took the line, and what it took can be sent again."""
    try:
        found = decode(line)
    except WireError as error:
        return error
    assert found is None or decode(encode(found)) == found
    return None


@given(MESSAGE, st.dictionaries(TEXT, st.none() | st.integers() | TEXT | st.lists(st.integers())))
def test_unknown_keys_are_ignored(message: Message, extra: dict[str, Any]) -> None:
    body = json.loads(encode(message))
    unknown = {f"x-{key}": value for key, value in extra.items()}
    assert decode(json.dumps({**unknown, **body}).encode()) == message


@given(TEXT.filter(lambda name: name not in MESSAGES))
def test_unknown_types_are_none_and_no_error(name: str) -> None:
    assert decode(json.dumps({"type": name, "seq": 3}).encode()) is None


@given(st.binary())
def test_garbage_is_a_wire_error_and_nothing_else(line: bytes) -> None:
    error = refused(line)
    assert error is None or len(error.message) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)


@given(MESSAGE, st.data())
def test_a_field_of_another_kind_is_a_wire_error_or_a_message(
    message: Message, data: st.DataObject
) -> None:
    body = json.loads(encode(message))
    place = body
    key = data.draw(st.sampled_from(sorted(body)))
    while isinstance(place[key], dict) and place[key]:
        place = place[key]
        key = data.draw(st.sampled_from(sorted(place)))
    place[key] = data.draw(JSON)
    refused(json.dumps(body).encode())


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "Not a line of JSON"),
        (b"hello", "Not a line of JSON"),
        (b"\xff\xfe\xfa", "Not a line of JSON"),
        (b'{"type":"ping"', "Not a line of JSON"),
        (b"[" * 200_000, "Not a line of JSON"),
        (b'{"type":"cancel","job":' + b"[" * 400 + b"]" * 400 + b"}", ".job is no str"),
        (b"[]", "Not an object with a type"),
        (b'"ping"', "Not an object with a type"),
        (b'{"job":"a"}', "Not an object with a type"),
        (b'{"type":null}', "Not an object with a type"),
        (b'{"type":["ping"]}', "Not an object with a type"),
        (b'{"type":"cancel"}', "Cancel lacks a field"),
        (b'{"type":"cancel","job":7}', ".job is no str"),
        (b'{"type":"progress","job":"a","seq":1.5,"stage":"vad","done_ms":0}', ".seq is no int"),
        (b'{"type":"progress","job":"a","seq":true,"stage":"vad","done_ms":0}', ".seq is no int"),
        (
            b'{"type":"failed","job":"a","seq":1,"code":"sad","message":"x"}',
            ".code is no ErrorCode",
        ),
        (b'{"type":"transcribe","job":"a","source":{"kind":"tape","value":"x"}}', ".source.kind"),
        (b'{"type":"segments","job":"a","seq":1,"segments":[{"start_ms":0}]}', ".segments[0]"),
        (b'{"type":"done","job":"a","seq":1,"summary":{"wall_s":NaN}}', ".summary.wall_s"),
        (b'{"type":"done","job":"a","seq":1,"summary":{"wall_s":1e999}}', ".summary.wall_s"),
    ],
)
def test_a_broken_line_is_told_with_what_is_wrong_in_it(line: bytes, sentence: str) -> None:
    with pytest.raises(WireError) as caught:
        decode(line)
    assert sentence in caught.value.message
    assert caught.value.code is ErrorCode.WIRE


def test_a_line_that_is_too_long_is_not_even_read() -> None:
    line = b'{"type":"cancel","job":"' + b"a" * MAX_LINE_BYTES + b'"}'
    with pytest.raises(WireError, match="longer than the protocol allows"):
        decode(line)


def test_a_line_that_never_ends_is_not_collected() -> None:
    endless = (b"a" * (MAX_LINE_BYTES // 4) for _ in range(6))
    with pytest.raises(WireError, match="longer than the protocol allows"):
        list(lines(endless))


def test_a_last_line_without_its_end_is_dropped() -> None:
    assert list(lines(iter([b'{"type":"ping"}\n{"ty', b'pe":"pi']))) == [b'{"type":"ping"}']


@pytest.mark.parametrize(
    ("major", "cure"),
    [
        (PROTOCOL_MAJOR + 1, "Update farscribe on this computer."),
        (PROTOCOL_MAJOR - 1, "Update farscribe on the machine."),
        (None, "Update farscribe on this computer."),
        (10**4000, "Update farscribe on this computer."),
        ("two", "Update farscribe on this computer."),
    ],
)
def test_another_major_version_is_refused_with_its_cure(major: object, cure: str) -> None:
    # Of another version nothing else is known: not one of its other fields need be as here.
    line = json.dumps({"type": "hello", "major": major, "strategy": 12}).encode()
    with pytest.raises(WireError) as caught:
        decode(line)
    assert caught.value.code is ErrorCode.VERSION
    assert caught.value.hint == cure


def test_another_minor_version_is_welcome() -> None:
    hello = Hello(PROTOCOL_MAJOR, 99, "9.9", "base", "cpu", "int8", "standard", 1.0)
    assert decode(encode(hello)) == hello


def test_strange_lines_are_typed_errors_at_both_ends_of_the_wire(tmp_path: Path) -> None:
    found = fuzz(tmp_path, seed=20_250, inputs=1000)
    assert found.total() == 1000
    assert min(found[kind] for kind in ("messages", "typed errors", "unknown types")) > 10


# ── nouns ────────────────────────────────────────────────────────────────────────────────────


def test_speed_is_audio_over_wall_and_zero_where_nothing_was_timed() -> None:
    assert Summary(duration_ms=60_000, wall_s=2.0).speed == 30.0
    assert Summary(duration_ms=60_000).speed == 0.0


def test_coverage_is_whole_where_there_was_no_speech_and_never_more_than_whole() -> None:
    assert Summary().coverage == 1.0
    assert Summary(speech_ms=1000, covered_ms=250).coverage == 0.25
    assert Summary(speech_ms=1000, covered_ms=1200).coverage == 1.0


def test_an_error_reads_as_its_sentence_and_its_next_step() -> None:
    error = KnownError(ErrorCode.OFFLINE, "No network.", "Go online.")
    assert str(error) == "No network. Go online."
    assert str(KnownError(ErrorCode.OFFLINE, "No network.")) == "No network."


def test_every_error_has_an_exit_status_other_than_success() -> None:
    assert {code for code in ErrorCode if code.exit_code is ExitCode.OK} == set()


def test_the_wire_needs_nothing_but_the_standard_library() -> None:
    source = Path(protocol.__file__).read_text(encoding="utf-8")
    imported = set(re.findall(r"^(?:import|from) (\w+)", source, re.MULTILINE))
    assert imported <= sys.stdlib_module_names


# ── PROTOCOL.md ──────────────────────────────────────────────────────────────────────────────


def fenced(kind: str) -> list[list[str]]:
    """The lines of each fenced block of this kind."""
    blocks = re.findall(rf"^```{kind}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in blocks]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    section = re.search(
        rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", DOCUMENT, re.MULTILINE | re.DOTALL
    )
    assert section, f"PROTOCOL.md has no section {heading}"
    table = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[2:]]


def in_words(kind: Any) -> str:
    """How the document names a type."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return " or ".join(f'`"{value}"`' for value in inner)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("null" if item is type(None) else in_words(item) for item in inner)
    if origin is tuple:
        return f"list of {in_words(inner[0])}"
    if origin is Mapping:
        return f"object of {in_words(inner[1])}"
    if dataclasses.is_dataclass(kind) or issubclass(kind, Enum):
        return str(kind.__name__)
    return {str: "text", int: "integer", float: "number", bool: "boolean"}[kind]


def default_in_words(field: "dataclasses.Field[Any]") -> str:
    """How the document names a default."""
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(field.default_factory())}`"
    if field.default is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(field.default):
        return "defaults"
    return f"`{json.dumps(protocol.to_plain(field.default))}`"


@pytest.mark.parametrize("cls", [*MESSAGES.values(), *NOUNS], ids=lambda cls: cls.__name__)
def test_the_document_names_every_field_with_its_kind_and_default(cls: type) -> None:
    names = {message: name for name, message in MESSAGES.items()}
    hints = typing.get_type_hints(cls)
    wanted = [
        [f"`{field.name}`", in_words(hints[field.name]), default_in_words(field)]
        for field in dataclasses.fields(cls)
    ]
    found = rows(names.get(cls, cls.__name__))
    assert [row[:3] for row in found] == wanted
    assert all(len(row[3]) > 3 for row in found)


def test_the_document_names_every_message_of_the_protocol() -> None:
    assert set(typing.get_args(protocol.Message)) == set(MESSAGES.values())


def test_the_document_names_every_error_and_its_exit_status() -> None:
    wanted = [[f"`{code.value}`", str(int(code.exit_code))] for code in ErrorCode]
    assert [row[:2] for row in rows("Error codes")] == wanted


def spoken(block: list[str]) -> list[Message]:
    """The messages of a sample conversation, each said by the right end, letter by letter."""
    messages: list[Message] = []
    for arrow, line in ((said[:2], said[2:]) for said in block):
        message = decode(line.encode())
        assert message is not None
        assert arrow == ("> " if type(message) in DOWN.values() else "< ")
        assert encode(message).decode() == line + "\n"
        messages.append(message)
    return messages


@pytest.mark.parametrize("block", fenced("wire"), ids=lambda block: block[0][:40])
def test_the_sample_conversations_are_what_both_ends_say(block: list[str]) -> None:
    messages = spoken(block)
    numbers: dict[str, int] = {}
    for message in messages:
        assert not isinstance(message, STORE)
        if isinstance(message, Transcribe):
            numbers[message.job] = message.after
        elif isinstance(message, Failed) and message.seq == 0:
            assert message.code is ErrorCode.NOT_FOUND or len(messages) == 1
        elif isinstance(message, Progress | Segments | Done | Failed):
            assert message.seq == numbers[message.job] + 1
            numbers[message.job] = message.seq
        elif isinstance(message, Acknowledge):
            assert message.seq == numbers[message.job]
    if isinstance(messages[0], Hello):
        assert (messages[0].major, messages[0].minor) == (PROTOCOL_MAJOR, PROTOCOL_MINOR)
    else:
        assert len(messages) == 1


@pytest.mark.parametrize("block", fenced("store"))
def test_the_sample_conversation_of_the_store_is_a_question_and_an_answer_in_turn(
    block: list[str],
) -> None:
    answers = {Have: Held, Put: Stored}
    messages = spoken(block)
    assert [type(m) for m in messages[1::2]] == [answers[type(m)] for m in messages[::2]]


def test_the_document_shows_every_message_in_a_conversation() -> None:
    said = [message for kind in ("wire", "store") for b in fenced(kind) for message in spoken(b)]
    assert {type(message) for message in said} == set(MESSAGES.values())


def test_the_document_names_every_message_where_it_says_who_says_it() -> None:
    section = DOCUMENT.partition("## Lines")[2].partition("## Manners")[0]
    assert sorted(re.findall(r"\*\*(\w+)\*\*", section)) == sorted(MESSAGES)


def test_the_short_forms_mean_what_the_document_says() -> None:
    (block,) = fenced("short")
    assert [decode(line.encode()) for line in block] == [
        Transcribe("a1", Source("path", "/recordings/interview.m4a")),
        Cancel("a1"),
        None,
    ]
