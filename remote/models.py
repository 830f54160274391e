"""Where models come from and where they lie: by name, by hub id or by path, to a complete folder.

Sources in order: a folder on this computer; a starter package where it is installed (it needs no
network); the Hugging Face hub. Revisions of named models are pinned; any other hub id is resolved
to the commit it serves when first added, recorded in farscribe.json and kept. Run as a command it
lists, adds, removes and verifies. It must not read weights.
"""

import argparse
import difflib
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

if not __package__:  # `python models.py`: imports start at the repository, not in this folder
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import platformdirs

from remote import model_folder, model_settings, model_starter
from remote.model_catalogue import ALIASES, CATALOGUE
from remote.protocol import ErrorCode, ExitCode, KnownError, to_plain

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) while a model is downloaded."""


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that is here or can be had.

    Args:
        name: what to give as --model.
        state: "ready", "damaged" (note says why), or where it would come from: "starter", "hub".
        size_bytes: of its weights on disk, or to download; 0 where not known.
        source: hub id, package or folder it is from.
        path: its folder; empty where it is not here.
        note: a sentence on what is wrong.
    """

    name: str
    state: Literal["ready", "damaged", "starter", "hub"]
    size_bytes: int
    source: str
    path: str = ""
    note: str = ""


def models_home() -> Path:
    """The folder that models lie in: $FARSCRIBE_HOME/models, or the user's data folder's."""
    home = os.environ.get("FARSCRIBE_HOME")
    root = Path(home).expanduser() if home else Path(platformdirs.user_data_dir("farscribe"))
    return root / "models"


def resolve(name_or_path: str, progress: Progress | None = None) -> Path:
    """The complete model folder for a name, a hub id or a path; added where it is not here yet.

    Args:
        name_or_path: such as "tiny.en", "owner/name", "./my-model".
        progress: told about a download.

    Raises:
        KnownError: MODEL_MISSING for a name or folder that does not exist; MODEL_INCOMPLETE or
            MODEL_UNSUPPORTED with the file; and all that add raises.
    """
    local = _local_folder(name_or_path)
    if local is not None:
        model_folder.check(local)
        return local
    name = canonical(name_or_path)
    folder = folder_of(name)
    if not folder.exists():
        return add(name, progress)
    model_folder.check(folder, name)
    return folder


def add(name_or_path: str, progress: Progress | None = None) -> Path:
    """The folder of the model in models_home, brought there first where it is not complete.

    After a failure or a kill what was there before is untouched; a download goes on next time.

    Raises:
        KnownError: OFFLINE, MODEL_MISSING, MODEL_UNSUPPORTED, MODEL_INCOMPLETE, MODEL_CHECKSUM,
            DISK_FULL, OUTPUT_UNWRITABLE; UNKNOWN_OPTION for a folder with the name of a
            catalogue model.
    """
    from filelock import FileLock  # not for those who only resolve

    local = _local_folder(name_or_path)
    name = _name_of_folder(local) if local else canonical(name_or_path)
    target = folder_of(name)
    with model_folder.writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(target.parent / f".{target.name}.lock")
        with lock:
            if not _is_complete(target):
                _bring(name, local, target, progress)
    return target


def remove(name: str) -> Path:
    """The folder that was there: it and any partial download of it are gone.

    Raises:
        KnownError: MODEL_MISSING where there was none.
    """
    target = folder_of(canonical(name))
    partial = _staging(target)
    if not target.exists() and not partial.exists():
        raise KnownError(
            ErrorCode.MODEL_MISSING,
            f"The model {name} is not here.",
            "Run `farscribe models list` to see which are.",
        )
    with model_folder.writing(target):
        shutil.rmtree(partial, ignore_errors=True)
        model_folder.discard(target)
    return target


def verify(name_or_path: str) -> model_folder.Record:
    """The record of the model, after every file was read and its sum compared.

    Raises:
        KnownError: MODEL_CHECKSUM with the file that differs; MODEL_MISSING, MODEL_INCOMPLETE.
    """
    local = _local_folder(name_or_path)
    if local is not None:
        return model_folder.verify(local)
    name = canonical(name_or_path)
    folder = folder_of(name)
    if not folder.exists():
        raise KnownError(
            ErrorCode.MODEL_MISSING,
            f"The model {name} is not here.",
            f"Run `farscribe models add {name}`.",
        )
    return model_folder.verify(folder, name)


def list_models() -> tuple[Listed, ...]:
    """Every model that is here, then those of the catalogue that can be had."""
    home = models_home()
    folders = sorted(home.iterdir()) if home.is_dir() else []
    here = [_listed(path) for path in folders if path.is_dir() and path.name[0] != "."]
    names = {listed.name for listed in here}
    there = [_offered(name) for name in CATALOGUE if name not in names]
    return (*here, *there)


def canonical(name: str) -> str:
    """The one name of a model for whatever a user may call it.

    Raises:
        KnownError: MODEL_MISSING with near names, where it is no model here, no name of the
            catalogue and no hub id.
    """
    for spelling in (name, name.lower()):
        known = ALIASES.get(spelling, spelling)
        if known in CATALOGUE:
            return known
    if _HUB_ID.fullmatch(name):
        return name
    if re.fullmatch(r"\w[\w.-]*", name) and folder_of(name).is_dir():
        return name
    near = difflib.get_close_matches(name.lower(), [*CATALOGUE, *ALIASES], n=3)
    raise KnownError(
        ErrorCode.MODEL_MISSING,
        f"There is no model or folder {name!r}.",
        f"Did you mean {', '.join(near)}?" if near else "Run `farscribe models list` for names.",
    )


def folder_of(name: str) -> Path:
    """The folder in models_home that a model of this canonical name has or would have."""
    return models_home() / name.replace("/", "--")


@contextmanager
def progress_bar(name: str) -> Iterator[Progress]:
    """A bar on stderr to give as ``progress``; shown on a terminal only, and not for an instant."""
    from tqdm import tqdm

    with tqdm(desc=name, unit="B", unit_scale=True, disable=None, delay=0.5) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def _local_folder(name_or_path: str) -> Path | None:
    """The path that is meant, or None where a name is meant. A name of the catalogue is a name."""
    path = Path(name_or_path).expanduser()
    explicit = path.is_absolute() or name_or_path.startswith((".", "~")) or "\\" in name_or_path
    if explicit or (name_or_path and name_or_path not in CATALOGUE and path.is_dir()):
        return path
    return None


def _name_of_folder(folder: Path) -> str:
    name = folder.resolve().name
    if name in CATALOGUE or name in ALIASES or name.startswith("."):
        raise KnownError(
            ErrorCode.UNKNOWN_OPTION,
            f"A folder cannot be added under the name {name}, which means another model.",
            "Rename the folder, or use it where it is by its path.",
        )
    return name


def _is_complete(target: Path) -> bool:
    try:
        model_folder.check(target)
    except KnownError:
        return False
    return True


def _staging(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _bring(name: str, local: Path | None, target: Path, progress: Progress | None) -> None:
    """The model into the target, through a staging folder that becomes it at the end."""
    if local is not None:
        with model_folder.staged(target, _staging(target), keep=False) as folder:
            _copy(local, folder)
            model_folder.write_record(folder, "folder", str(local.resolve()), "")
    elif model_starter.installed(name):
        starter = model_starter.STARTERS[name]
        with model_folder.staged(target, _staging(target), keep=False) as folder:
            model_starter.convert(name, folder)
            package = starter.requirements[0].partition("==")[0]
            model_folder.write_record(folder, "starter", package, starter.revision)
    else:
        _bring_from_hub(name, target, progress)
    log.info("model %s added at %s", name, target)


def _copy(source: Path, folder: Path) -> None:
    """The model files of a local folder; split weights become one file, missing settings added."""
    model_folder.require_source(source)
    for path in source.iterdir():
        if path.is_file() and path.suffix in (".json", ".txt", ".safetensors"):
            shutil.copyfile(path, folder / path.name)
    (folder / model_folder.RECORD).unlink(missing_ok=True)
    model_folder.join_split_weights(folder)
    model_settings.complete(folder)
    model_folder.check(folder, source.name)


def _bring_from_hub(name: str, target: Path, progress: Progress | None) -> None:
    from remote import model_hub  # a third of a second that only a download needs

    entry = CATALOGUE.get(name)
    before = model_folder.read_record(target) if target.exists() else None
    revision = entry.revision if entry else before.revision if before else None
    repo = entry.repo if entry else name
    with model_folder.staged(target, _staging(target), keep=True) as folder:
        commit = model_hub.download(repo, revision, folder, progress, _offline_hint(name))
        model_folder.write_record(folder, "hub", repo, commit)


def _offline_hint(name: str) -> str:
    again = f"Connect to the internet and run `farscribe models add {name}`; it goes on from there."
    starter = model_starter.STARTERS.get(name)
    if starter:
        return f"{again} Or run `pip install {' '.join(starter.requirements)}`."
    return f"{again} Or give the path of a model folder."


def _listed(folder: Path) -> Listed:
    name = folder.name.replace("--", "/", 1)
    try:
        model_folder.check(folder, name)
        record = model_folder.read_record(folder)
    except KnownError as error:
        return Listed(name, "damaged", 0, "", str(folder), str(error))
    size = (folder / model_folder.WEIGHTS).stat().st_size
    return Listed(name, "ready", size, record.repo if record else "", str(folder))


def _offered(name: str) -> Listed:
    entry = CATALOGUE[name]
    if model_starter.installed(name):
        return Listed(name, "starter", 0, model_starter.STARTERS[name].requirements[0])
    return Listed(name, "hub", entry.size_bytes, entry.repo)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        _run(options.verb, getattr(options, "name", ""), options.json)
    except KnownError as error:
        if options.json:
            body = {"code": error.code.value, "message": error.message, "hint": error.hint}
            print(json.dumps({"error": body}))
        else:
            print(error, file=sys.stderr)
        return error.code.exit_code
    except KeyboardInterrupt:
        return ExitCode.CANCELLED
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="models", description="The models on this computer.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    helps = {
        "list": "models that are here, and names that can be added",
        "add": "bring a model here: a name, a hub id (owner/name) or a folder",
        "remove": "delete a model and any partial download of it",
        "verify": "read every file of a model and compare its sha256",
    }
    for verb, words in helps.items():
        sub = verbs.add_parser(verb, help=words)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if verb != "list":
            sub.add_argument("name", metavar="NAME")
    return parser


def _run(verb: str, name: str, as_json: bool) -> None:
    body: object
    if verb == "list":
        listed = list_models()
        body, text = listed, _table(listed)
    elif verb == "add":
        with progress_bar(name) as progress:
            path = add(name, progress)
        body, text = {"name": name, "path": str(path)}, f"{name} is ready at {path}."
    elif verb == "remove":
        path = remove(name)
        body, text = {"name": name, "path": str(path)}, f"{name} was removed from {path}."
    else:
        record = verify(name)
        body = {"name": name, "record": record}
        text = f"{name} is intact: {len(record.files)} files of {record.repo} {record.revision}."
    print(json.dumps(to_plain(body), indent=2) if as_json else text)


def _table(listed: Sequence[Listed]) -> str:
    rows = [("MODEL", "STATE", "SIZE", "FROM")]
    for model in listed:
        size = f"{model.size_bytes / 1e6:,.0f} MB" if model.size_bytes else "-"
        rows.append((model.name, model.state, size, model.note or model.source))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:>{widths[2]}}  {d}" for a, b, c, d in rows
    )


if __name__ == "__main__":
    sys.exit(main())
