"""A small HTTP server whose responses a test defines."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from client.sdk.sync import Client


class Handler(BaseHTTPRequestHandler):
    on_request: Callable[["Handler"], None]
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        type(self).on_request(self)

    def do_POST(self) -> None:
        type(self).on_request(self)

    def do_DELETE(self) -> None:
        type(self).on_request(self)

    def log_message(self, *args: object) -> None:
        pass

    def respond(self, status: int, body: object, **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def read(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))


@contextmanager
def serving(on_request: Callable[[Handler], None]) -> Iterator[Client]:
    class TestHandler(Handler):
        pass

    TestHandler.on_request = on_request  # type: ignore[assignment]
    server = ThreadingHTTPServer(("127.0.0.1", 0), TestHandler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            yield client
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
