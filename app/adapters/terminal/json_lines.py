"""A batch as a program reads it: each message of the wire as one line on standard output.

What comes up from the engine and what goes down to it. A ``transcribe`` line names the file of
its job; a second one for the same job says that it goes on after the event ``after``, or starts
over where that is 0. A job that an earlier run left unfinished begins with one ``segments`` line
that holds all text up to that event. Errors are also told in words on standard error.
"""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from app.domain.errors import sentence
from app.domain.events import DeliveryFailed, EngineUnavailable, Event, JobEnded, Wire
from app.domain.jobs import Job
from remote import protocol


class JsonLines:
    """Tells a batch to a program. It implements the port ``Display``."""

    def __init__(self, *, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._err = err or sys.stderr

    def __call__(self, event: Event) -> None:
        """Writes the event, where it is a message or an error."""
        match event:
            case Wire(message):
                self._out.write(protocol.encode(message).decode("utf-8"))
                self._out.flush()
            case EngineUnavailable(error):
                print(sentence("farscribe", error), file=self._err)
            case DeliveryFailed(job, _, error):
                print(sentence(job.path.name, error), file=self._err)
            case JobEnded(job, _) if job.error is not None:
                print(sentence(job.path.name, job.error), file=self._err)
            case _:
                pass

    def aside(self) -> AbstractContextManager[None]:
        """Nothing: there is nothing on the screen."""
        return nullcontext()

    def close(self) -> None:
        """Nothing: there is nothing on the screen."""

    def table(self, jobs: Sequence[Job]) -> None:
        """Nothing: the ``done`` lines have every figure."""
