"""The one place that picks real adapters and wires a service.

It makes things and starts nothing. What a verb does not need it does not import.
"""

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from app.adapters import folders
from app.adapters.folders import TextFolder
from app.adapters.loopback import ThisComputer
from app.domain.blocks import Codec
from app.domain.checkup import Checkup
from app.domain.history import THIS_COMPUTER, JobSettings
from app.domain.ports import Deliver, Display, FolderWatch, Gather, Machine, Observer
from app.domain.settings import DEFAULT_MODEL, EngineSettings, OutputSettings
from app.domain.watching import left_out
from app.engine.service import Service
from remote import protocol
from remote.protocol import ErrorCode, KnownError

if TYPE_CHECKING:
    from app.adapters.claims import ProgramPlace
    from app.adapters.library.library import SqliteLibrary
    from app.adapters.media import Recordings
    from app.engine.watching import Watching

ENGINE_HOME = Path(protocol.__file__).resolve().parents[1]
"""The folder that holds the ``remote`` package this program was started with."""


@dataclass(slots=True)
class Shared:
    """What all services of a program share.

    Args:
        library: where everything is kept.
        claims: this program's place among those that run.
        media: reads recordings.
    """

    library: "SqliteLibrary"
    claims: "ProgramPlace"
    media: "Recordings"


@asynccontextmanager
async def library() -> "AsyncIterator[SqliteLibrary]":
    """The library, open; closed afterwards.

    Raises:
        KnownError: it cannot be opened.
    """
    from app.adapters.library.library import SqliteLibrary  # with SQLite

    opened = SqliteLibrary(home() / "library.sqlite")
    try:
        await opened.open()
        yield opened
    finally:
        await opened.close()


@asynccontextmanager
async def shared() -> AsyncIterator[Shared]:
    """What all services share; closed afterwards.

    Raises:
        KnownError: the user's folder cannot be written, or the library not be opened.
    """
    from app.adapters.claims import ProgramPlace
    from app.adapters.media import Recordings  # with PyAV

    async with library() as opened:
        claims, media = ProgramPlace(home() / "programs"), Recordings()
        try:
            yield Shared(opened, claims, media)
        finally:
            media.close()
            claims.close()


def service(
    shared: Shared,
    settings: JobSettings,
    *,
    ask: Callable[[str], str | None],
    trust: str | None = None,
    program: Sequence[str] | None = None,
    codec: Codec | None = None,
    gather: Gather | None = None,
    deliver: Deliver | None = None,
    observers: Iterable[Observer] = (),
) -> Service:
    """A service for the jobs of one machine; it is not to be closed: what is shared is.

    Args:
        shared: see there.
        settings: of every recording that is added; they name the machine.
        ask: see ``machine``.
        trust: likewise.
        program: likewise.
        codec: of audio that travels, where the user has decided on one.
        gather: finds recordings; files and folders by their names where None.
        deliver: brings a finished transcript to where it belongs; None where nobody wants files.
        observers: are told every event.

    Raises:
        KnownError: the machine's name or the user's folder cannot be used.
    """
    by = machine(settings, shared.claims, ask=ask, trust=trust, program=program)
    return Service(
        by,
        shared.library,
        gather or gathered,
        settings,
        media=shared.media,
        claims=shared.claims,
        deliver=deliver,
        observers=observers,
        codec=codec,
    )


def machine(
    settings: JobSettings,
    claims: "ProgramPlace",
    *,
    ask: Callable[[str], str | None],
    trust: str | None = None,
    program: Sequence[str] | None = None,
) -> Machine:
    """The machine that settings name.

    Args:
        settings: see above.
        claims: has room for the engine of this computer.
        ask: the user for a secret.
        trust: fingerprint of a host's key that the user has checked.
        program: starts the engine of this computer; the one that is installed where None.

    Raises:
        KnownError: unknown-option for a host's address; or the user's folder cannot be written.
    """
    if settings.machine != THIS_COMPUTER:
        from app.adapters.ssh.machine import SshMachine  # with paramiko

        return SshMachine(
            settings.machine,
            settings.engine,
            engine_folder=ENGINE_HOME / "remote",
            known_hosts=home() / "known_hosts",
            ask=ask,
            trust=trust,
        )
    return ThisComputer(
        engine_command(settings.engine, program, spool=claims.spool),
        folder=ENGINE_HOME,
        environment=engine_environment(),
    )


def settled(settings: JobSettings) -> JobSettings:
    """The settings with a model folder by its whole path: the engine runs in another folder."""
    folder = Path(settings.engine.model)
    if settings.machine != THIS_COMPUTER or not folder.is_dir():
        return settings
    return replace(settings, engine=replace(settings.engine, model=str(folder.resolve())))


def watched(folders: Sequence[Path], output: Path | None, *, poll: bool) -> FolderWatch:
    """The watch over folders, but not over what farscribe itself writes.

    Raises:
        KnownError: unknown-option where farscribe would watch itself.
    """
    from app.adapters.folder_watch import WatchedFolders  # with watchdog

    real = [folder.resolve() for folder in folders]
    own = [home().resolve(), *([] if output is None else [output.resolve()])]
    return WatchedFolders(real, left_out(real, own), poll=poll or None)


def watching(
    folders: FolderWatch, shared: Shared, passed: Callable[[Path, str], None], *, settle_s: float
) -> "Watching":
    """What gives a service the recordings that come into folders; see there."""
    from app.engine.watching import Watching

    return Watching(folders, shared.library, shared.media, passed=passed, settle_s=settle_s)


def doctor(machine: str, *, trust: str | None, ask: Callable[[str], str | None]) -> list[Checkup]:
    """The checks of this computer, and of a host where one is named."""
    from app.adapters.checkup import LocalCheckup
    from app.adapters.library.library import SqliteLibrary
    from app.engine.library_checkup import LibraryCheckup

    models = models_command(["list", "--json"]) if find_spec("torch") else []
    library = SqliteLibrary(home() / "library.sqlite")
    checkups: list[Checkup] = [
        LocalCheckup(home(), models, engine_environment(), DEFAULT_MODEL),
        LibraryCheckup(library, library.path, lambda: library.notes),
    ]
    if machine != THIS_COMPUTER:
        from app.adapters.ssh.examination import HostExamination

        known_hosts = home() / "known_hosts"
        checkups.append(HostExamination(machine, ENGINE_HOME / "remote", known_hosts, ask, trust))
    return checkups


gathered: Gather = folders.gather
"""Files and folders by their names."""


def home() -> Path:
    """The folder for what is to stay: $FARSCRIBE_HOME, or the user's data folder's."""
    given = os.environ.get("FARSCRIBE_HOME")
    return Path(given).expanduser() if given else Path(platformdirs.user_data_dir("farscribe"))


def display(*, as_json: bool, quiet: bool, text: bool) -> Display:
    """What shows a batch: to a program where ``as_json``, else to a person.

    Args:
        as_json: see above.
        quiet: nothing but text and errors.
        text: transcripts go to standard output.
    """
    if as_json:
        from app.adapters.terminal.json_lines import JsonLines

        return JsonLines()
    from app.adapters.terminal.screen import Screen  # with rich

    return Screen(text=text, quiet=quiet)


def delivery(output: OutputSettings) -> Deliver | None:
    """What writes transcripts to files; None where no files are wanted.

    Raises:
        KnownError: output-unwritable or disk-full, found before any work is done.
    """
    if not output.formats:
        return None
    from app.engine.delivery import Delivery  # with pysubs2

    folder = TextFolder(output.folder, overwrite=output.overwrite)
    folder.prepare()
    return Delivery(folder, output.formats, output.subtitles)


def engine_environment() -> dict[str, str]:
    """The environment of the engine's process: this one, and the engine is found in it."""
    path = [str(ENGINE_HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def engine_command(
    engine: EngineSettings, program: Sequence[str] | None = None, *, spool: Path | None = None
) -> list[str]:
    """Program and arguments of the engine's process.

    Args:
        engine: becomes arguments.
        program: starts the engine; the one that is installed here where None.
        spool: where it keeps unfinished work.
    """
    here = (sys.executable, "-m", "remote.fast_transcribe", "pipe")
    command = [*(here if program is None else program), "--model", engine.model]
    for name, value in (("--device", engine.device), ("--dtype", engine.dtype)):
        if value:
            command += [name, value]
    return command if spool is None else [*command, "--spool", str(spool)]


def models_command(arguments: list[str]) -> list[str]:
    """Program and arguments of the process that looks after model files.

    Raises:
        KnownError: engine-missing where what it needs is not installed.
    """
    if find_spec("torch") is None:
        raise KnownError(
            ErrorCode.ENGINE_MISSING,
            "The engine is not installed here, so there is nothing to keep models for.",
            'Install it with: pip install "farscribe[worker]"',
        )
    return [sys.executable, "-m", "remote.models", *arguments]
