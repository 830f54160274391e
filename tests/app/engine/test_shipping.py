"""A recording on its way to the store, in virtual time."""

import pytest

from app.domain.blocks import Codec
from app.domain.events import Delayed, LinkLost, TextArrived, Uploading
from app.domain.jobs import JobState
from remote.protocol import Blocks, ErrorCode, KnownError
from tests.app.engine.fakes import Batch, FakeEngine, FakeMachine, FakeMedia, said

MBIT = 1e6


class Upload(Batch):
    """A batch over a machine with a store."""

    def __init__(self, blocks: int, *, uplink_mbits: float = 1000.0, cuts=None, **settings) -> None:
        self.far = FakeMachine(
            FakeEngine(), blocks=True, cuts=cuts, uplink_bits=uplink_mbits * MBIT
        )
        super().__init__(self.far, media=FakeMedia(blocks=blocks), **settings)

    @property
    def told_blocks(self) -> list[Blocks]:
        return [m for m in self.far.engine.heard if isinstance(m, Blocks)]

    def codecs(self) -> list[str]:
        sizes = [event.sent_bytes for event in self.of(Uploading)]
        steps = [after - before for before, after in zip([0, *sizes], sizes, strict=False)]
        return ["flac" if step == 500_000 else "opus" for step in steps if step]


def test_text_comes_while_later_blocks_are_still_on_their_way():
    batch = Upload(20, uplink_mbits=4)
    batch.run("a")
    first_text = batch.told.index(batch.of(TextArrived)[0])
    last_upload = batch.told.index(batch.of(Uploading)[-1])
    assert first_text < last_upload
    assert batch.texts("a") == said("a", 20)


def test_the_engine_is_told_of_blocks_in_order_without_a_hole_and_of_the_end_with_its_warnings():
    batch = Upload(20)
    batch.run("a")
    told = batch.told_blocks
    numbers = [n for m in told for n in range(m.first, m.first + len(m.blocks))]
    assert numbers == list(range(20))
    assert [m.complete for m in told] == [False] * (len(told) - 1) + [True]
    assert told[-1].warnings == ("a is strange.",)


def test_a_slow_uplink_gets_opus_from_the_second_block_on():
    batch = Upload(6, uplink_mbits=20)
    batch.run("a")
    assert batch.codecs() == ["flac", *["opus"] * 5]


def test_a_fast_uplink_gets_flac_and_a_decision_of_the_user_holds():
    fast = Upload(6, uplink_mbits=100_000)
    fast.media.size = 5_000_000
    fast.run("a")
    assert sum(fast.far.blocks.puts.values()) == 6
    assert fast.of(Uploading)[-1].sent_bytes == 30_000_000
    pinned = Upload(6, uplink_mbits=20, codec=Codec.FLAC)
    pinned.run("a")
    assert pinned.codecs() == ["flac"] * 6


def test_at_most_four_blocks_travel_and_at_most_eight_are_held_in_memory():
    batch = Upload(30, uplink_mbits=20, codec=Codec.FLAC)
    most = [0]

    def look(event: Uploading) -> None:
        arrived = event.sent_bytes // 500_000
        most[0] = max(most[0], batch.media.cuts[0].cut - arrived)

    batch.on(Uploading, look).run("a")
    assert batch.far.blocks.most_at_once == 4
    assert most[0] <= 9


def test_four_recordings_travel_at_once():
    batch = Upload(4, uplink_mbits=20)
    open_at_first_end: list[int] = []

    def look(event: Uploading) -> None:
        open_at_first_end.append(sum(cut.cut > 0 for cut in batch.media.cuts))

    batch.on(Uploading, look).run(*[f"r{n}" for n in range(10)])
    assert open_at_first_end[0] <= 4
    assert all(cut.closed for cut in batch.media.cuts)


def test_an_upload_that_breaks_off_goes_on_at_the_block_and_sends_none_twice():
    batch = Upload(30, uplink_mbits=20, cuts={20: "after", 41: "before", 60: "after"})
    assert batch.run("a")["a"].state is JobState.DONE
    assert len(batch.of(LinkLost)) == 3
    assert not batch.far.blocks.doubled.total()
    assert len(batch.media.cuts) == 1
    assert batch.texts("a") == said("a", 30)


def test_a_full_disk_of_the_machine_is_told_and_waited_for():
    batch = Upload(4)
    batch.far.blocks.refuse = [KnownError(ErrorCode.DISK_FULL, "Full.", "Make room.")] * 5
    assert batch.run("a")["a"].state is JobState.DONE
    assert {event.error.code for event in batch.of(Delayed)} == {ErrorCode.DISK_FULL}


def test_a_full_disk_of_the_machine_can_be_cancelled():
    batch = Upload(4)
    batch.far.blocks.refuse = [KnownError(ErrorCode.DISK_FULL, "Full.", "Make room.")] * 10_000
    batch.on(Delayed, lambda _: batch.service.cancel())
    error = batch.run("a")["a"].error
    assert error is not None
    assert error.code is ErrorCode.CANCELLED


@pytest.mark.parametrize("when", [1, 3])
def test_blocks_that_the_engine_has_lost_are_cut_and_sent_again(when):
    batch = Upload(5)
    lost: list[str] = []

    def lose(event: TextArrived) -> None:
        if len(batch.of(TextArrived)) == when:
            lost.extend(batch.far.engine.store)
            batch.far.engine.store.clear()

    assert batch.on(TextArrived, lose).run("a")["a"].state is JobState.DONE
    assert batch.texts("a") == said("a", 5)
    assert lost
    assert all(cut.closed for cut in batch.media.cuts)


def test_a_file_that_has_changed_meanwhile_is_told_where_its_blocks_are_wanted_again():
    batch = Upload(5)

    def lose(event: TextArrived) -> None:
        batch.far.engine.store.clear()
        batch.media.size += 4

    error = batch.on(TextArrived, lose).run("a")["a"].error
    assert error is not None
    assert error.code is ErrorCode.FILE_VANISHED


def test_a_file_that_cannot_be_read_fails_by_itself():
    batch = Upload(3)
    batch.media.unreadable.add("bad")
    jobs = batch.run("bad", "a")
    assert jobs["bad"].error is not None
    assert jobs["bad"].error.code is ErrorCode.NOT_AUDIO
    assert jobs["a"].state is JobState.DONE


def test_how_far_the_upload_is_is_told_in_milliseconds():
    batch = Upload(4)
    batch.run("a")
    places = [event.job.stages["upload"] for event in batch.of(Uploading)]
    done = [place.done_ms for place in places]
    assert done == sorted(done)
    assert (done[-1], places[-1].total_ms) == (120_000, 120_000)
    assert batch.of(Uploading)[-1].complete
    assert (batch.of(Uploading)[-1].mbits or 0) > 0
