# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The unit that a build runs in: what it sees of the host, what it can reach, and what it may use up."""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import os
import re
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from .execute import BuildError

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"

# What every unit of a build has. It yields to what serves, in time and in memory.
_ALWAYS = (
    "UMask=0022",
    "NoNewPrivileges=true",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "RestrictSUIDSGID=true",
    "ProtectSystem=strict",
    "ProtectHome=tmpfs",
    "PrivateTmp=true",
    "PrivateDevices=true",
    "DevicePolicy=closed",
    "PrivateIPC=true",
    "PrivateUsers=true",
    "ProtectClock=true",
    "ProtectControlGroups=true",
    "ProtectHostname=true",
    "ProtectKernelLogs=true",
    "ProtectKernelModules=true",
    "ProtectKernelTunables=true",
    "ProtectProc=invisible",
    "KeyringMode=private",
    "LockPersonality=true",
    "RemoveIPC=true",
    "RestrictNamespaces=true",
    "RestrictRealtime=true",
    "SystemCallArchitectures=native",
    "SystemCallErrorNumber=EPERM",
    "SystemCallFilter=@system-service",
    # What io_uring does is not judged by the rules for system calls.
    "SystemCallFilter=~@privileged @keyring io_uring_setup io_uring_enter io_uring_register",
    "TemporaryFileSystem=/dev/shm:mode=1777,size=25%",
    "KillMode=control-group",
    "KillSignal=SIGKILL",
    "TimeoutStopSec=15",
    "Nice=5",
    "CPUWeight=50",
    "OOMScoreAdjust=500",
    "LimitCORE=0",
    "LimitFSIZE=4G",
    "TasksMax=2048",
)

# Where the host keeps what is none of a build's business: sockets and state of services, data.
_HIDDEN = ("/run", "/var", "/srv", "/mnt", "/media")
_HOMES = ("/home", "/root", "/run/user")

# Addresses at which clouds answer every process of a machine, beside those that are link-local.
_METADATA = ("fd00:ec2::254", "fd20:ce::254", "100.100.100.200", "192.0.0.192", "168.63.129.16")
_CLOUD = ipaddress.ip_address("169.254.169.254")

# What a name in `allow` opens.
ALLOWABLE = ("link_local", "loopback", "unix_sockets")

_PLAIN = re.compile(r"/[A-Za-z0-9_./@+-]*\Z")


@dataclass
class Sandbox:
    """What the units of one build have in common."""

    user: str
    home: str  # the application's directory, in which its releases are
    release: str
    memory: str = "75%"
    allow: Sequence[str] = ()
    # Files and directories of the host that the build reads although they lie where it sees nothing.
    readable: Sequence[str] = ()
    # What the deployment has configured: addresses in there can be reached wherever they are.
    configured: Iterable[str] = ()
    _network: list[str] = field(default_factory=list)

    def properties(self, cwd: str, writable: Sequence[str], seconds: float, network: bool) -> list[str]:
        """Return the unit's properties, in the form of `systemd-run --property`."""
        found = [
            *_ALWAYS,
            f"User={self.user}",
            f"WorkingDirectory={cwd}",
            f"MemoryMax={self.memory}",
            f"RuntimeMaxSec={max(1, int(seconds))}",
        ]
        found += self.files(writable)
        families = ["AF_INET", "AF_INET6", "AF_NETLINK", *(["AF_UNIX"] if "unix_sockets" in self.allow else [])]
        if network:
            self._network = self._network or list(addresses(self.allow, self.configured))
            return [*found, f"RestrictAddressFamilies={' '.join(families)}", *self._network]
        # A network namespace would do the same, and take seconds on a busy host. (systemd-run knows no empty list of families.)
        return [*found, "RestrictAddressFamilies=AF_NETLINK", "IPAddressDeny=any"]

    def files(self, writable: Sequence[str]) -> list[str]:
        """Return what the unit sees: the host's programs, this release, and of the other applications nothing."""
        hidden = [path for path in _HIDDEN if os.path.isdir(path) and not os.path.islink(path)]
        # Only of an application's own directory: somebody may keep releases in one that has much else.
        if self.home.count("/") >= 2:
            hidden.append(self.home)
        found = [f"TemporaryFileSystem={path}:ro,mode=755" for path in hidden]
        found.append(f"BindReadOnlyPaths={self.release}")
        unseen = tuple(f"{each}/" for each in (*hidden, *_HOMES))
        shown = [path for path in self.readable if path.startswith(unseen) and _PLAIN.match(path) and os.path.exists(path)]
        found += [f"BindReadOnlyPaths={path}" for path in shown]
        resolver = os.path.realpath("/etc/resolv.conf")
        if resolver.startswith(tuple(f"{each}/" for each in hidden)) or upstream_resolvers():
            found.append(f"BindReadOnlyPaths=-{upstream_resolvers() or resolver}:{resolver}")
        found += [f"InaccessiblePaths=-{path}" for path in other_applications(self.home)]
        return [*found, *(f"BindPaths={path}" for path in writable)]


def other_applications(home: str) -> list[str]:
    """Return the directories of the other applications of the host: their releases, and their settings."""
    names = [os.path.basename(os.path.dirname(path)) for path in glob.glob(f"{glob.escape(os.path.dirname(home))}/*/releases")]
    others = [name for name in sorted(names) if name != os.path.basename(home)]
    places = [os.path.join(os.path.dirname(home), name) for name in others] + [f"/etc/{name}" for name in [*others, os.path.basename(home)]]
    return [path for path in places if _PLAIN.match(path)]


# The network


def addresses(allow: Sequence[str], configured: Iterable[str]) -> Iterable[str]:
    """Yield the properties that close this host, its links and its cloud's metadata to a build.

    An address that the deployment has configured stays open, and the resolver's. Raises BuildError where that would open the metadata.
    """
    denied: list[str] = []
    if "loopback" not in allow:
        denied += ["127.0.0.0/8", "::1/128", *own_addresses()]
    if "link_local" not in allow:
        denied += ["169.254.0.0/16", "fe80::/10", *_METADATA]
    networks = [ipaddress.ip_network(each) for each in denied]
    opened = {each for text in configured for each in addresses_of(text)}
    resolvers = nameservers(upstream_resolvers() or "/etc/resolv.conf")
    if _CLOUD in resolvers and "link_local" not in allow and _CLOUD not in opened:
        raise BuildError(
            f"the host asks {_CLOUD} for names (/etc/resolv.conf), where its cloud also hands out credentials, so a build may not reach "
            "that address. Install systemd-resolved on the host, or open link-local addresses to builds (asgi_release_build_allow: "
            "[link_local])."
        )
    yield from (f"IPAddressDeny={network}" for network in networks)
    for address in sorted({*opened, *resolvers}, key=str):
        if any(address in network for network in networks):
            yield f"IPAddressAllow={address}"


def own_addresses() -> list[str]:
    """Return the addresses of this host: by them, too, a build would reach what listens here."""
    found = set()
    with contextlib.suppress(OSError), open("/proc/net/fib_trie", encoding="ascii") as stream:
        found |= set(re.findall(r"\|-- (\S+)\n\s+/32 host LOCAL", stream.read()))
    with contextlib.suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as stream:
        found |= {str(ipaddress.IPv6Address(bytes.fromhex(line.split()[0]))) for line in stream}
    kept = [ipaddress.ip_address(each) for each in found]
    return sorted(str(each) for each in kept if not each.is_loopback and not each.is_link_local)


def addresses_of(text: str) -> set[Address]:
    """Return the addresses of the hosts of all URLs in a text."""
    found: set[Address] = set()
    for url in re.findall(r"(?:https?|socks5h?)://[^\s\"'<>]+", text):
        with contextlib.suppress(OSError, ValueError):
            parts = urlsplit(url)
            for *_kind, place in socket.getaddrinfo(parts.hostname, None, type=socket.SOCK_STREAM):
                found.add(ipaddress.ip_address(str(place[0]).partition("%")[0]))
    return found


def local_files(texts: Iterable[str]) -> list[str]:
    """Return the paths of all file URLs in texts."""
    return [unquote(urlsplit(url).path) for text in texts for url in re.findall(r"file://[^\s\"'<>]+", text)]


def nameservers(path: str) -> set[Address]:
    found: set[Address] = set()
    with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as stream:
        for line in stream:
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with contextlib.suppress(ValueError):
                    found.add(ipaddress.ip_address(words[1].partition("%")[0]))
    return found


def upstream_resolvers() -> str:
    """Return the file that names the servers behind a resolver of systemd's on loopback, so that this can stay closed; '' if none."""
    path = "/run/systemd/resolve/resolv.conf"
    stub = any(each.is_loopback for each in nameservers("/etc/resolv.conf"))
    servers = nameservers(path) if stub else set()
    return path if servers and not any(each.is_loopback or each == _CLOUD for each in servers) else ""


def configuration(environment: Mapping[str, str]) -> list[str]:
    """Return the texts that may name an index or a proxy: the environment's, and uv's own settings."""
    texts = list(environment.values())
    with contextlib.suppress(OSError, UnicodeDecodeError), open("/etc/uv/uv.toml", encoding="utf-8") as stream:
        texts.append(stream.read())
    return texts
