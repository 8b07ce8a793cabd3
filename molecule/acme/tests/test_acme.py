"""The life of a certificate: got on a bare host, extended, refused, renewed by the timer, with an account that is lost on the way.

The steps run once, in order, on all hosts together, while every host's site is being asked; the tests look at what each host was like
after them.
"""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import ansible, name_of

NAME = "shop.test"
BOTH = [NAME, "www.shop.test"]
PLACE = "/etc/asgi-certificates/shop"
ACCOUNT = "/etc/asgi-certificates/acme/accounts/localhost-14000-dir"
# certbot's own way to give an account up, after which the copy of it is worth nothing.
DEACTIVATE = f"""
    cp -a {ACCOUNT} /root/account
    REQUESTS_CA_BUNDLE=/etc/pebble/cert.pem certbot unregister --non-interactive --server https://localhost:14000/dir \\
        --config-dir {ACCOUNT} --work-dir /run/certbot --logs-dir /run/certbot
    rm -r {ACCOUNT}
    mv /root/account {ACCOUNT}
"""
EAB = {
    "asgi_certificate_acme_eab_kid": "customer-1",
    "asgi_certificate_acme_eab_hmac_key": "bm90IGEgc2VjcmV0LCBidXQgYSBrZXkgZm9yIGEgdGVzdCBhbG9uZSwgZm9yIHN1cmU",
}
DNS = {
    "asgi_certificate_names": [NAME, f"*.{NAME}"],
    "asgi_nginx_domains": [NAME],
    "asgi_certificate_acme_challenge": "dns-01",
    "asgi_certificate_acme_auth_hook": "/usr/local/bin/dns",
}
# From now on accounts are for customers only, and names are looked up where the TXT records are.
ASK_FOR_CUSTOMERS = """
    sed -i 's/BindingRequired": false/BindingRequired": true/' /etc/pebble/pebble.json
    echo OPTIONS=-dnsserver 127.0.0.1:8053 >/run/pebble-options
    systemctl restart pebble
    sleep 1
"""
# A new pebble has forgotten every account.
PEBBLE = """
    rm -f /run/pebble-options
    sed -i -E 's/(Period": )[0-9]+/\\1{seconds}/g' /etc/pebble/pebble.json
    systemctl restart pebble
    sleep 1
"""
# What would happen some time in the next twelve hours.
LET_THE_TIMER_ELAPSE = """
    mkdir -p /run/systemd/system/asgi-acme.timer.d
    printf '[Timer]\\nOnCalendar=\\nOnActiveSec=1\\nRandomizedDelaySec=0\\nAccuracySec=1\\n' >/run/systemd/system/asgi-acme.timer.d/now.conf
    systemctl daemon-reload
    systemctl restart asgi-acme.timer
"""


class Visitor(threading.Thread):
    """Asks a site again and again, each time over a new connection."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.address = address
        self.answered = 0
        self.failed: list[str] = []
        self.over = threading.Event()
        # The authority changes on the way, and what is asked here is whether there is an answer.
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname = False
        self.context.verify_mode = ssl.CERT_NONE

    def run(self) -> None:
        while not self.over.wait(0.2):
            connection = HTTPSConnection(self.address, timeout=10, context=self.context)
            try:
                connection.request("GET", "/alive", headers={"Host": NAME})
                answer = connection.getresponse()
                assert (answer.status, answer.read()) == (200, b"alive")
                self.answered += 1
            except Exception as error:
                self.failed.append(repr(error))
            finally:
                connection.close()


@dataclass
class Step:
    """What a host was like, and what Ansible said."""

    code: int
    said: str
    certificate: x509.Certificate
    served: x509.Certificate
    account: str
    # Whether the timer looks after it.
    renewed: bool

    @property
    def names(self) -> set[str]:
        return set(self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName))

    @property
    def left(self) -> timedelta:
        return self.certificate.not_valid_after_utc - datetime.now(UTC)


@dataclass
class Story:
    address: str
    visitor: Visitor
    steps: dict[str, Step] = field(default_factory=dict)
    timer: str = ""
    failed_unit: str = ""


Tell = Callable[..., None]


def served_by(address: str) -> x509.Certificate:
    # Asked for without a name, nginx shows what the only site has.
    return x509.load_pem_x509_certificate(ssl.get_server_certificate((address, 443)).encode())


def until(ready: Callable[[], bool], seconds: int, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Story]:
    hosts = testinfra.get_hosts(["all"], connection="ansible", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"])
    (play,) = yaml.safe_load(Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"], "converge.yml").read_text(encoding="utf-8"))
    playbook = tmp_path_factory.mktemp("acme") / "playbook.json"
    found: dict[str, Story] = {}
    for host in hosts:
        address = host.check_output("hostname -I").split()[0]
        found[name_of(host)] = Story(address, Visitor(address))
        found[name_of(host)].visitor.start()

    def everywhere(script: str) -> None:
        for host in hosts:
            host.check_output(f"set -e; {script}")

    def look(step: str, code: int = 0, said: str = "") -> None:
        for host in hosts:
            story = found[name_of(host)]
            story.steps[step] = Step(
                code=code,
                said=said,
                certificate=x509.load_pem_x509_certificate(host.file(f"{PLACE}/fullchain.pem").content),
                served=served_by(story.address),
                account=host.check_output(f"ls {ACCOUNT}/accounts/localhost:14000/dir"),
                renewed=host.file("/etc/asgi-certificates/acme/shop.json").exists,
            )

    def apply(step: str, **variables: Any) -> None:
        playbook.write_text(json.dumps([{**play, "vars": play["vars"] | variables}]), encoding="utf-8")
        done = ansible("ansible-playbook", str(playbook), ANSIBLE_CALLBACK_RESULT_FORMAT="json")
        look(step, done.returncode, " ".join((done.stdout + done.stderr).split()))

    look("bare")
    both = {"asgi_certificate_names": BOTH, "asgi_nginx_domains": BOTH}
    apply("added", **both)
    three = {"asgi_certificate_names": [*BOTH, "nowhere.test"], "asgi_nginx_domains": BOTH}
    apply("nowhere", **three)
    apply("challenge failed", **three, asgi_certificate_acme_check=False, asgi_certificate_acme_on_failure="told.service")
    for host in hosts:
        story = found[name_of(host)]
        story.failed_unit = host.run("systemctl start asgi-acme; systemctl is-failed asgi-acme; journalctl --unit asgi-acme").stdout
    everywhere(DEACTIVATE)
    apply("account deactivated", **both, asgi_certificate_acme_key_type="rsa")
    everywhere(ASK_FOR_CUSTOMERS)
    apply("customer", **DNS, **EAB)
    everywhere(PEBBLE.format(seconds=36))
    apply("account forgotten", **both, **EAB)
    for host in hosts:
        found[name_of(host)].timer = host.check_output("systemctl is-active asgi-acme.timer; systemctl is-enabled asgi-acme.timer")
    everywhere(PEBBLE.format(seconds=7776000))
    # It is renewed in the last third of its life.
    time.sleep(max(0.0, max(story.steps["account forgotten"].left.total_seconds() for story in found.values()) - 10))
    everywhere(LET_THE_TIMER_ELAPSE)
    for host in hosts:
        story, old = found[name_of(host)], found[name_of(host)].steps["account forgotten"].served.serial_number
        until(lambda story=story, old=old: served_by(story.address).serial_number != old, 60, "the timer has not renewed")  # type: ignore[misc]
    look("renewed")
    apply("own", asgi_certificate_provider="self_signed")
    apply("back", **both, **EAB)
    for story in found.values():
        story.visitor.over.set()
        story.visitor.join()
    return found


@pytest.fixture
def story(host: Host, stories: dict[str, Story]) -> Story:
    return stories[name_of(host)]


def test_first_certificate_on_a_bare_host(story: Story) -> None:
    step = story.steps["bare"]
    assert step.names == {NAME}
    assert isinstance(step.certificate.public_key(), ec.EllipticCurvePublicKey)
    assert timedelta(days=89) < step.left <= timedelta(days=90)


def test_added_name(story: Story) -> None:
    step = story.steps["added"]
    assert step.code == 0, step.said
    assert step.names == set(BOTH)
    # The account is kept.
    assert step.account == story.steps["bare"].account


def test_name_that_leads_nowhere_is_told_and_changes_nothing(story: Story) -> None:
    step, before = story.steps["nowhere"], story.steps["added"]
    assert step.code != 0
    assert "do not lead to this host on port 80: http://nowhere.test/ (" in step.said
    assert "http://shop.test/" not in step.said
    assert step.certificate == before.certificate


def test_failed_challenge_is_told_and_changes_nothing(story: Story) -> None:
    step, before = story.steps["challenge failed"], story.steps["added"]
    assert step.code != 0
    assert "certbot got no certificate for shop.test, www.shop.test, nowhere.test" in step.said
    assert "Domain: nowhere.test" in step.said
    assert step.certificate == before.certificate


def test_failed_renewal_is_loud(story: Story) -> None:
    assert "failed" in story.failed_unit.splitlines()
    assert "Domain: nowhere.test" in story.failed_unit


@pytest.mark.usefixtures("story")
def test_failed_renewal_is_told(host: Host) -> None:
    assert host.file("/run/told").exists


def test_from_an_own_authority_and_back(story: Story) -> None:
    """Under a site that sends everybody on to HTTPS, challenges included, because it knew nothing of them."""
    own, back = story.steps["own"], story.steps["back"]
    assert own.code == 0, own.said
    assert (own.names, own.renewed) == ({NAME}, False)
    assert back.code == 0, back.said
    assert (back.names, back.renewed) == (set(BOTH), True)
    assert "asgi_certificate on" not in back.certificate.issuer.rfc4514_string()


@pytest.mark.parametrize(("name", "before"), [("account deactivated", "added"), ("account forgotten", "customer")])
def test_lost_account_is_replaced(story: Story, name: str, before: str) -> None:
    step = story.steps[name]
    assert step.code == 0, step.said
    assert step.account != story.steps[before].account
    assert step.names == set(BOTH)


def test_wildcard_by_dns_with_an_external_account(story: Story) -> None:
    step = story.steps["customer"]
    assert step.code == 0, step.said
    assert step.names == {NAME, f"*.{NAME}"}
    assert step.account != story.steps["account deactivated"].account


@pytest.mark.usefixtures("story")
def test_the_external_account_s_key_is_root_s(host: Host) -> None:
    file = "/etc/asgi-certificates/acme/shop.eab.ini"
    assert host.check_output(f"stat --format='%U %a' {file}") == "root 600"
    secret = EAB["asgi_certificate_acme_eab_hmac_key"]
    assert host.run(f"journalctl --no-pager | grep --fixed-strings {secret}").rc == 1


def test_kind_of_key(story: Story) -> None:
    assert isinstance(story.steps["account deactivated"].certificate.public_key(), rsa.RSAPublicKey)
    assert isinstance(story.steps["account forgotten"].certificate.public_key(), ec.EllipticCurvePublicKey)


def test_timer_renews(story: Story) -> None:
    assert story.timer.split() == ["active", "enabled"]
    step, before = story.steps["renewed"], story.steps["account forgotten"]
    assert step.names == set(BOTH)
    assert step.left > timedelta(days=89) > before.left
    assert step.certificate.public_key() != before.certificate.public_key()


def test_what_is_there_is_served(story: Story) -> None:
    for name, step in story.steps.items():
        assert step.served == step.certificate, name


def test_no_request_failed(story: Story) -> None:
    assert story.visitor.failed == []
    assert story.visitor.answered > 500


@pytest.mark.usefixtures("story")
def test_keys_are_root_s(host: Host) -> None:
    assert host.check_output(f"stat --dereference --format='%U %a' {PLACE}/privkey.pem") == "root 600"
    assert host.check_output("stat --format='%U %a' /etc/asgi-certificates/acme") == "root 700"
    # One generation, and nothing of the detours.
    assert host.check_output(f"find {PLACE} -mindepth 1 -maxdepth 1 -type d | wc -l") == "1"
    assert host.check_output("find /etc/nginx/conf.d /var/lib/asgi-acme -type f") == "/etc/nginx/conf.d/asgi-shop.conf"
