"""The database: SQLite unless the settings name another one."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import URL, DateTime, Dialect, String, TypeDecorator, event, select, text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateTable

# Any number will do, as long as every worker asks for the same lock.
_SCHEMA_LOCK = 7366


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC. SQLite forgets the time zone: give it back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


class Base(DeclarativeBase):
    pass


class Note(Base):
    __tablename__ = "notes"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str] = mapped_column(String(1000))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=lambda: datetime.now(UTC))


class Database:
    """An engine and its sessions. Opening one never fails: a database that is down now may be up in a minute."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._engine = create_async_engine(url, pool_pre_ping=not self._is_sqlite)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        if self._is_sqlite:
            event.listen(self._engine.sync_engine, "connect", _configure_sqlite)

    @property
    def _is_sqlite(self) -> bool:
        return self.url.get_backend_name() == "sqlite"

    async def prepare(self) -> None:
        """Create what is missing, once per process. All workers do this at the same time when the service starts."""
        async with self._preparing:
            if self._prepared:
                return
            if self._is_sqlite:
                await asyncio.to_thread(enable_wal, Path(str(self.url.database)))
            async with self._engine.begin() as connection:
                if not self._is_sqlite:
                    # IF NOT EXISTS alone is not safe in PostgreSQL when two transactions create the same table.
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
                for table in Base.metadata.sorted_tables:
                    await connection.execute(CreateTable(table, if_not_exists=True))
            self._prepared = True

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        await self.prepare()
        async with self._sessions() as session:
            yield session

    async def check(self) -> None:
        """Raise unless a query on the real table works."""
        async with self.session() as session:
            await session.execute(select(Note.id).limit(1))

    async def close(self) -> None:
        await self._engine.dispose()


def enable_wal(file: Path) -> None:
    """Let readers go on while somebody writes. The file remembers this.

    Two connections that switch a new file at the same moment get "database is locked" at once, whatever the busy
    timeout says: so one after the other, with a lock on the directory.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
    finally:
        os.close(directory)


def _configure_sqlite(connection: Any, _record: object) -> None:
    """Writers wait for each other. In WAL mode, synchronous=NORMAL cannot corrupt the file."""
    cursor = connection.cursor()
    for pragma in ("busy_timeout=5000", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
