"""The controller's half: what it refuses, and what the ID of a release depends on."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ansible.constants
import pytest
from ansible.errors import AnsibleActionFail
from ansible.parsing.dataloader import DataLoader

from ansible_collections.steadfast.asgi.plugins.action.asgi_release import ActionModule
from ansible_collections.steadfast.asgi.plugins.module_utils import source as source_module

LOCK = '[[package]]\nname = "fastapi"\n\n[[package]]\nname = "shared-app"\n'

Inspect = Callable[..., dict[str, Any]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    (directory / "app").mkdir(parents=True)
    (directory / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1.4.0"\n')
    (directory / "uv.lock").write_text(LOCK)
    (directory / "app/__init__.py").write_text("")
    (directory / "app/main.py").write_text("app = 1\n")
    return directory


@pytest.fixture
def inspect(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Inspect:
    """Run the action as a task with inspect=true would. It has nothing to connect to, so it must not try."""

    runs = iter(range(1000))

    def run(**arguments: Any) -> dict[str, Any]:
        # Each is a run of its own.
        monkeypatch.setattr(ansible.constants, "DEFAULT_LOCAL_TMP", str(tmp_path / f"run-{next(runs)}"))
        given = {
            "source": str(source),
            "releases": "/opt/shop/releases",
            "import_path": "app.main:app",
            "shared_root": "/var/lib/shop",
            "inspect": True,
        }
        task = SimpleNamespace(args={**given, **arguments}, async_val=0, check_mode=False, diff=False)
        connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nonexistent"))
        # Inspecting needs none of play context, loader, templar and plugin loader.
        action = ActionModule(task, connection, None, DataLoader(), None, None)
        result: dict[str, Any] = action.run(task_vars={})
        return result

    return run


def test_the_answer_names_the_release_and_changes_nothing(inspect: Inspect) -> None:
    answer = inspect()
    assert answer["changed"] is False
    assert re.fullmatch(r"1\.4\.0-[0-9a-f]{12}", answer["id"])
    assert answer["path"] == f"/opt/shop/releases/{answer['id']}"
    assert inspect()["id"] == answer["id"]


def test_the_id_depends_on_the_source_and_on_how_it_is_built(inspect: Inspect, source: Path) -> None:
    seen = [
        inspect()["id"],
        inspect(python="/usr/bin/python3.13")["id"],
        inspect(server_requirements="gunicorn==1")["id"],
    ]
    (source / "app/main.py").write_text("app = 2\n")
    seen.append(inspect()["id"])
    (source / "uv.lock").write_text(LOCK.replace("fastapi", "starlette"))
    seen.append(inspect()["id"])
    (source / "app/new.py").write_text("")
    seen.append(inspect()["id"])
    seen.append(inspect(require_hashes=False)["id"])
    assert len(set(seen)) == 7


def test_where_it_is_built_does_not_change_the_id(inspect: Inspect) -> None:
    assert inspect()["id"] == inspect(releases="/srv/releases", uv="/usr/bin/uv", cache="/tmp/cache")["id"]


@pytest.mark.parametrize(
    ("project", "pattern"),
    [
        ('version = "2026.11"', r"2026\.11-[0-9a-f]{12}"),
        ('version = "1.0rc1"', r"1\.0rc1-[0-9a-f]{12}"),
        ('version = "1.0+local"', r"[0-9a-f]{12}"),
        ('version = "1!2.0"', r"[0-9a-f]{12}"),
        ('version = "../../etc"', r"[0-9a-f]{12}"),
        ('version = ".."', r"[0-9a-f]{12}"),
        ('version = ""', r"[0-9a-f]{12}"),
        ('dynamic = ["version"]', r"[0-9a-f]{12}"),
        (f'version = "{"1" * 200}"', r"[0-9a-f]{12}"),
    ],
)
def test_the_id_is_always_one_plain_path_component(inspect: Inspect, source: Path, project: str, pattern: str) -> None:
    (source / "pyproject.toml").write_text(f'[project]\nname = "shop"\n{project}\n')
    assert re.fullmatch(pattern, inspect()["id"])


def test_a_project_without_a_project_table_is_fine(inspect: Inspect, source: Path) -> None:
    (source / "pyproject.toml").write_text("[tool.uv]\n")
    assert re.fullmatch(r"[0-9a-f]{12}", inspect()["id"])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda source: (source / "pyproject.toml").unlink(), "no pyproject.toml"),
        (lambda source: (source / "uv.lock").unlink(), "uv lock --project"),
        (lambda source: (source / "pyproject.toml").write_text("[project\n"), "pyproject.toml cannot be read"),
        (lambda source: (source / "pyproject.toml").write_bytes(b"# caf\xe9\n"), "pyproject.toml cannot be read"),
        (lambda source: (source / "app/main.py").write_text("application = 1"), "defines no 'app'"),
        (lambda source: (source / "app/main.py").write_text("app = ("), "not valid Python"),
        (lambda source: (source / "app/main.py").unlink(), "no module app.main"),
    ],
)
def test_a_source_that_cannot_be_deployed_is_refused(
    inspect: Inspect,
    source: Path,
    spoil: Callable[[Path], object],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # An older controller would leave it to the host what is valid.
    monkeypatch.setattr(source_module, "sys", SimpleNamespace(version_info=(3, 12)))
    spoil(source)
    with pytest.raises(AnsibleActionFail, match=re.escape(said)) as refused:
        inspect()
    assert str(source) in str(refused.value)


def test_a_repository_gives_its_commit_to_the_id(inspect: Inspect, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for arguments in (["init", "-qb", "main"], ["add", "-f", "."], ["-c", "user.name=x", "-c", "user.email=x@y", "commit", "-qm", "x"]):
        subprocess.run(["git", *arguments], cwd=source, check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=source, check=True, capture_output=True, text=True).stdout
    url = f"git+file://{source}@main"
    assert inspect(source=url)["id"].startswith(f"{commit[:12]}-")
    assert inspect(source=url)["id"] != inspect(source=url, python="3.13")["id"]
    with pytest.raises(AnsibleActionFail, match="defines no 'nothing'"):
        inspect(source=url, import_path="app.main:nothing")


@pytest.mark.parametrize("lock", ["requirements.txt", "deploy/prod.txt", "pylock.toml"])
def test_a_project_can_do_with_a_file_of_requirements(inspect: Inspect, source: Path, lock: str) -> None:
    (source / "uv.lock").unlink()
    (source / "pyproject.toml").unlink()
    (source / "deploy").mkdir()
    toml = 'lock-version = "1.0"\n[[packages]]\nname = "shared-app"\nversion = "1"\n'
    (source / lock).write_text(toml if lock.endswith("toml") else "shared-app==1 --hash=sha256:aa\n")
    given = lock if "/" in lock else ""
    assert re.fullmatch("[0-9a-f]{12}", inspect(lock=given)["id"])
    assert inspect(lock=given, import_path="shared_app.main:app")["changed"] is False
    with pytest.raises(AnsibleActionFail, match="has a package shpo"):
        inspect(lock=given, import_path="shpo.main:app")


def test_an_application_in_a_subdirectory_stands_alone(inspect: Inspect, source: Path) -> None:
    alone = inspect()["id"]
    (source.parent / "more").mkdir()
    source.rename(source.parent / "more/backend")
    (source.parent / "more/README").write_text("more")
    found = inspect(source=str(source.parent / "more"), subdirectory="backend")
    assert found["id"] != alone
    (source.parent / "more/README").write_text("changed")
    assert inspect(source=str(source.parent / "more"), subdirectory="backend") == found


def test_a_requirement_is_its_version_and_how_it_is_built(inspect: Inspect, tmp_path: Path) -> None:
    first = inspect(source="datasette==0.65.5", import_path="datasette.app:Datasette")["id"]
    assert re.fullmatch(r"0\.65\.5-[0-9a-f]{12}", first)
    (tmp_path / "lock.txt").write_text("datasette==0.65.5 --hash=sha256:aa\n")
    second = inspect(source="datasette==0.65.5", lock=str(tmp_path / "lock.txt"))["id"]
    (tmp_path / "lock.txt").write_text("datasette==0.65.5 --hash=sha256:bb\n")
    assert len({first, second, inspect(source="datasette==0.65.5", lock=str(tmp_path / "lock.txt"))["id"]}) == 3
    assert inspect(source="other==0.65.5")["id"] != first


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a subdirectory that is not there": ({"subdirectory": "backend"}, "asgi_release_subdirectory is backend"),
    "a subdirectory outside": ({"subdirectory": "../other"}, r"asgi_release_subdirectory is \.\./other"),
    "a subdirectory that is a file": ({"subdirectory": "pyproject.toml"}, "asgi_release_subdirectory"),
    "a lock outside": ({"lock": "../requirements.txt"}, "asgi_release_lock is ../requirements.txt"),
    "a lock with a path of its own": ({"lock": "/etc/requirements.txt"}, "Name a file in the source"),
    "a lock that is not there": ({"lock": "requirements/prod.txt"}, "Correct asgi_release_lock"),
    "uv.lock of another directory": ({"lock": "backend/uv.lock"}, "asgi_release_subdirectory"),
    "requirements without hashes": ({"lock": "bare.txt"}, "--generate-hashes"),
    "a group for requirements": ({"lock": "hashed.txt", "groups": ["x"]}, "need a uv.lock"),
    "a package for requirements": ({"lock": "hashed.txt", "package": "shop"}, "need a uv.lock"),
    "a pylock that is none": ({"lock": "pylock.toml"}, "cannot be read"),
    "an unknown package": ({"package": "shpo"}, "asgi_release_package is shpo"),
    "an unknown extra": ({"extras": ["fast"]}, "asgi_release_extras names fast"),
    "an unknown group": ({"groups": ["prod"]}, "asgi_release_groups names prod"),
    "a server that is too old": ({"lock": "old.txt"}, "gunicorn 21.2.0, and 22 or later is needed"),
    "a command with a quote left open": ({"after_build": ["sh -c 'true"]}, "asgi_release_after_build.*Close the quote"),
    "a command for a shell": ({"before_build": ["npm ci && npm run build"]}, r"asgi_release_before_build.*\[sh, -c, COMMAND\]"),
    "an empty command": ({"before_build": [""]}, "asgi_release_before_build.*list of its words"),
    "a command that is a mapping": ({"after_build": [{"cmd": "true"}]}, "asgi_release_after_build.*list of its words"),
    "a command with a NUL": ({"after_build": [["true", "a\0"]]}, "asgi_release_after_build.*no argument"),
    "an environment that is a list": ({"build_environment": ["A=hunter2"]}, "asgi_release_build_environment is no mapping"),
    "an environment with a bad name": ({"build_environment": {"A-B": "hunter2"}}, "asgi_release_build_environment has the name 'A-B'"),
    "an environment in an environment": ({"build_environment": {"A": ["hunter2"]}}, "asgi_release_build_environment.*value of A"),
    "static files outside": ({"static": ["../static"]}, r"asgi_release_static has '\.\./static'"),
    "static files anywhere": ({"static": ["/srv/static"]}, "asgi_release_static has '/srv/static'"),
    "static files twice": ({"static": ["static", "static/admin"]}, "asgi_release_static has 'static/admin' twice"),
    "a shared path outside": ({"shared": ["media/../../x"]}, "asgi_shared.*without '..'"),
    "a shared path with an end": ({"shared": ["media\n"]}, "asgi_shared"),
    "a shared path that the source has": ({"shared": ["app"]}, "asgi_shared.*app/__init__.py"),
    "a shared file that the source has": ({"shared": ["pyproject.toml"]}, "asgi_shared.*pyproject.toml"),
    "no wheelhouse": ({"wheelhouse": "/nowhere"}, "asgi_release_wheelhouse.*pip download"),
    "an empty wheelhouse": ({"wheelhouse": "app"}, "asgi_release_wheelhouse.*pip download"),
    "extras beside a requirement": ({"source": "datasette==1.0", "extras": ["x"]}, r"NAME\[EXTRA\]==VERSION"),
    "a subdirectory of a requirement": ({"source": "datasette==1.0", "subdirectory": "x"}, "asgi_release_subdirectory is for a project"),
    "a lock for a requirement that is not there": ({"source": "datasette==1.0", "lock": "/nowhere.txt"}, "uv pip compile"),
    "uv.lock for a requirement": ({"source": "datasette==1.0", "lock": "uv.lock"}, "requirements.txt or pylock.toml"),
    "a requirement that floats": ({"source": "datasette>=1.0"}, "a requirement such as"),
    "a URL without a checksum": ({"source": "https://example.org/shop.tar.gz"}, "asgi_release_checksum"),
    "a URL with a password": ({"source": "git+https://me:hunter2@example.org/shop"}, "asgi_release_git_key"),
    "a key that is not there": ({"source": "git+file:///nowhere", "git_key": "/nowhere/key"}, "asgi_release_git_key"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_by_the_variable_s_name(inspect: Inspect, source: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(source.parent / "cache"))
    (source / "bare.txt").write_text("six==1.17.0\n")
    (source / "hashed.txt").write_text("six==1.17.0 --hash=sha256:aa\n")
    (source / "old.txt").write_text("gunicorn==21.2.0 --hash=sha256:aa\n")
    (source / "pylock.toml").write_text("[[packages\n")
    (source / "uv.lock").write_text(LOCK + 'source = { virtual = "." }\n')
    arguments, said = BAD[case]
    if arguments.get("wheelhouse") == "app":
        arguments = {"wheelhouse": str(source / "app")}
    with pytest.raises(AnsibleActionFail, match=said) as refused:
        inspect(**{"import_path": "", **arguments})
    assert "hunter2" not in str(refused.value)


def test_commands_and_their_environment_are_part_of_the_id(inspect: Inspect) -> None:
    seen = {
        inspect(**arguments)["id"]
        for arguments in (
            {},
            {"before_build": ["make assets"]},
            {"after_build": ["make assets"]},
            {"after_build": ["make assets"], "build_environment": {"NODE_ENV": "production"}},
            {"static": ["assets"]},
            {"shared": ["media"]},
        )
    }
    assert len(seen) == 6
    assert inspect(after_build=["make 'all assets'"]) == inspect(after_build=[["make", "all assets"]])


def test_a_shared_directory_may_be_kept_empty(inspect: Inspect, source: Path) -> None:
    (source / "media").mkdir()
    (source / "media/.gitkeep").write_text("")
    assert inspect(shared=["media"])["changed"] is False


@pytest.mark.parametrize("source_given", ["", "/nonexistent/source"])
def test_a_source_that_is_no_directory_is_refused_by_the_variable_s_name(inspect: Inspect, source_given: str) -> None:
    with pytest.raises(AnsibleActionFail, match=r"asgi_source.*not a directory"):
        inspect(source=source_given)


def test_a_wrong_import_path_is_refused_by_the_variable_s_name(inspect: Inspect) -> None:
    with pytest.raises(AnsibleActionFail, match=r"asgi_import_path.*app\.main:nothing"):
        inspect(import_path="app.main:nothing")
    with pytest.raises(AnsibleActionFail, match=r"asgi_import_path.*has a package shpo"):
        inspect(import_path="shpo.main:app")


def test_an_application_in_a_dependency_is_for_the_host_to_judge(inspect: Inspect) -> None:
    assert inspect(import_path="shared_app.main:app")["changed"] is False


def test_a_lock_that_cannot_be_read_is_named(inspect: Inspect, source: Path) -> None:
    (source / "uv.lock").write_text("[[package")
    with pytest.raises(AnsibleActionFail, match=r"uv\.lock cannot be read.*'uv lock'"):
        inspect(import_path="shared_app.main:app")


def test_no_import_path_leaves_the_check_out(inspect: Inspect, source: Path) -> None:
    (source / "app/main.py").unlink()
    assert inspect(import_path="")["changed"] is False


@pytest.mark.parametrize("folder", ["src", "backend/src", "."])
def test_a_package_is_found_below_the_top(inspect: Inspect, source: Path, folder: str) -> None:
    (source / folder / "shop").mkdir(parents=True)
    (source / folder / "shop/asgi.py").write_text("application = 1\n")
    assert inspect(import_path="shop.asgi:application")["changed"] is False
    with pytest.raises(AnsibleActionFail, match="defines no 'app'"):
        inspect(import_path="shop.asgi:app")


@pytest.mark.parametrize(
    ("import_path", "right", "wrong"),
    [
        ("main:app", "src/main.py", "scripts/main.py"),
        ("main:app", "scripts/main.py", "app/main/main.py"),
        ("api:app", "api/__init__.py", "scripts/api.py"),
        ("shop.main:app", "src/shop/main.py", "legacy/shop/main.py"),
        ("shop.main:app", "legacy/shop/main.py", "src/shop/main.py"),
    ],
)
def test_another_file_of_that_name_is_no_hindrance(inspect: Inspect, source: Path, import_path: str, right: str, wrong: str) -> None:
    (source / "app/main.py").write_text("other = 1\n")
    for name, code in ((right, "app = 1\n"), (wrong, "print()\n")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(code)
    assert inspect(import_path=import_path)["changed"] is False
    (source / right).write_text("")
    with pytest.raises(AnsibleActionFail, match="defines no 'app'"):
        inspect(import_path=import_path)


def test_a_single_module_is_found(inspect: Inspect, source: Path) -> None:
    (source / "main.py").write_text("api = 1\n")
    assert inspect(import_path="main:api")["changed"] is False


def test_a_name_that_only_looks_alike_is_not_the_package(inspect: Inspect, source: Path) -> None:
    (source / "myshop").mkdir()
    (source / "myshop/main.py").write_text("app = 1\n")
    (source / "workshop.py").write_text("app = 1\n")
    for import_path in ("shop.main:app", "shop:app"):
        with pytest.raises(AnsibleActionFail, match="has a package shop"):
            inspect(import_path=import_path)


TARGET = {"libc": "glibc 2.36", "markers": {"python_version": "3.11", "python_full_version": "3.11.2", "platform_machine": "x86_64"}}


def checked(source: Path, live: dict[str, str], monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> dict[str, Any]:
    """Run the action in check mode against a host that lacks the release and has these packages live."""
    # As after the blotting out of a secret that looks like the application's name.
    answer = {"changed": True, "path": "/opt/********/releases", "target": TARGET, "live": live, "diff": {"prepared": "+ release x\n"}}
    monkeypatch.setattr(ActionModule, "_execute_module", lambda *_args, **_options: dict(answer))
    given = {"source": str(source), "releases": "/opt/shop/releases", "import_path": "", **arguments}
    task = SimpleNamespace(args=given, async_val=0, check_mode=True, diff=True)
    connection = SimpleNamespace(_shell=SimpleNamespace(tmpdir="/nonexistent"))
    result: dict[str, Any] = ActionModule(task, connection, None, DataLoader(), None, None).run(task_vars={})
    return result


def test_check_mode_names_the_packages_that_would_change(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "pyproject.toml").write_text('[project]\nname = "shop"\nversion = "2.0"\n[build-system]\nrequires = []\n')
    (source / "uv.lock").unlink()
    (source / "requirements.txt").write_text("six==1.17.0 --hash=sha256:aa\nwin==1 ; sys_platform == 'win32' --hash=sha256:bb\n")
    server = "gunicorn==27.0.1 \\\n    --hash=sha256:cc\nsix==1.0 \\\n    --hash=sha256:dd\n"
    live = {"six": "1.16.0", "gunicorn": "27.0.1", "gone": "1.0", "shop": "1.0"}
    monkeypatch.setitem(TARGET["markers"], "sys_platform", "linux")  # type: ignore[arg-type]
    result = checked(source, live, monkeypatch, server_requirements=server)
    assert result["packages"] == [
        {"name": "gone", "old": "1.0", "new": ""},
        {"name": "shop", "old": "1.0", "new": "2.0"},
        {"name": "six", "old": "1.16.0", "new": "1.17.0"},
    ]
    assert result["diff"]["prepared"] == f"+ release {result['id']}\n- gone 1.0\n~ shop 1.0 -> 2.0\n~ six 1.16.0 -> 1.17.0\n"
    assert result["path"] == f"/opt/shop/releases/{result['id']}"
    assert "live" not in result


def test_check_mode_knows_no_packages_without_a_lock(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    assert source.exists()
    result = checked(Path("datasette==0.65.5"), {"datasette": "0.65.0"}, monkeypatch)
    assert "packages" not in result
    assert result["diff"]["prepared"] == "+ release x\n"


@pytest.mark.parametrize(
    ("requires", "python", "good"),
    [
        (">=3.11", "3.10", False),
        (">=3.11", "3.11", True),
        (">=3.11.5", "3.11", True),
        (">=3.11.5", "3.11.4", False),
        ("<3.13", "3.13", False),
        ("==3.12.*", "3.12", True),
        (">=3.99", "/usr/bin/python3", True),
        ("not a version", "3.10", True),
    ],
)
def test_a_python_that_the_project_does_not_want_is_refused(source: Path, inspect: Inspect, requires: str, python: str, good: bool) -> None:
    """Of a path only the host can say which version it is."""
    with (source / "pyproject.toml").open("a", encoding="utf-8") as stream:
        stream.write(f'requires-python = "{requires}"\n')
    if good:
        inspect(python=python)
        return
    with pytest.raises(AnsibleActionFail, match=re.escape(f"asgi_release_python is {python}, and the project's")) as refused:
        inspect(python=python)
    assert f"requires-python = '{requires}'" in str(refused.value)


def test_a_relative_source_that_is_not_there_is_explained(inspect: Inspect) -> None:
    with pytest.raises(AnsibleActionFail, match=r"'\.\./nowhere', which is relative to the playbook: /.*/nowhere is not") as refused:
        inspect(source="../nowhere")
    assert "{{ inventory_dir }}/../shop" in str(refused.value)
