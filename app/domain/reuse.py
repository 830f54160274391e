"""What of the library need not be done again: pure rules on entries."""

from collections.abc import Iterable

from app.domain.history import Entry, JobSettings
from app.domain.jobs import JobState
from remote.protocol import ExitCode


def gives_the_same(entry: Entry, settings: JobSettings) -> bool:
    """Whether a job is done that was asked for the same text: wherever it was done."""
    done = entry.state is JobState.DONE
    return done and (entry.settings.engine, entry.settings.options) == (
        settings.engine,
        settings.options,
    )


def dealt_with(entry: Entry) -> bool:
    """Whether a watched recording of this content is not worth another try.

    One that is done is not, nor one that no engine will ever be able to read; one that failed
    because of a machine, or that was stopped, is.
    """
    if entry.state is JobState.DONE:
        return True
    error = entry.error
    return error is not None and error.code.exit_code is ExitCode.INPUT


def still_failed(newest_first: Iterable[Entry]) -> tuple[Entry, ...]:
    """Of all jobs those that failed and were not tried again since, the oldest first."""
    tried: set[tuple[object, ...]] = set()
    failed = []
    for entry in newest_first:
        what = (entry.path, entry.settings.engine, entry.settings.options)
        if what not in tried and entry.state is JobState.FAILED:
            failed.append(entry)
        tried.add(what)
    return tuple(reversed(failed))
