"""A source that cannot be deployed is refused before anything is changed, by a message that names the variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

PLAIN = Path(__file__).resolve().parents[4] / "tests/apps/plain"
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
    "python_version": ({"asgi_release_python": "latest"}, ["asgi_release_python", "3.13"]),
    "uv": ({"asgi_release_uv": "../uv"}, ["asgi_release_uv"]),
    "builder_root": ({"asgi_release_build_user": "root"}, ["asgi_release_build_user", "neither root nor"]),
    "builder_app": ({"asgi_release_build_user": "refused"}, ["asgi_release_build_user", "neither root nor"]),
    "up": ({"asgi_release_subdirectory": "../other"}, ["asgi_release_subdirectory", "without '..'"]),
    "group": ({"asgi_release_groups": ["--all"]}, ["asgi_release_groups", "--all"]),
    "groups": ({"asgi_release_groups": {"a": "b"}}, ["asgi_release_groups", "list"]),
    "unknown_extra": ({"asgi_release_extras": ["fast"]}, ["asgi_release_extras names fast"]),
    "shell": ({"asgi_release_after_build": ["npm ci && npm run build"]}, ["asgi_release_after_build", "only a shell"]),
    "quote": ({"asgi_release_before_build": ["sh -c 'true"]}, ["asgi_release_before_build", "Close the quote"]),
    "no_words": ({"asgi_release_after_build": [[]]}, ["asgi_release_after_build", "a list of its words"]),
    "command_text": ({"asgi_release_after_build": {"run": "true"}}, ["asgi_release_after_build", "list"]),
    "environment_name": ({"asgi_release_build_environment": {"A B": "hunter2"}}, ["asgi_release_build_environment", "'A B'"]),
    "environment_value": ({"asgi_release_build_environment": {"A": ["hunter2"]}}, ["asgi_release_build_environment", "value of A"]),
    "static_up": ({"asgi_release_static": ["../static"]}, ["asgi_release_static", "without '..'"]),
    "static_quote": ({"asgi_release_static": ["a b"]}, ["asgi_release_static", "letters, digits"]),
    "shared_root": ({"asgi_release_shared": ["/etc"]}, ["asgi_shared", "without '..'"]),
    "shared_up": ({"asgi_release_shared": ["media/../../etc"]}, ["asgi_shared", "without '..'"]),
    "shared_twice": ({"asgi_release_shared": ["media", "media/x"]}, ["asgi_shared", "twice"]),
    "shared_code": ({"asgi_release_shared": ["plain.py"]}, ["asgi_shared", "plain.py"]),
    "offline": ({"asgi_release_offline": "often"}, ["asgi_release_offline", "bool"]),
    "wheelhouse": ({"asgi_release_wheelhouse": "/nowhere"}, ["asgi_release_wheelhouse", "asgi_release_offline"]),
    "keep": ({"asgi_release_keep": 0}, ["asgi_release_keep", "at least 1"]),
    "min_free": ({"asgi_release_min_free": -1}, ["asgi_release_min_free", "at least 0"]),
    "mirror": ({"asgi_release_python_mirror": "mirror.example.org"}, ["asgi_release_python_mirror", "https://"]),
    "downloads": ({"asgi_release_python_downloads": "/srv/list.json"}, ["asgi_release_python_downloads", "https://"]),
    "index": ({"asgi_release_index_url": "https://me:hunter2@example.org/ --pre"}, ["asgi_release_index_url", "without spaces"]),
    "indexes": ({"asgi_release_indexes": [{"url": "https://me:hunter2@example.org/"}]}, ["asgi_release_indexes", "username"]),
    "proxy": ({"asgi_release_https_proxy": "me:hunter2@proxy:3128"}, ["asgi_release_https_proxy", "http://"]),
    "checksum": ({"asgi_release_source": "{wheel}", "asgi_release_checksum": "sha256:abc"}, ["asgi_release_checksum", "sha256sum"]),
    "floating": ({"asgi_release_source": "datasette>=0.65"}, ["asgi_source", "datasette==0.65.5"]),
    "password": ({"asgi_release_source": "git+https://me:hunter2@example.org/x.git"}, ["asgi_source", "asgi_release_git_key"]),
    "url": ({"asgi_release_source": "https://example.org/x.tar.gz"}, ["asgi_source", "asgi_release_checksum"]),
    "stale_lock": ({"asgi_release_source": "{stale_lock}"}, ["does not match pyproject.toml", "uv lock --project"]),
}


@pytest.fixture(scope="module")
def refusals(refusals_of: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    sources = {}
    for name, changes in {
        "no_lock": {"uv.lock": None},
        "no_project": {"pyproject.toml": None},
        "bad_project": {"pyproject.toml": "[project"},
        "bad_syntax": {"plain.py": "def app(:"},
        "stale_lock": {"pyproject.toml": '[project]\nname = "plain"\nversion = "1.0"\ndependencies = ["starlette"]\n'},
    }.items():
        folder = tmp_path_factory.mktemp(name)
        for path in PLAIN.glob("*.*"):
            text = changes.get(path.name, path.read_text(encoding="utf-8"))
            if text is not None:
                (folder / path.name).write_text(text, encoding="utf-8")
        sources[name] = str(folder)
    good = {"asgi_release_app": "refused", "asgi_release_source": str(PLAIN), "asgi_release_import_path": "plain:app"}
    sources["wheel"] = f"{sources['no_lock']}/plain-1.0-py3-none-any.whl"
    Path(sources["wheel"]).write_text("", encoding="utf-8")

    def filled(value: Any) -> Any:
        return value.format(**sources) if isinstance(value, str) else value

    cases = {name: good | {key: filled(value) for key, value in variables.items()} for name, (variables, _expected) in BAD.items()}
    return refusals_of("asgi_release", cases, "debian13")


@pytest.mark.parametrize("case", BAD)
def test_refused_by_name(refusals: dict[str, dict[str, str]], case: str) -> None:
    for host, said in refusals.items():
        for part in BAD[case][1]:
            assert part in said.get(case, "(not refused)"), f"{host}: {said.get(case)}"
        assert "hunter2" not in said[case]
