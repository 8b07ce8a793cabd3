"""The same site without nginx: the server speaks TLS itself, on port 443, which nginx has before and after.

On one release of Debian; tests/load/test_direct_tls.py is about the other.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from testinfra import get_hosts
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.stack.tests import test_site as sites
from ansible_collections.steadfast.asgi.molecule.stack.tests.conftest import client_of
from ansible_collections.steadfast.asgi.molecule.support import Client, ansible, changed, name_of, play

EXAMPLE = Path(__file__).resolve().parents[3] / "examples/fastapi-app"
DIRECT = {"asgi_nginx_state": "absent", "asgi_service_tls_listen": ["443"]}
DEPLOY = "../../playbooks/deploy.yml"
WHERE = "debian12"
LIMIT = f"--limit={WHERE},localhost"


def given(**more: Any) -> str:
    return f"--extra-vars={json.dumps(DIRECT | more)}"


@pytest.fixture(scope="session", autouse=True)
def options() -> str:
    """Switch to it in one run; the value is what a run of a playbook has to be given for it."""
    done = ansible("ansible-playbook", LIMIT, given(), "converge.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    return given()


@pytest.fixture(scope="session")
def second_run(options: str) -> dict[str, Any]:
    return play("converge.yml", None, LIMIT, options)


@pytest.fixture(scope="session")
def hosts() -> list[Host]:
    """The hosts of this file. What takes a run of a playbook is done to them together."""
    return list(get_hosts([WHERE], connection="ansible", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"]))


@dataclasses.dataclass
class Deployment:
    """A new release, and what clients of each host were answered meanwhile."""

    version: str
    statuses: dict[str, list[int | str]]


@pytest.fixture(scope="session")
def deployment(options: str, hosts: list[Host], tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    source = tmp_path_factory.mktemp("deployment") / "source"
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns(".*", "__pycache__", "tests"))
    done = Deployment(f"1.0.{time.time_ns()}", {name_of(host): [] for host in hosts})
    code = source / "app/__init__.py"
    text = re.sub(r'__version__ = ".*"', f'__version__ = "{done.version}"', code.read_text(encoding="utf-8"))
    code.write_text(text, encoding="utf-8")
    over = threading.Event()

    def ask(site: Client, statuses: list[int | str]) -> None:
        while not over.is_set():
            try:
                statuses.append(site.ask("/").status_code)
                statuses.append(site.ask("/notes", "POST", json={"text": "meanwhile"}).status_code)
            except httpx.HTTPError as error:
                statuses.append(repr(error))
            # As fast as they can, they would take the processors that the deployment needs.
            time.sleep(0.1)

    clients = [threading.Thread(target=ask, args=(client_of(host), done.statuses[name_of(host)])) for host in hosts for _ in range(3)]
    for thread in clients:
        thread.start()
    try:
        play(DEPLOY, None, options, LIMIT, f"--extra-vars=asgi_source={source}")
        # Until the old slot has drained.
        time.sleep(6)
    finally:
        over.set()
        for thread in clients:
            thread.join()
    return done


def ways(told: dict[str, Any], hosts: list[Host]) -> set[str]:
    """How a run replaced what is live."""
    results = [task["hosts"].get(name_of(host), {}) for part in told["plays"] for task in part["tasks"] for host in hosts]
    found = [result["way"] for result in results if "way" in result]
    assert len(found) == len(hosts)
    return set(found)


def served(site: Client) -> bytes:
    with site.tcp() as tcp, site.context.wrap_socket(tcp, server_hostname=site.domain) as tls:
        return tls.getpeercert(binary_form=True) or b""


def live(hosts: list[Host]) -> list[str]:
    return [host.check_output("readlink /opt/notes/slots/live") for host in hosts]


CHECKS = (
    sites.test_the_application_answers_over_https,
    sites.test_the_application_is_ready,
    sites.test_what_is_written_can_be_read,
    sites.test_websockets,
    sites.test_a_client_cannot_forge_its_address,
    sites.test_the_certificate_is_for_this_name_only,
)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__.removeprefix("test_"))
def test_the_site_is_what_it_is_behind_nginx(hosts: list[Host], check: Callable[[Client], None]) -> None:
    for host in hosts:
        check(client_of(host))


def test_nginx_is_not_there(hosts: list[Host]) -> None:
    for host in hosts:
        listening = host.check_output("cat /proc/net/tcp /proc/net/tcp6 | awk '$4 == \"0A\" && $2 ~ /:01BB$/ { print $10 }'").split()
        assert len(listening) == 1
        assert "nginx" not in client_of(host).ask("/").headers.get("server", "")


def test_a_client_cannot_say_what_a_proxy_would(hosts: list[Host]) -> None:
    for host in hosts:
        seen = client_of(host).ask("/whoami", headers={"X_Forwarded_For": "6.6.6.6", "X-Request-ID": "forged"}).json()
        assert seen["client"] == client_of(host).own_address()
        assert "forged" not in json.dumps(seen)


def test_a_second_run_changes_nothing(hosts: list[Host], second_run: dict[str, Any]) -> None:
    for host in hosts:
        assert name_of(host) in second_run["stats"]
        assert changed(second_run, host) == []


def test_the_service_cannot_change_its_key_and_others_cannot_read_it(hosts: list[Host]) -> None:
    for host, slot in zip(hosts, live(hosts), strict=True):
        folder = f"/run/notes/tls-{slot}"
        assert host.check_output(f"stat --format '%U %G %a' {folder} {folder}/pair.pem").splitlines() == [
            "root notes 750",
            "root notes 640",
        ]
        assert host.run(f"runuser -u nobody -- cat {folder}/pair.pem").rc != 0
        assert host.run(f"runuser -u notes -- cat {folder}/pair.pem").rc == 0
        assert host.run(f"runuser -u notes -- sh -c 'echo >>{folder}/pair.pem'").rc != 0


def test_a_killed_server_keeps_clients_waiting_and_starts_nothing_else(hosts: list[Host]) -> None:
    for host, slot in zip(hosts, live(hosts), strict=True):
        idle = {"blue": "green", "green": "blue"}[slot]
        host.check_output(f"systemctl kill --signal=KILL notes@{slot}.service")
        begun = time.monotonic()
        assert client_of(host).ask("/").status_code == 200
        assert time.monotonic() - begun > 1, "it was not killed"
        assert host.check_output(f"systemctl show --property=ActiveState --value notes@{idle}.service") == "inactive"
        ticks = "awk '{ print $14 + $15 }' /proc/1/stat"
        before, after = host.check_output(f"{ticks}; sleep 2; {ticks}").split()
        assert int(after) - int(before) < 20, "systemd is busy"


def test_it_comes_back_as_after_a_boot(hosts: list[Host]) -> None:
    for host, slot in zip(hosts, live(hosts), strict=True):
        units = f"notes@{slot}.service notes@{slot}.socket notes-tls-443.socket notes-tls.service"
        host.check_output(f"systemctl stop {units} && rm -r /run/notes && systemd-tmpfiles --create /etc/tmpfiles.d/notes.conf")
        with pytest.raises(httpx.ConnectError):
            client_of(host).ask("/")
        # What multi-user.target wants.
        host.check_output(f"systemctl start notes@{slot}.service")
        assert client_of(host).ask("/").status_code == 200
        assert host.check_output("systemctl is-active notes-tls-443.socket notes-tls.service") == "active\nactive"


def test_a_renewed_certificate_comes_in_by_a_reload(hosts: list[Host]) -> None:
    clients, slots = [client_of(host) for host in hosts], live(hosts)
    before = [served(site) for site in clients]
    told = play("converge.yml", None, LIMIT, given(asgi_certificate_names=["notes.example", "also.example"]))
    # The role asgi_certificate has done it.
    assert ways(told, hosts) == {"nothing"}
    assert all(served(site) != old for site, old in zip(clients, before, strict=True))
    assert live(hosts) == slots


def test_a_certificate_that_was_renewed_by_others_is_a_reason_to_reload(hosts: list[Host]) -> None:
    pair = "/etc/asgi-certificates/notes/live"
    clients, slots = [client_of(host) for host in hosts], live(hosts)
    before = [served(site) for site in clients]
    for host in hosts:
        host.check_output(
            f"mkdir /root/pair && cp -p {pair}/* /root/pair && cd {pair}/ && openssl req -x509 -newkey ec "
            "-pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 -subj /CN=other -keyout privkey.pem -out fullchain.pem"
        )
    told = play(DEPLOY, None, LIMIT, given())
    for site in clients:
        with pytest.raises(ssl.SSLCertVerificationError):
            served(site)
    for host in hosts:
        host.check_output(f"cp -p /root/pair/* {pair}/ && rm -r /root/pair && systemctl reload notes-tls.service")
    assert ways(told, hosts) == {"reload"}
    assert [served(site) for site in clients] == before
    assert live(hosts) == slots


def test_clients_certificates(hosts: list[Host], tmp_path: Path) -> None:
    slots = live(hosts)
    curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for host in hosts:
        host.check_output(
            "mkdir -p /root/clients && cd /root/clients && umask 077 && "
            f"openssl req -x509 {curve} -days 3 -subj /CN=clients -keyout ca.key -out ca.pem && "
            f"openssl req {curve} -subj /CN=alice -keyout alice.key -out alice.csr && "
            "openssl x509 -req -in alice.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3 -out alice.pem"
        )
    optional = given(asgi_service_tls_client_ca="/root/clients/ca.pem", asgi_service_tls_client_verify="optional")
    assert ways(play(DEPLOY, None, LIMIT, optional), hosts) == {"reload"}
    assert {client_of(host).ask("/").status_code for host in hosts} == {200}
    required = given(asgi_service_tls_client_ca="/root/clients/ca.pem")
    assert ways(play(DEPLOY, None, LIMIT, required), hosts) == {"reload"}
    for host in hosts:
        site = client_of(host)
        with pytest.raises(httpx.HTTPError):
            site.ask("/")
        pem = tmp_path / name_of(host)
        pem.write_text(host.check_output("cat /root/clients/alice.key /root/clients/alice.pem"), encoding="utf-8")
        site.context.load_cert_chain(pem)
        assert site.ask("/").status_code == 200
    assert live(hosts) == slots


def test_a_service_that_reaches_nobody_can_be_reached(hosts: list[Host]) -> None:
    """In the sandbox `strict` the service exchanges packets with no address but the host's. The connections are not its own."""
    assert ways(play(DEPLOY, None, LIMIT, given(asgi_service_sandbox="strict")), hosts) == {"rollout"}
    for host in hosts:
        site = client_of(host)
        assert site.own_address() not in ("127.0.0.1", site.address)
        assert site.ask("/").status_code == 200


def test_an_address_that_is_taken_leaves_what_is_live(hosts: list[Host]) -> None:
    slots = live(hosts)
    for host in hosts:
        host.check_output("systemd-run --unit=taken /usr/bin/python3 -m http.server 8443")
    done = ansible("ansible-playbook", LIMIT, given(asgi_service_tls_listen=["443", "8443"]), DEPLOY)
    for host in hosts:
        host.check_output("systemctl stop taken")
    assert done.returncode != 0
    assert "notes-tls-8443.socket cannot listen (asgi_service_tls_listen)" in done.stdout + done.stderr
    assert "Address already in use" in done.stdout + done.stderr
    assert live(hosts) == slots
    for host in hosts:
        assert client_of(host).ask("/").status_code == 200
        assert not host.file("/etc/systemd/system/notes-tls-8443.socket").exists


def test_another_address_is_added_and_removed(hosts: list[Host]) -> None:
    ask = "curl --silent --output /dev/null --insecure --write-out '%{http_code}' https://localhost:8443/ready"
    play(DEPLOY, None, LIMIT, given(asgi_service_tls_listen=["443", "8443"]))
    for host in hosts:
        assert host.check_output(ask) == "200"
        assert client_of(host).ask("/").status_code == 200
    play(DEPLOY, None, LIMIT, given())
    for host in hosts:
        assert host.run(ask).rc == 7
        assert client_of(host).ask("/").status_code == 200
        assert host.check_output("ls /etc/systemd/system | grep notes-tls").split() == [
            "notes-tls-443.service",
            "notes-tls-443.socket",
            "notes-tls.service",
        ]


def test_a_new_release_costs_no_request(hosts: list[Host], deployment: Deployment) -> None:
    for host in hosts:
        assert client_of(host).ask("/").json()["version"] == deployment.version
        statuses = deployment.statuses[name_of(host)]
        assert len(statuses) > 50
        assert {status for status in statuses if status not in (200, 201)} == set()


def test_back_to_nginx(hosts: list[Host]) -> None:
    """In one run, on the same port, and nothing of it stays."""
    told = play("converge.yml", None, LIMIT)
    assert ways(told, hosts) == {"rollout"}
    for host in hosts:
        assert client_of(host).ask("/").headers["server"].startswith("nginx")
        assert host.run("ls /etc/systemd/system | grep notes-tls").rc == 1
        assert host.run("ls -d /run/notes/tls-*").rc != 0
