"""The worker over SSH on loopback: first text, overlap, bytes over a slow link, many files at once.

Real client, real sshd, real worker; what is compared takes place in the same run. ``slow`` has a
device of fixed speed and a proxy of limited rate; both are told in the table.
"""

import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import av

from app import compose
from app.domain.blocks import Codec
from app.domain.events import Event, JobEnded, TextArrived, Uploading
from app.domain.history import THIS_COMPUTER, JobSettings
from app.domain.settings import EngineSettings
from app.engine.service import Service
from remote import protocol
from remote.protocol import Acknowledge, Done, Message, Source, Transcribe
from tests.bench.common import (
    OUT,
    SAMPLE,
    Report,
    add_eval,
    bench_parser,
    eval_folder,
    recordings,
    say,
)
from tests.bench.recordings import write_flac
from tests.loopback.rig import Rig

HOUR_S = 3600.0
MP3_BIT_RATE = 128_000
FAKE_SPEED = 500.0
SLOW_MBITS = 20.0
SLOW_DELAY_MS = 25.0
"""One way: 50 ms there and back."""

KINDS = ("first", "slow", "many")


@dataclass(slots=True)
class Heard:
    """What a run was like; seconds since the files were added."""

    added_s: float = 0.0
    first_s: dict[str, float] = field(default_factory=dict)
    ended_s: dict[str, float] = field(default_factory=dict)
    stages_s: dict[str, float] = field(default_factory=dict)
    text: dict[str, str] = field(default_factory=dict)
    sent_bytes: int = 0

    def __call__(self, event: Event) -> None:
        now_s = time.perf_counter() - self.added_s
        match event:
            case TextArrived(job, _):
                self.first_s.setdefault(job.path.name, now_s)
            case Uploading(_, sent_bytes):
                self.sent_bytes = max(self.sent_bytes, sent_bytes)
            case JobEnded(job, transcript):
                if job.error is not None:
                    raise SystemExit(f"{job.path.name}: {job.error}")
                self.ended_s[job.path.name] = now_s
                self.text[job.path.name] = transcript.text
                summary = job.summary.stages.seconds if job.summary else {}
                for name, seconds in {**summary, **job.own_s}.items():
                    self.stages_s[name] = self.stages_s.get(name, 0.0) + seconds

    @property
    def wall_s(self) -> float:
        """Until the last file had its text."""
        return max(self.ended_s.values())


async def _transcribe(machine: str, files: Sequence[Path], codec: Codec | None) -> Heard:
    heard = Heard()
    async with compose.shared() as shared:
        settings = compose.settled(JobSettings(machine, EngineSettings("tiny.en")))
        service: Service = compose.service(
            shared, settings, ask=lambda _: None, trust=None, codec=codec, observers=[heard]
        )
        heard.added_s = time.perf_counter()
        await service.add(files)
        await service.run()
    return heard


def transcribe(machine: str, files: Sequence[Path], codec: Codec | None = None) -> Heard:
    """The run of a client in this process."""
    return asyncio.run(_transcribe(machine, files, codec))


def hour_mp3(source: Path, seconds: float) -> Path:
    """An mp3 of exactly so many seconds: the source from its start, over and over; kept."""
    target = OUT / f"{source.stem}-{seconds:.0f}.mp3"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mp3(source, target.with_suffix(".part.mp3"), seconds)
        target.with_suffix(".part.mp3").replace(target)
    return target


def write_mp3(source: Path, target: Path, seconds: float) -> None:
    """Writes that file."""
    flac = target.with_suffix(".flac")
    write_flac(source, flac, seconds)
    with av.open(str(flac)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream("libmp3lame", rate=44_100, layout="stereo")
        stream.bit_rate = MP3_BIT_RATE
        resampler = av.AudioResampler("s16p", "stereo", 44_100, frame_size=1152)
        for frame in reader.decode(audio=0):
            for part in resampler.resample(frame):
                writer.mux(stream.encode(part))
        for part in resampler.resample(None):
            writer.mux(stream.encode(part))
        writer.mux(stream.encode(None))
    flac.unlink()


def main(arguments: Sequence[str]) -> int:
    """The bench; its exit status."""
    parser = bench_parser("remote", __doc__)
    add_eval(parser)
    parser.add_argument("kind", choices=KINDS, help="what to measure")
    parser.add_argument("--seconds", type=float, default=HOUR_S, help="length of the recording")
    parser.add_argument("-n", type=int, default=3, help="rounds, where they are short")
    options = parser.parse_args(arguments)
    source = recordings(eval_folder(options.eval), only=["long45-lecture"])[0].path
    with TemporaryDirectory(prefix="farscribe-bench-") as place:
        folder = Path(place)
        os.environ.setdefault("FARSCRIBE_HOME", str(folder / "models"))
        measure = {"first": first, "slow": slow, "many": many}[options.kind]
        measure(folder, source, options).deliver(options.json)
    return 0


def _be(rig: Rig) -> None:
    """From now on this process is the rig's client; models come from where they were."""
    for name in ("HOME", "FARSCRIBE_HOME"):
        os.environ[name] = str(rig.home)
    os.environ.pop("SSH_AUTH_SOCK", None)


def first(folder: Path, source: Path, options: Namespace) -> Report:
    """First text with a resident worker, and the whole against its slowest stage alone."""
    mp3 = hour_mp3(source, options.seconds)
    firsts: list[float] = []
    with Rig(folder / "rig") as rig:
        _be(rig)
        transcribe(rig.address, [SAMPLE])
        for turn in range(options.n):
            firsts.append(_first_text(rig, mp3))
            say(f"{turn + 1}: first text after {firsts[-1]:.2f} s")
        whole = transcribe(rig.address, [mp3], Codec.FLAC)
        say(f"over SSH: {whole.wall_s:.1f} s")
        alone = _on_the_host(rig, mp3)
        say(f"the worker alone: {alone:.1f} s")
    rows = [
        [
            "first text",
            f"{statistics.median(firsts):.2f} s",
            f"{min(firsts):.2f}–{max(firsts):.2f}",
        ],
        ["whole, over SSH", f"{whole.wall_s:.1f} s", f"{options.seconds / whole.wall_s:.1f} ×"],
        [
            "the worker alone, from a file there",
            f"{alone:.1f} s",
            f"{options.seconds / alone:.1f} ×",
        ],
        ["ratio", f"{whole.wall_s / alone:.3f}", "wanted: at most 1.15"],
    ]
    stages = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in whole.stages_s.items())
    return Report(
        title="A resident worker over SSH, tiny.en",
        n=f"first text: median of {options.n}; the rest 1",
        columns=["what", "", "range or speed"],
        rows=rows,
        notes=[f"an mp3 of {options.seconds:.0f} s; {stages}"],
        numbers={"firsts_s": firsts, "whole_s": whole.wall_s, "alone_s": alone},
    )


def _first_text(rig: Rig, mp3: Path) -> float:
    """Seconds from the drop to the first text; the job is stopped then."""

    async def run() -> float:
        heard = Heard()
        async with compose.shared() as shared:
            settings = compose.settled(JobSettings(rig.address, EngineSettings("tiny.en")))

            def watch(event: Event) -> None:
                heard(event) if isinstance(event, TextArrived) else None
                if heard.first_s and not service.stopping:
                    service.cancel()

            service: Service = compose.service(
                shared, settings, ask=lambda _: None, trust=None, codec=None, observers=[watch]
            )
            heard.added_s = time.perf_counter()
            await service.add([mp3])
            await service.run()
        return min(heard.first_s.values())

    return asyncio.run(run())


def _on_the_host(rig: Rig, path: Path) -> float:
    """Seconds that the resident worker takes for a file on its own disk."""
    environment = {**os.environ, "FARSCRIBE_SPOOL": str(rig.spool)}
    command = [sys.executable, "-m", "remote.fast_transcribe", "attach"]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None

        def tell(message: Message) -> None:
            assert client.stdin is not None
            client.stdin.write(protocol.encode(message))
            client.stdin.flush()

        begin = time.perf_counter()
        tell(Transcribe("alone", Source("path", str(path))))
        for line in client.stdout:
            message = protocol.decode(line)
            if isinstance(message, Done):
                wall_s = time.perf_counter() - begin
                tell(Acknowledge("alone", message.seq))
                client.stdin.close()
                return wall_s
        raise SystemExit("The worker did not finish.")


def slow(folder: Path, source: Path, options: Namespace) -> Report:
    """Bytes and wall time over a slow link, against sending the file as it is."""
    mp3 = hour_mp3(source, options.seconds)
    size = mp3.stat().st_size
    link = {"mbits": (SLOW_MBITS, SLOW_MBITS), "delay_ms": (SLOW_DELAY_MS, SLOW_DELAY_MS)}
    ours: list[float] = []
    theirs: list[float] = []
    sent: list[int] = []
    with Rig(folder / "rig", FAKE_SPEED) as rig:
        _be(rig)
        transcribe(rig.address, [SAMPLE])
        rig.proxy.shape(**link)
        for turn in range(options.n):
            before, _ = rig.proxy.carried
            heard = transcribe(rig.address, [mp3])
            after, _ = rig.proxy.carried
            ours.append(heard.wall_s)
            sent.append(after - before)
            sending = _send_whole(rig, mp3)
            theirs.append(sending + _on_the_host(rig, mp3))
            say(f"{turn + 1}: {ours[-1]:.1f} s, {sent[-1] / size:.0%} of the bytes; "
                f"as it is {theirs[-1]:.1f} s, of which sending {sending:.1f} s")  # fmt: skip
    stages = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in heard.stages_s.items())
    ratio = statistics.median(ours) / statistics.median(theirs)
    return Report(
        title=f"Over {SLOW_MBITS:.0f} Mbit/s and {2 * SLOW_DELAY_MS:.0f} ms",
        n=f"median of {options.n}, taking turns",
        columns=["way", "wall", "bytes over the link"],
        rows=[
            ["blocks, transcribed as they come", f"{statistics.median(ours):.1f} s",
             f"{statistics.median(sent) / size:.1%}"],
            ["the mp3 as it is, then transcribed", f"{statistics.median(theirs):.1f} s", "100 %"],
            ["ratio", f"{ratio:.2f}", "wanted: at most 0.60 and 30 %"],
        ],
        notes=[
            f"an mp3 of {options.seconds:.0f} s and {size / 1e6:.1f} MB, 128 kbit/s",
            f"the device is a stand-in of {FAKE_SPEED:.0f} × real time",
            stages,
        ],
        numbers={"ours_s": ours, "theirs_s": theirs, "sent_bytes": sent, "size": size},
    )  # fmt: skip


def _send_whole(rig: Rig, path: Path) -> float:
    """Seconds to send a file as it is, by OpenSSH's own client over the same link."""
    ssh = shutil.which("ssh") or "ssh"
    command = [
        ssh, "-q", "-i", str(rig.home / ".ssh" / "id_ed25519"), "-p", str(rig.proxy.port),
        "-o", f"UserKnownHostsFile={rig.home / '.ssh' / 'known_hosts'}",
        "127.0.0.1", "cat > whole.mp3",
    ]  # fmt: skip
    begin = time.perf_counter()
    with path.open("rb") as file:
        subprocess.run(command, stdin=file, check=True)
    return time.perf_counter() - begin


def many(folder: Path, source: Path, options: Namespace) -> Report:
    """Thirty-two files at once against one of the same length."""
    count, seconds = 32, max(180.0, options.seconds / 32)
    os.environ["FARSCRIBE_HOME"] = str(folder / "home")
    part, whole = folder / "part.flac", folder / "whole.flac"
    write_flac(source, whole, count * seconds)
    files = []
    for number in range(count):
        path = folder / f"{number}.flac"
        _cut(whole, path, number * seconds, seconds)
        files.append(path)
    part.unlink(missing_ok=True)
    transcribe(THIS_COMPUTER, [SAMPLE])
    one = transcribe(THIS_COMPUTER, [whole])
    say(f"one file: {one.wall_s:.1f} s")
    all_ = transcribe(THIS_COMPUTER, files)
    say(f"{count} files: {all_.wall_s:.1f} s")
    firsts, ends = sorted(all_.first_s.values()), sorted(all_.ended_s.values())
    total = count * seconds
    return Report(
        title=f"{count} files of {seconds:.0f} s at once, tiny.en",
        n="1 each",
        columns=["what", "wall", "× real time"],
        rows=[
            ["one file of the same length", f"{one.wall_s:.1f} s", f"{total / one.wall_s:.1f}"],
            [f"{count} files at once", f"{all_.wall_s:.1f} s", f"{total / all_.wall_s:.1f}"],
            ["ratio", f"{one.wall_s / all_.wall_s:.2f}", "wanted: at least 0.9"],
        ],
        notes=[
            f"first texts after {firsts[0]:.1f} to {firsts[-1]:.1f} s",
            f"ends after {ends[0]:.1f} to {ends[-1]:.1f} s: none is left behind",
        ],
        numbers={"one_s": one.wall_s, "all_s": all_.wall_s, "firsts_s": firsts, "ends_s": ends},
    )


def _cut(whole: Path, target: Path, begin_s: float, seconds: float) -> None:
    with av.open(str(whole)) as reader, av.open(str(target), "w") as writer:
        stream = writer.add_stream("flac", rate=16_000, layout="mono")
        reader.seek(round(begin_s * av.time_base))
        written = 0.0
        for frame in reader.decode(audio=0):
            if frame.time is None or frame.time < begin_s:
                continue
            frame.pts = round(written * 16_000)
            writer.mux(stream.encode(frame))
            written += frame.samples / 16_000
            if written >= seconds:
                break
        writer.mux(stream.encode(None))
