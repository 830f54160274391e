"""The path or address of a recording: opened, or refused in a sentence that helps.

It must not decode anything, and no exception of libav leaves this module.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

import av
import av.error
from av.container import InputContainer

from remote.protocol import ErrorCode, KnownError

_OPEN_TIMEOUT_S = 15.0
_READ_TIMEOUT_S = 60.0

_SIGNATURES = (
    (0, b"RIFF"), (0, b"fLaC"), (0, b"OggS"), (0, b"ID3"), (0, b"\x1a\x45\xdf\xa3"),
    (0, b"FORM"), (0, b"#!AMR"), (0, b"\x30\x26\xb2\x75"), (0, b"caff"), (4, b"ftyp"),
    (0, b"\xff\xfb"), (0, b"\xff\xf3"), (0, b"\xff\xf1"), (0, b"\xff\xf9"),
)  # fmt: skip
"""(offset, bytes) by which a file shows that it was meant to be a recording."""


@dataclass(frozen=True, slots=True)
class Source:
    """A path or an address, and the sentences for what can be wrong with it.

    Args:
        address: absolute path, or http(s) address.
        name: what the user is shown: the last part of it.
        remote: whether it is an address.
        size: bytes of the file when it was first looked at; 0 for an address.
    """

    address: str
    name: str
    remote: bool
    size: int

    @classmethod
    def of(cls, source: str | Path) -> Self:
        """The source, looked at as far as that is possible without libav.

        Raises:
            KnownError: file-missing, file-unreadable (a folder, no permission) or file-empty.
        """
        text = str(source)
        if text.startswith(("http://", "https://")):
            # Only the last part of the path: the query of a presigned address is a secret.
            parts = urlsplit(text)
            name = unquote(parts.path).rstrip("/").rpartition("/")[2] or parts.netloc
            return cls(text, name, remote=True, size=0)
        path = Path(source)
        return cls(str(path.absolute()), path.name or text, remote=False, size=_size(path))

    def open(self) -> InputContainer:
        """The opened container; the caller closes it.

        Raises:
            KnownError: the above, not-audio, audio-damaged or offline.
        """
        # "file:" keeps a name like "12:30 call.mp3" from being read as a protocol, and the list
        # keeps a playlist in disguise from fetching anything else.
        url = self.address if self.remote else f"file:{self.address}"
        options = {"reconnect": "1", "reconnect_delay_max": "8"}
        try:
            return av.open(
                url,
                options=options if self.remote else {"protocol_whitelist": "file"},
                timeout=(_OPEN_TIMEOUT_S, _READ_TIMEOUT_S) if self.remote else None,
                metadata_errors="replace",
            )
        except (av.error.FFmpegError, OSError, ValueError) as error:
            # libav's message holds the whole address: it must not show in any traceback.
            raise self._refused(error) from (None if self.remote else error)

    def damaged(self) -> KnownError:
        """The error for a recording of which nothing can be decoded."""
        return KnownError(
            ErrorCode.AUDIO_DAMAGED,
            f"{self.name} is damaged or incomplete: no sound can be read from it.",
            "Copy or export it again from where it was recorded.",
        )

    def broken_off(self, read_s: float) -> KnownError:
        """The error for a source that went away while it was read, after ``read_s`` of sound."""
        if self.remote:
            return KnownError(
                ErrorCode.OFFLINE,
                f"The connection to {self.name} was lost after {read_s:.1f} s of sound.",
                "Check the network and try again.",
            )
        return KnownError(
            ErrorCode.FILE_VANISHED,
            f"{self.name} went away while it was read, after {read_s:.1f} s of sound.",
            "Check the disk or the network drive and try again.",
        )

    def check_whole(self, read_s: float) -> None:
        """Nothing, unless the file has become shorter since it was first looked at.

        A file that is deleted while it is open can be read to its end where the system has that
        notion, and is no error.

        Raises:
            KnownError: file-vanished; it has.
        """
        try:
            shorter = not self.remote and Path(self.address).stat().st_size < self.size
        except OSError:
            return
        if shorter:
            raise self.broken_off(read_s)

    def _refused(self, error: Exception) -> KnownError:
        if isinstance(error, av.error.HTTPUnauthorizedError | av.error.HTTPForbiddenError):
            return KnownError(
                ErrorCode.FILE_UNREADABLE,
                f"The server does not give {self.name} to us.",
                "Ask for a new link: this one may have expired.",
            )
        if isinstance(error, FileNotFoundError | av.error.HTTPNotFoundError):
            return _missing(self.name)
        if isinstance(error, PermissionError):
            return _unreadable(self.name)
        if self.remote and not isinstance(error, av.error.InvalidDataError):
            return KnownError(
                ErrorCode.OFFLINE,
                f"{self.name} could not be fetched: its server does not answer as it should.",
                "Check the address and the network, then try again.",
            )
        if not self.remote and _looks_like_a_recording(Path(self.address)):
            return self.damaged()
        return KnownError(
            ErrorCode.NOT_AUDIO,
            f"{self.name} is no audio or video file that can be read.",
            "Choose a recording such as WAV, MP3, M4A, FLAC, OGG or MP4.",
        )


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            raise KnownError(
                ErrorCode.FILE_UNREADABLE,
                f"{path.name or path} is a folder, not a recording.",
                "Name the files in it.",
            )
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _missing(path.name) from error
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise _unreadable(path.name) from error
    if not first:
        raise KnownError(
            ErrorCode.FILE_EMPTY,
            f"{path.name} is empty: it has 0 bytes.",
            "Copy or record it again.",
        )
    return size


def _missing(name: str) -> KnownError:
    return KnownError(
        ErrorCode.FILE_MISSING, f"{name} does not exist.", "Check its name and where it lies."
    )


def _unreadable(name: str) -> KnownError:
    return KnownError(
        ErrorCode.FILE_UNREADABLE,
        f"{name} may not be read.",
        "Give yourself permission to read it, or copy it to another folder.",
    )


def _looks_like_a_recording(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(16)
    except OSError:
        return False
    return any(head[at : at + len(mark)] == mark for at, mark in _SIGNATURES)
