"""Values that the role refuses, and hosts on which it refuses good ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

# Case: the variables, and what the message has to contain: the variable and the remedy.
VALUES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no-name": ({}, ["asgi_account_app", '""', "asgi_app: shop"]),
    "slash": ({"asgi_app": "shop/../etc"}, ["asgi_account_app", "shop/../etc", "lower-case letters"]),
    "newline": ({"asgi_app": "shop\n"}, ["asgi_account_app", "lower-case letters"]),
    "two-lines": ({"asgi_app": "shop\nUser=root"}, ["asgi_account_app", "lower-case letters"]),
    "uppercase": ({"asgi_app": "Shop"}, ["asgi_account_app", '"Shop"', "lower-case letters"]),
    "digit-first": ({"asgi_app": "2shop"}, ["asgi_account_app", "start with a letter"]),
    "too-long": ({"asgi_app": "a" * 31}, ["asgi_account_app", "1 to 30"]),
    "template-character": ({"asgi_app": "shop@blue"}, ["asgi_account_app", "lower-case letters"]),
    "reserved": ({"asgi_app": "nginx"}, ["asgi_account_app", "'nginx'", "nginx-app"]),
    "reserved-unit": ({"asgi_app": "getty"}, ["asgi_account_app", "'getty'"]),
    "reserved-prefix": ({"asgi_app": "systemd-shop"}, ["asgi_account_app", "'systemd-shop'"]),
    "reserved-adopted": ({"asgi_app": "nginx", "asgi_account_adopt": True}, ["asgi_account_app", "'nginx'"]),
    "user-root": ({"asgi_app": "fresh", "asgi_account_user": "root"}, ["asgi_account_user", "Leave them out"]),
    "user-root-unmanaged": (
        {"asgi_app": "fresh", "asgi_account_user": "root", "asgi_account_manage_user": False},
        ["asgi_account_user", "Leave them out"],
    ),
    "user-www-data": ({"asgi_app": "fresh", "asgi_account_user": "www-data"}, ["asgi_account_user", "Leave them out"]),
    "user-space": ({"asgi_app": "fresh", "asgi_account_user": "my user"}, ["asgi_account_user", "my user"]),
    "group-option": ({"asgi_app": "fresh", "asgi_account_group": "-g"}, ["asgi_account_group", '"-g"']),
    "groups-comma": ({"asgi_app": "fresh", "asgi_account_groups": ["users,sudo"]}, ["asgi_account_groups"]),
    "uid-text": ({"asgi_app": "fresh", "asgi_account_uid": "one"}, ["asgi_account_uid", "int"]),
    "uid-root": ({"asgi_app": "fresh", "asgi_account_uid": 0}, ["asgi_account_uid", "100 to 59999"]),
    "gid-too-high": ({"asgi_app": "fresh", "asgi_account_gid": 65534}, ["asgi_account_gid", "100 to 59999"]),
}

# The values are fine, and the host is what speaks against them.
HOSTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "name-of-another": (
        {"asgi_app": "atlas"},
        [
            "asgi_account_app",
            "/etc/atlas, /etc/systemd/system/atlas@.service, /var/lib/atlas, the user atlas, the group atlas",
            "asgi_account_manage_user",
            "asgi_account_adopt",
        ],
    ),
    "account-of-another": (
        {"asgi_app": "fresh", "asgi_account_user": "atlas", "asgi_account_group": "fresh"},
        [": the user atlas.", "asgi_account_manage_user"],
    ),
    "uid-of-another": ({"asgi_app": "fresh", "asgi_account_uid": 4711}, ["asgi_account_uid", "4711", "bookkeeper"]),
    "groups-unknown": ({"asgi_app": "fresh", "asgi_account_groups": ["ghosts"]}, ["asgi_account_groups", "ghosts"]),
    "unmanaged-missing": (
        {"asgi_app": "fresh", "asgi_account_manage_user": False},
        ["asgi_account_manage_user", "'fresh'", "Create them first"],
    ),
}


RefusalsOf = Callable[..., dict[str, dict[str, str]]]


@pytest.fixture(scope="session")
def refused_values(refusals_of: RefusalsOf) -> dict[str, str]:
    cases = {case: variables for case, (variables, _expected) in VALUES.items()}
    (said,) = refusals_of("asgi_account", cases, "all[0]").values()
    return said


@pytest.fixture(scope="session")
def refused_hosts(refusals_of: RefusalsOf) -> dict[str, dict[str, str]]:
    return refusals_of("asgi_account", {case: variables for case, (variables, _expected) in HOSTS.items()})


@pytest.mark.parametrize("case", VALUES)
def test_value_is_refused(refused_values: dict[str, str], case: str) -> None:
    assert case in refused_values, "was not refused"
    for part in VALUES[case][1]:
        assert part in refused_values[case]


@pytest.mark.parametrize("case", HOSTS)
def test_host_is_refused(host: Host, refused_hosts: dict[str, dict[str, str]], case: str) -> None:
    said = refused_hosts[host.backend.get_hostname()]
    assert case in said, "was not refused"
    for part in HOSTS[case][1]:
        assert part in said[case]
