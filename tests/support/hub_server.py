"""A stand-in of the Hugging Face hub on loopback: repositories are local folders, and every file sent is counted."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

PATHS = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<revision>[^/?]+))?"
    r"|/(?P<repo>[^/]+/[^/]+)/resolve/(?P<commit>[^/]+)/(?P<file>.+)"
)


def commit_of(name: str, branch: str) -> str:
    return hashlib.sha1(f"{name} {branch}".encode()).hexdigest()


@dataclass
class StandIn:
    """models: {(repository, branch): folder}. sent: the files that were sent, in order; asked: all requests."""

    models: dict[tuple[str, str], Path] = field(default_factory=dict)
    data_sets: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def add(self, name: str, folder: Path, branch: str = "main") -> str:
        self.models[name, branch] = folder
        return name

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        """(commit, folder) of a branch or commit."""
        for (repo, branch), folder in self.models.items():
            if repo == name and revision in (branch, commit_of(repo, branch)):
                return commit_of(repo, branch), folder
        return None


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: StandIn

    def log_message(self, *args) -> None:
        pass

    def reply(self, status: int, content: bytes = b"{}", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def do_GET(self) -> None:
        hub, match = self.hub, PATHS.fullmatch(self.path.partition("?")[0])
        hub.asked.append(f"{self.command} {self.path}")
        if match is None:
            self.reply(404)
        elif match["kind"] == "datasets":
            known = match["name"] in hub.data_sets
            self.reply(200, json.dumps({"id": match["name"]}).encode()) if known else self.gone()
        else:
            name, revision = match["name"] or match["repo"], match["revision"] or match["commit"] or "main"
            if name not in {repo for repo, _ in hub.models}:
                self.gone()
            elif (place := hub.find(name, revision)) is None:
                self.reply(404, X_Error_Code="RevisionNotFound")
            elif match["file"] is None:
                files = {str(p.relative_to(place[1])): p for p in place[1].rglob("*") if p.is_file()}
                tree = [{"type": "file", "path": x, "size": p.stat().st_size, "oid": x} for x, p in files.items()]
                about = {"id": name, "sha": place[0], "siblings": [{"rfilename": x} for x in files]}
                self.reply(200, json.dumps(tree if match["what"] == "tree" else about).encode())
            elif name in hub.gated:
                self.reply(403, X_Error_Code="GatedRepo")
            else:
                self.send_file(place[0], place[1] / match["file"])

    do_HEAD = do_GET

    def gone(self) -> None:
        self.reply(404, X_Error_Code="RepoNotFound")

    def send_file(self, commit: str, file: Path) -> None:
        if not file.is_file():
            self.reply(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            return
        if self.command == "GET":
            self.hub.sent.append(file.name)
        content = file.read_bytes()
        self.reply(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=commit)


def point_to(port: int, patch: pytest.MonkeyPatch) -> None:
    """Have huggingface_hub ask a port of this machine."""
    from huggingface_hub import constants

    endpoint = f"http://127.0.0.1:{port}"
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@contextmanager
def stand_in(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub that huggingface_hub asks, with an empty cache, until the block ends."""
    from huggingface_hub import constants

    hub = StandIn()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_to(server.server_address[1], patch)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
