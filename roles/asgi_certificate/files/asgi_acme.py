# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gets certificates by ACME and renews them, for the role asgi_certificate, which writes what is wanted into ACME/NAME.json.

    asgi_acme.py status JSON    say what the role has to do; changes nothing
    asgi_acme.py obtain NAME    get a certificate if one is needed; the role reloads what uses it
    asgi_acme.py renew          what the timer's service runs: get what is needed for every name, and reload what uses it

`obtain` leaves its work to that service. What its sandbox forbids, to a hook for example, is found out at once and not in two months.

certbot speaks ACME. This program decides when, answers challenges where nothing else does, has certificate.py judge what certbot
brings, and puts key and chain into service in one rename, or leaves everything as it is. Of certificates that another tool keeps up to
date on this host it takes over what has changed, if it can be used.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path("/etc/asgi-certificates")
ACME = ROOT / "acme"
WEBROOT = Path("/var/lib/asgi-acme")
LOGS = Path("/var/log/asgi-acme")
CHALLENGES = ".well-known/acme-challenge"
LOCK = Path("/run/asgi-acme.lock")
# What the service is asked to do out of turn, NAME.wanted, and its answers, NAME.answer. certbot works here too.
REQUESTS = Path("/run/asgi-acme")
SERVICE = "asgi-acme.service"
# The name comes before every other site's, so that nginx takes this one for the names in it.
STAND_IN = Path("/etc/nginx/conf.d/00-asgi-acme.conf")
HTTP_PORT = 80
# What certbot says about an account that the server has deleted, deactivated or never known.
LOST_ACCOUNT = re.compile(r"accountDoesNotExist|account (?:is not valid|has been deactivated|.*deactivated)|No such account", re.I)


class AcmeError(Exception):
    """No certificate, and why. What was in service still is."""


# certificate.py and locks.py, which lie beside this program. `status` does without: it comes before there is anything on the host.
certificate: Any = None
locks: Any = None


def load_library(folder: Path, name: str) -> ModuleType:
    """Return a library that lies beside this program. By its place, since an isolated interpreter looks into no folder of a program's."""
    path = folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"asgi_acme_{name}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise AcmeError(f"{path} is missing; run the role asgi_certificate")
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look themselves up there.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class Config:
    """What is wanted for one name, as the role writes it."""

    name: str
    names: list[str]
    directory: str
    agree_tos: bool
    email: str
    key_type: str
    renew_before: int
    challenge: str
    auth_hook: str
    cleanup_hook: str
    ca_bundle: str
    check: bool
    services: list[str]
    # For certbot alone. What an earlier version of the role has written lacks it.
    https_proxy: str = ""

    @property
    def place(self) -> Path:
        return ROOT / self.name

    @property
    def account(self) -> Path:
        """Where certbot keeps the account: one for each server, for all names."""
        return ACME / "accounts" / re.sub(r"[^A-Za-z0-9.]+", "-", self.directory.removeprefix("https://"))

    @property
    def eab(self) -> Path:
        return ACME / f"{self.name}.eab.ini"


@dataclass(frozen=True)
class Followed:
    """What another tool keeps up to date on this host, as the role writes it."""

    name: str
    names: list[str]
    chain: str
    key: str
    services: list[str]


@dataclass(frozen=True)
class Pair:
    """A key and a chain, and what they say."""

    names: frozenset[str]
    begin: datetime
    end: datetime
    key_type: str
    # What is wrong with it, or nothing.
    wrong: str
    # The ACME server that it is from; nothing if it has not come by ACME.
    directory: str

    def due(self, renew_before: int, now: datetime) -> bool:
        """Whether it is time to renew: within the days that were asked for, and for short lives in their last third."""
        return self.end - now < min(timedelta(days=renew_before), (self.end - self.begin) / 3)


def utc(certificate: Any, which: str) -> datetime:
    """The time `not_valid_before` or `not_valid_after`; old versions of cryptography know it without a time zone only."""
    with suppress(AttributeError):
        moment: datetime = getattr(certificate, f"{which}_utc")
        return moment
    naive: datetime = getattr(certificate, which)
    return naive.replace(tzinfo=UTC)


def read_pair(folder: Path) -> Pair | None:
    """Read what is in a folder with fullchain.pem and privkey.pem; None if there is nothing that could be read."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    try:
        blocks = re.findall(rb"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", (folder / "fullchain.pem").read_bytes(), re.S)
        chain = [x509.load_pem_x509_certificate(block) for block in blocks]
        key = serialization.load_pem_private_key((folder / "privkey.pem").read_bytes(), None)
        leaf = chain[0]
    except (OSError, ValueError, IndexError):
        return None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    wrong = ""
    if key.public_key().public_bytes(*form) != leaf.public_key().public_bytes(*form):
        wrong = "key and certificate do not belong together"
    elif any(child.issuer != parent.subject for child, parent in pairwise(chain)):
        wrong = "the chain is not in order"
    else:
        wrong = openssl_refuses(folder)
    try:
        alternative = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = frozenset(alternative.get_values_for_type(x509.DNSName))
    except x509.ExtensionNotFound:
        names = frozenset()
    try:
        directory = str(json.loads((folder / "issued.json").read_text(encoding="utf-8"))["directory"])
    except (OSError, ValueError, KeyError):
        directory = ""
    return Pair(
        names=names,
        begin=max(utc(certificate, "not_valid_before") for certificate in chain),
        end=min(utc(certificate, "not_valid_after") for certificate in chain),
        key_type="rsa" if isinstance(key, rsa.RSAPrivateKey) else "ecdsa",
        wrong=wrong,
        directory=directory,
    )


def openssl_refuses(folder: Path) -> str:
    """Say why OpenSSL cannot load what is in a folder, which a reader that is more lenient may be able to read."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "fullchain.pem", folder / "privkey.pem", password="")
    except (OSError, ValueError) as error:
        return f"OpenSSL cannot load it: {error}"
    return ""


def reason_for(config: Config, pair: Pair | None, now: datetime) -> str:
    """Why what is in service cannot stay, or nothing. That it is due for renewal is not such a reason."""
    if pair is None:
        return "there is none"
    if pair.wrong:
        return pair.wrong
    if pair.directory != config.directory:
        return f"it is from {pair.directory or 'elsewhere'}"
    if pair.names != frozenset(config.names):
        return f"it is for {', '.join(sorted(pair.names))}"
    if pair.key_type != config.key_type:
        return f"its key is {pair.key_type}"
    if pair.end <= now:
        return "it has expired"
    return ""


def now() -> datetime:
    return datetime.now(UTC)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# Challenges


class Challenges(BaseHTTPRequestHandler):
    """Serves the files that certbot puts into the webroot, and nothing else."""

    def do_GET(self) -> None:
        token = re.fullmatch(rf"/{re.escape(CHALLENGES)}/([A-Za-z0-9_-]+)", self.path)
        try:
            body = (WEBROOT / CHALLENGES / token[1]).read_bytes() if token else None
        except OSError:
            body = None
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (its name in the standard library)
        pass


class Listener(ThreadingHTTPServer):
    """Both kinds of addresses, where the kernel has both."""

    daemon_threads = True
    address_family = socket.AF_INET6 if os.path.exists("/proc/self/net/if_inet6") else socket.AF_INET

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


@contextmanager
def something_listens() -> Iterator[bool]:
    """Answer challenges for as long as it takes, if nothing else listens; tells whether something else does."""
    try:
        server = Listener(("", HTTP_PORT), Challenges)
    except OSError:
        yield True
        return
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield False
    finally:
        server.shutdown()
        server.server_close()


def fetch(name: str, path: str) -> bytes:
    """Fetch as the certificate authority would: over port 80, following redirects, whatever certificate it meets there."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    port = "" if HTTP_PORT == 80 else f":{HTTP_PORT}"
    with opener.open(f"http://{name}{port}/{path}", timeout=10) as answer:
        content: bytes = answer.read(1000)
        return content


def unreachable(names: list[str]) -> dict[str, str]:
    """Ask each name for a file in the webroot; returns those that do not lead here, and what they said."""
    token = f"asgi-{secrets.token_hex(16)}"
    file = WEBROOT / CHALLENGES / token
    file.write_text(token, encoding="ascii")
    file.chmod(0o644)
    found = {}
    try:
        for name in names:
            try:
                if fetch(name, f"{CHALLENGES}/{token}").decode("latin-1").strip() != token:
                    found[name] = "somebody else answers there"
            except urllib.error.HTTPError as error:
                found[name] = f"the answer is {error.code}"
            except (OSError, ValueError, HTTPException) as error:
                found[name] = str(getattr(error, "reason", error)).strip() or type(error).__name__
    finally:
        file.unlink(missing_ok=True)
    return found


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | environment
    try:
        return subprocess.run(command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600, check=False)
    except subprocess.TimeoutExpired as error:
        raise AcmeError(f"{command[0]} took longer than {error.timeout:.0f} seconds and was ended") from error


def nginx_runs() -> bool:
    return run("systemctl", "is-active", "--quiet", "nginx").returncode == 0


def stand_in(names: list[str]) -> str:
    """A site for names that nginx does not know, or sends on to HTTPS before it could answer a challenge."""
    ipv6 = f"    listen [::]:{HTTP_PORT};\n" if os.path.exists("/proc/self/net/if_inet6") else ""
    return (
        "# Written by asgi_acme.py for as long as it takes to get a certificate.\n"
        f"server {{\n    listen {HTTP_PORT};\n{ipv6}    server_name {' '.join(names)};\n"
        f"    location ^~ /{CHALLENGES}/ {{\n        root {WEBROOT};\n        default_type text/plain;\n    }}\n"
        "    location / {\n        return 302 https://$host$request_uri;\n    }\n}\n"
    )


@contextmanager
def nginx_answers_for(names: list[str]) -> Iterator[None]:
    """Have a running nginx answer the challenges of these names."""
    STAND_IN.write_text(stand_in(names), encoding="ascii")
    try:
        reload_nginx()
        yield
    finally:
        STAND_IN.unlink()
        reload_nginx()


def reload_nginx() -> None:
    try:
        certificate.reload_nginx()
    except certificate.CertificateError as error:
        raise AcmeError(str(error)) from None


@contextmanager
def answering(names: list[str], check: bool) -> Iterator[None]:
    """Make sure that each of these names leads to this host and a challenge is answered. Raises AcmeError naming those that do not."""
    (WEBROOT / CHALLENGES).mkdir(parents=True, exist_ok=True)
    for folder in (WEBROOT, WEBROOT / ".well-known", WEBROOT / CHALLENGES):
        folder.chmod(0o755)
    with something_listens() as busy:
        missing = unreachable(names) if busy or check else {}
        if not missing:
            yield
            return
        if busy and nginx_runs():
            with nginx_answers_for(sorted(missing)):
                missing = unreachable(names) if check else {}
                if not missing:
                    yield
                    return
        told = "; ".join(f"http://{name}/ ({said})" for name, said in missing.items())
        raise AcmeError(
            f"These names in asgi_certificate_names do not lead to this host on port {HTTP_PORT}: {told}. Correct their DNS entries or "
            "the way to this host, or take them out of the list. If this host only cannot reach itself by them, set "
            "asgi_certificate_acme_check to false."
        )


# Issuing


def make_key_and_request(config: Config, names: list[str], folder: Path) -> None:
    """Write privkey.pem and request.pem."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = rsa.generate_private_key(65537, 3072) if config.key_type == "rsa" else ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    handle = os.open(folder / "privkey.pem", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(handle, "wb") as stream:
        stream.write(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    (folder / "request.pem").write_bytes(request.public_bytes(pem))


def certbot_command(config: Config, folder: Path) -> list[str]:
    command = ["certbot", "certonly", "--non-interactive", "--server", config.directory]
    command += ["--agree-tos"] if config.agree_tos else []
    command += ["--config-dir", str(config.account), "--work-dir", "/run/asgi-acme", "--logs-dir", str(LOGS)]
    command += ["--csr", str(folder / "request.pem"), "--cert-path", str(folder / "cert.pem")]
    command += ["--chain-path", str(folder / "chain.pem"), "--fullchain-path", str(folder / "fullchain.pem")]
    command += ["--email", config.email, "--no-eff-email"] if config.email else ["--register-unsafely-without-email"]
    if config.eab.exists():
        command += ["--config", str(config.eab)]
    if config.challenge == "dns-01":
        command += ["--manual", "--preferred-challenges", "dns", "--manual-auth-hook", config.auth_hook]
        return command + (["--manual-cleanup-hook", config.cleanup_hook] if config.cleanup_hook else [])
    return [*command, "--webroot", "--webroot-path", str(WEBROOT), "--preferred-challenges", "http"]


def ask_certbot(config: Config, names: list[str], folder: Path) -> None:
    """Fill the folder with a certificate. An account that is lost is put aside, and a new one is registered."""
    environment = {"REQUESTS_CA_BUNDLE": config.ca_bundle} if config.ca_bundle else {}
    if config.https_proxy:
        environment |= {"https_proxy": config.https_proxy, "HTTPS_PROXY": config.https_proxy}
    for attempt in (1, 2):
        config.account.mkdir(parents=True, exist_ok=True, mode=0o700)
        LOGS.mkdir(parents=True, exist_ok=True, mode=0o700)
        done = run(*certbot_command(config, folder), **environment)
        if done.returncode == 0:
            return
        # Of some errors certbot itself stumbles over, and only its log tells what the server has said.
        log = (LOGS / "letsencrypt.log").read_text(encoding="utf-8", errors="replace") if (LOGS / "letsencrypt.log").exists() else ""
        said = "\n".join([*re.findall(r"^acme\.messages\.Error: (.*)", log, re.MULTILINE)[-1:], done.stdout, done.stderr])
        if attempt == 1 and LOST_ACCOUNT.search(said):
            aside = config.account.with_name(f"{config.account.name}.lost-{now():%Y%m%dT%H%M%SZ}")
            config.account.rename(aside)
            say(f"{config.directory} does not know the account any more, so a new one is registered. The old one is in {aside}.")
            continue
        break
    raise AcmeError(f"certbot got no certificate for {', '.join(names)} from {config.directory}:\n{said.strip()}")


def judge(folder: Path, names: list[str]) -> None:
    """Raise AcmeError if what certbot brought must not be put into service."""
    try:
        chain, key = certificate.read(folder / "fullchain.pem"), certificate.read(folder / "privkey.pem")
    except certificate.CertificateError as error:
        raise AcmeError(f"certbot said that all is well, but brought no certificate that can be read: {error}") from None
    labels = certificate.Labels("The chain", "The key", "asgi_certificate_names")
    found = certificate.judge(chain, key, [f"DNS:{name}" for name in names], labels=labels, now=now())
    if wrong := "\n".join(found.problems) or certificate.nginx_objects(chain, key):
        raise AcmeError(f"the new certificate is not put into service: {wrong}")
    for said in found.warnings:
        say(said)


def put_into_service(name: str, folder: Path) -> None:
    """Make the folder the live one. If nginx accepts its configuration without it and not with it, the old one comes back."""
    try:
        certificate.Place(ROOT, name).switch(folder.name)
    except certificate.CertificateError as error:
        raise AcmeError(str(error)) from None


def issue(config: Config, names: list[str]) -> None:
    """Get a certificate for these names and put it into service."""
    # A wildcard has no address of its own; only DNS-01 proves it, and that needs no way to this host.
    reachable = answering(names, config.check) if config.challenge == "http-01" else nullcontext()
    folder = config.place / now().strftime("%Y%m%dT%H%M%S.%fZ")
    config.place.mkdir(parents=True, exist_ok=True)
    folder.mkdir()
    try:
        make_key_and_request(config, names, folder)
        with reachable:
            ask_certbot(config, names, folder)
        for file in ("request.pem", "cert.pem", "chain.pem"):
            (folder / file).unlink(missing_ok=True)
        (folder / "fullchain.pem").chmod(0o644)
        (folder / "issued.json").write_text(json.dumps({"directory": config.directory}), encoding="utf-8")
        for file in folder.iterdir():
            certificate.sync(file)
        certificate.sync(folder)
        judge(folder, names)
        put_into_service(config.name, folder)
    except BaseException:
        if certificate.Place(ROOT, config.name).live != folder.name:
            shutil.rmtree(folder, ignore_errors=True)
        raise


# Services


def bring_to_services(config: Config | Followed) -> list[str]:
    """Reload what uses a renewed certificate; returns what went wrong. The next runs try again until nothing does.

    What was live before stays on the host until then.
    """
    wrong: list[str] = certificate.reload_services(config.services)
    if not wrong:
        certificate.Place(ROOT, config.name).proved()
    return wrong


def due(name: str) -> bool:
    """Whether something that uses the certificate has not been reloaded since it came."""
    return bool(certificate.Place(ROOT, name).due)


def follow(config: Followed) -> str:
    """Take over what another tool has renewed, if it can be used; returns what went wrong."""
    place = certificate.Place(ROOT, config.name)
    try:
        for patience in (1.0, 1.0, 0.0):
            chain, key = certificate.read(config.chain), certificate.read(config.key)
            if certificate.is_live(place, chain, key):
                if due(config.name):
                    certificate.put_into_service(place, place.live, config.services)
                return ""
            found = certificate.judge(chain, key, config.names, labels=certificate.Labels(config.chain, config.key), now=now())
            wrong = found.problems or [said for said in [certificate.nginx_objects(chain, key)] if said]
            if not found.mismatch:
                break
            # The chain may have been read before a renewal, and the key after it.
            time.sleep(patience)
        if wrong:
            return f"{config.name}: what is live stays, since the new certificate cannot be used: " + "\n".join(wrong)
        certificate.put_into_service(place, certificate.store(place, chain, key), config.services)
    except (certificate.CertificateError, OSError) as error:
        return f"{config.name}: the new certificate of {config.chain}: {error}"
    return ""


# Commands


def load(name: str) -> Config | Followed:
    given = json.loads((ACME / f"{name}.json").read_text(encoding="utf-8"))
    return Followed(**given) if "chain" in given else Config(**given)


def status(config: Config) -> dict[str, Any]:
    certbot = shutil.which("certbot") is not None
    timer = (
        run("systemctl", "is-active", "asgi-acme.timer").stdout.strip(),
        run("systemctl", "is-enabled", "asgi-acme.timer").stdout.strip(),
    )
    told: dict[str, Any] = {"certbot": certbot, "timer": ",".join(timer), "needed": "there is no certbot"}
    if certbot:
        pair = read_pair(config.place / "live")
        told["needed"] = reason_for(config, pair, now())
        if pair and not told["needed"] and pair.due(config.renew_before, now()):
            told["needed"] = f"it ends at {pair.end:%Y-%m-%d %H:%M}"
        if not told["needed"] and (config.place / "reload-due").exists():
            told["needed"] = "what uses it has not been reloaded"
    return told


def obtain(config: Config) -> dict[str, Any]:
    """Get a certificate if one is needed. One that is only due may stay until the timer's next try: that is told as a warning."""
    pair = read_pair(config.place / "live")
    needed = reason_for(config, pair, now())
    ends = pair is not None and pair.due(config.renew_before, now())
    if needed or ends:
        try:
            issue(config, config.names)
        except AcmeError as error:
            if needed or pair is None:
                raise
            return {"changed": False, "warning": f"The certificate ends at {pair.end:%Y-%m-%d %H:%M} UTC. {error}"}
    elif not due(config.name):
        return {"changed": False, "warning": ""}
    if wrong := bring_to_services(config):
        raise AcmeError("The certificate is live, but not yet in service, and the next run tries again:\n" + "\n".join(wrong))
    return {"changed": True, "warning": ""}


def replace(config: Config, pair: Pair | None, ends: bool) -> tuple[bool, list[str]]:
    """Get another pair, for fewer names if there is no other way; returns whether there is one now, and what went wrong."""
    try:
        issue(config, config.names)
        return True, []
    except AcmeError as error:
        wrong = [str(error)]
    kept = [name for name in config.names if pair is not None and name in pair.names]
    if not ends or not kept or len(kept) == len(config.names):
        return False, wrong
    # A name that cannot be had must not take those with it that have been served up to now.
    say(f"{config.name}: renewing for {', '.join(kept)} alone")
    try:
        issue(config, kept)
    except AcmeError as error:
        return False, [*wrong, str(error)]
    return True, wrong


def renew(config: Config) -> str:
    """Get what is needed and reload what uses it; returns what went wrong."""
    # What is live is not due any more, and still nobody may serve it: a service could not be reloaded when it came. Before anything
    # else, since getting the next one may fail.
    wrong = bring_to_services(config) if due(config.name) else []
    pair = read_pair(config.place / "live")
    ends = pair is not None and pair.due(config.renew_before, now())
    if reason_for(config, pair, now()) or ends:
        there_is, said = replace(config, pair, ends)
        wrong = said + (bring_to_services(config) if there_is else wrong)
    return "\n".join(f"{config.name}: {text}" for text in wrong)


def ask_the_service(name: str) -> int:
    """Have the service do what `obtain` is to do, and say what it said."""
    REQUESTS.mkdir(mode=0o700, parents=True, exist_ok=True)
    wanted, answer = REQUESTS / f"{name}.wanted", REQUESTS / f"{name}.answer"
    answer.unlink(missing_ok=True)
    wanted.touch()
    try:
        # A run of the timer's may be on its way and have looked for requests already. To start it is to wait for it.
        for _attempt in range(2):
            done = subprocess.run(["systemctl", "start", SERVICE], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
            if answer.exists():
                break
        else:
            say(f"{SERVICE} did not do it: {done.stderr.strip() or 'it has left no answer'} See journalctl --unit={SERVICE}.")
            return 1
        told = json.loads(answer.read_text(encoding="utf-8"))
    finally:
        wanted.unlink(missing_ok=True)
        answer.unlink(missing_ok=True)
    if told["wrong"]:
        say(told["wrong"])
        return 1
    print(json.dumps(told["result"]))
    return 0


def serve(wanted: Path) -> None:
    """Answer one request."""
    told: dict[str, Any] = {"wrong": "", "result": {}}
    try:
        told["result"] = obtain(config_of(wanted.stem))
    except AcmeError as error:
        told["wrong"] = str(error)
    except Exception as error:
        told["wrong"] = f"{type(error).__name__}: {error}"
    temporary = wanted.with_suffix(".new")
    temporary.write_text(json.dumps(told), encoding="utf-8")
    temporary.replace(wanted.with_suffix(".answer"))
    wanted.unlink(missing_ok=True)


def work() -> list[str]:
    """Do what was asked for, or else what is due; returns what went wrong with the latter."""
    # From a run that was killed.
    STAND_IN.unlink(missing_ok=True)
    if requests := sorted(REQUESTS.glob("*.wanted")):
        for wanted in requests:
            serve(wanted)
        # Who has asked reports what went wrong. The service has not failed, so nobody is alarmed (OnFailure=).
        return []
    return [said for path in sorted(ACME.glob("*.json")) if (said := keep_up(path.stem))]


def main(arguments: list[str]) -> int:
    command, *rest = arguments
    if command == "status":
        print(json.dumps(status(Config(**json.loads(rest[0])))))
        return 0
    if command == "obtain":
        return ask_the_service(rest[0])
    os.umask(0o022)
    os.environ["PATH"] = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
    global certificate, locks
    folder = Path(__file__).resolve().parent
    certificate = certificate or load_library(folder, "certificate")
    locks = locks or load_library(folder, "locks")
    try:
        with locks.locked(str(LOCK), 3600, {"pid": os.getpid()}, what="another run of asgi_acme.py", remedy="Look at that process"):
            wrong = work()
    except locks.LockedError as error:
        wrong = [str(error)]
    for said in wrong:
        say(said)
    return 1 if wrong else 0


def config_of(name: str) -> Config:
    config = load(name)
    if isinstance(config, Followed):
        raise AcmeError(f"{name} does not come by ACME")
    return config


def keep_up(name: str) -> str:
    """Do what the timer is there for; returns what went wrong. One name must keep no other from it."""
    try:
        config = load(name)
        return follow(config) if isinstance(config, Followed) else renew(config)
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
