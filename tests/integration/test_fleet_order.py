"""Three hosts of one database: whichever host is lost, in whichever phase, no release goes live without its migration.

The order of things is what is tested here: deploy.yml, the role's tasks, the action plugins and the modules are the real ones, on three
directories of this machine. Stand-ins are what needs a real host: the build, a slot (a link and a line in the history) and the unit that
a command runs in. roles/asgi_rollout has the tests on real ones.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ["one", "two", "three"]
NOWHERE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
# Each leaves a line in the database, which all hosts share. The second line shows that it has ended.
MIGRATE = [
    "sh",
    "-c",
    'echo "$FLEET_HOST begins" >>"$FLEET/database"; sleep ${FLEET_SLEEP:-0}; echo "$FLEET_HOST ends" >>"$FLEET/database"',
]

# What is put to the end of a part of the collection, in the copy that these tests use.
STAND_INS = {
    "slots.py": """
ROOT = os.environ.get("FLEET_ROOT", "")
_Layout = Layout


def Layout(app, root=ROOT):
    return _Layout(app, root)


def is_complete(release):
    return os.path.isfile(os.path.join(release if release.startswith(ROOT) else ROOT + release, "release.json"))
""",
    "command.py": """
import subprocess


def run_in_unit(systemd, layout, around, command, timeout, kind=""):
    done = subprocess.run(list(command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, check=False)
    if done.returncode:
        raise CommandError(f"'{' '.join(command)}' failed: it ended with {done.returncode}. It wrote:\\n{done.stdout}", done.stdout)
    return done.stdout
""",
    "rollout.py": """
class Rollout:
    warnings = ()

    def __init__(self, params, layout, systemd):
        self.params, self.layout = params, layout

    def preview(self):
        return {"changed": True, "way": "rollout", "reason": "another release"}

    def report(self):
        return {}

    def run(self):
        root = self.layout.root
        if os.path.exists(f"{root}/refuses"):
            raise RolloutError("slot green did not become ready")
        before, release = read_link(f"{root}/live"), os.path.basename(self.params["release"] or "")
        if before == release:
            return {"changed": False, "way": "nothing", "reason": "the live slot runs what is wanted"}
        replace_link(f"{root}/live", release)
        line = {"action": "rollout", "release": release, "previous": before, "result": "ok", "run": self.params["run"]}
        append_history(self.layout.history, line)
        return {"changed": True, "way": "rollout", "reason": "another release"}
""",
}


class Case(NamedTuple):
    """Which host is lost, before which phase, how, and how many hosts a batch has (0: all)."""

    lost: str
    phase: str
    how: str
    serial: int


PHASES = ["validate", "build", "migrate", "switch"]
MATRIX = [Case(*case) for case in product(HOSTS, PHASES, ["unreachable", "failing"], [0, 1, 2])]
ALL = os.environ.get("FLEET_MATRIX") == "all"
# Each phase, position, kind and size of a batch. FLEET_MATRIX=all runs all 72, and all of the other tables.
SELECTION = [
    Case("one", "validate", "unreachable", 2),
    Case("one", "build", "failing", 0),
    Case("one", "migrate", "unreachable", 0),
    Case("two", "build", "unreachable", 1),
    Case("two", "switch", "failing", 0),
    Case("three", "migrate", "failing", 2),
]
CASES = MATRIX if ALL else SELECTION
Rows = TypeVar("Rows", bound=Sequence[Any])


def first(number: int, rows: Rows) -> Rows:
    """Return the first rows of a table, or all of them if that is asked for."""
    return rows if ALL else rows[:number]  # type: ignore[return-value]


class Fleet:
    """Three hosts in directories, and runs over them."""

    def __init__(self, folder: Path, collections: Path) -> None:
        self.folder = folder
        self.collections = collections
        (folder / "database").write_text("", encoding="utf-8")
        hosts = {}
        for host in HOSTS:
            for place in ("opt/fleet/releases/v0", "etc/fleet/next", "run/systemd/system"):
                (folder / host / place).mkdir(parents=True)
            (folder / host / "etc/fleet/next/service").write_text("[Service]\n", encoding="utf-8")
            (folder / host / "opt/fleet/releases/v0/release.json").write_text("{}", encoding="utf-8")
            (folder / host / "live").symlink_to("v0")
            python = folder / host / "python"
            script = f'#!/bin/sh\nexport FLEET={folder} FLEET_HOST={host} FLEET_ROOT={folder / host}\nexec {sys.executable} "$@"\n'
            python.write_text(script, encoding="utf-8")
            python.chmod(python.stat().st_mode | stat.S_IXUSR)
            hosts[host] = {"ansible_python_interpreter": str(python)}
        variables = {
            "ansible_connection": "local",
            "asgi_app": "fleet",
            "asgi_rollout_migrate": [MIGRATE],
        }
        self.groups = {"all": {"children": {"web": {"hosts": hosts, "vars": variables}}}}
        (folder / "hosts.json").write_text(json.dumps(self.groups), encoding="utf-8")

    def play(self, version: str) -> dict[str, Any]:
        """Return the play of deploy.yml with a build that only makes the directory."""
        play: dict[str, Any] = yaml.safe_load((ROOT / "playbooks/deploy.yml").read_text(encoding="utf-8"))[0]
        of_a_host = re.compile("asgi_release|asgi_service")
        for part in ("pre_tasks", "tasks", "post_tasks"):
            play[part] = [task for task in play[part] if not of_a_host.search(json.dumps(task))]
        del play["become"]
        place = f"{self.folder}/{{{{ inventory_hostname }}}}/opt/fleet/releases/{version}"
        made = f"mkdir -p {place} && echo '{{}}' >{place}/release.json"
        fact = {"asgi_release_path": f"/opt/fleet/releases/{version}"}
        play["tasks"][:0] = [
            {"name": "Build the release", "ansible.builtin.raw": made},
            {"name": "Remember it", "ansible.builtin.set_fact": fact},
        ]
        return play

    def command(self, play: dict[str, Any], *options: str) -> list[str]:
        path = self.folder / f"play-{time.monotonic_ns()}.json"
        path.write_text(json.dumps([play]), encoding="utf-8")
        return ["ansible-playbook", f"--inventory={self.folder}/hosts.json", *options, str(path)]

    def environment(self) -> dict[str, str]:
        own = {"ANSIBLE_COLLECTIONS_PATH": str(self.collections), "ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
        return os.environ | own | {"ANSIBLE_PIPELINING": "true", "ANSIBLE_TIMEOUT": "2"}

    def start(self, play: dict[str, Any], *options: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(play, *options),
            cwd=ROOT,
            env=self.environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, play: dict[str, Any], *options: str, **environment: str) -> tuple[int, str]:
        """Return the exit code, and what Ansible said in one line: it folds long ones."""
        done = self.start(play, *options, **environment)
        said = done.communicate(timeout=300)[0]
        return done.returncode, " ".join(said.replace("\\n", " ").split())

    def live(self) -> dict[str, str]:
        return {host: os.readlink(self.folder / host / "live") for host in HOSTS}

    def migrations(self) -> list[str]:
        """Return the lines in the database."""
        return (self.folder / "database").read_text(encoding="utf-8").splitlines()

    def history(self, host: str) -> list[dict[str, Any]]:
        path = self.folder / host / "opt/fleet/history.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def losing(play: dict[str, Any], case: Case) -> dict[str, Any]:
    """Return a play with a task that loses the host of a case before a phase."""
    lose: dict[str, Any] = {"ansible.builtin.set_fact": NOWHERE}
    if case.how == "failing":
        lose = {"ansible.builtin.fail": {"msg": "on purpose"}}
    lose |= {"when": f"inventory_hostname == '{case.lost}'"}
    names = [task["name"] for task in play["tasks"]]
    if case.phase == "validate":
        play["pre_tasks"].append(lose)
    else:
        # Within the role a task cannot be put: a slot refuses, and a host is away right after its switch.
        place = {"build": names.index("Build the release"), "migrate": names.index("Make it live"), "switch": len(names)}
        play["tasks"].insert(place[case.phase], lose)
    return play


def expected(case: Case) -> list[str]:
    """Return the hosts that go live."""
    size = case.serial or len(HOSTS)
    batches = [HOSTS[start : start + size] for start in range(0, len(HOSTS), size)]
    first = next(number for number, batch in enumerate(batches) if case.lost in batch)
    # Who migrates is lost before it has: nobody goes on.
    if case.lost == "one" and case.phase != "switch":
        return []
    # A batch that is lost as a whole ends the play.
    reached = batches[: first + 1] if len(batches[first]) == 1 else batches
    # It is live and then away.
    switched = (case.phase, case.how) == ("switch", "unreachable")
    return [host for batch in reached for host in batch if host != case.lost or switched]


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a collections path with a copy of this one, with the stand-ins in it."""
    path = tmp_path_factory.mktemp("collections")
    copy = path / "ansible_collections/steadfast/asgi"
    for part in ("plugins", "roles", "meta", "playbooks"):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("__pycache__", "molecule"))
    shutil.copy(ROOT / "galaxy.yml", copy)
    for name, text in STAND_INS.items():
        with (copy / "plugins/module_utils" / name).open("a", encoding="utf-8") as stream:
            stream.write(text)
    return path


@pytest.fixture
def fleet(tmp_path: Path, collections: Path) -> Fleet:
    return Fleet(tmp_path, collections)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_no_release_is_live_without_its_migration(fleet: Fleet, case: Case) -> None:
    play = losing(fleet.play("v1"), case)
    if (case.phase, case.how) == ("switch", "failing"):
        play = fleet.play("v1")
        (fleet.folder / case.lost / "refuses").touch()
    batches = [f"--extra-vars=asgi_serial={case.serial}"] if case.serial else []
    code, said = fleet.run(play, *batches)
    assert code != 0, said
    live = fleet.live()
    if "v1" in live.values():
        assert fleet.migrations() == ["one begins", "one ends"]
    assert live == dict.fromkeys(HOSTS, "v0") | dict.fromkeys(expected(case), "v1"), said
    if not expected(case) and len(HOSTS[: case.serial] or HOSTS) > 1:
        assert "host one" in said
        assert "asgi_rollout_migrate_host" in said


def test_a_migration_that_fails_lets_no_host_go_on_and_is_named(fleet: Fleet) -> None:
    failing = ["sh", "-c", 'echo "$FLEET_HOST tries" >>"$FLEET/database"; echo no such table: notes; exit 3']
    code, said = fleet.run(fleet.play("v1"), "--extra-vars=asgi_serial=1", "--extra-vars", json.dumps({"asgi_rollout_migrate": [failing]}))
    assert code != 0
    assert set(fleet.live().values()) == {"v0"}
    assert fleet.migrations() == ["one tries"]
    for part in ("host one", "exit 3' failed", "it ended with 3", "no such table: notes"):
        assert part in said


def test_batches_and_later_runs_over_other_hosts_do_not_migrate_again(fleet: Fleet) -> None:
    code, said = fleet.run(fleet.play("v1"), "--extra-vars=asgi_serial=1", "--limit=one,two")
    assert code == 0, said
    code, said = fleet.run(fleet.play("v1"), "--limit=three")
    assert code == 0, said
    assert set(fleet.live().values()) == {"v1"}
    assert fleet.migrations() == ["one begins", "one ends"]
    # Each of them keeps the proof. So each can take over from the first one.
    code, said = fleet.run(fleet.play("v1"), "--limit=!one", "--extra-vars=asgi_rollout_migrate_host=three")
    assert code == 0, said
    assert fleet.migrations() == ["one begins", "one ends"]
    runs = [[line["run"] for line in fleet.history(host) if line["action"] == "rollout"] for host in HOSTS]
    assert [len(run) for run in runs] == [1, 1, 1]
    assert runs[0] == runs[1] != runs[2], "one ID for all batches of a run, and another for the next run"


WITHOUT = [["--limit=two,three"], ["--limit=two", "--extra-vars=asgi_rollout_migrate_host=three"]]


@pytest.mark.parametrize("options", first(1, WITHOUT))
def test_a_run_without_the_host_that_migrates_is_refused(fleet: Fleet, options: list[str]) -> None:
    code, said = fleet.run(fleet.play("v1"), *options)
    assert code != 0
    assert set(fleet.live().values()) == {"v0"}
    assert fleet.migrations() == []
    for part in ("those of release v1 have not succeeded on it", "asgi_rollout_migrate_host", "--limit"):
        assert part in said


def test_another_host_migrates_when_it_is_named(fleet: Fleet) -> None:
    code, said = fleet.run(fleet.play("v1"), "--limit=two,three", "--extra-vars=asgi_rollout_migrate_host=two")
    assert code == 0, said
    assert fleet.live() == {"one": "v0", "two": "v1", "three": "v1"}
    assert fleet.migrations() == ["two begins", "two ends"]


@pytest.mark.parametrize("limits", first(1, [("two,three", "one"), ("one", "two,three"), ("one,two", "one,three")]))
def test_two_controllers_do_not_migrate_at_the_same_time(fleet: Fleet, limits: tuple[str, str]) -> None:
    runs = [fleet.start(fleet.play("v1"), f"--limit={limit}", FLEET_SLEEP="2") for limit in limits]
    codes = {limit: (run.wait(timeout=300), run.communicate()[0]) for limit, run in zip(limits, runs, strict=True)}
    assert fleet.migrations() == ["one begins", "one ends"], codes
    live = fleet.live()
    for limit, (code, said) in codes.items():
        assert (code == 0) == all(live[host] == "v1" for host in limit.split(",")), said
    assert any(code == 0 for code, _said in codes.values()), codes


STRATEGIES: list[tuple[dict[str, str], dict[str, str]]] = [
    ({"strategy": "free"}, {}),
    ({"strategy": "host_pinned"}, {}),
    ({}, {"ANSIBLE_STRATEGY": "ansible.builtin.free"}),
]


@pytest.mark.parametrize(("keywords", "environment"), first(1, STRATEGIES), ids=str)
def test_a_strategy_without_order_is_refused(fleet: Fleet, keywords: dict[str, str], environment: dict[str, str]) -> None:
    code, said = fleet.run(fleet.play("v1") | keywords, **environment)
    assert code != 0
    assert f"the strategy of this play is {next(iter((keywords | environment).values()))}" in said
    assert (fleet.migrations(), set(fleet.live().values())) == ([], {"v0"})


KEYWORDS = [{"order": "reverse_inventory", "serial": 1}, {"any_errors_fatal": True}, {"throttle": 1}, {"order": "reverse_inventory"}]


@pytest.mark.parametrize("keywords", first(1, KEYWORDS), ids=str)
def test_other_keywords_of_a_play_do_not_let_a_host_pass(fleet: Fleet, keywords: dict[str, Any]) -> None:
    code, said = fleet.run(fleet.play("v1") | keywords, "--forks=1")
    migrated = fleet.migrations() == ["one begins", "one ends"]
    assert (code == 0) == migrated, said
    assert set(fleet.live().values()) == ({"v1"} if migrated else {"v0"})
    assert migrated == ("serial" not in keywords), "a host of a later batch cannot migrate for the first"


def test_a_run_that_begins_after_the_migration_does_not_switch(fleet: Fleet) -> None:
    fleet.run(losing(fleet.play("v1"), Case("one", "migrate", "failing", 0)))
    boot = "steadfast.asgi.asgi_rollout : Boot the release in the idle slot, prove it ready and make it live"
    code, said = fleet.run(fleet.play("v1"), f"--start-at-task={boot}", "--extra-vars=asgi_rollout_release=/opt/fleet/releases/v1")
    assert code != 0
    assert "the migrations of release v1 (asgi_rollout_migrate) have not run" in said
    assert (fleet.migrations(), set(fleet.live().values())) == ([], {"v0"})


@pytest.mark.parametrize("strategy", first(1, ["linear", "free"]))
def test_each_host_that_has_a_database_of_its_own_needs_its_own_migration(fleet: Fleet, strategy: str) -> None:
    play = fleet.play("v1") | {"strategy": strategy}
    command = ["sh", "-c", 'echo "$FLEET_HOST" >>"$FLEET/database"; test $FLEET_HOST != two']
    own = {"asgi_rollout_migrate_once": False, "asgi_rollout_migrate": [command]}
    code, said = fleet.run(play, "--extra-vars", json.dumps(own))
    assert code != 0
    assert sorted(fleet.migrations()) == sorted(HOSTS)
    assert fleet.live() == {"one": "v1", "two": "v0", "three": "v1"}, said


# Which hosts are away, the size of a batch, the percentage that may be lost; and the hosts that switch.
LOST = {
    "one of a batch of two, none may be": ("two", 2, 0, []),
    "one of a batch of two, half may be": ("two", 2, 50, ["one", "three"]),
    "one of a batch of two, 49 % may be": ("two", 2, 49, []),
    "in the second batch": ("three", 2, 0, ["one", "two"]),
    "any may be": ("two", 2, 100, ["one", "three"]),
}


@pytest.mark.parametrize("case", first(2, list(LOST)))
def test_hosts_that_cannot_be_reached_count(fleet: Fleet, case: str) -> None:
    away, size, allowed, switched = LOST[case]
    play = losing(fleet.play("v1"), Case(away, "validate", "unreachable", size))
    code, said = fleet.run(play, f"--extra-vars=asgi_serial={size}", f"--extra-vars=asgi_max_fail_percentage={allowed}")
    assert code != 0
    assert fleet.live() == dict.fromkeys(HOSTS, "v0") | dict.fromkeys(switched, "v1"), said
    if not switched:
        assert "1 of the 2 hosts of this batch failed or cannot be reached: two" in said


def test_a_host_that_is_away_after_its_switch_ends_the_run(fleet: Fleet) -> None:
    play = losing(fleet.play("v1"), Case("two", "switch", "unreachable", 2))
    ask = {"name": "Go on", "ansible.builtin.raw": "true"}
    play["tasks"].append(ask)
    code, said = fleet.run(play, "--extra-vars=asgi_serial=2", "--extra-vars=asgi_max_fail_percentage=0")
    assert code != 0
    assert fleet.live() == {"one": "v1", "two": "v1", "three": "v0"}, said


def test_an_application_without_migrations_needs_nothing_of_this(fleet: Fleet) -> None:
    code, said = fleet.run(
        fleet.play("v1") | {"strategy": "free"}, "--extra-vars", json.dumps({"asgi_rollout_migrate": []}), "--limit=!one"
    )
    assert code == 0, said
    assert fleet.live() == {"one": "v0", "two": "v1", "three": "v1"}
