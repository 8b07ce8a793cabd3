"""What pyproject.toml promises."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from app import __version__

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_the_same_in_both_places() -> None:
    assert PYPROJECT["project"]["version"] == __version__


def test_every_package_is_pinned_exactly() -> None:
    """The lock is made anew wherever it is needed, so it must have no choice."""
    requirements = [
        *PYPROJECT["project"]["dependencies"],
        *PYPROJECT["dependency-groups"]["dev"],
        *PYPROJECT["tool"]["uv"]["constraint-dependencies"],
    ]
    pins = {}
    for requirement in requirements:
        match = re.fullmatch(r"([a-z0-9-]+)(?:\[[a-z]+\])?==([0-9.]+)", requirement)
        assert match, f"{requirement} is not pinned exactly"
        pins[match[1]] = match[2]

    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    locked = {package["name"]: package.get("version") for package in lock["package"]}
    del locked["notes"]
    assert locked == pins
