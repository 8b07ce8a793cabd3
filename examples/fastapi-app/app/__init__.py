"""A small FastAPI application to deploy: notes in SQLite or PostgreSQL."""

from __future__ import annotations

__version__ = "1.0.0"
