"""What counts as a recording, and in which order people expect files: pure rules on names.

A name says only what to try. Whether a file holds audio is for the engine to find out.
"""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath

from remote.protocol import KnownError

MEDIA_SUFFIXES = frozenset(
    ".3g2 .3ga .3gp .aac .ac3 .aif .aifc .aiff .amr .ape .asf .au .avi .caf .dss .dts .dv .eac3"
    " .f4v .flac .flv .gsm .m2ts .m4a .m4b .m4p .m4r .m4v .mka .mkv .mov .mp2 .mp3 .mp4 .mpa .mpc"
    " .mpeg .mpg .mts .mxf .oga .ogg .ogv .ogx .opus .ra .rm .rmvb .snd .spx .tta .vob .voc .w64"
    " .wav .wave .weba .webm .wma .wmv .wv".split()
)
"""Suffixes of audio and video files that ffmpeg commonly reads."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A file to transcribe."""

    path: Path


@dataclass(frozen=True, slots=True)
class Passed:
    """A file in a folder that is left alone, and why: not an error."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Something the user named that cannot be transcribed."""

    path: Path
    error: KnownError


Found = Accepted | Passed | Refused


def is_media(path: PurePath) -> bool:
    """Whether the name is that of an audio or video file."""
    return path.suffix.casefold() in MEDIA_SUFFIXES


def is_hidden(path: PurePath) -> bool:
    """Whether the name hides the file from people (a leading dot)."""
    return path.name.startswith(".")


def natural_key(name: str) -> tuple[tuple[int, str], ...]:
    """A sort key that puts "take 9" before "take 10" and ignores upper and lower case."""
    parts = re.split(r"(\d+)", name)  # odd places hold the digits
    return tuple(
        (int(part), "") if place % 2 else (0, part.casefold()) for place, part in enumerate(parts)
    )
