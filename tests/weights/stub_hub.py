"""A hub on loopback: repositories in memory, as far as huggingface_hub asks for them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class StubHub:
    """Files by repository and name, and the requests that came."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []
        self.made: list[dict] = []
        self.token = ""


def handler(hub: StubHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def say(self, value: object) -> None:
            self.answer(200, json.dumps(value).encode(), Content_Type="application/json")

        def take(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def do_GET(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path.split("?")[0])
            if match is None:
                self.answer(404, X_Error_Code="RepoNotFound")
                return
            repository, revision, name = match.groups()
            if repository in hub.gated:
                self.answer(403, X_Error_Code="GatedRepo")
            elif repository not in hub.files:
                self.answer(401, X_Error_Code="RepoNotFound")
            elif revision not in ("main", "v1", COMMIT):
                self.answer(404, X_Error_Code="RevisionNotFound")
            elif name not in hub.files[repository]:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            else:
                data = hub.files[repository][name]
                etag = f'"{hashlib.sha256(data).hexdigest()}"'
                self.answer(200, data, ETag=etag, X_Repo_Commit=COMMIT, Content_Length=str(len(data)))

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            hub.token = self.headers.get("Authorization", "")
            body = self.take()
            commit = re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)/commit/main", self.path.split("?")[0])
            if hub.token != "Bearer hf_writes":
                self.answer(401, b'{"error": "Invalid username or password."}')
            elif self.path == "/api/repos/create":
                hub.made.append(json.loads(body))
                self.say({"url": f"http://{self.headers['Host']}/owner/name", "name": "owner/name"})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                plain = {"uploadMode": "regular", "shouldIgnore": False}
                self.say({"files": [{"path": file["path"], **plain} for file in files]})
            elif commit is not None:
                taken = hub.files.setdefault(commit[1], {})
                for line in body.splitlines():
                    entry = json.loads(line)
                    if entry["key"] == "file":
                        taken[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
                place = f"http://{self.headers['Host']}/{commit[1]}/commit/{COMMIT}"
                self.say({"success": True, "commitOid": COMMIT, "commitUrl": place})
            else:
                self.say({})

    return Handler


@contextmanager
def serve(hub: StubHub) -> Iterator[str]:
    """Serve on a free port; yield the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
