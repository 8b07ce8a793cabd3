"""Makes the collection importable under its full name, as it is for Ansible, and runs its modules in this process."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import init_plugin_loader

ROOT = Path(__file__).resolve().parents[2]

# A checkout is reached through the development link, a copy for ansible-test lies where Ansible looks for it.
_INSTALLED = ROOT.parts[-3:] == ("ansible_collections", "steadfast", "asgi")
init_plugin_loader([str(ROOT.parents[2] if _INSTALLED else ROOT / ".ansible/collections")])

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Run a module's main() with the real AnsibleModule around it and return what it printed.

    A module that failed has 'failed' in its result, as in a play.
    """

    def run(main: Callable[[], None], check: bool = False, **arguments: Any) -> dict[str, Any]:
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory with a short path: the name of a unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="asgi-") as path:
        yield Path(path).resolve()
