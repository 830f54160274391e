"""What a service tells its observers: one vocabulary for the command line and the window.

Facts, past tense, frozen. ``Wire`` carries the messages of the conversation themselves, for front
ends that speak the protocol; an event of a job is told once it is stored, and once only.
"""

from dataclasses import dataclass
from pathlib import Path

from app.domain.history import Entry
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
class Recovered:
    """Of the jobs that were added, these go on where a program that has ended left them."""

    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class AlreadyDone:
    """A job's recording, byte for byte, was transcribed before; the job goes on nevertheless."""

    job: Job
    entry: Entry


@dataclass(frozen=True, slots=True)
class FromLibrary:
    """A job was done before this program began; its text is that of the library."""

    job: Job
    entry: Entry


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
    """The engine died while it had this job; ``again`` where the job goes on with a new one."""

    job: Job
    error: KnownError
    again: bool


@dataclass(frozen=True, slots=True)
class EngineUnavailable:
    """No engine can be had: every job that was left has failed with this error."""

    error: KnownError


@dataclass(frozen=True, slots=True)
class LinkLost:
    """The way to the engine is broken; the engine, if it lives, works on.

    Args:
        error: why.
        tries: how often it was tried in vain to get there again; 0 for the loss itself.
        wait_s: until it is tried (once more).
    """

    error: KnownError
    tries: int = 0
    wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class LinkBack:
    """The engine is reached again, after so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StartedOver:
    """The engine has forgotten a job: its text so far is void and comes anew."""

    job: Job


@dataclass(frozen=True, slots=True)
class Uploading:
    """More of a job's audio has been sent.

    Args:
        job: how far it is says its stage "upload".
        sent_bytes: of this job, all in all.
        mbits: measured speed of the uplink in Mbit/s, of all jobs together.
        complete: whether all of it is there.
    """

    job: Job
    sent_bytes: int
    mbits: float | None
    complete: bool


@dataclass(frozen=True, slots=True)
class Delayed:
    """A job stands still for a reason that may pass, such as a full disk; it is tried again."""

    job: Job
    error: KnownError
    wait_s: float


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
    """One message of the conversation, down or up; not the bookkeeping of the two ends."""

    message: Message


Event = (
    JobsAdded
    | Recovered
    | AlreadyDone
    | FromLibrary
    | FilesPassed
    | Silence
    | EngineLog
    | EngineReady
    | EngineLost
    | EngineUnavailable
    | LinkLost
    | LinkBack
    | StartedOver
    | Uploading
    | Delayed
    | JobChanged
    | TextArrived
    | JobEnded
    | Delivered
    | DeliveryFailed
    | Wire
)
