"""One worker process: serves what it reads from stdin, a line with method, path and body each, until stdin ends."""

from __future__ import annotations

import json
import sys

from fastapi.testclient import TestClient

from app.main import app

with TestClient(app) as client:
    for line in sys.stdin:
        method, path, body = json.loads(line)
        response = client.request(method, path, json=body)
        print(json.dumps([response.status_code, response.text]), flush=True)
