"""Run the project's checks stage by stage, go on after a failed one, and count what passed.

The counting unit is a test where there are tests (pytest, Molecule's testinfra) and a step or command elsewhere.
The last line of output is always ``N passed, N failed, N skipped``.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / ".build" / "reports"
ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclasses.dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped"


@dataclasses.dataclass(frozen=True)
class Check:
    """One command, and how to count what it did."""

    name: str
    run: Callable[[], Count]
    # It measures time, so nothing else is to run beside it.
    alone: bool = False
    # It computes all the time, so no second one of its kind is to run beside it.
    busy: bool = False


# They wait for packages, boots and deadlines as much as they compute.
CHECKS_AT_ONCE = 2


class Output(threading.local):
    """Where this thread's output goes: to the terminal as it comes, or into a buffer while others write too."""

    stream: io.TextIOBase | Any = sys.stdout


OUTPUT = Output()


def call(*command: str, cwd: Path = ROOT, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run a command, show its output as it comes, and return its exit code and output."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        lines = []
        for line in process.stdout or ():
            OUTPUT.stream.write(line)
            OUTPUT.stream.flush()
            lines.append(line)
    return process.returncode, ANSI.sub("", "".join(lines))


def one(*command: str) -> Callable[[], Count]:
    """Count the whole command as one."""

    def run() -> Count:
        code, _output = call(*command)
        return Count(passed=1) if code == 0 else Count(failed=1)

    return run


def read_junit(report: Path) -> Count:
    """Count the tests in a pytest report."""
    count = Count()
    # The report is our own pytest's, written a moment ago.
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):  # noqa: S314
        number = {key: int(suite.get(key, 0)) for key in ("tests", "failures", "errors", "skipped")}
        failed = number["failures"] + number["errors"]
        count += Count(number["tests"] - failed - number["skipped"], failed, number["skipped"])
    return count


def fresh_report(name: str) -> Path:
    REPORTS.mkdir(parents=True, exist_ok=True)
    report = REPORTS / f"{name}.xml"
    report.unlink(missing_ok=True)
    return report


def counted(code: int, count: Count) -> Count:
    """A command that failed counts as failed, even when nothing it reported did."""
    return count + Count(failed=1) if code != 0 and count.failed == 0 else count


def pytest(path: str, *command: str, cwd: Path = ROOT) -> Callable[[], Count]:
    def run() -> Count:
        report = fresh_report(path.replace("/", "-"))
        code, _output = call(*(command or ("pytest",)), path, f"--junit-xml={report}", cwd=cwd)
        return counted(code, read_junit(report) if report.exists() else Count())

    return run


def sanity() -> Count:
    code, output = call("tools/sanity")
    ran = len(re.findall(r"^Running sanity test", output, re.MULTILINE))
    skipped = len(re.findall(r"^WARNING: .*(?:not found|Skipping)", output, re.MULTILINE))
    failures = re.search(r"^FATAL: The (\d+) sanity test", output, re.MULTILINE)
    failed = int(failures[1]) if failures else 0
    return counted(code, Count(ran - failed - skipped, failed, skipped))


def scenario(role: str, name: str, command: str = "test", marked: str = "", keep: bool = False) -> Callable[[], Count]:
    """Run one of Molecule's commands, with the tests whose marks are so, and with hosts that are left for the next one."""

    def run() -> Count:
        report = fresh_report(f"molecule-{role or 'root'}-{name}-{command}")
        environment = {"PYTEST_ADDOPTS": f"--junit-xml={report}", "MOLECULE_COMMAND_BORDERS": "false", "KEEP": "1" if keep else ""}
        if marked:
            environment["PYTEST_ADDOPTS"] += f" -m '{marked}'"
        code, output = call("tools/molecule", command, role, name, env=environment)
        count = Count()
        # Molecule's closing list has one line for each step: scenario, arrow, step, result.
        _before, _heading, details = output.rpartition("\nDETAILS")
        steps = dict(re.findall(r"^\S+ \S+ (\w+): Executed: (\w+)", details, re.MULTILINE))
        for step, result in steps.items():
            if step == "verify" and report.exists():
                count += read_junit(report)
            elif result == "Successful":
                count += Count(passed=1)
            elif result == "Failed":
                count += Count(failed=1)
        # A scenario of which nothing could be counted has not shown anything.
        return counted(code if count.passed else 1, count)

    return run


# The scenario that has tests with the mark `timed`.
TIMED = "stack"
# These take longest, so they come first: then nothing long is left at the end, beside which nothing could run.
LONGEST = ("servers", "asgi_rollout default", "asgi_release default", "asgi_service default")


def scenarios() -> Iterator[Check]:
    found = {}
    for path in sorted(ROOT.glob("roles/*/molecule/*/molecule.yml")):
        role, name = path.parts[-4], path.parts[-2]
        found[f"{role} {name}"] = Check(f"{role} {name}", scenario(role, name))
    for path in sorted(ROOT.glob("molecule/*/molecule.yml")):
        found[path.parts[-2]] = Check(path.parts[-2], scenario("", path.parts[-2]))
    # Its hosts stay for what is measured there when nothing else runs.
    found[TIMED] = Check(TIMED, scenario("", TIMED, marked="not timed", keep=True))
    yield from (found.pop(name) for name in LONGEST)
    yield from found.values()
    yield Check(f"{TIMED}, timed", scenario("", TIMED, command="verify", marked="timed"), alone=True)
    yield Check(f"{TIMED}, the end", scenario("", TIMED, command="destroy"), alone=True)


def lint() -> Iterator[Check]:
    yield Check("yamllint", one("yamllint", "--strict", "."))
    yield Check("ruff check", one("ruff", "check"))
    yield Check("ruff format", one("ruff", "format", "--diff"))
    yield Check("mypy", one("mypy"))
    yield Check("shellcheck", one("tools/shellcheck"))
    yield Check("ansible-lint", one("ansible-lint", "--offline", "--strict"))
    yield Check("antsibull-docs", one("antsibull-docs", "lint-collection-docs", "--plugin-docs", "."))
    yield Check("reference", one("tools/docs", "--check"))
    yield Check("changelog", one("antsibull-changelog", "lint"))


def example() -> Iterator[Check]:
    """The example application's own tests, with what its own lock file installs."""
    folder = ROOT / "examples" / "fastapi-app"
    if not folder.is_dir():
        return
    tests = pytest("tests", "uv", "run", "--frozen", "pytest", cwd=folder)
    yield Check("lock, and tests", lambda: one("tools/example-lock")() + tests())


def folder(path: str) -> Iterator[Check]:
    if any(ROOT.glob(f"{path}/**/test_*.py")):
        yield Check(path, pytest(path))


def load() -> Iterator[Check]:
    """Each file has a host of its own. That another computes beside it makes the load's task no easier."""
    yield Check("tests/load", pytest("tests/load"), busy=True)


def images() -> Iterator[Check]:
    def run() -> Count:
        try:
            return one("tools/test-images")()
        finally:
            IMAGES.set()

    yield Check("images of the hosts", run, busy=True)


STAGES: dict[str, Callable[[], Iterator[Check]]] = {
    "images": images,
    "lint": lint,
    "sanity": lambda: iter([Check("ansible-test sanity", sanity)]),
    "unit": lambda: folder("tests/unit"),
    "example": example,
    "molecule": scenarios,
    "load": load,
    "integration": lambda: folder("tests/integration"),
    "smoke": lambda: folder("tests/smoke"),
}
# They start hosts. What does not is done while the images are built.
WITH_HOSTS = ("molecule", "load", "integration", "smoke")
IMAGES = threading.Event()


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of a check."""

    stage: str
    name: str
    count: Count
    seconds: float


def perform(stage: str, check: Check) -> Done:
    """Run a check between a heading and its result."""
    if stage in WITH_HOSTS:
        IMAGES.wait()
    print(f"\n== {stage}: {check.name}", file=OUTPUT.stream, flush=True)
    started = time.monotonic()
    try:
        count = check.run()
    except (OSError, ElementTree.ParseError) as error:
        print(error, file=OUTPUT.stream)
        count = Count(failed=1)
    seconds = time.monotonic() - started
    print(f"-- {stage}: {check.name}: {count} in {seconds:.0f} s", file=OUTPUT.stream, flush=True)
    return Done(stage, check.name, count, seconds)


def buffered(stage: str, check: Check) -> Done:
    """Run a check beside others, and show its output in one piece."""
    OUTPUT.stream = io.StringIO()
    try:
        return perform(stage, check)
    finally:
        sys.stdout.write(OUTPUT.stream.getvalue())
        sys.stdout.flush()


def side_by_side(checks: list[tuple[str, Check]]) -> list[Done]:
    """Run checks beside others, in as many rows as there may be at once. One of the rows begins with all the busy ones."""
    busy = deque(each for each in checks if each[1].busy)
    others = deque(each for each in checks if not each[1].busy)
    done: list[Done] = []

    def perform_all(*queues: deque[tuple[str, Check]]) -> None:
        for queue in queues:
            # What a check itself raises is not to be taken for the end of its queue.
            while each := take(queue):
                done.append(buffered(*each))

    with ThreadPoolExecutor(CHECKS_AT_ONCE) as pool:
        rows = [pool.submit(perform_all, busy, others), *(pool.submit(perform_all, others) for _ in range(CHECKS_AT_ONCE - 1))]
        for row in rows:
            row.result()
    return done


def take(queue: deque[tuple[str, Check]]) -> tuple[str, Check] | None:
    try:
        return queue.popleft()
    except IndexError:
        return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"some of: {', '.join(STAGES)}; all by default")
    parser.add_argument("--spent", type=float, default=0.0, help="seconds that the setup before this took")
    arguments = parser.parse_args()
    if unknown := set(arguments.stages) - set(STAGES):
        parser.error(f"unknown stage: {', '.join(sorted(unknown))}")

    started = time.monotonic()
    stages = arguments.stages or list(STAGES)
    if not set(stages).isdisjoint(WITH_HOSTS) and "images" not in stages:
        stages.insert(0, "images")
    checks = [(stage, check) for stage in stages for check in STAGES[stage]()]
    # A single one shows its output while it runs.
    several = sum(stage != "images" for stage, _ in checks) > 1
    together = [(stage, check) for stage, check in checks if several and not check.alone]
    done = side_by_side(together)
    # Those that have to be alone come last, one after the other, and show their output as it comes.
    done += [perform(*each) for each in checks if each not in together]

    rows: list[tuple[str, float, Count]] = [("setup", arguments.spent, Count())]
    for stage in stages:
        own = [each for each in done if each.stage == stage]
        rows.append((stage, sum(each.seconds for each in own), sum((each.count for each in own), Count())))
    failures = [f"{each.stage}: {each.name}" for each in done if each.count.failed]

    print("\nThe longest:")
    for each in sorted(done, key=lambda each: each.seconds, reverse=True)[:20]:
        print(f"{each.seconds:5.0f} s  {each.stage}: {each.name}")
    print()
    for name, seconds, count in rows:
        print(f"{name:12} {seconds:5.0f} s  {count}")
    print(f"{'altogether':12} {arguments.spent + time.monotonic() - started:5.0f} s, {CHECKS_AT_ONCE} at once")
    for failure in failures:
        print(f"FAILED {failure}")
    total = sum((count for _name, _seconds, count in rows), Count())
    print(total, flush=True)
    return 1 if total.failed else 0


if __name__ == "__main__":
    if shutil.which("ansible-playbook") is None:
        sys.exit("Run this through tools/test, which prepares the environment.")
    sys.exit(main())
