#!/usr/bin/env python3
"""Makes the certificates that the scenario provides to the role, good ones and bad ones, in the directory that is named.

They come from a root and an intermediate authority, as bought ones do. A directory that has them already is left alone, so
that a second run of the playbook provides the same.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

NOW = datetime.now(UTC).replace(microsecond=0)


class Party:
    """A key and its certificate."""

    def __init__(self, name: str, issuer: Party | None, san: list[str] | None = None, days: tuple[int, int] = (-1, 200)) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name if issuer else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + timedelta(days=days[0]))
            .not_valid_after(NOW + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=san is None, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer or self).key.public_key()), critical=False)
        )
        if san is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in san]), critical=False)
        self.certificate = builder.sign((issuer or self).key, hashes.SHA256())

    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, passphrase: bytes | None = None) -> str:
        encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def make(directory: Path) -> None:
    root = Party("Test Root", None)
    intermediate = Party("Test Intermediate", root)
    renamed = Party("Test Intermediate", root)
    good = Party("given.example.org", intermediate, ["given.example.org", "*.given.example.org"])
    renewed = Party("given.example.org", intermediate, ["given.example.org", "*.given.example.org"])
    expired = Party("given.example.org", intermediate, ["given.example.org"], days=(-30, -2))
    future = Party("given.example.org", intermediate, ["given.example.org"], days=(2, 30))

    files = {
        "root.pem": root.pem(),
        "good.pem": good.pem() + intermediate.pem(),
        "good-key.pem": good.key_pem(),
        "renewed.pem": renewed.pem() + intermediate.pem(),
        "renewed-key.pem": renewed.key_pem(),
        "encrypted-key.pem": good.key_pem(b"passphrase"),
        "broken-key.pem": good.key_pem().replace("M", "N"),
        "reversed.pem": intermediate.pem() + good.pem(),
        "gap.pem": good.pem() + root.pem(),
        "namesake.pem": good.pem() + renamed.pem(),
        "with-key.pem": good.pem() + good.key_pem(),
        "broken.pem": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "expired.pem": expired.pem() + intermediate.pem(),
        "expired-key.pem": expired.key_pem(),
        "future.pem": future.pem() + intermediate.pem(),
        "future-key.pem": future.key_pem(),
    }
    directory.mkdir(mode=0o700, parents=True)
    for name, text in files.items():
        (directory / name).write_text(text)
    (directory / "binary.pem").write_bytes(good.certificate.public_bytes(Encoding.DER))


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if not target.exists():
        make(target)
        print("made")
