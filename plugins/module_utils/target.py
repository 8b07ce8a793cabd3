# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What packages are chosen for: the interpreter and the system of a host, as that interpreter says it and as pip and uv call it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Run by the host's interpreter, isolated. The names are those of markers (PEP 508).
PROBE = r"""
import json, os, platform, sys
v = sys.implementation.version
full = f"{v.major}.{v.minor}.{v.micro}" + ("" if v.releaselevel == "final" else v.releaselevel[0] + str(v.serial))
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (AttributeError, OSError, ValueError):
    libc = ""
print(json.dumps({"libc": libc or "", "markers": {
    "implementation_name": sys.implementation.name, "implementation_version": full, "os_name": os.name,
    "platform_machine": platform.machine(), "platform_release": platform.release(), "platform_system": platform.system(),
    "platform_version": platform.version(), "platform_python_implementation": platform.python_implementation(),
    "python_full_version": platform.python_version(), "python_version": ".".join(platform.python_version_tuple()[:2]),
    "sys_platform": sys.platform}}))
"""

# The versions of glibc that uv has names for.
_OF_UV = (17, 28, *range(31, 41))
_OLDEST = {"x86_64": 5, "i686": 5}
_LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}


@dataclass(frozen=True)
class Target:
    """An interpreter on a host."""

    markers: Mapping[str, str]
    libc: str  # "glibc 2.36", or '' for musl

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Target:
        """Return the target that a host has told of (what PROBE prints)."""
        return cls(markers={**told["markers"], "extra": ""}, libc=told["libc"])

    @property
    def version(self) -> str:
        return self.markers["python_version"]

    @property
    def release(self) -> str:
        """The full version in numbers alone: pip and uv know nothing of candidates here."""
        return re.sub(r"[^0-9.].*", "", self.markers["python_full_version"])

    @property
    def machine(self) -> str:
        return self.markers["platform_machine"]

    @property
    def minor_of_libc(self) -> int:
        return int(self.libc.rpartition(".")[2]) if self.libc else 0

    def __str__(self) -> str:
        return f"Python {self.version} on {self.machine} with {self.libc or 'musl'}"

    def platforms(self) -> list[str]:
        """Return the platform tags of wheels that the host can use, as pip wants them, the best first."""
        if not self.libc:
            return [f"musllinux_1_{minor}_{self.machine}" for minor in range(2, -1, -1)]
        found = []
        for minor in range(self.minor_of_libc, _OLDEST.get(self.machine, 17) - 1, -1):
            found.append(f"manylinux_2_{minor}_{self.machine}")
            if minor in _LEGACY:
                found.append(f"{_LEGACY[minor]}_{self.machine}")
        return [*found, f"linux_{self.machine}"]

    def for_pip(self) -> list[str]:
        """Return the options that make pip choose for the host."""
        digits = "".join(self.version.split("."))
        options = ["--implementation=cp", f"--python-version={self.release}", f"--abi=cp{digits}"]
        return options + [f"--platform={each}" for each in self.platforms()]

    def for_uv(self) -> list[str]:
        """Return the options that make uv choose for the host."""
        minor = max(each for each in _OF_UV if each <= max(self.minor_of_libc, _OF_UV[0]))
        libc = f"manylinux_2_{minor}" if self.libc else "unknown-linux-musl"
        return [f"--python-version={self.release}", f"--python-platform={self.machine}-{libc}"]
