# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof that a release's migrations have run: a line in the history of the host that ran them.

A host that goes live with the release needs that line, in its own history or from the host that migrated for all.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from typing import Any

from .slots import Layout, has_run
from .units import Systemd

Entry = Mapping[str, Any]

# The part of a unit's name that tells the commands that are to run once from those that somebody runs by hand.
ONCE = "once"


def proof(entries: Iterable[Any], release: str, commands: list[list[str]]) -> dict[str, Any] | None:
    """Return the entry that says that these commands have run to their end for a release, given by its ID; None if no entry does."""
    return next((dict(entry) for entry in entries if isinstance(entry, Mapping) and has_run([dict(entry)], release, commands)), None)


def last_failure(history: Iterable[Entry], release: str, commands: list[list[str]]) -> str:
    """Return why these commands failed for a release when they ran last, '' if they never did."""
    attempt = {"action": "commands", "release": release, "commands": commands}
    results = [str(entry.get("result", "")) for entry in history if attempt.items() <= entry.items()]
    return results[-1] if results and results[-1] != "ok" else ""


def was_live(history: Iterable[Entry], release: str) -> bool:
    """Return whether a release, given by its ID, has been live, by the lines of those that made it so or replaced it."""
    ways = ("rollout", "restart", "rollback", "reload", "flip back")
    return any(
        release in (entry.get("previous"), entry.get("release") if entry.get("result") == "ok" else None)
        for entry in history
        if entry.get("action") in ways
    )


def still_running(layout: Layout, systemd: Systemd) -> str:
    """Return the unit of a command that is to run once and still runs, though who started it was killed; '' if there is none."""
    for path in sorted(glob.glob(f"{layout.root}/run/systemd/system/{layout.app}-command-{ONCE}-*.service")):
        unit = os.path.basename(path)
        if systemd.show(unit, "ActiveState")["ActiveState"] not in ("inactive", "failed"):
            return unit
    return ""
