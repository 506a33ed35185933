"""A small server on this computer that speaks the Hugging Face hub's protocol.

Every folder OWNER/NAME below its root is a repository with one revision, main. A program that sets
HF_ENDPOINT to the server's address before it imports `transformers` loads from it with the same
code that it would use for huggingface.co.

    GET  /api/models/OWNER/NAME[/revision/main]     what the repository contains, as JSON
    GET  /api/models/OWNER/NAME/tree/main           its files
    HEAD, GET  /OWNER/NAME/resolve/main/FILE        one file; the headers name commit and digest
"""

import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class LocalHub:
    """The server. `address` is its URL; `requests` lists (method, path) in their order."""

    def __init__(self, root: str | Path):
        self.root = Path(root).resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.requests: list[tuple[str, str]] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """The server's URL."""
        return f"http://127.0.0.1:{self.server.server_port}"

    def settings(self, cache: str | Path) -> dict[str, str]:
        """Return the environment variables with which the libraries load from here."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HUB_CACHE": str(Path(cache).resolve()),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
        }

    def close(self) -> None:
        """Stop the server."""
        self.server.shutdown()
        self.server.server_close()

    def repository(self, name: str) -> Path | None:
        """Return the folder of OWNER/NAME, None if there is none below the root."""
        folder = (self.root / name).resolve()
        is_inside = folder.is_relative_to(self.root) and folder != self.root
        return folder if is_inside and folder.is_dir() and name.count("/") == 1 else None


def commit_of(folder: Path) -> str:
    """Return 40 hex digits that change with the repository's files."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in files_of(folder):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def files_of(folder: Path) -> list[Path]:
    """Return the files of a repository."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


class _Handler(BaseHTTPRequestHandler):
    hub: LocalHub

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append((self.command, path))
        if path.startswith("api/models/"):
            owner, _, rest = path.removeprefix("api/models/").partition("/")
            name, _, what = rest.partition("/")
            self.send_description(f"{owner}/{name}", what)
        else:
            name, _, rest = path.partition("/resolve/")
            self.send_file(name, rest.partition("/")[2])

    def send_description(self, name: str, what: str) -> None:
        folder = self.hub.repository(name)
        if folder is None:
            return self.send_missing("RepoNotFound", name)
        files = [path.relative_to(folder).as_posix() for path in files_of(folder)]
        if what.startswith("tree/"):
            sizes = [(file, (folder / file).stat().st_size) for file in files]
            body = [{"type": "file", "path": f, "size": n, "oid": ""} for f, n in sizes]
        else:
            siblings = [{"rfilename": file} for file in files]
            body = {"id": name, "modelId": name, "sha": commit_of(folder), "siblings": siblings}
        self.send_body(json.dumps(body).encode(), {"Content-Type": "application/json"})

    def send_file(self, name: str, file: str) -> None:
        folder = self.hub.repository(name)
        if folder is None:
            return self.send_missing("RepoNotFound", name)
        path = (folder / file).resolve()
        if not (path.is_relative_to(folder) and path.is_file()):
            return self.send_missing("EntryNotFound", f"{name}/{file}")
        body = path.read_bytes()
        digest = hashlib.sha256(body).hexdigest()
        self.send_body(body, {"ETag": f'"{digest}"', "X-Repo-Commit": commit_of(folder)})

    def send_missing(self, code: str, what: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": f"{what} is not here"}
        self.send_body(b"", headers, 404)

    def send_body(self, body: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Write nothing to the terminal."""
