"""The verb that waits for recordings: watch."""

import argparse
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import loop, telling
from app.cli.options import (
    EPILOG,
    add_engine_options,
    add_face_options,
    add_file_options,
    add_machine_options,
    add_text_options,
    add_verb,
    job_settings,
    output,
    way,
)
from app.domain.watching import SETTLE_S

if TYPE_CHECKING:
    from app.cli.options import Verbs


def add_to(verbs: "Verbs") -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs, "watch", "transcribe what comes into folders, until Ctrl-C", _watch,
        "Transcribes each recording that is in these folders or comes into them: once it does not"
        "\nchange any more, and each content once. Text is written to files; txt unless --format"
        "\nnames others. What is unfinished when it ends goes on when it is started again.",
        EPILOG,
    )  # fmt: skip
    parser.add_argument("folders", metavar="FOLDER", nargs="+", type=Path)
    parser.add_argument("--poll", action="store_true",
        help="look every 5 s; drives of other computers are watched so anyway")  # fmt: skip
    parser.add_argument("--settle", metavar="S", type=float, default=SETTLE_S,
        help="take a file after so long without a change (default: %(default)g s)")  # fmt: skip
    engine = parser.add_argument_group("engine")
    add_machine_options(engine)
    add_engine_options(engine)
    add_text_options(parser.add_argument_group("text"))
    group = parser.add_argument_group("output")
    add_file_options(group)
    add_face_options(group)


def _watch(given: argparse.Namespace) -> int:
    return loop.run(_watch_all(given))


async def _watch_all(given: argparse.Namespace) -> int:
    import asyncio

    from app import compose
    from app.cli.batch import batch
    from app.cli.signals import on_interrupt

    settings, by = compose.settled(job_settings(given)), way(given)
    wanted = output(given, always=True)
    folders = compose.watched(given.folders, wanted.folder, poll=given.poll)
    async with batch(given, own=wanted) as running:
        passed = _say_passed(quiet=given.quiet)
        watching = compose.watching(folders, running.shared, passed, settle_s=given.settle)
        service = running.service(settings, by, also=watching)
        if not given.quiet:
            telling.say(f"Watching {', '.join(map(str, given.folders))}; Ctrl-C ends it.")
        work = asyncio.ensure_future(watching.run(service))
        with on_interrupt(work.cancel), suppress(asyncio.CancelledError):
            await work
        return running.status()


def _say_passed(*, quiet: bool) -> Callable[[Path, str], None]:
    def passed(path: Path, job: str) -> None:
        if not quiet:
            where = f" (farscribe show {job[:8]})" if job else ""
            telling.say(f"{path.name}: the same was transcribed before{where}.")

    return passed
