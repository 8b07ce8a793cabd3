"""Datasette as it comes from the package index: it has no ASGI object of its own, only what makes one."""

from __future__ import annotations

from datasette.app import Datasette

app = Datasette(memory=True).app()
