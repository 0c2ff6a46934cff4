"""A stand-in of the Hugging Face hub on loopback: repositories are local folders, and every file sent is counted."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

PATHS = re.compile(
    r"/api/(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+)(/(?P<what>revision|tree)/(?P<revision>[^/?]+))?"
    r"|/(?P<data>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<commit>[^/]+)/(?P<file>.+)"
)
WRITES = re.compile(r"/api/models/(?P<name>[^/]+/[^/]+)/(?P<what>preupload|commit)/(?P<branch>[^/]+)")
LFS = re.compile(r"/(?P<name>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
LARGE = (".safetensors", ".png")  # suffixes of what the hub keeps by LFS


def commit_of(name: str, branch: str) -> str:
    return hashlib.sha1(f"{name} {branch}".encode()).hexdigest()


@dataclass
class StandIn:
    """models: {(repository, branch or commit): folder}; data: of data sets; pushed: where commits are kept. sent: the
    files that were sent, in order; asked: all requests; token: what writing needs."""

    models: dict[tuple[str, str], Path] = field(default_factory=dict)
    data: dict[tuple[str, str], Path] = field(default_factory=dict)
    data_sets: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    sent: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    pushed: Path = Path()
    port: int = 0
    token: str = "hf_stand_in"
    large: dict[str, bytes] = field(default_factory=dict)
    heads: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, name: str, folder: Path, branch: str = "main") -> str:
        self.models[name, branch] = folder
        return name

    def add_data(self, name: str, folder: Path, branch: str = "main") -> str:
        self.data[name, branch] = folder
        self.data_sets.add(name)
        return name

    def find(self, name: str, revision: str, data: bool = False) -> tuple[str, Path] | None:
        """(commit, folder) of a branch or commit."""
        for (repo, branch), folder in (self.data if data else self.models).items():
            commit = self.heads.get((repo, branch)) or commit_of(repo, branch)
            if repo == name and revision in (branch, commit):
                return commit, folder
        return None

    def commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> str:
        """Write the files of a commit beside those of the one before, whose folder stays as it is."""
        before = self.find(name, branch)
        oid = hashlib.sha1(json.dumps([before and before[0], lines]).encode()).hexdigest()
        folder = self.pushed / oid
        shutil.copytree(before[1], folder) if before else folder.mkdir(parents=True)
        for line in lines:
            value = line["value"]
            if line["key"] in ("file", "lfsFile"):
                content = base64.b64decode(value["content"]) if "content" in value else self.large[value["oid"]]
                path = folder / value["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        self.models[name, branch] = self.models[name, oid] = folder
        self.heads[name, branch] = self.heads[name, oid] = oid
        return oid


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
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        hub, match = self.hub, PATHS.fullmatch(self.path.partition("?")[0])
        hub.asked.append(f"{self.command} {self.path}")
        if match is None:
            self.reply(404)
            return
        data = match["kind"] == "datasets" or match["data"] is not None
        name, revision = match["name"] or match["repo"], unquote(match["revision"] or match["commit"] or "main")
        if (
            data
            and match["what"] is None
            and match["file"] is None
            and name in hub.data_sets - {n for n, _ in hub.data}
        ):
            self.reply(200, json.dumps({"id": name}).encode())
        elif name not in {repo for repo, _ in (hub.data if data else hub.models)}:
            self.gone()
        elif (place := hub.find(name, revision, data)) is None:
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

    def do_POST(self) -> None:
        hub, path = self.hub, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {self.path}")
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/validate-yaml":
            self.reply(200)
        elif self.headers.get("Authorization") != f"Bearer {hub.token}":
            self.reply(401)
        elif path == "/api/repos/create":
            asked = json.loads(content)
            name = f"{asked['organization']}/{asked['name']}"
            known = name in {repo for repo, _ in hub.models}
            self.reply(409 if known else 200, json.dumps({"url": f"{self.host()}/{name}"}).encode())
        elif match := LFS.fullmatch(path):
            upload = lambda x: {"upload": {"href": f"{self.host()}/upload/{x['oid']}"}}
            objects = [{**x, "actions": upload(x)} for x in json.loads(content)["objects"]]
            self.reply(200, json.dumps({"transfer": "basic", "objects": objects}).encode())
        elif (match := WRITES.fullmatch(path)) and match["what"] == "preupload":
            mode = lambda name: "lfs" if name.endswith(LARGE) else "regular"
            files = [{"path": x["path"], "uploadMode": mode(x["path"])} for x in json.loads(content)["files"]]
            self.reply(200, json.dumps({"files": [{**x, "shouldIgnore": False} for x in files]}).encode())
        elif match:
            oid = hub.commit(match["name"], unquote(match["branch"]), [*map(json.loads, content.splitlines())])
            url = f"{self.host()}/{match['name']}/commit/{oid}"
            self.reply(200, json.dumps({"commitUrl": url, "commitOid": oid}).encode())
        else:
            self.reply(404)

    def do_PUT(self) -> None:
        content, oid = self.rfile.read(int(self.headers["Content-Length"])), self.path.rpartition("/")[2]
        same = hashlib.sha256(content).hexdigest() == oid
        self.hub.large |= {oid: content} if same else {}
        self.reply(200 if same else 400)

    def host(self) -> str:
        return "http://{}:{}".format(*self.server.server_address[:2])

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
    """Have huggingface_hub ask a port of this machine, and keep large files by LFS: Xet has a server of its own."""
    from huggingface_hub import constants

    endpoint = f"http://127.0.0.1:{port}"
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


@contextmanager
def stand_in(cache: Path, patch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """A hub that huggingface_hub asks, with an empty cache, until the block ends."""
    from huggingface_hub import constants

    hub = StandIn(pushed=cache / "pushed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    hub.port = server.server_address[1]
    point_to(hub.port, patch)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
