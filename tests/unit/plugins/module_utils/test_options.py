from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import options


class Server:
    """Takes options as uvicorn's Config and granian's Server do."""

    def __init__(self, target: str, ws_max_size: int = 1, runtime_threads: int = 1) -> None: ...


class Config:
    """Has options as hypercorn's Config does."""

    workers = 1
    keep_alive_timeout = 5
    _private = 0

    @property
    def log(self) -> str:
        return ""

    def create_sockets(self) -> None: ...


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules with those names in them that the real ones have. (The scenario of asgi_service asks the real ones.)"""
    modules: dict[str, Any] = {
        "gunicorn.config": {"KNOWN_SETTINGS": [SimpleNamespace(name="limit_request_line"), SimpleNamespace(name="umask")]},
        "uvicorn.config": {"Config": Server},
        "uvicorn.main": {"main": SimpleNamespace(params=[SimpleNamespace(name="ws_ping_interval")])},
        "hypercorn.config": {"Config": Config},
        "granian.server": {"Server": Server},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
        package = name.partition(".")[0]
        monkeypatch.setitem(sys.modules, package, ModuleType(package))


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("gunicorn", {"umask", "target", "ws_max_size", "runtime_threads"}),
        ("gunicorn/asgi", {"limit_request_line", "umask"}),
        ("uvicorn", {"ws_ping_interval"}),
        ("hypercorn", {"workers", "keep_alive_timeout", "log"}),
        ("granian", {"target", "ws_max_size", "runtime_threads"}),
    ],
)
def test_each_server_is_asked_in_its_own_way(server: str, expected: set[str]) -> None:
    assert options.known(server) == expected


def test_what_it_has_is_accepted_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    assert options.main(["gunicorn", "umask", "ws_max_size"]) == 0
    assert options.main(["granian"]) == 0
    assert capsys.readouterr() == ("", "")


def test_what_it_does_not_have_is_named_with_what_is_near(capsys: pytest.CaptureFixture[str]) -> None:
    assert options.main(["granian", "runtime_treads", "ws_max_size", "colour"]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "asgi_service_options has runtime_treads, but granian has no option of this name; did you mean runtime_threads?"
    assert second == "asgi_service_options has colour, but granian has no option of this name; see granian's own documentation."


def test_what_only_uvicorn_has_is_not_for_gunicorn_s_own_worker(capsys: pytest.CaptureFixture[str]) -> None:
    assert options.main(["gunicorn/asgi", "umask"]) == 0
    assert options.main(["gunicorn/asgi", "ws_max_size"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("asgi_service_options has ws_max_size, but gunicorn with its own asgi worker has no option of this name; ")


def test_what_only_gunicorn_s_own_workers_heed_is_not_for_uvicorn_s(capsys: pytest.CaptureFixture[str]) -> None:
    assert options.main(["gunicorn", "limit_request_line"]) == 1
    assert "limit_request_line, which gunicorn leaves to its workers, and those on uvicorn do not heed it" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "granian.server", None)
    assert options.main(["granian", "loop"]) == 1
    assert "granian is not in" in capsys.readouterr().err
