"""A server that answers as the Hugging Face hub does, as far as its client asks to fetch a model, for tests."""

import hashlib
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40
REFUSALS = {"/api/models/org/gated": (403, "GatedRepo"), "/api/models/org/none": (404, "RepoNotFound")}


@contextmanager
def serving(folder):
    """The files of a folder as the repository `org/name`. Yields the server's URL, and a list of what it was asked."""
    asked = []

    class Handler(_Handler):
        root, log = folder, asked

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0]
        self.log.append(path)
        for start, (status, code) in REFUSALS.items():
            if path.startswith(start):
                return self.answer(b"{}", status, X_Error_Code=code)
        if path.startswith("/api/models/org/name/tree/"):
            files = sorted(file for file in self.root.rglob("*") if file.is_file())
            return self.answer(json.dumps([self.entry(file) for file in files]).encode())
        if path.startswith("/api/models/org/name"):
            return self.answer(json.dumps({"id": "org/name", "sha": COMMIT}).encode())
        data = (self.root / path.removeprefix(f"/org/name/resolve/{COMMIT}/")).read_bytes()
        entry = self.entry(self.root / path.removeprefix(f"/org/name/resolve/{COMMIT}/"))
        tag = entry.get("lfs", entry)["oid"]
        return self.answer(data, ETag=f'"{tag}"', X_Linked_Etag=f'"{tag}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def answer(self, body, status=200, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def entry(self, file):
        """Of a file what a listing tells: large ones have their SHA-256."""
        data = file.read_bytes()
        path, size = file.relative_to(self.root).as_posix(), len(data)
        entry = {"type": "file", "path": path, "size": size, "oid": hashlib.sha1(data).hexdigest()}
        if file.suffix == ".safetensors":
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 100}
        return entry

    def log_message(self, *words):
        pass
