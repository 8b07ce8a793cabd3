"""What is on the hosts after converge, and after the second day (day_two.yml)."""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

HERE = Path(__file__).parent
SCRIPT = HERE.parents[2] / "files" / "self_signed.sh"
SCRATCH = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
PKI = SCRATCH / "pki"
OWN_NAMES = {"own.example.org", "*.own.example.org", "192.0.2.7", "2001:db8::7"}


class Step:
    """The state of a host after one step of day_two.yml."""

    def __init__(self, facts: dict[str, str]) -> None:
        self.facts = facts

    def pem(self, fact: str) -> bytes:
        return base64.b64decode(self.facts[fact])

    def certificate(self, fact: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.pem(fact))

    @property
    def own(self) -> x509.Certificate:
        return self.certificate("own-chain")

    @property
    def given(self) -> x509.Certificate:
        return self.certificate("given-chain")


def names(certificate: x509.Certificate) -> set[str]:
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(san.get_values_for_type(x509.DNSName)) | {str(ip) for ip in san.get_values_for_type(x509.IPAddress)}


def public(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def provided(name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((PKI / name).read_bytes())


def days_left(certificate: x509.Certificate) -> float:
    return (certificate.not_valid_after_utc - datetime.now(UTC)) / timedelta(days=1)


def host_name(host: Any) -> str:
    return str(host.backend.get_pytest_id()).removeprefix("ansible://")


@pytest.fixture
def steps(host: Any, story: str) -> dict[str, Step]:
    assert "PLAY RECAP" in story
    seen = json.loads((SCRATCH / f"{host_name(host)}-observed.json").read_text())
    return {step: Step(facts) for step, facts in seen.items()}


def test_own_certificate(steps: dict[str, Step]) -> None:
    own, authority = steps["start"].own, steps["start"].certificate("ca")
    assert names(own) == OWN_NAMES
    assert 89.9 < days_left(own) <= 90
    key = own.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    usage = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    assert not own.extensions.get_extension_for_class(x509.BasicConstraints).value.ca

    own.verify_directly_issued_by(authority)
    constraints = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert constraints.ca and constraints.path_length == 0
    assert 3649 < days_left(authority) <= 3650


@pytest.mark.parametrize("step", ["start", "lost"])
def test_openssl_accepts_it(steps: dict[str, Step], step: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_bytes(steps[step].pem("ca"))
    (tmp_path / "chain.pem").write_bytes(steps[step].pem("own-chain"))
    for option, name in [("-verify_hostname", "any.own.example.org"), ("-verify_ip", "2001:db8::7")]:
        verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", option, name]
        subprocess.run([*verify, "-CAfile", "ca.pem", "chain.pem"], cwd=tmp_path, check=True)


def test_authority_is_exported(host: Any, steps: dict[str, Step]) -> None:
    # A new one is exported too: by then it is the one that day_two.yml shakes hands with.
    assert (SCRATCH / f"{host_name(host)}-ca.pem").read_bytes() == steps["lost"].pem("ca")


def test_modes(steps: dict[str, Step]) -> None:
    for name in ("start", "lost", "stopped"):
        facts = steps[name].facts
        assert facts["ca-modes"] == "root:root 755 root:root 644 root:root 600", name
        assert facts["own-modes"] == "root:root 755 root:root 644 root:root 600", name
        assert facts["given-modes"] == "root:root 755 root:root 644 root:root 600", name


def test_key_and_certificate_match_after_every_step(steps: dict[str, Step]) -> None:
    for name, step in steps.items():
        assert step.pem("own-public") == public(step.own), name
        assert step.pem("given-public") == public(step.given), name


def test_one_generation_stays(steps: dict[str, Step]) -> None:
    for name, step in steps.items():
        assert (step.facts["own-directories"], step.facts["given-directories"]) == ("1", "1"), name


def test_unrelated_run_keeps_the_certificate(steps: dict[str, Step]) -> None:
    assert steps["unrelated"].facts == steps["start"].facts


def test_renewal(steps: dict[str, Step]) -> None:
    before, after = steps["unrelated"], steps["due"]
    assert after.facts["ca"] == before.facts["ca"]
    assert after.own.serial_number != before.own.serial_number
    assert public(after.own) != public(before.own)
    assert names(after.own) == OWN_NAMES
    assert 396.9 < days_left(after.own) <= 397


def test_added_name(steps: dict[str, Step]) -> None:
    assert names(steps["named"].own) == OWN_NAMES | {"more.example.org"}
    assert steps["named"].facts["ca"] == steps["due"].facts["ca"]


def test_new_authority(steps: dict[str, Step]) -> None:
    assert steps["lost"].facts["ca"] != steps["named"].facts["ca"]
    # And the name that is not listed any more is gone.
    assert names(steps["lost"].own) == OWN_NAMES


@pytest.mark.usefixtures("story")
@pytest.mark.parametrize(
    ("harm", "arguments", "stays"),
    [
        ("true", "own 30 397", {"ca", "leaf"}),
        ("true", "own 398 397", {"ca"}),
        ("true", "own 30 3651", set()),
        ("true", "unknown 30 397", {"ca"}),
        ("chmod 0644 own/live/privkey.pem", "own 30 397", {"ca"}),
        ("cp -a --remove-destination ca/ca-key.pem own/live/privkey.pem", "own 30 397", {"ca"}),
        ("cp --remove-destination given/live/* own/live/", "own 30 397", {"ca"}),
        ("rm own/live", "own 30 397", {"ca"}),
        ("chmod 0640 ca/ca-key.pem", "own 30 397", set()),
        ("rm ca/ca-key.pem", "own 30 397", set()),
        ("cp own/live/* . && mv fullchain.pem ca/ca.pem && mv privkey.pem ca/ca-key.pem", "own 30 397", set()),
    ],
)
def test_what_can_stay(host: Any, harm: str, arguments: str, stays: set[str]) -> None:
    """The script that decides, on a copy of the directory with something wrong in it."""
    inside = "cp -a /etc/asgi-certificates /tmp/copy && mount --bind /tmp/copy /etc/asgi-certificates"
    script = shlex.quote(SCRIPT.read_text())
    look = f"{inside} && cd /etc/asgi-certificates && {{ {harm}; }} && cd / && sh -c {script} sh {arguments}; rm -r /tmp/copy"
    said = host.run(f"unshare --mount sh -c {shlex.quote(look)}")
    facts = dict(line.split(" ", 1) for line in said.stdout.splitlines())
    assert re.fullmatch(r"\d{8}T\d{6}Z", facts.pop("now"))
    live = facts.pop("live", None)
    assert live is None or re.fullmatch(r"[0-9TZ.]+", live)
    assert set(facts) == stays, said


def test_provided_certificate(steps: dict[str, Step]) -> None:
    assert steps["start"].pem("given-chain") == (PKI / "good.pem").read_bytes()
    assert steps["stopped"].given == provided("renewed.pem")


def test_service_that_is_stopped_stays_stopped(steps: dict[str, Step]) -> None:
    assert steps["stopped"].facts["nginx"] == "0 inactive"


def test_change_reloads_nginx(steps: dict[str, Step]) -> None:
    # It was started with the renewed one.
    assert steps["remote"].certificate("served") == provided("good.pem")
    assert steps["remote-renewed"].certificate("served") == provided("renewed.pem")
    # Reloaded, not restarted.
    assert len({steps[step].facts["nginx"] for step in ("remote", "remote-renewed", "remote-again")}) == 1


def test_pair_on_the_host_is_copied_once(steps: dict[str, Step]) -> None:
    assert re.fullmatch(r"/etc/asgi-certificates/given/[0-9TZ.]+/privkey.pem", steps["remote"].facts["given-key"])
    assert steps["remote-again"].facts.keys() == steps["remote-renewed"].facts.keys()
    for fact in ("given-chain", "given-key", "nginx"):
        assert steps["remote-again"].facts[fact] == steps["remote-renewed"].facts[fact]


def test_no_key_is_ever_shown(host: Any, story: str) -> None:
    journal = host.run("journalctl --no-pager").stdout
    assert "asgi_certificate" in journal
    assert "asgi_certificate : Switch to the certificate" in story
    for name in ("good-key.pem", "renewed-key.pem"):
        secret = (PKI / name).read_text().splitlines()[1]
        assert secret not in story
        assert secret not in journal
    for said in (story, journal):
        # What says how a key begins, in quotes, is no key: the timer's service has refused some by then.
        assert not re.search("BEGIN .*PRIVATE KEY-----(?!' [(]or RSA)", said)
