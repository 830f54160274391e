"""The worker as a process: started, shared, killed, replaced and stopped, by the real commands.

The model is a tiny one with random weights: what it says is of no interest, only that it says it
once. Processes are shared between tests where that is possible, as each takes seconds to start.
"""

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from remote import protocol
from remote.bridge import socket_path
from remote.protocol import (
    Acknowledge,
    Block,
    Blocks,
    Cancel,
    Done,
    ErrorCode,
    ExitCode,
    Failed,
    Have,
    Heartbeat,
    Held,
    Hello,
    Jobs,
    List,
    Message,
    Missing,
    Options,
    Ping,
    Progress,
    Put,
    Segments,
    Source,
    Stored,
    Transcribe,
)
from tests.remote.model_factory import write_model
from tests.remote.patience import PATIENCE_S, soon
from tests.remote.recordings import SAMPLE

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Unix sockets and signals")

ROOT = Path(__file__).parents[2]
FRONT_DOOR = ROOT / "remote" / "fast_transcribe.py"
ENGLISH = Options(language="en", fallback=False)
SOUND = SAMPLE.read_bytes()
BLOCK = Block(hashlib.sha256(SOUND).hexdigest(), 176_000)


class Talk:
    """A command of the front door, talked to on its standard streams."""

    def __init__(self, host: "Host", *arguments: str) -> None:
        self.heard: list[Message] = []
        self._news = threading.Condition()
        self._closed = False
        self.process = host.start(*arguments)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = protocol.decode(line)
            assert message is not None
            with self._news:
                self.heard.append(message)
                self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    def __enter__(self) -> "Talk":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.end()

    def say(self, *parts: Message | bytes) -> None:
        assert self.process.stdin is not None
        for part in parts:
            self.process.stdin.write(part if isinstance(part, bytes) else protocol.encode(part))
        self.process.stdin.flush()

    def until(self, true: Callable[[], object]) -> None:
        with self._news:
            assert self._news.wait_for(true, PATIENCE_S), self.heard

    def wait_for(self, kind: type[Message], count: int = 1) -> Message:
        self.until(lambda: self.of(kind)[count - 1 :])
        return self.of(kind)[count - 1]

    def of(self, kind: type[Message]) -> list[Message]:
        return [message for message in self.heard if isinstance(message, kind)]

    def events(self, job: str) -> list[Message]:
        kinds = (Progress, Segments, Done, Failed)
        return [m for m in self.heard if isinstance(m, kinds) and m.job == job]

    def numbers(self, job: str) -> list[int]:
        return [event.seq for event in self.events(job)]  # type: ignore[union-attr]

    def end(self) -> int:
        """The exit status, once it has ended."""
        self.until(lambda: self._closed)
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        status = self.process.wait(PATIENCE_S)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


class Host:
    """A machine: a spool, a model, and whatever runs there."""

    def __init__(self, folder: Path, model: Path) -> None:
        folder.mkdir(parents=True)
        # So long that no system takes it as the name of a socket.
        self.spool = folder / ("a-folder-with-a-name-" * 5) / "spool"
        self.model = str(model)
        self.log = folder / "log"
        self._temporary = folder / "t"
        self._temporary.mkdir()
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        engine = ["--model", self.model, "--device", "cpu", "--dtype", "float32"]
        loads = arguments[0] in {"serve", "pipe"} or "--start" in arguments
        own = ["--spool", str(self.spool)] if "--spool" not in arguments else []
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, FRONT_DOOR, *arguments, *own, *(engine if loads else [])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "TMPDIR": str(self._temporary)},
            )
        self.started.append(process)
        return process

    def run(self, *arguments: str) -> tuple[int, bytes]:
        """Exit status and output of a command."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output

    def attach(self) -> Talk:
        return Talk(self, "attach", "--start")

    @property
    def pid(self) -> int:
        return int(json.loads((self.spool / "worker.json").read_text())["pid"])

    @property
    def socket(self) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tempfile.tempdir", str(self._temporary))
            return socket_path(self.spool)

    def kill(self) -> None:
        """Kills the worker, as a lack of memory would."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        gone(pid)

    def records(self, job: str) -> list[dict[str, object]]:
        """What a job's journal has; nothing where it has none."""
        path = self.spool / "jobs" / f"{job}.journal"
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def bring(self, sound: bytes = SOUND) -> list[Message]:
        """A block is brought to the store; what the store said."""
        block = hashlib.sha256(sound).hexdigest()
        with Talk(self, "receive") as store:
            store.say(Have((block,)), Put(block, len(sound)), sound)
            store.until(lambda: len(store.heard) == 2)
            return store.heard

    def close(self) -> None:
        with suppress(OSError, ValueError):
            os.kill(self.pid, signal.SIGKILL)
        for process in self.started:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()


def gone(pid: int) -> None:
    """Waits until a process has ended that is nobody's child."""
    soon(lambda: zombie(pid))


def zombie(pid: int) -> bool:
    """Whether a process has ended, whether or not anybody has noticed."""
    try:
        return " Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), encoder_layers=1, decoder_layers=1)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Host]:
    """Shared: whoever ends its worker leaves it to the next to start one."""
    made = Host(tmp_path_factory.mktemp("host") / "host", model)
    yield made
    made.close()


def asked(name: str, source: Source | None = None, after: int = 0) -> Transcribe:
    return Transcribe(name, source or Source("path", str(SAMPLE)), ENGLISH, after=after)


# ── no worker ────────────────────────────────────────────────────────────────────────────────


def test_where_no_worker_runs_that_is_said_on_the_wire_and_to_the_user(
    host: Host, tmp_path: Path
) -> None:
    status, said = host.run("attach", "--spool", str(tmp_path))
    failed = protocol.decode(said)
    assert status == ExitCode.DEVICE
    assert isinstance(failed, Failed)
    assert (failed.job, failed.code) == ("", ErrorCode.ENGINE_MISSING)
    for verb in ("status", "stop"):
        assert host.run(verb, "--spool", str(tmp_path)) == (ExitCode.DEVICE, b"")
    assert b"No worker is running here." in host.log.read_bytes()


def test_a_worker_that_cannot_start_is_told_with_its_last_words(host: Host, tmp_path: Path) -> None:
    (tmp_path / "worker.lock").mkdir()  # in the way
    status, said = host.run("attach", "--start", "--spool", str(tmp_path))
    failed = protocol.decode(said)
    assert status == ExitCode.DEVICE
    assert isinstance(failed, Failed)
    assert failed.code is ErrorCode.ENGINE_DIED
    assert "IsADirectoryError" in failed.message


# ── a worker and its clients ─────────────────────────────────────────────────────────────────


def test_a_worker_is_started_for_the_first_client_and_outlives_it(host: Host) -> None:
    with host.attach() as client:
        hello = client.wait_for(Hello)
        assert client.heard[0] == hello
        client.say(asked("first"))
        end = client.wait_for(Done)
        assert isinstance(end, Done)
        assert end.summary.duration_ms == 11_000
        assert client.numbers("first") == list(range(1, end.seq + 1))
        ready = client.of(Hello)[-1]
        assert isinstance(ready, Hello)
        assert (ready.model, ready.dtype) == (host.model, "float32")
    pid = host.pid
    status, said = host.run("status")
    kinds = [type(protocol.decode(line)) for line in said.splitlines()]
    assert status == ExitCode.OK
    assert sorted(kind.__name__ for kind in kinds) == ["Heartbeat", "Hello", "Jobs"]
    with host.attach() as client:
        client.say(asked("first", after=end.seq - 1), Acknowledge("first", end.seq), List())
        assert client.wait_for(Done) == end
        assert client.wait_for(Jobs) == Jobs(())
        assert client.heard[0] == ready  # the model is loaded once
    assert host.pid == pid


def test_the_socket_is_for_its_user_alone_however_long_the_path_of_the_spool_is(
    host: Host,
) -> None:
    with host.attach() as client:
        client.wait_for(Hello)
        assert len(os.fsencode(host.spool)) > 108
        assert stat.S_IMODE(host.socket.stat().st_mode) == 0o600
        assert stat.S_IMODE(host.spool.stat().st_mode) == 0o700


def test_two_clients_share_a_job_and_the_heart_beats_for_both(host: Host) -> None:
    with host.attach() as one, host.attach() as other:
        one.say(asked("shared"))
        other.say(asked("shared"))
        assert one.wait_for(Done) == other.wait_for(Done)
        assert one.events("shared") == other.events("shared")
        for client in (one, other):
            client.wait_for(Heartbeat)
        other.say(asked("gone", after=3), Transcribe("none", Source("path", "/x"), model="bsae"))
        missing = other.wait_for(Failed, 2)
        assert isinstance(missing, Failed)
        assert missing.code in {ErrorCode.MODEL_MISSING, ErrorCode.OFFLINE}
        assert [e.seq for e in other.of(Failed)] == [0, 1]  # type: ignore[union-attr]
        assert len(one.of(Failed)) == 0


def test_a_second_worker_is_refused(host: Host) -> None:
    with host.attach() as client:
        client.wait_for(Hello)
        assert host.run("serve") == (ExitCode.OUTPUT, b"")
        assert b"Another worker is at work" in host.log.read_bytes()
        client.say(Ping())
        client.wait_for(Heartbeat)


# ── audio in blocks, and deaths ──────────────────────────────────────────────────────────────


def settled(host: Host, job: str) -> list[int]:
    """Keys of the parts that a job's journal has, in its order."""
    return [r["part"]["key"] for r in host.records(job) if r["type"] == "settled"]  # type: ignore[index]


def test_killed_in_the_middle_it_goes_on_without_doing_anything_twice(host: Host) -> None:
    talk = Source("blocks", "talk.mp3", 55_000)
    assert host.bring() == [Held(()), Stored(BLOCK.id)]
    with host.attach() as client:
        client.say(asked("long", talk), Blocks("long", 0, (BLOCK,) * 4))
        client.until(lambda: client.events("long"))
        before = client.events("long")
        host.kill()
        assert client.end() == ExitCode.OK
    known = settled(host, "long")
    assert known
    with host.attach() as client:
        after = before[-1].seq  # type: ignore[union-attr]
        client.say(asked("long", talk, after), Blocks("long", 0, (BLOCK,) * 4))
        client.say(Blocks("long", 4, (BLOCK,), complete=True))
        end = client.wait_for(Done)
        assert isinstance(end, Done)
        assert client.numbers("long") == list(range(after + 1, end.seq + 1))
        assert end.summary.duration_ms == 55_000
        keys = settled(host, "long")
        assert keys[: len(known)] == known
        assert len(set(keys)) == len(keys) > len(known)
        client.say(Acknowledge("long", end.seq), List())
        client.wait_for(Jobs)
        assert not (host.spool / "jobs" / "long.journal").exists()
    assert not list((host.spool / "blocks").glob("*/*"))


def test_a_block_that_was_never_put_is_asked_for(host: Host) -> None:
    with host.attach() as client:
        client.say(asked("asks", Source("blocks", "talk.mp3")))
        client.say(Blocks("asks", 0, (BLOCK,), complete=True))
        assert client.wait_for(Missing) == Missing("asks", (BLOCK.id,))
        host.bring()
        client.say(Blocks("asks", 0, (BLOCK,), complete=True))
        end = client.wait_for(Done)
        assert isinstance(end, Done)


def test_stopped_in_order_it_loses_nothing_and_has_not_died(host: Host) -> None:
    with host.attach() as client:
        client.say(asked("stays", Source("blocks", "talk.mp3")))
        soon(lambda: len(host.records("stays")) == 2)
        pid = host.pid
        assert host.run("stop", "--now") == (ExitCode.OK, b"")
        assert client.end() == ExitCode.OK
    gone(pid)
    assert not host.socket.exists()
    assert [r["type"] for r in host.records("stays")] == ["transcribe", "begin", "pause"]
    assert b"Traceback" not in (host.spool / "worker.log").read_bytes()


def test_a_worker_of_another_version_makes_way_and_its_jobs_go_on(host: Host) -> None:
    with host.attach() as old:
        old.say(asked("moves", Source("blocks", "talk.mp3")), List())
        old.wait_for(Jobs)
        before = host.pid
        facts = host.spool / "worker.json"
        facts.write_text(json.dumps({"pid": before, "code": "another"}))
        with host.attach() as new:
            new.say(List())
            (places,) = [new.wait_for(Jobs)]
            assert isinstance(places, Jobs)
            assert "moves" in [place.job for place in places.jobs]
            assert host.pid != before
            assert old.end() == ExitCode.OK
            new.say(Cancel("moves"), asked("moves"))
            failed = new.wait_for(Failed)
            assert isinstance(failed, Failed)
            assert failed.code is ErrorCode.CANCELLED


def test_asked_to_stop_it_first_ends_its_jobs(host: Host) -> None:
    with host.attach() as client:
        client.say(asked("last"), List())
        client.wait_for(Jobs)
        stopping = Talk(host, "stop")
        end = client.wait_for(Done)
        assert isinstance(end, Done)
        assert end.job == "last"
        client.say(Cancel("stays"))  # which had been waiting for audio all the time
        assert stopping.end() == ExitCode.OK
        assert client.end() == ExitCode.OK
    assert host.run("status")[0] == ExitCode.DEVICE


# ── idleness ─────────────────────────────────────────────────────────────────────────────────


def test_jobs_that_stand_still_do_not_keep_a_machine_awake(host: Host, tmp_path: Path) -> None:
    """The command runs though a job is there, once; and the worker ends by itself."""
    note = tmp_path / "asleep"
    idle = ["--idle-after", "1", "--idle-exit", "3", "--idle-command", f"echo x >> '{note}'"]
    serving = host.start("serve", *idle, "--spool", str(tmp_path / "spool"))
    try:
        soon((tmp_path / "spool" / "worker.sock").exists)
        with Talk(host, "attach", "--spool", str(tmp_path / "spool")) as client:
            client.say(asked("stalled", Source("blocks", "talk.mp3")))
            assert serving.wait(PATIENCE_S) == ExitCode.OK
    finally:
        serving.kill()
    assert note.read_text() == "x\n"
    assert (tmp_path / "spool" / "jobs" / "stalled.journal").exists()


# ── one client on standard input and output ──────────────────────────────────────────────────


def test_one_client_is_served_until_its_input_and_its_jobs_have_ended(
    host: Host, tmp_path: Path
) -> None:
    spool = str(tmp_path / "spool")
    with Talk(host, "pipe", "--spool", spool) as client:
        assert isinstance(client.wait_for(Hello), Hello)
        client.say(asked("left", Source("blocks", "talk.mp3")), asked("done"))
        assert client.process.stdin is not None
        client.process.stdin.close()  # the audio of one will never come
        assert client.end() == ExitCode.OK
        assert isinstance(client.events("done")[-1], Done)
        assert client.events("left") == []
    with Talk(host, "pipe", "--spool", spool) as client:
        client.say(asked("done"))
        client.wait_for(Done)
        client.say(asked("left", Source("blocks", "talk.mp3")))
        client.say(Cancel("left"))
        client.wait_for(Failed)
        assert client.process.stdin is not None
        client.process.stdin.close()
        assert client.end() == ExitCode.OK


def test_when_nobody_listens_any_more_it_ends(host: Host, tmp_path: Path) -> None:
    client = host.start("pipe", "--spool", str(tmp_path / "spool"))
    assert client.stdin is not None
    assert client.stdout is not None
    client.stdin.write(protocol.encode(asked("waits", Source("blocks", "talk.mp3"))))
    client.stdin.flush()
    client.stdout.readline()
    client.stdout.close()  # the input stays open: only the output tells
    assert client.wait(PATIENCE_S) == ExitCode.OK
    client.stdin.close()


def test_without_its_model_it_says_so_and_ends(host: Host, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FRONT_DOOR, "pipe", "--model", str(tmp_path)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=PATIENCE_S,
    )
    failed = protocol.decode(done.stdout)
    assert done.returncode == ExitCode.MODEL
    assert isinstance(failed, Failed)
    assert (failed.job, failed.seq, failed.code.exit_code) == ("", 0, ExitCode.MODEL)


def test_the_standard_streams_belong_to_the_wire_and_prints_go_to_standard_error(
    tmp_path: Path,
) -> None:
    script = tmp_path / "child.py"
    script.write_text(
        "from remote.resident import take_stdio\n"
        "lines, send = take_stdio()\n"
        "print('a library talks')\n"
        "for line in lines:\n"
        "    send(b'got ' + line + b'\\n')\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [sys.executable, script],
        input=b"one\ntwo\nhalf",
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=PATIENCE_S,
    )
    assert done.stdout == b"got one\ngot two\n"
    assert done.stderr == b"a library talks\n"
