"""The command ``farscribe``: arguments in, exit status out; the same service as the window.

It parses, asks and reports; the work is in ``app.engine``. Nothing heavy is imported before a
verb needs it: ``farscribe --help`` must stay instant.
"""

import argparse
import asyncio
import io
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TextIO

from app.domain import settings
from app.domain.errors import exit_status, sentence
from app.domain.events import DeliveryFailed, Event, JobEnded
from app.domain.languages import language_code
from app.domain.settings import EngineSettings, Format, OutputSettings, SubtitleRules
from remote.protocol import ExitCode, KnownError, Options

if TYPE_CHECKING:
    from app.engine.service import Service

_EPILOG = """\
exit status:
  0 all well          3 a recording could not be used   6 the engine or its device
  1 a bug             4 the model could not be used     7 the network
  2 a wrong option    5 the text could not be written   130 cancelled
With several failures the status is that of the first.

"farscribe models list|add|remove|verify" looks after model files; see "farscribe models --help".
"""

log = logging.getLogger(__name__)


def main(
    arguments: Sequence[str] | None = None, *, engine_program: Sequence[str] | None = None
) -> int:
    """Runs one command.

    Args:
        arguments: without the program's name; those of the process where None.
        engine_program: starts another engine than the one that is installed here.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    _speak_utf8(sys.stdout)
    try:
        if given[:1] == ["models"]:
            return _models(given[1:])
        if not given:
            _parser().print_help()
            return ExitCode.OK
        order = _order(_parser().parse_args(given))
        return asyncio.run(_transcribe(order, engine_program))
    except KnownError as error:
        print(sentence("farscribe", error), file=sys.stderr)
        return error.code.exit_code
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    except BrokenPipeError:  # whoever read the text has had enough, as "head" does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OUTPUT
    except Exception:
        log.exception("this is a bug in farscribe; please report it")
        return ExitCode.BUG


# ── arguments ────────────────────────────────────────────────────────────────────────────────


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="farscribe",
        description="Turns recordings into text.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"farscribe {version()}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    transcribe = verbs.add_parser(
        "transcribe",
        help="turn files and whole folders into text",
        description="Turns files and whole folders into text, on this computer.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    transcribe.add_argument("paths", metavar="PATH", nargs="+", type=Path)
    _add_engine_options(transcribe.add_argument_group("engine"))
    _add_text_options(transcribe.add_argument_group("text"))
    _add_output_options(transcribe.add_argument_group("output"))
    verbs.add_parser("models", help="list, add, remove and verify model files", add_help=False)
    return parser


def _add_engine_options(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--model", default=settings.DEFAULT_MODEL, help="name or folder (default: %(default)s)")
    add("--device", help="such as cpu, cuda or cuda:1 (default: the fastest there is)")
    add("--dtype", help="such as float32, bfloat16 or int8 (default: the fastest that is as good)")


def _add_text_options(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    add("--language", default="auto", help='code or name (default: "auto" listens to each file)')
    add("--task", choices=("transcribe", "translate"), default="transcribe",
        help="translate gives English")  # fmt: skip
    add("--words", action="store_true", help="also give the time of each word")
    add("--windows", choices=("vad", "fixed", "off"), default="vad",
        help="how speech is cut: at silence, every 30 s, or not at all")  # fmt: skip
    add("--channels", choices=("mix", "split"), default="mix",
        help="split transcribes each channel by itself")  # fmt: skip
    add("--vocabulary", metavar="TEXT", default="", help="names and terms to expect")
    add("--no-fallback", action="store_true",
        help="do not decode doubtful windows a second time")  # fmt: skip


def _add_output_options(group: "argparse._ArgumentGroup") -> None:
    add = group.add_argument
    kinds = ", ".join(Format)
    add("--format", metavar="LIST", help=f"write files: any of {kinds}, with commas between")
    add("--output", metavar="FOLDER", type=Path,
        help="write files here (default: beside each recording)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files of the same name")
    add("--subtitle-chars", metavar="N", type=int, default=SubtitleRules().max_chars,
        help="longest subtitle line (default: %(default)s)")  # fmt: skip
    add("--subtitle-lines", metavar="N", type=int, default=SubtitleRules().max_lines,
        help="most lines of a subtitle (default: %(default)s)")  # fmt: skip
    add("--json", action="store_true", help="print each event as a line of JSON, for programs")
    add("--quiet", action="store_true", help="print nothing but text and errors")


def version() -> str:
    """The version of the installed distribution."""
    try:
        return metadata.version("farscribe")
    except metadata.PackageNotFoundError:
        return "(not installed)"


@dataclass(frozen=True, slots=True)
class _Order:
    """The command line of "transcribe", checked."""

    paths: tuple[Path, ...]
    engine: EngineSettings
    options: Options
    output: OutputSettings
    json: bool
    quiet: bool


def _order(given: argparse.Namespace) -> _Order:
    options = Options(
        language=language_code(given.language),
        task=given.task,
        words=given.words,
        windows=given.windows,
        channels=given.channels,
        vocabulary=given.vocabulary,
        fallback=not given.no_fallback,
    )
    engine = EngineSettings(given.model, given.device, given.dtype)
    settings.check(engine, options)
    usual = (Format.TXT,) if given.output is not None else ()
    output = OutputSettings(
        usual if given.format is None else settings.formats(given.format),
        given.output,
        given.overwrite,
        SubtitleRules(given.subtitle_chars, given.subtitle_lines),
    )
    return _Order(tuple(given.paths), engine, options, output, given.json, given.quiet)


# ── verbs ────────────────────────────────────────────────────────────────────────────────────


def _models(arguments: list[str]) -> int:
    from app import compose

    command = compose.models_command(arguments)
    with subprocess.Popen(command, env=compose.engine_environment()) as child:
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:  # the child got it as well, and ends in its own way
                continue


async def _transcribe(order: _Order, engine_program: Sequence[str] | None) -> int:
    from app import compose

    deliver = compose.delivery(order.output)
    verdict = _Verdict()
    display = compose.display(as_json=order.json, quiet=order.quiet, text=deliver is None)
    service = compose.service(
        compose.engine_command(order.engine, engine_program),
        order.options,
        deliver=deliver,
        observers=[display, verdict],
    )
    try:
        service.add(order.paths)
        with _signals(service):
            jobs = await service.run()
    finally:
        display.close()
    display.table(jobs)
    return exit_status(verdict.errors)


class _Verdict:
    """Collects what went wrong in a batch, in order."""

    def __init__(self) -> None:
        self.errors: list[KnownError] = []

    def __call__(self, event: Event) -> None:
        match event:
            case JobEnded(job=job) if job.error is not None:
                self.errors.append(job.error)
            case DeliveryFailed(error=error):
                self.errors.append(error)
            case _:
                pass


@contextmanager
def _signals(service: "Service") -> Iterator[None]:
    """While it lasts, Ctrl-C stops the batch in order, and a second one at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if service.stopping:
            service.abort()
        else:
            print("Stopping; press Ctrl-C again to stop at once.", file=sys.stderr)
            service.cancel()

    def heard(_number: int, _frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stop)

    before = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _speak_utf8(stream: TextIO) -> None:
    """Lets any text be printed, whatever the locale of the terminal."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
