"""The one place that picks real adapters and wires a service.

It makes things and starts nothing. What a verb does not need it does not import.
"""

import os
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from app.adapters.folders import TextFolder, gather
from app.adapters.loopback import Loopback
from app.domain.ports import Deliver, Display, Observer
from app.domain.settings import EngineSettings, OutputSettings
from app.engine.service import Service
from remote import protocol
from remote.protocol import ErrorCode, KnownError, Options

ENGINE_HOME = Path(protocol.__file__).resolve().parents[1]
"""The folder that holds the ``remote`` package this program was started with."""


def service(
    command: Sequence[str],
    options: Options,
    *,
    deliver: Deliver | None = None,
    observers: Iterable[Observer] = (),
) -> Service:
    """A service whose engine is a child process on this computer, started by ``command``."""
    environment = engine_environment()

    def connect() -> Loopback:
        return Loopback(command, folder=ENGINE_HOME, environment=environment)

    return Service(connect, gather, options, deliver=deliver, observers=observers)


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


def engine_command(engine: EngineSettings, program: Sequence[str] | None = None) -> list[str]:
    """Program and arguments of the engine's process.

    Args:
        engine: becomes arguments.
        program: starts the engine; the one that is installed here where None.
    """
    model = engine.model
    if Path(model).is_dir():  # the child runs in another folder
        model = str(Path(model).resolve())
    here = (sys.executable, "-m", "remote.fast_transcribe", "pipe")
    command = [*(here if program is None else program), "--model", model]
    for name, value in (("--device", engine.device), ("--dtype", engine.dtype)):
        if value:
            command += [name, value]
    return command


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
