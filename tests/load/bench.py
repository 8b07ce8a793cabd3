"""The benchmark behind the figures in the documentation: each way to replace an application, in turn, under the same load.

    make bench

Prints a table, and writes it (docs/bench.md), the raw data (docs/bench.json) and a picture (docs/bench.svg). One run on one
machine: compare the rows with each other, not with another run's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import Load, Record, Site
from harness import NAME, ROOT, Host, in_thread

QUIET = 3.0
STEADY = "steady state"
BROKEN = ("import", "lifespan", "ready", "hang")
# Besides gunicorn with the hand-over worker: what to call it, the server, how many workers, and what else is set.
SERVERS: tuple[tuple[str, str, int, dict[str, str]], ...] = (
    ("uvicorn", "uvicorn", 1, {}),
    ("uvicorn", "uvicorn", 4, {}),
    ("hypercorn", "hypercorn", 4, {}),
    ("hypercorn and Trio", "hypercorn", 4, {"asgi_service_event_loop": "trio"}),
    ("granian", "granian", 4, {}),
    ("gunicorn's own workers", "gunicorn", 4, {"asgi_service_worker_class": "asgi"}),
)
# What the picture shows, and into how many moments it divides each measurement.
PICTURED = (
    "recipe: systemctl reload",
    "recipe: systemctl restart",
    "recipe: reload, broken (import)",
    "ours: reload",
    "ours: rollout",
    "ours: reload, broken (import)",
    "ours: rollout, broken (import)",
)
MOMENTS = 430
# What the recipe and ours are reached at, each as a whole.
WHOLES = {"ours": 443, "recipe": 8443, "recipe, recycled": 8446}
COLOURS = {"get": "#2a6f97", "bad": "#c1121f", "mark": "#555555"}


@dataclass
class Row:
    """One method's measurement: the record of its load, and when in it something was switched."""

    name: str
    record: Record
    marks: list[float] = field(default_factory=list)
    # Seconds from each switch until the last old worker was gone.
    old_gone: list[float] = field(default_factory=list)
    # Seconds that each act took.
    took: list[float] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        first = self.marks[0] if self.marks else float("inf")
        return {
            "method": self.name,
            "switches": len(self.marks),
            "requests": len(self.record.requests),
            "failed": sum(self.record.failed().values()),
            "failed_by_kind": dict(self.record.failed()),
            "longest_before_ms": round(1000 * self.record.longest(0, first)),
            "longest_ms": round(1000 * self.record.longest()),
            "p99_before_ms": round(1000 * self.record.percentile(0.99, 0, first)),
            "p99_during_ms": round(1000 * self.record.percentile(0.99, first)),
            "websockets_closed": dict(Counter(str(code) for _, code in self.record.websockets_cut)),
            "took_s": round(max(self.took, default=0), 1),
            "old_gone_s": round(max(self.old_gone, default=0), 1),
        }


Act = Callable[[int], Awaitable[None]]


class Bench:
    """One host, one load, many methods."""

    def __init__(self, host: Host, switches: int, requests: int, clients: int, websockets: int, only: str = "") -> None:
        self.host = host
        self.switches = switches
        self.requests = requests
        self.clients = clients
        self.websockets = websockets
        self.only = only
        self.rows: list[Row] = []

    async def measure(self, name: str, site: Site, times: int, act: Act, requests: int = 0, replaces: bool = True) -> None:
        """Run `act` under load, so many times at least, and on until there were as many requests."""
        if self.only not in name:
            return
        row = Row(name, Record())
        unit = "" if site.port == 443 else "recipe"
        async with Load(site, self.clients, self.websockets) as load:
            row.record = load.record
            await asyncio.sleep(QUIET)
            number = 0
            while number < times or len(load.record.requests) < requests:
                before = await in_thread(self.host.worker_pids, unit)
                row.marks.append(load.now)
                begun = time.monotonic()
                await act(number)
                row.took.append(time.monotonic() - begun)
                gone = await in_thread(self.host.gone, before, begun) if replaces else None
                if gone is not None:
                    row.old_gone.append(gone)
                number += 1
                await asyncio.sleep(1)
            await asyncio.sleep(QUIET)
        self.rows.append(row)
        print(json.dumps(row.figures()), flush=True)

    async def recipe(self, command: str, settle: float) -> None:
        await in_thread(self.host.execute, command)
        await asyncio.sleep(settle)

    async def reload(self, _: int) -> None:
        done = await in_thread(self.host.reload)
        assert not done["failed"], done["msg"]

    def broken_reload(self, way: str) -> Act:
        """Code in place that cannot run, and then the good code again."""

        async def act(_: int) -> None:
            code = f"{self.host.live()}/app/plain.py"
            await in_thread(self.host.execute, f'cp {code} /root/good.py && sed -i \'s/"PLAIN_BROKEN") == "{way}"/"HOME") != ""/\' {code}')
            done = await in_thread(self.host.reload, timeout=6)
            assert done["failed"], done
            await in_thread(self.host.execute, f"cp /root/good.py {code}")
            await self.reload(0)

        return act

    def roll_out(self, *names: str, **options: Any) -> Act:
        """Roll out these releases in turn."""

        async def act(number: int) -> None:
            done = await in_thread(self.host.roll_out, names[number % len(names)], **options)
            assert not done["failed"], done["msg"]
            assert done["way"] == "rollout", done

        return act

    def broken_rollout(self, way: str) -> Act:
        async def act(_: int) -> None:
            done = await in_thread(self.host.roll_out, f"broken-{way}", boot_timeout=8)
            assert done["failed"], done

        return act

    async def other_environment(self, number: int) -> None:
        await in_thread(self.host.execute, f"echo PLAIN_NUMBER={number} >>/etc/plain/next/env")
        await self.roll_out("one")(number)

    async def crash_in_bake_time(self, _: int) -> None:
        """The new release is killed two seconds after it became live."""

        async def kill() -> None:
            live = self.host.slot()
            while await in_thread(self.host.slot) == live:
                await asyncio.sleep(0.1)
            await asyncio.sleep(2)
            await in_thread(self.host.execute, "systemctl kill --signal=KILL plain@$(readlink /opt/plain/slots/live).service")

        other = "one" if self.host.live() == self.host.releases["two"] else "two"
        killer = asyncio.create_task(kill())
        done = await in_thread(self.host.roll_out, other, bake_time=10)
        await killer
        assert done["failed"], done
        assert "bake time" in done["msg"], done["msg"]

    async def roll_back(self, _: int) -> None:
        done = await in_thread(self.host.roll_back)
        assert not done["failed"], done["msg"]

    async def run(self) -> None:
        host, ours, recipe = self.host, self.host.site(), self.host.site(8443)

        async def nothing(_: int) -> None:
            await asyncio.sleep(2 * QUIET)

        await self.measure(f"{STEADY}, ours", ours, 1, nothing, replaces=False)
        await self.measure(f"{STEADY}, recipe", recipe, 1, nothing, replaces=False)
        await self.measure("recipe: systemctl reload", recipe, 3, lambda _: self.recipe("systemctl reload recipe", 6))
        await self.measure("recipe: systemctl restart", recipe, 1, lambda _: self.recipe("systemctl restart recipe", 6))
        await self.measure("ours: reload", ours, self.switches, self.reload, self.requests)
        await self.measure("ours: rollout", ours, self.switches, self.roll_out("two", "one"), self.requests)
        await self.measure("ours: rollout, other packages", ours, 2, self.roll_out("packages", "one"))
        await self.measure("ours: rollout, other environment", ours, 2, self.other_environment)
        await self.measure("ours: rollback", ours, 2, self.roll_back)
        for way in BROKEN:
            await self.measure(f"ours: rollout, broken ({way})", ours, 1, self.broken_rollout(way), replaces=False)
        await self.measure("ours: rollout, crash in the bake time", ours, 1, self.crash_in_bake_time, replaces=False)
        for way in BROKEN:
            await self.measure(f"ours: reload, broken ({way})", ours, 1, self.broken_reload(way))
        code = host.execute("systemctl show --property=WorkingDirectory --value recipe").strip() + "/plain.py"
        host.execute(f'sed -i \'s/"PLAIN_BROKEN") == "import"/"HOME") != ""/\' {code}')
        await self.measure("recipe: reload, broken (import)", recipe, 1, lambda _: self.recipe("systemctl reload recipe", 8))
        for name, server, workers, settings in SERVERS:
            host.settings(asgi_service_server=server, asgi_service_workers=workers, **settings)
            await self.roll_out("two", workers=workers)(0)
            # A single one is the main process itself.
            host.settled(workers if workers > 1 else 0)
            await self.measure(
                f"ours: rollout, {name} with {workers} worker{'s' if workers > 1 else ''}",
                ours,
                3,
                self.roll_out("one", "two", workers=workers),
            )


def table(methods: list[dict[str, Any]]) -> str:
    head = ["method", "times", "requests", "failed", "longest before", "longest", "p99 before", "p99 during", "websockets closed"]
    head += ["took", "old gone after"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for found in methods:
        steady = found["method"].startswith(STEADY)
        cells = [found["method"], "" if steady else found["switches"], f"{found['requests']:,}", f"{found['failed']:,}"]
        cells += [f"{found[key]} ms" for key in ("longest_before_ms", "longest_ms", "p99_before_ms", "p99_during_ms")]
        cells.append(", ".join(f"{count} {CODES.get(code, f'with {code}')}" for code, count in found["websockets_closed"].items()))
        cells += ["", ""] if steady else [f"{found['took_s']} s", f"{found['old_gone_s']} s" if found["old_gone_s"] else "-"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


# What a client saw of its websocket's end, where it is no code of the protocol's.
CODES = {"-1": "refused", "-2": "wrong echo"}


WORKERS = {"the hand-over worker": ("ours", 8444), "`UvicornWorker`": ("plain", 8445)}


def throughput(host: Host, rounds: int, seconds: int) -> dict[str, Any]:
    """Measure the hand-over worker and plain UvicornWorker in turns, through nginx: requests per second, and what each costs.

    The processor time of a request is the better figure of the two: what else a machine does takes requests away, not time.
    """
    host.execute("apt-get update -qq && apt-get install -qq --yes wrk >/dev/null 2>&1")
    # The same server twice, on sockets of their own, with nothing different but the worker.
    lines = host.execute("cat /etc/plain/next/gunicorn.conf.py").splitlines()
    ours = ("import ", "from ", "sys.path", "HandoverWorker.", "worker_class")
    plain = "\n".join([line for line in lines if not line.startswith(ours)] + ['worker_class = "uvicorn_worker.UvicornWorker"', ""])
    host.execute(f"cat >/etc/plain/plain.conf.py <<'END'\n{plain}END\nchmod a+r /etc/plain/plain.conf.py")
    release = host.live()
    for name, config in (("ours", "next/gunicorn.conf.py"), ("plain", "plain.conf.py")):
        host.execute(
            f"systemd-run --quiet --unit=worker-{name} --uid=plain --working-directory={release}/app "
            f"--property=RuntimeDirectory=worker-{name} {release}/.venv/bin/python -m gunicorn "
            f"--config=/etc/plain/{config} --bind=unix:/run/worker-{name}/gunicorn.sock plain:app"
        )
    time.sleep(4)

    def used(unit: str) -> float:
        """Return the seconds that the workers have computed (proc_pid_stat(5), fields 14 and 15, in hundredths)."""
        files = " ".join(f"/proc/{pid}/stat" for pid in host.worker_pids(f"worker-{unit}"))
        return float(host.execute(f"sed 's/.*) //' {files} | awk '{{ ticks += $12 + $13 }} END {{ print ticks / 100 }}'"))

    found: dict[str, list[tuple[float, float]]] = {name: [] for name in WORKERS}
    for number in range(rounds):
        # Who is first has the other one's leftovers in the processors' caches.
        for name, (unit, port) in sorted(WORKERS.items(), reverse=bool(number % 2)):
            before = used(unit)
            said = host.execute(f"wrk -t1 -c32 -d{seconds}s https://127.0.0.1:{port}/")
            requests = int(said.partition(" requests in ")[0].split()[-1])
            rate = float(said.partition("Requests/sec:")[2].split()[0])
            found[name].append((rate, (used(unit) - before) / requests * 1e6))
    host.execute("systemctl stop worker-ours worker-plain")
    return {
        "rounds": rounds,
        "requests_per_second": {name: round(statistics.median(rate for rate, _ in values)) for name, values in found.items()},
        "microseconds_per_request": {name: round(statistics.median(cost for _, cost in values), 1) for name, values in found.items()},
        "all": found,
    }


def defaults(host: Host, rounds: int, seconds: int) -> dict[str, Any]:
    """Measure the whole of it as it comes, and the recipe as guides have it, in turns: requests, failed ones and latency through nginx."""
    host.execute("apt-get update -qq && apt-get install -qq --yes wrk >/dev/null 2>&1")
    host.execute(f"systemctl start recycled; grep -q {NAME} /etc/hosts || echo 127.0.0.1 {NAME} >>/etc/hosts")
    time.sleep(4)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WHOLES}
    for number in range(rounds):
        for name, port in sorted(WHOLES.items(), reverse=bool(number % 2)):
            said = host.execute(f"wrk -t2 -c32 -d{seconds}s --latency --timeout 10s https://{NAME}:{port}/")
            errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", said)
            refused = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
            percentile = re.search(r"99%\s+([0-9.]+)(us|ms|s)\b", said)
            assert percentile, said
            value, unit = percentile.groups()
            found[name].append(
                {
                    "requests_per_second": float(said.partition("Requests/sec:")[2].split()[0]),
                    "p99_ms": float(value) * {"us": 0.001, "ms": 1, "s": 1000}[unit],
                    "failed": (int(refused.group(1)) if refused else 0) + (sum(map(int, errors.groups())) if errors else 0),
                }
            )
    host.execute("systemctl stop recycled")
    medians = ("requests_per_second", "p99_ms")
    return {
        "rounds": rounds,
        "seconds": seconds,
        **{
            name: {key: round(statistics.median(value[key] for value in values), 1) for key in medians}
            | {"failed": sum(value["failed"] for value in values)}
            for name, values in found.items()
        },
    }


def picture(rows: list[Row]) -> str:
    """Draw the slowest request of each moment, on a logarithmic scale; failed ones in red, switches as lines."""
    width, height, left = 860, 110, 60
    rows = [row for row in rows if row.name in PICTURED]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{len(rows) * (height + 40) + 20}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
    ]
    for number, row in enumerate(rows):
        top = 30 + number * (height + 40)
        end = max((start for start, _, _ in row.record.requests), default=1.0) or 1.0

        def x(moment: float, end: float = end) -> float:
            return left + width * moment / end

        def y(seconds: float, top: int = top) -> float:
            # From 1 ms at the bottom to 10 s at the top, a quarter for each factor of ten.
            share = max(0.0, min(1.0, (3 + math.log10(max(seconds, 0.001))) / 4))
            return top + height * (1 - share)

        parts.append(f'<text x="{left}" y="{top - 8}">{row.name}: {row.figures()["failed"]} failed</text>')
        for label, seconds in (("10 s", 10.0), ("1 s", 1.0), ("100 ms", 0.1), ("10 ms", 0.01), ("1 ms", 0.001)):
            parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y(seconds):.0f}" y2="{y(seconds):.0f}" stroke="#dddddd"/>')
            parts.append(f'<text x="{left - 6}" y="{y(seconds) + 4:.0f}" text-anchor="end" fill="#666666">{label}</text>')
        dashes = f'y1="{top}" y2="{top + height}" stroke="{COLOURS["mark"]}" stroke-dasharray="3 3"'
        parts += [f'<line x1="{x(mark):.1f}" x2="{x(mark):.1f}" {dashes}/>' for mark in row.marks]
        slowest: dict[tuple[int, bool], float] = {}
        for start, seconds, failure in row.record.requests:
            key = int(start / end * MOMENTS), bool(failure)
            slowest[key] = max(slowest.get(key, 0.0), seconds)
        for (moment, bad), seconds in sorted(slowest.items(), key=lambda item: item[0][1]):
            colour = COLOURS["bad" if bad else "get"]
            parts.append(
                f'<circle cx="{x((moment + 0.5) * end / MOMENTS):.0f}" cy="{y(seconds):.0f}" r="{2.5 if bad else 1.5}" fill="{colour}"/>'
            )
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help="of methods, throughput, defaults; all of them by default")
    parser.add_argument("--switches", type=int, default=20, help="reloads and rollouts of our own, each")
    parser.add_argument("--requests", type=int, default=100_000, help="requests during each of these two, at least")
    parser.add_argument("--rounds", type=int, default=20, help="of the comparison of throughput")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--websockets", type=int, default=50)
    parser.add_argument("--only", default="", help="the methods with this in their names")
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    parts = set(options.parts) or {"methods", "throughput", "defaults"}
    options.output.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="steadfast-bench-") as work:
        host = Host("steadfast-bench", Path(work))
        try:
            every = {"asgi_release_server_requirements": server_requirements()}
            # The window in which websockets are closed is what a reload lasts longest with; it is the same for all of these.
            host.set_up("one", **every, asgi_service_websocket_close_window=3)
            # The sites of the comparisons.
            recipe = host.build("recipe", **every)
            host.playbook(ROOT / "tests/load/recipe.yml", recipe_release=recipe, boot_seconds=2)
            if "throughput" in parts:
                write(options.output, throughput=throughput(host, options.rounds, 3))
            if "defaults" in parts:
                write(options.output, defaults=defaults(host, options.rounds // 4, 6))
            if "methods" in parts:
                host.build("two", **every)
                host.build("packages", asgi_release_server_requirements=server_requirements(without=("uvloop", "httptools")))
                for way in BROKEN:
                    host.build(f"broken-{way}", (f'os.environ.get("PLAIN_BROKEN") == "{way}"', "True"), **every)
                bench = Bench(host, options.switches, options.requests, options.clients, options.websockets, options.only)
                try:
                    asyncio.run(bench.run())
                finally:
                    (options.output / "bench.svg").write_text(picture(bench.rows), encoding="utf-8")
                    load = {"clients": options.clients, "websockets": options.websockets}
                    write(options.output, load=load, methods=[row.figures() | {"marks": row.marks} for row in bench.rows])
        finally:
            host.remove()


def write(folder: Path, **measured: Any) -> None:
    """Put figures among those that are there, and write the page anew once there are all."""
    path = folder / "bench.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found |= measured
    path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if {"methods", "load", "throughput", "defaults"} <= set(found):
        page = PAGE.format(
            table=table(found["methods"]),
            speed="".join(
                f"| {name} | {found['throughput']['requests_per_second'][name]:,} | "
                f"{found['throughput']['microseconds_per_request'][name]} µs |\n"
                for name in WORKERS
            ),
            rounds=found["throughput"]["rounds"],
            wholes="".join(whole_row(name, found["defaults"]) for name in WHOLES),
            seconds=found["defaults"]["seconds"],
            whole_rounds=found["defaults"]["rounds"],
            **found["load"],
        )
        (folder / "bench.md").write_text(page, encoding="utf-8")
        print(page)


def whole_row(name: str, measured: dict[str, Any]) -> str:
    own, ours = measured[name], measured["ours"]
    times = ours["requests_per_second"] / own["requests_per_second"]
    return f"| {name} | {own['requests_per_second']:,.0f} | {own['p99_ms']} ms | {own['failed']} | {times:.1f} |\n"


PAGE = """# Measured: what each way of replacing an application costs

`make bench` wrote this page, [bench.json](bench.json) and the picture. All methods were measured in one run, one after the other, on
one host: compare the rows with each other, not with those of another run.

![The slowest request of each moment, by method](bench.svg)

The load: {clients} clients over TLS through nginx, three of four on a kept connection, every other one posting, each sending its next
request when it has the answer to the last one; and {websockets} websockets that echo. The application has four workers and takes two
seconds to import. "Recipe" is what most guides tell: gunicorn with `UvicornWorker`, `ExecReload=/bin/kill -HUP`, no socket unit; it
runs on the same host, from the same packages.

{table}
- *times*: how often it was done under load. A broken release by reload is two: the bad code, and the good code again.
- *longest before* is the longest request before the first switch, *longest* that of the whole measurement.
- *websockets closed*: by the code that the client saw. 1012 is "service restart"; 1006, that the connection just broke. A rollout
  closes them when the drain deadline (three seconds here) comes, a reload over three seconds (`asgi_service_websocket_close_window`).
- *took*: the longest of the runs, with Ansible's own start of a second or so.
- *old gone after*: seconds from the beginning of the switch until the last old worker had ended.

## Throughput

What the hand-over worker costs while nothing is replaced: wrk with 32 connections, through nginx with TLS, in {rounds} rounds in turns;
medians. The processor time is that of the server's processes.

| worker | requests/s | processor time of a request |
|---|---|---|
{speed}
## As it comes

The whole of it with its defaults beside the recipe, each with four workers of the same application: wrk with 32 connections, through
nginx with TLS, {whole_rounds} rounds of {seconds} s in turns. Medians; what failed is the sum. The recipe writes its access log to the
journal; "recycled" is the recipe with the `--max-requests 1000 --max-requests-jitter 50` that goes with it.

| | requests/s | 99 % within | failed | ours does so many times as much |
|---|---|---|---|---|
{wholes}"""


def server_requirements(without: tuple[str, ...] = ()) -> str:
    """Return the role's server sets as one, without some of their packages."""
    entries: dict[str, list[str]] = {}
    for path in sorted((ROOT / "roles/asgi_release/files").glob("server-requirements*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line and not line.startswith((" ", "\t", "#")):
                entry = entries.setdefault(line.partition("==")[0], [])
                entry.clear()
            if line and not line.startswith("#"):
                entry.append(line)
    return "\n".join(line for name, lines in entries.items() if name not in without for line in lines) + "\n"


if __name__ == "__main__":
    main()
