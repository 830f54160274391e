"""The shape of the library's file and its versions: a file is brought up to date step by step.

A newer minor version only adds what this program may leave alone; a newer major one is refused.
It must not know what rows mean.
"""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import app
from remote.protocol import ErrorCode, KnownError

APPLICATION = 0x46617273
"""SQLite's application_id of our files: "Fars"."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """Of the file: a newer minor one is readable, a newer major one is not."""

    major: int
    minor: int

    @classmethod
    def of(cls, connection: sqlite3.Connection) -> "Version":
        """The version of a file; 0.0 for an empty one."""
        number: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return cls(number >> 16, number & 0xFFFF)

    @property
    def number(self) -> int:
        """As user_version holds it."""
        return self.major << 16 | self.minor


@dataclass(frozen=True, slots=True)
class Step:
    """A script that brings a file of the version before to this one."""

    version: Version
    script: Path


def steps() -> tuple[Step, ...]:
    """All of them, the first of which makes a new file."""
    return (Step(Version(1, 0), resource("schema.sql")),)


def resource(name: str) -> Path:
    """A file of ``resources``: in the package where farscribe is installed, beside it else."""
    package = Path(app.__path__[0]).resolve()
    installed = package / "resources" / name
    return installed if installed.exists() else package.parent / "resources" / name


def bring_up_to_date(
    connection: sqlite3.Connection, path: Path, through: Sequence[Step] | None = None
) -> None:
    """Nothing; the file is of the last version, or of a newer minor one.

    Each step is done whole or not at all.

    Args:
        connection: in autocommit mode.
        path: of the file, for sentences.
        through: all steps there are; those of this program where None.

    Raises:
        KnownError: library-newer, or library-broken where it is another program's file; it is
            untouched.
    """
    known = steps() if through is None else through
    version = Version.of(connection)
    if version.major > known[-1].version.major:
        raise _newer(path, version, known[-1].version)
    _check_ours(connection, path, version)
    for step in known:
        if step.version > version:
            _take(connection, step)


def _take(connection: sqlite3.Connection, step: Step) -> None:
    """One step, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        if step.version > Version.of(connection):  # else another program was faster
            for statement in _statements(step.script.read_text(encoding="utf-8")):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION}")
            connection.execute(f"PRAGMA user_version = {step.version.number}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; ``executescript`` would end the transaction."""
    statement = ""
    for piece in re.split("(?<=;)", script):
        statement += piece
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _check_ours(connection: sqlite3.Connection, path: Path, version: Version) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if application == APPLICATION or (empty and version == Version(0, 0)):
        return
    raise KnownError(
        ErrorCode.LIBRARY_BROKEN,
        f"{path} is a file of another program, not a library of farscribe.",
        "Move it away, or set FARSCRIBE_HOME to another folder.",
    )


def _newer(path: Path, found: Version, known: Version) -> KnownError:
    return KnownError(
        ErrorCode.LIBRARY_NEWER,
        f"The library {path} was written by a newer farscribe (its version is {found.major},"
        f" this program knows {known.major}).",
        "Update farscribe on this computer, or set FARSCRIBE_HOME to another folder.",
    )
