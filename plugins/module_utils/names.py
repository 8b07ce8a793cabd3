# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables that look like a role's and are none of them: most likely misspelt, and Ansible passes over them in silence."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Iterator

# Facts that asgi_release leaves for the other roles.
_FACTS = frozenset(["asgi_release_id", "asgi_release_path"])


def options_of(roles: str) -> dict[str, frozenset[str]]:
    """Return the names of the variables of each role in the directory `roles`, by the role's name.

    Taken from the text of the argument specifications: to read all of them as YAML takes longer than a task may.
    """
    found = {}
    for path in glob.glob(f"{glob.escape(roles)}/asgi_*/meta/argument_specs.yml"):
        role = os.path.basename(os.path.dirname(os.path.dirname(path)))
        with open(path, encoding="utf-8") as stream:
            found[role] = frozenset(re.findall(rf"^ {{6}}({role}_\w+):", stream.read(), re.MULTILINE))
    return found


def misspelt(given: Iterable[str], options: dict[str, frozenset[str]]) -> Iterator[str]:
    """Say which of the names begin as the variables of a role do, or nearly so, and are none."""
    known = frozenset().union(_FACTS, *options.values())
    for name in sorted(name for name in given if name.startswith("asgi_") and name not in known):
        of_a_role = name.startswith(tuple(f"{role}_" for role in options))
        near = difflib.get_close_matches(name, sorted(known), 1, 0.6 if of_a_role else 0.9)
        if of_a_role or near:
            meant = f"Did you mean {near[0]}?" if near else "The reference (docs/reference) has their names."
            yield f"{name} is no variable of the roles of steadfast.asgi, and does nothing unless it is your own. {meant}"
