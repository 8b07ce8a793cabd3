"""Every kind of source becomes a release, once; and applications that nobody here wrote answer."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

# One is enough: what is built differs in nothing that Debian knows of.
testinfra_hosts = ["ansible://debian13"]

APPS = Path(__file__).resolve().parents[4] / "tests/apps"
KINDS = ["git", "archive", "wheel", "requirement", "datasette", "django", "litestar"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, wheel: Callable[[Path, str, str, str], Path]) -> dict[str, dict[str, Any]]:
    """Each kind of source, as the variables that name it."""
    folder = tmp_path_factory.mktemp("sources")
    for command in (
        ["init", "--quiet", "--initial-branch=main"],
        ["add", "--force", "."],
        ["-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "--message=x"],
        ["tag", "v1"],
    ):
        target = folder / "repository"
        if not target.exists():
            target.mkdir()
            for path in (APPS / "plain").iterdir():
                if path.is_file():
                    (target / path.name).write_bytes(path.read_bytes())
        subprocess.run(["git", *command], cwd=target, check=True)
    # Something else, or it would be the same release.
    (folder / "repository/README").write_text("An archive.\n", encoding="utf-8")
    archive = folder / "plain-1.0.tar.gz"
    with tarfile.open(archive, "w:gz") as stream:
        stream.add(folder / "repository", "plain-1.0", filter=lambda info: None if ".git" in info.name else info)
    checksum = "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()
    plain = {"asgi_release_import_path": "plain:app"}
    return {
        "git": {**plain, "asgi_release_source": f"git+file://{folder}/repository@v1"},
        "archive": {**plain, "asgi_release_source": str(archive), "asgi_release_checksum": checksum},
        "wheel": {
            **plain,
            "asgi_release_source": str(wheel(folder, "plain", "1.0", (APPS / "plain/plain.py").read_text(encoding="utf-8"))),
        },
        "requirement": {"asgi_release_source": "starlette==1.10.0", "asgi_release_import_path": "starlette.applications:Starlette"},
        "datasette": {"asgi_release_source": str(APPS / "datasette"), "asgi_release_import_path": "serve:app"},
        "django": {"asgi_release_source": str(APPS / "django"), "asgi_release_import_path": "site_asgi:application"},
        "litestar": {"asgi_release_source": str(APPS / "litestar"), "asgi_release_import_path": "main:app"},
    }


@pytest.fixture(scope="module")
def built(
    sources: dict[str, dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
    play: Callable[..., subprocess.CompletedProcess[str]],
) -> dict[str, dict[str, Any]]:
    """What two runs of the role said of each source, on one host: the releases' paths, and whether anything changed."""
    folder = tmp_path_factory.mktemp("built")
    tasks: list[dict[str, Any]] = [{"ansible.builtin.file": {"path": "/opt/other/releases", "state": "directory", "mode": "0755"}}]
    for _ in range(2):
        for kind in KINDS:
            role = {"name": "steadfast.asgi.asgi_release"}
            tasks.append({"ansible.builtin.include_role": role, "vars": {"asgi_release_app": "other", **sources[kind]}})
            seen = "{'kind': '" + kind + "', 'path': asgi_release_path, 'changed': __asgi_release_build is changed}"
            tasks.append({"ansible.builtin.set_fact": {"seen": "{{ seen | default([]) + [" + seen + "] }}"}})
    copy = {"content": "{{ seen | to_json }}", "dest": f"{folder}/seen", "mode": "0600"}
    tasks.append({"ansible.builtin.copy": copy, "delegate_to": "localhost", "become": False})
    done = play("debian13", tasks)
    assert done.returncode == 0, done.stdout
    found: dict[str, dict[str, Any]] = {}
    for each in json.loads((folder / "seen").read_text(encoding="utf-8")):
        found.setdefault(each["kind"], {"path": each["path"], "changed": []})["changed"].append(each["changed"])
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_it_becomes_a_release_and_a_second_run_changes_nothing(built: dict[str, dict[str, Any]], kind: str) -> None:
    assert built[kind]["changed"] == [True, False]


@pytest.mark.parametrize(
    ("kind", "url", "answer"),
    [
        ("git", "/ready", '"status": "ready"'),
        ("wheel", "/ready", '"status": "ready"'),
        ("datasette", "/-/versions.json", '"datasette": {"version": "0.65.5"}'),
        ("django", "/ready", "Django 6.1"),
        ("django", "/admin/login/", "Log in"),
        ("litestar", "/ready", '{"status":"ready"}'),
        ("litestar", "/schema/openapi.json", '"openapi":"3.1.0"'),
    ],
)
def test_it_answers(
    host: Host, built: dict[str, dict[str, Any]], sources: dict[str, dict[str, Any]], kind: str, url: str, answer: str
) -> None:
    path, unit = built[kind]["path"], f"try-{kind}"
    serve = f"{path}/.venv/bin/python -m uvicorn --uds /run/{unit}/socket {sources[kind]['asgi_release_import_path']}"
    options = f"--quiet --unit={unit} --property=User=plain --property=RuntimeDirectory={unit} --working-directory={path}/app"
    host.check_output(f"systemctl is-active --quiet {unit} || systemd-run {options} {serve}")
    said = host.check_output(
        f"for i in $(seq 100); do curl --silent --fail --unix-socket /run/{unit}/socket http://localhost{url} && exit; sleep 0.1; done;"
        f" journalctl --unit {unit}; exit 1"
    )
    assert answer in said
