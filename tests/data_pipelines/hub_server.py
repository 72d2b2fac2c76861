"""A small Hugging Face Hub on 127.0.0.1: datasets with branches, pages of file names, redirects to a CDN, ranges.

It can be told to ask for a login, to break a download off, and to say what it was asked for.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT, OLD_COMMIT = "c" * 40, "0" * 40
PAGE = 2  # names on a page


class Hub(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> commit -> file -> content
        self.gated: set[str] = set()
        self.asked: list[str] = []  # "GET /path" of every request
        self.cut = 0  # a download ends after so many bytes
        self.then = 206  # how the rest is answered: with it, or with an error
        self.stalls = threading.Event()  # while it is set, a download that was cut hangs

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def add(self, repo: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        self.repos.setdefault(repo, {})[commit] = files

    def downloads(self) -> list[str]:
        """The files that were sent, whole or in part, the cards left out."""
        return [line.split("/cdn/")[1] for line in self.asked if line.startswith("GET /cdn/")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self) -> None:
        address = urlsplit(self.path)
        if address.path.startswith(("/api/datasets/", "/datasets/", "/cdn/")):  # a client may ask for other things
            self.server.asked.append(f"{self.command} {unquote(address.path)}")
        match unquote(address.path).strip("/").split("/"):
            case ["api", "datasets", owner, name, "revision", revision]:
                found = self.find(f"{owner}/{name}", revision)
                if found:
                    commit, files = found
                    siblings = [{"rfilename": file} for file in files]
                    self.send(200, json.dumps({"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}).encode())
            case ["api", "datasets", owner, name, "tree", revision, *_]:
                found = self.find(f"{owner}/{name}", revision)
                if found:
                    self.send_names(found[1], int(parse_qs(address.query).get("cursor", ["0"])[0]))
            case ["datasets", owner, name, "resolve", revision, *file]:
                found = self.find(f"{owner}/{name}", revision)
                if found:
                    self.send_file(f"{owner}/{name}", found[0], found[1], "/".join(file))
            case ["cdn", owner, name, commit, *file]:
                self.send_range(self.server.repos[f"{owner}/{name}"][commit]["/".join(file)])
            case _:
                self.send(404, b"", {"X-Error-Message": f"no such address {self.path}"})

    def find(self, repo: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        commits = self.server.repos.get(repo)
        if not commits:
            self.send(401, b"", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository Not Found"})
            return None
        commit = COMMIT if revision == "main" else revision
        if commit not in commits:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return None
        return commit, commits[commit]

    def send_names(self, files: dict[str, bytes], start: int) -> None:
        names = sorted(files)
        entries = []
        for name in names[start : start + PAGE]:
            entry = {
                "type": "file",
                "path": name,
                "size": len(files[name]),
                "oid": hashlib.sha1(files[name]).hexdigest(),
            }
            if is_large(name):
                oid = hashlib.sha256(files[name]).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(files[name]), "pointerSize": 130}
            entries.append(entry)
        more = {}
        if start + PAGE < len(names):
            path = urlsplit(self.path).path
            more["Link"] = f'<{self.server.url}{path}?recursive=True&cursor={start + PAGE}>; rel="next"'
        self.send(200, json.dumps(entries).encode(), more)

    def send_file(self, repo: str, commit: str, files: dict[str, bytes], name: str) -> None:
        if name not in files:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
        elif not is_large(name):
            etag = f'"{hashlib.sha1(files[name]).hexdigest()}"'
            self.send(200, files[name], {"ETag": etag, "X-Repo-Commit": commit})
        elif repo in self.server.gated and self.headers.get("Authorization") != "Bearer hf_good":
            message = f"Access to dataset {repo} is restricted. You must have access to it and be authenticated."
            self.send(401, b"", {"X-Error-Code": "GatedRepo", "X-Error-Message": message})
        else:
            # By another name of this machine: a client follows redirects within a host before it looks at the answer.
            cdn = f"http://localhost:{self.server.server_port}/cdn"
            more = {"X-Repo-Commit": commit, "Location": f"{cdn}/{repo}/{commit}/{name}"}
            more["X-Linked-Etag"] = f'"{hashlib.sha256(files[name]).hexdigest()}"'
            more["X-Linked-Size"] = str(len(files[name]))
            self.send(302, b"", more)

    def send_range(self, content: bytes) -> None:
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        if start and self.server.then != 206:
            self.send(self.server.then, b"")
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        cut = self.server.cut if not start and len(content) > self.server.cut else 0
        self.wfile.write(content[start : cut or None])
        self.wfile.flush()
        if cut:
            while self.server.stalls.is_set():
                threading.Event().wait(0.05)
            self.close_connection = True

    def send(self, status: int, body: bytes, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def is_large(name: str) -> bool:
    return not name.endswith(".md")


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.stalls.clear()
        hub.shutdown()
        hub.server_close()
