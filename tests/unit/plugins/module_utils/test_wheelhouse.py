"""What is fetched on the controller, and what is asked of a package for it. pip itself runs in the scenario."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.lockfile import Pinned
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError
from ansible_collections.steadfast.asgi.plugins.module_utils.target import Target
from ansible_collections.steadfast.asgi.plugins.module_utils.wheelhouse import Wheels, build_requirements, wants_of

TARGET = Target.of(
    {"libc": "glibc 2.36", "markers": {"python_version": "3.11", "python_full_version": "3.11.2", "platform_machine": "x86_64"}}
)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Wheels:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "own").mkdir()
    with zipfile.ZipFile(tmp_path / "own/steadfast_probe-1.0-py3-none-any.whl", "w") as zipped:
        zipped.writestr("steadfast_probe-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: steadfast-probe\nVersion: 1.0\n")
        zipped.writestr("steadfast_probe-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        zipped.writestr("steadfast_probe-1.0.dist-info/RECORD", "")
    return Wheels(TARGET, {"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1"}, str(tmp_path / "own"))


def test_what_was_fetched_is_not_fetched_again(wheels: Wheels, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = wheels.resolve(["steadfast-probe"], "pyproject.toml")
    assert [(each.name, each.version) for each in packages] == [("steadfast-probe", "1.0")]
    directory = wheels.fetch(packages, "uv.lock")
    assert os.listdir(directory) == ["steadfast_probe-1.0-py3-none-any.whl"]
    monkeypatch.setattr(wheels, "_run", lambda *_: pytest.fail("something was run"))
    assert wheels.fetch(wheels.resolve(["steadfast-probe"], "pyproject.toml"), "uv.lock") == directory


def test_nothing_is_fetched_for_nothing(wheels: Wheels) -> None:
    assert os.listdir(wheels.fetch([], "uv.lock")) == []


def test_what_has_no_wheel_leaves_nothing_behind(wheels: Wheels, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(SourceError, match=r"no wheel of steadfast-probe==2\.0 for Python 3\.11 on x86_64 with glibc 2\.36"):
            wheels.fetch([Pinned("steadfast-probe", "2.0")], "uv.lock")
    assert [path for path in (tmp_path / "cache/steadfast.asgi/wheels").iterdir() if path.is_dir()] == []


def test_a_wheel_with_another_digest_is_refused(wheels: Wheels) -> None:
    with pytest.raises(SourceError, match=r"(?s)cannot be fetched.*HASHES"):
        wheels.fetch([Pinned("steadfast-probe", "1.0", (f"sha256:{64 * '0'}",))], "uv.lock")


def test_a_package_that_no_index_has_is_refused(wheels: Wheels) -> None:
    with pytest.raises(SourceError, match=r"low comes from git\+https://\*\*\*\*@example.org/low, and not from an index"):
        wheels.fetch([Pinned("low", "1", (), "git+https://me:hunter2@example.org/low")], "uv.lock")


def test_a_package_says_what_it_needs(tmp_path: Path, wheels: Wheels) -> None:
    assert wants_of(str(tmp_path / "own/steadfast_probe-1.0-py3-none-any.whl")) == ([], [])
    assert wheels.own
    files = {
        "shop-1/PKG-INFO": "Metadata-Version: 2.2\nName: shop\nVersion: 1\nRequires-Dist: low>=1\nRequires-Dist: other\n",
        "shop-1/pyproject.toml": '[build-system]\nrequires = ["hatchling"]\n',
    }
    path = tmp_path / "shop-1.tar.gz"
    with tarfile.open(path, "w:gz") as stream:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            stream.addfile(info, io.BytesIO(content.encode()))
    assert wants_of(str(path)) == (["low>=1", "other"], ["hatchling"])
    assert build_requirements({}) == ["setuptools"]
