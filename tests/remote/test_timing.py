"""Stages add up, whoever measures them; memory is this program's own."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import count

import numpy as np
import pytest

from remote.timing import StageClock, peak_memory_bytes


def ticks() -> Iterator[float]:
    """A clock that is one second later at each look."""
    return (float(second) for second in count())


def test_a_stage_that_runs_again_adds_up() -> None:
    clock = StageClock(clock=ticks().__next__)
    for _ in range(3):
        with clock.stage("decode"):
            pass
    clock.add("vad", 0.5)
    assert clock.times().seconds == {"decode": 3.0, "vad": 0.5}


def test_a_stage_that_fails_is_counted_and_the_error_goes_on() -> None:
    clock = StageClock(clock=ticks().__next__)
    with pytest.raises(ZeroDivisionError), clock.stage("mel"):
        _ = 1 / 0
    assert clock.times().seconds == {"mel": 1.0}


def test_a_stage_inside_another_counts_for_both() -> None:
    clock = StageClock(clock=ticks().__next__)
    with clock.stage("outer"), clock.stage("inner"):
        pass
    assert clock.times().seconds == {"outer": 3.0, "inner": 1.0}


def test_times_given_out_do_not_change_later() -> None:
    clock = StageClock()
    clock.add("encode", 1.0)
    before = clock.times()
    clock.add("encode", 1.0)
    assert before.seconds == {"encode": 1.0}


def test_threads_lose_nothing() -> None:
    clock = StageClock()
    threads = [
        threading.Thread(target=lambda: [clock.add("generate", 1.0) for _ in range(2_000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.times().seconds == {"generate": 16_000.0}


def test_peak_memory_grows_with_what_is_held_and_stays() -> None:
    before = peak_memory_bytes()
    held = np.ones(100_000_000, np.uint8)
    after = peak_memory_bytes()
    assert after >= held.nbytes
    assert after > 0.99 * before  # Linux counts pages per thread and adds them up now and then
    del held
    assert peak_memory_bytes() > 0.99 * after


def test_a_child_does_not_inherit_the_peak_of_its_parent() -> None:
    held = np.ones(300_000_000, np.uint8)
    script = "from remote.timing import peak_memory_bytes; print(peak_memory_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert 1_000_000 < int(done.stdout) < held.nbytes
