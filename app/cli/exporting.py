"""The verb that writes files of text from the library: export."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.cli import loop, telling
from app.cli.options import add_file_options, add_verb, output
from app.domain.errors import exit_status
from app.domain.settings import OutputSettings
from remote.protocol import ErrorCode, KnownError

if TYPE_CHECKING:
    from app.cli.options import Verbs
    from app.domain.ports import Deliver, Library


def add_to(verbs: "Verbs") -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs, "export", "write the text of recordings to files, in any format", _export,
        "Writes what the library has of recordings to files; their names are printed.",
    )  # fmt: skip
    parser.add_argument("jobs", metavar="JOB", nargs="+", help='ids, as in "farscribe history"')
    add_file_options(parser.add_argument_group("output"), required=True)


def _export(given: argparse.Namespace) -> int:
    return loop.run(_export_all(tuple(dict.fromkeys(given.jobs)), output(given)))


async def _export_all(jobs: Sequence[str], wanted: OutputSettings) -> int:
    from app import compose

    deliver = compose.delivery(wanted)
    if deliver is None:
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION, "No format is named.", "Say for example --format srt."
        )
    errors: list[KnownError] = []
    async with compose.library() as library:
        for job in jobs:
            try:
                await _export_one(job, library, deliver)
            except KnownError as error:
                telling.tell(error)
                errors.append(error)
    return exit_status(errors)


async def _export_one(job: str, library: "Library", deliver: "Deliver") -> None:
    import asyncio

    entry = await library.entry(job)
    transcript = await library.transcript(entry.id)
    files = await asyncio.to_thread(deliver, transcript)
    if not files:
        telling.say(f"{entry.path.name}: there is no text to write.")
        return
    await library.note_export(entry.id, files)
    for file in files:
        print(file)
