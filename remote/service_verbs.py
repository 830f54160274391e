"""The verbs of the front door that serve clients: serve, attach, receive, pipe, status, stop.

Command lines in, exit statuses out. Only ``serve`` and ``pipe`` load the engine.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from remote import bridge
from remote.protocol import KnownError

if TYPE_CHECKING:
    from remote.direct_transcribe import Engine

FRONT_DOOR = Path(__file__).with_name("fast_transcribe.py")
IDLE_EXIT_S = 3600.0
"""A worker that a client has started ends after an hour without work."""

RECEIVE_NICE = 10

DTYPES = ("float32", "float16", "bfloat16", "int8")


def service(arguments: Sequence[str]) -> int:
    """Runs one of the verbs; its exit status.

    Raises:
        KnownError: it cannot be done.
    """
    options = _parser().parse_args(arguments)
    status = VERBS[options.verb](options)
    if options.verb in ("serve", "pipe"):
        _leave(status)
    return status


def _leave(status: int) -> NoReturn:
    """Ends the process at once.

    An orderly end of Python would take its threads away in the middle of PyTorch's or FFmpeg's
    code, which aborts (seen: exit status -6). All that matters is on the disk, or was sent.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve(options: argparse.Namespace) -> int:
    with bridge.locked(options.spool):  # before the engine is loaded: that takes seconds
        from remote.direct_transcribe import start_logging
        from remote.resident import serve

        start_logging()
        return serve(
            options.spool, _opener(options), options.model,
            idle_exit_s=options.idle_exit,
            idle_command=options.idle_command,
            idle_after_s=options.idle_after,
        )  # fmt: skip


def _pipe(options: argparse.Namespace) -> int:
    from remote.direct_transcribe import start_logging
    from remote.resident import pipe

    start_logging()
    return pipe(options.spool, _opener(options), options.model)


def _opener(options: argparse.Namespace) -> "Callable[..., Engine]":
    from remote.direct_transcribe import open_engine

    def opened(model: str, progress: Callable[[int, int], None]) -> "Engine":
        return open_engine(model, device=options.device, dtype=options.dtype, progress=progress)

    return opened


def _attach(options: argparse.Namespace) -> int:
    engine = ["--model", options.model, "--idle-exit", str(options.idle_exit)]
    for name, value in (("--device", options.device), ("--dtype", options.dtype)):
        engine += [name, value] if value else []
    command = bridge.serve_command(FRONT_DOOR, options.spool, engine)
    try:
        return bridge.attach(options.spool, command if options.start else None)
    except KnownError as error:
        bridge.refuse(error)
        raise


def _receive(options: argparse.Namespace) -> int:
    if sys.platform != "win32":
        os.nice(RECEIVE_NICE)  # audio comes in faster than it becomes text: text goes first
    return bridge.receive(options.spool)


def _status(options: argparse.Namespace) -> int:
    return bridge.status(options.spool)


def _stop(options: argparse.Namespace) -> int:
    return bridge.stop(options.spool, now=options.now)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "attach": _attach,
    "receive": _receive,
    "pipe": _pipe,
    "status": _status,
    "stop": _stop,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fast_transcribe.py")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = partial(_verb, verbs)
    serve = add("serve", "keep a model and serve clients on a socket until told to stop")
    add_engine_options(serve)
    serve.add_argument("--idle-exit", type=float, default=0.0, metavar="S",
        help="end after so many seconds without work; 0 for never")  # fmt: skip
    serve.add_argument("--idle-command", default="", metavar="COMMAND",
        help="run this once when nothing has moved for --idle-after seconds")  # fmt: skip
    serve.add_argument("--idle-after", type=float, default=600.0, metavar="S")
    attach = add("attach", "join standard input and output with the worker")
    add_engine_options(attach)
    attach.add_argument("--start", action="store_true", help="start a worker where none runs")
    attach.add_argument("--idle-exit", type=float, default=IDLE_EXIT_S, metavar="S",
        help="of a worker that is started")  # fmt: skip
    add("receive", "take audio blocks on standard input")
    pipe = add("pipe", "serve one client on standard input and output", spool=False)
    pipe.add_argument("--spool", type=Path, metavar="FOLDER",
        help="keep unfinished work here (default: only as long as the process)")  # fmt: skip
    add_engine_options(pipe)
    add("status", "print what the worker does")
    stop = add("stop", "end the worker when its jobs have ended")
    stop.add_argument("--now", action="store_true", help="at once; its jobs go on next time")
    return parser


def _verb(
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, what: str,
    *, spool: bool = True,
) -> argparse.ArgumentParser:  # fmt: skip
    parser = verbs.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    if spool:
        parser.add_argument("--spool", type=Path, default=bridge.default_spool(), metavar="FOLDER",
            help="the worker's folder (default: %(default)s)")  # fmt: skip
    return parser


def add_engine_options(parser: argparse.ArgumentParser) -> None:
    """Which model, where, in which numbers."""
    parser.add_argument("--model", default="tiny.en", help="name, hub id or folder")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; CUDA where there is any")
    parser.add_argument("--dtype", choices=DTYPES, help="the fastest by default")
