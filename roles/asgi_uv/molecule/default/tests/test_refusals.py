"""Values that the role refuses, and packages that it does not let in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

# Outside of what counts as a change of the host: these cases get as far as the index.
ROOT = "/tmp/uv"
INDEX = {"asgi_uv_root": ROOT, "asgi_uv_index_url": "http://deploy:hunter2@127.0.0.1:8123/simple"}

Cases = dict[str, tuple[dict[str, Any], list[str]]]

# Case: the variables, and what the message has to contain: the variable and the remedy.
VALUES: Cases = {
    "version-semicolon": ({"asgi_uv_version": "0.13.8; id"}, ["asgi_uv_version", "0.13.8; id", "three numbers"]),
    "version-space": ({"asgi_uv_version": "0.13.8 "}, ["asgi_uv_version", "three numbers"]),
    "version-newline": ({"asgi_uv_version": "0.13.8\n"}, ["asgi_uv_version", "three numbers"]),
    "version-number": ({"asgi_uv_version": 0.13}, ["asgi_uv_version", "0.13", "three numbers"]),
    "version-up": ({"asgi_uv_version": "../../etc"}, ["asgi_uv_version", "three numbers"]),
    "version-range": ({"asgi_uv_version": ">=0.13"}, ["asgi_uv_version", "three numbers"]),
    "root-relative": ({"asgi_uv_root": "opt/uv"}, ["asgi_uv_root", "absolute path"]),
    "root-up": ({"asgi_uv_root": "/opt/../etc"}, ["asgi_uv_root", "absolute path"]),
    "root-dollar": ({"asgi_uv_root": "/opt/$HOME"}, ["asgi_uv_root", "absolute path"]),
    "index-word": ({"asgi_uv_index_url": "packages"}, ["asgi_uv_index_url", "https://"]),
    "index-scheme": ({"asgi_uv_index_url": "ftp://me:hunter2@example.org/"}, ["asgi_uv_index_url", "https://"]),
    "index-option": ({"asgi_uv_index_url": "https://example.org/ --pre"}, ["asgi_uv_index_url", "without spaces"]),
    "proxy-no-scheme": ({"asgi_uv_https_proxy": "me:hunter2@proxy:3128"}, ["asgi_uv_https_proxy", "http://"]),
    "no-proxy-spaces": ({"asgi_uv_no_proxy": "a, b"}, ["asgi_uv_no_proxy", "separated by commas"]),
    "ca-bundle-relative": ({"asgi_uv_ca_bundle": "ca.pem"}, ["asgi_uv_ca_bundle", "absolute path"]),
    "hash-short": ({"asgi_uv_hashes": ["sha256:abc"]}, ["asgi_uv_hashes", "sha256:abc", "pip hash"]),
    "hash-text": ({"asgi_uv_hashes": {"sha256": "abc"}}, ["asgi_uv_hashes", "list"]),
}

PACKAGES: Cases = {
    "ca-bundle-missing": (
        {"asgi_uv_root": ROOT, "asgi_uv_ca_bundle": "/etc/ssl/none.pem"},
        ["asgi_uv_ca_bundle", "/etc/ssl/none.pem", "Copy the bundle there first"],
    ),
    "unknown-version": (
        INDEX | {"asgi_uv_version": "99.0.0"},
        ["99.0.0", "check the version", "No matching distribution"],
    ),
    "another-version-inside": (INDEX | {"asgi_uv_version": "0.0.2"}, ["'9.9.9'", "0.0.2"]),
    "another-hash": (
        INDEX | {"asgi_uv_version": "0.0.1", "asgi_uv_hashes": ["sha256:" + 64 * "0"]},
        ["the hashes", "0.0.1", "DO NOT MATCH"],
    ),
    "another-password": (
        INDEX | {"asgi_uv_version": "0.0.1", "asgi_uv_index_url": "http://deploy:hunter3@127.0.0.1:8123/simple"},
        ["0.0.1", "the index"],
    ),
}

RefusalsOf = Callable[..., dict[str, dict[str, str]]]


@pytest.fixture(scope="session")
def refused_values(refusals_of: RefusalsOf) -> dict[str, str]:
    cases = {case: variables for case, (variables, _expected) in VALUES.items()}
    (said,) = refusals_of("asgi_uv", cases, "all[0]").values()
    return said


@pytest.fixture(scope="session")
def refused_packages(refusals_of: RefusalsOf) -> dict[str, str]:
    # Debian 12 has the older pip.
    cases = {case: variables for case, (variables, _expected) in PACKAGES.items()}
    (said,) = refusals_of("asgi_uv", cases, "debian12").values()
    return said


@pytest.mark.parametrize("case", VALUES)
def test_value_is_refused(refused_values: dict[str, str], case: str) -> None:
    assert case in refused_values, "was not refused"
    for part in VALUES[case][1]:
        assert part in refused_values[case]
    assert "hunter" not in refused_values[case]


@pytest.mark.parametrize("case", PACKAGES)
def test_package_is_refused(refused_packages: dict[str, str], case: str) -> None:
    assert case in refused_packages, "was not refused"
    for part in PACKAGES[case][1]:
        assert part in refused_packages[case]
    assert "hunter" not in refused_packages[case]


@pytest.mark.usefixtures("refused_packages")
def test_nothing_is_left_of_what_was_refused(host: Host) -> None:
    # But for the file that runs lock: who waits for it would not notice that it is another one.
    assert set(host.run(f"ls -A {ROOT}").stdout.split()) <= {".lock"}
