"""A reverse proxy on loopback, as companies put before Airflow: the browser knows only its address."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def reverse_proxy(port: int, backend: int) -> Iterator[None]:
    """Forward requests with their path to another port. The backend sees its own name as the host."""

    class Proxy(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            with closing(HTTPConnection("127.0.0.1", backend)) as connection:
                connection.request(self.command, self.path, body, headers | {"Accept-Encoding": "identity"})
                answer = connection.getresponse()
                content = answer.read()
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in {"content-length", "transfer-encoding", "connection"}:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            with suppress(ConnectionError):  # a browser that has gone on to another page
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_HEAD = handle_one  # noqa: N815  (http.server's names)

    with ThreadingHTTPServer(("127.0.0.1", port), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()
