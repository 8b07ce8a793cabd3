# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge a certificate before it is live, switch to it, and switch back when what uses it does not take it.

What is read here has to be what OpenSSL reads: a reader that is more lenient takes a file that no server can load. So the form is
judged line by line, and then OpenSSL itself has to load the files and send exactly the certificates that were read.

The roles also install this on the host, beside the programs that renew certificates. So it needs nothing but the standard library.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import ipaddress
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

# A chain has some thousand bytes.
LIMIT = 1 << 20
CHAIN, KEY = "fullchain.pem", "privkey.pem"
# asgi_nginx looks here for the time of the last reload.
RELOADED = Path("/run/asgi-nginx-reloaded")


class CertificateError(Exception):
    """A certificate that must not be live, or one that could not be made so. The message says why."""


# Reading


def read(path: str | Path) -> bytes:
    """Return what a file has. Raises CertificateError for what is no file, or too large for a certificate."""
    try:
        # A FIFO without a writer would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise CertificateError(f"{path} is not a regular file")
        with open(descriptor, "rb") as stream:
            content = stream.read(LIMIT + 1)
    except OSError as error:
        raise CertificateError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > LIMIT:
        raise CertificateError(f"{path} has more than {LIMIT} bytes, which no certificate or key has")
    return content


_MARKER = re.compile(rb"-----(BEGIN|END) ([A-Z0-9][A-Z0-9 #]*)-----")
# What somebody may have meant as one. OpenSSL passes over a line that does not begin with the very text.
_LIKE_A_MARKER = re.compile(rb"-\s*(BEGIN|END)\b", re.I)


def blocks(content: bytes) -> list[tuple[str, bytes]]:
    """Return the labels and the lines of the PEM blocks. Raises CertificateError where OpenSSL would stop, or pass over one."""
    if b"\0" in content:
        # DER, of which PKCS#12 is made too.
        if content[:1] == b"\x30":
            return []
        raise CertificateError("it has NUL bytes, so it is not PEM, or is written in UTF-16; save it as plain ASCII text")
    found: list[tuple[str, bytes]] = []
    inside, begun, lines = "", 0, []
    for number, line in enumerate(content.split(b"\n"), 1):
        marker = _MARKER.fullmatch(line.rstrip())
        if not marker:
            if _LIKE_A_MARKER.search(line):
                raise CertificateError(
                    f"line {number} has a BEGIN or END that does not stand on a line of its own, as '-----BEGIN CERTIFICATE-----' and no"
                    " other character does. A line break is missing before or after it, or a byte order mark or a blank stands in front"
                )
            if inside:
                lines.append(line.strip())
            continue
        kind, label = marker[1], marker[2].decode()
        if (kind == b"BEGIN") == bool(inside) or (kind == b"END" and label != inside):
            raise CertificateError(
                f"line {number} is '{line.strip().decode()}', but {f'line {begun} began {inside}' if inside else 'nothing had begun'}"
            )
        if kind == b"END":
            found.append((inside, b"\n".join(lines)))
            inside, lines = "", []
        else:
            inside, begun = label, number
    if inside:
        raise CertificateError(f"it ends within the block that line {begun} began: {inside}")
    return found


def certificates(content: bytes) -> list[Certificate]:
    """Return the certificates of a chain. Raises CertificateError, whose message continues `the chain ...`."""
    if len(content) > LIMIT:
        raise CertificateError(f"has more than {LIMIT} bytes, which no chain has")
    try:
        found = blocks(content)
    except CertificateError as error:
        raise CertificateError(f"has a form that OpenSSL does not read as it was meant: {error}") from None
    # nginx passes over parameters, as for `ssl_dhparam`.
    labels = [label for label, _ in found if label != "DH PARAMETERS"]
    if not labels or set(labels) != {"CERTIFICATE"}:
        others = sorted(set(labels) - {"CERTIFICATE"})
        raise CertificateError(
            f"must be certificates in PEM form and nothing else: the server's own first, then its intermediates. It has "
            f"{' and '.join(others) if others else 'no certificate in PEM form'}. A private key belongs into a file of its own; "
            "a DER file becomes PEM with 'openssl x509 -inform der', a PKCS#7 file with 'openssl pkcs7 -print_certs', a PKCS#12 file with "
            "'openssl pkcs12 -nokeys', a TRUSTED CERTIFICATE with 'openssl x509'"
        )
    chain = []
    for number, lines in enumerate((lines for label, lines in found if label == "CERTIFICATE"), 1):
        try:
            chain.append(Certificate.of(base64.b64decode(lines.replace(b"\n", b""), validate=True)))
        except (ValueError, IndexError, UnicodeDecodeError):
            raise CertificateError(
                f"has a PEM block that is not a readable certificate, the one with number {number}. Get the file once more from where it "
                "was issued; 'openssl x509 -noout -text -in FILE' must be able to read it"
            ) from None
    return chain


def check_key(content: bytes) -> None:
    """Raise CertificateError, whose message continues `the key ...`, for what cannot be one private key without a passphrase."""
    if len(content) > LIMIT:
        raise CertificateError(f"has more than {LIMIT} bytes, which no key has")
    try:
        found = blocks(content)
    except CertificateError as error:
        raise CertificateError(f"has a form that OpenSSL does not read as it was meant: {error}") from None
    labels = [label for label, _ in found if label not in ("EC PARAMETERS", "DH PARAMETERS")]
    if any("ENCRYPTED" in label for label in labels) or any(b"ENCRYPTED" in lines for _, lines in found):
        raise CertificateError(
            "has a passphrase, and nothing that starts at boot could ask for it. Take it off with 'openssl pkey -in FILE -out NEW', and "
            "protect the new file with 'ansible-vault encrypt'"
        )
    if labels not in (["PRIVATE KEY"], ["RSA PRIVATE KEY"], ["EC PRIVATE KEY"]):
        raise CertificateError(
            f"is not a private key in PEM form and nothing else; it has {', '.join(labels) or 'no PEM block'}. It would start with "
            "'-----BEGIN PRIVATE KEY-----' (or RSA or EC PRIVATE KEY); a DER file becomes PEM with 'openssl pkey -inform der', a PKCS#12 "
            "file with 'openssl pkcs12 -nocerts -noenc'"
        )


def read_or_nothing(path: Path) -> bytes:
    """Return what a file has, nothing where it cannot be read."""
    try:
        return read(path)
    except CertificateError:
        return b""


# DER, as far as it is needed


def _element(der: bytes, at: int = 0) -> tuple[int, bytes, int]:
    """Return tag and content of what begins there, and where it ends."""
    tag, length, begin = der[at], der[at + 1], at + 2
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise ValueError("length")
        length, begin = int.from_bytes(der[begin : begin + size], "big"), begin + size
    end = begin + length
    if end > len(der):
        raise ValueError("it is cut off")
    return tag, der[begin:end], end


def _elements(der: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(der):
        tag, content, at = _element(der, at)
        found.append((tag, content))
    return found


def _time(element: tuple[int, bytes]) -> datetime:
    text = element[1].decode("ascii")
    if element[0] == 0x17:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


_CURVES = {"2a8648ce3d030107": "P-256", "2b81040022": "P-384", "2b81040023": "P-521"}
_KEYS = {"2a864886f70d010101": "RSA", "2a8648ce3d0201": "EC", "2b6570": "Ed25519", "2b6571": "Ed448"}
_WEAK_SIGNATURES = {
    "2a864886f70d010102": "MD2",
    "2a864886f70d010103": "MD4",
    "2a864886f70d010104": "MD5",
    "2a864886f70d010105": "SHA-1",
    "2a8648ce3d0401": "SHA-1",
    "2a8648ce380403": "SHA-1",
}


@dataclass(frozen=True)
class Certificate:
    """What a certificate says."""

    der: bytes
    subject: bytes
    issuer: bytes
    begin: datetime
    end: datetime
    # What is wrong with its key or its signature, or nothing.
    weak_key: str
    weak_signature: str
    # As 'dns:shop.example' and 'ip:192.0.2.7'.
    names: tuple[str, ...]
    authority: bool
    must_staple: bool
    key_id: bytes
    issuer_key_id: bytes

    @classmethod
    def of(cls, der: bytes) -> Certificate:
        """Read one. Raises ValueError or IndexError."""
        tag, content, end = _element(der)
        if tag != 0x30 or end != len(der):
            raise ValueError("it is no certificate")
        body = _elements(_elements(content)[0][1])
        if body[0][0] == 0xA0:
            body = body[1:]
        _, signature, issuer, validity, subject, key = body[:6]
        begin, end_of_life = _elements(validity[1])
        extensions = cls._extensions(next((content for tag, content in body[6:] if tag == 0xA3), b""))
        constraints = _elements(_element(extensions["551d13"])[1]) if "551d13" in extensions else []
        issuer_ids = dict(_elements(_element(extensions["551d23"])[1])) if "551d23" in extensions else {}
        return cls(
            der=der,
            subject=subject[1],
            issuer=issuer[1],
            begin=_time(begin),
            end=_time(end_of_life),
            weak_key=_weakness(key[1]),
            weak_signature=_WEAK_SIGNATURES.get(_elements(signature[1])[0][1].hex(), ""),
            names=_names(extensions.get("551d11", b"\x30\x00")),
            authority=any(tag == 0x01 and content != b"\0" for tag, content in constraints),
            must_staple="2b06010505070118" in extensions,
            key_id=_element(extensions["551d0e"])[1] if "551d0e" in extensions else b"",
            issuer_key_id=issuer_ids.get(0x80, b""),
        )

    @staticmethod
    def _extensions(content: bytes) -> dict[str, bytes]:
        found = {}
        for _, extension in _elements(_element(content)[1]) if content else []:
            parts = _elements(extension)
            found[parts[0][1].hex()] = parts[-1][1]
        return found

    @property
    def own_issuer(self) -> bool:
        return self.subject == self.issuer

    def name(self, which: bytes | None = None) -> str:
        """Return the common name of the subject, for a message."""
        for _, part in _elements(self.subject if which is None else which):
            for _, pair in _elements(part):
                oid, value = _elements(pair)[:2]
                if oid[1].hex() == "550403":
                    return "".join(char if char.isprintable() else "?" for char in value[1].decode("utf-8", "replace"))
        return "(no name)"

    def issued_by(self, other: Certificate) -> bool:
        """Whether it says so. The issuer's name is not enough: an issuer may have got a new key. It may lack the key's identifier."""
        return self.issuer == other.subject and not (self.issuer_key_id and other.key_id and self.issuer_key_id != other.key_id)

    def covers(self, name: str) -> bool:
        """Whether it is for 'dns:shop.example'. A wildcard stands for exactly one label."""
        kind, _, rest = name.partition(":")
        parent = f"{kind}:*.{rest.partition('.')[2]}"
        return name in self.names or (kind == "dns" and not rest.startswith("*") and parent in self.names)


def _weakness(key: bytes) -> str:
    algorithm, bits = _elements(key)
    parts = _elements(algorithm[1])
    kind = _KEYS.get(parts[0][1].hex())
    if kind is None:
        return "of a kind that TLS clients do not know (RSA, and EC on P-256, P-384 and P-521, are known to all)"
    if kind == "RSA":
        modulus = _elements(_element(bits[1][1:])[1])[0][1].lstrip(b"\0")
        size = int.from_bytes(modulus, "big").bit_length()
        if size < 2048:
            return f"an RSA key of {size} bits, and OpenSSL serves none of fewer than 2048"
        return "" if size <= 16384 else f"an RSA key of {size} bits, and OpenSSL verifies none of more than 16384"
    if kind == "EC" and (len(parts) < 2 or parts[1][1].hex() not in _CURVES):
        return "an EC key on a curve that TLS clients do not know (P-256, P-384 and P-521 are known)"
    return ""


def _names(extension: bytes) -> tuple[str, ...]:
    found = []
    for tag, content in _elements(_element(extension)[1]):
        if tag == 0x82:
            found.append(f"dns:{content.decode('ascii', 'replace').lower()}")
        elif tag == 0x87:
            found.append(f"ip:{ipaddress.ip_address(content)}")
    return tuple(found)


def fingerprint(certificate: Certificate) -> str:
    return hashlib.sha256(certificate.der).hexdigest()


# Judging


@dataclass(frozen=True)
class Labels:
    """What the chain and the key are called in messages."""

    chain: str = "The chain"
    key: str = "The key"
    names: str = "The list of names"


@dataclass
class Judgement:
    """What is wrong with a chain and a key, and what is to be said of them though they can be used."""

    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    chain: list[Certificate] = field(default_factory=list)
    # Perhaps one of both was read before a renewal, and the other after it.
    mismatch: bool = False


def judge(
    chain: bytes,
    key: bytes,
    names: Sequence[str] = (),
    *,
    labels: Labels | None = None,
    now: datetime | None = None,
    usable_only: bool = False,
) -> Judgement:
    """Judge a chain and its key as what uses them does; `names` are those that it has to be for, as 'DNS:shop.example'.

    With `usable_only` it is enough that a server can load them.
    """
    named, found = labels or Labels(), Judgement()
    try:
        found.chain = certificates(chain)
    except CertificateError as error:
        found.problems.append(f"{named.chain} {error}.")
    try:
        check_key(key)
    except CertificateError as error:
        found.problems.append(f"{named.key} {error}.")
    if found.problems:
        return found
    if not usable_only:
        found.problems += _objections(found.chain, [name.lower() for name in names], named, now or datetime.now(UTC))
        found.warnings += _reservations(found.chain, named)
    try:
        _use(chain, key, found.chain, handshake=not usable_only and not found.problems)
    except _MismatchError:
        found.mismatch = True
        found.problems.append(
            f"{named.key} is not the key of the first certificate in {named.chain}, {found.chain[0].name()}. Provide the key that this "
            "certificate was requested with."
        )
    except _KeyError as error:
        found.problems.append(f"{named.key} {error}")
    except CertificateError as error:
        found.problems.append(f"{named.chain} {error}")
    return found


def _objections(chain: list[Certificate], names: list[str], named: Labels, now: datetime) -> list[str]:
    leaf, found = chain[0], []
    if len({certificate.der for certificate in chain}) < len(chain):
        found.append(f"{named.chain} has the same certificate twice. Put each into it once.")
    if any(not child.issued_by(parent) for child, parent in pairwise(chain)):
        found.append(
            f"{named.chain} is not in order. It has the certificates {', '.join(one.name() for one in chain)}, issued by "
            f"{', '.join(one.name(one.issuer) for one in chain)}. Put the server's own certificate first and after each one the very "
            "certificate that issued it: cat server.pem intermediate.pem"
        )
    elif leaf.authority and not leaf.own_issuer:
        found.append(
            f"{named.chain} begins with the certificate of an authority, {leaf.name()}. Put the server's own certificate first: cat "
            "server.pem intermediate.pem"
        )
    for one in chain:
        if one.weak_key:
            found.append(f"{named.chain} has a certificate ({one.name()}) whose key is {one.weak_key}. Request one for another key.")
        if one.weak_signature and not one.own_issuer:
            found.append(
                f"{named.chain} has a certificate ({one.name()}) that is signed with {one.weak_signature}, which OpenSSL and all clients"
                " refuse. Provide a chain that is signed with SHA-256 or better."
            )
    clock = f"Provide a chain that is valid (or correct the clock, which says {now:%Y%m%d%H%M%SZ})."
    if (end := min(one.end for one in chain)) <= now:
        found.append(f"{named.chain} has a certificate that expired at {end:%Y%m%d%H%M%SZ}. {clock}")
    if (begin := max(one.begin for one in chain)) > now:
        found.append(f"{named.chain} has a certificate that is not valid before {begin:%Y%m%d%H%M%SZ}. {clock}")
    if missing := [name for name in names if not leaf.covers(name)]:
        covered = ", ".join(leaf.names) or "no name at all"
        found.append(
            f"{named.names} has {', '.join(missing)}, but the certificate in {named.chain} is for {covered}. "
            "Provide one for all the names, or take the others out of the list."
        )
    return found


def _reservations(chain: list[Certificate], named: Labels) -> list[str]:
    found = []
    if chain[0].must_staple:
        found.append(
            f"{named.chain} demands an OCSP answer in each handshake (must-staple), which nothing here sends unless you have nginx do it "
            "(ssl_stapling). Some browsers will not connect. Request a certificate without it."
        )
    if chain[0].authority and chain[0].own_issuer:
        found.append(f"{named.chain} is an authority's certificate of its own (CA:TRUE). Some browsers refuse it as that of a server.")
    if len(chain) > 1 and chain[-1].own_issuer:
        found.append(f"{named.chain} ends with the root, {chain[-1].name()}. Clients have it already; leave it out.")
    return found


class _KeyError(CertificateError):
    """It is about the key."""


class _MismatchError(CertificateError):
    """They do not belong together."""


@contextlib.contextmanager
def _as_files(*contents: bytes) -> Iterator[list[str]]:
    """Lend files with these contents to OpenSSL, which takes nothing but names. They are in memory where that is possible."""
    with contextlib.ExitStack() as stack:
        if hasattr(os, "memfd_create"):
            names = []
            for content in contents:
                stream = stack.enter_context(open(os.memfd_create("asgi", os.MFD_CLOEXEC), "wb", buffering=0))
                stream.write(content)
                names.append(f"/proc/self/fd/{stream.fileno()}")
            yield names
            return
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for number, content in enumerate(contents):
            (folder / str(number)).write_bytes(content)
        yield [str(folder / str(number)) for number in range(len(contents))]


# A key of another kind finds no certificate of its kind.
_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")


# For a file without a key, or with a damaged one, there is no reason or one of these, by the release of OpenSSL.
_NO_KEY = (None, "NO_START_LINE", "UNSUPPORTED")


def _refusal_of(chain_file: str) -> str:
    """Return why OpenSSL does not take a chain, '' if it does. It is given as its own key: a chain that is taken lacks only that."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(chain_file, chain_file, password="")
    except (OSError, ValueError) as error:
        return "" if getattr(error, "reason", None) in _NO_KEY + _MISMATCH else str(error)
    return ""


def _use(chain: bytes, key: bytes, read_as: list[Certificate], handshake: bool) -> None:
    """Have OpenSSL load both, and be asked by a client that trusts the end of the chain. Raises CertificateError."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with _as_files(chain, key) as (chain_file, key_file):
        try:
            # With a password, or OpenSSL would ask whoever is at the terminal.
            server.load_cert_chain(chain_file, key_file, password="")
        except (OSError, ValueError) as error:
            if getattr(error, "reason", None) in _MISMATCH:
                raise _MismatchError from None
            # Which of both it is about, OpenSSL does not say.
            if refusal := _refusal_of(chain_file):
                raise CertificateError(f"cannot be loaded by OpenSSL: {refusal}.") from None
            raise _KeyError(f"and the chain cannot be loaded by OpenSSL, or it is not a private key: {error}.") from None
    if not handshake:
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    # X509_V_FLAG_NO_CHECK_TIME: when it is valid is judged already.
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(0x200000)
    try:
        client.load_verify_locations(cadata=read_as[-1].der)
        sent = _sent(server, client)
    except (OSError, ValueError) as error:
        said = getattr(error, "verify_message", "") or getattr(error, "reason", "") or error
        raise CertificateError(f"is refused by a client that trusts the last certificate in it: {said}.") from None
    if sent is not None and sent != [one.der for one in read_as]:
        raise CertificateError(f"has {len(read_as)} certificates, but OpenSSL sends others to clients. Write them one below the other.")


def _sent(server: ssl.SSLContext, client: ssl.SSLContext) -> list[bytes] | None:
    """Shake hands in memory; return what the server has sent, None where this Python cannot tell. Raises ssl.SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(down, up), server.wrap_bio(up, down, server_side=True)]
    todo = list(ends)
    for _ in range(10):
        for end in list(todo):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                todo.remove(end)
        if not todo:
            break
    if hasattr(ends[0], "get_unverified_chain"):
        return [bytes(one) for one in ends[0].get_unverified_chain()]
    # Before Python 3.13. DER has the number 2.
    chain = getattr(getattr(ends[0], "_sslobj", None), "get_unverified_chain", None)
    return [bytes(one.public_bytes(2)) for one in chain()] if chain else None


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=600, check=False)
    except subprocess.TimeoutExpired as error:
        raise CertificateError(f"{command[0]} took longer than {error.timeout:.0f} seconds and was ended") from error


def nginx() -> str:
    """Return where nginx is, or nothing."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin") or ""


_ALONE = """daemon off;
master_process off;
pid {folder}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    server {{
        listen unix:{folder}/socket ssl;
        ssl_certificate {folder}/chain;
        ssl_certificate_key {folder}/key;
    }}
}}
"""


def nginx_objects(chain: bytes, key: bytes) -> str:
    """Return what nginx has against a chain and a key, alone in a configuration that nobody else sees; nothing where it has not."""
    program = nginx()
    if not program:
        return ""
    # In memory, where that is possible. The key is there for root alone.
    with tempfile.TemporaryDirectory(prefix="asgi-", dir="/run" if os.access("/run", os.W_OK) else None) as folder:
        for name, content in (("chain", chain), ("key", key), ("conf", _ALONE.format(folder=folder).encode())):
            with open(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                stream.write(content)
        done = _run(program, "-t", "-e", "stderr", "-p", folder, "-c", f"{folder}/conf")
        said = done.stderr.strip()
        # Whatever else it stumbles over is not about these two.
        return said if done.returncode != 0 and re.search("certificate|SSL_CTX|PEM", said.replace(folder, "")) else ""


def nginx_refuses() -> str:
    """Return what `nginx -t` has against the configuration; nothing if all is well, or if there is no nginx."""
    program = nginx()
    if not program:
        return ""
    done = _run(program, "-t")
    return "" if done.returncode == 0 else done.stderr.strip()


# Switching


@dataclass(frozen=True)
class Place:
    """The directory of one name.

    GENERATION/ has a chain and its key, which are never changed once they are live. `live` is the one pointer: renaming it changes both
    together. `reload-due` is there from a switch on until everything that uses the certificate has been reloaded, and names what was
    live before.
    """

    root: Path
    name: str

    @property
    def path(self) -> Path:
        return self.root / self.name

    @property
    def live(self) -> str:
        """The live generation, or nothing."""
        link = self.path / "live"
        return os.readlink(link) if link.is_symlink() else ""

    @property
    def reload_due(self) -> Path:
        return self.path / "reload-due"

    @property
    def due(self) -> bool:
        return self.reload_due.exists()

    def is_about(self, said: str) -> bool:
        """Whether it is this certificate, or the site of this name, that nginx speaks of."""
        return f"{self.path}/" in said or f"/asgi-{self.name}.conf" in said

    def linked(self) -> bool:
        """Whether the two names that others use lead to what is live."""
        return all((self.path / name).is_symlink() and os.readlink(self.path / name) == f"live/{name}" for name in (CHAIN, KEY))

    def point(self, generation: str) -> None:
        """Make a generation the live one; '' is none."""
        if not generation:
            for name in (CHAIN, KEY, "live"):
                (self.path / name).unlink(missing_ok=True)
            return
        _link(self.path / "live", generation)
        for name in (CHAIN, KEY):
            if not self.linked():
                _link(self.path / name, f"live/{name}")

    def switch(self, generation: str) -> str:
        """Make a generation live, and return the one to go back to. Raises CertificateError where nginx takes that and not the new one.

        Where nginx refuses its configuration with either, or for something else, the switch stays.
        """
        # What a run that was killed has left live is not proved.
        before = self._named_as_due() or self.live
        # First, so that a run that is killed is remembered.
        write(self.reload_due, before.encode(), 0o644)
        self.point(generation)
        refusal = nginx_refuses()
        if refusal and self.is_about(refusal) and before != generation:
            self.point(before)
            if not (still := nginx_refuses()) or not self.is_about(still):
                self.reload_due.unlink(missing_ok=True)
                raise CertificateError(
                    f"nginx does not accept it, so {'the old one is live again' if before else 'it is not live'}:\n{refusal}"
                )
            self.point(generation)
        return "" if before == generation else before

    def _named_as_due(self) -> str:
        """What was live before the switch that is not proved yet, if it is still there."""
        with contextlib.suppress(OSError):
            named = self.reload_due.read_text(encoding="ascii", errors="replace").strip()
            if named and "/" not in named and (self.path / named).is_dir():
                return named
        return ""

    def strays(self) -> list[Path]:
        """Return the generations that are not live."""
        live = self.live
        return [path for path in self.path.iterdir() if path.is_dir() and not path.is_symlink() and path.name != live]

    def proved(self) -> None:
        """Remove the generations that are not live. Old keys do not stay on the host; what serves them has them in memory."""
        for other in self.strays():
            shutil.rmtree(other)
        self.reload_due.unlink(missing_ok=True)


def _link(link: Path, target: str) -> None:
    """Make `link` point to `target` in one rename."""
    temporary = link.with_name(f".asgi-{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync(link.parent)


def sync(path: Path) -> None:
    """Have a file, or what was made and renamed in a folder, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path: Path, content: bytes, mode: int) -> None:
    """Write a file, so that others see all of it or none, also after a power cut."""
    temporary = path.with_name(f".asgi-{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


# Services


def workers() -> set[str]:
    """Return the processes of nginx's that accept connections: one that has been told to leave says so in its title.

    systemd knows the titles. A process in a sandbox, as that of the timer, does not see those of another user.
    """
    shown = _run("systemctl", "status", "--lines=0", "--full", "--no-pager", "nginx").stdout
    return set(re.findall(r"(\d+) \"?nginx: worker process\"?\s*$", shown, re.MULTILINE))


def reload_nginx() -> None:
    """Reload, and see that new workers alone accept. Raises CertificateError: `systemctl reload` is over before that."""
    if refusal := nginx_refuses():
        raise CertificateError(f"nginx is not reloaded, because it refuses its configuration:\n{refusal}")
    before, started = workers(), time.time()
    done = _run("systemctl", "reload", "nginx")
    deadline = time.monotonic() + 15
    while done.returncode == 0 and time.monotonic() < deadline:
        now = workers()
        if now and not now & before:
            RELOADED.touch()
            os.utime(RELOADED, (started, started))
            return
        time.sleep(0.1)
    raise CertificateError(f"nginx did not take its configuration when it was reloaded; see its error log. {done.stderr.strip()}".strip())


def reload_service(service: str) -> None:
    if _run("systemctl", "is-active", "--quiet", "--", service).returncode != 0:
        return
    if service in ("nginx", "nginx.service"):
        reload_nginx()
    elif (done := _run("systemctl", "reload", "--", service)).returncode != 0:
        raise CertificateError(f"{service} could not be reloaded: {done.stderr.strip()}")


def reload_services(services: Iterable[str]) -> list[str]:
    """Reload all that are running, also if one of them cannot be; returns what went wrong."""
    wrong = []
    for service in services:
        try:
            reload_service(service)
        except (CertificateError, OSError) as error:
            wrong.append(str(error))
    return wrong


# What nginx serves

_WORD = re.compile(r"""#[^\n]*|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[;{}]|(?:\\.|\$\{|[^\s;{}"'\\])+""")


def sites(configuration: str, chain: str) -> list[tuple[str, int, str]]:
    """Return address, port and name of the sites in what `nginx -T` prints that serve this very chain over TLS."""
    found: list[tuple[str, int, str]] = []
    blocks_open: list[list[list[str]]] = [[]]
    kinds = [""]
    words: list[str] = []
    for word in _WORD.findall(configuration):
        if word.startswith("#"):
            continue
        if word == "{":
            blocks_open.append([])
            kinds.append(words[0] if words else "")
            words = []
        elif word == ";":
            blocks_open[-1].append(words)
            words = []
        elif word == "}" and len(kinds) > 1:
            directives = blocks_open.pop()
            if kinds.pop() == "server" and ["ssl_certificate", chain] in directives:
                name = next((each for line in directives if line[:1] == ["server_name"] for each in line[1:] if each[:1] not in "~_"), "")
                for line in directives:
                    if line[:1] == ["listen"] and "ssl" in line and not {"quic", "proxy_protocol"} & set(line):
                        host, _, port = line[1].rpartition(":")
                        if port.isdigit() and host != "unix":
                            local = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "::1"}  # noqa: S104
                            found.append((local.get(host, host.strip("[]")), int(port), name.replace("*", "a").lstrip(".")))
        else:
            words.append(word.strip("\"'"))
    return found


def shown(address: str, port: int, name: str) -> bytes:
    """Return the certificate that a client is shown, nothing where it is shown none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        with socket.create_connection((address, port), timeout=3) as plain, context.wrap_socket(plain, server_hostname=name or None) as tls:
            return tls.getpeercert(binary_form=True) or b""
    except (OSError, ValueError):
        return b""


def still_shown(place: Place, old: bytes) -> str:
    """Return where a running nginx shows the certificate that this place had before; nothing where it does not."""
    program = nginx()
    if not program or not old:
        return ""
    for site in sites(_run(program, "-T").stdout, str(place.path / CHAIN)):
        if shown(*site) == old:
            return f"{site[0]}:{site[1]} ({site[2] or 'no name'})"
    return ""


def leaf(folder: Path) -> bytes:
    """Return the server's certificate in a folder, nothing where there is none."""
    try:
        return certificates(read(folder / CHAIN))[0].der
    except CertificateError:
        return b""


def usable(folder: Path) -> bool:
    """Whether OpenSSL and nginx can load what is in a folder."""
    try:
        chain, key = read(folder / CHAIN), read(folder / KEY)
    except CertificateError:
        return False
    return not judge(chain, key, usable_only=True).problems and not nginx_objects(chain, key)


def put_into_service(place: Place, generation: str, services: Sequence[str]) -> None:
    """Switch, reload what uses it, see that it is served, and remove what was before; or switch back and raise CertificateError."""
    try:
        before = place.switch(generation)
    except (CertificateError, OSError):
        if place.live != generation:
            shutil.rmtree(place.path / generation, ignore_errors=True)
        raise
    old = leaf(place.path / before) if before else b""
    wrong = reload_services(services)
    if not wrong and old != leaf(place.path / generation) and (where := still_shown(place, old)):
        wrong = [f"{where} still shows the old certificate after nginx was reloaded"]
    if not wrong:
        place.proved()
        return
    said = "\n".join(wrong)
    if not before or not usable(place.path / before):
        raise CertificateError(f"it is live, but not yet in service, and the next run tries again:\n{said}")
    place.point(before)
    if again := "\n".join(reload_services(services)):
        raise CertificateError(
            f"it could not be brought into service:\n{said}\nThe old one is live again, but could not be reloaded either:\n{again}"
        )
    shutil.rmtree(place.path / generation)
    place.reload_due.unlink(missing_ok=True)
    raise CertificateError(f"it could not be brought into service, so the old one is live again and was reloaded:\n{said}")


def store(place: Place, chain: bytes, key: bytes) -> str:
    """Write a new generation, and return its name."""
    generation = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    for folder in (place.root, place.path, place.path / generation):
        if not folder.exists():
            folder.mkdir()
            # Whatever the umask is.
            folder.chmod(0o755)
    try:
        write(place.path / generation / KEY, key, 0o600)
        write(place.path / generation / CHAIN, chain, 0o644)
        sync(place.path)
    except OSError:
        shutil.rmtree(place.path / generation, ignore_errors=True)
        raise
    return generation


def is_live(place: Place, chain: bytes, key: bytes) -> bool:
    """Whether this is what is live, and in files of its own that nobody else may read or change."""
    folder = place.path / "live"
    try:
        if not place.linked() or read(folder / CHAIN) != chain or read(folder / KEY) != key:
            return False
        for name, forbidden in ((CHAIN, 0o022), (KEY, 0o077)):
            status = (folder / name).lstat()
            if not stat.S_ISREG(status.st_mode) or status.st_mode & forbidden or status.st_uid != os.geteuid():
                return False
    except (CertificateError, OSError):
        return False
    return True
