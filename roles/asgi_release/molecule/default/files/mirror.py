"""Make a mirror of interpreters out of the host's own: mirror.py DIRECTORY prints the version that it has."""

from __future__ import annotations

import hashlib
import json
import pathlib
import platform
import sys
import tarfile

folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
major, minor, patch = sys.version_info[:3]
name = f"python{major}.{minor}"
archive = folder / "python.tar.gz"
with tarfile.open(archive, "w:gz", compresslevel=1) as stream:
    stream.add(pathlib.Path(f"/usr/bin/{name}").resolve(), f"python/bin/{name}")
    stream.add(f"/usr/lib/{name}", f"python/lib/{name}", filter=lambda info: None if info.issym() or "__pycache__" in info.name else info)
entry = {
    "name": "cpython",
    "arch": {"family": platform.machine(), "variant": None},
    "os": "linux",
    "libc": "gnu",
    "major": major,
    "minor": minor,
    "patch": patch,
    "prerelease": "",
    "url": f"file://{archive}",
    "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
    "variant": None,
    "build": "20260101",
}
key = f"cpython-{major}.{minor}.{patch}-linux-{platform.machine()}-gnu"
(folder / "downloads.json").write_text(json.dumps({key: entry}), encoding="utf-8")
print(f"{major}.{minor}.{patch}")
