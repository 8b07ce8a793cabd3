"""Stands for an application: tells what reached it, over a unix socket behind a symbolic link and over TCP."""

from __future__ import annotations

import base64
import hashlib
import json
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SOCKET = Path("/run/shop/blue.sock")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # How many requests came over this connection.
    served = 0

    def parse_request(self) -> bool:
        self.served += 1
        return super().parse_request()

    def address_string(self) -> str:
        return "unix"

    def answer(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def do_DELETE(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        # Whatever the method: the next request on this connection begins behind it.
        self.rfile.read(int(self.headers["Content-Length"] or 0))
        match self.path.partition("?")[0]:
            case "/missing":
                self.answer(404, {})
            case "/moved":
                self.answer(307, {"Location": "/elsewhere"})
            case "/broken":
                self.close_connection = True
            case "/connection":
                content = {"served": self.served, "socket": Path(str(self.server.server_address)).stem}
                self.answer(200, {"Content-Type": "application/json"}, json.dumps(content).encode())
            case "/once" if self.served > 1:
                # As an application does that is being replaced: the connection was idle, so it is closed.
                self.close_connection = True
            case "/own-headers":
                self.answer(200, {"X-Frame-Options": "DENY", "Strict-Transport-Security": "max-age=1"})
            case "/stream" | "/events/stream":
                # Two parts of an answer, one second apart.
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(b"data: 1\n\n")
                self.wfile.flush()
                time.sleep(1)
                self.wfile.write(b"data: 2\n\n")
                self.close_connection = True
            case "/websocket":
                # RFC 6455, 1.3: the accepted key, then one unmasked text frame.
                key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
                accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()  # noqa: S324
                self.send_response(101)
                self.send_header("Upgrade", "websocket")
                self.send_header("Connection", "Upgrade")
                self.send_header("Sec-WebSocket-Accept", accept)
                self.end_headers()
                self.wfile.write(b"\x81\x05hello")
                self.close_connection = True
            case _:
                seen = [[name.lower(), value] for name, value in self.headers.items()]
                # Not self.path, which has two slashes at its beginning made one.
                seen.append([":target", self.requestline.split(" ")[1]])
                self.answer(200, {"Content-Type": "application/json"}, json.dumps(seen).encode())


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    # As asgi_service has it (asgi_service_backlog). While a flood of requests fills a shorter one, nginx has no connection for anybody.
    request_queue_size = 4096


def serve(path: Path) -> None:
    path.unlink(missing_ok=True)
    server = UnixServer(str(path), Handler)
    path.chmod(0o666)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> None:
    serve(SOCKET)
    serve(SOCKET.with_name("green.sock"))
    live = SOCKET.with_name("live.sock")
    live.unlink(missing_ok=True)
    live.symlink_to(SOCKET)
    ThreadingHTTPServer(("127.0.0.1", 9000), Handler).serve_forever()


main()
