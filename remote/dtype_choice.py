"""Which dtype a model runs fastest in, on the device that it will run on.

On the CPU that is measured, on products like those of the encoder and of the decoder, and
remembered; the answer depends on the processor's instructions, which no list of names keeps up
with. It must not load a model.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs
import torch

from remote.layout import WhisperShape
from remote.linear import INT8_ENCODER_WIDTH, Linear, int8_works, make_linear
from remote.protocol import ErrorCode, KnownError

log = logging.getLogger(__name__)

DTYPES = ("float32", "float16", "bfloat16", "int8")
"""What a model can compute in."""

_ENCODER_ROWS = 128
"""Enough that the product is bound by arithmetic, as the encoder's 1500 rows are."""
_DECODER_ROWS = 8
"""Windows side by side in one step of decoding; their product is bound by reading weights."""
_WINDOW_TOKENS = 100
_AUDIO_POSITIONS = 1500
_LARGEST_WIDTH = 768
"""Wider models are measured on products of this width, to stay below 0.15 s in all."""
_REPEATS = 4
_FILE = "fastest_dtype.json"


def fastest_dtype(shape: WhisperShape, device: str, *, cache: Path | None = None) -> str:
    """The dtype that a model of this shape runs fastest in there, as accurate as float32.

    On CUDA it is float16: as fast as bfloat16 on every GPU with tensor cores, also on those
    before 8.0 that lack bfloat16, with three more bits of mantissa, and what the weights are
    published in. On the CPU it is float32, int8, or bfloat16 where the processor multiplies it.

    Args:
        shape: of the model.
        device: "cpu" or "cuda…".
        cache: folder to remember the measurement in; the user's cache folder by default.
    """
    if device.startswith("cuda"):
        return "float16"
    path = (cache or cache_home()) / _FILE
    width, ffn = probe_size(shape)
    key = f"{processor()}, torch {torch.__version__}, width {width}"
    remembered = _remembered(path)
    choices = cpu_dtypes()
    if remembered.get(key) in choices:
        return remembered[key]
    with _one_thread():
        seconds = {dtype: window_seconds(shape, dtype, width, ffn) for dtype in choices}
    fastest = min(seconds, key=lambda dtype: seconds[dtype])
    log.info("fastest dtype here: %s of %s", fastest, seconds)
    _remember(path, {**remembered, key: fastest})
    return fastest


def checked_device(device: str, dtype: str) -> torch.device:
    """The device, where it is there and computes in this dtype.

    Raises:
        KnownError: DEVICE_MISSING, UNKNOWN_OPTION.
    """
    if dtype not in DTYPES:
        raise _no_dtype(f"There is no dtype {dtype!r}.", ", ".join(DTYPES))
    kind, _, index = device.partition(":")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if kind not in ("cpu", "cuda") or not (index or "0").isdigit() or int(index or 0) >= count:
        raise KnownError(
            ErrorCode.DEVICE_MISSING,
            f"There is no device {device!r} here.",
            "Choose cpu, or install a torch that sees the GPU.",
        )
    if kind == "cpu":
        if dtype == "int8" and not int8_works():
            raise _no_dtype("This torch does not multiply in int8 here.", "float32")
        return torch.device("cpu")
    if dtype == "int8":
        raise _no_dtype("int8 is for the CPU.", "float16")
    found = torch.device("cuda", int(index or 0))
    if dtype == "bfloat16" and torch.cuda.get_device_capability(found) < (8, 0):
        raise _no_dtype(f"{torch.cuda.get_device_name(found)} has no bfloat16.", "float16")
    return found


def cpu_dtypes() -> tuple[str, ...]:
    """The dtypes worth trying on this processor.

    bfloat16 without instructions for it was measured slower than float32, float16 slower still.
    """
    capabilities = torch.cpu.get_capabilities()
    found = ["float32"]
    if int8_works():
        found.append("int8")
    if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"):
        found.append("bfloat16")
    return tuple(found)


def probe_size(shape: WhisperShape) -> tuple[int, int]:
    """Width and feed-forward width of the products to measure."""
    width = min(shape.d_model, _LARGEST_WIDTH)
    return width, width * shape.audio_ffn // shape.d_model


def window_seconds(shape: WhisperShape, dtype: str, width: int, ffn: int) -> float:
    """Seconds that the linear layers of a window of 30 s would take, from two that are measured."""
    weight = torch.linspace(-1, 1, ffn * width).view(ffn, width)
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    linear = make_linear(weight.to(kind), None, int8=dtype == "int8")
    narrow = dtype == "int8" and shape.d_model < INT8_ENCODER_WIDTH
    hears = make_linear(weight, None, int8=False) if narrow else linear
    encoder = _seconds(hears, torch.ones(_ENCODER_ROWS, width, dtype=kind))
    decoder = _seconds(linear, torch.ones(_DECODER_ROWS, width, dtype=kind))
    d = shape.d_model
    encoder_weights = shape.audio_layers * (4 * d * d + 2 * d * shape.audio_ffn)
    decoder_weights = shape.text_layers * (6 * d * d + 2 * d * shape.text_ffn) + shape.vocab * d
    return (
        encoder * _AUDIO_POSITIONS / _ENCODER_ROWS * encoder_weights
        + decoder * _WINDOW_TOKENS / _DECODER_ROWS * decoder_weights
    ) / weight.numel()


def processor() -> str:
    """What the processor calls itself, with the instructions that torch uses of it."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")  # Linux's platform module knows only the architecture
    if cpuinfo.exists():
        fields = (line.partition(":") for line in cpuinfo.read_text(errors="replace").splitlines())
        name = next((value.strip() for key, _, value in fields if key[:10] == "model name"), name)
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def cache_home() -> Path:
    """The folder for what can be measured again: $FARSCRIBE_HOME/cache, or the user's."""
    home = os.environ.get("FARSCRIBE_HOME")
    if home:
        return Path(home).expanduser() / "cache"
    return Path(platformdirs.user_cache_dir("farscribe"))


@contextmanager
def _one_thread() -> Iterator[None]:
    """The block on one thread: several wait for the slowest, which on a busy machine is chance."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seconds(linear: Linear, x: torch.Tensor) -> float:
    """The shortest of a few runs, the first apart: other programs only make it longer."""
    linear(x)
    times = []
    for _ in range(_REPEATS):
        begin = time.perf_counter()
        linear(x)
        times.append(time.perf_counter() - begin)
    return min(times)


def _remembered(path: Path) -> dict[str, str]:
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {str(k): str(v) for k, v in body.items()} if isinstance(body, dict) else {}


def _remember(path: Path, choices: Mapping[str, str]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(choices, indent=2), encoding="utf-8")
        partial.replace(path)
    except OSError as error:  # it is measured again next time
        log.debug("%s cannot be written: %s", path, error)


def _no_dtype(message: str, instead: str) -> KnownError:
    return KnownError(ErrorCode.UNKNOWN_OPTION, message, f"Choose {instead}.")
