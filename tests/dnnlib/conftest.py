"""An HTTP server on this machine that can misbehave in chosen ways, request after request."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dnnlib.download import Policy


@pytest.fixture
def policy():
    """Hardly any waiting between tries; small chunks, so that a cut loses little."""
    return Policy(connect_timeout=2, read_timeout=5, attempts=3, backoff=0.01, backoff_max=0.05, chunk_bytes=1000)


class Server:
    """`script` holds the answer to each request in turn; its last entry also serves all further ones.

    An answer is a function of the request's handler; the methods below make them. `requests` collects
    (path, headers) of every GET.
    """

    def __init__(self):
        self.content = b""
        self.headers = {"ETag": '"v1"', "Content-Type": "application/octet-stream"}
        self.script = [self.proper()]
        self.requests = []
        self.sent = 0  # bytes of the content, over all answers
        self.over = threading.Event()  # ends stalls with the test
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with lock:
                    number = len(outer.requests)
                    outer.requests.append((self.path, dict(self.headers)))
                self.close_connection = True
                outer.script[min(number, len(outer.script) - 1)](self)

            def log_message(self, *args):
                pass

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.root = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, args=(0.02,), daemon=True).start()

    def ranges(self):
        """The Range header of every request so far."""
        return [headers.get("Range") for _, headers in self.requests]

    def close(self):
        self.over.set()
        self.httpd.shutdown()
        self.httpd.server_close()

    def proper(self, *, limit=None, stall=False):
        """As HTTP wants it; with `limit`, the connection breaks (or stalls) after so many bytes of body."""

        def act(handler):
            content, validators = self.content, {self.headers.get("ETag"), self.headers.get("Last-Modified")}
            wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
            headers, start, status = dict(self.headers), 0, 200
            if wanted is not None and (condition is None or condition in validators):
                start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            if status == 206 and start >= len(content):
                return send(handler, 416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": 0})
            body = content[start:]
            self.sent += len(body[:limit])  # no two at once, or the test does not ask
            send(handler, status, {"Content-Length": len(body), **headers}, body[:limit])
            if stall:
                self.over.wait(300)  # longer than any test waits
            return None

        return act

    def cut(self, after):
        return self.proper(limit=after)

    def stall(self, after):
        return self.proper(limit=after, stall=True)

    def answer(self, status, headers=None, body=b""):
        """Always these bytes, whatever was asked. A header of None is left out."""
        return lambda handler: send(handler, status, {"Content-Length": len(body), **(headers or {})}, body)

    def become(self, content, etag, then=None):
        """The file changes on the server just before this request is answered."""

        def act(handler):
            self.content, self.headers = content, {**self.headers, "ETag": etag}
            (then or self.proper())(handler)

        return act


def send(handler, status, headers, body=b""):
    handler.send_response(status)
    handler.send_header("Connection", "close")
    for name, value in headers.items():
        if value is not None:
            handler.send_header(name, str(value))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server = Server()
    yield server
    server.close()
