"""What the units give, seen from a client, from another user, and from systemd."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

APPS = ("plain", "bare", "horn")


def get(host: Host, app: str, path: str, *arguments: str) -> dict[str, Any]:
    """Ask the application over its live socket, as nginx would."""
    done = host.run(
        f"runuser -u www-data -- curl --silent --show-error --fail-with-body {' '.join(arguments)} "
        f"--unix-socket /run/{app}/live.sock http://localhost{path}"
    )
    assert done.rc == 0, done.stderr + done.stdout
    return json.loads(done.stdout)


@pytest.mark.parametrize("app", APPS)
def test_it_serves_as_the_user_that_was_named(host: Host, app: str) -> None:
    worker = get(host, app, "/")["pid"]
    assert host.check_output(f"stat --format %U /proc/{worker}") == "keeper"


@pytest.mark.parametrize("app", APPS)
def test_the_client_is_the_one_that_the_proxy_names(host: Host, app: str) -> None:
    answer = get(host, app, "/whoami", "--header 'X-Forwarded-For: 192.0.2.7'", "--header 'X-Forwarded-Proto: https'")
    assert answer["client"][0] == "192.0.2.7"
    assert answer["scheme"] == "https"


@pytest.mark.parametrize("app", APPS)
def test_nobody_else_can_connect(host: Host, app: str) -> None:
    assert host.run(f"runuser -u nobody -- curl --silent --unix-socket /run/{app}/live.sock http://localhost/").rc == 7
    socket = host.file(host.check_output(f"readlink -f /run/{app}/live.sock"))
    assert (socket.user, socket.group, socket.mode) == ("root", "www-data", 0o660)


def test_the_environment_arrives_as_it_was_written(host: Host) -> None:
    assert get(host, "plain", "/environment") == {
        "PLAIN_SECRET": 'correct "horse" $battery \\ staple',
        "PLAIN_LINES": "one\ntwo",
        "PLAIN_DEBUG": "false",
    }


def test_secrets_are_for_the_service_only(host: Host) -> None:
    slot = host.check_output("readlink /opt/plain/slots/live")
    assert "horse" not in host.check_output(f"systemctl show plain@{slot}.service plain@{slot}.socket")
    assert "horse" not in host.check_output("ps axww -o args")
    assert host.run(f"runuser -u nobody -- cat /etc/plain/{slot}/env").rc != 0
    worker = get(host, "plain", "/")["pid"]
    assert host.run(f"runuser -u nobody -- cat /proc/{worker}/environ").rc != 0
    environment = host.file(f"/etc/plain/{slot}/env")
    assert (environment.user, environment.group, environment.mode) == ("root", "keeper", 0o640)


def test_the_exposure_is_at_most_1_3(host: Host) -> None:
    slot = host.check_output("readlink /opt/plain/slots/live")
    verdict = host.check_output(f"systemd-analyze security --no-pager plain@{slot}.service | tail -n 1")
    assert float(verdict.split(":")[1].split()[0]) <= 1.3, verdict


def test_the_exposure_of_the_strict_sandbox_is_at_most_1_0(host: Host) -> None:
    slot = host.check_output("readlink /opt/horn/slots/live")
    verdict = host.check_output(f"systemd-analyze security --no-pager horn@{slot}.service | tail -n 1")
    assert float(verdict.split(":")[1].split()[0]) <= 1.0, verdict


def test_limits_and_directives_are_systemd_s(host: Host) -> None:
    slot = host.check_output("readlink /opt/horn/slots/live")
    told = host.check_output(f"systemctl show --property=CPUQuotaPerSecUSec,Nice,Slice horn@{slot}.service").splitlines()
    assert sorted(told) == ["CPUQuotaPerSecUSec=1.500000s", "Nice=5", "Slice=asgi-horn.slice"]
    assert host.check_output("systemctl show --property=MemoryMax --value asgi-horn.slice") == str(1 << 30)


def test_what_systemd_does_not_understand_is_refused_and_put_back(host: Host, apply_roles: Any) -> None:
    before = host.check_output("sha256sum /etc/horn/next/*")
    variables = {
        "asgi_service_app": "horn",
        "asgi_service_import_path": "plain:app",
        "asgi_service_user": "keeper",
        "asgi_service_virtualenv": "/srv/plain/.venv",
        "asgi_service_directory": "/srv/plain",
        "asgi_service_server": "hypercorn",
        "asgi_service_directives": {"ProtectEverything": True},
    }
    done = apply_roles(["asgi_service"], variables, f"--limit={host.backend.get_hostname()}")
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "ProtectEverything" in said
    assert "asgi_service_directives" in said
    assert host.check_output("sha256sum /etc/horn/next/*") == before
    assert get(host, "horn", "/")


def test_a_start_waits_until_every_worker_is_ready(host: Host) -> None:
    slot = host.check_output("readlink /opt/horn/slots/live")
    host.check_output(f"systemctl restart horn@{slot}.service")
    assert "2 workers are ready" in host.check_output(f"journalctl --quiet --output=cat --lines=20 --unit=horn@{slot}.service")


def test_a_profile_gives_what_the_host_carries(host: Host) -> None:
    processors = int(host.check_output("nproc"))
    for app, most, expected in (("plain", 9999, processors), ("bare", 4, 2 * processors + 1)):
        slot = host.check_output(f"readlink /opt/{app}/slots/live")
        main = host.check_output(f"systemctl show --property=MainPID --value {app}@{slot}.service")
        workers = host.check_output(f"pgrep --count --parent {main} --full 'gunicorn|spawn_main'")
        # 512 MiB are room for four workers; and one alone could not be replaced.
        assert int(workers) == max(2, min(most, expected)), app


def test_the_sandbox_holds_from_inside(host: Host) -> None:
    """Not what systemd says of the unit, but what a process in it finds."""
    slot = host.check_output("readlink /opt/plain/slots/live")
    worker = get(host, "plain", "/")["pid"]
    inside = f"nsenter --target {worker} --mount --"
    assert host.run(f"{inside} touch /srv/plain/x").rc != 0
    assert host.run(f"{inside} touch /usr/x").rc != 0
    assert host.check_output(f"{inside} ls /root /home") == host.check_output(f"{inside} sh -c 'echo /home:; echo; echo /root:'")
    assert host.run(f"{inside} touch /var/lib/plain/x").rc == 0
    status = host.file(f"/proc/{worker}/status").content_string
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    assert host.file(f"/run/plain/{slot}/metrics").user == "keeper"


def test_the_switch_turns_the_sandbox_off(host: Host) -> None:
    worker = get(host, "bare", "/")["pid"]
    assert "Seccomp:\t0" in host.file(f"/proc/{worker}/status").content_string


def test_only_the_live_slot_runs_and_is_started_at_boot(host: Host) -> None:
    for app in APPS:
        live = host.check_output(f"readlink /opt/{app}/slots/live")
        idle = {"blue": "green", "green": "blue"}[live]
        assert host.service(f"{app}@{live}").is_running
        assert host.service(f"{app}@{live}").is_enabled
        assert host.service(f"{app}@{live}.socket").is_enabled
        assert host.run(f"systemctl is-active {app}@{idle}.service").stdout.strip() == "inactive"
        # It has not even a unit before something is first started in it.
        assert host.run(f"systemctl is-enabled {app}@{idle}.service").stdout.strip() != "enabled"
        assert not host.file(f"/run/{app}/{idle}.sock").exists


def test_a_killed_server_comes_back_and_a_client_waits_for_it(host: Host) -> None:
    live = host.check_output("readlink /opt/plain/slots/live")
    before = get(host, "plain", "/")["pid"]
    host.check_output(f"systemctl kill --signal=KILL plain@{live}.service")
    # The socket is systemd's: the connection waits in its queue until there is a server again.
    assert get(host, "plain", "/", "--max-time 20")["pid"] != before


def test_a_changed_environment_goes_live_through_the_other_slot(host: Host, apply_roles: Any) -> None:
    assert host.check_output("readlink /opt/plain/slots/live") == "blue"
    variables = {
        "asgi_service_app": "plain",
        "asgi_service_import_path": "plain:app",
        "asgi_service_user": "keeper",
        "asgi_service_virtualenv": "/srv/plain/.venv",
        "asgi_service_directory": "/srv/plain",
        "asgi_service_environment": {"PLAIN_SECRET": "another"},
    }
    done = apply_roles(["asgi_service"], variables, f"--limit={host.backend.get_hostname()}", "--diff", "-vvv")
    assert done.returncode == 0, done.stdout
    assert "another" not in done.stdout
    assert host.check_output("readlink /opt/plain/slots/live") == "green"
    assert get(host, "plain", "/environment") == {"PLAIN_SECRET": "another"}
