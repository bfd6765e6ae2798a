"""A Hub on this machine's loopback: it serves one commit of a repository to the real client, and fails on demand."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = "stabilityai/stable-video-diffusion-img2vid-xt"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
        files: the repository, path -> content.
        asked: requests so far, as ``GET path``; a part of a file has its range behind.
        tokens: what each request said of itself to be let in, None if nothing.
        fault: takes a request, and returns whether it answered it in a way of its own.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked, self.tokens = files, list[str](), list[str | None]()
        self.fault: Callable[[Handler], bool] = lambda request: False
        self.headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def got(self, path: str) -> list[str]:
        """Requests for the bodies of files whose path ends so."""
        return [line for line in self.asked if line.startswith("GET") and line.split()[1].endswith(path)]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is no error here."""


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        part = self.headers.get("Range", "")
        self.server.asked.append(f"{self.command} {self.path} {part}".strip())
        self.server.tokens.append(self.headers.get("Authorization"))
        if self.server.fault(self):
            return
        api = f"/api/models/{REPOSITORY}"
        if self.path.startswith(f"{api}/revision/"):
            revision = self.path.removeprefix(f"{api}/revision/")
            if revision not in ("main", "v1", COMMIT):
                self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            else:
                self.answer_json({"id": REPOSITORY, "sha": COMMIT, "siblings": []})
        elif self.path.startswith(f"{api}/tree/{COMMIT}"):
            self.answer_json([entry(path, content) for path, content in self.server.files.items()])
        elif self.path.startswith(f"/{REPOSITORY}/resolve/{COMMIT}/"):
            self.answer_file(self.path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/"))
        else:
            self.answer(404, headers={"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET

    def answer_file(self, path: str, body: bytes | None = None) -> None:
        """A file of the repository, its content replaced by ``body`` if given."""
        content = self.server.files[path]
        sent = content if body is None else body
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(path, content)}"', "Accept-Ranges": "bytes"}
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(sent) - 1}/{len(sent)}"
        self.answer(206 if start else 200, sent[start:], headers)

    def answer_json(self, data: object) -> None:
        self.answer(200, json.dumps(data).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def cut(self, path: str, after: int) -> None:
        """The first ``after`` bytes of a file that says it is whole, then nothing more."""
        content = self.server.files[path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(content[:after])
        self.wfile.flush()
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


def etag(path: str, content: bytes) -> str:
    """The checksum under which the Hub has a file: SHA-256 for weights, git's of a blob for texts."""
    if path.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def entry(path: str, content: bytes) -> dict[str, object]:
    """A file in the listing of a repository."""
    entry: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
    if path.endswith(".safetensors"):
        entry["lfs"] = {"oid": etag(path, content), "size": len(content), "pointerSize": 130}
    return entry


def repository(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def serving(files: dict[str, bytes]) -> Iterator[Hub]:
    """A running server of these files."""
    hub = Hub(files)
    threading.Thread(target=hub.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
