#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_prune
short_description: Remove an application's releases that nothing needs any more
description:
  - Keeps the newest releases, each release that a slot links to, and the one that a rollback would go to. The others are removed.
  - Releases that were tried and never stayed live do not count among the newest, so that attempts in a row push out nothing that was
    good. They are all removed.
  - Static files that none of the releases left has are removed from the union of them.
  - What is not complete is left alone, since it may be under construction. M(steadfast.asgi.asgi_release) removes it.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  app:
    description: The application's name.
    type: str
    required: true
  keep:
    description: How many of the newest releases are kept.
    type: int
    default: 5
  cache:
    description: The directory on the host that the files of releases are links into. What no release has any more is removed from it.
    type: path
    default: /opt/uv/cache
attributes:
  check_mode:
    description: Names what would be removed.
    support: full
  diff_mode:
    description: Names what is removed.
    support: full
  idempotent:
    description: A second run finds nothing to remove.
    support: full
seealso:
  - module: steadfast.asgi.asgi_release
  - module: steadfast.asgi.asgi_rollout
"""

EXAMPLES = r"""
- name: Keep three releases
  steadfast.asgi.asgi_prune:
    app: shop
    keep: 3
"""

RETURN = r"""
removed:
  description: The IDs of the releases that were removed, the oldest first.
  returned: success
  type: list
  elements: str
  sample: [1.3.0-0a1b2c3d4e5f]
kept:
  description: The IDs of the complete releases that are left, the oldest first.
  returned: success
  type: list
  elements: str
"""

import contextlib
import json
import os
import time
from typing import Any

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils.build import store_of
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError, locked
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import (
    SLOTS,
    Layout,
    is_complete,
    read_history,
    utc,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.static import (
    held,
    publish,
    static_files,
    superfluous,
    union_of,
    withdraw,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.tree import BUILDING, remove_release
from ansible_collections.steadfast.asgi.plugins.module_utils.wayback import failed_releases, host_of, live_state, previous_state


def mark(release: str) -> dict[str, Any]:
    """Return what a release says of itself."""
    with open(os.path.join(release, "release.json"), encoding="utf-8") as stream:
        try:
            content = json.load(stream)
        except ValueError:
            content = {}
    return content if isinstance(content, dict) else {}


def built(release: str) -> str:
    """Return when a release was built, in a form that sorts."""
    return str(mark(release).get("built", ""))


def complete_releases(layout: Layout) -> list[str]:
    """Return the IDs of the complete releases, the oldest first."""
    names = os.listdir(layout.releases) if os.path.isdir(layout.releases) else []
    complete = [name for name in names if is_complete(os.path.join(layout.releases, name))]
    return sorted(complete, key=lambda name: (built(os.path.join(layout.releases, name)), name))


def prune_static(layout: Layout, kept: list[str], check_mode: bool) -> int:
    """Leave of the releases' static files those of the ones that are kept, the newest of each name; return how many went."""
    union = union_of(layout.releases)
    if not os.path.isdir(union):
        return 0
    with held(union) if not check_mode else contextlib.nullcontext():
        # Looked for anew: a build may have ended in the meantime.
        names = kept if check_mode else complete_releases(layout)
        files: dict[str, str] = {}
        for name in names:
            release = os.path.join(layout.releases, name)
            files |= static_files(release, mark(release).get("static", []))
        going = superfluous(union, files)
        if not check_mode:
            publish(union, files)
            withdraw(union, going)
    return len(going)


def needed(layout: Layout) -> set[str]:
    """Return the IDs of the releases that the slots have or would go back to."""
    found = {os.path.basename(layout.release_of(slot)) for slot in SLOTS}
    back = previous_state(read_history(layout.history), live_state(layout), host_of(layout))
    if back:
        found.add(back.release)
    return found


def main() -> None:
    module = Module(
        argument_spec={
            "app": {"type": "str", "required": True},
            "keep": {"type": "int", "default": 5},
            "cache": {"type": "path", "default": "/opt/uv/cache"},
        },
        supports_check_mode=True,
    )
    if module.params["keep"] < 1:
        module.fail_json(msg=f"keep (asgi_release_keep) is {module.params['keep']}. Keep at least one release.")
    os.umask(0o022)
    prune(module, Layout(module.params["app"]))


def prune(module: Module, layout: Layout) -> None:
    """Remove what is not needed, and end the module."""
    removed: list[str] = []
    try:
        with contextlib.ExitStack() as held:
            if not module.check_mode:
                # While a rollout is at work the links do not say what is needed.
                note = {"pid": os.getpid(), "doing": "removing old releases", "since": utc(time.time())}
                held.enter_context(locked(layout.lock, 60, note))
            complete = complete_releases(layout)
            failed = failed_releases(read_history(layout.history))
            spared = needed(layout) | set([name for name in complete if name not in failed][-module.params["keep"] :])
            removed = [name for name in complete if name not in spared]
            if removed and not module.check_mode:
                for name in removed:
                    path = os.path.join(layout.releases, name)
                    # From here on it counts as an interrupted build, so whatever is left of it will be removed.
                    os.rename(os.path.join(path, "release.json"), os.path.join(path, BUILDING))
                    remove_release(path)
            kept = [name for name in complete if name not in removed]
            stale = prune_static(layout, kept, module.check_mode)
            if removed and not module.check_mode:
                store_of(module.params["cache"]).prune()
    except (OSError, LockedError) as error:
        module.fail_json(msg=f"The old releases of {layout.app} could not be removed: {to_native(error)}")
    lines = [f"- release {name}\n" for name in removed] + ([f"- {stale} static files of no release\n"] if stale else [])
    module.exit_json(changed=bool(removed or stale), removed=removed, kept=kept, diff={"prepared": "".join(lines)})


if __name__ == "__main__":
    main()
