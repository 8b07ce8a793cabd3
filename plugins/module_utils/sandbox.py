# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox of what systemd runs for the collection as root, and how root starts a program in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# What a program as root needs that only asks systemd for something, which is nothing: each unit takes away what it cannot do without.
_CLOSED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("UMask", ("0077",)),
    ("ProtectSystem", ("strict",)),
    ("ProtectHome", ("true",)),
    ("PrivateTmp", ("true",)),
    ("PrivateMounts", ("true",)),
    ("PrivateDevices", ("true",)),
    ("DevicePolicy", ("closed",)),
    ("ProtectProc", ("invisible",)),
    ("ProcSubset", ("pid",)),
    ("ProtectClock", ("true",)),
    ("ProtectControlGroups", ("true",)),
    ("ProtectHostname", ("true",)),
    ("ProtectKernelLogs", ("true",)),
    ("ProtectKernelModules", ("true",)),
    ("ProtectKernelTunables", ("true",)),
    ("KeyringMode", ("private",)),
    ("PrivateIPC", ("true",)),
    ("NoNewPrivileges", ("true",)),
    ("CapabilityBoundingSet", ("",)),
    ("RestrictSUIDSGID", ("true",)),
    ("RestrictNamespaces", ("true",)),
    ("RestrictRealtime", ("true",)),
    ("LockPersonality", ("true",)),
    ("MemoryDenyWriteExecute", ("true",)),
    ("SystemCallArchitectures", ("native",)),
    ("SystemCallFilter", ("@system-service", "~@privileged @resources")),
    ("SystemCallErrorNumber", ("EPERM",)),
    ("RestrictAddressFamilies", ("AF_UNIX",)),
    ("PrivateNetwork", ("true",)),
    ("IPAddressDeny", ("any",)),
)


def sandbox(changes: Mapping[str, str | Iterable[str] | None] | None = None) -> list[str]:
    """Return the directives of a closed sandbox, each as `Name=value`, with `changes` by their names; None leaves one out."""
    wanted: dict[str, Iterable[str]] = dict(_CLOSED)
    for name, values in (changes or {}).items():
        if values is None:
            wanted.pop(name, None)
        else:
            wanted[name] = [values] if isinstance(values, str) else values
    return [f"{name}={value}" for name, values in wanted.items() for value in values]


def helper(app: str, module: str) -> list[str]:
    """Return the command by which root runs one of the collection's programs on a host, for its arguments to follow.

    Nothing of the environment reaches it, which may be the application's; it runs with the system's interpreter, and imports from where
    only root can write.
    """
    program = f"import sys; sys.path.append('/opt/{app}'); from lib.{module} import main; sys.exit(main())"
    return [*CLEAN, "/usr/bin/python3", "-I", "-P", "-S", "-B", "-c", program]


# In front of what root runs in the unit of an application.
CLEAN = ("/usr/bin/env", "-i", "-C", "/")
