"""A server that answers as the Hugging Face Hub does, as far as records and small models need it.

Repositories are kept in memory: kind and name -> path -> bytes. What is sent is what `huggingface_hub` sends.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"
Files = dict[str, bytes]


class FakeHub(ThreadingHTTPServer):
    """`repos`: "datasets/owner/name" or "models/owner/name" -> its files. `requests`: what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Files] = {}
        self.private: set[str] = set()
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A running one."""
    server = FakeHub()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *given: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._read()

    def do_GET(self) -> None:
        self._read()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self._path()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._json({"error": "Invalid credentials"}, 401)
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            asked = json.loads(body)
            owner = asked.get("organization") or "me"
            repo = f"{asked.get('type', 'model')}s/{owner}/{asked['name']}"
            known = repo in self.server.repos
            self.server.repos.setdefault(repo, {})
            if asked.get("private") or asked.get("visibility") == "private":
                self.server.private.add(repo)
            self._json({"url": f"{self.server.url}/{repo}", "id": repo}, 409 if known else 200)
        elif found := re.fullmatch(r"/api/((?:dataset|model)s/[^/]+/[^/]+)/(preupload|commit)/[^/]+", path):
            files = self.server.repos[found[1]]
            if found[2] == "preupload":
                asked = json.loads(body)["files"]
                modes = [
                    {"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in asked
                ]
                self._json({"files": modes})
                return
            for line in body.splitlines():
                part = json.loads(line)
                if part["key"] == "file":
                    files[part["value"]["path"]] = base64.b64decode(part["value"]["content"])
            oid = _sha(files)
            url = f"{self.server.url}/{found[1]}/commit/{oid}"
            self._json({"success": True, "commitOid": oid, "commitUrl": url})
        else:
            self._json({"error": "not found"}, 404)

    def _read(self) -> None:
        path = self._path()
        if found := re.fullmatch(r"/api/((?:dataset|model)s/[^/]+/[^/]+)(?:/(revision|tree)/([^/]+))?", path):
            if (files := self._files(found[1], found[3])) is None:
                return
            if found[2] == "tree":
                self._json(
                    [
                        {"type": "file", "path": name, "size": len(data), "oid": name}
                        for name, data in files.items()
                    ]
                )
            else:
                siblings = [{"rfilename": name} for name in files]
                self._json({"id": found[1].partition("/")[2], "sha": _sha(files), "siblings": siblings})
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            files = self._files(f"{found[1] or 'models/'}{found[2]}", found[3])
            if files is None:
                return
            if (data := files.get(unquote(found[4]))) is None:
                self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
                return
            headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": _sha(files)}
            self._send(data, 200, {"Content-Type": "application/octet-stream", **headers})
        else:
            self._json({"error": "not found"}, 404)

    def _files(self, repo: str, revision: str | None) -> Files | None:
        files = self.server.repos.get(repo)
        hidden = repo in self.server.private and self.headers.get("Authorization") != f"Bearer {TOKEN}"
        if files is None or hidden:
            self._json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return None
        if revision not in (None, "main", _sha(files)):
            self._json({"error": "Invalid rev id"}, 404, {"X-Error-Code": "RevisionNotFound"})
            return None
        return files

    def _path(self) -> str:
        self.server.requests.append(f"{self.command} {self.path}")
        return urlsplit(self.path).path

    def _json(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(
            json.dumps(value).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def _send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _sha(files: Files) -> str:
    return hashlib.sha1(b"".join(name.encode() + data for name, data in sorted(files.items()))).hexdigest()
