# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an application has on a host, told to people: its releases, its history, and which applications there are."""

from __future__ import annotations

import contextlib
import glob
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

from .slots import Layout, is_complete, read_history

# Of a failure's message, in a line of the history.
_RESULT = 60


class ReleaseError(Exception):
    """No release of the host, or more than one, is meant. The message says which there are."""


def applications(layout: Layout) -> list[str]:
    """Return the names of all applications of the host that `layout` is on."""
    return sorted(os.path.basename(os.path.dirname(path)) for path in glob.glob(f"{glob.escape(layout.root)}/opt/*/slots"))


def no_such_application(layout: Layout) -> str:
    """Say that a host does not have an application, and which it has; '' if it has it."""
    found = applications(layout)
    if layout.app in found:
        return ""
    return f"there is no application {layout.app} (asgi_app) on this host; it has {', '.join(found) or 'none'}"


def built(release: str) -> str:
    """Return when a release was built, by its own mark; '' if that does not say."""
    with contextlib.suppress(OSError, ValueError, AttributeError), open(f"{release}/release.json", encoding="utf-8") as stream:
        return str(json.load(stream).get("built", ""))
    return ""


def releases_of(layout: Layout) -> list[dict[str, str]]:
    """Return the complete releases, the oldest first: the ID of each, when it was built and when it last went live."""
    names = os.listdir(layout.releases) if os.path.isdir(layout.releases) else []
    complete = [name for name in names if is_complete(f"{layout.releases}/{name}")]
    lived = {
        str(entry.get("release")): str(entry.get("time", ""))
        for entry in read_history(layout.history)
        if entry.get("result") == "ok" and entry.get("action") != "commands"
    }
    found = [{"id": name, "built": built(f"{layout.releases}/{name}"), "lived": lived.get(name, "")} for name in complete]
    return sorted(found, key=lambda release: (release["built"], release["id"]))


def find_release(layout: Layout, named: str) -> str:
    """Return the path of the one complete release whose ID is `named`, or begins so. Raises ReleaseError where that is not one."""
    releases = releases_of(layout)
    names = [release["id"] for release in releases]
    # A whole version before the beginning of a longer one: 1.4 is 1.4-0a1b2c, and not 1.4.1-3d4e5f.
    for found in ([name for name in names if name == named], [name for name in names if name.startswith(f"{named}-")]):
        if len(found) == 1:
            return f"{layout.releases}/{found[0]}"
    found = [name for name in names if name.startswith(named)]
    if len(found) == 1:
        return f"{layout.releases}/{found[0]}"
    what = f"{named} is the beginning of {len(found)} releases" if found else f"there is no release {named}"
    lines = release_lines([release for release in releases if release["id"] in found] or releases)
    raise ReleaseError(
        f"{what} of {layout.app} on this host. Name one of these by its ID, or by as much of it as only it begins with:\n"
        + "\n".join(lines or ["(none)"])
    )


def release_lines(releases: Iterable[dict[str, str]], live: str = "") -> list[str]:
    """Return a line for each of the releases."""
    return table(
        [
            release["id"],
            f"built {release['built'] or 'at an unknown time'}",
            f"went live {release['lived']}" if release["lived"] else "never live",
            "live" if release["id"] == live else "",
        ]
        for release in releases
    )


def history_lines(history: Iterable[dict[str, Any]]) -> list[str]:
    """Return a line for each entry of the history."""
    return table([str(entry.get(name, "")) for name in ("time", "user", "action", "release")] + [short(entry)] for entry in history)


def short(entry: dict[str, Any]) -> str:
    result = str(entry.get("result", "")).partition("\n")[0]
    return result if len(result) <= _RESULT else f"{result[:_RESULT].rstrip()} ..."


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the rows as lines in which the columns begin below each other."""
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
