"""A package index on 127.0.0.1:8123 that asks for a password and has two wheels of uv, both of them shell scripts.

0.0.1 says that it is 0.0.1, 0.0.2 says that it is 9.9.9. What all processes of the host were called with while
somebody spoke to the index is kept in /run/index/processes.
"""

from __future__ import annotations

import base64
import http.server
import io
import pathlib
import zipfile

AUTHORIZATION = "Basic " + base64.b64encode(b"deploy:hunter2").decode()
STATE = pathlib.Path("/run/index")


def wheel(version: str, reported: str) -> bytes:
    files = {
        f"uv-{version}.data/scripts/uv": f"#!/bin/sh\necho uv {reported}\n",
        f"uv-{version}.data/scripts/uvx": "#!/bin/sh\n",
        f"uv-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: uv\nVersion: {version}\n",
        f"uv-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"uv-{version}.dist-info/RECORD"
    files[record] = "".join(f"{name},,\n" for name in [*files, record])
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as zipped:
        for name, content in files.items():
            # Its time is 1980, so that the wheel's digest is always the same.
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16
            zipped.writestr(entry, content)
    return archive.getvalue()


WHEELS = {
    "uv-0.0.1-py3-none-any.whl": wheel("0.0.1", "0.0.1"),
    "uv-0.0.2-py3-none-any.whl": wheel("0.0.2", "9.9.9"),
}
LINKS = "".join(f'<a href="/{name}">{name}</a>\n' for name in WHEELS)


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
        with (STATE / "processes").open("ab") as stream:
            stream.write(command_lines())
        if self.headers["Authorization"] != AUTHORIZATION:
            self.answer(401, b"")
        elif self.path == "/simple/uv/":
            self.answer(200, LINKS.encode())
        else:
            content = WHEELS.get(self.path[1:])
            self.answer(200 if content else 404, content or b"")

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="packages"')
        self.send_header("Content-Type", "text/html" if content.startswith(b"<") else "application/zip")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("127.0.0.1", 8123), Handler).serve_forever()
