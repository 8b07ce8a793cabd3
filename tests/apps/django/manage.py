"""Django's commands: migrate, collectstatic, check."""

from __future__ import annotations

import sys

import site_asgi  # noqa: F401 (it configures Django)
from django.core.management import execute_from_command_line

execute_from_command_line(sys.argv)
