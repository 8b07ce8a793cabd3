"""Commands of the application's own, static files of several releases, and what outlives a release; with Django's admin."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://debian13"]

DJANGO = Path(__file__).resolve().parents[4] / "tests/apps/django"
SITE = "/opt/site"
SECRET = "hunter2-of-the-build"

Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hooks") / "django"
    shutil.copytree(DJANGO, folder)
    return folder


def role(source: Path, **variables: Any) -> dict[str, Any]:
    given = {
        "asgi_release_app": "site",
        "asgi_release_source": str(source),
        "asgi_release_import_path": "site_asgi:application",
        "asgi_release_before_build": ["id --user --name", ["sh", "-c", "cp style.css style.$(cat VERSION).css"]],
        "asgi_release_after_build": [
            "python manage.py collectstatic --noinput",
            ["sh", "-c", "cp style.*.css staticfiles; id -un > built-by"],
        ],
        "asgi_release_build_environment": {"SECRET_KEY": SECRET},
        "asgi_release_static": ["staticfiles"],
        "asgi_shared": ["media"],
    }
    return {"ansible.builtin.include_role": {"name": "steadfast.asgi.asgi_release"}, "vars": {**given, **variables}}


@pytest.fixture(scope="module")
def two(host: Host, play: Play, source: Path) -> subprocess.CompletedProcess[str]:
    """Two releases, one after the other, and each of them again."""
    host.check_output(f"rm -rf {SITE}; mkdir -p {SITE}/releases")
    done = None
    for version in ("1", "2"):
        (source / "VERSION").write_text(version, encoding="utf-8")
        (source / "style.css").write_text(f"/* {version} */", encoding="utf-8")
        done = play("debian13", [role(source)], "-vvv", "--diff")
        assert done.returncode == 0, done.stdout
        assert SECRET not in done.stdout + done.stderr
        again = play("debian13", [role(source)])
        assert "changed=0" in again.stdout, again.stdout
    assert done
    return done


def releases(host: Host) -> list[str]:
    return host.check_output(f"ls -d {SITE}/releases/*/release.json | xargs -n1 dirname").split()


@pytest.mark.usefixtures("two")
def test_the_commands_have_written_into_the_release_which_is_root_s(host: Host) -> None:
    for path in releases(host):
        assert host.file(f"{path}/app/staticfiles/admin/css/base.css").is_file
        assert host.file(f"{path}/app/built-by").content_string.strip() == "asgi-build-site"
    assert host.check_output(f"find {SITE} ! -type l '(' ! -user root -o -perm /022 ')'") == ""
    assert host.check_output(f"find {SITE}/releases/*/app -name '*.pyc'") == ""


@pytest.mark.usefixtures("two")
def test_files_of_both_releases_can_be_asked_for(host: Host) -> None:
    union = f"{SITE}/static/staticfiles"
    assert host.file(f"{union}/style.1.css").content_string == "/* 1 */"
    assert host.file(f"{union}/style.2.css").content_string == "/* 2 */"
    assert int(host.check_output(f"stat --format %h {union}/style.1.css")) == 2
    assert host.run(f"runuser -u plain -- cat {union}/admin/css/base.css").rc == 0


@pytest.mark.usefixtures("two")
def test_the_shared_path_is_a_link(host: Host) -> None:
    for path in releases(host):
        assert host.check_output(f"readlink {path}/app/media") == "/var/lib/site/media"


@pytest.mark.usefixtures("two")
def test_the_commands_cannot_write_anywhere_else(host: Host, play: Play, source: Path) -> None:
    command = (
        "touch /etc/x /opt/x /var/lib/x ../../../x ../.venv/bin/x ../x 2>&1; ls -d /etc/x /opt/x /var/lib/x ../x ../.venv/bin/x; exit 7"
    )
    said = play("debian13", [role(source, asgi_release_after_build=[["sh", "-c", command]])])
    assert said.returncode != 0
    output = " ".join((said.stdout + said.stderr).split())
    assert "asgi_release_after_build" in output
    for name in ("/etc/x", "/opt/x", "/var/lib/x", "../x", "../.venv/bin/x"):
        assert f"cannot access '{name}'" in output, output
    assert len(releases(host)) == 2
    assert host.check_output(f"ls -A {SITE}/releases | wc -l") == "3"


@pytest.mark.usefixtures("two")
def test_pruning_takes_the_static_files_along(host: Host, play: Play) -> None:
    prune = {"ansible.builtin.include_role": {"name": "steadfast.asgi.asgi_release", "tasks_from": "prune"}}
    prune["vars"] = {"asgi_release_app": "site", "asgi_release_keep": 1}  # type: ignore[assignment]
    done = play("debian13", [prune], "--diff")
    assert done.returncode == 0, done.stdout
    assert not host.file(f"{SITE}/static/staticfiles/style.1.css").exists
    assert host.file(f"{SITE}/static/staticfiles/style.2.css").exists
    assert "changed=0" in play("debian13", [prune]).stdout
