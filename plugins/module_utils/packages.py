# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The packages of a virtual environment: which are there, which are missing, which are too old, what changes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit, urlunsplit

# The oldest server that a release may bring, and why.
OLDEST = {
    "gunicorn": ((22,), "older ones let requests be smuggled in behind others (CVE-2024-1135)"),
    "uvicorn": ((0, 30), "older ones start and stop workers in another way, which asgi_service does not know"),
    "hypercorn": ((0, 17), "older ones have other settings than asgi_service writes"),
}


def normalise(name: str) -> str:
    """Return a package's name in the form of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def site_packages(venv: str) -> list[str]:
    """Return the directories of a virtual environment that packages are installed in."""
    library = os.path.join(venv, "lib")
    names = sorted(os.listdir(library)) if os.path.isdir(library) and not os.path.islink(library) else []
    folders = [os.path.join(library, name) for name in names if re.fullmatch(r"python3[.0-9]*", name)]
    found = [os.path.join(folder, "site-packages") for folder in folders if not os.path.islink(folder)]
    # What is a link leads to something else, wherever that may be.
    return [path for path in found if os.path.isdir(path) and not os.path.islink(path)]


def installed_packages(venv: str) -> dict[str, str]:
    """Return the packages in a virtual environment: normalised name, version."""
    found = {}
    for directory in site_packages(venv):
        for name in os.listdir(directory):
            # Anything else is no package's name.
            if re.fullmatch(r"[A-Za-z0-9._+!-]+\.dist-info", name):
                package, _dash, version = name.removesuffix(".dist-info").rpartition("-")
                found[normalise(package or version)] = version if package else ""
    return found


def _entries(text: str) -> list[tuple[str, list[str]]]:
    """Return the entries of a hashed requirements file: normalised name, and the lines."""
    found: list[tuple[str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith((" ", "\t")) and found:
            found[-1][1].append(line)
        elif line and not line.startswith("#"):
            found.append((normalise(re.split(r"[=\s;\[]", line, maxsplit=1)[0]), [line]))
    return found


def missing_requirements(text: str, installed: Mapping[str, str]) -> str:
    """Return the entries of a hashed requirements file whose packages are not among `installed`."""
    kept = [line for name, lines in _entries(text) if name not in installed for line in lines]
    return "\n".join(kept) + "\n" if kept else ""


def contradicts(complaints: str, requirements: str) -> bool:
    """Return whether `uv pip check` complains of a package of this requirements file, or of something that is not a package at all."""
    server = {name for name, _lines in _entries(requirements)}
    found = re.findall(r"^The package `([A-Za-z0-9._-]+)[^`]*` (?:requires `([A-Za-z0-9._-]+))?", complaints, re.MULTILINE)
    return not found or any(normalise(name) in server for names in found for name in names)


def too_old(packages: Mapping[str, str]) -> list[str]:
    """Return a sentence for each server among `packages` that a release must not bring."""
    found = []
    for name, (oldest, reason) in OLDEST.items():
        version = packages.get(name, "")
        numbers = tuple(int(number) for number in re.findall(r"\d+", re.split(r"[a-z+]", version, maxsplit=1)[0]))
        if numbers and numbers < oldest:
            wanted = ".".join(map(str, oldest))
            found.append(f"The application brings {name} {version}, and {wanted} or later is needed: {reason}.")
    return found


def changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[dict[str, str]]:
    """Return what differs between two sets of packages. A version is '' where the package is not there."""
    differing = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
    return [{"name": name, "old": old.get(name, ""), "new": new.get(name, "")} for name in differing]


def describe(release: str, packages: Iterable[Mapping[str, str]]) -> str:
    """Return the diff for people."""
    lines = [f"+ release {release}"]
    for package in packages:
        sign = "+" if not package["old"] else "-" if not package["new"] else "~"
        lines.append(f"{sign} {package['name']} {' -> '.join(version for version in (package['old'], package['new']) if version)}")
    return "\n".join(lines) + "\n"


def with_credentials(url: str, username: str, password: str) -> str:
    """Return a URL with a user and a password in it, in the form that uv wants them."""
    parts = urlsplit(url)
    user = ":".join(quote(part, safe="") for part in (username, password) if part)
    return urlunsplit(parts._replace(netloc=f"{user}@{parts.netloc}")) if user else url
