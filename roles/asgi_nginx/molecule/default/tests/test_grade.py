"""What SSL Labs would grade, line by line: its SSL Server Rating Guide (2009r) as a table over what sslyze finds.

https://github.com/ssllabs/research/wiki/SSL-Server-Rating-Guide. Left out is what no server decides: whether the authority that issued
the certificate is trusted. The certificates of this scenario have signed themselves.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from testinfra.host import Host

if TYPE_CHECKING:
    from .conftest import Client, ClientOf

SHOP = "shop.example"
# In an environment of its own: it wants an older cryptography than the other tests.
SSLYZE = ["uv", "tool", "run", "--quiet", "--from", "sslyze==6.3.1", "sslyze", f"--sni={SHOP}"]
WHAT = "certinfo sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3 compression early_data openssl_ccs fallback heartbleed robot reneg ems"
PROTOCOLS = {"ssl_2_0": 0, "ssl_3_0": 80, "tls_1_0": 90, "tls_1_1": 95, "tls_1_2": 100, "tls_1_3": 100}


class Scan:
    """What sslyze found, and the site's Strict-Transport-Security."""

    def __init__(self, found: dict[str, Any], hsts: str) -> None:
        self.results = {name: plugin["result"] for name, plugin in found.items() if plugin["status"] == "COMPLETED"}
        self.hsts = hsts
        accepted = {name: self.results[f"{name}_cipher_suites"]["accepted_cipher_suites"] for name in PROTOCOLS}
        self.suites = {name: [entry["cipher_suite"] for entry in entries] for name, entries in accepted.items() if entries}
        self.exchanges = [entry["ephemeral_key"] for entries in accepted.values() for entry in entries]
        deployments = self.results["certificate_info"]["certificate_deployments"]
        self.certificates = [
            x509.load_pem_x509_certificate(each["received_certificate_chain"][0]["as_pem"].encode()) for each in deployments
        ]

    @property
    def names(self) -> list[str]:
        """All cipher suites."""
        return [suite["name"] for suites in self.suites.values() for suite in suites]

    def key_bits(self) -> list[int]:
        """The strength of each certificate's key and each key exchange, in bits of an RSA key (NIST SP 800-57, table 2)."""
        found = []
        for certificate in self.certificates:
            key = certificate.public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
            found.append(key.key_size if isinstance(key, rsa.RSAPublicKey) else 3072 if key.key_size == 256 else 7680)
        return found + [3072 if exchange and exchange["curve_name"] in ("X25519", "secp256r1") else 0 for exchange in self.exchanges]

    def score(self) -> float:
        protocols = [PROTOCOLS[name] for name in self.suites]
        exchange = min(100 if bits >= 4096 else 90 if bits >= 2048 else 40 for bits in self.key_bits())
        sizes = [suite["key_size"] for suites in self.suites.values() for suite in suites]
        ciphers = [100 if size >= 256 else 80 if size >= 128 else 20 if size else 0 for size in sizes]
        middle = (max(protocols) + min(protocols)) / 2, exchange, (max(ciphers) + min(ciphers)) / 2
        return 0.3 * middle[0] + 0.3 * middle[1] + 0.4 * middle[2]

    def age(self) -> int:
        return int((re.search(r"max-age=(\d+)", self.hsts) or ["", "0"])[1])


# The rule, the grade that a site gets at best if it breaks it, and how it is seen.
RULES: list[tuple[str, str, Callable[[Scan], bool]]] = [
    ("a score of 80 or more", "B", lambda scan: scan.score() >= 80),
    ("no SSL 2.0 (DROWN)", "F", lambda scan: "ssl_2_0" not in scan.suites),
    ("no SSL 3.0 (POODLE)", "B", lambda scan: "ssl_3_0" not in scan.suites),
    ("no TLS 1.0", "B", lambda scan: "tls_1_0" not in scan.suites),
    ("no TLS 1.1", "B", lambda scan: "tls_1_1" not in scan.suites),
    ("TLS 1.2 or later", "C", lambda scan: bool({"tls_1_2", "tls_1_3"} & set(scan.suites))),
    ("TLS 1.3", "A-", lambda scan: "tls_1_3" in scan.suites),
    ("forward secrecy with every suite", "B", lambda scan: bool(scan.exchanges) and all(scan.exchanges)),
    ("AEAD suites alone, so that no padding can be asked about", "B", lambda scan: all(re.search("GCM|CHACHA20", n) for n in scan.names)),
    ("no RC4", "B", lambda scan: not any("RC4" in name for name in scan.names)),
    ("no 3DES and no other cipher with blocks of 64 bits", "C", lambda scan: not any(re.search("DES|IDEA|RC2", n) for n in scan.names)),
    ("no export suite (FREAK, Logjam)", "F", lambda scan: not any("EXPORT" in name for name in scan.names)),
    ("no suite without encryption", "F", lambda scan: not any("NULL" in name for name in scan.names)),
    ("no anonymous key exchange", "F", lambda scan: not any("anon" in name.lower() for name in scan.names)),
    ("no finite-field parameters below 2048 bits", "B", lambda scan: all(key["type_name"] == "ECDH" for key in scan.exchanges)),
    ("keys of at least 2048 bits, or as strong", "B", lambda scan: min(scan.key_bits()) >= 2048),
    ("certificates for this name", "M", lambda scan: all(SHOP in names_of(each) for each in scan.certificates)),
    ("no certificate signed with MD5 or SHA-1", "F", lambda scan: {hash_of(each) for each in scan.certificates} == {"sha256"}),
    ("no compression (CRIME)", "C", lambda scan: not scan.results["tls_compression"]["supports_compression"]),
    ("no Heartbleed", "F", lambda scan: not scan.results["heartbleed"]["is_vulnerable_to_heartbleed"]),
    ("no CCS injection (CVE-2014-0224)", "F", lambda scan: not scan.results["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]),
    ("no ROBOT", "F", lambda scan: scan.results["robot"]["robot_result"].startswith("NOT_VULNERABLE")),
    ("secure renegotiation", "A-", lambda scan: scan.results["session_renegotiation"]["supports_secure_renegotiation"]),
    ("no renegotiation by clients", "F", lambda scan: not scan.results["session_renegotiation"]["client_renegotiations_success_count"]),
    ("TLS_FALLBACK_SCSV", "A", lambda scan: scan.results["tls_fallback_scsv"]["supports_fallback_scsv"]),
    ("HSTS for 180 days or more", "A", lambda scan: scan.age() >= 180 * 86400),
    # Not graded, but named by its report.
    ("no 0-RTT", "-", lambda scan: not scan.results["tls_1_3_early_data"]["supports_early_data"]),
    ("the extended master secret", "-", lambda scan: scan.results["tls_extended_master_secret"]["supports_ems_extension"]),
]


def names_of(certificate: x509.Certificate) -> list[str]:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)


def hash_of(certificate: x509.Certificate) -> str:
    algorithm = certificate.signature_hash_algorithm
    return algorithm.name if algorithm else ""


@pytest.fixture(scope="session")
def scan_of(tmp_path_factory: pytest.TempPathFactory, client_of: ClientOf) -> Callable[[Host], Scan]:
    """The scan of a host; the same one each time."""
    scans: dict[str, Scan] = {}

    def find(host: Host) -> Scan:
        name = host.backend.get_hostname()
        if name not in scans:
            client, file = client_of(host), tmp_path_factory.mktemp("scan") / "found.json"
            options = [f"--{option}" for option in WHAT.split()]
            subprocess.run(
                [*SSLYZE, *options, f"--json_out={file}", f"{client.address}:443"], capture_output=True, timeout=120, check=False
            )
            (found,) = json.loads(file.read_text(encoding="utf-8"))["server_scan_results"]
            scans[name] = Scan(found["scan_result"], client.ask("/").headers["Strict-Transport-Security"])
        return scans[name]

    return find


@pytest.fixture
def scan(host: Host, scan_of: Callable[[Host], Scan]) -> Scan:
    return scan_of(host)


@pytest.mark.parametrize(("rule", "grade", "keeps"), RULES, ids=[rule for rule, _, _ in RULES])
def test_grade(scan: Scan, rule: str, grade: str, keeps: Callable[[Scan], bool]) -> None:
    assert keeps(scan), f"{rule}: {grade} at best"


def test_both_certificates_were_judged(scan: Scan) -> None:
    assert {type(each.public_key()).__name__ for each in scan.certificates} == {"ECPublicKey", "RSAPublicKey"}


def test_scanner_finds_what_mozilla_recommends(client: Client) -> None:
    said = subprocess.run(
        [*SSLYZE, "--mozilla_config=intermediate", f"{client.address}:443"], capture_output=True, text=True, timeout=120, check=False
    ).stdout
    _, heading, verdict = said.partition("COMPLIANCE AGAINST")
    assert heading, said
    # These certificates have signed themselves.
    assert set(re.findall(r"^ +\* (\w+):", verdict, re.MULTILINE)) == {"certificate_path_validation"}, verdict
