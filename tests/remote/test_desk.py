"""The desk: jobs share the device, models change places, and nobody suffers for another."""

import gc
import hashlib
import io
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from remote import desk as desk_module
from remote.chunking import WindowSettings
from remote.desk import STALLED_S, Desk
from remote.direct_transcribe import Engine
from remote.journal import DEADLY_BEGINS
from remote.load_report import LoadReport
from remote.protocol import (
    Block,
    Blocks,
    Done,
    ErrorCode,
    Failed,
    Hello,
    KnownError,
    Message,
    Missing,
    Options,
    Segments,
    Source,
    StageTimes,
    Transcribe,
    decode,
)
from remote.spool import Spool
from remote.transcriber import Transcriber
from remote.worker import Worker
from tests.remote.doubles import Loud, LoudStream, Script, Scripted, says
from tests.remote.loaded_model import Loaded, loaded
from tests.remote.loopback_server import held
from tests.remote.model_factory import write_model
from tests.remote.patience import PATIENCE_S, soon
from tests.remote.recordings import RATE, Int16, write

ROWS = 4
SHORT = WindowSettings(max_window_s=4.0, max_gap_s=3.0, cut_search_s=1.0)
GREEDY = Options(language="en", fallback=False)
POISON = 30_000


class Tender(Loud):
    """A detector that breaks down where it is very loud."""

    def stream(self) -> LoudStream:
        class Stream(LoudStream):
            def push(self, samples: NDArray[np.int16]) -> NDArray[np.float32]:
                if samples.max(initial=0) >= POISON:
                    raise ZeroDivisionError("poison")
                return super().push(samples)

        return Stream()


class Device(Scripted):
    """Says the same of every window; the test may look on at each encoding."""

    def __init__(self, vocab: int, script: Script) -> None:
        super().__init__(vocab, [script])
        self.encoded = 0
        self.before: Callable[[], None] = lambda: None

    def encode(self, mel: Tensor) -> Tensor:
        self.before()
        self.encoded += len(mel)
        return super().encode(mel)


@dataclass
class Shop:
    """A desk at work, with its worker, and what is to be opened by which name."""

    worker: Worker
    desk: Desk
    hellos: list[Hello]
    opened: list[str]
    devices: "weakref.WeakValueDictionary[str, Device]"
    told: list[Message]
    clock: list[float]
    news: threading.Condition = field(default_factory=threading.Condition)

    def post(self, message: Message) -> None:
        self.told.append(message)
        self.wake()

    def wake(self) -> None:
        with self.news:
            self.news.notify_all()

    def submit(self, name: str, source: Source | Path, model: str = "", **options: str) -> None:
        where = Source("path", str(source)) if isinstance(source, Path) else source
        asked = Options(**{"language": "en", "fallback": False, **options})  # type: ignore[arg-type]
        assert not isinstance(self.worker.accept(Transcribe(name, where, asked, model)), Failed)

    def events(self, name: str) -> list[Message | None]:
        job = self.worker.job(name)
        assert job is not None
        return [decode(line) for line in job.journal.events(0)]

    def text(self, name: str) -> list[tuple[int, int, str]]:
        return [
            (s.start_ms, s.end_ms, s.text)
            for event in self.events(name)
            if isinstance(event, Segments)
            for s in event.segments
        ]

    def until(self, true: Callable[[], bool]) -> None:
        with self.news:
            assert self.news.wait_for(true, PATIENCE_S)

    def end(self, name: str) -> Done | Failed:
        """How a job ends."""
        job = self.worker.job(name)
        assert job is not None
        self.until(lambda: job.journal.ended)
        last = self.events(name)[-1]
        assert isinstance(last, Done | Failed)
        return last


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = write_model(tmp_path_factory.mktemp("model"), encoder_layers=1, decoder_layers=1)
    return loaded(folder)


@pytest.fixture
def shop(small: Loaded, tmp_path: Path) -> Iterator[Shop]:
    worker: Worker
    clock = [1000.0]
    hellos: list[Hello] = []
    opened: list[str] = []
    devices: weakref.WeakValueDictionary[str, Device] = weakref.WeakValueDictionary()

    def open_model(name: str) -> Engine:
        opened.append(name)
        gc.collect()
        assert len(devices) == 0  # the one before has gone
        if name == "missing":
            raise KnownError(ErrorCode.MODEL_MISSING, "There is no such model.")
        if name == "broken":
            raise ZeroDivisionError("broken")
        device = Device(small.tokenizer.vocab_size, says(small.tokenizer, 0.0, f" {name}", 4.0))
        devices[name] = device
        made = Transcriber(device, small.tokenizer, Tender(), rows=ROWS, settings=SHORT)
        report = LoadReport("standard", (), (), "cpu", "float32", StageTimes(), 0.0, 0, False, 0, 0)
        return Engine(made, Hello(1, 1, "0", name, "cpu", "float32", "standard", 0.0), report)

    spool = Spool(tmp_path / "spool")
    desk = Desk(
        open_model, spool.blocks, model="the", changed=hellos.append, clock=lambda: clock[0]
    )
    worker = Worker(desk, spool, clock=lambda: clock[0])
    made = Shop(worker, desk, hellos, opened, devices, [], clock)
    worker.join(made)
    running = threading.Thread(target=desk.run, daemon=True)
    running.start()
    yield made
    desk.stop()
    for job in worker.open_jobs:
        worker.cancel(job.name)
    running.join(PATIENCE_S)
    assert not running.is_alive()


@pytest.fixture(scope="module")
def four_seconds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loud(tmp_path_factory.mktemp("audio") / "short.wav", 3.9)


def sound(seconds: float, level: int = 2000) -> Int16:
    samples = np.full((1, round((seconds + 0.5) * RATE)), level, np.int16)
    samples[:, round(seconds * RATE) :] = 0
    return samples


def loud(path: Path, seconds: float, level: int = 2000) -> Path:
    """Loud for so long, then half a second of silence."""
    return write(path, sound(seconds, level))


# ── jobs ─────────────────────────────────────────────────────────────────────────────────────


def test_a_job_becomes_its_text(shop: Shop, four_seconds: Path) -> None:
    shop.submit("a", four_seconds)
    end = shop.end("a")
    assert isinstance(end, Done)
    assert [text for _, _, text in shop.text("a")] == ["the"]
    assert end.summary.windows == 1
    assert shop.desk.worked_s() > 0
    assert shop.desk.hello.model == "the"
    assert shop.desk.device_memory() == (0, 0)


def test_thirty_two_jobs_end_and_the_poisoned_among_them_end_alone(
    shop: Shop, four_seconds: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    garbage = tmp_path / "garbage.wav"
    garbage.write_bytes(b"no sound at all" * 99)
    poison = loud(tmp_path / "poison.wav", 3.0, POISON)
    bad = {"5": garbage, "17": poison, "23": tmp_path / "nowhere.wav"}
    names = [str(number) for number in range(32)]
    for name in names:
        shop.submit(name, bad.get(name, four_seconds))
    shop.submit("klingon", four_seconds, language="klingon")
    ends = {name: shop.end(name) for name in names}
    good = [name for name in names if name not in bad]
    assert {type(ends[name]) for name in good} == {Done}
    assert len({tuple(shop.text(name)) for name in good}) == 1
    codes = [end.code for name in bad if isinstance(end := ends[name], Failed)]
    assert codes == [ErrorCode.NOT_AUDIO, ErrorCode.BUG, ErrorCode.FILE_MISSING]
    refused = shop.end("klingon")
    assert isinstance(refused, Failed)
    assert refused.code is ErrorCode.UNKNOWN_LANGUAGE
    assert "poison" in caplog.text


def test_a_short_job_does_not_wait_behind_a_long_one(
    shop: Shop, four_seconds: Path, tmp_path: Path
) -> None:
    long = loud(tmp_path / "long.wav", 400.0)
    shop.submit("first", four_seconds)
    shop.end("first")
    device = shop.devices["the"]
    at: list[int] = []

    def look() -> None:
        """Once the long one is well under way the short one comes; the device waits for it."""
        if device.encoded < 12 or len(at) == 2:
            return
        at.append(device.encoded)
        if len(at) == 1:
            shop.submit("short", four_seconds)
            return
        job = shop.worker.job("short")
        assert job is not None
        soon(lambda: job.running and sum(t.name == "audio" for t in threading.enumerate()) == 1)

    device.before = look
    shop.submit("long", long)
    shop.until(lambda: len(at) > 0 and bool(shop.text("short")))
    came, read = at
    assert device.encoded - read <= 2 * ROWS
    assert device.encoded - came <= 3 * ROWS  # one of them was under way
    assert shop.worker.job("long").journal.ended is False  # type: ignore[union-attr]
    shop.worker.cancel("long")


# ── cancelling ───────────────────────────────────────────────────────────────────────────────


def test_jobs_are_cancelled_while_they_wait_are_opened_or_run(
    shop: Shop, four_seconds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk_module, "MOST_AT_WORK", 2)
    with held(four_seconds, 20) as hold:  # not even its header comes
        shop.submit("opened", Source("url", hold.url))
        shop.submit("running", Source("blocks", "x.mp3"))
        shop.submit("waiting", four_seconds)
        running = shop.worker.job("running")
        assert running is not None
        soon(lambda: running.running)
        for name in ("waiting", "opened", "running"):
            shop.worker.cancel(name)
            end = shop.end(name)
            assert isinstance(end, Failed)
            assert end.code is ErrorCode.CANCELLED
            assert len(shop.events(name)) == 1
        assert not hold.lapsed
    shop.submit("next", four_seconds)
    assert isinstance(shop.end("next"), Done)


# ── models ───────────────────────────────────────────────────────────────────────────────────


def test_models_change_places_on_request_and_the_old_one_gives_its_memory_back(
    shop: Shop, four_seconds: Path
) -> None:
    for number, model in enumerate(("", "house", "the", "")):
        shop.submit(str(number), four_seconds, model)
    for number in range(4):
        assert isinstance(shop.end(str(number)), Done)
    assert [shop.text(str(n))[0][2] for n in range(4)] == ["the", "house", "the", "the"]
    assert shop.opened == ["the", "house", "the"]
    assert [hello.model for hello in shop.hellos] == ["the", "", "house", "", "the"]


@pytest.mark.parametrize(
    ("model", "code"), [("missing", ErrorCode.MODEL_MISSING), ("broken", ErrorCode.BUG)]
)
def test_a_model_that_cannot_be_opened_fails_its_own_jobs_alone(
    shop: Shop, four_seconds: Path, model: str, code: ErrorCode
) -> None:
    shop.submit("before", four_seconds)
    for name in ("bad", "worse"):
        shop.submit(name, four_seconds, model)
    shop.submit("after", four_seconds)
    for name in ("bad", "worse"):
        end = shop.end(name)
        assert isinstance(end, Failed)
        assert end.code is code
    assert isinstance(shop.end("before"), Done)
    assert isinstance(shop.end("after"), Done)
    assert shop.opened == ["the", model, "the"]


def test_a_job_whose_audio_does_not_come_keeps_no_model_in_its_place(
    shop: Shop, four_seconds: Path
) -> None:
    blocks = [stored(shop, sound(3.9)) for _ in range(2)]
    shop.submit("slow", Source("blocks", "slow.mp3"))
    shop.worker.add_blocks(Blocks("slow", 0, tuple(blocks[:1])))
    shop.submit("other", four_seconds, "house")
    slow = shop.worker.job("slow")
    assert slow is not None
    soon(lambda: slow.running)
    assert shop.opened == ["the"]
    shop.clock[0] += STALLED_S + 1
    assert isinstance(shop.end("other"), Done)
    assert not slow.running
    assert not slow.journal.ended
    shop.worker.add_blocks(Blocks("slow", 1, tuple(blocks[1:]), complete=True))
    end = shop.end("slow")
    assert isinstance(end, Done)
    assert end.summary.duration_ms == 8800
    assert slow.journal.begins == 0
    numbers = [event.seq for event in shop.events("slow")]  # type: ignore[union-attr]
    assert numbers == list(range(1, len(numbers) + 1))
    assert [hello.model for hello in shop.hellos] == ["the", "", "house"]  # "" is: any


# ── blocks ───────────────────────────────────────────────────────────────────────────────────


def stored(shop: Shop, samples: Int16) -> Block:
    """A block in the store."""
    made = io.BytesIO()
    path = shop.worker.spool.folder / "made.flac"
    write(path, samples, codec="flac")
    data = path.read_bytes()
    made.write(data)
    made.seek(0)
    block = hashlib.sha256(data).hexdigest()
    shop.worker.spool.blocks.store(block, len(data), made.read)
    return Block(block, samples.shape[1])


def test_a_lost_block_is_asked_for_and_the_job_goes_on_when_it_is_there(shop: Shop) -> None:
    samples = sound(3.9)
    block = stored(shop, samples)
    shop.worker.spool.blocks.forget([block.id])
    shop.submit("a", Source("blocks", "x.mp3"))
    shop.worker.add_blocks(Blocks("a", 0, (block,), complete=True))
    shop.until(lambda: Missing("a", (block.id,)) in shop.told)
    stored(shop, samples)
    shop.worker.add_blocks(Blocks("a", 0, (block,), complete=True))
    assert isinstance(shop.end("a"), Done)
    soon(lambda: not shop.worker.spool.blocks.held([block.id]))  # it has served


@pytest.mark.parametrize("tracks", [0, -1, 65, 10**30])
def test_a_recording_of_impossible_tracks_is_refused(shop: Shop, tracks: int) -> None:
    shop.submit("a", Source("blocks", "x.mp3", tracks=tracks))
    end = shop.end("a")
    assert isinstance(end, Failed)
    assert end.code is ErrorCode.WIRE


# ── jobs that kill ───────────────────────────────────────────────────────────────────────────


def kept(shop: Shop, name: str, begins: int) -> None:
    """A job of blocks from before, over which the engine has died so often."""
    request = Transcribe(name, Source("blocks", f"{name}.mp3"), GREEDY)
    journal = shop.worker.spool.create(request)
    for _ in range(begins):
        journal.begin()
    journal.close()


def looked_at(shop: Shop, name: str) -> list[bool]:
    """Whether a job was running at each encoding."""
    found: list[bool] = []
    job = shop.worker.job(name)
    assert job is not None
    shop.devices["the"].before = lambda: found.append(job.running)
    return found


def test_nobody_joins_one_that_may_be_deadly(shop: Shop, four_seconds: Path) -> None:
    kept(shop, "suspect", DEADLY_BEGINS - 1)
    shop.worker.recover()
    suspect = shop.worker.job("suspect")
    assert suspect is not None
    soon(lambda: suspect.running)
    shop.submit("other", four_seconds)
    running = looked_at(shop, "other")
    shop.worker.add_blocks(Blocks("suspect", 0, (stored(shop, sound(9.0)),)))
    assert isinstance(shop.end("other"), Done)  # once the suspect has got on
    assert running[0] is False
    assert suspect.journal.begins == 0


def test_one_that_may_be_deadly_joins_nobody(shop: Shop) -> None:
    block = stored(shop, sound(3.9))
    kept(shop, "bystander", DEADLY_BEGINS - 2)
    kept(shop, "suspect", DEADLY_BEGINS - 1)
    shop.worker.recover()
    bystander = shop.worker.job("bystander")
    assert bystander is not None
    soon(lambda: bystander.running)
    running = looked_at(shop, "suspect")
    for name in ("suspect", "bystander"):
        shop.worker.add_blocks(Blocks(name, 0, (block,), complete=True))
        stored(shop, sound(3.9))
    assert isinstance(shop.end("bystander"), Done)
    stored(shop, sound(3.9))
    shop.worker.add_blocks(Blocks("suspect", 0, (block,), complete=True))
    assert isinstance(shop.end("suspect"), Done)
    assert running == [False, True]
