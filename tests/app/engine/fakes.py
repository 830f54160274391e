"""Outside things of the engine room, at their ports: a library in memory, an engine that keeps
its jobs, a link that breaks where a test wants it, recordings from nothing. In virtual time.
"""

import asyncio
import hashlib
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from app.domain.blocks import Codec, CodedBlock
from app.domain.errors import from_failed
from app.domain.events import Event, LinkEvent
from app.domain.history import THIS_COMPUTER, Entry, JobSettings, Query
from app.domain.intake import Accepted, Found
from app.domain.jobs import Job, JobEvent, JobState
from app.domain.transcript import Transcript, in_time_order
from app.engine.service import Service
from remote.protocol import (
    Acknowledge,
    Block,
    Blocks,
    Cancel,
    Done,
    Down,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    JobPlace,
    Jobs,
    KnownError,
    List,
    Missing,
    Ping,
    Progress,
    Segment,
    Segments,
    Summary,
    Transcribe,
    Up,
    WireError,
)

HELLO = Hello(1, 1, "0", "tiny.en", "cpu", "float32", "standard", 0.1)
STEP_S = 0.5
LOST = KnownError(ErrorCode.LINK_LOST, "The connection broke off.")


def anew(error: KnownError) -> KnownError:
    """The same again, as the world makes each error anew."""
    return KnownError(error.code, error.message, error.hint)


# ── virtual time ─────────────────────────────────────────────────────────────────────────────


class _NoWaiting(selectors.DefaultSelector):
    """A selector that lets time pass instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list:
        events = super().select(0)
        if events:
            return events
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else")
        self.now_s += timeout
        return []


class _SameThread(ThreadPoolExecutor):
    """Threads that are none."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except KnownError as error:
            future.set_exception(error)
        return future


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time is that of its timers."""

    def __init__(self) -> None:
        self._waits = _NoWaiting()
        super().__init__(self._waits)
        self.set_default_executor(_SameThread())

    def time(self) -> float:
        return self._waits.now_s


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """What the work gives, in virtual time; a day takes no time."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


# ── the library ──────────────────────────────────────────────────────────────────────────────


class MemoryLibrary:
    """A library that is strict and forgets nothing. It implements the port ``Library``."""

    def __init__(self) -> None:
        self.rows: dict[str, Entry] = {}
        self.events: dict[str, list[JobEvent]] = {}
        self.appended: list[int] = []  # events of each transaction
        self.refuse: list[KnownError] = []  # raised by the next appends

    async def add(self, jobs: Sequence[Entry]) -> None:
        assert not {entry.id for entry in jobs} & set(self.rows)
        for entry in jobs:
            self.rows[entry.id] = entry
            self.events[entry.id] = []

    async def append(self, job: str, events: Sequence[JobEvent]) -> int:
        await asyncio.sleep(0.001)
        if self.refuse:
            raise self.refuse.pop(0)
        kept = self.events[job]
        self.appended.append(len(events))
        for event in events:
            if event.seq <= len(kept):
                continue
            if event.seq != len(kept) + 1:
                raise WireError("a hole")
            kept.append(event)
            row = replace(self.rows[job], seq=event.seq)
            if isinstance(event, Done):
                row = replace(row, state=JobState.DONE, summary=event.summary)
            elif isinstance(event, Failed):
                row = replace(row, state=JobState.FAILED, error=from_failed(event))
            self.rows[job] = row
        return len(kept)

    async def update(self, job: str, **changes: Any) -> None:
        self.rows[job] = replace(self.rows[job], **changes)

    async def restart(self, job: str) -> None:
        self.events[job] = []
        self.rows[job] = replace(self.rows[job], seq=0)

    async def entry(self, job: str) -> Entry:
        found = [row for name, row in self.rows.items() if name.startswith(job)]
        if len(found) != 1:
            raise KnownError(ErrorCode.NOT_FOUND, f"There is no job {job}.")
        return found[0]

    async def entries(self, query: Query | None = None) -> tuple[Entry, ...]:
        query = query or Query()
        return tuple(
            row
            for row in reversed(self.rows.values())
            if (not query.states or row.state in query.states)
            and query.content in ("", row.content)
        )

    async def transcript(self, job: str, *, edited: bool = True) -> Transcript:
        row = self.rows[job]
        said = (e.segments for e in self.events[job] if isinstance(e, Segments))
        segments = in_time_order(segment for segments in said for segment in segments)
        return Transcript(row.path, segments, row.summary, row.engine, row.error)

    async def note_export(self, job: str, files: Sequence[Path]) -> None:
        row = self.rows[job]
        self.rows[job] = replace(row, exports=(*row.exports, *files))

    async def search(self, words: str, limit: int = 50) -> tuple:
        raise NotImplementedError

    async def edit(self, job: str, segment: int, text: str | None) -> None:
        raise NotImplementedError

    async def remove(self, job: str) -> None:
        del self.rows[job]

    async def close(self) -> None:
        pass

    def texts(self, job: str) -> list[str]:
        said = (e.segments for e in self.events[job] if isinstance(e, Segments))
        return [segment.text for segments in said for segment in segments]


# ── the engine ───────────────────────────────────────────────────────────────────────────────


@dataclass
class FakeJob:
    """A job as the engine keeps it."""

    request: Transcribe
    events: list[JobEvent] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    complete: bool = False
    link: "FakeLink | None" = None
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class FakeEngine:
    """A resident engine: it works on without a link and keeps what is not acknowledged.

    A recording named "bad" is no audio; "slow" takes an hour to its first text; "killer" kills
    the engine after it.
    """

    def __init__(self, *, steps: int = 3) -> None:
        self.steps = steps
        self.jobs: dict[str, FakeJob] = {}
        self.store: dict[str, bytes] = {}
        self.heard: list[Down] = []
        self.first_text_at_blocks: dict[str, int] = {}
        self.machine: FakeMachine | None = None

    def hear(self, message: Down, link: "FakeLink") -> None:
        self.heard.append(message)
        match message:
            case Transcribe(job):
                self._accept(job, message, link)
            case Blocks(job):
                self._blocks(message)
            case Acknowledge(job, seq):
                self._acknowledge(job, seq)
            case Cancel(job) if job in self.jobs:
                self._cancel(self.jobs[job])
            case List():
                link.push(Jobs(tuple(map(_place, self.jobs.values()))))
            case Ping():
                link.push(Heartbeat(len(self.jobs)))
            case _:
                pass

    def forget(self) -> None:
        """Loses all jobs, not the blocks."""
        for job in self.jobs.values():
            if job.task is not None:
                job.task.cancel()
        self.jobs.clear()

    def _accept(self, name: str, request: Transcribe, link: "FakeLink") -> None:
        job = self.jobs.get(name)
        if job is None:
            if request.after:
                link.push(Failed(name, 0, ErrorCode.NOT_FOUND, "There is no such job."))
                return
            job = self.jobs[name] = FakeJob(request)
            job.task = asyncio.get_running_loop().create_task(self._work(job))
        job.link = link
        for event in job.events[request.after :]:
            link.push(event)

    def _blocks(self, message: Blocks) -> None:
        job = self.jobs.get(message.job)
        if job is None:
            return
        assert message.first <= len(job.blocks), "a hole in the blocks"
        for number, block in enumerate(message.blocks, message.first):
            if number == len(job.blocks):
                job.blocks.append(block)
        job.complete = job.complete or message.complete
        job.moved.set()

    def _acknowledge(self, name: str, seq: int) -> None:
        job = self.jobs.get(name)
        if job is not None and _ended(job) and seq >= len(job.events):
            del self.jobs[name]
            for block in job.blocks:
                self.store.pop(block.id, None)

    def _cancel(self, job: FakeJob) -> None:
        if not _ended(job) and job.task is not None:
            job.task.cancel()
            error = (ErrorCode.CANCELLED, "The transcription was cancelled.")
            self._emit(job, lambda name, seq: Failed(name, seq, *error))

    def _emit(self, job: FakeJob, event: Callable[[str, int], JobEvent]) -> None:
        job.events.append(event(job.request.job, len(job.events) + 1))
        if job.link is not None:
            job.link.push(job.events[-1])

    def _say(self, job: FakeJob, number: int, text: str) -> None:
        name = job.request.job
        self.first_text_at_blocks.setdefault(name, -1 if job.complete else len(job.blocks))
        start = number * 1000
        self._emit(job, lambda name, seq: Progress(name, seq, "generate", start, None))
        segment = Segment(start, start + 900, text)
        self._emit(job, lambda name, seq: Segments(name, seq, (segment,)))

    async def _work(self, job: FakeJob) -> None:
        source = job.request.source
        stem = Path(source.value).stem
        if stem == "bad":
            self._emit(job, lambda name, seq: Failed(name, seq, ErrorCode.NOT_AUDIO, "No audio."))
            return
        if stem == "slow":
            self._emit(job, lambda name, seq: Progress(name, seq, "decode", 0))
            await asyncio.sleep(3600)
        number = 0
        while number < self.steps if source.kind == "path" else await self._has(job, number):
            text = f"{stem} {number}."
            if source.kind == "blocks":
                text = self.store[job.blocks[number].id].split(b"|")[1].decode()
            await asyncio.sleep(STEP_S)
            if stem == "killer" and number == 1:
                self._die()
            self._say(job, number, text)
            number += 1
        self._emit(job, lambda name, seq: Done(name, seq, Summary(number * 1000, wall_s=1.0)))

    async def _has(self, job: FakeJob, number: int) -> bool:
        """Whether there is such a block; it is waited for, also in the store."""
        while True:
            job.moved.clear()
            if number < len(job.blocks):
                block = job.blocks[number].id
                if block in self.store:
                    return True
                if job.link is not None:
                    job.link.push(Missing(job.request.job, (block,)))
            elif job.complete:
                return False
            await job.moved.wait()

    def _die(self) -> None:
        died = KnownError(ErrorCode.ENGINE_DIED, "The engine stopped unexpectedly.")
        assert self.machine is not None
        self.forget()
        self.machine.link_now.break_off(died)


def _ended(job: FakeJob) -> bool:
    return bool(job.events) and isinstance(job.events[-1], Done | Failed)


def _place(job: FakeJob) -> JobPlace:
    state: Literal["ended", "running"] = "ended" if _ended(job) else "running"
    return JobPlace(job.request.job, state, len(job.events), len(job.blocks))


class FakeLink:
    """A link to the fake engine. It implements the port ``EngineLink``."""

    def __init__(self, machine: "FakeMachine") -> None:
        self._machine = machine
        self._arrived: asyncio.Queue[LinkEvent | KnownError] = asyncio.Queue()
        self.alive = False
        self.closed = False

    async def open(self) -> None:
        await asyncio.sleep(0.01)
        if self._machine.refuse:
            raise self._machine.refuse.pop(0)
        self.alive = True
        self.push(self._machine.hello)

    def push(self, message: Up | LinkEvent) -> None:
        if self.alive and self._machine.passes(self):
            self._arrived.put_nowait(message)
            self._machine.passed(self)

    async def send(self, message: Down) -> None:
        await asyncio.sleep(0)
        if self.alive and self._machine.passes(self):
            self._machine.engine.hear(message, self)
            self._machine.passed(self)

    async def receive(self) -> LinkEvent:
        item = await self._arrived.get()
        if isinstance(item, KnownError):
            raise item
        return item

    def break_off(self, error: KnownError = LOST) -> None:
        if not self.closed:
            self.alive = False
            self._arrived.put_nowait(error)

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.alive, self.closed = False, True

    def kill(self) -> None:
        self.break_off(KnownError(ErrorCode.ENGINE_DIED, "Killed."))


class FakeStore:
    """The store beside the fake engine. It implements the port ``BlockStore``."""

    def __init__(self, machine: "FakeMachine") -> None:
        self._machine = machine
        self.puts: Counter[str] = Counter()
        self.doubled: Counter[str] = Counter()  # finished, and sent again
        self.asked: list[int] = []
        self.refuse: list[KnownError] = []
        self.most_at_once = 0
        self._at_once = 0

    def _link(self) -> FakeLink:
        link = self._machine.link_now
        if not link.alive:
            raise anew(LOST)
        return link

    async def have(self, blocks: Sequence[str]) -> frozenset[str]:
        link = self._link()
        self.asked.append(len(blocks))
        await asyncio.sleep(0.05)
        if not link.alive:
            raise anew(LOST)
        return frozenset(blocks) & frozenset(self._machine.engine.store)

    async def put(self, block: str, data: bytes) -> None:
        link = self._link()
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(0.05 + len(data) * 8 * self._at_once / self._machine.uplink_bits)
        finally:
            self._at_once -= 1
        if self.refuse:
            raise anew(self.refuse.pop(0))
        if not link.alive or not self._machine.passes(link):
            raise anew(LOST)
        self.puts[block] += 1
        self.doubled[block] += block in self._machine.engine.store
        self._machine.engine.store[block] = data
        self._machine.passed(link)
        if not link.alive:
            raise anew(LOST)


class FakeMachine:
    """Where the fake engine is. It implements the port ``Machine``.

    Args:
        engine: it, which outlives every link.
        blocks: it has a store; else it reads the files itself.
        cuts: numbers of messages, counted over both directions and all links, before or after
            which the link breaks.
    """

    def __init__(
        self,
        engine: FakeEngine,
        *,
        blocks: bool = False,
        cuts: dict[int, str] | None = None,
        uplink_bits: float = 1e9,
    ) -> None:
        self.engine = engine
        engine.machine = self
        self.hello = HELLO
        self.blocks = FakeStore(self)
        self.uplink_bits = uplink_bits
        self.links: list[FakeLink] = []
        self.refuse: list[KnownError] = []  # raised by the next links when they open
        self._has_store = blocks
        self._cuts = cuts or {}
        self._messages = 0

    @property
    def name(self) -> str:
        return "ssh://host" if self._has_store else THIS_COMPUTER

    @property
    def store(self) -> FakeStore | None:
        return self.blocks if self._has_store else None

    @property
    def link_now(self) -> FakeLink:
        return self.links[-1]

    def link(self) -> FakeLink:
        assert all(link.closed for link in self.links), "the one before has not ended"
        self.links.append(FakeLink(self))
        return self.links[-1]

    def passes(self, link: FakeLink) -> bool:
        """Whether the next message gets through."""
        if self._cuts.get(self._messages) == "before":
            self._messages += 1
            link.break_off()
            return False
        return True

    def passed(self, link: FakeLink) -> None:
        """It has."""
        if self._cuts.get(self._messages) == "after":
            link.break_off()
        self._messages += 1


# ── recordings ───────────────────────────────────────────────────────────────────────────────


class FakeCut:
    """Blocks from nothing. It implements the port ``Cut``."""

    def __init__(self, stem: str, blocks: int, size: int, codec: Callable[[], Codec]) -> None:
        self.duration_ms = blocks * 30_000
        self.tracks = 1
        self.warnings: tuple[str, ...] = ()
        self.closed = False
        self.cut = 0
        self._make = (stem, blocks, size, codec)

    def __iter__(self) -> Iterator[CodedBlock]:
        stem, blocks, size, codec = self._make
        for number in range(blocks):
            chosen = codec()
            bulk = size if chosen is Codec.FLAC else size // 4
            data = f"{chosen}|{stem} {number}.|".encode().ljust(bulk, b"x")
            self.cut = number + 1
            yield CodedBlock(Block(hashlib.sha256(data).hexdigest(), 480_000), chosen, data)
        self.warnings = (f"{stem} is strange.",)

    def close(self) -> None:
        self.closed = True


class FakeMedia:
    """Reads recordings that are not there. It implements the port ``Media``."""

    def __init__(self, *, blocks: int = 3, size: int = 500_000) -> None:
        self.blocks = blocks
        self.size = size
        self.cuts: list[FakeCut] = []
        self.unreadable: set[str] = set()

    def fingerprint(self, path: Path) -> str:
        return hashlib.sha256(path.name.encode()).hexdigest()

    def cut(self, path: Path, *, split: bool, codec: Callable[[], Codec]) -> FakeCut:
        if path.stem in self.unreadable:
            raise KnownError(ErrorCode.NOT_AUDIO, "It is no audio.")
        self.cuts.append(FakeCut(path.stem, self.blocks, self.size, codec))
        return self.cuts[-1]


class MemoryClaims:
    """Claims that programs in one process share. It implements the port ``Claims``."""

    def __init__(self, taken: dict[str, object]) -> None:
        self._taken = taken

    def take(self, jobs: Sequence[str]) -> frozenset[str]:
        return frozenset(job for job in jobs if self._taken.setdefault(job, self) is self)


# ── a service over all that ──────────────────────────────────────────────────────────────────


class Batch:
    """A service over a fake machine, and everything it told."""

    def __init__(
        self,
        machine: FakeMachine | None = None,
        library: MemoryLibrary | None = None,
        **settings: Any,
    ) -> None:
        self.machine = machine or FakeMachine(FakeEngine())
        self.library = library or MemoryLibrary()
        self.media = settings.pop("media", None) or FakeMedia()
        self.told: list[Event] = []
        self.at_s: list[float] = []
        self._react: list[tuple[type, Callable[[Any], None]]] = []
        self.service = Service(
            self.machine,
            self.library,
            settings.pop("gather", gather),
            JobSettings(),
            media=self.media,
            observers=[self._hear],
            **settings,
        )

    def _hear(self, event: Event) -> None:
        self.told.append(event)
        self.at_s.append(asyncio.get_running_loop().time())
        for kind, react in self._react:
            if isinstance(event, kind):
                react(event)

    def on(self, kind: type, react: Callable[[Any], None]) -> "Batch":
        self._react.append((kind, react))
        return self

    async def work(self, *names: str) -> tuple[Job, ...]:
        await self.service.add([Path(f"/x/{name}.wav") for name in names])
        return await self.service.run()

    def run(self, *names: str) -> dict[str, Job]:
        """The jobs as they ended, by the names of their recordings."""
        return {job.path.stem: job for job in run(self.work(*names))}

    def of(self, kind: type) -> list:
        return [event for event in self.told if isinstance(event, kind)]

    def texts(self, name: str) -> list[str]:
        (job,) = (job for job in self.service.jobs if job.path.stem == name)
        return self.library.texts(job.id)


def gather(paths: Sequence[Path]) -> list[Found]:
    return [Accepted(path) for path in paths]


def said(name: str, steps: int = 3) -> list[str]:
    return [f"{name} {number}." for number in range(steps)]
