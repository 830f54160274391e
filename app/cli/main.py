"""The command ``farscribe``: arguments in, exit status out; the same service as the window.

It parses and hands over to the verb; each has a module of its own. Nothing heavy is imported
before a verb needs it: ``farscribe --help`` must stay instant.
"""

import argparse
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from app.cli import (
    checking,
    exporting,
    looking,
    models,
    removing,
    statistics,
    telling,
    transcribing,
    watching,
)
from app.cli.options import EPILOG, parser_of
from remote.protocol import ExitCode, KnownError

_VERBS = (transcribing, watching, looking, exporting, statistics, removing, checking, models)
"""In the order of the help."""

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
    _speak_utf8(sys.stderr)
    try:
        return _run(given, engine_program)
    except KnownError as error:
        telling.tell(error)
        return error.code.exit_code
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    except BrokenPipeError:  # whoever read the text has had enough, as "head" does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OUTPUT
    except Exception:
        log.exception("this is a bug in farscribe; please report it")
        return ExitCode.BUG


def _run(given: list[str], engine_program: Sequence[str] | None) -> int:
    if given[:1] == ["models"]:  # whose options are those of another program
        return models.run(given[1:])
    parser = _parser()
    if not given:
        parser.print_help()
        return ExitCode.OK
    order = parser.parse_args(given)
    order.program = engine_program
    status: int = order.run(order)
    sys.stdout.flush()  # a reader that has gone is noticed here, not at the end of Python
    return status


def _parser() -> argparse.ArgumentParser:
    parser = parser_of("farscribe", "Turns recordings into text.", EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version, and end")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for module in _VERBS:
        module.add_to(verbs)
    return parser


class _Version(argparse.Action):
    """Looks the version up only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints it, and ends."""
        from importlib import metadata

        try:
            found = metadata.version("farscribe")
        except metadata.PackageNotFoundError:
            found = "(not installed)"
        print(f"farscribe {found}")
        parser.exit()


def _speak_utf8(stream: TextIO) -> None:
    """Lets any text be printed, whatever the locale of the terminal."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
