"""Each host is asked about the attempts that were made on it: all of them on one release of Debian, some on the other."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out an attempt on a host that it was not made on, which is no test that was skipped."""
    left_out = [item for item in items if isinstance(item, pytest.Function) and not _was_made(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _was_made(item: pytest.Function) -> bool:
    asked = item.callspec.params if hasattr(item, "callspec") else {}
    if "name" not in asked:
        return True
    path = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"hostile-{asked['_testinfra_host'].backend.get_hostname()}.json")
    return item.module.ATTEMPTS[asked["name"]].group in json.loads(path.read_text(encoding="utf-8"))["builds"]
