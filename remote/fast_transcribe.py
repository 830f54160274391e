"""The front door on the machine: recordings in, text out; or the engine's end of the wire.

``fast_transcribe.py audio_file.wav`` transcribes files one after another; one bad file does not
stop the rest. Its verbs (serve, attach, receive, pipe, status, stop) are in ``service_verbs``.
It must not decide how audio becomes text.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if not __package__:  # `python fast_transcribe.py`: imports start at the repository
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from remote import protocol
from remote.protocol import (
    Done,
    ErrorCode,
    ExitCode,
    Failed,
    KnownError,
    Options,
    Progress,
    Segment,
    Segments,
    Source,
    Summary,
)
from remote.service_verbs import VERBS, add_engine_options, service
from remote.sink import Sink

if TYPE_CHECKING:
    from remote.direct_transcribe import Engine

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status is that of the first file that failed, 0 where none did."""
    # Threads that wait for each other soon give up their core, as they do where there are more
    # threads than cores. On a busy computer they would burn what the others need (measured: the
    # sample in 2.0 instead of 4 to 9 s). Read by OpenMP when torch is loaded, below.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] and given[0] in VERBS:
            return service(given)
        return _files(_parser().parse_args(given))
    except KnownError as error:
        print(error, file=sys.stderr)
        return error.code.exit_code
    except KeyboardInterrupt:
        return ExitCode.CANCELLED


def _files(options: argparse.Namespace) -> int:
    from remote.direct_transcribe import open_engine, start_logging
    from remote.results import format_of

    start_logging()
    kind = options.format or (options.output and format_of(options.output)) or "text"
    _check_places(options)
    wanted = Options(
        language=options.language,
        task=options.task,
        words=options.words,
        windows=options.windows,
        channels=options.channels,
        vocabulary=options.vocabulary,
        fallback=not options.no_fallback,
    )
    engine = open_engine(options.model, device=options.device, dtype=options.dtype)
    if options.json_lines:
        _print_line(engine.hello)
    first_failure = 0
    for number, audio in enumerate(options.audio, 1):
        sink = _Events(str(number)) if options.json_lines else _Kept()
        try:
            _one(engine, audio, wanted, sink, kind, options)
        except KnownError as error:
            sink.failed(error)
            print(f"{_shown(audio)}: {error}", file=sys.stderr)
            first_failure = first_failure or error.code.exit_code
    return first_failure


def _one(
    engine: "Engine", audio: str, wanted: Options, sink: "_Kept", kind: str,
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Transcribes one file and delivers its text: saved first, sent second."""
    from remote.direct_transcribe import speed_line
    from remote.results import render, upload, write

    source = Source("url" if _is_address(audio) else "path", audio)
    name = Path(_shown(audio)).name
    summary = engine.transcriber.transcribe(source, wanted, sink)
    for warning in summary.warnings:
        log.warning("%s", warning)
    log.info("%s: %s", name, speed_line(summary))
    content = render(kind, name, sink.found, summary, engine.hello)
    saved = None
    try:
        if options.output:
            saved = _place(options.output, name, kind, several=len(options.audio) > 1)
            write(saved, content)
        elif not options.json_lines:
            sys.stdout.write(content)
            sys.stdout.flush()
        if options.upload:
            upload(options.upload, content, kind)
    except KnownError:
        if options.output and not options.json_lines:  # nothing is lost: it is printed instead
            sys.stdout.write(content)
        raise
    sink.done(summary)


def _is_address(audio: str) -> bool:
    return audio.startswith(("http://", "https://"))


def _shown(audio: str) -> str:
    """A recording as it may be shown: an address without its query, which may be a secret."""
    return audio.partition("?")[0] if _is_address(audio) else audio


class _Kept(Sink):
    """Keeps the segments; says nothing while they are made."""

    def __init__(self) -> None:
        self.found: list[Segment] = []

    def segments(self, segments: tuple[Segment, ...]) -> None:
        """Keeps them."""
        self.found += segments

    def done(self, summary: Summary) -> None:
        """Nothing."""

    def failed(self, error: KnownError) -> None:
        """Nothing: the caller says it."""


class _Events(_Kept):
    """Prints every event as a line of the wire."""

    def __init__(self, job: str) -> None:
        super().__init__()
        self._job = job
        self._seq = 0

    def progress(self, stage: str, done_ms: int, total_ms: int | None) -> None:
        """Prints Progress."""
        self._print(lambda seq: Progress(self._job, seq, stage, done_ms, total_ms))

    def segments(self, segments: tuple[Segment, ...]) -> None:
        """Prints Segments."""
        super().segments(segments)
        self._print(lambda seq: Segments(self._job, seq, segments))

    def done(self, summary: Summary) -> None:
        """Prints Done."""
        self._print(lambda seq: Done(self._job, seq, summary))

    def failed(self, error: KnownError) -> None:
        """Prints Failed."""
        self._print(lambda seq: Failed(self._job, seq, error.code, error.message, error.hint))

    def _print(self, event: Callable[[int], protocol.Message]) -> None:
        self._seq += 1
        _print_line(event(self._seq))


def _check_places(options: argparse.Namespace) -> None:
    """Nothing, where the results have a place to go; found out before the work, not after.

    Raises:
        KnownError: one output or upload for several recordings, no address, a folder that is not
            there, or an output that would replace a recording or another's text.
    """
    from remote.results import check_address

    several = len(options.audio) > 1
    if several and options.upload:
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION,
            "One --upload address cannot hold the text of several recordings.",
            "Run once for each recording.",
        )
    if options.upload:
        check_address(options.upload)
    if not options.output:
        return
    folder = Path(options.output)
    _check_kept(options.audio, folder)
    if several and not folder.is_dir():
        raise KnownError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"{folder} is not a folder, and there are several recordings.",
            "Give an existing folder as --output.",
        )
    if not folder.is_dir() and not folder.parent.is_dir():
        raise KnownError(
            ErrorCode.OUTPUT_UNWRITABLE,
            f"The folder {folder.parent} does not exist.",
            "Create it, or choose another --output.",
        )


def _check_kept(recordings: Sequence[str], output: Path) -> None:
    """Nothing, where no text replaces a recording or the text of another one."""
    places: dict[str, Path] = {}
    for audio in recordings:
        name, path = Path(_shown(audio)).name, Path(_shown(audio)).resolve()
        if path == output.resolve():
            raise KnownError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"{output} is the recording itself.",
                "Choose another --output.",
            )
        if places.setdefault(name, path) != path:
            raise KnownError(
                ErrorCode.UNKNOWN_OPTION,
                f"Two recordings are named {name}: one's text would replace the other's.",
                "Run once for each of their folders.",
            )


def _place(output: str, name: str, kind: str, *, several: bool) -> Path:
    """The file that a recording's text goes to: ``output``, or a name of its own in that folder."""
    path = Path(output)
    if several or path.is_dir():
        return path / f"{name}.{'txt' if kind == 'text' else kind}"
    return path


def _print_line(message: protocol.Message) -> None:
    sys.stdout.buffer.write(protocol.encode(message))
    sys.stdout.buffer.flush()


def _parser() -> argparse.ArgumentParser:
    from remote.results import FORMATS

    parser = argparse.ArgumentParser(
        prog="fast_transcribe.py",
        description="Recordings become text. For clients there are the verbs "
        + ", ".join(VERBS)
        + "; see `fast_transcribe.py VERB --help`.",
    )
    parser.add_argument("audio", nargs="+", help="recordings: files or http(s) addresses")
    add_engine_options(parser)
    parser.add_argument("--language", help="code or name; detected for each file if not given")
    parser.add_argument("--task", choices=("transcribe", "translate"), default="transcribe")
    parser.add_argument("--words", action="store_true", help="time every word")
    parser.add_argument("--windows", choices=("vad", "fixed", "off"), default="vad")
    parser.add_argument("--channels", choices=("mix", "split"), default="mix")
    parser.add_argument(
        "--vocabulary", default="", metavar="TEXT", help="names and terms to expect"
    )
    parser.add_argument("--no-fallback", action="store_true", help="greedy alone, whatever comes")
    parser.add_argument("--format", choices=FORMATS, help="by --output's name, else text")
    parser.add_argument("--output", help="file, or folder, to write to; else it is printed")
    parser.add_argument(
        "--upload", metavar="ADDRESS", help="s3://bucket/key or a presigned address"
    )
    parser.add_argument(
        "--json-lines", action="store_true", help="print events as PROTOCOL.md has them"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
