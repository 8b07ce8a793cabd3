"""Which packages are there, which are missing, and which must not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.packages import (
    changes,
    contradicts,
    installed_packages,
    missing_requirements,
    normalise,
    too_old,
)

SERVER = """\
# made by uv pip compile
gunicorn==27.0.1 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via -r server-requirements.in
h11==0.16.0 \\
    --hash=sha256:cc
Uvicorn_Worker==0.4.0 ; python_version < '4' \\
    --hash=sha256:dd
"""


@pytest.mark.parametrize(
    ("installed", "kept"),
    [
        (set(), ["gunicorn", "h11", "Uvicorn_Worker"]),
        ({"h11"}, ["gunicorn", "Uvicorn_Worker"]),
        ({"uvicorn-worker", "gunicorn"}, ["h11"]),
        ({"gunicorn", "h11", "uvicorn-worker"}, []),
        ({"uvicorn", "gunicorn-extra"}, ["gunicorn", "h11", "Uvicorn_Worker"]),
    ],
)
def test_requirements_are_kept_or_dropped_with_their_hashes(installed: set[str], kept: list[str]) -> None:
    text = missing_requirements(SERVER, dict.fromkeys(installed, "1"))
    assert [line.split("==")[0] for line in text.splitlines() if "==" in line and not line.startswith(" ")] == kept
    assert ("sha256:bb" in text) is ("gunicorn" in kept)
    assert ("sha256:cc" in text) is ("h11" in kept)
    assert "made by" not in text


def test_extras_and_urls_do_not_hide_a_package() -> None:
    text = "uvicorn[standard]==1\nhttptools;python_version>'3'\nanyio @ https://example.org/anyio.whl\n"
    assert missing_requirements(text, {"uvicorn": "1", "httptools": "1", "anyio": "1"}) == ""


def test_the_packages_of_an_environment_are_read_from_their_metadata(tmp_path: Path) -> None:
    site = tmp_path / "lib/python3.13/site-packages"
    for name in ("Foo_Bar-1.2.dist-info", "zope.interface-7.0.1.dist-info", "foo_bar", "x.pth"):
        (site / name).mkdir(parents=True)
    assert installed_packages(str(tmp_path)) == {"foo-bar": "1.2", "zope-interface": "7.0.1"}
    assert installed_packages(str(tmp_path / "nowhere")) == {}


@pytest.mark.parametrize(
    ("packages", "said"),
    [
        ({"gunicorn": "21.2.0"}, "gunicorn 21.2.0, and 22 or later is needed: older ones let requests be smuggled"),
        ({"gunicorn": "20.1.0rc1"}, "gunicorn 20.1.0rc1"),
        ({"uvicorn": "0.29.0"}, "uvicorn 0.29.0, and 0.30 or later"),
        ({"gunicorn": "22.0.0", "uvicorn": "0.30.0", "h11": "0.14.0"}, ""),
        ({"gunicorn": "27.0.1", "uvicorn": "0.54.0"}, ""),
        ({"gunicorn": ""}, ""),
        ({"django": "1.0"}, ""),
    ],
)
def test_servers_that_are_too_old_are_named_with_the_reason(packages: dict[str, str], said: str) -> None:
    found = " ".join(too_old(packages))
    assert said in found
    assert bool(said) is bool(found)


@pytest.mark.parametrize(
    ("complaints", "meant"),
    [
        ("The package `alpha` requires `beta<2`, but `2.1` is installed", False),
        ("The package `alpha[x]` requires `beta[y]>=1`, but it's not installed", False),
        ("The package `alpha` requires `H11<0.15`, but `0.16` is installed", True),
        (
            "The package `alpha` requires `beta`, but\nThe package `uvicorn` requires `beta`, but",
            True,
        ),
        ("error: no such environment", True),
    ],
)
def test_a_complaint_is_of_the_server_or_not(complaints: str, meant: bool) -> None:
    server = "# from h11\nuvicorn==0.54.0 \\\n    --hash=sha256:aa\nh11==0.16.0\n"
    assert contradicts(f"'uv pip check' failed in /x: Checked 3 packages\n{complaints}", server) is meant


def test_what_changes_is_what_comes_what_goes_and_what_differs() -> None:
    old, new = {"a": "1", "b": "1", "c": "1"}, {"b": "2", "c": "1", "d": "1"}
    assert changes(old, new) == [
        {"name": "a", "old": "1", "new": ""},
        {"name": "b", "old": "1", "new": "2"},
        {"name": "d", "old": "", "new": "1"},
    ]


def test_names_are_compared_as_indexes_do() -> None:
    assert normalise("Foo_.Bar") == "foo-bar"
