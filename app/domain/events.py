"""What a service tells its observers: one vocabulary for the command line and the window.

Facts, past tense, frozen. ``Wire`` carries each message of the conversation itself, for front
ends that speak the protocol.
"""

from dataclasses import dataclass
from pathlib import Path

from app.domain.intake import Passed
from app.domain.jobs import Job
from app.domain.transcript import Transcript
from remote.protocol import Hello, KnownError, Message, Segment, Up


@dataclass(frozen=True, slots=True)
class Silence:
    """The engine has said nothing for this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class EngineLog:
    """One line of the engine's log, for people."""

    line: str


LinkEvent = Up | Silence | EngineLog
"""What comes out of a link."""


@dataclass(frozen=True, slots=True)
class JobsAdded:
    """New jobs, in order; told before anything else about them."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class FilesPassed:
    """Files in folders that were left alone."""

    files: tuple[Passed, ...]


@dataclass(frozen=True, slots=True)
class EngineReady:
    """An engine has its model loaded and takes jobs."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class EngineLost:
    """The engine broke off while it had this job; ``again`` where the job is tried once more."""

    job: Job
    error: KnownError
    again: bool


@dataclass(frozen=True, slots=True)
class EngineUnavailable:
    """No engine could be started: every job that was left has failed with this error."""

    error: KnownError


@dataclass(frozen=True, slots=True)
class JobChanged:
    """A job is in another state, or further."""

    job: Job


@dataclass(frozen=True, slots=True)
class TextArrived:
    """New finished text of a running job."""

    job: Job
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class JobEnded:
    """A job is done or failed; the transcript holds whatever text it gave."""

    job: Job
    transcript: Transcript


@dataclass(frozen=True, slots=True)
class Delivered:
    """The transcript of a job was written to these files."""

    job: Job
    files: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class DeliveryFailed:
    """The transcript of a job could not be written; it is here, so that nothing is lost."""

    job: Job
    transcript: Transcript
    error: KnownError


@dataclass(frozen=True, slots=True)
class Wire:
    """One message of the conversation, down or up."""

    message: Message


Event = (
    JobsAdded
    | FilesPassed
    | Silence
    | EngineLog
    | EngineReady
    | EngineLost
    | EngineUnavailable
    | JobChanged
    | TextArrived
    | JobEnded
    | Delivered
    | DeliveryFailed
    | Wire
)
