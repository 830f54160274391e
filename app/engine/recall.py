"""What was asked for before: recordings whose text the library has already.

It reads files only where one of the same size is done; it must not start anything.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.domain.events import (
    Delivered,
    DeliveryFailed,
    FromLibrary,
    JobEnded,
    JobsAdded,
    Wire,
)
from app.domain.history import Entry, JobSettings, Query
from app.domain.intake import Accepted, Found
from app.domain.jobs import Job, JobState
from app.domain.ports import Deliver, Library, Media, Observer
from app.domain.reuse import gives_the_same
from app.domain.transcript import Transcript
from remote.protocol import Done, KnownError, Segments, Source, Summary, Transcribe


@dataclass(frozen=True, slots=True)
class Remembered:
    """A recording whose text is in the library.

    Args:
        path: as the user named it.
        entry: the job that gave the text.
        transcript: of it, as if it were of this very file.
    """

    path: Path
    entry: Entry
    transcript: Transcript


async def recall(
    found: Sequence[Found], library: Library, media: Media, settings: JobSettings
) -> tuple[tuple[Found, ...], tuple[Remembered, ...]]:
    """What is still to be done, and what is known.

    Args:
        found: what the user means.
        library: is looked into.
        media: reads the files, where that is needed.
        settings: asked for; where the work was done does not matter.

    Raises:
        KnownError: the library cannot be read.
    """
    rest: list[Found] = []
    known: list[Remembered] = []
    for item in found:
        entry = None
        if isinstance(item, Accepted):
            entry = await _same(item.path, library, media, settings)
        if entry is None:
            rest.append(item)
        else:
            transcript = await library.transcript(entry.id)
            own = Transcript(item.path, transcript.segments, transcript.summary, transcript.engine)
            known.append(Remembered(item.path, entry, own))
    return tuple(rest), tuple(known)


async def _same(path: Path, library: Library, media: Media, settings: JobSettings) -> Entry | None:
    """The newest job that has the text of this very content."""
    try:
        size_bytes = (await asyncio.to_thread(path.stat)).st_size
    except OSError:  # whoever transcribes it says it better
        return None
    done = frozenset({JobState.DONE})
    if not await library.entries(Query(done, size_bytes=size_bytes, limit=1)):
        return None
    with suppress(KnownError):  # as above
        content = await asyncio.to_thread(media.fingerprint, path)
        before = await library.entries(Query(done, content))
        return next((entry for entry in before if gives_the_same(entry, settings)), None)
    return None


async def hand_over(
    known: Sequence[Remembered],
    settings: JobSettings,
    library: Library,
    deliver: Deliver | None,
    tell: Observer,
) -> None:
    """Tells recordings that are known as jobs that took no time, and delivers their text.

    Args:
        known: see above.
        settings: asked for.
        library: remembers what files are written.
        deliver: writes them; None where nobody wants files.
        tell: hears of it.
    """
    jobs = [_job(item) for item in known]
    tell(JobsAdded(tuple(jobs)))
    for item, job in zip(known, jobs, strict=True):
        source = Source("path", str(item.path))
        tell(Wire(Transcribe(job.id, source, settings.options, settings.engine.model)))
        tell(Wire(Segments(job.id, 1, item.transcript.segments)))
        tell(Wire(Done(job.id, 2, job.summary or Summary())))
        tell(FromLibrary(job, item.entry))
        tell(JobEnded(job, item.transcript))
        if deliver is not None:
            await _deliver(item, job, library, deliver, tell)


def _job(item: Remembered) -> Job:
    return Job(item.entry.id, item.path, JobState.DONE, seq=2, summary=item.transcript.summary)


async def _deliver(
    item: Remembered, job: Job, library: Library, deliver: Deliver, tell: Observer
) -> None:
    try:
        files = await asyncio.to_thread(deliver, item.transcript)
    except KnownError as error:
        tell(DeliveryFailed(job, item.transcript, error))
    else:
        tell(Delivered(job, files))
        await library.note_export(item.entry.id, files)
