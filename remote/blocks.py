"""The store of audio blocks beside an engine, and the conversation that fills it.

A block lies under the sha256 of its bytes, whole or not at all: ``blocks/ab/abcdef…``. Several
processes may use a store at once: the engine, and one ``receive`` for each channel of a client.
Only the standard library and the wire are loaded, so that ``receive`` is there in no time.

It must not know what is in a block, nor whose it is.
"""

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from remote.protocol import (
    MAX_LINE_BYTES,
    ErrorCode,
    Failed,
    Have,
    Held,
    KnownError,
    Put,
    Stored,
    Up,
    WireError,
    decode,
    encode,
)

MAX_BLOCK_BYTES = 64 * 1024 * 1024
"""No block is larger: 30 s of 64 channels as FLAC that could not be made smaller at all."""

_PIECE_BYTES = 256 * 1024
_LEFTOVER_S = 3600.0  # what nobody has written to for so long, nobody will complete
_NAME = re.compile(r"[0-9a-f]{64}")
_PART = "*.part"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

Read = Callable[[int], bytes]
"""Up to so many bytes, as soon as there are any; none at the end."""

log = logging.getLogger(__name__)


class BlockFolder:
    """Blocks by their content, in a folder that is made when the first one comes.

    Args:
        folder: of the blocks alone.
        clock: seconds since the epoch, as the file system counts them.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder = folder
        self._clock = clock

    def path(self, block: str) -> Path:
        """Where this block lies, or would lie.

        Raises:
            WireError: that is no name of a block.
        """
        if not _NAME.fullmatch(block):
            raise WireError(f"{block[:80]!r} is no name of a block: 64 hexadecimal digits.")
        return self._folder / block[:2] / block

    def held(self, blocks: Iterable[str]) -> frozenset[str]:
        """Those of these blocks that are there; they count as new to ``sweep``."""
        return frozenset(b for b in blocks if _NAME.fullmatch(b) and _touch(self.path(b)))

    def whole(self, block: str) -> bool:
        """Whether the block is there with the very bytes of its name; else it is removed.

        Raises:
            WireError: that is no name of a block.
        """
        path = self.path(block)
        try:
            with path.open("rb") as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest() == block
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("block %s cannot be read: %s", block, error)
            whole = False
        if not whole:
            self.forget([block])
        return whole

    def store(self, block: str, size: int, read: Read) -> None:
        """Nothing; the block is on the disk, whole. One that is there is not written again.

        Args:
            block: its name.
            size: its bytes, 0..MAX_BLOCK_BYTES.
            read: gives them; not asked for more than ``size`` in all.

        Raises:
            WireError: the name or the size is impossible, or the bytes are not those of the name
                or end early; nothing is left behind.
            KnownError: disk-full or output-unwritable; nothing is left behind.
        """
        target = self.path(block)
        if not 0 <= size <= MAX_BLOCK_BYTES:
            raise WireError(f"A block of {size} bytes is not taken, {MAX_BLOCK_BYTES} at most.")
        if _touch(target):
            return
        draft = target.with_name(f"{block}.{uuid4().hex}.part")
        try:
            _make_folder(target.parent)
            _write(draft, block, _pieces(size, read))
            draft.replace(target)
            _sync(target.parent)
        except OSError as error:
            raise _unwritable(error) from error
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def forget(self, blocks: Iterable[str]) -> None:
        """Removes these blocks, as far as they are there."""
        for block in blocks:
            if _NAME.fullmatch(block):
                _remove(self.path(block))

    def bytes_used(self) -> int:
        """Size of all files of the store."""
        return sum(size for _, size, _ in self._files())

    def sweep(self, keep: Collection[str], older_than_s: float) -> int:
        """Removes what is not to be kept; the bytes that were freed.

        Args:
            keep: blocks that stay.
            older_than_s: of the others, those stay that were stored or asked for since. What a
                broken put has left behind goes when nobody has written to it for an hour.
        """
        now, freed = self._clock(), 0
        for path, size, changed in self._files():
            limit_s = _LEFTOVER_S if path.match(_PART) else older_than_s
            if path.name not in keep and now - changed > limit_s and _remove(path):
                freed += size
        return freed

    def _files(self) -> Iterator[tuple[Path, int, float]]:
        """Path, size and time of change of each file that is still there when it is looked at."""
        for path in self._folder.glob("*/*"):
            with suppress(FileNotFoundError):
                found = path.stat()
                yield path, found.st_size, found.st_mtime


def _pieces(size: int, read: Read) -> Iterator[bytes]:
    left = size
    while left:
        piece = read(min(left, _PIECE_BYTES))
        if not piece:
            raise WireError(f"A block broke off {left} bytes before its end.")
        left -= len(piece)
        yield piece


def _write(draft: Path, block: str, pieces: Iterator[bytes]) -> None:
    """Brings the bytes to the disk, if they are those of the block."""
    digest = hashlib.sha256()
    with draft.open("xb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
        if digest.hexdigest() != block:
            raise WireError(f"What came as block {block[:12]}… has other bytes than its name says.")
        file.flush()
        os.fsync(file.fileno())


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _sync(folder.parent)


def write_all(file: int, data: bytes) -> None:
    """Every byte is written to the descriptor, however many calls that takes.

    Raises:
        OSError: some of them could not be.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def _sync(folder: Path) -> None:
    """Brings the names in a folder to the disk, where the system lets a folder be opened."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _touch(path: Path) -> bool:
    """Whether the file is there; it counts as written now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # there, but of a user who does not let its time be changed
        return path.is_file()
    return True


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            log.warning("%s cannot be removed: %s", path, error)
        return False
    return True


def _unwritable(error: OSError) -> KnownError:
    if error.errno in _FULL:
        return KnownError(
            ErrorCode.DISK_FULL,
            "The disk of the engine's machine is full: no more audio can be stored there.",
            "Free some space on it; the work then goes on.",
        )
    return KnownError(
        ErrorCode.OUTPUT_UNWRITABLE,
        f"The engine's machine cannot store audio ({(error.strerror or str(error)).lower()}).",
        "Check the permissions of its spool folder.",
    )


# ── the conversation ─────────────────────────────────────────────────────────────────────────


def serve_store(read: Read, write: Callable[[bytes], None], folder: BlockFolder) -> None:
    """Serves the conversation of a store to its end.

    Have is answered by Held, Put and its bytes by Stored or by Failed with the block as job, and
    types that are not known are passed over. It ends with the input, when nobody listens any
    more, or, after a Failed without a job, with a line that has no place in it: what follows such
    a line may be the bytes of a block.
    """
    input_ = _Input(read)
    try:
        while (line := input_.line()) is not None:
            answer = _answer(line, input_, folder)
            if answer is not None:
                write(encode(answer))
    except WireError as error:
        with suppress(OSError):
            write(encode(_failed("", error)))
    except OSError as error:
        log.debug("the client has gone: %s", error)


def _answer(line: bytes, input_: "_Input", folder: BlockFolder) -> Up | None:
    message = decode(line)
    if isinstance(message, Have):
        held = folder.held(message.blocks)
        return Held(tuple(block for block in message.blocks if block in held))
    if isinstance(message, Put):
        return _put(message, input_, folder)
    if message is not None:
        raise WireError(f"A {type(message).__name__} has no place in a store's conversation.")
    log.debug("passed over: %r", line[:80])
    return None


def _put(put: Put, input_: "_Input", folder: BlockFolder) -> Up | None:
    """The answer to a put, whose bytes have all been read; none where the input ends in them."""
    if not 0 <= put.bytes <= MAX_BLOCK_BYTES:
        raise WireError(f"A block of {put.bytes} bytes is not taken, {MAX_BLOCK_BYTES} at most.")
    body = _Body(input_, put.bytes)
    try:
        folder.store(put.block, put.bytes, body.read)
    except KnownError as error:
        return _failed(put.block, error) if body.drain() else None
    return Stored(put.block) if body.drain() else None


def _failed(job: str, error: KnownError) -> Failed:
    return Failed(job, 0, error.code, error.message, error.hint)


class _Input:
    """A stream of lines with stretches of bytes between them."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._buffer = bytearray()

    def line(self) -> bytes | None:
        """The next line; None at the end, also in the middle of a line.

        Raises:
            WireError: it grows over MAX_LINE_BYTES.
        """
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE_BYTES:
                raise WireError("A line is longer than the protocol allows.")
            piece = self._read(_PIECE_BYTES)
            if not piece:
                return None
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def read(self, most: int) -> bytes:
        """Up to so many bytes; none at the end."""
        if not self._buffer:
            return self._read(most)
        piece = bytes(self._buffer[:most])
        del self._buffer[:most]
        return piece


class _Body:
    """The bytes of one block within the input."""

    def __init__(self, input_: _Input, size: int) -> None:
        self._input = input_
        self._left = size

    def read(self, most: int) -> bytes:
        """Up to so many of its bytes; none where the input has ended or broken."""
        try:
            piece = self._input.read(min(most, self._left))
        except OSError as error:  # of the stream: not to be taken for one of the disk
            log.debug("the input broke off: %s", error)
            return b""
        self._left -= len(piece)
        return piece

    def drain(self) -> bool:
        """Whether the input has gone on to the block's end; what was not read yet is dropped."""
        while self._left:
            if not self.read(_PIECE_BYTES):
                return False
        return True
