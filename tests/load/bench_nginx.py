"""The benchmark behind nginx's defaults: what nginx costs a request, and what it would cost if it were set otherwise.

    make bench, or python tests/load/bench_nginx.py

One host, one application, h2load with 32 connections; each row in turns with the others, and the median of the rounds. Prints a table
and writes it (docs/bench-nginx.md) and the figures (docs/bench-nginx.json).
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from harness import NAME, ROOT, Host

SITE = "/etc/nginx/conf.d/asgi-plain.conf"


@dataclass
class Row:
    """One way to ask: the path, and the site as the role wrote it after these replacements, on a port of its own."""

    name: str
    path: str = "/"
    changes: tuple[tuple[str, str], ...] = ()
    http: str = "--h1"
    # Past nginx, straight to the application's socket.
    straight: bool = False


LEVEL = "gzip_comp_level 5;"
ROWS = [
    Row("straight to the socket", straight=True),
    Row("through nginx, HTTP/1.1"),
    Row("through nginx, HTTP/2", http="--alpn-list=h2"),
    Row("access log off", changes=((r"access_log [^;]*;", "access_log off;"),)),
    Row("access log written line by line", changes=((r" buffer=64k flush=1s", ""),)),
    Row("each request on a connection of its own", changes=((r"    GET [.]kept;", ""),)),
    Row("without headers of the answer", changes=((r"\n    include [^;]*headers.conf;", ""),)),
    Row("100 KB of JSON, gzip 5", "/data/large.json"),
    Row("100 KB of JSON, gzip 1", "/data/large.json", ((LEVEL, "gzip_comp_level 1;"),)),
    Row("100 KB of JSON, gzip 9", "/data/large.json", ((LEVEL, "gzip_comp_level 9;"),)),
    Row("100 KB of JSON, gzip off", "/data/large.json", ((r"gzip on;", "gzip off;"),)),
]
# As varied as an application's answers are: the same each time, so that the rows can be compared.
LARGE = """
import json, random
some = random.Random(1)
words = ["".join(some.choices("abcdefghijklmnopqrstuvwxyz", k=some.randint(3, 9))) for _ in range(900)]
items = [{"id": n, "name": " ".join(some.choices(words, k=4)), "price": some.randint(1, 9999) / 100} for n in range(1400)]
print(json.dumps(items))
"""


def write_sites(host: Host) -> None:
    """Write the site once for each row, under other names and on ports of its own."""
    site = host.execute(f"cat {SITE}")
    for number, row in enumerate(ROWS):
        text = re.sub(r"(asgi_(?:\w+_)?)plain\b", rf"\g<1>row{number}", site).replace("443", str(9000 + number))
        for old, new in row.changes:
            text, count = re.subn(old, new, text)
            assert count, f"{row.name}: the site has no {old}"
        # The variables of the headers have the application's name in theirs.
        headers = f"/etc/nginx/snippets/row{number}-headers.conf"
        text = text.replace("/etc/nginx/snippets/asgi-plain-headers.conf", headers)
        host.execute(f"sed 's/_plain/_row{number}/' /etc/nginx/snippets/asgi-plain-headers.conf >{headers}")
        host.execute(f"cat >/etc/nginx/conf.d/row{number}.conf <<'END'\n{text}END")
    host.execute("nginx -t -q && systemctl reload nginx && sleep 2")


def used(host: Host, unit: str) -> float:
    """Return the seconds that a service's workers have computed (proc_pid_stat(5), fields 14 and 15, in hundredths)."""
    files = " ".join(f"/proc/{pid}/stat" for pid in host.worker_pids(unit))
    return float(host.execute(f"sed 's/.*) //' {files} | awk '{{ ticks += $12 + $13 }} END {{ print ticks / 100 }}'"))


def ask(host: Host, row: Row, number: int, seconds: int) -> tuple[float, float, float, int]:
    """Return requests per second, microseconds of nginx and of the application for each, and the octets of an answer."""
    address = "http://localhost" if row.straight else f"https://{NAME}:{9000 + number}"
    to = "--base-uri=unix:/run/plain/live.sock" if row.straight else f"--connect-to=127.0.0.1:{9000 + number}"
    unit = f"plain@{host.slot()}"
    before = {name: used(host, name) for name in ("nginx", unit)}
    header = "--header='accept-encoding: gzip'"
    said = host.execute(f"h2load -c32 -t1 -D{seconds} --warm-up-time=0 {row.http} {header} {to} '{address}{row.path}'")
    (done,) = re.findall(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, 0 failed", said)
    (octets,) = re.findall(r"headers \(space savings [^)]*\), \S+ \((\d+)\) data", said)
    requests = int(done)
    cost = {name: (used(host, name) - before[name]) / requests * 1e6 for name in before}
    return requests / seconds, cost["nginx"], cost[unit], round(int(octets) / requests)


def measure(host: Host, rounds: int, seconds: int) -> list[dict[str, float | str]]:
    found: dict[str, list[tuple[float, float, float, int]]] = {row.name: [] for row in ROWS}
    for turn in range(rounds):
        # Who comes first has the others' leftovers in the processors' caches.
        for number, row in list(enumerate(ROWS))[:: -1 if turn % 2 else 1]:
            found[row.name].append(ask(host, row, number, seconds))

    def middle(name: str, which: int) -> float:
        return statistics.median(values[which] for values in found[name])

    return [
        {
            "name": row.name,
            "requests_per_second": round(middle(row.name, 0)),
            "nginx_microseconds": round(middle(row.name, 1), 1),
            "application_microseconds": round(middle(row.name, 2), 1),
            "octets": round(middle(row.name, 3)),
        }
        for row in ROWS
    ]


PAGE = """# Measured: what nginx costs, and what its settings are worth

`tests/load/bench_nginx.py`, which `make bench` runs, wrote this page and [bench-nginx.json](bench-nginx.json): h2load with 32
connections on the host itself, TLS kept open, each row in turns with the others; medians. Rounds: {rounds}, of {seconds} s a row. One run
on one machine, which had other things to do: compare the rows with each other, and take no difference for real that is less than a third.
What another program takes away are requests, not processor time, so that the latter says more.

| | requests/s | nginx's processor time of a request | the application's | octets of the body |
|---|---|---|---|---|
{rows}
From the second row on it is the site as asgi_nginx writes it, and below the third with one thing changed. `/` is some forty octets of
JSON from the application, the large file one that nginx serves itself.

What follows from it for the defaults:

- *The connection to the application* is the larger part of what a request costs in both, so it is kept for what can be sent again where
  the application closes it at that moment, as it does when it is replaced: GET and HEAD. All else costs what the row without kept
  connections says.
- *The access log* is written once a second: line by line, nginx's processes wait for each other where there is much to write.
  *The headers of every answer* cost less than this measurement can tell.
- *gzip 5*: the levels above it make next to nothing smaller and cost much more, those below it save time at the price of a tenth in size.
  Files that do not change are better compressed once (`precompressed`).
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="for each row in each round")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steadfast-bench-nginx-") as work:
        host = Host("steadfast-bench-nginx", Path(work))
        try:
            static = [{"url": "/data/", "path": "/srv/data"}]
            host.set_up("one", asgi_nginx_static=static, asgi_nginx_redirect=False)
            host.execute("apt-get install -qq --yes nghttp2-client >/dev/null 2>&1")
            host.execute(f"mkdir -p /srv/data && python3 - >/srv/data/large.json <<'END'\n{LARGE}END")
            write_sites(host)
            found = measure(host, options.rounds, options.seconds)
        finally:
            host.remove()
    lines = [
        f"| {row['name']} | {row['requests_per_second']:,} | {row['nginx_microseconds']} µs | "
        f"{row['application_microseconds']} µs | {row['octets']:,} |\n"
        for row in found
    ]
    page = PAGE.format(rounds=options.rounds, seconds=options.seconds, rows="".join(lines))
    (options.output / "bench-nginx.md").write_text(page, encoding="utf-8")
    (options.output / "bench-nginx.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
