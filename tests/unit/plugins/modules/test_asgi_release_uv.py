"""Builds with the real uv, out of packages that are made here: a private index with a password, and no index at all."""

from __future__ import annotations

import base64
import hashlib
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.source import pack, source_files
from ansible_collections.steadfast.asgi.plugins.modules import asgi_release

UV = shutil.which("uv")
USER, PASSWORD = "deploy", "hunter2/@:%"

pytestmark = pytest.mark.skipif(not UV, reason="uv is not installed")

Build = Callable[..., dict[str, Any]]


def wheel(directory: Path, name: str, version: str, requires: str = "") -> Path:
    path = directory / f"{name}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (f"Requires-Dist: {requires}\n" if requires else "")
    files = {
        f"{name}/__init__.py": f"VERSION = '{version}'\napp = 1\n",
        f"{name}-{version}.dist-info/METADATA": metadata,
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{name}-{version}.dist-info/RECORD"
    files[record] = "".join(f"{each},,\n" for each in [*files, record])
    with zipfile.ZipFile(path, "w") as zipped:
        for each, content in files.items():
            zipped.writestr(zipfile.ZipInfo(each), content)
    return path


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    directory = tmp_path / "wheels"
    directory.mkdir()
    wheel(directory, "lib", "1.0", "low")
    wheel(directory, "low", "2.0")
    wheel(directory, "server", "3.0")
    return directory


@pytest.fixture
def index(wheels: Path) -> Iterator[str]:
    """A package index that nobody can read without the password."""
    wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.headers["Authorization"] == wanted
            name = self.path.strip("/").rpartition("/")[2]
            content = b""
            if allowed and self.path.startswith("/simple/"):
                links = [f'<a href="/files/{each.name}">{each.name}</a>' for each in wheels.glob(f"{name}-*")]
                content = "\n".join(links).encode()
            elif allowed and (wheels / name).is_file():
                content = (wheels / name).read_bytes()
            self.send_response(401 if not allowed else 200 if content else 404)
            self.send_header("Content-Type", "text/html" if content.startswith(b"<") else "application/zip")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/simple"
        running.shutdown()


@pytest.fixture
def build(run_module: Callable[..., dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Build a release out of a source, and of other parts of what is sent."""
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    (tmp_path / "releases").mkdir()

    def run(recipe: dict[str, Any], *parts: tuple[str, str, list[str]], **arguments: Any) -> dict[str, Any]:
        with (tmp_path / "source.tar.gz").open("wb") as stream:
            pack(parts, stream)
        common = {"lock": "", "format": "", "options": [], "install": [], "hashes": True, "wheelhouse": False}
        given = {
            "source": "/controller",
            "releases": str(tmp_path / "releases"),
            "uv": UV,
            "cache": str(tmp_path / "cache"),
            "python": sys.executable,
            "build_user": "",
            "min_free": 1,
            "id": "one",
            "archive": str(tmp_path / "source.tar.gz"),
            "recipe": common | recipe,
        }
        return run_module(asgi_release.main, **{**given, **arguments})

    return run


def source(directory: Path, lock: str, name: str = "requirements.txt") -> tuple[str, str, list[str]]:
    directory.mkdir(exist_ok=True)
    (directory / "app.py").write_text("import lib\napp = 1\n")
    (directory / name).write_text(lock)
    return ("source", str(directory), source_files(str(directory)))


def packages(result: dict[str, Any]) -> dict[str, str]:
    return {each["name"]: each["new"] for each in result["packages"]}


def hashed(wheels: Path, *names: str) -> str:
    entries = {path.name.split("-")[0]: f"{'=='.join(path.name.split('-')[:2])} --hash={digest(path)}\n" for path in wheels.iterdir()}
    return "".join(entries[name] for name in names)


REQUIREMENTS = {"lock": "source/requirements.txt", "format": "requirements"}


def test_a_private_index_is_used_and_its_password_is_nowhere(build: Build, wheels: Path, index: str, tmp_path: Path) -> None:
    sent = source(tmp_path / "source", hashed(wheels, "lib", "low"))
    server = hashed(wheels, "server")
    indexes = [{"url": index, "username": USER, "password": PASSWORD}]
    result = build(REQUIREMENTS, sent, indexes=indexes, index_url="http://127.0.0.1:9/simple", server_requirements=server)
    assert "failed" not in result, result["msg"]
    assert packages(result) == {"lib": "1.0", "low": "2.0", "server": "3.0"}
    assert PASSWORD not in str(result)
    for path in [*(tmp_path / "releases").rglob("*"), *(tmp_path / "cache").rglob("*")]:
        content = path.read_bytes() if path.is_file() else b""
        assert b"hunter2" not in content + os.fsencode(path)


def test_a_wrong_password_is_a_clear_failure_that_does_not_show_it(build: Build, wheels: Path, index: str, tmp_path: Path) -> None:
    sent = source(tmp_path / "source", hashed(wheels, "lib", "low"))
    indexes = [{"url": index, "username": USER, "password": "hunter3"}]
    result = build(REQUIREMENTS, sent, indexes=indexes, index_url=index)
    assert "nothing is left of it" in result["msg"]
    assert "401" in result["msg"]
    assert "hunter" not in str(result)
    assert [path.name for path in (tmp_path / "releases").iterdir()] == [".lock"]


def test_a_hash_that_does_not_match_fails_the_build(build: Build, wheels: Path, tmp_path: Path) -> None:
    lock = hashed(wheels, "lib", "low").replace(digest(next(wheels.glob("low-*"))), "sha256:" + 64 * "0")
    sent = source(tmp_path / "source", lock)
    result = build(REQUIREMENTS | {"wheelhouse": True}, sent, ("wheelhouse", str(wheels), os.listdir(wheels)))
    assert "Hash mismatch" in result["msg"]


def test_a_wheelhouse_needs_no_index(build: Build, wheels: Path, tmp_path: Path) -> None:
    house = ("wheelhouse", str(wheels), sorted(os.listdir(wheels)))
    sent = source(tmp_path / "source", hashed(wheels, "lib", "low"))
    arguments = {"index_url": "http://127.0.0.1:9/simple", "server_requirements": hashed(wheels, "server"), "import_path": "app:app"}
    result = build(REQUIREMENTS | {"wheelhouse": True}, sent, house, **arguments)
    assert "failed" not in result, result["msg"]
    assert packages(result) == {"lib": "1.0", "low": "2.0", "server": "3.0"}
    release = tmp_path / "releases/one"
    assert sorted(path.name for path in release.iterdir()) == [".venv", "app", "release.json"]
    assert sorted(path.name for path in (release / "app").iterdir()) == ["app.py", "requirements.txt"]


def locked(directory: Path, wheels: Path, index: str) -> tuple[str, str, list[str]]:
    """A project with a uv.lock that names an index."""
    low = next(wheels.glob("low-*"))
    files = index.removesuffix("/simple") + "/files"
    lock = f"""
version = 1
revision = 3
requires-python = ">=3.11"
[[package]]
name = "shop"
version = "1"
source = {{ virtual = "." }}
dependencies = [{{ name = "low" }}]
[package.metadata]
requires-dist = [{{ name = "low" }}]
[[package]]
name = "low"
version = "2.0"
source = {{ registry = "{index}" }}
wheels = [{{ url = "{files}/{low.name}", hash = "{digest(low)}", size = {low.stat().st_size} }}]
"""
    directory.mkdir()
    (directory / "pyproject.toml").write_text(
        '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.11"\ndependencies = ["low"]\n'
    )
    return source(directory, lock, "uv.lock")


LOCK = {"lock": "source/uv.lock", "format": "uv"}


def test_uv_lock_finds_the_private_index_that_it_names(build: Build, wheels: Path, index: str, tmp_path: Path) -> None:
    sent = locked(tmp_path / "source", wheels, index)
    assert "401" in build(LOCK, sent)["msg"]
    result = build(LOCK, sent, indexes=[{"url": index, "username": USER, "password": PASSWORD}])
    assert "failed" not in result, result["msg"]
    assert packages(result) == {"low": "2.0"}


def test_uv_lock_works_without_an_index_too(build: Build, wheels: Path, tmp_path: Path) -> None:
    sent = locked(tmp_path / "source", wheels, "https://packages.example.org/simple")
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    result = build(LOCK | {"wheelhouse": True}, sent, house)
    assert "failed" not in result, result["msg"]
    assert packages(result) == {"low": "2.0"}


def test_changed_code_takes_over_the_packages(build: Build, wheels: Path, tmp_path: Path) -> None:
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    lock = hashed(wheels, "lib", "low")
    sent = source(tmp_path / "source", lock)
    recipe = REQUIREMENTS | {"wheelhouse": True}
    assert build(recipe, sent, house)["changed"] is True
    (tmp_path / "source/app.py").write_text("app = 2\n")
    # Nothing could be installed any more.
    assert build(recipe, sent, ("wheelhouse", str(tmp_path / "source"), ["app.py"]), id="two")["changed"] is True
    modules = [tmp_path / f"releases/{name}/.venv" / "lib" for name in ("one", "two")]
    one, two = (next(path.glob("python*/site-packages/lib/__init__.py")).stat() for path in modules)
    assert one.st_ino == two.st_ino
    assert len(list(modules[1].glob("python*/site-packages/lib/__pycache__/*.pyc"))) == 1
    (tmp_path / "source/requirements.txt").write_text(hashed(wheels, "low"))
    result = build(recipe, sent, house, id="three")
    assert packages(result) == {"low": "2.0"}


def test_bytecode_is_compiled_once_for_all_releases(build: Build, wheels: Path, tmp_path: Path) -> None:
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    recipe = REQUIREMENTS | {"wheelhouse": True}
    for name, lock in (("one", hashed(wheels, "lib", "low")), ("two", hashed(wheels, "low", "server"))):
        result = build(recipe, source(tmp_path / "source", lock), house, id=name)
        assert "failed" not in result, result["msg"]
    one, two = (next((tmp_path / f"releases/{name}/.venv/lib").glob("python*/site-packages")) for name in ("one", "two"))
    compiled = {path.name: path for path in (two / "low/__pycache__").iterdir()}
    assert [(one / "low/__pycache__" / name).samefile(path) for name, path in compiled.items()] == [True]
    assert list((two / "server/__pycache__").iterdir())
    # It is what Python would have made of the module that lies there, and tracebacks name that one.
    code = "import sys, low; print(low.__cached__, low.__loader__.get_code('low').co_filename)"
    command = [str(tmp_path / "releases/two/.venv/bin/python"), "-v", "-c", code]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    assert f"matches {two}/low/__init__.py" in said.stderr
    assert said.stdout.split()[1] == f"{two}/low/__init__.py"


def test_bytecode_that_a_package_brings_is_not_believed(build: Build, wheels: Path, tmp_path: Path) -> None:
    tag = sys.implementation.cache_tag
    with zipfile.ZipFile(next(wheels.glob("low-*")), "a") as zipped:
        zipped.writestr(f"low/__pycache__/__init__.{tag}.pyc", b"forged")
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    result = build(REQUIREMENTS | {"wheelhouse": True}, source(tmp_path / "source", hashed(wheels, "low")), house)
    assert "failed" not in result, result["msg"]
    [made] = (tmp_path / "releases/one/.venv/lib").glob(f"python*/site-packages/low/__pycache__/__init__.{tag}.pyc")
    assert made.read_bytes() != b"forged"


def test_a_wheel_brings_what_it_needs(build: Build, wheels: Path, tmp_path: Path) -> None:
    name = next(wheels.glob("lib-*")).name
    parts = [("extra", str(wheels), [name]), ("wheelhouse", str(wheels), os.listdir(wheels))]
    result = build({"install": [f"extra/{name}"], "wheelhouse": True}, *parts, import_path="lib:app")
    assert "failed" not in result, result["msg"]
    assert packages(result) == {"lib": "1.0", "low": "2.0"}
    assert list((tmp_path / "releases/one/app").iterdir()) == []


def test_a_requirement_with_a_lock_gets_no_more_than_the_lock_has(build: Build, wheels: Path, tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text(hashed(wheels, "lib"))
    parts = [("extra", str(tmp_path), ["lock.txt"]), ("wheelhouse", str(wheels), os.listdir(wheels))]
    recipe = {"install": ["lib==1.0"], "lock": "extra/lock.txt", "format": "requirements", "wheelhouse": True}
    assert "low" in build(recipe, *parts)["msg"]
    (tmp_path / "lock.txt").write_text(hashed(wheels, "lib", "low"))
    assert packages(build(recipe, *parts)) == {"lib": "1.0", "low": "2.0"}


def test_the_diff_names_what_changes_for_the_live_release(build: Build, wheels: Path, tmp_path: Path) -> None:
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    build(REQUIREMENTS | {"wheelhouse": True}, source(tmp_path / "source", hashed(wheels, "low", "server")), house)
    (tmp_path / "slots/blue").mkdir(parents=True)
    (tmp_path / "slots/live").symlink_to("blue")
    (tmp_path / "slots/blue/release").symlink_to("../../releases/one")
    newer = wheel(wheels, "low", "2.1")
    lock = hashed(wheels, "lib") + f"low==2.1 --hash={digest(newer)}\n"
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    result = build(REQUIREMENTS | {"wheelhouse": True}, source(tmp_path / "source", lock), house, id="two")
    assert result["diff"]["prepared"] == "+ release two\n+ lib 1.0\n~ low 2.0 -> 2.1\n- server 3.0\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"min_free": 1 << 40}, "asgi_release_min_free"),
        ({"python": "/usr/bin/python2.0"}, r"asgi_release_python.*no such program"),
        ({"uv": "/nowhere/uv"}, r"asgi_release_uv.*Apply asgi_uv first"),
        ({"python": "3.99"}, r"asgi_release_python.*3\.99.*asgi_release_python_mirror"),
        ({"import_path": "app:application"}, "asgi_import_path"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_remedy(
    build: Build, wheels: Path, tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    sent = source(tmp_path / "source", hashed(wheels, "low"))
    arguments = {"python_root": str(tmp_path / "python"), **arguments}
    result = build(REQUIREMENTS | {"wheelhouse": True}, sent, house, **arguments)
    assert result["failed"] is True
    assert re.search(said, result["msg"]), result["msg"]
    assert not (tmp_path / "releases/one").exists()


def test_another_build_that_was_interrupted_is_cleared_away_too(build: Build, wheels: Path, tmp_path: Path) -> None:
    for name, file in (("half", ".building"), ("by-hand", "README")):
        (tmp_path / "releases" / name).mkdir()
        (tmp_path / "releases" / name / file).write_text("")
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    build(REQUIREMENTS | {"wheelhouse": True}, source(tmp_path / "source", hashed(wheels, "low")), house)
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == [".lock", "by-hand", "one"]


def test_a_server_that_is_too_old_is_refused_with_the_reason(build: Build, wheels: Path, tmp_path: Path) -> None:
    wheel(wheels, "gunicorn", "21.2.0")
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    result = build(REQUIREMENTS | {"wheelhouse": True}, source(tmp_path / "source", hashed(wheels, "gunicorn")), house)
    assert "gunicorn 21.2.0, and 22 or later is needed" in result["msg"]


@pytest.fixture
def hooked(build: Build, wheels: Path, tmp_path: Path) -> Build:
    """Build with commands of the application's own."""
    house = ("wheelhouse", str(wheels), os.listdir(wheels))

    def run(recipe: dict[str, Any], **arguments: Any) -> dict[str, Any]:
        sent = source(tmp_path / "source", hashed(wheels, "lib", "low"))
        return build(REQUIREMENTS | {"wheelhouse": True} | recipe, sent, house, **arguments)

    return run


def test_commands_write_into_the_release(hooked: Build, tmp_path: Path) -> None:
    before = [["sh", "-c", "pwd -P > before; ! command -v uvicorn"]]
    code = "import lib, os, sys; open('after', 'w').write(f'{lib.VERSION} {sys.prefix} {os.environ[\"MODE\"]}')"
    result = hooked({"before_build": before, "after_build": [["python", "-c", code]]}, build_environment={"MODE": "full"})
    assert "failed" not in result, result["msg"]
    app = tmp_path / "releases/one/app"
    assert (app / "before").read_text() == f"{app}\n"
    assert (app / "after").read_text() == f"1.0 {app.parent}/.venv full"
    assert [step["step"] for step in result["steps"] if "build" in step["step"]] == ["before_build", "after_build"]


def test_a_package_is_built_of_what_commands_have_left(hooked: Build, tmp_path: Path) -> None:
    backend = """
import zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "shop-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.write("made.py")
        wheel.writestr("shop-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: shop\\nVersion: 1\\n")
        wheel.writestr("shop-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("shop-1.dist-info/RECORD", "")
    return name
"""
    (tmp_path / "source").mkdir()
    (tmp_path / "source/backend.py").write_text(backend)
    (tmp_path / "source/pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "shop"\nversion = "1"\n'
    )
    command = [["sh", "-c", "echo 'app = 1' > made.py"]]
    result = hooked({"install": ["source"], "before_build": command}, import_path="made:app")
    assert "failed" not in result, result["msg"]
    assert packages(result)["shop"] == "1"


def test_a_package_of_one_module_is_built_again_and_again(build: Build, wheels: Path, tmp_path: Path) -> None:
    """Its bytecode lies beside that of others, and the package of the release before is taken out again."""
    backend = """
import base64, hashlib, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "single-1-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as wheel:
        wheel.write("single.py")
        wheel.writestr("single-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: single\\nVersion: 1\\n\\n" + open("README").read())
        wheel.writestr("single-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("single-1.dist-info/RECORD", "")
    return name
"""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "backend.py").write_text(backend)
    (folder / "single.py").write_text("import lib\napp = 1\n")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "single"\nversion = "1"\n'
    )
    house = ("wheelhouse", str(wheels), os.listdir(wheels))
    tag = sys.implementation.cache_tag
    for number, app in enumerate(("1", "1", "2")):
        (folder / "README").write_text(f"{number}")
        (folder / "single.py").write_text(f"import lib\napp = {app}\n")
        sent = source(folder, hashed(wheels, "lib", "low"))
        recipe = REQUIREMENTS | {"wheelhouse": True, "install": ["source"]}
        result = build(recipe, sent, house, id=f"r{number}", import_path="single:app")
        assert "failed" not in result, result["msg"]
        [made] = (tmp_path / f"releases/r{number}/.venv/lib").glob(f"python*/site-packages/__pycache__/single.{tag}.pyc")
        python = tmp_path / f"releases/r{number}/.venv/bin/python"
        said = subprocess.run([python, "-v", "-c", "import single; print(single.app)"], capture_output=True, text=True, check=True)
        assert said.stdout == f"{app}\n"
        assert f"matches {made.parents[1]}/single.py" in said.stderr


def test_a_command_that_fails_fails_the_build_with_its_own_words(hooked: Build, tmp_path: Path) -> None:
    for command, said in (
        (["sh", "-c", "echo 'no manifest'; echo 'at line 3' >&2; exit 3"], r"asgi_release_after_build: .*no manifest\nat line 3"),
        (["sh", "-c", "exit 3"], "ended with 3 and said nothing"),
    ):
        result = hooked({"after_build": [command]})
        assert re.search(said, result["msg"]), result["msg"]
        assert [path.name for path in (tmp_path / "releases").iterdir()] == [".lock"]


def test_the_values_of_the_environment_are_not_shown(hooked: Build, tmp_path: Path) -> None:
    command = ["sh", "-c", "echo $TOKEN $LEVEL; exit 1"]
    result = hooked({"after_build": [command]}, build_environment={"TOKEN": "hunter2-of-npm", "LEVEL": "1"})
    assert "hunter2" not in str(result)
    assert "******** 1" in result["msg"]
    # A short value is not blotted out of everything else.
    assert f"{tmp_path}/releases/one" in result["msg"]


def static_release(hooked: Build, identity: str, files: dict[str, str]) -> dict[str, Any]:
    write = "; ".join(f"mkdir -p assets/{Path(name).parent}; echo {text} > assets/{name}" for name, text in files.items())
    return hooked({"after_build": [["sh", "-c", write]], "static": ["assets"]}, id=identity)


def test_static_files_of_all_releases_are_in_one_tree(hooked: Build, tmp_path: Path) -> None:
    assert static_release(hooked, "one", {"app.1.css": "one", "logo.svg": "old", "img/a.png": "a"})["changed"] is True
    assert static_release(hooked, "two", {"app.2.css": "two", "logo.svg": "new"})["changed"] is True
    union = tmp_path / "static"
    found = {str(path.relative_to(union)): path.read_text() for path in union.rglob("*") if path.is_file() and path.name != ".lock"}
    assert found == {
        "assets/app.1.css": "one\n",
        "assets/app.2.css": "two\n",
        "assets/logo.svg": "new\n",
        "assets/img/a.png": "a\n",
    }
    assert (union / "assets/app.1.css").samefile(tmp_path / "releases/one/app/assets/app.1.css")


def test_static_files_that_are_not_there_fail_the_build(hooked: Build, tmp_path: Path) -> None:
    assert "asgi_release_static names assets" in hooked({"static": ["assets"]})["msg"]
    result = hooked({"static": ["assets"], "after_build": [["ln", "-s", "/etc", "assets"]]})
    assert "a link to /etc, which is outside of the release" in result["msg"]
    assert not (tmp_path / "static").exists()


def test_shared_paths_are_links(hooked: Build, tmp_path: Path) -> None:
    recipe = {"shared": ["media", "data/uploads"]}
    assert hooked(recipe, shared_root="/var/lib/shop")["changed"] is True
    app = tmp_path / "releases/one/app"
    assert (app / "media").readlink() == Path("/var/lib/shop/media")
    assert (app / "data/uploads").readlink() == Path("/var/lib/shop/data/uploads")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("mkdir -p data/uploads; touch data/uploads/x", r"the build left .*/data/uploads.*asgi_release_shared"),
        ("ln -s . data", r"data is no directory"),
        ("ln -s /tmp data", r"data, a link to /tmp, which is outside of the release"),
    ],
)
def test_a_shared_path_never_replaces_what_a_build_has_left(hooked: Build, command: str, said: str) -> None:
    result = hooked({"shared": ["data/uploads"], "after_build": [["sh", "-c", command]]}, shared_root="/var/lib/shop")
    assert re.search(said, result["msg"]), result["msg"]
    assert not Path("/tmp/uploads").is_symlink()
