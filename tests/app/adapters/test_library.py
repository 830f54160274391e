"""The library keeps what it is told, once, and tells it again as it was."""

import asyncio
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.adapters.library.library import SqliteLibrary, default_path
from app.domain.history import JobSettings, Query
from app.domain.jobs import JobEvent, JobState
from app.domain.settings import EngineSettings
from app.domain.transcript import in_time_order
from remote.protocol import (
    Done,
    ErrorCode,
    Failed,
    Gap,
    Hello,
    KnownError,
    Options,
    Progress,
    Quality,
    Segment,
    Segments,
    StageTimes,
    Summary,
    WireError,
    Word,
)
from tests.app.adapters.library_jobs import NOON, Shelf, entry, segments

HELLO = Hello(1, 1, "0.1.0", "tiny.en", "NVIDIA L4", "float16", "gpu-state", 0.4, ("quick",))
SUMMARY = Summary(
    60_000, 50_000, 49_000, (Gap(1000, 2000),), "en", 1.0, StageTimes({"encode": 0.5}), 1.5, 2
)


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Shelf(tmp_path / "library.sqlite") as opened:
        yield opened


def code_of(call, *args, **options) -> ErrorCode:
    with pytest.raises(KnownError) as caught:
        call(*args, **options)
    return caught.value.code


# ── entries ──────────────────────────────────────────────────────────────────────────────────


def test_a_job_is_there_again_as_it_was_added(shelf):
    job = entry(
        Path("/recordings/Ä 集.wav"),
        settings=JobSettings(
            "ssh://me@host:22",
            EngineSettings("base", "cuda", "int8"),
            Options("de", "translate", words=True, vocabulary='Łódź, "x"'),
        ),
        added_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        size_bytes=2**40,
        content="c0" * 32,
        state=JobState.FAILED,
        engine=HELLO,
        summary=SUMMARY,
        stages={"upload": 1.25, "wait": 0.0},
        sent_bytes=12_345,
        error=KnownError(ErrorCode.LINK_LOST, "The link is lost.", "Try again."),
        started_at=NOON,
        ended_at=NOON + timedelta(microseconds=1),
        exports=(Path("/out/a.txt"), Path("/out/a.srt")),
    )
    shelf.add([job])
    found = shelf.entry(job.id)
    assert replace(found, error=None) == replace(job, error=None)
    assert (found.error.code, str(found.error)) == (job.error.code, str(job.error))


@pytest.mark.skipif(os.name != "posix", reason="names are Unicode elsewhere")
def test_names_that_are_not_unicode_are_kept(shelf):
    path = Path(os.fsdecode(b"/recordings/caf\xe9.wav"))
    job = entry(path, exports=(path.with_suffix(".txt"),))
    shelf.add([job])
    assert shelf.entry(job.id) == job


def test_jobs_are_added_all_or_none(shelf):
    good, bad = entry(), entry(size_bytes=2**70)
    with pytest.raises(OverflowError):
        shelf.add([good, bad])
    assert shelf.entries() == ()


def test_adding_a_job_again_leaves_it_as_it_is(shelf):
    job = entry()
    shelf.add([job])
    shelf.append(job.id, [segments(job.id, 1, ["one"])])
    shelf.add([job, job])
    assert [(found.id, found.seq) for found in shelf.entries()] == [(job.id, 1)]


def test_a_job_is_found_by_its_first_digits_where_they_name_one_only(shelf):
    one, other = (replace(entry(), id=digits + "0" * 24) for digits in ("abc12345", "abd12345"))
    shelf.add([one, other])
    assert shelf.entry("ABC") == one
    assert shelf.entry(other.id) == other
    for digits in ("ab", "x", "", "%", other.id + "0"):
        assert code_of(shelf.entry, digits) is ErrorCode.NOT_FOUND


def test_entries_come_newest_first_by_what_is_asked_for(shelf):
    a = entry(Path("/x/Straße.wav"), content="a")
    b = entry(Path("/x/b.wav"), content="b", state=JobState.RUNNING)
    c = entry(Path("/x/STRASSE 2.wav"), content="a", state=JobState.DONE)
    shelf.add([a, b, c])
    assert shelf.entries() == (c, b, a)
    assert shelf.entries(Query(limit=2)) == (c, b)
    assert shelf.entries(Query(limit=0)) == ()
    assert shelf.entries(Query(content="a")) == (c, a)
    assert shelf.entries(Query(name="strasse")) == (c, a)
    assert shelf.entries(Query(name="E%")) == ()
    assert shelf.entries(Query(states=frozenset({JobState.RUNNING, JobState.DONE}))) == (c, b)
    assert shelf.entries(Query(frozenset({JobState.DONE}), "a", "2", 5)) == (c,)


def test_fields_that_no_event_changes_are_updated(shelf):
    job = entry()
    shelf.add([job])
    changes = {
        "state": JobState.RUNNING,
        "engine": HELLO,
        "stages": {"upload": 2.5},
        "sent_bytes": 7,
        "content": "ff",
        "size_bytes": 9,
        "started_at": NOON,
        "path": Path("/moved/B.wav"),
    }
    shelf.update(job.id, **changes)
    assert shelf.entry(job.id) == replace(job, **changes)
    assert shelf.entries(Query(name="moved/b")) == (replace(job, **changes),)


@pytest.mark.parametrize("field", ["settings", "seq", "summary", "id", "exports", "segments"])
def test_settings_are_frozen_and_what_events_change_only_they_change(shelf, field):
    job = entry()
    shelf.add([job])
    with pytest.raises(TypeError, match=field):
        shelf.update(job.id, **{field: 1})
    assert shelf.entry(job.id) == job


def test_exports_are_remembered_each_once(shelf):
    job = shelf.has_said("one")
    shelf.note_export(job, [Path("/a.txt"), Path("/a.srt")])
    shelf.note_export(job, [Path("/a.srt"), Path("/b.md")])
    assert shelf.entry(job).exports == (Path("/a.txt"), Path("/a.srt"), Path("/b.md"))


def test_what_is_removed_is_gone_with_its_text_and_nothing_else_is(shelf):
    other = shelf.has_said("apples and pears")
    job = shelf.has_said("apples")
    shelf.remove(job)
    assert code_of(shelf.entry, job) is ErrorCode.NOT_FOUND
    assert shelf.found("apples") == ["apples and pears"]
    assert [found.id for found in shelf.entries()] == [other]
    assert shelf.has_said("plums") != job
    assert shelf.found("apples") == ["apples and pears"]


@pytest.mark.parametrize(
    ("verb", "args"),
    [
        ("append", ([Progress("x", 1, "mel", 0)],)),
        ("update", ()),
        ("restart", ()),
        ("transcript", ()),
        ("edit", (0, "x")),
        ("note_export", ([],)),
        ("remove", ()),
    ],
)
def test_a_job_that_is_not_there_is_not_found(shelf, verb, args):
    assert code_of(getattr(shelf, verb), "0" * 32, *args) is ErrorCode.NOT_FOUND


# ── events ───────────────────────────────────────────────────────────────────────────────────


def test_events_end_the_entry_with_what_they_say(shelf):
    job = entry(state=JobState.RUNNING)
    shelf.add([job])
    assert shelf.append(job.id, [Progress(job.id, 1, "mel", 5)]) == 1
    assert shelf.append(job.id, [segments(job.id, 2, ["one", "two"])]) == 2
    assert shelf.append(job.id, [Done(job.id, 3, SUMMARY)]) == 3
    found = shelf.entry(job.id)
    assert found == replace(job, state=JobState.DONE, seq=3, summary=SUMMARY, ended_at=NOON)
    transcript = shelf.transcript(job.id)
    assert (transcript.source, transcript.summary) == (job.path, SUMMARY)
    assert transcript.text == "one two"


def test_a_failed_job_keeps_the_text_it_had(shelf):
    job = entry()
    shelf.add([job])
    failed = Failed(job.id, 2, ErrorCode.OUT_OF_MEMORY, "No memory.", "Buy some.")
    shelf.append(job.id, [segments(job.id, 1, ["one"]), failed])
    found = shelf.entry(job.id)
    assert (found.state, found.error.code, found.ended_at) == (
        JobState.FAILED,
        ErrorCode.OUT_OF_MEMORY,
        NOON,
    )
    assert shelf.transcript(job.id).text == "one"


def test_before_a_hole_everything_is_stored_and_after_it_nothing(shelf):
    job = entry()
    shelf.add([job])
    with pytest.raises(WireError, match="event 2 of job"):
        shelf.append(job.id, [segments(job.id, 1, ["one"]), segments(job.id, 3, ["three"])])
    assert (shelf.entry(job.id).seq, shelf.texts(job.id)) == (1, ["one"])


def test_a_job_that_has_ended_takes_in_nothing(shelf):
    job = shelf.has_said("one")
    assert shelf.append(job, [segments(job, 3, ["two"]), Done(job, 9, SUMMARY)]) == 2
    assert shelf.texts(job) == ["one"]


def test_a_number_beyond_all_measure_is_an_error_of_the_wire_and_changes_nothing(shelf):
    job = entry()
    shelf.add([job])
    endless = Segments(job.id, 2, (Segment(0, 2**64, "x"),))
    with pytest.raises(WireError):
        shelf.append(job.id, [segments(job.id, 1, ["one"]), endless])
    assert shelf.entry(job.id) == job


def test_a_restarted_job_begins_anew_and_one_that_had_ended_waits(shelf):
    job = shelf.has_said("one", "two")
    shelf.restart(job)
    found = shelf.entry(job)
    assert (found.state, found.seq, found.summary, found.ended_at) == (
        JobState.WAITING,
        0,
        None,
        None,
    )
    assert (shelf.texts(job), shelf.found("one")) == ([], [])
    running = entry(state=JobState.RUNNING)
    shelf.add([running])
    shelf.append(running.id, [Progress(running.id, 1, "mel", 0)])
    shelf.restart(running.id)
    assert shelf.entry(running.id) == running


@given(
    st.lists(
        st.builds(
            Segment,
            start_ms=st.integers(0, 10_000),
            end_ms=st.integers(0, 10**12),
            text=st.text(st.characters()),
            words=st.lists(
                st.builds(
                    Word,
                    st.integers(0, 10**9),
                    st.integers(0, 10**9),
                    st.text(),
                    st.floats(0, 1),
                ),
                max_size=3,
            ).map(tuple),
            channel=st.none() | st.integers(0, 2),
            language=st.sampled_from(["", "en", "zh"]),
            quality=st.builds(Quality, st.floats(-9, 0), st.floats(0, 9), st.floats(0, 1)),
        ),
        max_size=4,
    )
)
@settings(max_examples=60)
def test_segments_are_there_again_as_they_were(kept_shelf, given_segments):
    job = entry()
    kept_shelf.add([job])
    kept_shelf.append(job.id, [Segments(job.id, 1, tuple(given_segments))])
    assert kept_shelf.transcript(job.id).segments == in_time_order(given_segments)


@pytest.fixture(scope="module")
def kept_shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """A library for many examples of one test."""
    with Shelf(tmp_path_factory.mktemp("library") / "library.sqlite") as opened:
        yield opened


def test_half_a_surrogate_pair_becomes_a_replacement_character(shelf):
    job = shelf.has_said("a\ud800b \U0001f600")
    assert shelf.texts(job) == ["a\ufffdb \U0001f600"]


# ── edits ────────────────────────────────────────────────────────────────────────────────────


def test_edits_stand_beside_what_was_heard(shelf):
    job = shelf.has_said("one", "too", "three")
    shelf.edit(job, 1, "two")
    assert shelf.texts(job) == ["one", "two", "three"]
    assert shelf.texts(job, edited=False) == ["one", "too", "three"]
    shelf.edit(job, 1, "")
    assert shelf.transcript(job).text == "one three"
    shelf.edit(job, 1, None)
    assert shelf.texts(job) == ["one", "too", "three"]


def test_words_of_another_text_are_left_out(shelf):
    job = entry()
    shelf.add([job])
    words = (Word(0, 900, "too"),)
    shelf.append(job.id, [Segments(job.id, 1, (Segment(0, 900, "too", words),))])
    shelf.edit(job.id, 0, "two")
    assert shelf.transcript(job.id).segments[0].words == ()
    assert shelf.transcript(job.id, edited=False).segments[0].words == words
    shelf.edit(job.id, 0, "too")
    assert shelf.transcript(job.id).segments[0].words == words


@pytest.mark.parametrize("segment", [-1, 2, 2**70])
def test_a_segment_that_is_not_there_cannot_be_edited(shelf, segment):
    job = shelf.has_said("one", "two")
    assert code_of(shelf.edit, job, segment, "x") is ErrorCode.NOT_FOUND


def test_channels_are_counted_in_time_order_in_text_edits_and_hits(shelf):
    job = entry()
    shelf.add([job])
    left, right = (
        tuple(Segment(at, at + 9, f"{name}{at} said", channel=n) for at in (0, 100, 200))
        for n, name in enumerate(["left", "right"])
    )
    shelf.append(job.id, [Segments(job.id, 1, right), Segments(job.id, 2, left)])
    said = shelf.texts(job.id)
    assert said[:4] == ["left0 said", "right0 said", "left100 said", "right100 said"]
    hits = {hit.snippet: hit.segment for hit in shelf.search("said")}
    assert [said[hits[text]] for text in said] == said
    shelf.edit(job.id, hits["right100 said"], "edited")
    assert shelf.texts(job.id)[3] == "edited"


def test_edits_come_back_where_the_same_is_heard_again(shelf):
    job = shelf.has_said("one", "too", "three")
    shelf.edit(job, 1, "two")
    shelf.edit(job, 2, "III")
    shelf.restart(job)
    shelf.append(job, [segments(job, 1, ["one", "too", "tree"])])
    assert shelf.texts(job) == ["one", "two", "tree"]
    assert shelf.found("two") == ["two"]


# ── once, in whatever pieces ─────────────────────────────────────────────────────────────────


class Telling(RuleBasedStateMachine):
    """An engine that tells its events in any pieces, again and again, to a library that closes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "library.sqlite"
        self.shelf = Shelf(self.path)
        self.seq = 0
        self.edits: dict[int, str] = {}

    @initialize(sizes=st.lists(st.integers(0, 3) | st.none(), min_size=1, max_size=12))
    def begin(self, sizes: list[int | None]) -> None:
        self.job = entry(state=JobState.RUNNING)
        self.events: list[JobEvent] = []
        for seq, size in enumerate(sizes, 1):
            texts = [f"event{seq} segment{n}" for n in range(size or 0)]
            event = segments(self.job.id, seq, texts, seq * 10_000)
            self.events.append(Progress(self.job.id, seq, "mel", 0) if size is None else event)
        self.events.append(Done(self.job.id, len(sizes) + 1, SUMMARY))
        self.shelf.add([self.job])

    @rule(a=st.integers(0, 13), b=st.integers(0, 13), again=st.integers(1, 2))
    def tell(self, a: int, b: int, again: int) -> None:
        batch = self.events[min(a, b) : max(a, b)] * again
        hole = bool(batch) and batch[0].seq > self.seq + 1 and self.seq < len(self.events)
        if hole:
            with pytest.raises(WireError):
                self.shelf.append(self.job.id, batch)
            return
        self.seq = max([self.seq, *(event.seq for event in batch)])
        assert self.shelf.append(self.job.id, batch) == self.seq

    @rule()
    def close_and_open(self) -> None:
        self.shelf.__exit__(None, None, None)
        self.shelf = Shelf(self.path)

    @rule()
    def forget(self) -> None:
        self.shelf.restart(self.job.id)
        self.seq = 0

    @rule(segment=st.integers(0, 20))
    def edit(self, segment: int) -> None:
        heard = self.heard()
        if segment < len(heard):
            self.edits[segment] = f"edited{segment}"
            self.shelf.edit(self.job.id, segment, self.edits[segment])

    def heard(self) -> list[str]:
        told = [event for event in self.events[: self.seq] if isinstance(event, Segments)]
        return [segment.text for event in told for segment in event.segments]

    @invariant()
    def everything_is_there_once(self) -> None:
        if not hasattr(self, "job"):
            return
        found, heard = self.shelf.entry(self.job.id), self.heard()
        assert found.seq == self.seq
        assert (found.state is JobState.DONE) == (self.seq == len(self.events))
        assert self.shelf.texts(self.job.id, edited=False) == heard
        shown = [self.edits.get(n, text) for n, text in enumerate(heard)]
        assert self.shelf.texts(self.job.id) == shown
        for word in ("segment0", "edited1"):
            assert self.shelf.found(word) == [text for text in shown if word in text.split()]

    def teardown(self) -> None:
        self.shelf.__exit__(None, None, None)
        self.folder.cleanup()


TestTelling = Telling.TestCase
TestTelling.settings = settings(max_examples=25, stateful_step_count=12)


# ── threads ──────────────────────────────────────────────────────────────────────────────────


def test_reads_do_not_wait_for_a_writer_and_a_cancelled_write_is_not_lost(tmp_path):
    job = entry()

    async def conversation() -> None:
        library = SqliteLibrary(tmp_path / "library.sqlite", patience_s=60)
        await library.add([job])
        other = sqlite3.connect(library.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        first, second = (
            asyncio.create_task(library.append(job.id, [segments(job.id, n, [f"event{n}"])]))
            for n in (1, 2)
        )
        await asyncio.sleep(0)  # both are with the writer, who waits
        assert (await library.entry(job.id)).seq == 0
        assert await library.search("event1") == ()
        for task in (first, second):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        other.execute("ROLLBACK")
        other.close()
        await library.close()
        await library.close()

    asyncio.run(conversation())
    with Shelf(tmp_path / "library.sqlite") as shelf:
        assert shelf.texts(job.id) == ["event1", "event2"]


def test_what_was_written_is_read_by_the_next_call_and_many_calls_run_at_once(tmp_path):
    async def conversation() -> None:
        library = SqliteLibrary(tmp_path / "library.sqlite")

        async def one(number: int) -> None:
            job = entry(Path(f"/{number}.wav"))
            await library.add([job])
            for seq in range(1, 6):
                await library.append(job.id, [segments(job.id, seq, [f"{number} {seq}"])])
                assert len((await library.transcript(job.id)).segments) == seq

        await asyncio.gather(*map(one, range(8)))
        assert len(await library.search("5", limit=100)) == 12  # 8 fifth events, 5 events of job 5
        await library.close()

    asyncio.run(conversation())


def test_the_library_is_in_the_house_of_farscribe(monkeypatch, tmp_path):
    monkeypatch.setenv("FARSCRIBE_HOME", str(tmp_path))
    assert default_path() == tmp_path / "library.sqlite"
    monkeypatch.delenv("FARSCRIBE_HOME")
    assert default_path().parent.name == "farscribe"
