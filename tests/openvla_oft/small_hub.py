"""A hub of one repository on this machine: the few answers that huggingface_hub asks for."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(folder: Path, repository: str, asked: list[str]) -> Iterator[str]:
    """Its address; what is asked for is written down."""

    class Answers(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = self.path.split("?")[0]
            asked.append(path)
            api, files = f"/api/models/{repository}", f"/{repository}/resolve/"
            if path.startswith(files):
                revision, _, name = path.removeprefix(files).partition("/")
                if revision in ("main", COMMIT) and (folder / name).is_file():
                    return self._send((folder / name).read_bytes(), body)
                return self._refuse("EntryNotFound")
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                return self._send(json.dumps(self._told()).encode(), body)
            if path.startswith(f"{api}/tree/"):
                return self._send(json.dumps(self._tree()).encode(), body)
            return self._refuse("RevisionNotFound" if path.startswith(api) else "RepoNotFound")

        def _names(self) -> list[str]:
            paths = (each for each in folder.rglob("*") if each.is_file())
            return sorted(each.relative_to(folder).as_posix() for each in paths)

        def _told(self) -> dict[str, object]:
            siblings = [{"rfilename": name} for name in self._names()]
            return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings}

        def _tree(self) -> list[dict[str, object]]:
            return [
                {
                    "type": "file",
                    "path": name,
                    "size": (folder / name).stat().st_size,
                    "oid": hashlib.sha1((folder / name).read_bytes()).hexdigest(),
                }
                for name in self._names()
            ]

        def _send(self, content: bytes, body: bool) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _refuse(self, code: str) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
