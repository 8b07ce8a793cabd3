"""A release is complete or absent, and the same source is the same release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from testinfra.host import Host

RELEASES = "/opt/plain/releases"


def release(host: Host) -> str:
    names = host.file(RELEASES).listdir()
    [name] = [name for name in names if not name.startswith(".")]
    return f"{RELEASES}/{name}"


def test_the_release_runs(host: Host) -> None:
    path = release(host)
    code = "import plain, gunicorn, uvicorn, uvicorn_worker, uvloop, httptools, websockets; print(plain.VERSION)"
    assert host.check_output(f"cd {path}/app && {path}/.venv/bin/python -c '{code}'") == "1"


def test_its_name_begins_with_the_version(host: Host) -> None:
    assert release(host).startswith(f"{RELEASES}/1.0-")
    assert json.loads(host.file(f"{release(host)}/release.json").content_string)["id"] == release(host).rsplit("/", 1)[1]


def test_nobody_but_root_can_change_it(host: Host) -> None:
    assert host.check_output(f"find {RELEASES} ! -type l '(' ! -user root -o -perm /022 ')'") == ""
    assert host.run(f"runuser -u plain -- touch {release(host)}/app/x").rc != 0
    assert host.run(f"runuser -u plain -- {release(host)}/.venv/bin/python -c 'import gunicorn'").rc == 0


def test_the_packages_are_links_into_one_cache(host: Host) -> None:
    path = host.check_output(f"find {release(host)}/.venv -path '*/gunicorn/arbiter.py'")
    assert int(host.check_output(f"stat --format %h {path}")) > 1


def test_bytecode_is_compiled_at_build(host: Host) -> None:
    assert host.check_output(f"find {release(host)}/.venv -path '*/gunicorn/__pycache__/arbiter.*.pyc' | wc -l") == "1"


def test_an_interrupted_build_is_done_again(host: Host, apply_roles: Any) -> None:
    """What has no mark was never complete, whatever else is in it."""
    path = release(host)
    host.check_output(f"cd {path} && rm -r release.json .venv && touch leftover")
    source = f"{Path(__file__).resolve().parents[4]}/tests/apps/plain"
    variables = {"asgi_app": "plain", "asgi_source": source, "asgi_import_path": "plain:app"}
    done = apply_roles(["asgi_release"], variables, f"--limit={host.backend.get_hostname()}")
    assert done.returncode == 0, done.stdout
    assert not host.file(f"{path}/leftover").exists
    assert host.file(f"{path}/release.json").exists
    test_the_release_runs(host)
