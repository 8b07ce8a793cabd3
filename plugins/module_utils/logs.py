# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a log of JSON lines readable for people."""

from __future__ import annotations

import json


def readable(text: str) -> str:
    """Return a log with each line that is a JSON object with a message as text: level, logger, message and then the traceback.

    Other lines stay as they are.
    """
    lines: list[str] = []
    for line in text.splitlines():
        try:
            entry = json.loads(line) if line.startswith("{") else None
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or not isinstance(entry.get("message"), str):
            lines.append(line)
            continue
        head = f"[{entry['level'].upper()}] " if isinstance(entry.get("level"), str) else ""
        name = f"{entry['logger']}: " if isinstance(entry.get("logger"), str) else ""
        lines.append(f"{head}{name}{entry['message']}")
        lines += [entry[key] for key in ("exception", "stack") if isinstance(entry.get(key), str)]
    return "\n".join(lines)
