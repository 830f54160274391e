"""Files and folders on this computer: which recordings a user means, and where text is written.

It must not know what is in a file. Writing is all or nothing: a file appears under its name
whole, or not at all.
"""

import errno
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from uuid import uuid4

from app.domain.intake import (
    Accepted,
    Found,
    Passed,
    Refused,
    is_hidden,
    is_media,
    natural_key,
)
from remote.protocol import ErrorCode, KnownError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# ── in ───────────────────────────────────────────────────────────────────────────────────────


def gather(paths: Sequence[Path]) -> Iterator[Found]:
    """Every recording the user means, each once: files as named, folders with all below them.

    A file that is named is always tried, whatever its name; in a folder hidden files and those
    that are not audio or video by their name are passed over. Files of a folder come before its
    folders, both in natural order; links to folders are not followed.
    """
    seen: set[str] = set()
    for path in paths:
        # Path.is_dir raises where the folder above may not be read (until Python 3.14).
        folder = os.path.isdir(path)  # noqa: PTH112
        for found in _in_folder(path) if folder else [_named(path)]:
            if not isinstance(found, Accepted):
                yield found
                continue
            real = os.path.realpath(found.path)
            if real in seen:
                yield Passed(found.path, "named twice")
            else:
                seen.add(real)
                yield found


def _named(path: Path) -> Found:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        error = KnownError(
            ErrorCode.FILE_MISSING, "There is no such file.", "Check its name and folder."
        )
        return Refused(path, error)
    except OSError:
        pass  # the engine will say what keeps it from being read
    return _accepted(path)


def _in_folder(folder: Path) -> Iterator[Found]:
    some = False
    unreadable: list[OSError] = []
    for found in _walk(folder, unreadable):
        some = some or isinstance(found, Accepted)
        yield found
    for error in unreadable:
        where = Path(error.filename)
        if where == folder:
            yield Refused(folder, _unreadable(error))
            return
        yield Passed(where, _unreadable(error).message)
    if not some:
        nothing = "There is no audio or video in this folder."
        yield Refused(folder, KnownError(ErrorCode.FILE_MISSING, nothing))


def _walk(folder: Path, unreadable: list[OSError]) -> Iterator[Found]:
    for place, folders, files in os.walk(folder, onerror=unreadable.append):
        folders[:] = sorted((f for f in folders if not is_hidden(Path(f))), key=natural_key)
        for name in sorted(files, key=natural_key):
            path = Path(place, name)
            if is_hidden(path):
                yield Passed(path, "hidden")
            elif not is_media(path):
                yield Passed(path, "not audio or video")
            else:
                yield _accepted(path)


def _accepted(path: Path) -> Found:
    whole = path.absolute()  # not resolved: a link keeps the name the user knows
    try:
        str(whole).encode("utf-8")
    except UnicodeEncodeError:  # bytes of another encoding: such a name fits into no message
        error = KnownError(
            ErrorCode.FILE_UNREADABLE, "The name of the file is not Unicode.", "Rename it."
        )
        return Refused(whole, error)
    return Accepted(whole)


def _unreadable(error: OSError) -> KnownError:
    reason = (error.strerror or str(error)).lower()
    return KnownError(
        ErrorCode.FILE_UNREADABLE,
        f"The folder cannot be read ({reason}).",
        "Check its permissions.",
    )


# ── out ──────────────────────────────────────────────────────────────────────────────────────


class TextFolder:
    """Where transcripts are written. It implements the port ``OutputFolder``.

    Args:
        folder: made with its parents where it is missing; None is beside each recording.
        overwrite: replace files that were there before; files of this run are never replaced,
            so two recordings of one name keep a file each.
    """

    def __init__(self, folder: Path | None, *, overwrite: bool = False) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self._written: set[Path] = set()

    def prepare(self) -> None:
        """Makes the folder.

        Raises:
            KnownError: disk-full or output-unwritable.
        """
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def write(self, source: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
        """Writes one file for each suffix, all with the same free name.

        Raises:
            KnownError: disk-full or output-unwritable. The files before the failing one stay,
                the failing one is not there.
        """
        folder = self._folder or source.parent
        targets = self._free(folder, source.stem, tuple(contents))
        for target, content in zip(targets, contents.values(), strict=True):
            try:
                write_whole(target, content, replace=self._overwrite)
            except OSError as error:
                raise _unwritable(target, error) from error
            self._written.add(target)
        return targets

    def _free(self, folder: Path, stem: str, suffixes: Iterable[str]) -> tuple[Path, ...]:
        for number in count(1):
            name = stem if number == 1 else f"{stem} ({number})"
            targets = tuple(folder / f"{name}.{suffix}" for suffix in suffixes)
            taken = self._written.intersection(targets)
            if not taken and (self._overwrite or not any(map(os.path.lexists, targets))):
                return targets
        raise AssertionError("count() has no end")


def write_whole(target: Path, content: bytes, *, replace: bool) -> None:
    """Writes a file so that it is there whole, on the disk, or not at all.

    Raises:
        FileExistsError: it is there already and ``replace`` is not wanted.
        OSError: it cannot be written; nothing of it is left.
    """
    draft = target.parent / f".farscribe-{uuid4().hex}"
    taken = False
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not replace:
            target.open("xb").close()  # takes the name against anyone who wants it as well
            taken = True
        draft.replace(target)
    except BaseException:
        for left in (draft, target) if taken else (draft,):
            with suppress(OSError):
                left.unlink()
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Brings the new name to the disk, where the system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(path: Path, error: OSError) -> KnownError:
    if error.errno in _FULL:
        return KnownError(
            ErrorCode.DISK_FULL,
            f"There is no room left to write {path}.",
            "Free some space or choose another folder with --output.",
        )
    return KnownError(
        ErrorCode.OUTPUT_UNWRITABLE,
        f"{path} cannot be written ({(error.strerror or str(error)).lower()}).",
        "Choose another folder with --output.",
    )
