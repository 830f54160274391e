"""Named stages of the work in seconds of wall time, and the most memory the process has held.

It must not print, decide or import the other rooms; it only measures.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from remote.protocol import StageTimes


class StageClock:
    """Adds up wall seconds by stage; any number of threads may share one.

    Stages that run side by side each count in full, so their sum may exceed the wall.

    Args:
        device: where the stages run, such as "cpu" or "cuda:0". On CUDA, where calls return before
            the work is done, the device is synchronised before every reading of the clock.
        clock: seconds that only grow.
    """

    def __init__(self, device: str = "cpu", clock: Callable[[], float] = time.perf_counter) -> None:
        self._device = device
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A context whose wall seconds go to ``name``, also where it ends by an exception."""
        begin = self._now()
        try:
            yield
        finally:
            self.add(name, self._now() - begin)

    def add(self, name: str, seconds: float) -> None:
        """Nothing; ``seconds`` (>= 0) measured elsewhere go to ``name``."""
        with self._lock:
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def times(self) -> StageTimes:
        """The seconds of each stage that ran, so far; a copy that later stages do not change."""
        with self._lock:
            return StageTimes(dict(self._seconds))

    def _now(self) -> float:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self._device)
        return self._clock()


def peak_memory_bytes() -> int:
    """The most physical memory this process has held since it started, in bytes; 0 if unknown."""
    if sys.platform == "linux":
        return _linux_peak_bytes()
    if sys.platform == "win32":
        return _windows_peak_bytes()
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _linux_peak_bytes() -> int:
    # Not getrusage: its ru_maxrss survives exec, so a small child of a large process would
    # report its parent's memory (Linux, getrusage(2)). VmHWM belongs to this program alone.
    with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def _windows_peak_bytes() -> int:
    if sys.platform != "win32":
        return 0
    import ctypes
    from ctypes import wintypes

    class Counters(ctypes.Structure):
        """PROCESS_MEMORY_COUNTERS of psapi.h."""

        _fields_ = [
            ("cb", wintypes.DWORD),
            ("PageFaultCount", wintypes.DWORD),
            *((f"size_{index}", ctypes.c_size_t) for index in range(8)),
        ]

    counters = Counters()
    counters.cb = ctypes.sizeof(counters)
    process = ctypes.windll.kernel32.GetCurrentProcess
    process.restype = wintypes.HANDLE
    read = ctypes.windll.psapi.GetProcessMemoryInfo
    read.argtypes = [wintypes.HANDLE, ctypes.POINTER(Counters), wintypes.DWORD]
    if not read(process(), ctypes.byref(counters), counters.cb):
        return 0
    return int(counters.size_0)  # PeakWorkingSetSize is the first of the eight sizes
