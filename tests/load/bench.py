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
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from client import Load, Record, Site
from harness import ROOT, Host, in_thread

QUIET = 4.0
COLOURS = {"get": "#2a6f97", "bad": "#c1121f", "mark": "#555555"}


@dataclass
class Row:
    """One method's measurement: the record of its load, and when in it something was switched."""

    name: str
    record: Record
    marks: list[float] = field(default_factory=list)
    old_gone: float = 0.0
    switches: int = 0

    def figures(self) -> dict[str, Any]:
        first = self.marks[0] if self.marks else float("inf")
        return {
            "method": self.name,
            "switches": self.switches,
            "requests": len(self.record.requests),
            "failed": sum(self.record.failed().values()),
            "failed_by_kind": dict(self.record.failed()),
            "longest_ms": round(1000 * self.record.longest()),
            "p99_before_ms": round(1000 * self.record.percentile(0.99, 0, first)),
            "p99_during_ms": round(1000 * self.record.percentile(0.99, first)),
            "websockets_cut": len(self.record.websockets_cut),
            "old_gone_s": round(self.old_gone, 1),
        }


class Bench:
    """One host, one load, many methods."""

    def __init__(self, host: Host, switches: int, clients: int, websockets: int) -> None:
        self.host = host
        self.switches = switches
        self.clients = clients
        self.websockets = websockets
        self.rows: list[Row] = []

    async def measure(self, name: str, site: Site, times: int, act: Callable[[int], Awaitable[float]]) -> Row:
        """Run `act` so many times under load. It returns how long the last old worker lived on."""
        row = Row(name, Record(), switches=times)
        async with Load(site, self.clients, self.websockets) as load:
            row.record = load.record
            await asyncio.sleep(QUIET)
            for number in range(times):
                row.marks.append(load.now)
                row.old_gone = max(row.old_gone, await act(number))
                await asyncio.sleep(1)
            await asyncio.sleep(QUIET)
        self.rows.append(row)
        print(json.dumps(row.figures()), flush=True)
        return row

    async def recipe(self, command: str, settle: float) -> float:
        await in_thread(self.host.execute, command)
        await asyncio.sleep(settle)
        return settle

    async def reload(self, _: int) -> float:
        done = await in_thread(self.host.reload)
        assert not done["failed"], done["msg"]
        return float(done["seconds"])

    def broken_reload(self, way: str) -> Callable[[int], Awaitable[float]]:
        """Code in place that cannot run, and then the good code again."""

        async def act(_: int) -> float:
            return await self._broken_reload(way)

        return act

    async def _broken_reload(self, way: str) -> float:
        code = f"{self.host.live()}/app/plain.py"
        await in_thread(self.host.execute, f'cp {code} /root/good.py && sed -i \'s/"PLAIN_BROKEN") == "{way}"/"HOME") != ""/\' {code}')
        done = await in_thread(self.host.reload, timeout=6)
        assert done["failed"], done
        await in_thread(self.host.execute, f"cp /root/good.py {code}")
        done = await in_thread(self.host.reload)
        assert not done["failed"], done["msg"]
        return float(done["seconds"])

    async def roll_out(self, name: str, expected: bool = True, **options: Any) -> float:
        begun = time.monotonic()
        done = await in_thread(self.host.roll_out, name, **options)
        assert done["failed"] is not expected, done["msg"]
        return time.monotonic() - begun

    def broken_rollout(self, way: str) -> Callable[[int], Awaitable[float]]:
        async def act(_: int) -> float:
            return await self.roll_out(f"broken-{way}", False, boot_timeout=8)

        return act

    async def run(self) -> None:
        host, ours, recipe = self.host, self.host.site(), self.host.site(8443)

        async def nothing(_: int) -> float:
            await asyncio.sleep(QUIET)
            return 0

        await self.measure("steady state, ours", ours, 1, nothing)
        await self.measure("steady state, recipe", recipe, 1, nothing)
        await self.measure("recipe: systemctl reload", recipe, 3, lambda _: self.recipe("systemctl reload recipe", 6))
        await self.measure("recipe: systemctl restart", recipe, 1, lambda _: self.recipe("systemctl restart recipe", 6))
        await self.measure("ours: reload", ours, self.switches, self.reload)
        host.settled()
        await self.measure("ours: rollout", ours, self.switches, lambda number: self.roll_out(("two", "one")[number % 2]))
        await self.measure("ours: rollout, other packages", ours, 2, lambda number: self.roll_out(("packages", "one")[number % 2]))
        for way in ("import", "lifespan", "ready", "hang"):
            await self.measure(f"ours: rollout, broken ({way})", ours, 1, self.broken_rollout(way))
        for way in ("import", "ready"):
            await self.measure(f"ours: reload, broken ({way})", ours, 1, self.broken_reload(way))
        code = host.execute("systemctl show --property=WorkingDirectory --value recipe").strip() + "/plain.py"
        host.execute(f'sed -i \'s/"PLAIN_BROKEN") == "import"/"HOME") != ""/\' {code}')
        await self.measure("recipe: reload, broken (import)", recipe, 1, lambda _: self.recipe("systemctl reload recipe", 8))


def table(rows: list[Row]) -> str:
    head = ["method", "switches", "requests", "failed", "longest", "p99 before", "p99 during", "websockets cut", "old gone after"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        found = row.figures()
        cells = [found["method"], found["switches"], found["requests"], found["failed"]]
        cells += [f"{found[key]} ms" for key in ("longest_ms", "p99_before_ms", "p99_during_ms")]
        cells += [found["websockets_cut"], f"{found['old_gone_s']} s"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def picture(rows: list[Row]) -> str:
    """Draw the slowest request of each tenth of a second, on a logarithmic scale; failed ones in red, switches as lines."""
    width, height, left = 860, 110, 60
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
            key = int(start * 10), bool(failure)
            slowest[key] = max(slowest.get(key, 0.0), seconds)
        for (tenth, bad), seconds in sorted(slowest.items(), key=lambda item: item[0][1]):
            colour = COLOURS["bad" if bad else "get"]
            parts.append(f'<circle cx="{x(tenth / 10):.1f}" cy="{y(seconds):.1f}" r="{2.5 if bad else 1.5}" fill="{colour}"/>')
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=int, default=20, help="reloads and rollouts of our own")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--websockets", type=int, default=50)
    parser.add_argument("--output", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steadfast-bench-") as work:
        host = Host("steadfast-bench", Path(work))
        try:
            host.set_up("one")
            host.build("two")
            host.build("packages", asgi_release_server_requirements=older_requirements())
            for way in ("import", "lifespan", "ready", "hang"):
                host.build(f"broken-{way}", (f'os.environ.get("PLAIN_BROKEN") == "{way}"', "True"))
            recipe = host.build("recipe")
            host.playbook(ROOT / "tests/load/recipe.yml", recipe_release=recipe, boot_seconds=2)
            time.sleep(4)
            bench = Bench(host, options.switches, options.clients, options.websockets)
            asyncio.run(bench.run())
        finally:
            host.remove()
    text = table(bench.rows)
    options.output.mkdir(exist_ok=True)
    (options.output / "bench.md").write_text(f"# Measured: what each way of replacing an application costs\n\n{text}", encoding="utf-8")
    data = [row.figures() | {"marks": row.marks, "websockets": row.record.websockets_cut} for row in bench.rows]
    (options.output / "bench.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    (options.output / "bench.svg").write_text(picture(bench.rows), encoding="utf-8")
    print(text)


def older_requirements() -> str:
    """Return the role's server set without its accelerators: another set of packages for the same application."""
    lines = (ROOT / "roles/asgi_release/files/server-requirements.txt").read_text(encoding="utf-8").splitlines()
    kept, keep = [], True
    for line in lines:
        if line and not line.startswith((" ", "\t")):
            keep = not line.startswith(("uvloop", "httptools"))
        if keep:
            kept.append(line)
    return "\n".join(kept) + "\n"


if __name__ == "__main__":
    main()
