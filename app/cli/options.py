"""Options that several verbs share: their names and words, and what becomes of them."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.domain import settings
from app.domain.blocks import Codec
from app.domain.history import THIS_COMPUTER, JobSettings
from app.domain.languages import language_code
from app.domain.settings import EngineSettings, Format, OutputSettings, SubtitleRules
from remote.protocol import ErrorCode, KnownError, Options

if TYPE_CHECKING:
    Verbs = argparse._SubParsersAction[argparse.ArgumentParser]  # noqa: SLF001 - typeshed's
    Group = argparse._ArgumentGroup  # noqa: SLF001

EPILOG = """\
exit status:
  0 all well          3 a recording could not be used   6 the engine or its device
  1 a bug             4 the model could not be used     7 the network, or the host
  2 a wrong option    5 the text, or the library,       130 cancelled
                        could not be written
With several failures the status is that of the first.

"farscribe VERB --help" has the options of each verb.
"""


@dataclass(frozen=True, slots=True)
class Way:
    """How a machine is reached.

    Args:
        machine: its name; None where each job says its own.
        trust: fingerprint of its key.
        codec: of the audio that travels; None leaves it to the speed of the way.
    """

    machine: str | None
    trust: str | None = None
    codec: Codec | None = None


def parser_of(name: str, description: str, epilog: str | None = None) -> argparse.ArgumentParser:
    """A parser as all of ours are."""
    return argparse.ArgumentParser(
        prog=name,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_verb(
    verbs: "Verbs",
    name: str,
    what: str,
    run: Callable[[argparse.Namespace], int],
    description: str = "",
    epilog: str | None = None,
) -> argparse.ArgumentParser:
    """The parser of a new verb.

    Args:
        verbs: of the command.
        name: of the verb.
        what: it does, for the list of verbs.
        run: does it; gives the exit status.
        description: for its own help; what it does where it is empty.
        epilog: likewise.
    """
    parser = verbs.add_parser(
        name,
        help=what,
        description=description or f"{what[0].upper()}{what[1:]}.",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=run)
    return parser


# ── names and words ──────────────────────────────────────────────────────────────────────────


def add_machine_options(group: "Group", *, usual: str | None = THIS_COMPUTER) -> None:
    """Where the engine is.

    Args:
        group: is given the options.
        usual: machine; None is that of each job.
    """
    add = group.add_argument
    where = usual or "where each was before"
    add("--on", metavar="MACHINE", default=usual,
        help=f"this-computer, or ssh://user@host[:port] (default: {where})")  # fmt: skip
    add("--trust-host", metavar="SHA256:…",
        help="fingerprint of the host's key, the first time")  # fmt: skip
    add("--audio", choices=("auto", *Codec), default="auto",
        help="how it travels to a host (default: flac, or opus where the way is slow)")  # fmt: skip


def add_engine_options(group: "Group") -> None:
    """Which engine."""
    add = group.add_argument
    add("--model", default=settings.DEFAULT_MODEL, help="name or folder (default: %(default)s)")
    add("--device", help="such as cpu, cuda or cuda:1 (default: the fastest there is)")
    add("--dtype", help="such as float32, bfloat16 or int8 (default: the fastest that is as good)")


def add_text_options(group: "Group") -> None:
    """What is asked of it."""
    add = group.add_argument
    add("--language", default="auto", help='code or name (default: "auto" listens to each file)')
    add("--task", choices=("transcribe", "translate"), default="transcribe",
        help="translate gives English")  # fmt: skip
    add("--words", action="store_true", help="also give the time of each word")
    add("--windows", choices=("vad", "fixed", "off"), default="vad",
        help="how speech is cut: at silence, every 30 s, or not at all")  # fmt: skip
    add("--channels", choices=("mix", "split"), default="mix",
        help="split transcribes each channel by itself")  # fmt: skip
    add("--vocabulary", metavar="TEXT", default="", help="names and terms to expect")
    add("--no-fallback", action="store_true",
        help="do not decode doubtful windows a second time")  # fmt: skip


def add_file_options(group: "Group", *, required: bool = False) -> None:
    """Which files are written."""
    add = group.add_argument
    kinds = ", ".join(Format)
    add("--format", metavar="LIST", required=required,
        help=f"write files: any of {kinds}, with commas between")  # fmt: skip
    add("--output", metavar="FOLDER", type=Path,
        help="write files here (default: beside each recording)")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files of the same name")
    rules = SubtitleRules()
    add("--subtitle-chars", metavar="N", type=int, default=rules.max_chars,
        help="longest subtitle line (default: %(default)s)")  # fmt: skip
    add("--subtitle-lines", metavar="N", type=int, default=rules.max_lines,
        help="most lines of a subtitle (default: %(default)s)")  # fmt: skip
    add("--reading-speed", metavar="N", type=int, default=rules.max_cps,
        help="most characters of a subtitle per second (default: %(default)s)")  # fmt: skip


def add_face_options(group: "Group") -> None:
    """How a batch is shown."""
    add = group.add_argument
    add("--json", action="store_true", help="print each event as a line of JSON, for programs")
    add("--quiet", action="store_true", help="print nothing but text and errors")


# ── what becomes of them ─────────────────────────────────────────────────────────────────────


def way(given: argparse.Namespace) -> Way:
    """How the machine is reached that was asked for.

    Raises:
        KnownError: unknown-option.
    """
    machine: str | None = given.on
    if machine not in (None, THIS_COMPUTER) and not machine.startswith("ssh://"):
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION,
            f'There is no machine "{machine}".',
            "Choose this-computer, or a host as ssh://user@host.",
        )
    codec = None if given.audio == "auto" else Codec(given.audio)
    return Way(machine, given.trust_host, codec)


def job_settings(given: argparse.Namespace) -> JobSettings:
    """What every job is asked for.

    Raises:
        KnownError: unknown-option or unknown-language.
    """
    options = Options(
        language=language_code(given.language),
        task=given.task,
        words=given.words,
        windows=given.windows,
        channels=given.channels,
        vocabulary=given.vocabulary,
        fallback=not given.no_fallback,
    )
    engine = EngineSettings(given.model, given.device, given.dtype)
    settings.check(engine, options)
    return JobSettings(given.on, engine, options)


def output(given: argparse.Namespace, *, always: bool = False) -> OutputSettings:
    """Which files are wanted: none unless a format or a folder is named, or ``always``.

    Raises:
        KnownError: unknown-option.
    """
    rules = SubtitleRules(given.subtitle_chars, given.subtitle_lines)
    rules = replace(rules, max_cps=given.reading_speed)
    usual = (Format.TXT,) if always or given.output is not None else ()
    kinds = usual if given.format is None else settings.formats(given.format)
    return OutputSettings(kinds, given.output, given.overwrite, rules)
