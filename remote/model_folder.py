"""What a complete model folder is: its files, its record of them, and how one comes to be.

A folder is in Hugging Face's form: config.json, generation_config.json, tokenizer.json,
model.safetensors; beside them farscribe.json, the record of where they came from and of their
sums. It must not know any source of models, nor read weights.
"""

import errno
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from remote import safetensors_file
from remote.protocol import ErrorCode, KnownError, WireError, from_plain, to_plain

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
REQUIRED = (CONFIG, GENERATION_CONFIG, TOKENIZER, WEIGHTS)
RECORD = "farscribe.json"
INDEXES = ("model.safetensors.index.json", "model.safetensors.index.fp32.json")
"""Of weights split over several files: the usual name, and openai/whisper-large-v3's float32."""

_OTHER_WEIGHTS = {
    "model.safetensors.index.json": "several safetensors files",
    "pytorch_model.bin": "a pickle (pytorch_model.bin)",
    "model.bin": "a CTranslate2 file (model.bin)",
}
_UNWRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The sha256 (hexadecimal) and the size of one file."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Record:
    """What farscribe.json holds.

    Args:
        source: which kind of place the files came from.
        repo: hub id, name of the starter package, or path of the folder.
        revision: commit of the hub, version of the package, empty for a folder.
        files: every file of the model, by name.
    """

    source: Literal["hub", "starter", "folder"]
    repo: str
    revision: str
    files: Mapping[str, FileRecord]


def check(folder: Path, name: str = "") -> None:
    """Nothing, where the folder is complete. Sizes are compared, contents are not (see verify).

    Args:
        folder: the model folder.
        name: what the user calls it, for the sentences.

    Raises:
        KnownError: MODEL_MISSING where there is no such folder; MODEL_INCOMPLETE with the file
            that is missing or cut short; MODEL_UNSUPPORTED for weights in another form.
    """
    name = name or str(folder)
    if not folder.is_dir():
        raise _no_folder(folder)
    for required in REQUIRED:
        if not (folder / required).is_file():
            raise _lacks(folder, name, required)
    record = read_record(folder)
    for file, expected in (record.files if record else {}).items():
        if not (folder / file).is_file():
            raise _lacks(folder, name, file)
        found = (folder / file).stat().st_size
        if found != expected.size_bytes:
            raise _cut_short(name, file, found, expected.size_bytes)
    if record is None:
        _check_weights_length(folder / WEIGHTS, name)


def read_record(folder: Path) -> Record | None:
    """The record in a folder; None for a folder that farscribe did not make.

    Raises:
        KnownError: MODEL_INCOMPLETE where the record cannot be read.
    """
    try:
        body = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        record: Record = from_plain(Record, body)
    except FileNotFoundError:
        return None
    except (ValueError, WireError) as error:
        raise KnownError(
            ErrorCode.MODEL_INCOMPLETE,
            f"{folder / RECORD} cannot be read: {error}",
            "Remove the model and add it again.",
        ) from error
    return record


def write_record(
    folder: Path, source: Literal["hub", "starter", "folder"], repo: str, revision: str
) -> Record:
    """The record of all files now in the folder, also written into it."""
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    files = {
        name: FileRecord(sha256(folder / name), (folder / name).stat().st_size)
        for name in names
        if name != RECORD
    }
    record = Record(source, repo, revision, files)
    write_json(folder / RECORD, to_plain(record))
    return record


def verify(folder: Path, name: str = "") -> Record:
    """The record of the folder, after every file was read and its sum compared.

    Raises:
        KnownError: as check; MODEL_CHECKSUM with the file that is not what was added;
            MODEL_INCOMPLETE where there is no record to compare with.
    """
    name = name or str(folder)
    check(folder, name)
    record = read_record(folder)
    if record is None:
        raise KnownError(
            ErrorCode.MODEL_INCOMPLETE,
            f"{name} has no {RECORD}, so there are no checksums to compare with.",
            f"Run `farscribe models add {folder}` to take it over with its checksums.",
        )
    for file, expected in record.files.items():
        if sha256(folder / file) != expected.sha256:
            raise KnownError(
                ErrorCode.MODEL_CHECKSUM,
                f"{file} of the model {name} is not the file that was added: its sha256 differs.",
                "Remove the model and add it again.",
            )
    return record


def sha256(path: Path) -> str:
    """The sha256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        KnownError: MODEL_INCOMPLETE where it is no JSON object.
    """
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise KnownError(ErrorCode.MODEL_INCOMPLETE, f"{path} is no JSON: {error}.") from error
    if not isinstance(body, dict):
        raise KnownError(ErrorCode.MODEL_INCOMPLETE, f"{path} holds no JSON object.")
    return body


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """The object as indented JSON in a file."""
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def staged(target: Path, staging: Path, *, keep: bool) -> Iterator[Path]:
    """A folder beside the target that takes its place in one rename when the block has ended well.

    Where the block fails, or the process dies, the target is what it was.

    Args:
        target: the final folder; replaced where it exists.
        staging: on the same file system.
        keep: for what can be gone on with: an old staging folder is used as it is, and stays
            after a failure. Otherwise the block starts with an empty one, deleted on failure.

    Raises:
        KnownError: DISK_FULL or OUTPUT_UNWRITABLE, also from inside the block.
    """
    with writing(target):
        if not keep:
            shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True, exist_ok=True)
        try:
            yield staging
        except BaseException:
            if not keep:
                shutil.rmtree(staging, ignore_errors=True)
            raise
        discard(target)
        staging.rename(target)


def discard(folder: Path) -> None:
    """Nothing left of a folder. It is renamed first, so that a kill leaves no half of it."""
    if folder.exists():
        trash = folder.with_name(f".{folder.name}.trash")
        shutil.rmtree(trash, ignore_errors=True)
        folder.rename(trash)
        shutil.rmtree(trash)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """The block, with a full or read-only disk told as such.

    Raises:
        KnownError: DISK_FULL, OUTPUT_UNWRITABLE.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(target, "") from error
        if error.errno in _UNWRITABLE:
            raise KnownError(
                ErrorCode.OUTPUT_UNWRITABLE,
                f"{target} cannot be written: {error.strerror}.",
                "Set FARSCRIBE_HOME to a folder you may write to.",
            ) from error
        raise


def require_space(folder: Path, size_bytes: int) -> None:
    """Nothing, where the disk of the folder has so many bytes free.

    Raises:
        KnownError: DISK_FULL, before anything was written.
    """
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        sizes = f"{size_bytes / 1e9:.2f} GB are needed, {free / 1e9:.2f} GB are free"
        raise _disk_full(folder, f" ({sizes})")


def require_source(folder: Path) -> None:
    """Nothing, where weights that can be taken over lie in the folder, whole or split.

    Raises:
        KnownError: MODEL_MISSING, MODEL_INCOMPLETE or MODEL_UNSUPPORTED.
    """
    if not folder.is_dir():
        raise _no_folder(folder)
    if not (folder / WEIGHTS).is_file() and not any((folder / name).is_file() for name in INDEXES):
        raise _lacks(folder, str(folder), WEIGHTS)
    if not (folder / CONFIG).is_file():
        raise _lacks(folder, str(folder), CONFIG)


def split_weights(folder: Path, index: str) -> tuple[str, ...]:
    """The names of the files that an index of split weights speaks of.

    Raises:
        KnownError: MODEL_INCOMPLETE where the index cannot be read or names none.
    """
    named = read_json(folder / index).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise KnownError(ErrorCode.MODEL_INCOMPLETE, f"{folder / index} names no weights.")
    return tuple(sorted({Path(str(name)).name for name in named.values()}))


def join_split_weights(folder: Path) -> None:
    """One weights file in place of several and their index; nothing where it is one already.

    Raises:
        KnownError: MODEL_INCOMPLETE with the part that is missing or damaged.
    """
    for index in INDEXES:
        if (folder / WEIGHTS).is_file() or not (folder / index).is_file():
            continue
        names = split_weights(folder, index)
        for name in names:
            if not (folder / name).is_file():
                raise _lacks(folder, folder.name, name)
        safetensors_file.join([folder / name for name in names], folder / WEIGHTS)
        for name in (*names, index):
            (folder / name).unlink()


def _check_weights_length(weights: Path, name: str) -> None:
    try:
        safetensors_file.header(weights)
    except KnownError as error:
        raise KnownError(
            error.code, f"The model {name} is damaged: {error.message}", "Copy it again."
        ) from error


def _no_folder(folder: Path) -> KnownError:
    return KnownError(
        ErrorCode.MODEL_MISSING,
        f"There is no model folder {folder}.",
        "Run `farscribe models list` to see what is there and what can be added.",
    )


def _lacks(folder: Path, name: str, file: str) -> KnownError:
    if file == WEIGHTS:
        for other, words in _OTHER_WEIGHTS.items():
            if (folder / other).is_file():
                return KnownError(
                    ErrorCode.MODEL_UNSUPPORTED,
                    f"The model {name} has its weights as {words}, not as {WEIGHTS}.",
                    f"Run `farscribe models add {folder}`."
                    if other.endswith(".index.json")
                    else "Save it with transformers: model.save_pretrained(folder).",
                )
    return KnownError(
        ErrorCode.MODEL_INCOMPLETE,
        f"The model {name} is incomplete: {file} is missing in {folder}.",
        _again(folder, name),
    )


def _cut_short(name: str, file: str, found: int, expected: int) -> KnownError:
    return KnownError(
        ErrorCode.MODEL_INCOMPLETE,
        f"The model {name} is damaged: {file} has {found} bytes of {expected}.",
        f"Run `farscribe models add {name}`.",
    )


def _again(folder: Path, name: str) -> str:
    if name == str(folder):
        return f"Copy {folder.name} again with all of {', '.join(REQUIRED)}."
    return f"Run `farscribe models add {name}`."


def _disk_full(target: Path, sizes: str) -> KnownError:
    return KnownError(
        ErrorCode.DISK_FULL,
        f"The disk of {target} is full{sizes}.",
        "Free some space and run it again, or set FARSCRIBE_HOME to a folder on another disk.",
    )
