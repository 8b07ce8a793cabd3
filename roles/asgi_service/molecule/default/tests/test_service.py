"""What the units give, seen from a client, from another user, and from systemd."""

from __future__ import annotations

import base64
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

APPS = ("plain", "bare", "horn", "gran", "native", "trio")
# All but one are as they are by default.
JSON = ("plain", "bare", "gran", "native", "trio")
TASKS = yaml.safe_load((Path(__file__).parents[1] / "converge.yml").read_text(encoding="utf-8"))[0]["tasks"]
# What the role was given for each application.
GIVEN = {task["vars"]["asgi_service_app"]: task["vars"] for task in TASKS}

# Receives StatsD's datagrams for a while, and keeps them.
RECEIVE = """
import socket, sys
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 8125))
with open("/run/statsd.txt", "wb", buffering=0) as stream:
    while True:
        stream.write(receiver.recv(65536) + b"\\n")
"""

# Says by which code a websocket is closed that gets a message of a certain size.
BIG = """
import asyncio, sys, websockets

async def main(app, size):
    async with websockets.unix_connect(f"/run/{app}/live.sock", uri="ws://localhost/ws", max_size=None) as websocket:
        await websocket.recv()
        try:
            await websocket.send("x" * int(size))
            print(len(await asyncio.wait_for(websocket.recv(), 25)))
        except websockets.ConnectionClosed:
            print("closed by", websocket.close_code)

asyncio.run(main(*sys.argv[1:]))
"""

# Says what a websocket of the live slot ends with when the slot is stopped, and how long the stop takes.
STOP = """
import asyncio, sys, time, websockets

async def main(app, slot):
    sockets = [await websockets.unix_connect(f"/run/{app}/live.sock", uri="ws://localhost/ws") for _ in range(4)]
    begun = time.monotonic()
    stop = await asyncio.create_subprocess_exec("systemctl", "restart", f"{app}@{slot}.service")
    codes = set()
    for websocket in sockets:
        try:
            while True:
                await asyncio.wait_for(websocket.recv(), 25)
        except websockets.ConnectionClosed:
            codes.add(websocket.close_code)
    await stop.wait()
    # Nor does the restart wait for what it has closed.
    print(*codes, time.monotonic() - begun < 10)

asyncio.run(main(*sys.argv[1:]))
"""


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


def test_a_proxy_that_adds_to_the_header_is_no_client(host: Host) -> None:
    """What the client sent is in front of what the proxies have added."""
    answer = get(host, "bare", "/whoami", "--header 'X-Forwarded-For: 203.0.113.9, 192.0.2.7, 10.1.2.3'")
    assert answer["client"][0] == "192.0.2.7"


def test_headers_that_nginx_has_itself_are_sent_on_demand(host: Host) -> None:
    for app, expected in (("plain", set()), ("horn", set()), ("trio", set()), ("bare", {"date"})):
        answer = host.check_output(f"curl --silent --include --unix-socket /run/{app}/live.sock http://localhost/")
        names = {line.partition(":")[0].lower() for line in answer.splitlines()}
        assert names & {"date", "server"} == expected, app


@pytest.mark.parametrize("app", ["plain", "bare", "horn", "native", "gran"])
def test_a_header_that_nginx_would_pass_on_is_accepted(host: Host, app: str) -> None:
    fields = " ".join(f"--header 'X-Long-{number}: {'x' * 7000}'" for number in range(4))
    assert get(host, app, f"/whoami?{'y' * 7000}", fields)["headers"]["x-long-3"]


def test_a_message_that_is_too_big_closes_its_websocket(host: Host) -> None:
    script = base64.b64encode(BIG.encode()).decode()
    for size, expected in ((65536, "65536"), (65537, "closed by 1009")):
        told = host.run(f"echo {script} | base64 --decode | /srv/plain/.venv/bin/python - plain {size}")
        assert told.stdout.strip() == expected, told.stderr


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


def test_credentials_are_files_for_the_service_only(host: Host) -> None:
    assert get(host, "plain", "/credentials") == {"database_password": 'known to "few" $only', "token": "two\nlines\n"}
    slot = host.check_output("readlink /opt/plain/slots/live")
    assert "few" not in host.check_output(f"systemctl show plain@{slot}.service && systemctl cat plain@{slot}.service")
    # On the disk it is encrypted.
    places = host.check_output("grep --recursive --files-with-matches 'known to .few' /etc /run /opt/plain").split()
    assert places == [f"/run/credentials/plain@{slot}.service/database_password"]
    for path in (f"/etc/plain/{slot}/credential.token", f"/run/credentials/plain@{slot}.service/token"):
        for user in ("nobody", "www-data"):
            assert host.run(f"runuser -u {user} -- cat {path}").rc != 0
    assert host.file(f"/etc/plain/{slot}/credential.token").mode == 0o600
    decrypt = f"systemd-creds decrypt --name=database_password /etc/plain/{slot}/credential.database_password -"
    assert host.check_output(decrypt) == 'known to "few" $only'


def test_credentials_are_encrypted_as_soon_as_the_host_can(host: Host, apply_roles: Any) -> None:
    """What an earlier run has left plain is plain no more. (Without its program systemd is as old as one that has none.)"""
    given = GIVEN["native"] | {"asgi_service_credentials": {"token": "sesame-4711"}}
    limit = f"--limit={host.backend.get_hostname()}"
    kept = "/etc/native/next/credential.token"
    before = host.check_output("sha256sum /etc/native/next/*")
    host.check_output("mv /usr/bin/systemd-creds /usr/bin/systemd-creds.away")
    try:
        refused = apply_roles(["asgi_service"], given | {"asgi_service_credentials_encrypted": "always"}, limit)
        assert refused.returncode != 0
        said = refused.stdout + refused.stderr
        assert "asgi_service_credentials_encrypted is always, but this host cannot: there is no systemd-creds" in said
        assert host.check_output("sha256sum /etc/native/next/*") == before
        plain = apply_roles(["asgi_service"], given, limit)
        assert "not encrypted on this host's disk. there is no systemd-creds" in plain.stdout
        assert (host.file(kept).content_string, host.file(kept).mode) == ("sesame-4711", 0o600)
        assert get(host, "native", "/credentials") == {"token": "sesame-4711"}
    finally:
        host.check_output("mv /usr/bin/systemd-creds.away /usr/bin/systemd-creds")
    done = apply_roles(["asgi_service"], given, limit, "--diff", "-vvv")
    assert done.returncode == 0, done.stdout
    assert "sesame" not in said + plain.stdout + plain.stderr + done.stdout + done.stderr
    assert "sesame" not in host.file(kept).content_string
    slot = host.check_output("readlink /opt/native/slots/live")
    assert host.file(f"/etc/native/{slot}/credential.token").content == host.file(kept).content
    assert get(host, "native", "/credentials") == {"token": "sesame-4711"}
    for options in (["--check"], []):
        again = apply_roles(["asgi_service"], given, limit, *options)
        assert re.search(r"changed=0 .* failed=0", again.stdout), again.stdout


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


def journal(host: Host, app: str) -> list[str]:
    slot = host.check_output(f"readlink /opt/{app}/slots/live")
    host.check_output("journalctl --sync")
    return host.check_output(f"journalctl --quiet --output=cat --unit={app}@{slot}.service _TRANSPORT=stdout").splitlines()


@pytest.mark.parametrize("app", JSON)
def test_the_log_is_json_from_server_and_application(host: Host, app: str) -> None:
    worker = get(host, app, "/log?tea", "--header 'X-Request-ID: 4711'")["pid"]
    # What starts and reloads the server is not a part of it.
    entries = [json.loads(line) for line in journal(host, app) if not re.match(r"\d+ (new )?workers", line)]
    [asked] = [entry for entry in entries if entry["message"] == "asked for tea"][-1:]
    assert (asked["level"], asked["logger"], asked["pid"], asked["request_id"]) == ("info", "plain", worker, "4711")
    [failed] = [entry for entry in entries if entry["message"] == "it failed"][-1:]
    assert failed["exception"].endswith("ValueError: on purpose")
    assert {entry["logger"] for entry in entries} & {"gunicorn.error", "uvicorn.error", "hypercorn.error", "_granian"}
    # nginx has an access log.
    assert not [entry for entry in entries if "access" in entry["logger"]]


def test_the_log_is_text_on_demand(host: Host) -> None:
    worker = get(host, "horn", "/log?tea", "--header 'X-Request-ID: 4711'")["pid"]
    lines = journal(host, "horn")
    assert f"[{worker}] [INFO] plain: asked for tea" in lines
    assert lines[-1] == "ValueError: on purpose"


@pytest.mark.once
def test_the_log_level_changes_by_a_reload(host: Host, apply_roles: Any) -> None:
    slot = host.check_output("readlink /opt/plain/slots/live")
    master = host.check_output(f"systemctl show --property=MainPID --value plain@{slot}.service")
    for level, logged in (("error", 0), ("info", 1)):
        done = apply_roles(
            ["asgi_service"], GIVEN["plain"] | {"asgi_service_log_level": level}, f"--limit={host.backend.get_hostname()}", "-v"
        )
        assert '"way": "reload"' in done.stdout, done.stdout
        get(host, "plain", "/log?coffee")
        assert len([line for line in journal(host, "plain") if "asked for coffee" in line]) == logged
    # The process is the same; only its workers are others.
    assert host.check_output("readlink /opt/plain/slots/live") == slot
    assert host.check_output(f"systemctl show --property=MainPID --value plain@{slot}.service") == master


@pytest.mark.once
def test_a_failure_shows_the_log_as_text(host: Host, apply_roles: Any) -> None:
    """One that is JSON in the journal, with all of a traceback in one line."""
    given = GIVEN["native"] | {"asgi_service_environment": {"PLAIN_BROKEN": "import"}}
    done = apply_roles(["asgi_service"], given, f"--limit={host.backend.get_hostname()}")
    assert done.returncode != 0
    # Ansible shows it twice: as it is, and within the JSON of its own.
    said = (done.stdout + done.stderr).replace("\\n", "\n")
    assert "RuntimeError: this release cannot be imported" in said.splitlines()
    assert "[ERROR] gunicorn.error: Exception in worker process" in said
    assert 'message": "Exception in' not in said.replace("\\", "")
    # As it was.
    done = apply_roles(["asgi_service"], GIVEN["native"], f"--limit={host.backend.get_hostname()}")
    assert done.returncode == 0, done.stdout


def test_gunicorn_s_figures_reach_statsd(host: Host) -> None:
    script = base64.b64encode(RECEIVE.encode()).decode()
    host.check_output(f"echo {script} | base64 --decode >/run/statsd.py")
    host.check_output("systemd-run --quiet --unit=statsd /usr/bin/python3 /run/statsd.py")
    try:
        host.check_output("timeout 10 sh -c 'until [ -e /run/statsd.txt ]; do sleep 0.1; done'")
        slot = host.check_output("readlink /opt/plain/slots/live")
        # The number of workers is sent when it changes.
        host.check_output(f"systemctl reload plain@{slot}.service")
        get(host, "plain", "/")
        assert host.run("curl --silent --fail --unix-socket /run/plain/live.sock http://localhost/nowhere").rc == 22
        host.check_output("sleep 0.2")
        told = host.file("/run/statsd.txt").content_string.splitlines()
    finally:
        host.check_output("systemctl stop statsd && rm /run/statsd.py /run/statsd.txt")
    workers = max(2, int(host.check_output("nproc")))
    assert f"plain.gunicorn.workers:{workers}|g|#app:plain" in told
    assert "plain.gunicorn.request.status.200:1|c|@1.0|#app:plain" in told
    assert "plain.gunicorn.request.status.404:1|c|@1.0|#app:plain" in told
    assert "plain.gunicorn.requests:1|c|@1.0|#app:plain" in told
    durations = [float(found[1]) for line in told if (found := re.match(r"plain\.gunicorn\.request\.duration:([0-9.]+)\|ms", line))]
    assert durations
    assert max(durations) < 10_000


@pytest.mark.parametrize("app", APPS)
def test_programs_of_the_application_can_be_ended(host: Host, app: str) -> None:
    """What a server does with its own signals is not for what the application starts."""
    assert get(host, app, "/child") == {"signal": signal.SIGTERM}


@pytest.mark.parametrize("app", APPS)
def test_websockets_are_told_to_come_back(host: Host, app: str) -> None:
    slot = host.check_output(f"readlink /opt/{app}/slots/live")
    script = base64.b64encode(STOP.encode()).decode()
    told = host.run(f"echo {script} | base64 --decode | /srv/plain/.venv/bin/python - {app} {slot}")
    assert told.stdout.split() == ["1012", "True"], told.stderr


def test_the_metrics_of_an_earlier_process_are_never_counted(host: Host) -> None:
    slot = host.check_output("readlink /opt/native/slots/live")
    host.check_output(f"touch /run/native/{slot}/metrics/gauge_live_1.db")
    host.check_output(f"systemctl restart native@{slot}.service")
    assert host.file(f"/run/native/{slot}/metrics").listdir() == []


def test_shared_directories_are_the_service_s(host: Host) -> None:
    for path in ("media", "media/public"):
        directory = host.file(f"/var/lib/native/{path}")
        assert (directory.user, directory.is_directory) == ("keeper", True)
    # One directory, however many there are below it.
    slot = host.check_output("readlink /opt/native/slots/live")
    master = host.check_output(f"systemctl show --property=MainPID --value native@{slot}.service")
    environment = host.check_output(f"tr '\\0' '\\n' </proc/{master}/environ").splitlines()
    assert "STATE_DIRECTORY=/var/lib/native" in environment
    assert f"RUNTIME_DIRECTORY=/run/native/{slot}" in environment


def memory(host: Host, group: str) -> tuple[int, int]:
    """Return how many processes the kernel has killed for a control group's limit, and the most bytes that the group ever had."""
    if host.file("/sys/fs/cgroup/cgroup.controllers").exists:
        events = host.check_output(f"cat /sys/fs/cgroup{group}/memory.events")
        peak = host.check_output(f"cat /sys/fs/cgroup{group}/memory.peak || cat /sys/fs/cgroup{group}/memory.current")
    else:
        events = host.check_output(f"cat /sys/fs/cgroup/memory{group}/memory.oom_control")
        peak = host.check_output(f"cat /sys/fs/cgroup/memory{group}/memory.max_usage_in_bytes")
    return int(dict(line.split() for line in events.splitlines())["oom_kill"]), int(peak)


@pytest.mark.once
@pytest.mark.parametrize("app", ["plain", "bare"])
def test_a_leak_ends_the_worker_and_not_the_service(host: Host, app: str) -> None:
    slot = host.check_output(f"readlink /opt/{app}/slots/live")
    unit = f"{app}@{slot}.service"
    limit = 512 << 20
    assert host.check_output(f"systemctl show --property=MemoryMax --value {unit}") == str(limit)
    group = host.check_output(f"systemctl show --property=ControlGroup --value {unit}")
    main = host.check_output(f"systemctl show --property=MainPID --value {unit}")
    count = f'pgrep --count --parent {main} --full "gunicorn|spawn_main"'
    workers = host.check_output(count)
    killed_before, _ = memory(host, group)
    leak = f"curl --silent --unix-socket /run/{app}/live.sock 'http://localhost/leak?100'"
    for _ in range(20):
        # Whose worker is killed gets no answer.
        host.run(leak)

    # The limit stops it ...
    killed, peak = memory(host, group)
    assert killed > killed_before
    assert peak <= limit
    # ... the journal says so ...
    host.check_output("journalctl --sync")
    said = host.check_output(f"journalctl --quiet --output=cat --unit={unit}")
    # systemd's words need control groups of version 2; the servers have words of their own.
    if host.file("/sys/fs/cgroup/cgroup.controllers").exists:
        assert "killed by the OOM killer" in said
    assert ("Perhaps out of memory?" in said) if app == "plain" else re.search(r"Child process \[\d+\] died", said)
    # ... and the service is back by itself, with all of its workers and none of the leak, in the same master.
    host.check_output(f"timeout 30 sh -c 'until [ $({count}) = {workers} ]; do sleep 0.2; done'")
    assert get(host, app, "/", "--max-time 20")["pid"]
    state = host.check_output(f"systemctl show --property=ActiveState,MainPID {unit}").splitlines()
    assert state == [f"MainPID={main}", "ActiveState=active"]


@pytest.mark.once
def test_two_applications_on_one_host_do_not_touch_each_other(host: Host) -> None:
    """One is stopped altogether; the others have their sockets, slices, directories and processes as before."""
    slot = host.check_output("readlink /opt/trio/slots/live")
    others = [app for app in APPS if app != "trio"]
    before = {app: host.check_output(f"systemctl show --property=MainPID --value {app}@blue {app}@green") for app in others}
    host.check_output(f"systemctl stop trio@{slot}.socket trio@{slot}.service asgi-trio.slice")
    assert not host.file(f"/run/trio/{slot}").exists
    assert host.run("curl --silent --unix-socket /run/trio/live.sock http://localhost/").rc != 0
    for app in others:
        assert get(host, app, "/")["pid"]
        assert host.check_output(f"systemctl show --property=MainPID --value {app}@blue {app}@green") == before[app]
        live = host.check_output(f"readlink /opt/{app}/slots/live")
        shown = host.check_output(f"systemctl show --property=Slice,RuntimeDirectory,StateDirectory {app}@{live}.service")
        assert all(line.partition("=")[2].startswith((app, f"asgi-{app}.slice")) for line in shown.splitlines()), shown
    host.check_output(f"systemctl start trio@{slot}.socket trio@{slot}.service")


@pytest.mark.once
def test_an_option_that_the_server_does_not_have_is_refused_and_put_back(host: Host, apply_roles: Any) -> None:
    before = host.check_output("sha256sum /etc/*/next/*")
    given, expected = [], []
    for app, server, options, meant in (
        ("gran", "granian", {"runtime_treads": 1}, "runtime_threads"),
        ("horn", "hypercorn", {"websocket_ping_intervall": 1}, "websocket_ping_interval"),
        ("bare", "uvicorn", {"ws_ping_intervals": 1}, "ws_ping_interval"),
        ("plain", "gunicorn", {"dogstatd_tags": 1}, "dogstatsd_tags"),
        ("native", "gunicorn", {"permit_obsolete_foldin": 1}, "permit_obsolete_folding"),
    ):
        variables = {
            "asgi_service_app": app,
            "asgi_service_import_path": "plain:app",
            "asgi_service_user": "keeper",
            "asgi_service_virtualenv": "/srv/plain/.venv",
            "asgi_service_directory": "/srv/plain",
            "asgi_service_server": server,
            "asgi_service_options": options,
            "asgi_service_worker_class": "asgi" if app == "native" else "handover",
        }
        given.append(variables)
        having = f"{server} with its own asgi worker" if app == "native" else server
        expected.append(f"asgi_service_options has {next(iter(options))}, but {having} has no option of this name")
        expected.append(f"did you mean {meant}")
    # What the other kind of worker would take, and this one would pass over.
    for kind, options in (("asgi", {"ws_max_queue": 5}), ("handover", {"permit_obsolete_folding": True})):
        given.append(GIVEN["plain"] | {"asgi_service_options": options, "asgi_service_worker_class": kind})
        expected.append(f"asgi_service_options has {next(iter(options))}")
    role = {"name": "steadfast.asgi.asgi_service"}
    refused = {"ansible.builtin.debug": {"msg": "it was refused"}}
    tasks = [{"block": [{"ansible.builtin.include_role": role, "vars": variables}], "rescue": [refused]} for variables in given]
    done = apply_roles([], {}, f"--limit={host.backend.get_hostname()}", tasks=tasks)
    said = done.stdout + done.stderr
    assert [text for text in expected if text not in said] == []
    assert said.count('"it was refused"') == len(given), said
    # Also the environment and the credentials, which these runs have none of.
    assert host.check_output("sha256sum /etc/*/next/*") == before


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


def test_a_crash_is_forgiven_after_a_while(host: Host) -> None:
    """Or else the delay before a restart would grow with the crashes of months."""
    live = host.check_output("readlink /opt/plain/slots/live")
    service, calm = f"plain@{live}.service", f"plain-calm-{live}"

    def show(unit: str, name: str) -> str:
        return host.check_output(f"systemctl show --property={name} --value {unit}")

    if "RestartSteps" not in host.file(f"/etc/systemd/system/{service}").content_string:
        assert show(f"{calm}.timer", "ActiveState") == "inactive", "there the delay does not grow"
        return
    armed = show(f"{calm}.timer", "ActiveEnterTimestampMonotonic")
    host.check_output(f"systemctl kill --signal=KILL {service}")
    get(host, "plain", "/", "--max-time 20")
    host.check_output(f"systemctl start {service}")
    assert int(show(service, "NRestarts")) > 0
    # The time begins anew with each start.
    assert int(show(f"{calm}.timer", "ActiveEnterTimestampMonotonic")) > int(armed)
    # What the timer starts when it is over.
    host.check_output(f"systemctl start --wait {calm}.service")
    assert (show(service, "NRestarts"), show(service, "ActiveState")) == ("0", "active")


def test_a_changed_environment_goes_live_through_the_other_slot(host: Host, apply_roles: Any) -> None:
    assert host.check_output("readlink /opt/plain/slots/live") == "blue"
    variables = {
        "asgi_service_app": "plain",
        "asgi_service_import_path": "plain:app",
        "asgi_service_user": "keeper",
        "asgi_service_virtualenv": "/srv/plain/.venv",
        "asgi_service_directory": "/srv/plain",
        "asgi_service_environment": {"PLAIN_SECRET": "another-4711"},
        "asgi_service_credentials": {"database_password": "one-more-4711"},
    }
    done = apply_roles(["asgi_service"], variables, f"--limit={host.backend.get_hostname()}", "--diff", "-vvv")
    assert done.returncode == 0, done.stdout
    said = done.stdout + done.stderr
    assert not [secret for secret in ("another-4711", "one-more-4711", "horse", "known to") if secret in said]
    assert host.check_output("readlink /opt/plain/slots/live") == "green"
    assert get(host, "plain", "/environment") == {"PLAIN_SECRET": "another-4711"}
    assert get(host, "plain", "/credentials") == {"database_password": "one-more-4711"}
    assert not host.file("/etc/plain/next/credential.token").exists
