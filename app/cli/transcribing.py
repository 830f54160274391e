"""The verbs that make text: transcribe, retry, resume."""

import argparse
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.cli import loop, telling
from app.cli.options import (
    EPILOG,
    Way,
    add_engine_options,
    add_face_options,
    add_file_options,
    add_machine_options,
    add_text_options,
    add_verb,
    job_settings,
    way,
)
from app.domain.history import Entry, JobSettings, Query
from app.domain.jobs import JobState
from remote.protocol import ErrorCode, KnownError

if TYPE_CHECKING:
    from app.cli.options import Verbs

_UNFINISHED = frozenset({JobState.WAITING, JobState.RUNNING})


def add_to(verbs: "Verbs") -> None:
    """Adds the verbs."""
    _add_transcribe(verbs)
    parser = add_verb(
        verbs, "retry", "do again what failed", _retry,
        "Does jobs again, with the settings they had, as new jobs.",
    )  # fmt: skip
    parser.add_argument("jobs", metavar="JOB", nargs="*", help='ids, as in "farscribe history"')
    parser.add_argument("--failed", action="store_true",
        help="all that failed and were not tried again since")  # fmt: skip
    _add_running_options(parser)
    parser = add_verb(
        verbs, "resume", "go on with what a crash or a cut has left unfinished", _resume,
        "Goes on with jobs that a program which has ended left unfinished, where each was.",
    )  # fmt: skip
    _add_running_options(parser)


def _add_transcribe(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs, "transcribe", "turn files and whole folders into text", _transcribe,
        "Turns files and whole folders into text, on this computer or on a host with SSH.",
        EPILOG,
    )  # fmt: skip
    parser.add_argument("paths", metavar="PATH", nargs="+", type=Path)
    engine = parser.add_argument_group("engine")
    add_machine_options(engine)
    add_engine_options(engine)
    add_text_options(parser.add_argument_group("text"))
    group = parser.add_argument_group("output")
    add_file_options(group)
    add_face_options(group)
    group.add_argument("--again", action="store_true",
        help="also what is in the library already, with the same settings")  # fmt: skip


def _add_running_options(parser: argparse.ArgumentParser) -> None:
    add_machine_options(parser.add_argument_group("engine"), usual=None)
    group = parser.add_argument_group("output")
    add_file_options(group)
    add_face_options(group)


# ── transcribe ───────────────────────────────────────────────────────────────────────────────


def _transcribe(given: argparse.Namespace) -> int:
    return loop.run(_transcribe_all(given, job_settings(given), way(given)))


async def _transcribe_all(given: argparse.Namespace, asked: JobSettings, by: Way) -> int:
    import asyncio

    from app import compose
    from app.cli.batch import batch
    from app.engine.recall import Remembered, hand_over, recall

    settings = compose.settled(asked)
    async with batch(given) as running:
        library, media = running.shared.library, running.shared.media
        found = await asyncio.to_thread(lambda: tuple(compose.gathered(given.paths)))
        known: tuple[Remembered, ...] = ()
        if not given.again:
            found, known = await recall(found, library, media, settings)
        service = running.service(settings, by, lambda _: found) if found else None
        if service is not None:
            await service.add(given.paths)
        if known:
            await hand_over(known, settings, library, running.deliver, running.show)
        if service is not None:
            await running.run(service)
        return running.status()


# ── again ────────────────────────────────────────────────────────────────────────────────────


def _retry(given: argparse.Namespace) -> int:
    if bool(given.jobs) == given.failed:
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION,
            "Which jobs are to be done again?",
            "Name them, or say --failed; farscribe history lists them.",
        )
    return loop.run(_retry_all(given, way(given)))


async def _retry_all(given: argparse.Namespace, by: Way) -> int:
    from app.cli.batch import batch
    from app.domain.reuse import still_failed

    async with batch(given) as running:
        library = running.shared.library
        if given.failed:
            entries = still_failed(await library.entries())
        else:
            entries = tuple([await library.entry(name) for name in dict.fromkeys(given.jobs)])
        if not entries:
            telling.say("Nothing has failed that was not tried again since.")
        for settings, jobs in _by_machine(entries, by):
            if running.stopped:
                break
            service = running.service(settings, by)
            await service.retry([entry.id for entry in jobs])
            await running.run(service)
        return running.status()


def _resume(given: argparse.Namespace) -> int:
    return loop.run(_resume_all(given, way(given)))


async def _resume_all(given: argparse.Namespace, by: Way) -> int:
    from app.cli.batch import batch

    async with batch(given) as running:
        entries = await running.shared.library.entries(Query(_UNFINISHED))
        here = [
            entry for entry in reversed(entries) if by.machine in (None, entry.settings.machine)
        ]
        some = False
        for settings, _ in _by_machine(here, Way(None)):
            if running.stopped:
                break
            service = running.service(settings, by)
            if await service.resume():
                some = True
                await running.run(service)
        if not some:
            telling.say("Nothing is unfinished, or another farscribe works on it.")
        return running.status()


def _by_machine(entries: Iterable[Entry], by: Way) -> list[tuple[JobSettings, list[Entry]]]:
    """Jobs that one service can do, each group with settings to start its engine by."""
    groups: dict[tuple[str, str | None, str | None], tuple[JobSettings, list[Entry]]] = {}
    for entry in entries:
        settings = replace(entry.settings, machine=by.machine or entry.settings.machine)
        kind = (settings.machine, settings.engine.device, settings.engine.dtype)
        groups.setdefault(kind, (settings, []))[1].append(entry)
    return list(groups.values())
