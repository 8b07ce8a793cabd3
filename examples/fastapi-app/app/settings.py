"""Settings, read once from the environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


class Settings(BaseSettings):
    """Every field is set by the variable `APP_<FIELD>`, or by a systemd credential of the same name."""

    model_config = SettingsConfigDict(env_prefix="APP_", hide_input_in_errors=True)

    name: str = "notes"
    # Secret, because URLs carry passwords: neither a log line nor a traceback shows their values.
    database_url: SecretStr | None = None
    redis_url: SecretStr | None = None
    check_timeout: float = Field(default=2.0, gt=0, description="seconds that a dependency has to answer in")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def load(cls) -> Settings:
        """The settings of this process. The environment wins over credentials."""
        return cls(_secrets_dir=os.environ.get("CREDENTIALS_DIRECTORY"))

    @property
    def database(self) -> URL:
        """The database's URL with the asyncio driver in it."""
        if self.database_url is None:
            return URL.create("sqlite+aiosqlite", database=str(_state_directory() / "notes.sqlite3"))
        return _with_driver(self.database_url.get_secret_value())

    @field_validator("database_url")
    @classmethod
    def _usable(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _with_driver(value.get_secret_value())
        return value


def _with_driver(value: str) -> URL:
    try:
        url = make_url(value)
    except ArgumentError:
        raise ValueError("not a URL") from None
    driver = _DRIVERS.get(url.get_backend_name())
    if driver is None or not url.database:
        raise ValueError("expected sqlite:////path/to/file or postgresql://user:password@host/database")
    # What libpq calls sslmode, asyncpg calls ssl; the values are the same.
    query = {"ssl" if key == "sslmode" else key: value for key, value in url.query.items()}
    return url.set(drivername=driver, query=query)


def _state_directory() -> Path:
    """Where this process may write: systemd says so (several paths are separated by colons), else a local folder."""
    return Path(os.environ.get("STATE_DIRECTORY", "").split(":")[0] or "var")
