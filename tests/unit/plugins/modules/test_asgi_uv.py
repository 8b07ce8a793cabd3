from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.modules import asgi_uv

# Stands for python3 and for the python of the environment that it makes. "pip" writes down what it was told and
# installs a uv that reports $REPORT.
PYTHON = """#!/bin/sh
case $2 in
venv)
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    ;;
pip)
    if [ -n "$FAIL" ]; then
        echo "ERROR: No matching distribution found" >&2
        exit 1
    fi
    for option; do
        case $option in --requirement=*) cp "${option#*=}" "$LOG/requirements" ;; esac
    done
    env >"$LOG/environment"
    echo "$@" >"$LOG/arguments"
    for program in uv uvx; do
        printf '#!/bin/sh\\necho "uv %s (x86_64-unknown-linux-gnu)"\\n' "$REPORT" >"${0%/*}/$program"
        chmod +x "${0%/*}/$program"
    done
    ;;
esac
"""

Run = Callable[..., dict[str, Any]]


class Host:
    """A directory that stands for /opt/uv, and a way to run the module on it."""

    def __init__(self, path: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.log, self.monkeypatch, self._run_module = path / "uv", path / "log", monkeypatch, run_module
        self.log.mkdir()
        self.python = path / "python3"
        self.python.write_text(PYTHON, encoding="utf-8")
        self.python.chmod(0o755)
        monkeypatch.setenv("LOG", str(self.log))
        monkeypatch.setenv("REPORT", "0.13.8")

    def run(self, **arguments: Any) -> dict[str, Any]:
        paths = {"root": str(self.root), "python": str(self.python)}
        return self._run_module(asgi_uv.main, version="0.13.8", **paths, **arguments)

    def names(self) -> list[str]:
        """What is below the root, without directories."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if not path.is_dir())

    def said(self, name: str) -> str:
        return (self.log / name).read_text(encoding="utf-8")


@pytest.fixture
def host(tmp_path: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    # What an administrator's login may have; the module sets its own and that outlives it in this process.
    before = os.umask(0o077)
    yield Host(tmp_path, run_module, monkeypatch)
    os.umask(before)


COMPLETE = [".lock", "0.13.8/bin/uv", "0.13.8/bin/uvx"]


def test_installs_once(host: Host) -> None:
    result = host.run()
    assert (result["changed"], result["installed"], result["path"]) == (True, False, str(host.root / COMPLETE[1]))
    assert result["diff"]["before"] == "absent\n"
    assert host.names() == COMPLETE
    again = host.run()
    assert (again["changed"], again["installed"]) == (False, True)


def test_everybody_may_run_it_whatever_the_umask(host: Host) -> None:
    host.run()
    for path in [host.root, host.root / "0.13.8", host.root / "0.13.8/bin", *(host.root / name for name in COMPLETE[1:])]:
        assert path.stat().st_mode & 0o777 == 0o755, path


def test_check_mode_writes_nothing(host: Host) -> None:
    result = host.run(check=True)
    assert (result["changed"], result["installed"]) == (True, False)
    assert not host.root.exists()


@pytest.mark.parametrize("content", ["", "\x7fELF cut off", "#!/bin/sh\necho uv 0.13.7\n", "#!/bin/sh\nexit 1\n"])
def test_replaces_what_does_not_report_the_version(host: Host, content: str) -> None:
    broken = host.root / COMPLETE[1]
    broken.parent.mkdir(parents=True)
    broken.write_text(content, encoding="utf-8")
    broken.chmod(0o755)
    assert host.run()["changed"]
    assert host.names() == COMPLETE


def test_other_versions_stay(host: Host) -> None:
    other = host.root / "0.12.0/bin/uv"
    other.parent.mkdir(parents=True)
    other.write_text("older", encoding="utf-8")
    host.run()
    assert host.names() == [".lock", "0.12.0/bin/uv", *COMPLETE[1:]]


def test_removes_what_a_run_left_that_broke_off(host: Host) -> None:
    left = host.root / ".0.13.8.partial/venv/lib/half"
    left.parent.mkdir(parents=True)
    left.touch()
    assert host.run()["changed"]
    assert host.names() == COMPLETE


def test_cleans_up_behind_a_run_that_broke_off_at_its_very_end(host: Host) -> None:
    host.run()
    (host.root / ".0.13.8.partial").mkdir()
    host.monkeypatch.setenv("FAIL", "there is nothing to fetch")
    result = host.run()
    assert result["changed"]
    assert not (host.root / ".0.13.8.partial").exists()
    assert not host.run()["changed"]


def test_a_failed_download_leaves_nothing_and_names_what_to_check(host: Host) -> None:
    host.monkeypatch.setenv("FAIL", "yes")
    result = host.run()
    assert result["failed"]
    for part in ["0.13.8", "No matching distribution", "the index", "the proxies"]:
        assert part in result["msg"]
    assert [path.name for path in host.root.iterdir()] == [".lock"]


def test_a_failed_download_leaves_the_broken_one(host: Host) -> None:
    broken = host.root / COMPLETE[1]
    broken.parent.mkdir(parents=True)
    broken.write_text("cut off", encoding="utf-8")
    host.monkeypatch.setenv("FAIL", "yes")
    assert host.run()["failed"]
    assert host.names() == COMPLETE[:2]


def test_a_package_with_another_version_in_it_is_refused(host: Host) -> None:
    host.monkeypatch.setenv("REPORT", "0.1.0")
    result = host.run()
    assert result["failed"]
    assert "'0.1.0'" in result["msg"]
    assert [path.name for path in host.root.iterdir()] == [".lock"]


def test_a_program_that_does_not_run_is_refused(host: Host) -> None:
    host.monkeypatch.setenv("REPORT", '$(exit 1)" && exit 1 #')
    result = host.run()
    assert result["failed"]
    assert "noexec" in result["msg"]
    assert [path.name for path in host.root.iterdir()] == [".lock"]


def test_no_python(host: Host) -> None:
    host.python.unlink()
    result = host.run()
    assert result["failed"]
    assert "could not make a virtual environment" in result["msg"]
    assert [path.name for path in host.root.iterdir()] == [".lock"]


def test_settings_reach_pip_in_its_environment_only(host: Host) -> None:
    settings = {
        "index_url": "https://deploy:hunter2@packages.example.org/simple",
        "http_proxy": "http://proxy.example.org:3128",
        "https_proxy": "http://user:hunter3@proxy.example.org:3128",
        "no_proxy": "localhost,.example.org",
        "ca_bundle": "/etc/ssl/private-ca.pem",
    }
    host.monkeypatch.setenv("HTTPS_PROXY", "http://of-the-login")
    result = host.run(**settings)
    environment = host.said("environment").splitlines()
    for name, option in [
        ("PIP_INDEX_URL", "index_url"),
        ("PIP_CERT", "ca_bundle"),
        ("http_proxy", "http_proxy"),
        ("https_proxy", "https_proxy"),
        ("no_proxy", "no_proxy"),
    ]:
        assert f"{name}={settings[option]}" in environment
    assert "hunter" not in host.said("arguments") + host.said("requirements") + str(result)


def test_nothing_set_leaves_the_host_as_it_is_configured(host: Host) -> None:
    ours = {"PIP_INDEX_URL", "PIP_CERT", "http_proxy", "https_proxy", "no_proxy"}
    for name in ours:
        host.monkeypatch.delenv(name, raising=False)
    host.run()
    assert ours.isdisjoint(line.split("=")[0] for line in host.said("environment").splitlines())


def test_requirement() -> None:
    assert asgi_uv.requirement("0.13.8", []) == "uv==0.13.8\n"
    assert asgi_uv.requirement("0.13.8", ["sha256:aa", "sha256:bb"]) == ("uv==0.13.8 --hash=sha256:aa --hash=sha256:bb\n")
