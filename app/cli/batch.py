"""A batch of recordings as a verb runs it: what shows it, what keeps it, how it ended."""

import argparse
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from app.cli import telling
from app.cli.options import Way, output
from app.cli.signals import on_interrupt
from app.domain.errors import exit_status
from app.domain.events import DeliveryFailed, EngineUnavailable, Event, JobEnded
from app.domain.history import JobSettings
from app.domain.jobs import Job
from app.domain.settings import OutputSettings
from remote.protocol import KnownError

if TYPE_CHECKING:
    from app.compose import Shared
    from app.domain.ports import Deliver, Display, Gather, Observer
    from app.engine.service import Service


class Batch:
    """One run of a verb that transcribes, over one or more machines.

    Args:
        shared: the library and what else all machines use.
        display: shows everything.
        deliver: writes files; None where text goes to standard output.
        program: starts another engine than the one that is installed here.
    """

    def __init__(
        self,
        shared: "Shared",
        display: "Display",
        deliver: "Deliver | None",
        program: Sequence[str] | None,
    ) -> None:
        self.shared = shared
        self.deliver = deliver
        self._display = display
        self._program = program
        self._jobs: list[Job] = []
        self._errors: list[KnownError] = []
        self.stopped = False
        """The user wants no more."""
        self.unavailable: KnownError | None = None
        """Why there was no engine the last time, if there was none."""

    def service(
        self,
        settings: JobSettings,
        way: Way,
        gather: "Gather | None" = None,
        also: "Observer | None" = None,
    ) -> "Service":
        """A service for the jobs of one machine.

        Args:
            settings: of new jobs.
            way: to the machine.
            gather: finds recordings; the usual way where None.
            also: is told every event, before it is shown.
        """
        from app import compose

        return compose.service(
            self.shared,
            settings,
            ask=self._ask,
            trust=way.trust,
            program=self._program,
            codec=way.codec,
            gather=gather,
            deliver=self.deliver,
            observers=[*filter(None, [also]), self.show],
        )

    def _ask(self, question: str) -> str | None:
        """Asks the user for a secret; on a thread that waits."""
        with self._display.aside():
            return telling.ask(question)

    def show(self, event: Event) -> None:
        """Shows an event, and keeps what went wrong."""
        match event:
            case JobEnded(job=job) if job.error is not None:
                self._errors.append(job.error)
            case DeliveryFailed(error=error):
                self._errors.append(error)
            case EngineUnavailable(error):
                self.unavailable = error
            case _:
                pass
        self._display(event)

    async def run(self, service: "Service") -> None:
        """Works until every job has ended, or until Ctrl-C."""

        def stop() -> None:
            if service.stopping:
                service.abort()
            else:
                self.stopped = True
                telling.say("Stopping; press Ctrl-C again to stop at once.")
                service.cancel()

        with on_interrupt(stop):
            self._jobs += await service.run()

    def status(self) -> int:
        """Shows how fast it was; the exit status."""
        self._display.close()
        self._display.table(self._jobs)
        return exit_status(self._errors)

    def close(self) -> None:
        """Leaves the terminal as it was."""
        self._display.close()


@asynccontextmanager
async def batch(
    given: argparse.Namespace, *, always_files: bool = False, own: OutputSettings | None = None
) -> AsyncIterator[Batch]:
    """A batch with the output that was asked for; at its end everything is closed.

    Args:
        given: has the options of files and of the face.
        always_files: text never goes to standard output.
        own: the output where it was looked at already.

    Raises:
        KnownError: an option is wrong, or the output or the library cannot be written.
    """
    from app import compose

    deliver = compose.delivery(own or output(given, always=always_files))
    async with compose.shared() as shared:
        display = compose.display(as_json=given.json, quiet=given.quiet, text=deliver is None)
        running = Batch(shared, display, deliver, given.program)
        try:
            for note in shared.library.notes:
                telling.say(note)
            yield running
        finally:
            running.close()
