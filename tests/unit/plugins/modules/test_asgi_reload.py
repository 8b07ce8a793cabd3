"""What the module decides before it sends a signal. The reload itself is played; module_utils/reload.py has tests of its own."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ansible_collections.steadfast.asgi.plugins.module_utils import processes
from ansible_collections.steadfast.asgi.plugins.module_utils.pair import Pair, PairError
from ansible_collections.steadfast.asgi.plugins.module_utils.processes import Server
from ansible_collections.steadfast.asgi.plugins.module_utils.readiness import Answer
from ansible_collections.steadfast.asgi.plugins.module_utils.reload import Reload, ReloadError
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd
from ansible_collections.steadfast.asgi.plugins.modules import asgi_reload

OPTIONS = yaml.safe_load(asgi_reload.DOCUMENTATION)["options"]
DEFAULTS = {name: option.get("default") for name, option in OPTIONS.items()}
UNIT = "shop.service"


class Played:
    """A host with one unit, its server and that server's workers."""

    def __init__(self) -> None:
        self.name = UNIT
        self.unit = {"MainPID": "100", "ActiveState": "active", "LoadState": "loaded", "FragmentPath": "", "DropInPaths": ""}
        self.environment_files = ""
        self.kind = "gunicorn"
        self.workers = [101, 102]
        self.obstacles: list[str] = []
        # What was asked about obstacles, and the reloads that were begun.
        self.judged: list[tuple[int, list[str], list[str], list[str]]] = []
        self.reloads: list[Reload] = []
        self.failure = ""

    def systemctl(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        words = list(command)
        if words[0] == "journalctl":
            assert words[1:] == ["--sync"] or f"_SYSTEMD_UNIT={self.name}" in words
            text = "ImportError: no module\n"
        elif "--property=EnvironmentFiles" in words:
            text = self.environment_files
        else:
            assert (words[:2], words[-1]) == (["systemctl", "show"], self.name)
            names = words[2].removeprefix("--property=").split(",")
            text = "".join(f"{name}={self.unit[name]}\n" for name in names)
        return subprocess.CompletedProcess(words, 0, text, "")


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played()

    def judge(server: Server, environment: list[str], units: list[str], locks: list[str]) -> list[str]:
        played.judged.append((server.pid, environment, units, locks))
        return list(played.obstacles)

    def reload(job: Reload) -> None:
        played.reloads.append(job)
        job.old, job.new, job.seconds = list(played.workers), [103, 104], 1.5
        job.progress.note(Answer(200, "ready", 103))
        if played.failure:
            raise ReloadError(played.failure)

    monkeypatch.setattr(processes, "identify", lambda pid: Server(pid, played.kind, (), 0.0))
    monkeypatch.setattr(processes, "children", lambda _pid: list(played.workers))
    monkeypatch.setattr(processes, "obstacles", judge)
    monkeypatch.setattr(Reload, "run", reload)

    def kill(pid: int, number: int) -> None:
        pytest.fail(f"signal {number} was sent to {pid}")

    monkeypatch.setattr(os, "kill", kill)
    return played


Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(played: Played) -> Run:
    """Run the module's run() on the played host and return the result that it filled."""

    def call(check: bool = False, **params: Any) -> dict[str, Any]:
        given = {**DEFAULTS, "unit": UNIT, "socket": "/run/shop.sock", "lock_files": [], **params}
        result: dict[str, Any] = {"changed": False, "server": "unknown", "old_pids": [], "unsafe": [], "rollout_needed": False}
        module = SimpleNamespace(params=given, check_mode=check)
        asgi_reload.run(module, Systemd(played.systemctl), result)
        return result

    return call


def test_a_server_is_reloaded_and_the_workers_are_told(played: Played, run: Run) -> None:
    result = run()
    assert (result["changed"], result["server"], result["unsafe"], result["rollout_needed"]) == (True, "gunicorn", [], False)
    assert (result["old_pids"], result["new_pids"], result["draining_pids"]) == ([101, 102], [103, 104], [])
    assert (result["attempts"], result["seconds"], result["answer"]) == (1, 1.5, "200 ready")
    assert result["diff"] == {"before": "workers: [101, 102]\n", "after": "workers: [103, 104]\n"}
    (job,) = played.reloads
    assert (job.master, job.signal, job.timeout) == (100, signal.SIGHUP, DEFAULTS["timeout"])


@pytest.mark.parametrize(
    ("unit", "slots"),
    [("shop@blue.service", ["shop blue"]), ("shop@green", ["shop green"]), ("shop.service", []), ("shop@red.service", [])],
)
def test_a_slot_is_given_its_certificate_before_the_signal(
    played: Played, run: Run, monkeypatch: pytest.MonkeyPatch, unit: str, slots: list[str]
) -> None:
    installed: list[str] = []

    def of_slot(app: str, slot: str) -> SimpleNamespace:
        def install() -> None:
            assert played.reloads == []
            installed.append(f"{app} {slot}")

        return SimpleNamespace(install=install)

    monkeypatch.setattr(Pair, "of_slot", of_slot)
    played.name = unit
    assert run(check=True, unit=unit)["changed"]
    assert installed == []
    run(unit=unit)
    assert installed == slots


def test_a_certificate_that_cannot_be_used_is_no_reload(played: Played, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def install() -> None:
        raise PairError("no key")

    monkeypatch.setattr(Pair, "of_slot", lambda _app, _slot: SimpleNamespace(install=install))
    played.name = "shop@blue.service"
    with pytest.raises(ReloadError, match=r"no key \(asgi_service_tls_certificate"):
        run(unit="shop@blue.service")
    assert played.reloads == []


def test_what_means_ready_is_handed_on(played: Played, run: Run) -> None:
    run(
        ready_path="/healthz",
        ready_host="example.org",
        ready_status=[204],
        ready_body="well",
        ready_json={"version": 2},
        ready_successes=7,
        workers=5,
        timeout=9,
        signal="SIGUSR1",
    )
    (job,) = played.reloads
    assert (job.target.socket, job.target.path, job.target.host) == ("/run/shop.sock", "/healthz", "example.org")
    progress = job.progress
    assert (progress.accepted, progress.body, progress.fields) == (frozenset({204}), "well", {"version": 2})
    assert (progress.successes_wanted, progress.workers, job.timeout, job.signal) == (7, 5, 9, signal.SIGUSR1)


def test_the_socket_has_the_name_that_it_was_bound_to(played: Played, run: Run, tmp_path: Path) -> None:
    (tmp_path / "live.sock").symlink_to("blue.sock")
    run(socket=str(tmp_path / "live.sock"))
    assert played.reloads[0].target.socket == str(tmp_path / "blue.sock")


def test_a_url_can_be_asked_instead(played: Played, run: Run) -> None:
    run(socket=None, url="https://example.org/ready", validate_certs=False)
    target = played.reloads[0].target
    assert (target.socket, target.scheme, target.address, target.verify) == ("", "https", "example.org", False)
    with pytest.raises(ValueError, match="not an http or https URL"):
        run(socket=None, url="example.org")


def test_check_mode_looks_at_everything_and_sends_nothing(played: Played, run: Run) -> None:
    result = run(check=True)
    assert (result["changed"], result["old_pids"]) == (True, [101, 102])
    assert "new_pids" not in result
    assert played.reloads == []
    played.obstacles = ["the lock changed: /srv/uv.lock"]
    with pytest.raises(ReloadError, match="the lock changed"):
        run(check=True)


def test_what_cannot_be_done_is_refused_with_every_reason(played: Played, run: Run) -> None:
    played.obstacles = ["the lock changed: /srv/uv.lock", "the unit changed: /etc/shop.service"]
    with pytest.raises(ReloadError, match=r"cannot do this job: the lock .*; the unit .*\. Start a new process: restart, or roll out"):
        run()
    assert played.reloads == []


def test_or_left_to_another_task(played: Played, run: Run) -> None:
    assert run(when_unsafe="rollout")["rollout_needed"] is False
    played.reloads.clear()
    played.obstacles = ["the lock changed: /srv/uv.lock"]
    result = run(when_unsafe="rollout")
    assert (result["rollout_needed"], result["changed"], result["unsafe"]) == (True, False, played.obstacles)
    assert played.reloads == []


def test_or_done_all_the_same(played: Played, run: Run) -> None:
    played.obstacles = ["the lock changed: /srv/uv.lock"]
    result = run(when_unsafe="ignore")
    assert (result["changed"], result["unsafe"], len(played.reloads)) == (True, played.obstacles, 1)


@pytest.mark.parametrize("when_unsafe", ["fail", "ignore"])
def test_a_server_without_workers_is_never_sent_the_signal(played: Played, run: Run, when_unsafe: str) -> None:
    played.workers = []
    with pytest.raises(ReloadError, match="the process 100 has no workers, so the signal would end it"):
        run(when_unsafe=when_unsafe)
    assert played.reloads == []


def test_what_is_no_known_server_is_a_reason(played: Played, run: Run) -> None:
    played.kind = "unknown"
    with pytest.raises(ReloadError, match="neither gunicorn nor uvicorn nor hypercorn"):
        run()
    assert run(when_unsafe="rollout")["rollout_needed"] is True


@pytest.mark.parametrize("name", ["NONE", "_IGN", "_BLOCK", "9", ""])
def test_what_is_no_signal_is_refused(played: Played, run: Run, name: str) -> None:
    with pytest.raises(ReloadError, match=r"\(signal\) is not the name of a signal; HUP is one"):
        run(signal=name)
    assert played.reloads == []


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ({"LoadState": "not-found", "MainPID": "0"}, r"no unit shop\.service on this host \(unit\)"),
        ({"ActiveState": "failed", "MainPID": "0"}, r"shop\.service is failed; .* start it"),
    ],
)
def test_a_unit_that_does_not_run_is_refused(played: Played, run: Run, unit: dict[str, str], said: str) -> None:
    played.unit.update(unit)
    with pytest.raises(ReloadError, match=said):
        run()


def test_the_files_of_the_unit_are_judged(played: Played, run: Run) -> None:
    played.environment_files = "/etc/shop/env (ignore_errors=no)\n/etc/shop (old)/env (ignore_errors=yes)\n"
    played.unit.update(
        FragmentPath="/etc/systemd/system/shop.service",
        DropInPaths="/etc/shop.d/a.conf /run/systemd/system.control/x.conf /etc/shop.d/b.conf",
    )
    run(lock_files=["/srv/uv.lock"])
    units = ["/etc/systemd/system/shop.service", "/etc/shop.d/a.conf", "/etc/shop.d/b.conf"]
    assert played.judged == [(100, ["/etc/shop/env", "/etc/shop (old)/env"], units, ["/srv/uv.lock"])]


def test_the_locks_are_looked_for_where_the_master_runs(played: Played, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("requirements.txt", "uv.lock", "other.lock"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    played.unit["MainPID"] = str(os.getpid())
    run(lock_files=None)
    assert played.judged[0][3] == [f"{tmp_path}/uv.lock", f"{tmp_path}/requirements.txt"]


def test_the_master_can_be_named_by_a_file(played: Played, run: Run, tmp_path: Path) -> None:
    pidfile = tmp_path / "shop.pid"
    pidfile.write_text(f"{os.getpid()}\n")
    run(unit=None, pidfile=str(pidfile))
    (job,) = played.reloads
    assert (job.master, job.main_pid()) == (os.getpid(), os.getpid())
    assert played.judged == [(os.getpid(), [], [], [])]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no PID"),
        ("master", "holds no PID"),
        ("4194305", r"the process 4194305 of .*shop\.pid \(pidfile\) does not run"),
        (None, "No such file"),
    ],
)
def test_a_file_that_names_no_master_is_refused(run: Run, tmp_path: Path, content: str | None, said: str) -> None:
    if content is not None:
        (tmp_path / "shop.pid").write_text(content)
    with pytest.raises(ReloadError, match=said):
        run(unit=None, pidfile=str(tmp_path / "shop.pid"))


def test_a_file_of_somebody_else_s_cannot_name_any_process(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application may write it, and root sends the signal."""
    pidfile = str(tmp_path / "shop.pid")
    Path(pidfile).write_text(str(os.getpid()), encoding="utf-8")
    stat = os.stat
    theirs = SimpleNamespace(st_uid=os.getuid() + 4711)
    monkeypatch.setattr(os, "stat", lambda path, **options: theirs if path == pidfile else stat(path, **options))
    with pytest.raises(ReloadError, match=r"shop\.pid \(pidfile\) belongs to the user \d+, and the process \d+ that it names does not"):
        run(unit=None, pidfile=pidfile)


def test_a_slot_reads_its_environment_by_itself(played: Played, run: Run) -> None:
    played.name = "shop@blue.service"
    run(unit=played.name)
    assert "/etc/shop/blue/env" in played.judged[0][1]


def test_a_master_that_systemd_starts_again_is_seen(played: Played, run: Run) -> None:
    run()
    (job,) = played.reloads
    assert job.main_pid() == 100
    played.unit["MainPID"] = "200"
    assert job.main_pid() == 200


# The whole module


@pytest.fixture
def module(run_module: Run, played: Played, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(asgi_reload, "Systemd", lambda: Systemd(played.systemctl))
    return lambda **arguments: run_module(asgi_reload.main, unit=UNIT, socket="/run/shop.sock", lock_files=[], **arguments)


def test_a_result_is_returned(module: Run) -> None:
    result = module()
    assert (result["changed"], result["new_pids"]) == (True, [103, 104])
    assert set(yaml.safe_load(asgi_reload.RETURN)) - {"journal"} <= set(result)


def test_a_reload_that_failed_tells_how_far_it_came_and_what_the_unit_said(played: Played, module: Run) -> None:
    played.failure = "the new workers did not take over within 60 s"
    failed = module()
    assert failed["failed"] is True
    assert failed["msg"].startswith("The reload failed: the new workers did not take over within 60 s\nThe journal of shop.service")
    assert failed["journal"] == "ImportError: no module"
    assert failed["new_pids"] == [103, 104]


def test_a_refusal_is_no_failed_reload(played: Played, module: Run) -> None:
    played.obstacles = ["the lock changed: /srv/uv.lock"]
    refused = module()
    assert (refused["failed"], refused["changed"], refused["unsafe"]) == (True, False, played.obstacles)
    assert refused["msg"].startswith("The reload did not take place: a reload cannot do this job")
    assert "journal" not in refused
