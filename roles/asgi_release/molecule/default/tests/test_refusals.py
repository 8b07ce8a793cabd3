"""A source that cannot be deployed is refused before anything is changed, by a message that names the variable."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

PLAIN = Path(os.environ["STEADFAST_ROOT"]) / "tests/apps/plain"
BAD: dict[str, tuple[dict[str, Any], list[str]]] = {
    "name": ({"asgi_release_app": "a/b"}, ["asgi_release_app"]),
    "no_source": ({"asgi_release_source": ""}, ["asgi_source", "not a directory"]),
    "missing_source": ({"asgi_release_source": "/nowhere"}, ["asgi_source", "/nowhere", "not a directory"]),
    "no_lock": ({"asgi_release_source": "{no_lock}"}, ["asgi_source", "uv.lock", "uv lock --project"]),
    "no_project": ({"asgi_release_source": "{no_project}"}, ["asgi_source", "pyproject.toml"]),
    "bad_project": ({"asgi_release_source": "{bad_project}"}, ["pyproject.toml cannot be read"]),
    "import_form": ({"asgi_release_import_path": "plain"}, ["asgi_import_path", "module:object"]),
    "import_module": ({"asgi_release_import_path": "nowhere:app"}, ["asgi_import_path", "package nowhere"]),
    "import_object": ({"asgi_release_import_path": "plain:nothing"}, ["asgi_import_path", "no 'nothing'"]),
    "import_syntax": (
        {"asgi_release_source": "{bad_syntax}"},
        ["asgi_import_path", "plain.py is not valid Python", "line 1"],
    ),
    "python": ({"asgi_release_python": "python3; reboot"}, ["asgi_release_python"]),
    "uv": ({"asgi_release_uv": "../uv"}, ["asgi_release_uv"]),
}


@pytest.fixture(scope="module")
def refusals(refusals_of: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    sources = {}
    for name, changes in {
        "no_lock": {"uv.lock": None},
        "no_project": {"pyproject.toml": None},
        "bad_project": {"pyproject.toml": "[project"},
        "bad_syntax": {"plain.py": "def app(:"},
    }.items():
        folder = tmp_path_factory.mktemp(name)
        for path in PLAIN.glob("*.*"):
            text = changes.get(path.name, path.read_text(encoding="utf-8"))
            if text is not None:
                (folder / path.name).write_text(text, encoding="utf-8")
        sources[name] = str(folder)
    good = {"asgi_release_app": "refused", "asgi_release_source": str(PLAIN), "asgi_release_import_path": "plain:app"}
    cases = {name: good | {key: str(value).format(**sources) for key, value in variables.items()} for name, (variables, _) in BAD.items()}
    return refusals_of("asgi_release", cases)


@pytest.mark.parametrize("case", BAD)
def test_refused_by_name(refusals: dict[str, dict[str, str]], case: str) -> None:
    for host, said in refusals.items():
        for part in BAD[case][1]:
            assert part in said.get(case, "(not refused)"), f"{host}: {said.get(case)}"
