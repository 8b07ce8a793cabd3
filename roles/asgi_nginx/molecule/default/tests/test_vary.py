"""Changes to a site that is being served: they take hold, or fail loudly and leave everything served as it was.

The steps run once, in order, on all hosts together; the tests look at what each host was like after them.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPResponse, RemoteDisconnected
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

if TYPE_CHECKING:
    from .conftest import Answer, Client, ClientOf

FILES = "sha256sum /etc/nginx/conf.d/* /etc/nginx/snippets/asgi-*"
RENEW = (
    "cd /etc/asgi-certificates/shop && openssl req -x509 -key privkey.pem -days 3 -subj /CN=renewed.example "
    "-addext subjectAltName=DNS:shop.example -out fullchain.pem"
)
# A file that is compressed when it is asked for, and one that has been before.
STATIC = ("/static/site.css", "/static/ready.css")
BR = {"Accept-Encoding": "br"}
ApplyRoles = Callable[..., subprocess.CompletedProcess[str]]

# Each step: the variables with which the first site of converge.yml is applied, in addition to its own.
STEPS: dict[str, dict[str, Any]] = {
    "renewed": {},
    "refused": {"asgi_nginx_extra": ["no_such_directive on;"], "asgi_nginx_hsts_max_age": 1},
    "port taken": {"asgi_nginx_https_port": 9000},
    "port still taken": {"asgi_nginx_https_port": 9000},
    "strangers": {"asgi_nginx_default_server": True, "asgi_nginx_remove_debian_default": True},
    "modern": {
        "asgi_nginx_tls_profile": "modern",
        "asgi_nginx_client_ca": "/etc/asgi-certificates/shop/fullchain.pem",
        "asgi_nginx_client_verify": "optional",
    },
    "brotli": {},
    "removed": {"asgi_nginx_state": "absent"},
    "removed while nginx is stopped": {"asgi_nginx_state": "absent"},
}
# What happens on each host before a step, and after it.
BEFORE = {
    "brotli": "apt-get install -qq --yes libnginx-mod-http-brotli-filter libnginx-mod-http-brotli-static",
    "removed while nginx is stopped": "touch /etc/nginx/conf.d/asgi-shop.conf && systemctl stop nginx",
}
AFTER = {"removed while nginx is stopped": "systemctl start nginx"}


@dataclass
class Outcome:
    """How one host was after a step."""

    code: int
    said: str
    changed: int
    files: str
    answer: Answer | None
    subject: str
    foreign: bytes
    neighbour: int
    strangers: list[str]
    old_tls: str
    # What the application heard of a client that showed a certificate.
    verified: str
    encodings: list[str | None]


def ask_as_stranger(client: Client) -> list[str]:
    """What became of a request for a name that no site has, over HTTP and over HTTPS."""
    said = []
    try:
        said.append(str(client.ask("/", name="stranger.example", port=80).status))
    except RemoteDisconnected:
        said.append("closed")
    try:
        client.tls(name="stranger.example").close()
    except ssl.SSLError as error:
        said.append(error.reason)
    return said


def ask_with_old_tls(client: Client) -> str:
    """What became of a handshake with TLS 1.2 alone."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    try:
        with client.tls(context) as tls:
            return str(tls.version())
    except ssl.SSLError as error:
        return str(error.reason)


def ask_with_certificate(host: Host, client: Client, folder: Path) -> str:
    """What the application heard of a client that shows a certificate of the authority, which is the site's own."""
    pair = folder / f"{host.backend.get_hostname()}.pem"
    files = [host.file(f"/etc/asgi-certificates/shop/{name}.pem").content_string for name in ("privkey", "fullchain")]
    pair.write_text("".join(files), encoding="ascii")
    context = ssl.create_default_context(cadata=files[1])
    context.load_cert_chain(pair)
    with client.tls(context) as tls:
        tls.sendall(b"GET / HTTP/1.0\r\nHost: shop.example\r\n\r\n")
        answer = HTTPResponse(tls)
        answer.begin()
        return str(dict(json.loads(answer.read())).get("x-ssl-client-verify", ""))


def look(host: Host, client: Client, run: subprocess.CompletedProcess[str], folder: Path) -> Outcome:
    name = re.escape(host.backend.get_hostname())
    recap = re.search(rf"^{name} .* changed=([0-9]+)", run.stdout, re.MULTILINE)
    assert recap, run.stdout + run.stderr
    answer, subject = None, ""
    try:
        answer = client.ask("/")
        with client.tls() as tls:
            subject = str((tls.getpeercert() or {})["subject"])
    except ConnectionRefusedError:
        pass
    return Outcome(
        code=run.returncode,
        said=" ".join((run.stdout + run.stderr).split()),
        changed=int(recap.group(1)),
        files=host.run(FILES).stdout,
        answer=answer,
        subject=subject,
        foreign=client.ask("/", port=8081).body,
        neighbour=client.plain("/").status,
        strangers=ask_as_stranger(client) if answer else [],
        old_tls=ask_with_old_tls(client) if answer else "",
        verified=ask_with_certificate(host, client, folder) if answer else "",
        encodings=[client.ask(path, BR).headers["Content-Encoding"] for path in STATIC] if answer else [],
    )


@pytest.fixture(scope="session")
def outcomes(apply_roles: ApplyRoles, client_of: ClientOf, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Outcome]]:
    """What became of each host, by its name and the step's."""
    hosts = testinfra.get_hosts(["all"], connection="ansible", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
    (play,) = yaml.safe_load(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "converge.yml").read_text(encoding="utf-8"))
    site = play["vars"] | play["roles"][0]["vars"]
    found: dict[str, dict[str, Outcome]] = {host.backend.get_hostname(): {} for host in hosts}
    for host in hosts:
        host.check_output(RENEW)
        # It signs itself, so that it has to be trusted anew.
        client_of(host).trust(host)
    folder = tmp_path_factory.mktemp("certificates")
    for step, variables in STEPS.items():
        for host in hosts:
            host.check_output(BEFORE.get(step, "true"))
        run = apply_roles(["asgi_nginx"], site | variables)
        for host in hosts:
            host.check_output(AFTER.get(step, "true"))
            found[host.backend.get_hostname()][step] = look(host, client_of(host), run, folder)
    return found


@pytest.fixture
def outcome(host: Host, outcomes: dict[str, dict[str, Outcome]]) -> dict[str, Outcome]:
    return outcomes[host.backend.get_hostname()]


def test_renewed_certificate_is_served(outcome: dict[str, Outcome]) -> None:
    step = outcome["renewed"]
    assert step.code == 0, step.said
    assert "renewed.example" in step.subject
    # Two: the notice, and the reload.
    assert step.changed == 2


def test_refused_change_leaves_everything_as_it_was(outcome: dict[str, Outcome]) -> None:
    step, before = outcome["refused"], outcome["renewed"]
    assert step.code != 0
    assert 'unknown directive "no_such_directive"' in step.said
    assert "put back" in step.said
    assert step.files == before.files
    assert step.answer is not None
    assert step.answer.headers["Strict-Transport-Security"] == "max-age=63072000"


@pytest.mark.parametrize("name", ["port taken", "port still taken"])
def test_reload_that_nginx_did_not_take_fails(outcome: dict[str, Outcome], name: str) -> None:
    step = outcome[name]
    assert step.code != 0
    assert "did not take the new configuration" in step.said
    assert "Address already in use" in step.said
    assert step.answer is not None
    assert step.answer.status == 200


def test_default_server_tells_strangers_nothing(outcome: dict[str, Outcome]) -> None:
    # Without it somebody answers over HTTP, and the site's certificate is shown.
    http, https = outcome["renewed"].strangers
    assert http != "closed"
    assert https == "CERTIFICATE_VERIFY_FAILED"
    step = outcome["strangers"]
    assert step.code == 0, step.said
    assert step.strangers == ["closed", "TLSV1_UNRECOGNIZED_NAME"]
    assert step.answer is not None
    assert step.answer.status == 200


def test_modern_profile_and_client_certificates(outcome: dict[str, Outcome]) -> None:
    assert outcome["strangers"].old_tls == "TLSv1.2"
    step = outcome["modern"]
    assert step.code == 0, step.said
    assert step.old_tls == "TLSV1_ALERT_PROTOCOL_VERSION"
    assert step.answer is not None
    assert step.answer.seen()["x-ssl-client-verify"] == "NONE"
    assert step.verified == "SUCCESS"
    # Without the authority the application hears nothing of it.
    assert outcome["strangers"].verified == ""


def test_brotli_once_it_is_installed(outcome: dict[str, Outcome]) -> None:
    assert outcome["renewed"].encodings == [None, None]
    step = outcome["brotli"]
    assert step.code == 0, step.said
    assert step.encodings == ["br", "br"]


def test_removed_site_is_gone(outcome: dict[str, Outcome]) -> None:
    step = outcome["removed"]
    assert step.code == 0, step.said
    assert step.answer is None
    assert "asgi-shop" not in step.files


def test_site_is_removed_while_nginx_is_stopped(outcome: dict[str, Outcome]) -> None:
    step = outcome["removed while nginx is stopped"]
    assert step.code == 0, step.said
    assert step.answer is None
    assert "asgi-shop" not in step.files


@pytest.mark.parametrize("step", STEPS)
def test_other_sites_keep_serving(outcome: dict[str, Outcome], step: str) -> None:
    assert outcome[step].foreign == b"not ours"
    assert outcome[step].neighbour == 200
    assert "conf.d/shop.conf" in outcome[step].files
