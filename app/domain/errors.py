"""How errors are told on the client: the sentence of a file, the exit status of a run.

The errors themselves are ``KnownError`` of the wire: one tree for both ends. Nothing here prints.
"""

from collections.abc import Iterable

from remote.protocol import ErrorCode, ExitCode, Failed, KnownError

_ONE_LINE = 120
"""Characters; what is longer is read in parts."""


def from_failed(message: Failed) -> KnownError:
    """The error that the engine told."""
    return KnownError(message.code, message.message, message.hint)


def cancelled() -> KnownError:
    """The error of a job that the user stopped."""
    return KnownError(ErrorCode.CANCELLED, "Cancelled.")


def sentence(subject: str, error: KnownError) -> str:
    """One line for people: ``subject: what happened next step``."""
    return " ".join(f"{subject}: {error}".split())


def paragraph(subject: str, error: KnownError) -> str:
    """The same for whoever has room: a next step that would not fit begins a line of its own."""
    line = sentence(subject, error)
    if len(line) <= _ONE_LINE or not error.hint:
        return line
    first = " ".join(f"{subject}: {error.message}".split())
    return f"{first}\n    {' '.join(error.hint.split())}"


def exit_status(errors: Iterable[KnownError]) -> int:
    """The exit status of a run: that of its first error, 130 where it was cancelled, else 0."""
    codes = [error.code for error in errors]
    if ErrorCode.CANCELLED in codes:
        return ExitCode.CANCELLED
    return codes[0].exit_code if codes else ExitCode.OK
