"""Random faults while recordings travel and become text; afterwards nothing is lost or doubled.

    python -m tests.loopback.faults --faults 100 --seed 7

Real processes all the way: client, sshd, worker. The device is a stand-in of fixed speed whose
words depend on the sound alone, so what a run without faults gives is what every run must give.
Each journal of the worker is kept under a second name, to see that no window was decoded again
after it had been settled there.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from tests.loopback.rig import Rig
from tests.remote.recordings import RATE, speech, write

SPEED = 12.0
"""Of the device: slow enough that the faults fall into the work."""

SPOOL_BYTES = 48 * 2**20
Said = tuple[int, int, str]

LATEST_S = 600.0
FREEZES_S = (3.0, 14.0, 30.0)
"""Below what counts as a dead link, just above it, and long after it was given up."""


def options(folder: Path) -> list[str]:
    """Of the client. Opus would be heard otherwise than FLAC, and which is chosen is chance."""
    return ["--quiet", "--audio", "flac", "--format", "json", "--output", str(folder / "out")]


class Trial:
    """A rig under fire.

    Args:
        rig: client and host.
        files: the recordings.
        chance: decides what happens when.
        say: is told what happens.
    """

    def __init__(
        self, rig: Rig, files: Sequence[Path], chance: random.Random, say: Callable[[str], None]
    ) -> None:
        self._rig = rig
        self._files = files
        self._chance = chance
        self._say = say
        self._kept = rig.folder / "kept"
        self._kept.mkdir()
        self._client: subprocess.Popen[str] | None = None
        self.done = Counter[str]()
        self.faults: dict[str, Callable[[], bool]] = {
            "client killed": self._kill_client,
            "worker killed": self._kill_worker,
            "half a line": self._half_line,
            "session killed": self._kill_session,
            "connection reset": self._reset,
            "link frozen": self._freeze,
            "clock jumped": self._jump_clock,
            "disk full": self._fill_disk,
        }

    def run(self, count: int, kinds: Sequence[str]) -> None:
        """Lets so many faults happen, then lets the work end."""
        until = time.monotonic() + LATEST_S + 40 * count
        deck: list[str] = []
        while sum(self.done.values()) < count or not self._finished():
            assert time.monotonic() < until, self._story()
            self._keep_journals()
            if self._client is None or self._client.poll() is not None:
                self._start_client()
            if sum(self.done.values()) < count:
                deck = deck or self._chance.sample(list(kinds), len(kinds))
                self._wait(self._chance.uniform(0.3, 3.0))
                kind = deck.pop()
                if self.faults[kind]():
                    self.done[kind] += 1
                    self._say(f"{sum(self.done.values())}: {kind}")
            else:
                self._wait(0.3)
        self._end_client()

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._keep_journals()
            time.sleep(0.05)  # faults come at random moments

    def settled_twice(self) -> list[str]:
        """Windows that were decoded again although the journal had them."""
        twice = []
        for path in self._kept.iterdir():
            keys = Counter(
                record["part"]["key"]
                for record in _records(path)
                if record.get("type") == "settled"
            )
            twice += [f"{path.name}: window {key}" for key, times in keys.items() if times > 1]
        return twice

    def _finished(self) -> bool:
        entries = self._rig.entries() if self._client else ()
        done = {entry.path for entry in entries if entry.state == "done"}
        bad = [e.error for e in entries if e.state == "failed"]
        assert not bad, f"{bad}\n{self._story()}"
        return done >= {path.absolute() for path in self._files}

    def _story(self) -> str:
        log = self._rig.spool / "worker.log"
        words = log.read_text(errors="replace")[-3000:] if log.exists() else ""
        return f"after {dict(self.done)}:\n{words}"

    def _keep_journals(self) -> None:
        for path in self._rig.journals():
            with suppress(OSError):
                os.link(path, self._kept / path.name)

    # ── the client ──────────────────────────────────────────────────────────────────────────

    def _start_client(self) -> None:
        self._end_client()
        ended = {e.path for e in self._rig.entries() if e.state == "done"} if self.done else set()
        files = [path for path in self._files if path.absolute() not in ended]
        if files:
            self._client = self._rig.transcribe(files, *options(self._rig.folder))

    def _end_client(self) -> None:
        if self._client is not None:
            with suppress(subprocess.TimeoutExpired):
                self._client.communicate(timeout=20)
            self._client.kill()
            self._client.wait()

    # ── faults ──────────────────────────────────────────────────────────────────────────────

    def _kill_client(self) -> bool:
        if self._client is None or self._client.poll() is not None:
            return False
        self._client.kill()
        return True

    def _kill_worker(self) -> bool:
        return self._rig.kill_worker()

    def _half_line(self) -> bool:
        """As a power cut in the middle of a write leaves it."""
        if not self._rig.kill_worker():
            return False
        for path in self._rig.journals():
            with path.open("ab") as journal:
                journal.write(b'{"type":"segments","job":"' + bytes([self._chance.randrange(256)]))
        return True

    def _kill_session(self) -> bool:
        return self._rig.sshd.kill_sessions() > 0

    def _reset(self) -> bool:
        self._rig.proxy.reset()
        return True

    def _freeze(self) -> bool:
        self._rig.proxy.freeze()
        self._wait(self._chance.choice(FREEZES_S))
        self._rig.proxy.thaw()
        return True

    def _jump_clock(self) -> bool:
        """To the worker, a clock that jumps by a year is files that are a year old."""
        long_ago = time.time() - 400 * 24 * 3600
        for path in self._rig.spool.rglob("*"):
            with suppress(OSError):
                os.utime(path, (long_ago, long_ago))
        return True

    def _fill_disk(self) -> bool:
        ballast = self._rig.spool / "ballast"
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(2**16))
                file.flush()
        self._wait(self._chance.uniform(1.0, 4.0))
        ballast.unlink()
        return True


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        with suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict):
                yield record


@contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """A file system of its own in the folder, so that it can be full; whether there is one."""
    folder.mkdir(parents=True)
    options = ["-t", "tmpfs", "-o", f"size={SPOOL_BYTES}", "none", str(folder)]
    mounted = subprocess.run(["mount", *options], capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def recordings(folder: Path, minutes: Sequence[float]) -> list[Path]:
    """Recordings of real speech, no two stretches of which sound the same to the device."""
    folder.mkdir()
    clip, noise = speech(), np.random.default_rng(0)
    files = []
    for number, length in enumerate(minutes):
        count = max(1, round(length * 60 * RATE / (len(clip) + RATE)))
        parts = []
        for part in range(count):
            hiss = noise.normal(0, 20 + 7 * part, len(clip))
            loud = np.clip(clip + hiss, -32768, 32767)
            parts.append(np.concatenate([loud, np.zeros(RATE)]).astype(np.int16))
        files.append(write(folder / f"{number}.wav", np.concatenate(parts)[None]))
    return files


def run(
    folder: Path,
    *,
    faults: int,
    seed: int,
    minutes: Sequence[float],
    kinds: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Counter[str]:
    """What happened; everything it promises is asserted.

    Raises:
        AssertionError: something was lost, doubled, decoded twice or never finished.
    """
    files = recordings(folder / "recordings", minutes)
    (folder / "calm").mkdir()
    (folder / "storm").mkdir()
    with Rig(folder / "calm", 400.0) as rig:
        calm = rig.transcribe(files, *options(folder))
        _, err = calm.communicate(timeout=LATEST_S)
        assert calm.returncode == 0, err
        expected = rig.transcripts()

    with Rig(folder / "storm", SPEED) as rig, small_disk(rig.spool) as small:
        trial = Trial(rig, files, random.Random(seed), say)
        possible = [kind for kind in trial.faults if small or kind != "disk full"]
        trial.run(faults, [kind for kind in possible if not kinds or kind in kinds])
        found = rig.transcripts()
        wrong = differences(found, expected)
        assert not wrong, (
            f"seed {seed}, {dict(trial.done)}: {len(wrong)} {sorted(wrong, key=_place)[:8]}"
        )
        assert trial.settled_twice() == [], f"seed {seed}: {trial.done}"
        return trial.done


def differences(found: dict[str, list[Said]], expected: dict[str, list[Said]]) -> list[str]:
    """What one run has and the other has not, segment by segment."""
    told = [f"{name} is missing" for name in expected.keys() - found.keys()]
    for name in expected.keys() & found.keys():
        ours, theirs = Counter(found[name]), Counter(expected[name])
        told += [f"{name}: lost {said}" for said in theirs - ours]
        told += [f"{name}: too much {said}" for said in ours - theirs]
        if not told and found[name] != expected[name]:
            told.append(f"{name}: another order")
    return told


def _place(difference: str) -> str:
    return difference.partition("(")[2].rjust(80)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.loopback.faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--minutes", type=float, nargs="+", default=[60, 25, 12, 6, 3])
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="farscribe-faults-") as folder:
        os.environ.setdefault("FARSCRIBE_HOME", str(Path(folder) / "home"))
        begin = time.monotonic()
        done = run(
            Path(folder), faults=options.faults, seed=options.seed, minutes=options.minutes,
            say=lambda line: print(line, flush=True),
        )  # fmt: skip
    print(f"{sum(done.values())} faults in {time.monotonic() - begin:.0f} s: {dict(done)}")
    print("nothing lost, nothing doubled, no window decoded twice")
    return 0


if __name__ == "__main__":
    sys.exit(main())
