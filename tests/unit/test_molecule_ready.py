"""Who holds the place where Molecule keeps its notes."""

from __future__ import annotations

import os
import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

PATH = Path(__file__).resolve().parents[2] / "tools/molecule-ready"


@pytest.fixture(scope="module")
def ready() -> ModuleType:
    loader = SourceFileLoader("molecule_ready", str(PATH))
    spec = spec_from_loader("molecule_ready", loader)
    assert spec
    module = module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.dont_write_bytecode", True)
        loader.exec_module(module)
    return module


def test_a_run_that_has_ended_holds_nothing_though_nobody_has_waited_for_it(ready: ModuleType) -> None:
    with subprocess.Popen(["true"]) as ended:
        # It stays on the list of processes until then.
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        assert ready.asked_of(ended.pid, "lstart") != ""
        assert ready.started(ended.pid) == ""
    assert ready.started(ended.pid) == ""
    assert ready.started(os.getpid()) != ""
