from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr

# Before anything imports the application: the developer's own settings are not what is tested.
for variable in [name for name in os.environ if name.startswith("APP_")]:
    del os.environ[variable]
for variable in ("CREDENTIALS_DIRECTORY", "PROMETHEUS_MULTIPROC_DIR", "STATE_DIRECTORY"):
    os.environ.pop(variable, None)

ClientFactory = Callable[..., TestClient]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[ClientFactory]:
    """Start the application, with a database of its own unless another URL is given."""
    from app.main import create_app
    from app.settings import Settings

    with ExitStack() as stack:

        def _start(database_url: str | None = None, redis_url: str | None = None) -> TestClient:
            settings = Settings(
                database_url=SecretStr(database_url or f"sqlite:///{tmp_path}/notes.sqlite3"),
                redis_url=SecretStr(redis_url) if redis_url else None,
                check_timeout=0.3,
            )
            return stack.enter_context(TestClient(create_app(settings)))

        yield _start


@pytest.fixture
def client(start: ClientFactory) -> TestClient:
    return start()
