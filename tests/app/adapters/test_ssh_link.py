"""The conversation with a host, through a real sshd on loopback."""

import asyncio
import socket
import threading
import time
from contextlib import closing

import pytest

from app.adapters.ssh.connection import Connection
from app.domain.events import EngineLog, Silence
from remote.protocol import (
    Done,
    ErrorCode,
    Heartbeat,
    Hello,
    KnownError,
    Note,
    Ping,
    Source,
    Transcribe,
)
from tests.app.adapters.ssh_host import death, failure, greeted, linked, machine, talk, until
from tests.helpers.sshd import free_port, needs_sshd

pytestmark = needs_sshd


def test_a_conversation_from_hello_to_done(sshd):
    async def say(link):
        first = [event for event in await greeted(link) if not isinstance(event, EngineLog)]
        assert [type(event) for event in first] == [Hello]
        await link.send(Transcribe("a", Source("path", "/a.wav")))
        events = await until(link, Done)
        assert Note("working") in events
        await link.send(Ping())
        await until(link, Heartbeat)

    talk(machine(sshd), say)


def test_what_is_sent_before_hello_arrives_after_it(sshd):
    async def say(link):
        await link.send(Transcribe("a", Source("path", "/a.wav")))
        await until(link, Done)

    talk(machine(sshd), say)


def test_the_engines_log_is_told(sshd):
    async def say(link):
        while EngineLog("attaching") not in await until(link, EngineLog):
            pass

    talk(machine(sshd), say)


def test_closing_ends_the_far_end_by_itself(sshd):
    async def say(link):
        await greeted(link)
        await link.close()
        await link.close()
        assert link._ended.is_set()
        assert (await death(link)).code is ErrorCode.LINK_LOST
        await link.send(Ping())  # to the dead: no harm

    talk(machine(sshd), say)


def test_kill_ends_it_at_once_and_receive_says_so(sshd):
    async def say(link):
        await greeted(link)
        link.kill()
        assert (await death(link)).code is ErrorCode.LINK_LOST

    talk(machine(sshd), say)


def test_cancelling_receive_loses_nothing(sshd):
    async def say(link):
        waiting = asyncio.create_task(link.receive())
        await asyncio.sleep(0)
        waiting.cancel()
        await greeted(link)

    talk(machine(sshd), say)


def test_a_model_that_cannot_be_loaded_is_told_in_the_engines_own_words(sshd):
    error = failure(machine(sshd, model="unloadable"))
    assert (error.code, error.message) == (ErrorCode.MODEL_MISSING, "There is no model x.")


def test_an_engine_end_that_dies_is_an_error_with_its_last_words(sshd):
    error = failure(machine(sshd, model="dies"))
    assert error.code is ErrorCode.ENGINE_DIED
    assert "exit status 3" in error.message
    assert "It burns." in error.message


def test_another_major_version_says_which_end_to_update(sshd):
    error = failure(machine(sshd, model="foreign"))
    assert error.code is ErrorCode.VERSION


# ── the link breaks ──────────────────────────────────────────────────────────────────────────


def test_silence_is_told_and_then_the_link_is_given_up(sshd):
    async def say(link):
        await greeted(link)
        events = await until(link, Silence)
        assert events[-1].seconds >= 0.6
        error = await death(link)
        assert error.code is ErrorCode.LINK_LOST
        assert "silent for" in error.message

    talk(machine(sshd, model="silent"), say)


def test_an_engine_that_never_says_hello_is_given_up(sshd):
    assert failure(machine(sshd, model="mute")).code is ErrorCode.LINK_LOST


def test_a_frozen_link_is_noticed_in_time(sshd, proxy):
    net = proxy()

    async def say(link):
        await greeted(link)
        net.freeze()
        began = time.monotonic()
        assert (await death(link)).code is ErrorCode.LINK_LOST
        return time.monotonic() - began

    assert 0.9 < talk(machine(sshd, port=net.port), say) < 3


def test_a_short_freeze_is_told_and_survived(sshd, proxy):
    net = proxy()

    async def say(link):
        await greeted(link)
        net.freeze()
        await until(link, Silence)
        net.thaw()
        await until(link, Heartbeat)

    talk(machine(sshd, port=net.port), say)


def test_a_reset_connection_is_link_lost(sshd, proxy):
    net = proxy()

    async def say(link):
        await greeted(link)
        net.reset()
        error = await death(link)
        assert error.code is ErrorCode.LINK_LOST
        assert "broke off" in error.message
        assert (await death(link)) is error

    talk(machine(sshd, port=net.port), say)


def test_a_killed_session_is_link_lost_and_the_next_link_works(sshd):
    host = machine(sshd)

    async def say(link):
        await greeted(link)
        assert sshd.kill_sessions() > 0
        assert (await death(link)).code is ErrorCode.LINK_LOST

    talk(host, say)
    talk(host, greeted)


def test_a_half_written_line_at_the_end_is_dropped(fresh, caplog):
    (fresh.engine / "fast_transcribe.py").write_text(
        'import sys\nsys.stdout.write(\'{"type":"hea\')\n'
    )
    error = failure(machine(fresh))
    assert error.code is ErrorCode.ENGINE_DIED
    assert "skipped" not in caplog.text


def test_lost_connections_print_no_tracebacks(sshd, proxy, capfd):
    net = proxy()

    async def say(link):
        await greeted(link)
        net.reset()
        await death(link)

    talk(machine(sshd, port=net.port), say)
    assert "Traceback" not in capfd.readouterr().err


# ── reaching it ──────────────────────────────────────────────────────────────────────────────


def test_a_closed_port_is_unreachable_and_says_what_to_check(sshd):
    error = failure(machine(sshd, port=free_port()))
    assert error.code is ErrorCode.HOST_UNREACHABLE
    assert "refused" in error.message
    assert "firewall" in error.hint


def test_a_name_that_nobody_has_is_unreachable_at_once(sshd):
    error = failure(machine(sshd, address="ssh://no.such.host.invalid", patience_s=60))
    assert error.code is ErrorCode.HOST_UNREACHABLE
    assert "no.such.host.invalid" in error.message


def test_a_host_that_is_starting_is_waited_for(sshd):
    sshd.stop()
    starting = threading.Timer(0.3, sshd.start)

    async def say(link):
        await greeted(link)

    starting.start()
    talk(machine(sshd, patience_s=20), say)
    starting.join()


def test_a_host_that_stays_away_is_given_up_at_the_deadline(sshd):
    host = machine(sshd, port=free_port(), patience_s=0.3)
    began = time.monotonic()
    assert failure(host).code is ErrorCode.HOST_UNREACHABLE
    assert 0.2 < time.monotonic() - began < 5


def test_a_host_that_hangs_up_before_its_first_line_is_still_starting(sshd):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]

        def hang_up():
            for _ in range(2):
                server.accept()[0].close()

        hanging = threading.Thread(target=hang_up)
        hanging.start()
        error = failure(machine(sshd, port=port, patience_s=0))
        assert error.code is ErrorCode.HOST_UNREACHABLE
        socket.create_connection(("127.0.0.1", port)).close()
        hanging.join()


def test_a_first_line_that_comes_late_is_waited_for(sshd, proxy):
    net = proxy()
    net.freeze()
    threading.Timer(0.5, net.thaw).start()
    talk(machine(sshd, port=net.port), greeted)


def test_kill_while_it_is_being_opened_ends_the_opening(sshd, proxy):
    net = proxy()
    net.freeze()

    async def run() -> None:
        link = machine(sshd, port=net.port).link()
        opening = asyncio.create_task(link.open())
        await asyncio.sleep(0.05)
        link.kill()
        with pytest.raises(KnownError) as caught:
            await opening
        assert caught.value.code is ErrorCode.LINK_LOST
        await link.close()

    asyncio.run(run())


def test_cancelling_the_opening_leaves_no_connection(sshd, proxy):
    net = proxy()
    net.freeze()

    async def run() -> None:
        link = machine(sshd, port=net.port).link()
        opening = asyncio.create_task(link.open())
        await asyncio.sleep(0.05)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await link.close()

    before = threading.active_count()
    asyncio.run(run())
    net.thaw()
    until_s = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until_s:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_no_thread_is_left_after_a_conversation(sshd):
    before = threading.active_count()
    talk(machine(sshd), greeted)
    until_s = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < until_s:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_the_fast_cipher_is_agreed_on(sshd):
    async def run() -> None:
        host = machine(sshd)
        async with linked(host) as link:
            connection = link._connection
            assert isinstance(connection, Connection)
            transport = connection._client.get_transport()
            assert transport is not None
            assert transport.remote_cipher == "aes128-gcm@openssh.com"

    asyncio.run(run())
