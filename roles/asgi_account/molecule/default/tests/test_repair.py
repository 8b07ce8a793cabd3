"""A run that broke off halfway, or somebody who cleaned up too much: the next run makes it whole."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from testinfra.host import Host


@pytest.fixture(scope="session", autouse=True)
def _repaired(apply_role: Callable[..., None]) -> None:
    # What is left is what a run leaves that dies right after its first change: the marker.
    script = "userdel shop && rm -r /opt/shop/releases /opt/shop/slots /etc/shop && chmod 0777 /opt/shop"
    apply_role("asgi_account", {"asgi_app": "shop"}, script)


def test_whole_again(host: Host) -> None:
    assert (host.user("shop").group, host.user("shop").home) == ("shop", "/nonexistent")
    opt = host.file("/opt/shop")
    assert (opt.user, opt.group, opt.mode) == ("root", "shop", 0o750)
    assert host.file("/opt/shop/slots/green").is_directory
    etc = host.file("/etc/shop")
    assert (etc.user, etc.group, etc.mode) == ("root", "shop", 0o750)
