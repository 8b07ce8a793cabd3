from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


def test_sqlite_goes_where_systemd_lets_the_service_write(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings.load().database.database == "var/notes.sqlite3"
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/notes:/var/lib/other")
    assert Settings.load().database.database == "/var/lib/notes/notes.sqlite3"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("sqlite:////srv/notes.db", "sqlite+aiosqlite:////srv/notes.db"),
        ("postgres://u@h/d", "postgresql+asyncpg://u@h/d"),
        ("postgresql://u@h:5433/d?sslmode=require", "postgresql+asyncpg://u@h:5433/d?ssl=require"),
        ("postgresql+asyncpg://u@/d?host=/run/postgresql", "postgresql+asyncpg://u@/d?host=%2Frun%2Fpostgresql"),
    ],
)
def test_database_urls(monkeypatch: pytest.MonkeyPatch, value: str, expected: str) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", value)
    assert str(Settings.load().database) == expected


@pytest.mark.parametrize("value", ["nonsense", "mysql://u:s3cret@h/d", "sqlite://", "postgresql://u:s3cret@h"])
def test_a_database_url_that_cannot_work_is_refused_without_telling_the_password(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("APP_DATABASE_URL", value)
    with pytest.raises(ValidationError, match="database_url") as caught:
        Settings.load()
    assert "s3cret" not in str(caught.value)


def test_a_secret_can_be_a_systemd_credential(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "app_database_url").write_text("postgresql://u:s3cret@h/d\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    settings = Settings.load()
    assert settings.database.password == "s3cret"
    assert "s3cret" not in repr(settings) + str(settings.database)
