"""How the command speaks.

Errors and remarks go to standard error, tables and JSON to standard output; questions are asked
on a terminal alone.
"""

import atexit
import getpass
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from app.domain.errors import paragraph
from remote.protocol import KnownError

if TYPE_CHECKING:
    from rich.console import RenderableType

_PLAIN_WIDTH = 200  # of a table that goes to a file, where there is no edge to wrap at


def tell(error: KnownError, subject: str = "farscribe") -> None:
    """Says an error, and the next step."""
    print(paragraph(subject, error), file=sys.stderr)


def say(line: str) -> None:
    """Says something that is not the result."""
    print(line, file=sys.stderr)


def give(item: Mapping[str, Any]) -> None:
    """Prints one line of JSON."""
    print(json.dumps(item, ensure_ascii=False))


def draw(item: "RenderableType") -> None:
    """Prints what rich can draw."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PLAIN_WIDTH
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False, emoji=False)
    console.print(item)


def ask(question: str) -> str | None:
    """A secret from whoever sits at the terminal; None where nobody does.

    It waits, on whatever thread it is called.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    _keep_echo()
    try:
        return getpass.getpass(question)
    except (EOFError, KeyboardInterrupt):
        return None


def _keep_echo() -> None:
    """Lets the terminal show again what is typed, also where the program ends at the question."""
    try:
        import termios
    except ImportError:  # Windows, where the question itself sees to it
        return
    with suppress(termios.error, OSError):
        number = sys.stdin.fileno()
        before = termios.tcgetattr(number)
        atexit.register(termios.tcsetattr, number, termios.TCSADRAIN, before)
