"""Servers that answer as a coordinator's proxy does, for the tests of the doctor."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@contextmanager
def coordinator(
    keys: Path | None = None,
    *,
    address: str = "127.0.0.1",
    health: int = 200,
    control: int = 403,
    ahead: float | None = 0.0,
) -> Iterator[int]:
    """Serve `/health` and the control paths, and return the port.

    Args:
        keys: folder of `fedssl keys`; None: no TLS.
        address: where to listen.
        health: status of `/health`.
        control: status of everything else.
        ahead: seconds that the server's clock is ahead; None: it tells no time.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(health if self.path == "/health" else control)

        def do_POST(self) -> None:
            self._answer(control)

        def _answer(self, status: int) -> None:
            self.send_response_only(status)
            if ahead is not None:
                moment = datetime.now(UTC) + timedelta(seconds=ahead)
                self.send_header("Date", format_datetime(moment, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            return  # a client that does not trust the certificate hangs up

    server = Server((address, 0), Handler)
    if keys is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(keys / "server/server.pem", keys / "server/server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
