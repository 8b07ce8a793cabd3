#!/usr/bin/env python3
"""Makes the certificates that the scenario provides to the role, good ones and bad ones, in the directory that is named.

They come from a root and an intermediate authority, as bought ones do. A directory that has them already is left alone, so
that a second run of the playbook provides the same.
"""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    pkcs7,
    pkcs12,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime.now(UTC).replace(microsecond=0)


class Party:
    """A key and its certificate."""

    def __init__(
        self,
        name: str,
        issuer: Party | None,
        san: list[str] | None = None,
        days: tuple[int, int] = (-1, 200),
        *,
        key: Any = None,
        ca: bool | None = None,
        extensions: tuple[x509.ExtensionType, ...] = (),
        padding: Any = None,
    ) -> None:
        self.key: Any = key or ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.name)
            .issuer_name(issuer.name if issuer else self.name)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW + timedelta(days=days[0]))
            .not_valid_after(NOW + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=san is None if ca is None else ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key((issuer or self).key.public_key()), critical=False)
        )
        if san is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in san]), critical=False)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=False)
        signing = (issuer or self).key
        edwards = isinstance(signing, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
        self.certificate = builder.sign(signing, None if edwards else hashes.SHA256(), **({"rsa_padding": padding} if padding else {}))

    def pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    def key_pem(self, passphrase: bytes | None = None) -> str:
        encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


SHORT = 1024
SAN = ["given.example.org", "*.given.example.org"]


@dataclass(frozen=True)
class Case:
    """A chain and a key, and words of the message that refuses them; none for what is fine."""

    chain: bytes
    key: bytes
    said: str = ""
    # What a variable cannot hold.
    binary: bool = False


@cache
def cases() -> dict[str, Case]:
    """Bad and unusual chains and keys, as people and programs make them."""
    root = Party("Test Root", None)
    middle = Party("Test Intermediate", root)
    good = Party("given.example.org", middle, SAN)
    other = Party("given.example.org", middle, SAN)
    leaf, inter, end = good.pem().encode(), middle.pem().encode(), root.pem().encode()
    chain, key = leaf + inter, good.key_pem().encode()
    der = good.certificate.public_bytes(Encoding.DER)
    old_key = good.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    locked_key = good.key_pem(b"passphrase").encode()
    legacy = good.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"passphrase"))
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    groups = b"-----BEGIN DH PARAMETERS-----\nMAYCAQcCAQI=\n-----END DH PARAMETERS-----\n"
    certificates = [good.certificate, middle.certificate]
    store = pkcs12.serialize_key_and_certificates(b"x", good.key, good.certificate, [middle.certificate], NoEncryption())

    def party(**how: Any) -> Case:
        issuer, said, names = how.pop("issuer", middle), how.pop("said", ""), how.pop("san", SAN)
        made = Party("given.example.org", issuer, names, **how)
        return Case(made.pem().encode() + issuer.pem().encode(), made.key_pem().encode(), said)

    def bad_signature() -> bytes:
        changed = bytearray(der)
        changed[-1] ^= 1
        return x509.load_der_x509_certificate(bytes(changed)).public_bytes(Encoding.PEM)

    def signed_with(algorithm: int, one: Party) -> bytes:
        """What says that it is signed with another algorithm of RSA's; the library makes no such signatures any more."""
        rsa_with = bytes.fromhex("2a864886f70d0101")
        changed = one.certificate.public_bytes(Encoding.DER).replace(rsa_with + b"\x0b", rsa_with + bytes([algorithm]))
        return ssl.DER_cert_to_PEM_cert(changed).encode()

    short = Party("Short Intermediate", root, key=rsa.generate_private_key(65537, SHORT))
    rsa_root = Party("RSA Root", None, key=rsa.generate_private_key(65537, 2048))
    rsa_middle = Party("RSA Intermediate", rsa_root, key=rsa.generate_private_key(65537, 2048))
    by_rsa = Party("given.example.org", rsa_middle, SAN)
    served = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    form = "form that OpenSSL does not read"
    nothing_else = "certificates in PEM form and nothing else"
    no_key = "not a private key in PEM form"
    return {
        # The form.
        "no line break between two blocks": Case(leaf.rstrip() + inter, key, "line break is missing"),
        "no line break, text instead": Case(leaf + b"text " + inter, key, form),
        "byte order mark": Case(b"\xef\xbb\xbf" + chain, key, "byte order mark"),
        "byte order mark in the key": Case(chain, b"\xef\xbb\xbf" + key, "byte order mark"),
        "byte order mark between two": Case(leaf + b"\xef\xbb\xbf" + inter, key, "byte order mark"),
        "four dashes": Case(leaf + inter.replace(b"-----BEGIN", b"----BEGIN"), key, form),
        "six dashes": Case(leaf + inter.replace(b"-----BEGIN", b"------BEGIN"), key, form),
        "blank before the marker": Case(leaf + b" " + inter, key, form),
        "end without a begin": Case(leaf + b"-----END CERTIFICATE-----\n" + inter, key, "nothing had begun"),
        "cut off": Case(chain[:-60], key, "ends within the block"),
        "key that is cut off": Case(chain, key[:100], "ends within the block"),
        "begun twice": Case(b"-----BEGIN CERTIFICATE-----\n" + chain, key, "began CERTIFICATE"),
        "indented": Case(b"".join(b"  " + line for line in chain.splitlines(True)), key, form),
        "empty chain": Case(b"", key, nothing_else),
        "empty key": Case(chain, b"", no_key),
        "empty block": Case(b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n" + inter, key, "not a readable certificate"),
        "no base64": Case(leaf.replace(b"M", b"*") + inter, key, "not a readable certificate"),
        "garbage in the second": Case(leaf + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", key, "number 2"),
        "huge chain": Case(chain + b"#" * (1 << 20), key, "has more than"),
        "huge key": Case(chain, key + b"\n" * (1 << 20), "has more than"),
        "NUL bytes": Case(leaf + b"\0" + inter, key, "NUL bytes", binary=True),
        "NUL bytes in the key": Case(chain, b"\0" + key, "NUL bytes", binary=True),
        "UTF-16": Case(chain.decode().encode("utf-16"), key, "UTF-16", binary=True),
        "DER": Case(der, key, nothing_else, binary=True),
        "DER key": Case(chain, good.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), no_key, binary=True),
        "PKCS#12": Case(store, key, nothing_else, binary=True),
        "PKCS#7": Case(pkcs7.serialize_certificates(certificates, Encoding.PEM), key, "PKCS7"),
        "trusted certificate": Case(leaf.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE") + inter, key, "TRUSTED CERTIFICATE"),
        "request": Case(leaf.replace(b" CERTIFICATE", b" CERTIFICATE REQUEST"), key, "CERTIFICATE REQUEST"),
        "key in the chain": Case(chain + key, key, nothing_else),
        "chain in the key": Case(chain, key + chain, no_key),
        "chain and key swapped": Case(key, chain, nothing_else),
        "two keys": Case(chain, key + key, no_key),
        "key of another at first": Case(chain, other.key_pem().encode() + key, no_key),
        "public key": Case(chain, good.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), no_key),
        "key with a passphrase": Case(chain, locked_key, "has a passphrase"),
        "old key with a passphrase": Case(chain, legacy, "has a passphrase"),
        "key with another label": Case(chain, key.replace(b"PRIVATE", b"RSA PRIVATE"), "it is not a private key"),
        "broken key": Case(chain, key.replace(b"M", b"N"), "it is not a private key"),
        # What it says.
        "key of another": Case(chain, other.key_pem().encode(), "is not the key of"),
        "key of another kind": Case(
            chain, Party("x", None, key=rsa.generate_private_key(65537, 2048)).key_pem().encode(), "is not the key of"
        ),
        "reversed": Case(inter + leaf, key, "is not in order"),
        "only the intermediate": Case(inter, middle.key_pem().encode(), "certificate of an authority"),
        "gap": Case(leaf + end, key, "is not in order"),
        "root in the middle": Case(leaf + end + inter, key, "is not in order"),
        "leaf twice": Case(leaf + chain, key, "the same certificate twice"),
        "root twice": Case(chain + end + end, key, "the same certificate twice"),
        "namesake of the issuer": Case(leaf + Party("Test Intermediate", root).pem().encode(), key, "is not in order"),
        "signature that is wrong": Case(bad_signature() + inter, key, "refused by a client"),
        "leaf that is an authority": party(ca=True, said="certificate of an authority"),
        "issuer that is no authority": party(issuer=Party("Not An Authority", root, ca=False), said="refused by a client"),
        "expired": party(days=(-30, -2), said="expired at"),
        "expired intermediate": party(issuer=Party("Old Intermediate", root, days=(-30, -2)), said="expired at"),
        "not yet valid": party(days=(2, 30), said="not valid before"),
        "other names": party(san=["other.example.org"], said="but the certificate in"),
        "no names": party(san=[], said="no name at all"),
        "wildcard of two levels": party(san=["*.org"], said="but the certificate in"),
        "RSA of 1024 bits": party(key=rsa.generate_private_key(65537, SHORT), said="1024 bits"),
        "issuer with RSA of 1024 bits": party(issuer=short, said="1024 bits"),
        "signed with SHA-1": Case(signed_with(5, by_rsa) + rsa_middle.pem().encode(), by_rsa.key_pem().encode(), "signed with SHA-1"),
        "signed with MD5": Case(signed_with(4, by_rsa) + rsa_middle.pem().encode(), by_rsa.key_pem().encode(), "signed with MD5"),
        "issuer signed with SHA-1": Case(
            by_rsa.pem().encode() + signed_with(5, rsa_middle), by_rsa.key_pem().encode(), "signed with SHA-1"
        ),
        "secp256k1": party(key=ec.generate_private_key(ec.SECP256K1()), said="do not know"),
        "brainpool": party(key=ec.generate_private_key(ec.BrainpoolP256R1()), said="do not know"),
        "P-192": party(key=ec.generate_private_key(ec.SECP192R1()), said="do not know"),
        "DSA": party(key=dsa.generate_private_key(2048), said="do not know"),
        "only for clients": party(extensions=(served,), said="refused by a client"),
        # These are unusual, and fine.
        "fine": Case(chain, key),
        "fine: CRLF": Case(chain.replace(b"\n", b"\r\n"), key.replace(b"\n", b"\r\n")),
        "fine: no final line break": Case(chain.rstrip(), key.rstrip()),
        "fine: text between": Case(b"subject=shop\n" + leaf + b"\n----- Gr\xc3\xbc\xc3\x9fe -----\n\n" + inter, key),
        "fine: blanks at the ends of lines": Case(chain.replace(b"\n", b"  \n"), key),
        "fine: end of a DOS file": Case(chain + b"\x1a", key + b"\x1a"),
        "fine: with the root": Case(chain + end, key),
        "fine: without the intermediate": Case(leaf, key),
        "fine: old form of key": Case(chain, old_key),
        "fine: parameters before the key": Case(chain, parameters + old_key),
        "fine: DH parameters": Case(groups + chain, key),
        "fine: RSA": party(key=rsa.generate_private_key(65537, 2048)),
        "fine: P-384": party(key=ec.generate_private_key(ec.SECP384R1())),
        "fine: P-521": party(key=ec.generate_private_key(ec.SECP521R1())),
        "fine: Ed25519": party(key=ed25519.Ed25519PrivateKey.generate()),
        "fine: Ed448": party(key=ed448.Ed448PrivateKey.generate()),
        "fine: must-staple": party(extensions=(x509.TLSFeature([x509.TLSFeatureType.status_request]),)),
        "fine: signed with RSA-PSS": party(
            issuer=rsa_middle,
            padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32),
        ),
        "fine: signs itself": (lambda one: Case(one.pem().encode(), one.key_pem().encode()))(Party("given.example.org", None, SAN)),
        "fine: authority of its own": (lambda one: Case(one.pem().encode(), one.key_pem().encode()))(
            Party("given.example.org", None, SAN, ca=True)
        ),
    }


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
        "joined.pem": good.pem().rstrip() + intermediate.pem(),
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
