"""Files that say which packages an application needs, and what is refused of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.lockfile import (
    Pinned,
    check_requirements,
    check_uv_lock,
    format_of,
    local_packages,
    locked_packages,
    pinned,
    refers_to_files,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError

PROJECT = """
[project]
name = "shop"
version = "1.4"
dependencies = ["Starlette >=1.0, <2", "uvicorn[standard] ; sys_platform == 'linux'", "lib"]
[project.optional-dependencies]
fast = ["orjson==3.11"]
all = ["shop[fast]"]
[dependency-groups]
metrics = ["prometheus-client ~= 0.26.0"]
all = [{ include-group = "metrics" }]
"""
LOCK = """
version = 1
[[package]]
name = "shop"
version = "1.4"
source = { virtual = "." }
[package.metadata]
requires-dist = [
    { name = "lib", editable = "packages/lib" },
    { name = "orjson", marker = "extra == 'fast'", specifier = "==3.11" },
    { name = "shop", extras = ["fast"], marker = "extra == 'all'" },
    { name = "starlette", specifier = "<2,>=1.0" },
    { name = "uvicorn", extras = ["standard"], marker = "sys_platform == 'linux'" },
]
[package.metadata.requires-dev]
all = [{ name = "prometheus-client", specifier = "~=0.26.0" }]
metrics = [{ name = "prometheus-client", specifier = "~=0.26.0" }]
[[package]]
name = "lib"
version = "0.1"
source = { editable = "packages/lib" }
[[package]]
name = "gunicorn"
version = "27.0.1"
source = { registry = "https://packages.example.org/simple" }
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "packages/lib").mkdir(parents=True)
    (tmp_path / "packages/lib/pyproject.toml").write_text('[project]\nname = "lib"\nversion = "0.1"\n')
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "uv.lock").write_text(LOCK)
    return tmp_path


def test_a_lock_that_matches_is_fine(project: Path) -> None:
    check_uv_lock(str(project), "", ["fast", "all"], ["metrics"])
    check_uv_lock(str(project), "lib", [], ["metrics"])
    assert locked_packages(str(project / "uv.lock")) == {"shop": "1.4", "lib": "0.1", "gunicorn": "27.0.1"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"lib"]', '"lib", "httpx"]', "the lock does not have the dependency 'httpx'"),
        (', "lib"]', "]", "only the lock has the dependency 'lib'"),
        (">=1.0, <2", ">=1.1, <2", "the lock does not have the dependency 'starlette<2,>=1.1'"),
        ("orjson==3.11", "orjson==3.12", "orjson==3.12"),
        ('"prometheus-client ~= 0.26.0"', '"prometheus-client ~= 0.26.0", "six"', "the lock does not have the dependency 'six'"),
    ],
)
def test_a_lock_that_does_not_match_is_refused_with_the_command_that_mends_it(project: Path, old: str, new: str, said: str) -> None:
    (project / "pyproject.toml").write_text(PROJECT.replace(old, new))
    with pytest.raises(SourceError, match="uv lock --project") as refused:
        check_uv_lock(str(project), "", [], [])
    assert said in str(refused.value)


@pytest.mark.parametrize(("old", "new"), [(">=1.0, <2", "(<2.0,>=1.0)"), ("orjson==3.11", "Orjson == 3.11.0"), ("~= 0.26.0", "~=0.26.0")])
def test_another_way_to_write_the_same_is_no_difference(project: Path, old: str, new: str) -> None:
    (project / "pyproject.toml").write_text(PROJECT.replace(old, new))
    check_uv_lock(str(project), "", [], [])


@pytest.mark.parametrize("specifier", [">=0.1", "", "[extra]>=0.1,<3"])
def test_a_version_does_not_matter_where_the_package_has_a_place_of_its_own(project: Path, specifier: str) -> None:
    """uv notes `editable = ...` and no specifier then; `uv lock --check` takes it."""
    pyproject = project / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace('"lib"', f'"lib{specifier}"'))
    check_uv_lock(str(project), "", [], [])
    pyproject.write_text(pyproject.read_text().replace(f', "lib{specifier}"', ""))
    with pytest.raises(SourceError, match=r"only the lock has the dependency 'lib'"):
        check_uv_lock(str(project), "", [], [])


def test_other_projects_of_the_source_are_known(project: Path) -> None:
    assert local_packages(str(project / "uv.lock")) == ["lib"]


def test_a_member_of_the_workspace_has_to_match_too(project: Path) -> None:
    (project / "packages/lib/pyproject.toml").write_text('[project]\nname = "lib"\nversion = "0.1"\ndependencies = ["six"]\n')
    with pytest.raises(SourceError, match="'six' of lib"):
        check_uv_lock(str(project), "", [], [])


def test_what_is_known_only_when_it_is_built_is_not_judged(project: Path) -> None:
    dynamic = PROJECT.replace('dependencies = ["Starlette >=1.0, <2", ', 'dynamic = ["dependencies"]\nignored = [')
    (project / "pyproject.toml").write_text(dynamic)
    check_uv_lock(str(project), "", [], [])


@pytest.mark.parametrize(
    ("package", "extras", "groups", "said"),
    [
        ("shpo", [], [], r"asgi_release_package is shpo.*it has lib, shop"),
        ("", ["fats"], [], r"asgi_release_extras names fats.*it has all, fast"),
        ("lib", ["fast"], [], "asgi_release_extras names fast"),
        ("", [], ["prod"], r"asgi_release_groups names prod.*it has all, metrics"),
    ],
)
def test_what_the_project_does_not_have_is_named(project: Path, package: str, extras: list[str], groups: list[str], said: str) -> None:
    with pytest.raises(SourceError, match=said):
        check_uv_lock(str(project), package, extras, groups)


REQUIREMENTS = """\
# made by uv
--index-url https://packages.example.org/simple
Foo_Bar==1.2 ; python_version > '3' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via x
six==1.17.0  # by hand
"""


def test_requirements_need_hashes_unless_they_do_not(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(REQUIREMENTS)
    assert locked_packages(str(path)) == {"foo-bar": "1.2", "six": "1.17.0"}
    with pytest.raises(SourceError, match=r"no hash for six\. .*--generate-hashes.*asgi_release_require_hashes"):
        check_requirements(str(path), require_hashes=True)
    check_requirements(str(path), require_hashes=False)


ELSEWHERE = "https://example.org"


@pytest.mark.parametrize(
    ("line", "refers"),
    [
        ("-r base.txt", True),
        ("-rbase.txt", True),
        ("--requirement=base.txt", True),
        ("-c base.txt", True),
        ("--constraint base.txt", True),
        ("-e .", True),
        ("--editable ./libs/common", True),
        ("./libs/common", True),
        ("libs/common ; python_version > '3'", True),
        ("common @ file:///srv/common", True),
        ("common @ ../common", True),
        ("common-1.0-py3-none-any.whl", True),
        ("# -r base.txt", False),
        ("--require-hashes", False),
        (f"--extra-index-url {ELSEWHERE}/a/b", False),
        ("common==1.0 --hash=sha256:aa", False),
        (f"common @ {ELSEWHERE}/common-1.0-py3-none-any.whl", False),
        ("common @ git+ssh://git@example.org/common.git@abc", False),
        ("https://example.org/common-1.0.tar.gz", False),
    ],
)
def test_a_file_of_requirements_may_not_be_all(tmp_path: Path, line: str, refers: bool) -> None:
    (tmp_path / "base.txt").write_text("starlette==1.0\n")
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"uvicorn==1.0 \\\n    --hash=sha256:bb\n{line}\n")
    assert refers_to_files(str(lock)) is refers


def test_a_pylock_may_not_be_all(tmp_path: Path) -> None:
    lock = tmp_path / "pylock.toml"
    lock.write_text('[[packages]]\nname = "a"\nversion = "1"\n')
    assert not refers_to_files(str(lock))
    lock.write_text('[[packages]]\nname = "a"\ndirectory = { path = "./a" }\n')
    assert refers_to_files(str(lock))


def test_included_requirements_count(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    lock = tmp_path / "requirements/production.txt"
    lock.write_text("-r base.txt\nuvicorn==1.0 --hash=sha256:aa\n")
    base = tmp_path / "requirements/base.txt"
    # Also if they include each other.
    base.write_text("-r production.txt\nDjango==5.2\n-c ../constraints.txt\n")
    assert locked_packages(str(lock)) == {"django": "5.2", "uvicorn": "1.0"}
    assert [each.name for each in pinned(str(lock), {}, "", [], [])] == ["django", "uvicorn"]
    with pytest.raises(SourceError, match="no hash for django"):
        check_requirements(str(lock), require_hashes=True)
    base.unlink()
    with pytest.raises(SourceError, match=r"production.txt includes base.txt, and there is no file .*/base.txt"):
        check_requirements(str(lock), require_hashes=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("uv.lock", "uv"), ("a/pylock.toml", "pylock"), ("pylock.prod.toml", "pylock"), ("requirements/prod.txt", "requirements")],
)
def test_a_file_is_known_by_its_name(name: str, kind: str) -> None:
    assert format_of(name) == kind


def test_a_pylock_has_packages(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text('lock-version = "1.0"\n[[packages]]\nname = "six"\nversion = "1.17.0"\n')
    assert locked_packages(str(tmp_path / "pylock.toml")) == {"six": "1.17.0"}


MARKERS = {"python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux", "platform_machine": "x86_64", "extra": ""}
FOR_MANY = """\
-i https://example.org/simple
# a comment
A_b[fast]==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
a-b==2.0 ; python_full_version >= '3.12' --hash=sha256:cc
c==1; sys_platform == 'win32'
d @ https://example.org/d-1.whl --hash=sha256:dd
"""


def test_entries_for_other_hosts_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text(FOR_MANY)
    found = pinned(str(tmp_path / "requirements.txt"), MARKERS, "", [], [])
    assert found[0].argument("lock") == "a-b==1.0 --hash=sha256:aa --hash=sha256:bb"
    assert found[1:] == [Pinned("d", "", ("sha256:dd",), "https://example.org/d-1.whl")]


PYLOCK = """
lock-version = "1.0"
[[packages]]
name = "a"
version = "1"
wheels = [{ url = "https://example.org/a.whl", hashes = { sha256 = "aa" } }]
[[packages]]
name = "b"
version = "1"
marker = "sys_platform == 'win32'"
[[packages]]
name = "c"
marker = "no marker at all"
vcs = { type = "git", url = "https://example.org/c.git", commit-id = "abc" }
"""


def test_a_pylock_is_read_for_the_host(tmp_path: Path) -> None:
    (tmp_path / "pylock.toml").write_text(PYLOCK)
    found = pinned(str(tmp_path / "pylock.toml"), MARKERS, "", [], [])
    assert found[0].argument("lock") == "a==1 --hash=sha256:aa"
    assert found[1:] == [Pinned("c", "", (), "https://example.org/c.git")]


UV_LOCK = (
    """
version = 1
[[package]]
name = "shop"
version = "1"
source = { virtual = "." }
dependencies = [
  { name = "a", extra = ["fast"] },
  { name = "b", marker = "sys_platform == 'win32'" },
  { name = "c", version = "2", source = { registry = "https://example.org" }, marker = "python_full_version < '3.12'" },
  { name = "c", version = "3", source = { registry = "https://example.org" }, marker = "python_full_version >= '3.12'" },
  { name = "tool" },
]
[package.optional-dependencies]
more = [{ name = "e" }]
[package.dev-dependencies]
dev = [{ name = "f" }]
prod = [{ name = "g" }]
[[package]]
name = "tool"
version = "1"
source = { editable = "tool" }
dependencies = [{ name = "h" }]
[[package]]
name = "a"
version = "1"
source = { registry = "https://example.org" }
sdist = { url = "https://example.org/a.tar.gz", hash = "sha256:aa" }
wheels = [{ url = "https://example.org/a.whl", hash = "sha256:bb" }]
[package.optional-dependencies]
fast = [{ name = "d" }]
[[package]]
name = "c"
version = "2"
source = { registry = "https://example.org" }
[[package]]
name = "c"
version = "3"
source = { registry = "https://example.org" }
"""
    + "".join(f'[[package]]\nname = "{name}"\nversion = "1"\nsource = {{ registry = "https://example.org" }}\n' for name in "bdefg")
    + """
[[package]]
name = "h"
version = "1"
source = { git = "https://example.org/h?rev=abc#abc" }
"""
)


def test_uv_lock_is_walked_for_the_host(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text(UV_LOCK)
    (tmp_path / "pyproject.toml").write_text("[tool.uv]\ndefault-groups = ['dev', 'prod']\n")

    def names(package: str, extras: list[str], groups: list[str]) -> str:
        found = pinned(str(tmp_path / "uv.lock"), MARKERS, package, extras, groups)
        return " ".join(f"{each.name}{each.version}" for each in found)

    assert names("", [], []) == "a1 c2 d1 g1 h1"
    assert names("", ["more"], ["dev"]) == "a1 c2 d1 e1 f1 g1 h1"
    assert names("tool", [], []) == "h1"
    by_name = {each.name: each for each in pinned(str(tmp_path / "uv.lock"), MARKERS, "", [], [])}
    assert by_name["a"].argument("lock") == "a==1 --hash=sha256:bb --hash=sha256:aa"
    assert by_name["h"].url.startswith("git+https://")
    assert names("nobody", [], []) == ""
