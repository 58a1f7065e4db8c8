"""A stand-in for the Hugging Face Hub on the loopback: repositories in memory, the Hub's addresses.

It answers what ``huggingface_hub`` asks when a folder is uploaded in one commit and when a snapshot
is downloaded. Every file is a plain git blob.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

TOKEN = "hf_of_the_tests"
"""The only token that may write."""


class Hub:
    """The repositories of a stand-in, and the requests that it got."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        """Repository -> path -> content."""
        self.messages: list[str] = []
        """Subjects of the commits."""
        self.requests: list[str] = []
        """Method and path of every request."""
        self.status: int | None = None
        """Answer to every request, in place of the right one."""
        self.gated: set[str] = set()
        """Repositories whose files nobody may read."""
        self.address = ""

    def sha(self, repo: str) -> str:
        """Commit of the repository's present content."""
        content = b"".join(k.encode() + v for k, v in sorted(self.files[repo].items()))
        return hashlib.sha1(content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def answer(self, status: int, body: Any = b"", **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def refused(self, repo: str, revision: str | None) -> bool:
            """Whether a repository or revision is not there, which is then said."""
            if repo not in hub.files:
                self.answer(401, {"error": "no"}, X_Error_Code="RepoNotFound")
            elif revision not in (None, "main", hub.sha(repo)):
                self.answer(404, {"error": "no"}, X_Error_Code="RevisionNotFound")
            else:
                return False
            return True

        def handle_one(self, body: bytes) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append(f"{self.command} {path}")
            if hub.status is not None:
                return self.answer(hub.status, {"error": "out of order"})
            writes = self.command == "POST" and path != "/api/validate-yaml"
            if writes and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.answer(403, {"error": "not yours"})
            if path == "/api/validate-yaml":
                return self.answer(200, {"warnings": [], "errors": []})
            if path == "/api/repos/create":
                asked = json.loads(body)
                repo = f"{asked['organization']}/{asked['name']}"
                hub.files.setdefault(repo, {})
                return self.answer(200, {"url": f"{hub.address}/{repo}"})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(\w+)", path):
                names = [file["path"] for file in json.loads(body)["files"]]
                modes = [
                    {"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names
                ]
                return self.answer(200, {"files": modes})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(\w+)", path):
                return self.commit(match[1], body)
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(\w+)", path):
                if not self.refused(match[1], match[2]):
                    files = hub.files[match[1]].items()
                    self.answer(200, [
                        {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
                        for name, content in files
                    ])  # fmt: skip
                return None
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                if not self.refused(match[1], match[2]):
                    files = [{"rfilename": name} for name in hub.files[match[1]]]
                    facts = {"id": match[1], "sha": hub.sha(match[1]), "siblings": files}
                    self.answer(200, facts)
                return None
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.file(*match.groups())
            return self.answer(404, {"error": "no such address"})

        def commit(self, repo: str, body: bytes) -> None:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "header":
                    hub.messages.append(entry["value"]["summary"])
                else:
                    file = entry["value"]
                    hub.files[repo][file["path"]] = base64.b64decode(file["content"])
            oid = hub.sha(repo)
            address = f"{hub.address}/{repo}/commit/{oid}"
            self.answer(200, {"success": True, "commitOid": oid, "commitUrl": address})

        def file(self, repo: str, revision: str, name: str) -> None:
            if self.refused(repo, revision):
                return
            content = hub.files[repo].get(name)
            if repo in hub.gated:
                self.answer(403, {"error": "no"}, X_Error_Code="GatedRepo")
            elif content is None:
                self.answer(404, {"error": "no"}, X_Error_Code="EntryNotFound")
            else:
                self.answer(200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=hub.sha(repo))

        def do_POST(self) -> None:
            if "chunked" in self.headers.get("Transfer-Encoding", ""):
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
            else:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.handle_one(body)

        def do_GET(self) -> None:
            self.handle_one(b"")

        do_HEAD = do_GET  # noqa: N815

    return Handler


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextmanager
def stand_in(patch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A running stand-in that ``huggingface_hub`` takes for the Hub, with an empty cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    patch.setattr(constants, "ENDPOINT", hub.address)
    template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
