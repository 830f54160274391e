"""A hub on loopback: the part of the Hugging Face hub's HTTP API that downloading a model needs.

Speaks to the real client library. It can cut a file short, hold it, spoil it, and refuse.
"""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LARGE_BYTES = 100_000
"""Files from this size on are announced with a sha256, as those in large-file storage are."""

BLOCK_BYTES = 1 << 16


@dataclass
class Hub:
    """What the hub serves and how it misbehaves.

    Args:
        repos: hub id -> commit -> folder; the last commit is what "main" is.
        cut_at: file name -> bytes after which its connection is cut, once.
        hold_at: file name -> bytes after which it sends no more until `release` is set.
        spoiled: names of files with a wrong byte.
        refuse: hub id -> (status, error code) for all that is asked of it.
        asked: (path, first byte asked for) of every request for a file.
        looked_up: path of every request for a repository.
        held: set when a held file has come to its hold.
    """

    repos: dict[str, dict[str, Path]] = field(default_factory=dict)
    cut_at: dict[str, int] = field(default_factory=dict)
    hold_at: dict[str, int] = field(default_factory=dict)
    spoiled: set[str] = field(default_factory=set)
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)
    looked_up: list[str] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def add(self, repo: str, folder: Path, commit: str = "a" * 40) -> None:
        self.repos.setdefault(repo, {})[commit] = folder

    def starts(self, name: str) -> list[int]:
        """From which byte a file was asked for, request by request."""
        return [start for path, start in self.asked if path.endswith(f"/{name}")]


@contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        hub.release.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        return

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/revision/(.+))?", path):
            self.hub.looked_up.append(path)
            self._info(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(path, found[1], found[2], found[3])
        else:
            self._refuse(404, "EntryNotFound")

    def _folder(self, repo: str, revision: str) -> tuple[str, Path] | None:
        if repo in self.hub.refuse:
            self._refuse(*self.hub.refuse[repo])
            return None
        commits = self.hub.repos.get(repo)
        if not commits:
            self._refuse(401, "RepoNotFound")
            return None
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            self._refuse(404, "RevisionNotFound")
            return None
        return commit, commits[commit]

    def _info(self, repo: str, revision: str) -> None:
        found = self._folder(repo, revision)
        if found is None:
            return
        commit, folder = found
        siblings = [_sibling(path) for path in sorted(folder.iterdir())]
        body = json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode()
        self._head(200, len(body))
        self.wfile.write(body)

    def _file(self, path: str, repo: str, revision: str, name: str) -> None:
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        self.hub.asked.append((path, start))
        found = self._folder(repo, revision)
        if found is None:
            return
        commit, folder = found
        data = bytearray((folder / name).read_bytes())
        if name in self.hub.spoiled:
            data[len(data) // 2] ^= 1
        span = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        self._head(206 if wanted else 200, len(data) - start, {"X-Repo-Commit": commit, **span})
        self._send(name, bytes(data), start)

    def _send(self, name: str, data: bytes, start: int) -> None:
        cut = self.hub.cut_at.pop(name, None)
        hold = self.hub.hold_at.pop(name, None)
        end = min(len(data), *(n for n in (cut, hold) if n is not None), len(data))
        try:
            for at in range(start, end, BLOCK_BYTES):
                self.wfile.write(data[at : min(at + BLOCK_BYTES, end)])
            self.wfile.flush()
            if hold is not None:
                self.hub.held.set()
                self.hub.release.wait()
                self.wfile.write(data[end:])
        except OSError:
            return  # the client was killed, which is what some tests do
        finally:
            self.close_connection = True

    def _refuse(self, status: int, code: str) -> None:
        self._head(status, 0, {"X-Error-Code": code})

    def _head(self, status: int, length: int, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()


def _sibling(path: Path) -> dict[str, object]:
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, object] = {"rfilename": path.name, "size": len(data), "blobId": git}
    if len(data) >= LARGE_BYTES:
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"sha256": sha256, "size": len(data), "pointerSize": 130}
    return entry
