"""What a user asks for: model, options, formats, subtitle rules; checked before work starts.

Pure values. It must not look at files or devices: what only the engine can know (is the model
there, does the device exist) the engine says.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from app.domain.languages import LANGUAGES
from remote.protocol import ErrorCode, KnownError, Options

DEFAULT_MODEL = "tiny.en"
"""The model that a newcomer has: it comes as a package, without a download from a hub."""

_NARROWEST_LINE = 16
_LONGEST_LINE = 1000
_MOST_LINES = 10
_SLOWEST_READING = 5
_FASTEST_READING = 100


class Format(StrEnum):
    """What a transcript can be written as; the value is also the file's suffix."""

    TXT = "txt"
    MD = "md"
    SRT = "srt"
    VTT = "vtt"
    ASS = "ass"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    DOCX = "docx"
    HTML = "html"


@dataclass(frozen=True, slots=True)
class SubtitleRules:
    """How text is laid out as subtitles.

    Args:
        max_chars: longest line in columns; a Chinese or Japanese character takes two.
        max_lines: most lines at once.
        min_ms: shortest time a subtitle stands where the next leaves room; 5/6 s is the usual
            rule of broadcasters (Netflix Timed Text Style Guide).
        max_ms: time after which a subtitle is cut where the words allow it; 7 s by the same rule.
        max_cps: reading speed in columns per second; 20 by the same rule, 17 for children. A
            subtitle stands long enough for it wherever there is time up to the next one, if need
            be longer than max_ms.

    Raises:
        KnownError: unknown-option where lines would be too narrow to hold a word, or subtitles
            would stand for ever or for no time at all.
    """

    max_chars: int = 42
    max_lines: int = 2
    min_ms: int = 833
    max_ms: int = 7000
    max_cps: int = 20

    def __post_init__(self) -> None:
        """Checks the limits."""
        if not _NARROWEST_LINE <= self.max_chars <= _LONGEST_LINE:
            raise KnownError(
                ErrorCode.UNKNOWN_OPTION,
                f"Subtitle lines cannot be {self.max_chars} characters long.",
                f"Choose {_NARROWEST_LINE} to {_LONGEST_LINE}; 42 is usual.",
            )
        if not 1 <= self.max_lines <= _MOST_LINES:
            raise KnownError(
                ErrorCode.UNKNOWN_OPTION,
                f"Subtitles cannot have {self.max_lines} lines.",
                f"Choose 1 to {_MOST_LINES}; 2 is usual.",
            )
        if not _SLOWEST_READING <= self.max_cps <= _FASTEST_READING:
            raise KnownError(
                ErrorCode.UNKNOWN_OPTION,
                f"Subtitles cannot be read at {self.max_cps} characters per second.",
                f"Choose {_SLOWEST_READING} to {_FASTEST_READING}; 20 is usual, 17 for children.",
            )


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Which engine does the work; None leaves the choice to it."""

    model: str = DEFAULT_MODEL
    device: str | None = None
    dtype: str | None = None


@dataclass(frozen=True, slots=True)
class OutputSettings:
    """Where text goes: to files in ``formats``, or nowhere where there are none.

    Args:
        formats: each is one file per recording.
        folder: where they are written; None is beside each recording.
        overwrite: replace a file of the same name rather than choosing another name.
        subtitles: the layout of srt, vtt and ass.
    """

    formats: tuple[Format, ...] = ()
    folder: Path | None = None
    overwrite: bool = False
    subtitles: SubtitleRules = SubtitleRules()


def formats(text: str) -> tuple[Format, ...]:
    """The formats of a comma separated list, each once, in its order.

    Raises:
        KnownError: unknown-option, naming the ones that exist.
    """
    names = [name.strip().casefold().lstrip(".") for name in text.split(",") if name.strip()]
    known = [item.value for item in Format]
    for name in names:
        if name not in known:
            raise KnownError(
                ErrorCode.UNKNOWN_OPTION,
                f'There is no format "{name}".',
                f"Choose from {_listed(known)}.",
            )
    return tuple(dict.fromkeys(Format(name) for name in names))


def check(engine: EngineSettings, options: Options) -> None:
    """Nothing, where model and options go together as far as their names tell.

    Raises:
        KnownError: unknown-language or unknown-option.
    """
    if not engine.model.endswith(".en"):
        return
    if options.language not in (None, "en"):
        raise KnownError(
            ErrorCode.UNKNOWN_LANGUAGE,
            f"The model {engine.model} knows English only,"
            f" not {LANGUAGES.get(options.language, options.language)}.",
            "Choose a multilingual model, such as --model base.",
        )
    if options.task == "translate":
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION,
            f"The model {engine.model} cannot translate: it knows English only.",
            "Choose a multilingual model, such as --model base.",
        )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
