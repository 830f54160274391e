"""The verb that forgets: remove."""

import argparse
from typing import TYPE_CHECKING

from app.cli import loop, telling
from app.cli.options import add_verb
from app.domain.errors import exit_status
from app.domain.jobs import JobState
from remote.protocol import ErrorCode, KnownError

if TYPE_CHECKING:
    from app.cli.options import Verbs

_UNFINISHED = (JobState.WAITING, JobState.RUNNING)


def add_to(verbs: "Verbs") -> None:
    """Adds the verb."""
    parser = add_verb(
        verbs, "remove", "forget recordings and their text", _remove,
        "Forgets jobs with all their text. Recordings and files of text stay where they are.",
    )  # fmt: skip
    parser.add_argument("jobs", metavar="JOB", nargs="+", help='ids, as in "farscribe history"')


def _remove(given: argparse.Namespace) -> int:
    return loop.run(_remove_all(tuple(dict.fromkeys(given.jobs))))


async def _remove_all(jobs: tuple[str, ...]) -> int:
    from app import compose

    errors = []
    async with compose.shared() as shared:
        for job in jobs:
            try:
                entry = await shared.library.entry(job)
                if entry.state in _UNFINISHED and not shared.claims.take([entry.id]):
                    raise _at_work(entry.path.name)
                await shared.library.remove(entry.id)
            except KnownError as error:
                telling.tell(error)
                errors.append(error)
            else:
                telling.say(f"{entry.path.name}: forgotten ({entry.id[:8]})")
    return exit_status(errors)


def _at_work(name: str) -> KnownError:
    return KnownError(
        ErrorCode.LIBRARY_LOCKED,
        f"Another farscribe is at work on {name}.",
        "Stop it there first.",
    )
