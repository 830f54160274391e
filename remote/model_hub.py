"""Model files from the Hugging Face hub: only those needed, resumable, every sum checked.

huggingface_hub finds the files, authenticates and speaks HTTP. Its own download does not go on
after the process has ended (https://github.com/huggingface/huggingface_hub/issues/4196), so the
partial files are kept here; when it does again, snapshot_download can take the place of _fetch.
It must not know the models by name.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from huggingface_hub import HfApi, hf_hub_url, try_to_load_from_cache
from huggingface_hub import errors as hub_errors
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from huggingface_hub.utils.sha import git_hash

from remote.model_folder import (
    CONFIG,
    GENERATION_CONFIG,
    INDEXES,
    TOKENIZER,
    WEIGHTS,
    join_split_weights,
    require_space,
    sha256,
    split_weights,
)
from remote.model_settings import complete
from remote.protocol import ErrorCode, KnownError

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

API_TIMEOUT_S = 20.0
_SETTINGS = (
    CONFIG,
    GENERATION_CONFIG,
    TOKENIZER,
    "preprocessor_config.json",
    "tokenizer_config.json",
)
_OLD_TOKENIZER = ("vocab.json", "merges.txt", "added_tokens.json")
_COMMIT = ".commit"
_PARTIAL = ".incomplete"

# The class that every transport error of the hub's HTTP library has above it. That library
# changed its name between versions of huggingface_hub; this alias of theirs did not.
_HTTPError: type[Exception] = hub_errors.HTTPError  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: sha256 for large ones, the git blob's sha1 for small ones."""

    name: str
    size_bytes: int
    sha256: str
    git_sha1: str

    def matches(self, path: Path) -> bool:
        """Whether a local file is this one."""
        if path.stat().st_size != self.size_bytes:
            return False
        if self.sha256:
            return sha256(path) == self.sha256
        return not self.git_sha1 or git_hash(path.read_bytes()) == self.git_sha1


def download(
    repo: str, revision: str | None, folder: Path, progress: Progress | None, hint: str
) -> str:
    """The commit of the model that now lies complete in the folder.

    A folder with a partial download of the same commit is gone on with; one of another commit is
    emptied first. After a failure the partial files stay.

    Args:
        repo: hub id, "owner/name".
        revision: commit, tag or branch; None for what the repository serves now.
        folder: where the files go; exists.
        progress: told about every block of the weights that arrives.
        hint: the user's next step where the hub cannot be reached.

    Raises:
        KnownError: OFFLINE, MODEL_MISSING (no such repository or revision, or no access),
            MODEL_UNSUPPORTED (no safetensors, or no Whisper), MODEL_INCOMPLETE, MODEL_CHECKSUM,
            DISK_FULL.
    """
    with _told(repo, hint):
        work = _look_up(repo, revision, folder)
        _start_or_go_on(work)
        index = work.index()
        work.fetch([*work.settings(), *([work.files[index]] if index else [])], None)
        if index:
            _fetch_split(work, index, progress)
        else:
            work.fetch([work.files[WEIGHTS]], progress)
    complete(folder)
    (folder / _COMMIT).unlink()
    return work.commit


@dataclass(frozen=True, slots=True)
class _Download:
    """One commit of one repository on its way into a folder."""

    repo: str
    commit: str
    files: Mapping[str, RemoteFile]
    folder: Path

    def settings(self) -> list[RemoteFile]:
        """The small files that are wanted."""
        names = [*_SETTINGS, *(() if TOKENIZER in self.files else _OLD_TOKENIZER)]
        return [self.files[name] for name in names if name in self.files]

    def index(self) -> str:
        """The name of the index where the weights are split, empty where they are one file."""
        if WEIGHTS in self.files:
            return ""
        for index in INDEXES:
            if index in self.files:
                return index
        raise KnownError(
            ErrorCode.MODEL_UNSUPPORTED,
            f"{self.repo} has no safetensors weights; other formats can run code, so are not read.",
            "Convert it once with transformers (model.save_pretrained) and give that folder.",
        )

    def fetch(self, files: Sequence[RemoteFile], progress: Progress | None) -> None:
        """All of the files, whole and checked, those included that were there already."""
        total = sum(file.size_bytes for file in files)
        have = sum(path.stat().st_size for path in self.folder.iterdir())
        require_space(self.folder, max(0, total - have))
        done = 0
        for file in files:
            if not (self.folder / file.name).is_file():
                self._fetch_one(file, _Bar(done, total, progress))
            done += file.size_bytes
            if progress:
                progress(done, total)

    def _fetch_one(self, file: RemoteFile, bar: "_Bar") -> None:
        partial = self.folder / f"{file.name}{_PARTIAL}"
        cached = try_to_load_from_cache(self.repo, file.name, revision=self.commit)
        if isinstance(cached, str):
            shutil.copyfile(cached, partial)
        else:
            _go_on(hf_hub_url(self.repo, file.name, revision=self.commit), partial, file, bar)
        if not file.matches(partial):
            partial.unlink()
            raise KnownError(
                ErrorCode.MODEL_CHECKSUM,
                f"{file.name} of {self.repo} did not arrive as the hub has it: its sum differs.",
                "Run it again: only this file is downloaded again.",
            )
        partial.rename(self.folder / file.name)


def _look_up(repo: str, revision: str | None, folder: Path) -> _Download:
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=API_TIMEOUT_S)
    files = {
        sibling.rfilename: RemoteFile(
            sibling.rfilename,
            sibling.size or 0,
            sibling.lfs.sha256 if sibling.lfs else "",
            "" if sibling.lfs else sibling.blob_id or "",
        )
        for sibling in info.siblings or ()
    }
    return _Download(repo, str(info.sha), files, folder)


def _start_or_go_on(work: _Download) -> None:
    mark = work.folder / _COMMIT
    if not mark.is_file() or mark.read_text() != work.commit:
        shutil.rmtree(work.folder)
        work.folder.mkdir()
        mark.write_text(work.commit)


def _fetch_split(work: _Download, index: str, progress: Progress | None) -> None:
    names = split_weights(work.folder, index)
    missing = [name for name in names if name not in work.files]
    if missing:
        raise KnownError(
            ErrorCode.MODEL_INCOMPLETE,
            f"{work.repo} lacks {', '.join(missing)}, which {index} names.",
            "Choose another model or revision.",
        )
    parts = [work.files[name] for name in names]
    require_space(work.folder, sum(part.size_bytes for part in parts))
    work.fetch(parts, progress)
    join_split_weights(work.folder)


def _go_on(url: str, partial: Path, file: RemoteFile, bar: "_Bar") -> None:
    """The rest of the file behind what is there of it."""
    have = partial.stat().st_size if partial.is_file() else 0
    if have > file.size_bytes:
        partial.unlink()
        have = 0
    bar.update(have)
    with partial.open("ab") as out:
        http_get(
            url,
            out,
            resume_size=have,
            # Compressed, a part of the file could not be asked for.
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            expected_size=file.size_bytes,
            displayed_filename=file.name,
            tqdm_class=cast(Any, bar),
        )


class _Bar:
    """Stands where huggingface_hub wants a tqdm class, and hands the bytes on as they come."""

    def __init__(self, before: int, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = before, total, progress

    def __call__(self, **_ignored: object) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_ignored: object) -> None:
        return None

    def update(self, count: float | None = 1) -> None:
        self._done += int(count or 0)
        if self._progress:
            self._progress(self._done, self._total)


@contextmanager
def _told(repo: str, hint: str) -> Iterator[None]:
    """The block, with what the hub and the network say turned into known errors."""
    try:
        yield
    except hub_errors.GatedRepoError as error:
        raise KnownError(
            ErrorCode.MODEL_MISSING,
            f"{repo} asks its users to accept terms first.",
            f"Accept them at https://huggingface.co/{repo}, then run `hf auth login`.",
        ) from error
    except (hub_errors.RepositoryNotFoundError, hub_errors.HFValidationError) as error:
        raise KnownError(
            ErrorCode.MODEL_MISSING,
            f"The hub has no model {repo}, or it is private.",
            "Check the name; for a private one run `hf auth login`.",
        ) from error
    except (hub_errors.RevisionNotFoundError, hub_errors.EntryNotFoundError) as error:
        raise KnownError(
            ErrorCode.MODEL_MISSING,
            f"The hub does not have this revision of {repo} any more.",
            "Remove the model and add it again to take the present one.",
        ) from error
    except hub_errors.OfflineModeIsEnabled as error:
        raise KnownError(
            ErrorCode.OFFLINE, f"{repo} is not here, and HF_HUB_OFFLINE forbids to fetch it.", hint
        ) from error
    except hub_errors.HfHubHTTPError as error:
        status = error.response.status_code
        raise KnownError(
            ErrorCode.OFFLINE, f"The hub answered {status} when asked for {repo}.", hint
        ) from error
    except _HTTPError as error:
        raise KnownError(
            ErrorCode.OFFLINE, f"The hub could not be reached to fetch {repo}.", hint
        ) from error
    except OSError as error:
        if error.errno is not None:  # a file's trouble, not the network's
            raise
        raise KnownError(
            ErrorCode.OFFLINE, f"The connection to the hub ended while fetching {repo}.", hint
        ) from error
