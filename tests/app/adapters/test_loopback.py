"""The link to a child process, with a real one that runs without a model."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable

import pytest

from app.adapters.loopback import Loopback
from app.domain.events import EngineLog, LinkEvent, Silence
from remote.protocol import (
    Cancel,
    Done,
    ErrorCode,
    Failed,
    Heartbeat,
    Hello,
    KnownError,
    Ping,
    Progress,
    Segments,
    Source,
    Transcribe,
)

posix = pytest.mark.skipif(os.name != "posix", reason="signals and process groups")


def job(name: str) -> Transcribe:
    return Transcribe(name, Source("path", f"/{name}.wav"))


def converse(command: list[str], talk: Callable[[Loopback], Awaitable[None]], **settings) -> int:
    """Opens a link, talks, closes it; the exit status of the child, which is gone."""

    async def run() -> int:
        link = Loopback(command, **settings)
        await link.open()
        process = link._process
        assert process is not None
        try:
            async with asyncio.timeout(30):
                await talk(link)
        finally:
            await link.close()
        assert process.returncode is not None
        return process.returncode

    return asyncio.run(run())


async def until(link: Loopback, kind: type) -> list[LinkEvent]:
    """Everything up to the first event of a kind."""
    events = [await link.receive()]
    while not isinstance(events[-1], kind):
        events.append(await link.receive())
    return events


async def death(link: Loopback) -> KnownError:
    """The error that ends the conversation."""
    while True:
        try:
            await link.receive()
        except KnownError as error:
            return error


def test_a_conversation_from_hello_to_done_and_the_child_ends_by_itself(fake_engine):
    async def talk(link: Loopback) -> None:
        assert isinstance(await link.receive(), Hello)
        await link.send(job("a"))
        events = await until(link, Done)
        assert [type(event) for event in events] == [Progress, Segments, Segments, Done]
        await link.send(Ping())
        assert isinstance(await link.receive(), Heartbeat)

    assert converse(fake_engine(), talk) == 0


def test_log_lines_are_told_also_those_that_a_progress_bar_overwrites(fake_engine):
    async def talk(link: Loopback) -> None:
        logged = [e.line for e in await until(link, Hello) if isinstance(e, EngineLog)]
        while len(logged) < 2:  # the two streams race
            event = await link.receive()
            assert isinstance(event, EngineLog)
            logged.append(event.line)
        assert logged == ["Fetching tiny.en:  50%", "Fetching tiny.en: 100%"]

    converse(fake_engine("loading"), talk)


def test_silence_is_told_each_time_it_lasts(fake_engine):
    async def talk(link: Loopback) -> None:
        assert await link.receive() == Silence(0.05)
        assert await link.receive() == Silence(0.1)

    assert converse(fake_engine("silent"), talk, silence_s=0.05) == 0


def test_a_child_that_dies_is_an_error_with_its_last_words(fake_engine):
    async def talk(link: Loopback) -> None:
        await until(link, Hello)
        await link.send(job("die-always"))
        error = await death(link)
        assert error.code is ErrorCode.ENGINE_DIED
        assert "exit status 3" in error.message
        assert "It burns." in error.message
        await link.send(Ping())  # to the dead: no harm

    converse(fake_engine(), talk)


def test_a_missing_python_module_means_that_the_engine_is_not_installed(fake_engine):
    async def talk(link: Loopback) -> None:
        error = await death(link)
        assert error.code is ErrorCode.ENGINE_MISSING
        assert 'pip install "farscribe[worker]"' in error.hint

    converse(fake_engine("incomplete"), talk)


def test_a_program_that_is_not_there_means_that_the_engine_is_not_installed(tmp_path):
    async def run() -> None:
        link = Loopback([str(tmp_path / "nothing")])
        with pytest.raises(KnownError) as caught:
            await link.open()
        assert caught.value.code is ErrorCode.ENGINE_MISSING
        await link.close()

    asyncio.run(run())


def test_a_model_that_cannot_be_loaded_is_told_in_the_engines_own_words(fake_engine):
    async def talk(link: Loopback) -> None:
        error = await death(link)
        assert error.code is ErrorCode.MODEL_MISSING
        assert str(error) == "There is no model x. Add it."

    assert converse(fake_engine("unloadable"), talk) == 4


def test_an_engine_of_another_version_is_refused(fake_engine):
    async def talk(link: Loopback) -> None:
        assert (await death(link)).code is ErrorCode.VERSION

    converse(fake_engine("foreign"), talk)


def test_a_line_that_is_no_message_is_skipped(fake_engine):
    async def talk(link: Loopback) -> None:
        await until(link, Hello)
        await link.send(job("garbage"))
        events = await until(link, Done)
        assert [type(event) for event in events] == [Progress, Segments, Segments, Done]

    converse(fake_engine(), talk)


def test_a_line_without_an_end_is_an_error_and_no_memory_is_filled(fake_engine):
    async def talk(link: Loopback) -> None:
        await until(link, Hello)
        await link.send(job("long"))
        assert (await death(link)).code is ErrorCode.WIRE

    converse(fake_engine(), talk, grace_s=0.1)


def test_cancel_reaches_the_engine(fake_engine):
    async def talk(link: Loopback) -> None:
        await until(link, Hello)
        await link.send(job("hang"))
        await until(link, Segments)
        await link.send(Cancel("hang"))
        failed = (await until(link, Failed))[-1]
        assert isinstance(failed, Failed)
        assert failed.code is ErrorCode.CANCELLED

    assert converse(fake_engine(), talk) == 0


@posix
def test_a_child_that_does_not_end_is_killed_after_the_grace():
    stubborn = [sys.executable, "-c", "import time; time.sleep(600)"]

    async def talk(link: Loopback) -> None:
        pass

    assert converse(stubborn, talk, grace_s=0.05) == -signal.SIGKILL


@posix
def test_kill_ends_it_at_once_and_says_why(fake_engine):
    async def talk(link: Loopback) -> None:
        await until(link, Hello)
        link.kill()
        error = await death(link)
        assert error.code is ErrorCode.ENGINE_DIED
        assert "memory" in error.message

    assert converse(fake_engine(), talk) == -signal.SIGKILL


@posix
def test_closing_leaves_nothing_behind_even_when_it_is_cancelled():
    stubborn = [sys.executable, "-c", "import time; time.sleep(600)"]

    async def run() -> int | None:
        link = Loopback(stubborn, grace_s=600)
        await link.open()
        process = link._process
        assert process is not None
        closing = asyncio.create_task(link.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        return process.returncode

    assert asyncio.run(run()) == -signal.SIGKILL


PARENT = """
import asyncio, sys
from app.adapters.loopback import Loopback

async def run():
    link = Loopback(sys.argv[1:])
    await link.open()
    await link.receive()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(run())
"""
HOLDER = """
import os, sys
os.set_inheritable(os.open(sys.argv[1], os.O_WRONLY), True)
os.execv(sys.argv[2], sys.argv[2:])
"""


@posix
def test_when_the_parent_is_killed_the_child_ends(fake_engine, tmp_path):
    pipe = tmp_path / "held"  # open as long as the child lives
    os.mkfifo(pipe)
    child = [sys.executable, "-c", HOLDER, str(pipe), *fake_engine()]
    parent = [sys.executable, "-c", PARENT, *child]
    with subprocess.Popen(parent, stdout=subprocess.PIPE) as process, pipe.open("rb") as held:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        assert held.read() == b""
