"""Direct generation: a model opened and run on files, without a pipeline in between.

``open_engine`` loads a model by the fastest strategy that works and gives what transcribes with
it; as a command, ``python direct_transcribe.py audio_file.wav`` (the earlier system's) prints the
text and the real-time factor. It must not format or upload results: that is ``fast_transcribe``.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

if not __package__:  # `python direct_transcribe.py`: imports start at the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from remote import models
from remote.capacity import keep_freed_memory
from remote.gpu_state import state_path
from remote.layout import WhisperShape
from remote.load_report import LoadReport
from remote.model_folder import CONFIG, read_json
from remote.optimized_loader import STRATEGIES, fastest_dtype, load_model
from remote.protocol import (
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    ExitCode,
    Hello,
    KnownError,
    Options,
    Segment,
    Source,
    Summary,
)
from remote.sink import Sink
from remote.tokens import Tokenizer
from remote.transcriber import Transcriber
from remote.voice_activity import SpeechDetector

DEFAULT_MODEL = "tiny.en"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Engine:
    """An open model.

    Args:
        transcriber: does the work.
        hello: who it is, as the wire says it.
        report: how the model was loaded.
    """

    transcriber: Transcriber
    hello: Hello
    report: LoadReport


def open_engine(
    model: str = DEFAULT_MODEL,
    *,
    device: str | None = None,
    dtype: str | None = None,
    rows: int | None = None,
    strategies: Sequence[str] = STRATEGIES,
    progress: models.Progress | None = None,
) -> Engine:
    """A model, ready to transcribe; brought here first where it is not.

    Args:
        model: name, hub id or folder.
        device: "cpu", "cuda", "cuda:1"; None for CUDA where there is any.
        dtype: "float32", "float16", "bfloat16", "int8"; None for the fastest on this device.
        rows: windows decoded side by side; None for what fits.
        strategies: ways to load, in the order they are tried.
        progress: is told how far the model has been fetched; a bar on a terminal where None.

    Raises:
        KnownError: what is wrong with the model, the device or the network.
    """
    if progress is not None:
        folder = models.resolve(model, progress)
    else:
        with models.progress_bar(model) as bar:
            folder = models.resolve(model, bar)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = dtype or fastest_dtype(WhisperShape.from_config(read_json(folder / CONFIG)), place)
    keep_freed_memory()
    with ThreadPoolExecutor(1) as aside:  # reading the tokenizer takes as long as some weights do
        tokenizer = aside.submit(Tokenizer.from_folder, folder)
        whisper, report = load_model(folder, device=place, dtype=kind, strategies=strategies)
        detector = SpeechDetector.load(place)
        transcriber = Transcriber(whisper, tokenizer.result(), detector, rows=rows)
    log.info(
        "%s on %s in %s: loaded in %.2f s by strategy %s%s",
        model,
        report.device,
        report.dtype,
        report.wall_s,
        report.strategy,
        "".join(f"; not {a.strategy}: {a.reason}" for a in report.attempts),
    )
    return Engine(transcriber, _hello(model, folder, report), report)


def _hello(model: str, folder: Path, report: LoadReport) -> Hello:
    """Who this engine is. That a state was never made is no news; that one is of no use, is."""
    made = state_path(folder, report.dtype).exists()
    refused = [attempt.reason for attempt in report.attempts] if made else []
    return Hello(
        major=PROTOCOL_MAJOR,
        minor=PROTOCOL_MINOR,
        engine=version(),
        model=model,
        device=report.device,
        dtype=report.dtype,
        strategy=report.strategy,
        load_s=round(report.wall_s, 4),
        notes=(*refused, *report.notes),
    )


def version() -> str:
    """The version of farscribe that is installed, "unknown" where only its files lie here."""
    try:
        return metadata.version("farscribe")
    except metadata.PackageNotFoundError:
        return "unknown"


class Collected(Sink):
    """A sink that keeps the segments, and hands them on as they come.

    Args:
        on_segments: is told of new segments.
    """

    def __init__(self, on_segments: Callable[[tuple[Segment, ...]], None] | None = None) -> None:
        self.found: list[Segment] = []
        self._on_segments = on_segments

    def segments(self, segments: tuple[Segment, ...]) -> None:
        """Keeps them."""
        self.found += segments
        if self._on_segments:
            self._on_segments(segments)


def speed_line(summary: Summary) -> str:
    """How fast a recording was, with the seconds of its stages, for people."""
    stages = "  ".join(f"{name} {s:.2f} s" for name, s in summary.stages.seconds.items())
    factor = 1 / summary.speed if summary.speed else 0.0
    return (
        f"{summary.duration_ms / 1000:.1f} s of audio in {summary.wall_s:.2f} s: "
        f"{summary.speed:.1f} × real time (real-time factor {factor:.4f}); {stages}; "
        f"peak memory {summary.peak_memory_bytes / 2**20:.0f} MiB"
    )


def start_logging() -> None:
    """Log lines with time stamps on standard error."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(
        prog="direct_transcribe.py", description="Transcribe by direct generation."
    )
    parser.add_argument("audio", help="the recording")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name, hub id or folder")
    options = parser.parse_args(arguments)
    start_logging()
    try:
        engine = open_engine(options.model)
        sink = Collected(lambda new: print("\n".join(s.text for s in new), flush=True))
        summary = engine.transcriber.transcribe(Source("path", options.audio), Options(), sink)
    except KnownError as error:
        print(f"{options.audio}: {error}", file=sys.stderr)
        return error.code.exit_code
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    log.info("%s", speed_line(summary))
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
