"""What the unit of a build sees and reaches, as it is told to systemd."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import build_unit
from ansible_collections.steadfast.asgi.plugins.module_utils.build_unit import Sandbox
from ansible_collections.steadfast.asgi.plugins.module_utils.execute import BuildError

HOSTS = {
    "localhost": ["127.0.0.1", "::1"],
    "index.example": ["203.0.113.7"],
    "inside.example": ["10.0.0.5"],
    "127.0.0.1": ["127.0.0.1"],
    "[fe80::1%eth0]": ["fe80::1%eth0"],
}


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A host of the test's own: its addresses, its resolvers, and names."""
    played: dict[str, Any] = {"resolvers": ["10.0.0.2"], "upstream": []}

    def servers(path: str) -> set[Any]:
        return {ipaddress.ip_address(each) for each in played["upstream" if "systemd" in path else "resolvers"]}

    def found(host: str, *_: Any, **__: Any) -> list[Any]:
        if host not in HOSTS:
            raise OSError
        return [(0, 0, 0, "", (address, 0)) for address in HOSTS[host]]

    monkeypatch.setattr(build_unit, "nameservers", servers)
    monkeypatch.setattr(build_unit, "own_addresses", lambda: ["10.0.0.9", "2001:db8::9"])
    monkeypatch.setattr("socket.getaddrinfo", found)
    return played


def decide(allow: list[str], *configured: str) -> tuple[set[str], set[str]]:
    found = list(build_unit.addresses(allow, configured))
    return tuple({each.partition("=")[2] for each in found if each.startswith(kind)} for kind in ("IPAddressDeny", "IPAddressAllow"))  # type: ignore[return-value]


@pytest.mark.usefixtures("network")
def test_the_host_itself_its_links_and_its_cloud_are_closed() -> None:
    denied, allowed = decide([])
    networks = [ipaddress.ip_network(each) for each in denied]
    for address in (
        *("127.0.0.1", "127.8.8.8", "::1", "10.0.0.9", "2001:db8::9", "169.254.169.254", "169.254.1.1", "fe80::1", "fd00:ec2::254"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd20:ce::254"),
    ):
        assert any(ipaddress.ip_address(address) in network for network in networks), address
    for address in ("10.0.0.2", "203.0.113.7", "192.168.1.1", "2001:db8::1"):
        assert not any(ipaddress.ip_address(address) in network for network in networks), address
    assert allowed == set()


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize(
    ("configured", "opened"),
    [
        ("http://localhost:3128", {"127.0.0.1", "::1"}),
        ("http://user:pass%40@127.0.0.1:3141/simple", {"127.0.0.1"}),
        ("https://index.example/simple", set()),
        ("https://one.invalid/ http://localhost/", {"127.0.0.1", "::1"}),
        ("socks5h://localhost:1080", {"127.0.0.1", "::1"}),
        ("localhost", set()),
        ("ftp://localhost/", set()),
        ('[[index]]\nurl = "http://127.0.0.1/simple"\n', {"127.0.0.1"}),
        ("http://[", set()),
    ],
)
def test_what_is_configured_is_open_as_it_is(configured: str, opened: set[str]) -> None:
    assert decide([], configured)[1] == opened


@pytest.mark.usefixtures("network")
def test_a_switch_opens_one_thing() -> None:
    assert "127.0.0.0/8" not in decide(["loopback"])[0]
    assert "10.0.0.9/32" not in decide(["loopback"])[0]
    assert "169.254.0.0/16" in decide(["loopback"])[0]
    assert "169.254.0.0/16" not in decide(["link_local"])[0]
    assert "127.0.0.0/8" in decide(["link_local"])[0]
    assert decide(["link_local", "loopback"]) == (set(), set())


def test_names_are_resolved_whatever_is_closed(network: dict[str, Any]) -> None:
    network["resolvers"] = ["127.0.0.1"]
    assert decide([])[1] == {"127.0.0.1"}, "there is no other way"
    network |= {"resolvers": ["127.0.0.53"], "upstream": ["10.0.0.2"]}
    assert decide([])[1] == set(), "systemd's resolver says whom it asks"
    network |= {"upstream": ["169.254.169.253"]}
    assert decide([])[1] == {"169.254.169.253"}
    network |= {"upstream": ["169.254.169.254"]}
    assert decide([])[1] == {"127.0.0.53"}, "the cloud's metadata stay closed"
    network |= {"resolvers": ["169.254.169.254"], "upstream": []}
    with pytest.raises(BuildError, match=r"169\.254\.169\.254.*asgi_release_build_allow"):
        decide([])
    assert decide(["link_local"])[1] == set()


@pytest.mark.usefixtures("network")
def test_the_unit_sees_its_release_and_no_other_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("shop", "blog", "tools"):
        (tmp_path / name).mkdir()
    (tmp_path / "shop/releases").mkdir()
    (tmp_path / "blog/releases").mkdir()
    home = f"{tmp_path}/shop"
    (tmp_path / "var").mkdir()
    (tmp_path / "var/index").mkdir()
    monkeypatch.setattr(build_unit, "_HIDDEN", (f"{tmp_path}/var", f"{tmp_path}/nothing"))
    walls = Sandbox("builder", home, f"{home}/releases/1", readable=[f"{tmp_path}/var/index", f"{tmp_path}/var/a b", "/usr/share"])
    told = walls.properties("/", [f"{home}/releases/1/app"], 12.7, network=True)
    assert {f"TemporaryFileSystem={each}:ro,mode=755" for each in (home, f"{tmp_path}/var")} <= set(told)
    assert {f"InaccessiblePaths=-{tmp_path}/blog", "InaccessiblePaths=-/etc/blog", "InaccessiblePaths=-/etc/shop"} <= set(told)
    assert not [each for each in told if each.endswith("tools")]
    assert [each for each in told if each.startswith("Bind") and "resolv" not in each] == [
        f"BindReadOnlyPaths={home}/releases/1",
        f"BindReadOnlyPaths={tmp_path}/var/index",
        f"BindPaths={home}/releases/1/app",
    ]
    assert {"User=builder", "RuntimeMaxSec=12", "MemoryMax=75%", "IPAddressDeny=127.0.0.0/8"} <= set(told)
    assert "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK" in told


@pytest.mark.usefixtures("network")
def test_who_needs_no_network_gets_none() -> None:
    told = Sandbox("builder", "/opt/shop", "/opt/shop/releases/1").properties("/", [], 1, network=False)
    assert {"RestrictAddressFamilies=AF_NETLINK", "IPAddressDeny=any"} <= set(told)


@pytest.mark.usefixtures("network")
def test_sockets_in_files_are_opened_by_name() -> None:
    told = Sandbox("builder", "/opt/shop", "/opt/shop/releases/1", allow=["unix_sockets"]).properties("/", [], 1, network=True)
    assert "RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX" in told


def test_file_urls_are_readable() -> None:
    texts = ["file:///srv/python/list.json", "https://example.org", 'find-links = ["file:///srv/my%20wheels"]']
    assert build_unit.local_files(texts) == ["/srv/python/list.json", "/srv/my wheels"]


def test_the_addresses_of_a_host_are_known() -> None:
    found = build_unit.own_addresses()
    assert not [each for each in found if each.startswith(("127.", "fe80:"))]
    assert all(ipaddress.ip_address(each) for each in found)


def test_what_root_s_kernel_does_for_a_build_is_closed() -> None:
    """Rules for system calls do not see what io_uring does, and keys outlive the build."""
    found = Sandbox("asgi-build-shop", "/opt/shop", "/opt/shop/releases/A").properties("/", [], 60, network=False)
    [closed] = [set(each.partition("=~")[2].split()) for each in found if each.startswith("SystemCallFilter=~")]
    assert closed == {"@privileged", "@keyring", "io_uring_setup", "io_uring_enter", "io_uring_register"}
    assert {"KeyringMode=private", "TemporaryFileSystem=/dev/shm:mode=1777,size=25%"} <= set(found)
