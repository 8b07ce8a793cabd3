"""Runs on a host, with what is to be tried in argv[1], and prints what happened as JSON."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

CASES = Path("/root/cases")
PLACE = Path("/etc/asgi-certificates")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def look() -> dict[str, object]:
    """Whether nginx can be started anew, and serves what is live."""
    test = run("nginx", "-t")
    run("systemctl", "reset-failed", "nginx")
    restarted = run("systemctl", "restart", "nginx")
    served = ssl.get_server_certificate(("127.0.0.1", 443)) if restarted.returncode == 0 else ""
    live = (PLACE / "given/fullchain.pem").read_text()
    one = sum(1 for path in (PLACE / "given").iterdir() if path.is_dir() and not path.is_symlink())
    fine = test.returncode == 0 and served != "" and live.startswith(served.strip()) and one == 1
    return {"fine": fine, "served": served, "said": test.stderr if test.returncode else ""}


def timer() -> dict[str, object]:
    found: dict[str, object] = {}
    before = look()
    for case in sorted(CASES.iterdir()):
        shutil.copy(case / "chain.pem", "/root/pki/good.pem")
        shutil.copy(case / "key.pem", "/root/pki/good-key.pem")
        done = run("/usr/bin/python3", "/usr/local/lib/asgi-acme/asgi_acme.py", "renew")
        after = look()
        fine = done.returncode == 1 and "given: " in done.stderr and before["fine"] and before == after
        found[case.name] = {"fine": fine, "said": done.stderr, "after": after}
    return found


def self_signed() -> dict[str, object]:
    """What of it the script that decides would let stay."""
    live = PLACE / "own/live"
    kept = {name: (live / name).read_bytes() for name in ("fullchain.pem", "privkey.pem")}
    found: dict[str, object] = {}
    for case in sorted(CASES.iterdir()):
        (live / "fullchain.pem").write_bytes((case / "chain.pem").read_bytes())
        (live / "privkey.pem").write_bytes((case / "key.pem").read_bytes())
        found[case.name] = "leaf " in run("/root/self_signed.sh", "own", "30", "397").stdout
    for name, content in kept.items():
        (live / name).write_bytes(content)
    # With what openssl passes over.
    chain = kept["fullchain.pem"]
    for name, text in (("twice", chain + chain), ("no line break", chain.rstrip() + chain), ("text", chain + b"-----BEGIN X-----\n")):
        (live / "fullchain.pem").write_bytes(text)
        found[name] = "leaf " in run("/root/self_signed.sh", "own", "30", "397").stdout
    (live / "fullchain.pem").write_bytes(chain)
    found["(control)"] = "leaf " not in run("/root/self_signed.sh", "own", "30", "397").stdout
    return found


what = sys.argv[1]
print(json.dumps(timer() if what == "timer" else self_signed() if what == "self_signed" else look()))
