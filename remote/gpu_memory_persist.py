"""Makes the GPU state of a model: loaded once, packed on the device, tried, written to a file.

``preload_gpu_model`` is what a machine's image runs while it is built; later starts read the file
(see gpu_state) instead of the weights. Run as a command it makes a state or verifies one.

It also fills the processor cache, which is the choice of the fastest dtype. Nothing else of a
start's preparations gains by a file: the tokenizer takes 0.16 s to parse in the library's own
form and 0.17 s from a pickle, mel filters and suppression lists take milliseconds.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if not __package__:  # `python gpu_memory_persist.py`: imports start at the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from remote import gpu_state, model_folder, models
from remote.dtype_choice import checked_device, fastest_dtype
from remote.gpu_state import BUFFER_DTYPES, Manifest, State, dtype_name
from remote.layout import WhisperShape
from remote.packing import allocate, out_of_memory, pack_mapped
from remote.protocol import ErrorCode, ExitCode, KnownError
from remote.timing import StageClock
from remote.whisper import Slots, Whisper

log = logging.getLogger(__name__)

STARTER_MODEL = "tiny.en"
PROBE_LOGITS = 16
_PROBE_TOKENS = 4
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Share of the largest probe logit that devices may differ by: their order of summing, times the
depth of the model. Another training differs by the logits themselves."""


@dataclass(frozen=True, slots=True)
class Verified:
    """What verifying a state found: it is whole, and its model answers as it did.

    Args:
        path: the state file; manifest: what it says of itself.
        device: where it was tried.
        difference: largest difference of a logit of the fixed input from when it was written.
    """

    path: Path
    manifest: Manifest
    device: str
    difference: float


def preload_gpu_model(
    model: str | Path | None = None, *, device: str | None = None, dtype: str | None = None
) -> Path:
    """The state file of a model, made anew.

    Args:
        model: name or folder, added where it is not here yet; None for ``default_model``.
        device: "cuda" or "cpu"; None for CUDA where there is one.
        dtype: of the computation, as in ``load_model``; None for the fastest.

    Raises:
        KnownError: all that models.resolve raises; UNKNOWN_OPTION, DEVICE_MISSING,
            OUT_OF_MEMORY, DISK_FULL, OUTPUT_UNWRITABLE. An older state is then untouched.
    """
    folder = models.resolve(str(model or default_model()))
    shape = WhisperShape.from_config(model_folder.read_json(folder / model_folder.CONFIG))
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = dtype or fastest_dtype(shape, place)
    where = checked_device(place, chosen)
    clock = StageClock(str(where))
    with clock.stage("read"):
        buffer = allocate(shape, BUFFER_DTYPES[chosen], where).zero_()  # gaps alike each time
        pack_mapped(folder, shape, buffer)
    with clock.stage("check"), out_of_memory(where):
        logits = probe(Whisper(shape, buffer))
    path = gpu_state.state_path(folder, chosen)
    with clock.stage("write"):
        manifest = _manifest(folder, shape, buffer, logits)
        gpu_state.write_state(path, manifest, buffer.cpu())
    log.info("GPU state %s written, seconds by stage: %s", path, dict(clock.times().seconds))
    return path


def default_model() -> str:
    """The model to make a state of where none is named: the largest that is here, which gains most.

    Where there is none it is the one of the starter package.
    """
    here = [listed for listed in models.list_models() if listed.state == "ready"]
    largest = max(here, key=lambda listed: listed.size_bytes, default=None)
    return largest.name if largest else STARTER_MODEL


def verify_gpu_state(path: Path, *, device: str = "cpu") -> Verified:
    """What was found, where the state is whole and right.

    Its archive and manifest are checked, every byte is summed, and a fixed input is run.

    Raises:
        KnownError: MODEL_MISSING, MODEL_INCOMPLETE, MODEL_CHECKSUM with what is wrong.
    """
    state = gpu_state.read_state(path)
    gpu_state.verify_state(state)
    where = checked_device(device, state.manifest.dtype)
    logits = probe(Whisper(state.manifest.shape, state.buffer.to(where)))
    difference = largest_difference(logits, state.manifest.logits)
    if not difference <= state.manifest.tolerance:  # a NaN is no match
        raise KnownError(
            ErrorCode.MODEL_CHECKSUM,
            f"{path.name} answers a fixed input otherwise than when it was written: "
            f"a logit differs by {difference:.3g}, more than {state.manifest.tolerance:.3g}.",
            "Remove it and make it again.",
        )
    return Verified(path, state.manifest, device, difference)


@torch.inference_mode()
def probe(model: Whisper) -> tuple[float, ...]:
    """16 logits, spread over the vocabulary, that the model gives to a fixed input.

    Every weight but those of unused tokens and positions has its part in them.
    """
    mel, tokens = (part.to(model.device) for part in probe_input(model.shape))
    slots = Slots(model, 1, _PROBE_TOKENS)
    slots.fill(slice(0, 1), model.cross(model.encode(mel.to(model.dtype))))
    positions = torch.arange(_PROBE_TOKENS, device=model.device)[None]
    hidden = model.decode(tokens, positions, slots, slice(0, 1), _PROBE_TOKENS)
    last = model.logits(hidden[0, -1]).cpu()
    step = max(1, model.shape.vocab // PROBE_LOGITS)
    return tuple(last[::step][:PROBE_LOGITS].tolist())


def probe_input(shape: WhisperShape) -> tuple[torch.Tensor, torch.Tensor]:
    """The fixed input: seeded noise float32 ``[1, n_mels, frames]``, tokens int64 ``[1, 4]``."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand((1, shape.n_mels, 2 * shape.audio_ctx), generator=generator) * 2 - 1
    return noise, torch.arange(_PROBE_TOKENS)[None] * (shape.vocab // _PROBE_TOKENS)


def largest_difference(found: Sequence[float], expected: Sequence[float]) -> float:
    """Of two answers to the fixed input, in logits; NaN where either holds one."""
    difference = torch.tensor(found) - torch.tensor(expected)
    return float(difference.abs().max())


def _manifest(
    folder: Path, shape: WhisperShape, buffer: torch.Tensor, logits: tuple[float, ...]
) -> Manifest:
    record = model_folder.read_record(folder)
    name, capability = gpu_state.describe_device(buffer.device)
    return Manifest(
        model=folder.name,
        revision=record.revision if record else "",
        weights=gpu_state.weights_identity(folder),
        shape=shape,
        slots=gpu_state.places(shape),
        dtype=dtype_name(buffer.dtype),
        device_type=buffer.device.type,
        device_name=name,
        capability=capability,
        torch=str(torch.__version__),
        sha256="",
        samples=(),
        logits=logits,
        tolerance=_TOLERANCE[buffer.dtype] * max(map(abs, logits)),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        if options.verify:
            print(_verified(options.model, options.device, options.dtype))
        else:
            path = preload_gpu_model(options.model, device=options.device, dtype=options.dtype)
            state = gpu_state.read_state(path)
            print(f"GPU state of {_described(state.manifest)} written: {path} ({_size(state)})")
    except KnownError as error:
        print(error, file=sys.stderr)
        return error.code.exit_code
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpu_memory_persist",
        description="Write the state that a model is loaded from fastest, or verify it.",
    )
    parser.add_argument("--model", help="name or folder (default: the largest that is here)")
    parser.add_argument("--device", help="cuda or cpu (default: cuda where there is one)")
    parser.add_argument(
        "--dtype", choices=tuple(BUFFER_DTYPES), help="of the computation (default: the fastest)"
    )
    parser.add_argument(
        "--verify", action="store_true", help="read every byte of the state and try it"
    )
    return parser


def _verified(model: str | None, device: str | None, dtype: str | None) -> str:
    """A line for each state of the model, or for that of the dtype alone."""
    folder = models.resolve(str(model or default_model()))
    dtypes = [dtype] if dtype else ["float32", "float16", "bfloat16"]
    paths = [gpu_state.state_path(folder, name) for name in dtypes]
    lines = []
    for path in [path for path in paths if path.exists()] or paths[:1]:
        found = verify_gpu_state(path, device=device or "cpu")
        words = f"largest difference of a logit {found.difference:.2g} on {found.device}"
        lines.append(f"{path.name} of {_described(found.manifest)} is intact, {words}")
    return "\n".join(lines)


def _described(manifest: Manifest) -> str:
    return f"{manifest.model} in {manifest.dtype}"


def _size(state: State) -> str:
    return f"{state.buffer.nbytes / 1e6:,.0f} MB"


if __name__ == "__main__":
    sys.exit(main())
