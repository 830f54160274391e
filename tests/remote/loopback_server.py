"""Servers on loopback: one that holds a recording back, one that takes uploads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PATIENCE_S = 20


@dataclass
class Held:
    """A recording of which the end is held back.

    Args:
        url: where it is.
        release: to be set for the rest to follow.
        lapsed: whether the rest followed because nobody released it.
    """

    url: str = ""
    lapsed: bool = False
    release: threading.Event = field(default_factory=threading.Event)


@contextmanager
def held(path: Path, first_bytes: int) -> Iterator[Held]:
    """Serves a file, of which all but the first bytes wait until they are released."""
    hold, content = Held(), path.read_bytes()

    class Handler(_Quiet):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            try:
                self.wfile.write(content[:first_bytes])
                hold.lapsed = not hold.release.wait(PATIENCE_S)
                self.wfile.write(content[first_bytes:])
            except OSError:  # the reader has gone
                self.close_connection = True

    with _serving(Handler) as address:
        hold.url = f"{address}/{path.name}"
        try:
            yield hold
        finally:
            hold.release.set()


@dataclass
class Uploads:
    """What was sent to a server, and what it answers.

    Args:
        url: of the server.
        answers: statuses, one a request, the last for all that follow; 0 hangs up, -1 answers
            with what is no HTTP.
        bodies, paths, types: of the requests: content, path with query, content type.
    """

    url: str = ""
    answers: list[int] = field(default_factory=lambda: [200])
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    types: list[str | None] = field(default_factory=list)


@contextmanager
def uploads(*answers: int) -> Iterator[Uploads]:
    """A server that takes what is PUT to it."""
    taken = Uploads(answers=list(answers))

    class Handler(_Quiet):
        def do_PUT(self) -> None:
            taken.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            taken.paths.append(self.path)
            taken.types.append(self.headers["Content-Type"])
            answer = taken.answers.pop(0) if len(taken.answers) > 1 else taken.answers[0]
            if answer > 0:
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.close_connection = True
            if answer < 0:
                self.wfile.write(b"HELLO?\r\n\r\n")

    with _serving(Handler) as address:
        taken.url = address
        yield taken


class _Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Nothing is printed."""


@contextmanager
def _serving(handler: type[_Quiet]) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
