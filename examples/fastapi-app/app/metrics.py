"""Metrics for Prometheus, summed over all worker processes where there are several.

With `PROMETHEUS_MULTIPROC_DIR` in the environment every worker keeps its values in files of that directory, and
whichever of them is scraped reports them all. The directory belongs to one instance of the service and must be empty
when that starts.
"""

from __future__ import annotations

import os

from fastapi import APIRouter, Request, Response
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from app import __version__

REQUESTS = Counter("http_requests", "HTTP requests answered", ["method", "route", "status"])
LATENCY = Histogram("http_request_duration_seconds", "Time until the last byte was sent", ["method", "route"])
WEBSOCKETS = Gauge("websocket_connections", "Open websocket connections", multiprocess_mode="livesum")
WORKERS = Gauge("app_workers", "Worker processes by version", ["version"], multiprocess_mode="livesum")

router = APIRouter()


def _directory() -> str | None:
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR")


def worker_started() -> None:
    WORKERS.labels(__version__).set(1)


def worker_stopped() -> None:
    """Take this worker out of the gauges that count the living. What it counted stays."""
    WORKERS.labels(__version__).set(0)
    if _directory():
        mark_process_dead(os.getpid())


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """Not async: reading the files of all workers is blocking work, so it happens in a thread."""
    registry = REGISTRY
    if _directory():
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    encode, media_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(registry), headers={"content-type": media_type, "cache-control": "no-store"})
