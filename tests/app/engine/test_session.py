"""A conversation, its followers, and its end."""

import asyncio

import pytest

from app.domain.events import EngineLog, EngineReady, Event, Silence, Wire
from app.engine.patience import together
from app.engine.session import Session
from remote.protocol import (
    Acknowledge,
    ErrorCode,
    Heartbeat,
    KnownError,
    Note,
    Ping,
    Progress,
    Source,
    Transcribe,
)
from tests.app.engine.fakes import HELLO, LOST, FakeEngine, FakeMachine, run


class Talk:
    """A session in use."""

    def __init__(self) -> None:
        self.machine = FakeMachine(FakeEngine())
        self.told: list[Event] = []

    def hold(self, talk) -> None:
        async def held() -> None:
            async with together() as tasks:
                self.session = Session(self.machine, self.told.append, tasks.create_task)
                await self.session.connect()
                await talk(self.session)
                await self.session.close()

        run(held())
        assert all(link.closed for link in self.machine.links)

    def of(self, kind: type) -> list:
        return [event for event in self.told if isinstance(event, kind)]


def job(name: str) -> Transcribe:
    return Transcribe(name, Source("path", f"/x/{name}.wav"))


def test_each_follower_gets_the_events_of_its_job_and_no_other():
    talk = Talk()

    async def work(session: Session) -> None:
        feeds = {name: session.follow(name) for name in "ab"}
        for name in "ab":
            await session.send(job(name))
        for name, feed in feeds.items():
            assert {(await feed.next()).job for _ in range(7)} == {name}

    talk.hold(work)
    assert [e.message for e in talk.of(Wire) if isinstance(e.message, Transcribe)] == [
        job("a"),
        job("b"),
    ]


def test_events_of_jobs_that_nobody_follows_are_ignored():
    talk = Talk()

    async def work(session: Session) -> None:
        talk.machine.link_now.push(Progress("stranger", 9, "decode", 0))
        feed = session.follow("a")
        await session.send(job("a"))
        assert (await feed.next()).job == "a"

    talk.hold(work)


def test_a_broken_link_is_told_to_every_follower_again_and_again_and_to_later_ones():
    talk = Talk()

    async def work(session: Session) -> None:
        feeds = [session.follow(name) for name in "ab"]
        places = asyncio.create_task(session.places())
        await asyncio.sleep(0)
        talk.machine.link_now.alive = False  # what is said now is lost
        talk.machine.link_now._arrived.put_nowait(LOST)
        for feed in feeds * 2:
            with pytest.raises(KnownError) as caught:
                await feed.next()
            assert caught.value is LOST
        with pytest.raises(KnownError):
            await session.follow("c").next()
        await asyncio.wait([places])
        places.exception()
        assert not session.connected
        await session.connect()
        assert session.connected

    talk.hold(work)
    assert len(talk.machine.links) == 2


def test_the_newest_words_of_the_engine_on_itself_are_kept_and_a_model_that_loads_is_told_later():
    talk = Talk()
    talk.machine.hello = type(HELLO)(1, 1, "0", "", "", "", "", 0.0)

    async def work(session: Session) -> None:
        assert not talk.of(EngineReady)
        for message in (HELLO, HELLO, Heartbeat(3)):
            talk.machine.link_now.push(message)
        while session.heartbeat is None:
            await asyncio.sleep(0)
        assert session.hello == HELLO

    talk.hold(work)
    assert talk.of(EngineReady) == [EngineReady(HELLO)]


def test_what_the_engine_says_to_people_is_told_as_a_line_of_its_log():
    talk = Talk()

    async def work(session: Session) -> None:
        for message in (Note("Fetching tiny.en."), Heartbeat(0)):
            talk.machine.link_now.push(message)
        while session.heartbeat is None:
            await asyncio.sleep(0)

    talk.hold(work)
    assert talk.of(EngineLog) == [EngineLog("Fetching tiny.en.")]


def test_silence_is_told_on_and_asked_about():
    talk = Talk()

    async def work(session: Session) -> None:
        talk.machine.link_now.push(Silence(20.0))
        while session.heartbeat is None:
            await asyncio.sleep(0)

    talk.hold(work)
    assert talk.of(Silence) == [Silence(20.0)]
    assert talk.machine.engine.heard == [Ping()]


def test_the_last_acknowledgement_of_a_job_is_said_again_in_the_next_conversation():
    talk = Talk()

    async def work(session: Session) -> None:
        await session.acknowledge("a", 3, ended=False)
        await session.acknowledge("b", 7, ended=True)
        session.break_off(KnownError(ErrorCode.WIRE, "A hole."))
        while session.connected:
            await asyncio.sleep(0)
        assert session.lost is not None
        assert session.lost.code is ErrorCode.WIRE
        await session.connect()

    talk.hold(work)
    assert talk.machine.engine.heard[-1] == Acknowledge("b", 7)


def test_an_error_of_an_observer_comes_out_and_leaves_no_link():
    machine = FakeMachine(FakeEngine())

    def stumble(event: Event) -> None:
        if isinstance(event, Silence):
            raise BrokenPipeError

    async def held() -> None:
        async with together() as tasks:
            session = Session(machine, stumble, tasks.create_task)
            await session.connect()
            machine.link_now.push(Silence(20.0))
            await asyncio.sleep(1)

    with pytest.raises(BrokenPipeError):
        run(held())
    assert machine.link_now.closed
