"""What only shows in real processes: shared metrics, a shared SQLite file, and the log as it leaves them."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import IO, Any

from app import __version__

ROOT = Path(__file__).parents[1]


class Worker:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def request(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        stdin, stdout = _pipes(self.process)
        stdin.write(json.dumps([method, path, body]) + "\n")
        stdin.flush()
        status, text = json.loads(stdout.readline())
        return status, text

    def stop(self) -> str:
        """End it as a server would, and return its log."""
        return self.process.communicate(timeout=30)[1]


def _pipes(process: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    assert process.stdin
    assert process.stdout
    return process.stdin, process.stdout


@contextmanager
def workers(count: int, **environment: str) -> Iterator[list[Worker]]:
    command = [sys.executable, "-m", "tests.worker"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [
        subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, text=True, **pipes) for _ in range(count)
    ]
    try:
        yield [Worker(process) for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_workers_share_metrics_and_the_database(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    with workers(2, STATE_DIRECTORY=str(tmp_path), PROMETHEUS_MULTIPROC_DIR=str(metrics)) as (one, two):
        for number in range(3):
            assert one.request("POST", "/notes", {"text": f"one {number}"})[0] == 201
        for number in range(2):
            assert two.request("POST", "/notes", {"text": f"two {number}"})[0] == 201
        assert len(json.loads(one.request("GET", "/notes")[1])) == 5

        for worker in (one, two):
            text = worker.request("GET", "/metrics")[1]
            assert 'http_requests_total{method="POST",route="/notes",status="201"} 5.0' in text
            assert f'app_workers{{version="{__version__}"}} 2.0' in text

        one.stop()
        text = two.request("GET", "/metrics")[1]
        assert 'http_requests_total{method="POST",route="/notes",status="201"} 5.0' in text
        assert f'app_workers{{version="{__version__}"}} 1.0' in text


def test_every_log_line_is_json_with_the_request_id(tmp_path: Path) -> None:
    with workers(1, STATE_DIRECTORY=str(tmp_path)) as (worker,):
        worker.request("POST", "/notes", {"text": "two\nlines"})
        entries = [json.loads(line) for line in worker.stop().splitlines()]
    for entry in entries:
        assert {"time", "level", "logger", "message", "pid"} <= entry.keys()
    (created,) = (entry for entry in entries if entry["message"] == "note created")
    assert created["level"] == "INFO"
    assert created["logger"] == "app.notes"
    assert created["note"] == 1
    assert len(created["request_id"]) == 32
    ours = [entry for entry in entries if entry["logger"] == "app.main"]
    assert [entry["message"] for entry in ours] == ["started", "stopped"]


def test_a_failure_is_one_line_of_json() -> None:
    code = "import logging; from app import logs; logs.configure('INFO')\ntry: 1 / 0\nexcept Exception: "
    code += "logging.exception('broke', extra={'level': 'forged', 'path': '/x'})"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    (entry,) = (json.loads(line) for line in result.stderr.splitlines())
    assert entry["level"] == "ERROR"
    assert entry["path"] == "/x"
    assert entry["exception"].endswith("ZeroDivisionError: division by zero")


PROCESSES = 6
ROUNDS = 200  # enough to fail every time without the lock in `enable_wal`


def _open_new_files(folder: Path, barrier: Barrier) -> None:
    """What a worker does with the database first, at the same moment as all the others; each round with a new file."""
    from app.database import Database, Note, enable_wal
    from app.settings import Settings

    async def write() -> None:
        database = Database(Settings.model_validate({"database_url": f"sqlite:///{folder}/notes.db"}).database)
        try:
            async with database.session() as session:
                session.add(Note(text="written"))
                await session.commit()
        finally:
            await database.close()

    try:
        for number in range(ROUNDS):
            barrier.wait(timeout=60)
            enable_wal(folder / f"{number}.db")
        barrier.wait(timeout=60)
        asyncio.run(write())
    except BaseException:
        barrier.abort()
        raise


def test_workers_that_start_at_once_create_one_database(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(PROCESSES)
    processes = [context.Process(target=_open_new_files, args=(tmp_path, barrier)) for _ in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    with closing(sqlite3.connect(tmp_path / "notes.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("SELECT count(*) FROM notes").fetchone() == (PROCESSES,)
