"""A place for what the tests measure."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testinfra.host import Host

FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture
def figure(host: Host, pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Keeps a line about this host for the end of the output: what was measured is shown, also when all is well."""
    lines = pytestconfig.stash.setdefault(FIGURES, [])
    return lambda text: lines.append(f"{host.backend.get_hostname()}: {text}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("measured")
    for line in lines:
        terminalreporter.line(line)
