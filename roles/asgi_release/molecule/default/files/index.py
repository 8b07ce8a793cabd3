"""A package index on 127.0.0.1:8124 that asks for a password and has the wheels in /srv/wheels.

What all processes of the host were called with while somebody spoke to it is kept in /run/index/processes.
"""

from __future__ import annotations

import http.server
import pathlib

# Of the user deploy. In clear it must not be found on this host.
AUTHORIZATION = "Basic ZGVwbG95Omh1bnRlcjItb2YtdGhlLWluZGV4"
WHEELS = pathlib.Path("/srv/wheels")
SEEN = pathlib.Path("/run/index/processes")


def command_lines() -> bytes:
    lines = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ") + b"\n")
        except OSError:
            continue
    return b"".join(lines)


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with SEEN.open("ab") as stream:
            stream.write(command_lines())
        name = self.path.strip("/").rpartition("/")[2].replace("-", "_") if "simple" in self.path else self.path.strip("/")
        allowed = self.headers["Authorization"] == AUTHORIZATION
        content = b""
        if allowed and self.path.startswith("/simple/"):
            content = "".join(f'<a href="/{path.name}">{path.name}</a>\n' for path in WHEELS.glob(f"{name}-*")).encode()
        elif allowed and (WHEELS / name).is_file():
            content = (WHEELS / name).read_bytes()
        self.send_response(200 if content else 404 if allowed else 401)
        if not allowed:
            self.send_header("WWW-Authenticate", 'Basic realm="packages"')
        self.send_header("Content-Type", "text/html" if content.startswith(b"<") else "application/zip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", 8124), Handler).serve_forever()
