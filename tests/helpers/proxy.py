"""A TCP proxy in its own process that is as bad as a network can be.

    with Proxy(port, mbits=(200, 200), delay_ms=(40, 40)) as proxy:
        connect to 127.0.0.1, proxy.port
        proxy.freeze()

Rates and delays go by direction: up (towards the target) and down. What is limited waits in a
queue of 50 ms before the bottleneck, as in a good router; nothing is ever lost, as TCP sees it.
"""

import asyncio
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

CHUNK_BYTES = 256 * 1024
QUEUE_S = 0.05
RECEIVE_BUFFER_BYTES = 256 * 1024
"""What the kernel takes in before the proxy has read it: it must not hide the bottleneck."""


class Proxy:
    """A proxy before a port on this computer.

    Args:
        target: the port.
        mbits: Mbit/s (up, down); 0 is unlimited.
        delay_ms: one way, (up, down).
    """

    def __init__(
        self,
        target: int,
        *,
        mbits: tuple[float, float] = (0, 0),
        delay_ms: tuple[float, float] = (0, 0),
    ) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", __file__, str(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.port = int(self._read()["port"])
        self.shape(mbits=mbits, delay_ms=delay_ms)

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def carried(self) -> tuple[int, int]:
        """Bytes so far (up, down)."""
        up, down = self._do("carried")["bytes"]
        return up, down

    def shape(
        self, *, mbits: tuple[float, float] = (0, 0), delay_ms: tuple[float, float] = (0, 0)
    ) -> None:
        """Other rates and delays from now on."""
        self._do("shape", mbits=mbits, delay_ms=delay_ms)

    def freeze(self) -> None:
        """Nothing goes through any more, and nobody is told."""
        self._do("freeze")

    def thaw(self) -> None:
        """It goes on where it froze."""
        self._do("thaw")

    def reset(self) -> None:
        """Every connection is reset, at both ends."""
        self._do("reset")

    def refuse(self) -> None:
        """New connections are refused; those that are stay."""
        self._do("refuse")

    def accept(self) -> None:
        """New connections are taken again."""
        self._do("accept")

    def close(self) -> None:
        """It ends, with its connections."""
        with suppress(OSError):
            self._process.communicate(timeout=10)

    def _do(self, verb: str, **more: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": verb, **more}).encode() + b"\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the proxy has ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


# ── the process ──────────────────────────────────────────────────────────────────────────────


class Direction:
    """What one way through the proxy is like; shared by all connections."""

    def __init__(self) -> None:
        self.bytes_s = 0.0
        self.delay_s = 0.0
        self.free_s = 0.0  # when the bottleneck has sent what it has
        self.carried = 0

    def leaves_s(self, size: int, now_s: float) -> float:
        """When so many bytes that come now leave at the other end."""
        self.carried += size
        if self.bytes_s:
            self.free_s = max(now_s, self.free_s) + size / self.bytes_s
            return self.free_s + self.delay_s
        return now_s + self.delay_s


class Network:
    def __init__(self, target: int) -> None:
        self.target = target
        self.loop = asyncio.get_running_loop()
        self.ways = (Direction(), Direction())
        self.flows = asyncio.Event()
        self.flows.set()
        self.sockets: set[socket.socket] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self.listener: socket.socket | None = None
        self.port = 0

    def accept(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        listener.setblocking(False)
        self.listener, self.port = listener, listener.getsockname()[1]
        self.loop.add_reader(listener, self.arrive)

    def refuse(self) -> None:
        if self.listener is not None:
            self.loop.remove_reader(self.listener)
            self.listener.close()
            self.listener = None

    def arrive(self) -> None:
        with suppress(OSError):
            assert self.listener is not None
            near, _ = self.listener.accept()
            self.start(self.connect(near))

    def start(self, work: Any) -> None:
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def connect(self, near: socket.socket) -> None:
        far = socket.socket()
        far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        for end in (near, far):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sockets.add(end)
        await self.flows.wait()
        try:
            await self.loop.sock_connect(far, ("127.0.0.1", self.target))
        except OSError:
            self.drop(near, far)
            return
        self.start(self.carry(near, far, self.ways[0]))
        self.start(self.carry(far, near, self.ways[1]))

    async def carry(self, source: socket.socket, sink: socket.socket, way: Direction) -> None:
        """Everything from one end to the other, until one of them closes."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        writing = self.loop.create_task(self.deliver(under_way, sink))
        try:
            while not writing.done():
                await self.flows.wait()
                # In pieces of at most 10 ms, so that what goes by the bottleneck goes evenly.
                size = int(min(CHUNK_BYTES, max(1500, way.bytes_s / 100))) if way.bytes_s else 0
                data = await self.loop.sock_recv(source, size or CHUNK_BYTES)
                await self.flows.wait()
                now_s = self.loop.time()
                under_way.put_nowait((way.leaves_s(len(data), now_s), data))
                if not data:
                    break
                full_s = way.free_s - now_s - QUEUE_S
                while way.bytes_s == 0 and under_way.qsize() > 8 and way.delay_s == 0:
                    await asyncio.sleep(0)
                if full_s > 0:
                    await asyncio.sleep(full_s)
            await writing
        except OSError:
            writing.cancel()
            self.drop(source, sink)

    async def deliver(self, under_way: Any, sink: socket.socket) -> None:
        while True:
            leaves_s, data = await under_way.get()
            if (left_s := leaves_s - self.loop.time()) > 0:
                await asyncio.sleep(left_s)
            await self.flows.wait()
            if not data:
                with suppress(OSError):
                    sink.shutdown(socket.SHUT_WR)
                return
            try:
                await self.loop.sock_sendall(sink, data)
            except OSError:  # reset, or closed at the other end: the other way hears of it too
                self.drop(sink)
                return

    def drop(self, *ends: socket.socket) -> None:
        for end in ends:
            self.sockets.discard(end)
            self.loop.remove_reader(end)
            self.loop.remove_writer(end)
            end.close()

    def reset(self) -> None:
        for task in list(self.tasks):
            task.cancel()
        for end in list(self.sockets):
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.drop(end)

    def shape(self, mbits: list[float], delay_ms: list[float]) -> None:
        for way, rate, delay in zip(self.ways, mbits, delay_ms, strict=True):
            way.bytes_s = rate * 1e6 / 8
            way.delay_s = delay / 1000


async def serve(target: int) -> None:
    network = Network(target)
    network.accept()
    say(port=network.port)
    verbs: dict[str, Callable[..., None]] = {
        "shape": network.shape,
        "freeze": network.flows.clear,
        "thaw": network.flows.set,
        "reset": network.reset,
        "refuse": network.refuse,
        "accept": network.accept,
        "carried": lambda: None,
    }
    lines = asyncio.StreamReader()
    await network.loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(lines), sys.stdin.buffer
    )
    async for line in lines:
        order = json.loads(line)
        verbs[order.pop("do")](**order)
        say(bytes=[way.carried for way in network.ways])
    network.reset()


def say(**answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
