"""The store of blocks on a host, through a real sshd on loopback."""

import asyncio
import hashlib
import os
import time

import pytest

from remote.protocol import ErrorCode, KnownError
from tests.app.adapters.ssh_host import death, greeted, linked, machine
from tests.helpers.sshd import needs_sshd

pytestmark = needs_sshd


def block(size: int = 50_000) -> tuple[str, bytes]:
    data = os.urandom(size)
    return hashlib.sha256(data).hexdigest(), data


def spool(sshd):
    return sshd.home / ".farscribe" / "spool"


def converse(host, say):
    """What is said to the store of a host that has said Hello."""

    async def run():
        async with asyncio.timeout(30), linked(host) as link:
            await greeted(link)
            return await say(host.store, link)

    return asyncio.run(run())


def test_a_block_that_is_put_is_there(sshd):
    async def say(store, link):
        name, data = block()
        assert await store.have([name]) == frozenset()
        await store.put(name, data)
        assert await store.have([name, "0" * 64]) == {name}
        assert (spool(sshd) / name).read_bytes() == data

    converse(machine(sshd), say)


def test_many_puts_at_once_share_four_channels(sshd):
    async def say(store, link):
        blocks = dict(block() for _ in range(12))
        await asyncio.gather(*(store.put(name, data) for name, data in blocks.items()))
        assert await store.have(list(blocks)) == blocks.keys()
        return len(sshd.commands())

    assert converse(machine(sshd), say) == 5  # and the conversation's


def test_a_host_that_allows_fewer_sessions_gets_its_blocks_one_after_another(sshd):
    sshd.stop()
    sshd.configure(extra="MaxSessions 2")
    sshd.start()

    async def say(store, link):
        blocks = dict(block() for _ in range(4))
        await asyncio.gather(*(store.put(name, data) for name, data in blocks.items()))
        assert await store.have(list(blocks)) == blocks.keys()

    converse(machine(sshd), say)


def test_a_host_that_allows_one_session_says_so(sshd):
    sshd.stop()
    sshd.configure(extra="MaxSessions 1")
    sshd.start()

    async def say(store, link):
        with pytest.raises(KnownError) as caught:
            await asyncio.gather(*(store.put(*block()) for _ in range(5)))
        assert caught.value.code is ErrorCode.HOST_UNFIT
        assert "MaxSessions" in caught.value.hint

    converse(machine(sshd), say)


def test_a_full_disk_is_told_and_the_same_put_works_later(sshd):
    spool(sshd).mkdir(parents=True)
    (spool(sshd) / "full").touch()

    async def say(store, link):
        name, data = block()
        with pytest.raises(KnownError) as caught:
            await store.put(name, data)
        assert caught.value.code is ErrorCode.DISK_FULL
        (spool(sshd) / "full").unlink()
        await store.put(name, data)

    converse(machine(sshd), say)


def test_bytes_that_are_not_the_block_are_refused_and_the_channel_stays(sshd):
    async def say(store, link):
        name, data = block()
        with pytest.raises(KnownError) as caught:
            await store.put(name, data[::-1])
        assert caught.value.code is ErrorCode.WIRE
        await store.put(name, data)

    converse(machine(sshd), say)


def test_a_put_that_is_cancelled_leaves_its_block_whole_and_the_channel_as_it_was(sshd, proxy):
    net = proxy(mbits=(100, 0))

    async def say(store, link):
        name, data = block(1_000_000)
        putting = asyncio.create_task(store.put(name, data))
        await asyncio.sleep(0.01)
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        small, more = block()
        await store.put(small, more)
        assert await store.have([small]) == {small}
        assert len(sshd.commands()) == 2
        if name in await store.have([name]):
            assert (spool(sshd) / name).read_bytes() == data

    converse(machine(sshd, port=net.port), say)


def test_without_a_link_the_store_says_link_lost(sshd):
    host = machine(sshd)

    async def run():
        with pytest.raises(KnownError) as caught:
            await host.store.have([])
        return caught.value.code

    assert asyncio.run(run()) is ErrorCode.LINK_LOST


def test_the_store_works_again_over_the_next_link(sshd):
    host = machine(sshd)
    name, data = block()

    async def first(store, link):
        await store.put(name, data)

    async def second(store, link):
        assert await store.have([name]) == {name}

    converse(host, first)
    converse(host, second)


@pytest.mark.parametrize("fault", ["freeze", "reset"])
def test_every_wait_ends_when_the_link_does(sshd, proxy, fault):
    net = proxy(mbits=(80, 0))

    async def say(store, link):
        puts = [asyncio.create_task(store.put(*block(2_000_000))) for _ in range(6)]
        await asyncio.sleep(0.3)
        getattr(net, fault)()
        began = time.monotonic()
        assert (await death(link)).code is ErrorCode.LINK_LOST
        failures = await asyncio.gather(*puts, return_exceptions=True)
        assert time.monotonic() - began < 5
        return {item.code for item in failures if isinstance(item, KnownError)}

    assert converse(machine(sshd, port=net.port), say) == {ErrorCode.LINK_LOST}


def test_killed_sessions_are_link_lost(sshd):
    async def say(store, link):
        await store.put(*block())
        sshd.kill_sessions()
        with pytest.raises(KnownError) as caught:
            await store.put(*block())
        return caught.value.code

    assert converse(machine(sshd), say) is ErrorCode.LINK_LOST


def test_an_uplink_that_is_slow_is_not_dead(sshd, proxy):
    net = proxy(mbits=(1, 0))

    async def say(store, link):
        began = time.monotonic()
        hearing = asyncio.create_task(death(link))
        await store.put(*block(200_000))  # 1.6 s: more than the time after which a link is given up
        hearing.cancel()
        return time.monotonic() - began

    assert converse(machine(sshd, port=net.port), say) > 1.5


def test_an_answer_that_never_comes_is_given_up_where_nothing_is_heard(sshd):
    spool(sshd).mkdir(parents=True)
    (spool(sshd) / "slow").touch()

    async def say(store, link):
        with pytest.raises(KnownError) as caught:
            await store.put(*block(100))
        return caught.value.code

    assert converse(machine(sshd), say) is ErrorCode.LINK_LOST
    assert converse(machine(sshd, model="silent"), say) is ErrorCode.LINK_LOST
