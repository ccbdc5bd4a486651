"""A hub on loopback: the routes by which huggingface_hub makes, reads and writes repositories of models."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

#: Suffix of the files that go by LFS, as .gitattributes of a new repository says.
LARGE = ".safetensors"


@dataclass
class Repository:
    """Commits, each the files that it has, and the branches and pull requests."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: dict[str, bytes], ref: str = "main", message: str = "") -> str:
        content = json.dumps(
            [len(self.commits), {name: hashlib.sha1(data).hexdigest() for name, data in files.items()}]
        )
        commit = hashlib.sha1(content.encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[ref] = commit
        self.messages.append(message)
        return commit

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]]


class FakeHub:
    """The state of a hub.

    Attributes:
        url: its address.
        repositories: name -> repository.
        owners: token -> the user who may write to repositories of that name.
        large: what LFS holds, by SHA-256.
        asked: names of the files that were downloaded.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, Repository] = {}
        self.owners: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.asked: list[str] = []

    def add(self, name: str, files: dict[str, bytes] | None = None, **options: Any) -> Repository:
        repository = self.repositories[name] = Repository(**options)
        repository.commit({".gitattributes": f"*{LARGE} filter=lfs\n".encode(), **(files or {})}, message="initial")
        return repository

    def add_folder(self, name: str, folder: Path) -> Repository:
        files = (file for file in folder.rglob("*") if file.is_file())
        return self.add(name, {str(file.relative_to(folder)): file.read_bytes() for file in files})


@contextmanager
def serving(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve the hub on loopback while the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Served", (_Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Refused(Exception):
    """Ends a request with a status and the code by which huggingface_hub tells errors apart."""


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.handle_request()

    def do_GET(self) -> None:
        self.handle_request()

    def do_POST(self) -> None:
        self.handle_request()

    def do_PUT(self) -> None:
        self.handle_request()

    def handle_request(self) -> None:
        path = self.path.partition("?")[0].lstrip("/")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.answer(*self.route(path))
        except _Refused as refused:
            status, code = refused.args
            self.answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": "no\nentry"})

    def route(self, path: str) -> tuple[int, bytes, dict[str, str]]:
        if path == "api/repos/create":
            return self.create(json.loads(self.body))
        if path == "api/validate-yaml":
            head = json.loads(self.body)["content"].split("---\n")
            return (200, b"{}", {}) if len(head) > 2 else (400, b'{"errors": [{"message": "no metadata"}]}', {})
        if path.startswith("lfs/"):
            return self.stored(path.removeprefix("lfs/"))
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.batch(path.removesuffix(".git/info/lfs/objects/batch"))
        if path.startswith("api/models/"):
            owner, name, *rest = path.removeprefix("api/models/").split("/")
            kind, revision = rest[0] if rest else "revision", unquote(rest[1] if len(rest) > 1 else "main")
            repository = self.repository(f"{owner}/{name}")
            return getattr(self, f"api_{kind}")(f"{owner}/{name}", repository, revision)
        name, _, rest = path.partition("/resolve/")
        revision, _, file = rest.partition("/")
        return self.resolve(self.repository(name), unquote(revision), unquote(file))

    @property
    def user(self) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        return self.hub.owners.get(token)

    def repository(self, name: str, write: bool = False) -> Repository:
        repository = self.hub.repositories.get(name)
        may_write = self.user == name.partition("/")[0]
        if repository is None or (repository.private and not may_write):
            raise _Refused(401, "RepoNotFound")
        if repository.gated:
            raise _Refused(403, "GatedRepo")
        if write and not may_write:
            raise _Refused(403, "Forbidden")
        return repository

    def files_of(self, repository: Repository, revision: str) -> tuple[str, dict[str, bytes]]:
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            raise _Refused(404, "RevisionNotFound")
        return commit, repository.commits[commit]

    def create(self, asked: dict[str, Any]) -> tuple[int, bytes, dict[str, str]]:
        if self.user is None:
            raise _Refused(401, "Unauthorized")
        owner = asked.get("organization") or self.user
        name = f"{owner}/{asked['name']}"
        if owner != self.user:
            raise _Refused(403, "Forbidden")
        there = name in self.hub.repositories
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        if not there:
            self.hub.add(name, private=private)
        return self.json({"url": f"{self.hub.url}/{name}", "name": name, "id": name}, 409 if there else 200)

    def api_revision(self, name: str, repository: Repository, revision: str) -> tuple[int, bytes, dict[str, str]]:
        commit, files = self.files_of(repository, revision)
        siblings = [{"rfilename": file} for file in files]
        return self.json({"id": name, "modelId": name, "sha": commit, "siblings": siblings})

    def api_tree(self, name: str, repository: Repository, revision: str) -> tuple[int, bytes, dict[str, str]]:
        _, files = self.files_of(repository, revision)
        return self.json(
            [
                {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for file, data in files.items()
            ]
        )

    def api_branch(self, name: str, repository: Repository, revision: str) -> tuple[int, bytes, dict[str, str]]:
        self.repository(name, write=True)
        if revision in repository.refs:
            raise _Refused(409, "Conflict")
        repository.refs[revision] = repository.refs["main"]
        return self.json({})

    def api_preupload(self, name: str, repository: Repository, revision: str) -> tuple[int, bytes, dict[str, str]]:
        self.writable(name)
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
            }
            for file in json.loads(self.body)["files"]
        ]
        return self.json({"files": files})

    def api_commit(self, name: str, repository: Repository, revision: str) -> tuple[int, bytes, dict[str, str]]:
        self.writable(name)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        commit, files = self.files_of(repository, revision)
        if header["value"].get("parentCommit", commit) != commit:
            raise _Refused(412, "PreconditionFailed")
        files = dict(files)
        for operation in operations:
            value = operation["value"]
            large = operation["key"] == "lfsFile"
            files[value["path"]] = self.hub.large[value["oid"]] if large else base64.b64decode(value["content"])
        ref = f"refs/pr/{len(repository.refs)}" if self.for_review else revision
        oid = repository.commit(files, ref, header["value"]["summary"])
        answer = {"commitUrl": f"{self.hub.url}/{name}/commit/{oid}", "commitOid": oid}
        review = {"pullRequestUrl": f"{self.hub.url}/{name}/discussions/1"} if self.for_review else {}
        return self.json(answer | review)

    @property
    def for_review(self) -> bool:
        return "create_pr=1" in self.path

    def writable(self, name: str) -> None:
        """Answer a commit: any user that is logged in may open a pull request, only the owner may commit."""
        if self.for_review and self.user is None:
            raise _Refused(403, "Forbidden")
        self.repository(name, write=not self.for_review)

    def batch(self, name: str) -> tuple[int, bytes, dict[str, str]]:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}
            for wanted in json.loads(self.body)["objects"]
        ]
        return self.json({"transfer": "basic", "objects": objects})

    def stored(self, oid: str) -> tuple[int, bytes, dict[str, str]]:
        if self.command == "PUT":
            assert hashlib.sha256(self.body).hexdigest() == oid
            self.hub.large[oid] = self.body
            return 200, b"", {}
        return 200, self.hub.large[oid], {"ETag": f'"{oid}"'}

    def resolve(self, repository: Repository, revision: str, file: str) -> tuple[int, bytes, dict[str, str]]:
        commit, files = self.files_of(repository, revision)
        if file not in files:
            raise _Refused(404, "EntryNotFound")
        if self.command == "GET":
            self.hub.asked.append(file)
        data, headers = files[file], {"X-Repo-Commit": commit}
        oid = hashlib.sha256(data).hexdigest()
        if oid not in self.hub.large:
            return 200, data, {**headers, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        linked = {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(data)), "ETag": f'"{oid}"'}
        # The content lies on another host, as a client can tell by its name.
        elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
        return 302, b"", {**headers, **linked, "Location": f"{elsewhere}/lfs/{oid}"}

    def json(self, value: Any, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
        return status, json.dumps(value).encode(), {"Content-Type": "application/json"}

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value.replace("\n", " "))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None: ...
