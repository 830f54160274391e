"""What a check of the installation found: values, and what they mean for the exit status."""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from remote.protocol import ErrorCode, ExitCode, KnownError


class Health(StrEnum):
    """How something is."""

    OK = "ok"
    WARN = "warn"
    """It works, but not for everything, or not for long."""
    BAD = "bad"
    """It keeps farscribe from working."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        subject: in a word or two.
        health: how it is.
        message: what was found, in a sentence or a value.
        hint: the next step, where one is needed.
        code: of the error that it leads to.
    """

    subject: str
    health: Health
    message: str
    hint: str = ""
    code: ErrorCode | None = None


Checkup = Callable[[], AsyncIterator[Finding]]
"""Looks at some things, one after another; what it finds out is a finding, not an error."""


def from_error(subject: str, error: KnownError) -> Finding:
    """The finding that an error is."""
    return Finding(subject, Health.BAD, error.message, error.hint, error.code)


def exit_status(findings: Iterable[Finding]) -> int:
    """The exit status of a check: that of the first bad finding, else 0."""
    for finding in findings:
        if finding.health is Health.BAD:
            return finding.code.exit_code if finding.code else ExitCode.DEVICE
    return ExitCode.OK
