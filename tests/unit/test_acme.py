"""What asgi_acme.py decides. What it does with an authority and nginx is tested by molecule/acme."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import re
import signal
import socketserver
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

ROLE = Path(__file__).resolve().parents[2] / "roles/asgi_certificate"
PROGRAM = ROLE / "files/asgi_acme.py"
LIBRARY = ROLE.parents[1] / "plugins/module_utils"
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DIRECTORY = "https://acme.example/directory"


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The program, with everything below a temporary directory."""
    spec = importlib.util.spec_from_file_location("asgi_acme", PROGRAM)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    # The folder is the role's: what lies there is copied to hosts.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    # Its dataclasses look themselves up there.
    monkeypatch.setitem(sys.modules, "asgi_acme", module)
    spec.loader.exec_module(module)
    places = {"ROOT": "root", "ACME": "root/acme", "WEBROOT": "web", "LOGS": "logs", "LOCK": "lock", "STAND_IN": "stand-in"}
    for name, path in places.items():
        setattr(module, name, tmp_path / path)
    (tmp_path / "root/acme").mkdir(parents=True)
    module.certificate = module.load_library(LIBRARY, "certificate")
    module.locks = module.load_library(LIBRARY, "locks")
    module.certificate.RELOADED = tmp_path / "reloaded"
    yield module


@pytest.fixture
def config(acme: Any) -> Callable[..., Any]:
    def make(**changes: Any) -> Any:
        given = {
            "name": "shop",
            "names": ["shop.example"],
            "directory": DIRECTORY,
            "agree_tos": True,
            "email": "",
            "key_type": "ecdsa",
            "renew_before": 30,
            "challenge": "http-01",
            "auth_hook": "",
            "cleanup_hook": "",
            "ca_bundle": "",
            "check": True,
            "services": [],
        }
        return acme.Config(**(given | changes))

    return make


BAD_CERTBOT = """#!/bin/sh
# Brings what it was told to bring, as a certbot would that has a fault or an authority with one.
while [ $# -gt 0 ]; do
    case "$1" in --fullchain-path) fullchain=$2 ;; esac
    shift
done
cp {brings}/fullchain.pem "$fullchain"
cp {brings}/privkey.pem "$(dirname "$fullchain")/privkey.pem"
"""


@pytest.mark.parametrize("fine", [False, True])
def test_whatever_certbot_brings(acme: Any, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pki: Any, fine: bool) -> None:
    """What must not be live changes nothing; what is only unusual is taken."""
    brings = tmp_path / "brings"
    brings.mkdir()
    (tmp_path / "certbot").write_text(BAD_CERTBOT.format(brings=brings), encoding="ascii")
    (tmp_path / "certbot").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(acme.certificate, "nginx", lambda: "")
    given = config(names=["given.example.org"], challenge="dns-01")
    place = acme.certificate.Place(acme.ROOT, "shop")
    cases = {name: case for name, case in pki.cases().items() if fine != bool(case.said)}
    good = pki.cases()["fine"]
    acme.certificate.put_into_service(place, acme.certificate.store(place, good.chain, good.key), [])
    for name, case in cases.items():
        (brings / "fullchain.pem").write_bytes(case.chain)
        (brings / "privkey.pem").write_bytes(case.key)
        before = sorted(os.listdir(place.path)), place.live
        if not fine:
            with pytest.raises(acme.AcmeError, match=r"not put into service|no certificate that can be read"):
                acme.issue(given, given.names)
            assert (sorted(os.listdir(place.path)), place.live) == before, name
            assert acme.certificate.is_live(place, good.chain, good.key)
        else:
            acme.issue(given, given.names)
            assert acme.bring_to_services(given) == []
            assert acme.certificate.is_live(place, case.chain, case.key), name
            assert sorted(os.listdir(place.path)) == [place.live, "fullchain.pem", "live", "privkey.pem"]
    assert len(cases) >= (15 if fine else 50)


@pytest.fixture
def followed(acme: Any, tmp_path: Path) -> Any:
    """A certificate that another tool keeps up to date on the host."""
    return acme.Followed("shop", ["DNS:given.example.org"], str(tmp_path / "theirs.pem"), str(tmp_path / "theirs-key.pem"), [])


def test_what_another_tool_renews_is_taken_over_if_it_can_be_used(
    acme: Any, followed: Any, monkeypatch: pytest.MonkeyPatch, pki: Any
) -> None:
    monkeypatch.setattr(acme.certificate, "nginx", lambda: "")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    place = acme.certificate.Place(acme.ROOT, "shop")
    good, cases = pki.cases()["fine"], pki.cases()
    for case in (good, cases["fine: RSA"]):
        Path(followed.chain).write_bytes(case.chain)
        Path(followed.key).write_bytes(case.key)
        assert acme.follow(followed) == ""
        assert acme.certificate.is_live(place, case.chain, case.key)
        live = place.live
        assert acme.follow(followed) == ""
        assert place.live == live, "nothing has changed"
    for name, bad in cases.items():
        if bad.said:
            Path(followed.chain).write_bytes(bad.chain)
            Path(followed.key).write_bytes(bad.key)
            assert acme.follow(followed).startswith("shop: "), name
            assert place.live == live
            assert sorted(os.listdir(place.path)) == [live, "fullchain.pem", "live", "privkey.pem"]


@pytest.mark.parametrize("kind", ["missing", "directory", "FIFO", "device"])
def test_what_another_tool_leaves_is_read_if_it_is_a_file(acme: Any, followed: Any, pki: Any, kind: str) -> None:
    good = pki.cases()["fine"]
    Path(followed.key).write_bytes(good.key)
    if kind == "directory":
        Path(followed.chain).mkdir()
    elif kind == "FIFO":
        os.mkfifo(followed.chain)
    elif kind == "device":
        Path(followed.chain).symlink_to("/dev/zero")
    said = acme.follow(followed)
    assert "cannot be read: No such file" in said if kind == "missing" else "is not a regular file" in said


def test_one_name_keeps_no_other_from_being_renewed(acme: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (acme.ACME / "a.json").write_text("{", encoding="ascii")
    (acme.ACME / "b.json").write_text("{}", encoding="ascii")
    (acme.ACME / "c.json").write_text('{"name": "c", "names": [], "chain": "/no", "key": "/no", "services": []}', encoding="ascii")
    monkeypatch.setenv("PATH", os.environ["PATH"])
    assert acme.main(["renew"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line[:3] for line in lines] == ["a: ", "b: ", "c: "]
    assert acme.LOCK.stat().st_mode & 0o777 == 0o600


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def certificate(key: Key, subject: str, issuer: str, names: list[str], days: float) -> bytes:
    """One that begins now; whoever issued it is believed to have signed with the same key."""
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def folder(acme: Any) -> Callable[..., Path]:
    """Make a generation as an earlier run would have left it."""

    def make(
        names: tuple[str, ...] = ("shop.example",),
        *,
        days: float = 90,
        key: Key | None = None,
        other_key: Key | None = None,
        reverse: bool = False,
        directory: str = DIRECTORY,
    ) -> Path:
        place: Path = acme.ROOT / "shop/1"
        place.mkdir(parents=True)
        key = key or ec.generate_private_key(ec.SECP256R1())
        chain = [certificate(key, "shop", "intermediate", list(names), days), certificate(key, "intermediate", "root", [], 3650)]
        (place / "fullchain.pem").write_bytes(b"".join(reversed(chain) if reverse else chain))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (place / "privkey.pem").write_bytes((other_key or key).private_bytes(*form))
        if directory:
            (place / "issued.json").write_text(json.dumps({"directory": directory}), encoding="utf-8")
        (acme.ROOT / "shop/live").symlink_to("1")
        return place

    return make


def test_what_is_as_wanted_stays(acme: Any, config: Any, folder: Any) -> None:
    assert acme.reason_for(config(), acme.read_pair(folder()), NOW) == ""


@pytest.mark.parametrize(
    ("made", "wanted", "reason"),
    [
        ({}, {"names": ["shop.example", "www.shop.example"]}, "it is for shop.example"),
        ({"names": ("shop.example", "a.example")}, {}, "it is for a.example, shop.example"),
        ({"directory": ""}, {}, "it is from elsewhere"),
        ({"directory": "https://staging.example"}, {}, "it is from https://staging.example"),
        ({}, {"key_type": "rsa"}, "its key is ecdsa"),
        ({"key": rsa.generate_private_key(65537, 2048)}, {}, "its key is rsa"),
        ({"other_key": ec.generate_private_key(ec.SECP256R1())}, {}, "key and certificate do not belong together"),
        ({"days": 0.5}, {}, "it has expired"),
    ],
)
def test_what_cannot_stay(acme: Any, config: Any, folder: Any, made: dict[str, Any], wanted: dict[str, Any], reason: str) -> None:
    assert acme.reason_for(config(**wanted), acme.read_pair(folder(**made)), NOW + timedelta(days=1)).startswith(reason)


def test_chain_in_the_wrong_order(acme: Any, folder: Any) -> None:
    assert acme.read_pair(folder(reverse=True)).wrong == "the chain is not in order"


def test_nothing_to_read(acme: Any, config: Any, folder: Any) -> None:
    assert acme.reason_for(config(), acme.read_pair(acme.ROOT / "shop/live"), NOW) == "there is none"
    place = folder()
    for content in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        (place / "fullchain.pem").write_bytes(content)
        assert acme.read_pair(place) is None


@pytest.mark.parametrize(
    ("lives", "renew_before", "after", "due"),
    [
        (90, 30, 59, False),
        (90, 30, 61, True),
        (90, 10, 79, False),
        # In the last third of a short life, however many days are asked for.
        (6, 30, 3.9, False),
        (6, 30, 4.1, True),
        (45, 30, 29, False),
        (45, 30, 31, True),
    ],
)
def test_due(acme: Any, folder: Any, lives: float, renew_before: int, after: float, due: bool) -> None:
    assert acme.read_pair(folder(days=lives)).due(renew_before, NOW + timedelta(days=after)) is due


@pytest.mark.parametrize(
    ("made", "names", "wrong"),
    [
        ({"names": ("a.example",)}, ["shop.example", "b.example"], "has dns:shop.example, dns:b.example, but the certificate in"),
        ({"other_key": ec.generate_private_key(ec.SECP256R1())}, ["shop.example"], "is not the key of the first certificate"),
        ({"days": 0.5}, ["shop.example"], "expired at"),
    ],
)
def test_what_certbot_brings_is_judged(
    acme: Any, folder: Any, monkeypatch: pytest.MonkeyPatch, made: dict[str, Any], names: list[str], wrong: str
) -> None:
    monkeypatch.setattr(acme, "now", lambda: NOW + timedelta(days=1))
    with pytest.raises(acme.AcmeError, match=wrong):
        acme.judge(folder(**made), names)


@pytest.mark.parametrize(("key_type", "kind"), [("ecdsa", ec.EllipticCurvePublicKey), ("rsa", rsa.RSAPublicKey)])
def test_request(acme: Any, config: Any, tmp_path: Path, key_type: str, kind: type) -> None:
    names = ["shop.example", "*.shop.example"]
    acme.make_key_and_request(config(key_type=key_type), names, tmp_path)
    request = x509.load_pem_x509_csr((tmp_path / "request.pem").read_bytes())
    assert request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == names
    assert isinstance(request.public_key(), kind)
    assert (tmp_path / "privkey.pem").stat().st_mode & 0o777 == 0o600


def test_certbot_is_told(acme: Any, config: Any, tmp_path: Path) -> None:
    command = " ".join(acme.certbot_command(config(email="a@b.example"), tmp_path))
    assert "--agree-tos" in command and "--email a@b.example" in command and f"--webroot-path {acme.WEBROOT}" in command
    dns = config(challenge="dns-01", auth_hook="/bin/add", cleanup_hook="/bin/remove", agree_tos=False)
    dns.eab.write_text("eab-kid = 1\n", encoding="utf-8")
    command = " ".join(acme.certbot_command(dns, tmp_path))
    assert "--preferred-challenges dns --manual-auth-hook /bin/add --manual-cleanup-hook /bin/remove" in command
    assert f"--config {dns.eab}" in command and "webroot" not in command and "--agree-tos" not in command
    # The key is in a file, and not where everybody could read it.
    assert "eab-kid" not in command


PROXY = "http://me:hunter2@proxy.example:3128"
CERTBOT = """#!/bin/sh
env >{told}
"""


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {}),
        ({"https_proxy": PROXY}, {"https_proxy": PROXY, "HTTPS_PROXY": PROXY}),
        ({"ca_bundle": "/etc/ca.pem"}, {"REQUESTS_CA_BUNDLE": "/etc/ca.pem"}),
    ],
)
def test_certbot_s_way_to_the_authority(
    acme: Any, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], told: dict[str, str]
) -> None:
    (tmp_path / "certbot").write_text(CERTBOT.format(told=tmp_path / "told"), encoding="ascii")
    (tmp_path / "certbot").chmod(0o755)
    for name in ("https_proxy", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    acme.ask_certbot(config(**changes), ["shop.example"], tmp_path)
    environment = dict(line.split("=", 1) for line in (tmp_path / "told").read_text(encoding="utf-8").splitlines())
    assert {name: environment[name] for name in ("https_proxy", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE") if name in environment} == told


def test_what_an_earlier_version_wrote_is_read(acme: Any, config: Any) -> None:
    given = dataclasses.asdict(config())
    assert given.pop("https_proxy") == ""
    (acme.ACME / "shop.json").write_text(json.dumps(given), encoding="utf-8")
    assert acme.load("shop") == config()


@pytest.mark.parametrize(
    ("variables", "proxy"),
    [
        ({}, ""),
        ({"asgi_uv_https_proxy": PROXY}, PROXY),
        ({"asgi_uv_https_proxy": PROXY, "asgi_certificate_acme_https_proxy": ""}, ""),
    ],
)
def test_what_the_role_writes_is_what_is_read(acme: Any, variables: dict[str, str], proxy: str) -> None:
    loader = DataLoader()
    own: dict[str, Any] = {"asgi_app": "shop", "asgi_domain": "shop.example"}
    for name in ("defaults/main.yml", "vars/main.yml"):
        own |= loader.load_from_file(str(ROLE / name), trusted_as_template=True)
    templar = Templar(loader=loader, variables=own | variables)
    ((file,), shown) = templar.template(trust_as_template("{{ [_asgi_certificate_acme_secrets, _asgi_certificate_acme_config] }}"))
    assert file["path"] == "/etc/asgi-certificates/acme/shop.json"
    written = acme.Config(**json.loads(file["content"]))
    assert (written.name, written.names, written.https_proxy) == ("shop", ["shop.example"], proxy)
    # What is given to `status` can be read in the list of processes.
    assert acme.Config(**shown) == dataclasses.replace(written, https_proxy="")


@pytest.mark.parametrize(
    "said",
    [
        "urn:ietf:params:acme:error:accountDoesNotExist :: The request specified an account that does not exist",
        "urn:ietf:params:acme:error:unauthorized :: Account has been deactivated",
        'Account is not valid, has status "deactivated"',
    ],
)
def test_lost_accounts_are_recognized(acme: Any, said: str) -> None:
    assert acme.LOST_ACCOUNT.search(said)
    assert not acme.LOST_ACCOUNT.search("urn:ietf:params:acme:error:unauthorized :: The key authorization file from the server")


NGINX = """#!/bin/sh
# Refuses what is in the file `refused`, as nginx refuses a pair that it cannot load.
if [ "$(readlink {place}/live)" = "$(cat {place}/refused)" ] || [ "$(cat {place}/refused)" = all ]; then
    echo "nginx: [emerg] cannot load certificate {place}/fullchain.pem" >&2
    exit 1
fi
"""


@pytest.mark.parametrize(("refused", "live"), [("", "2"), ("2", "1"), ("all", "2")])
def test_a_pair_that_nginx_refuses_goes_back(
    acme: Any, folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, live: str
) -> None:
    place = folder().parent
    (place / "2").mkdir()
    (place / "refused").write_text(refused, encoding="ascii")
    (tmp_path / "nginx").write_text(NGINX.format(place=place), encoding="ascii")
    (tmp_path / "nginx").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    if live == "1":
        with pytest.raises(acme.AcmeError, match="cannot load certificate"):
            acme.put_into_service("shop", place / "2")
    else:
        # Where it refuses the old one as well, the new one is no worse.
        acme.put_into_service("shop", place / "2")
        assert (place / "reload-due").read_text() == "1"
    # Until what uses it has been reloaded.
    assert (place / "1").exists()
    assert (place / "live").readlink() == Path(live)
    assert (place / "fullchain.pem").readlink() == Path("live/fullchain.pem")


class Nginx:
    """Processes that look like a master and its workers, of which systemd tells the program the titles."""

    WORKER = "nginx: worker process"
    LEAVING = "nginx: worker process is shutting down"

    def __init__(self) -> None:
        self.shell = subprocess.Popen(["bash", "-c", 'while read -r line; do eval "$line"; done'], stdin=subprocess.PIPE, text=True)

    @property
    def master(self) -> str:
        return str(self.shell.pid)

    def begin(self, title: str) -> str:
        """Start a process with this title; returns its PID."""
        before = self.children()
        assert self.shell.stdin is not None
        self.shell.stdin.write(f'(exec -a "{title}" sleep 60) &\n')
        self.shell.stdin.flush()
        while not (new := [pid for pid, said in self.children().items() if pid not in before and said.startswith(title)]):
            time.sleep(0.01)
        return new[0]

    def children(self) -> dict[str, str]:
        found = {}
        for pid in Path(f"/proc/{self.master}/task/{self.master}/children").read_text().split():
            with suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def end(self, pid: str) -> None:
        os.kill(int(pid), signal.SIGKILL)
        while pid in self.children():
            time.sleep(0.01)

    def stop(self) -> None:
        for pid in self.children():
            self.end(pid)
        self.shell.communicate()


@pytest.fixture
def nginx(acme: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nginx]:
    nginx = Nginx()
    monkeypatch.setattr(acme.certificate, "nginx_refuses", lambda: "")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        # As systemd shows them. The reload itself only sends a signal, and is over at once. Newer versions quote the titles.
        tree = [f"             ├─{pid} {title.removesuffix('60 ').rstrip()}" for pid, title in nginx.children().items()]
        quoted = [re.sub(r"(nginx: .*)", r'"\1"', line) for line in tree[::2]]
        stdout = "\n".join(["● nginx.service", *quoted, *tree[1::2]]) if command[1] == "status" else ""
        return subprocess.CompletedProcess(command, 0, stdout=stdout, stderr="")

    monkeypatch.setattr(acme.certificate, "_run", run)
    yield nginx
    nginx.stop()


def each_time(acme: Any, monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], Any]) -> list[int]:
    """Have one thing after the other happen while the program waits, and time pass. Returns what has happened, in a list that grows."""
    happened: list[int] = []

    def wait(seconds: float) -> None:
        clock.now += seconds
        if len(happened) < len(acts):
            acts[len(happened)]()
            happened.append(len(happened))

    class clock:  # noqa: N801 (stands for a module)
        now = 1000.0
        time = staticmethod(lambda: clock.now)
        monotonic = staticmethod(lambda: clock.now)
        sleep = staticmethod(wait)

    monkeypatch.setattr(acme.certificate, "time", clock)
    return happened


def test_a_worker_that_leaves_accepts_no_more(acme: Any, nginx: Nginx) -> None:
    old, new = nginx.begin(Nginx.LEAVING), nginx.begin(Nginx.WORKER)
    assert acme.certificate.workers() == {new}
    assert old in nginx.children()


def test_reload_waits_until_no_old_worker_accepts(acme: Any, nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = nginx.begin(Nginx.WORKER), nginx.begin(Nginx.WORKER)

    def told_to_leave() -> None:
        nginx.begin(Nginx.LEAVING)
        nginx.end(second)

    happened = each_time(
        acme,
        monkeypatch,
        lambda: nginx.begin(Nginx.WORKER),
        # One of the old ones accepts still: a handshake that it does shows the old certificate.
        lambda: nginx.end(first),
        told_to_leave,
        lambda: pytest.fail("the reload is over"),
    )
    acme.reload_nginx()
    assert happened == [0, 1, 2]
    # Whatever has changed since it was begun is newer than it.
    assert acme.certificate.RELOADED.stat().st_mtime == 1000


def test_reload_that_nginx_did_not_take_is_told(acme: Any, nginx: Nginx, monkeypatch: pytest.MonkeyPatch) -> None:
    nginx.begin(Nginx.WORKER)
    each_time(acme, monkeypatch)
    with pytest.raises(acme.AcmeError, match="did not take its configuration"):
        acme.reload_nginx()
    assert not acme.certificate.RELOADED.exists()


def test_challenges_are_answered_where_nothing_listens(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # A port of the kernel's choice.
    with acme.Listener(("", 0), acme.Challenges) as free:
        monkeypatch.setattr(acme, "HTTP_PORT", free.server_port)
    with acme.answering(["localhost"], True), acme.something_listens() as busy:
        assert busy
        (acme.WEBROOT / acme.CHALLENGES / "token").write_text("proof", encoding="ascii")
        (acme.WEBROOT / "secret").write_text("secret", encoding="ascii")
        base = f"http://localhost:{acme.HTTP_PORT}/{acme.CHALLENGES}"
        with urllib.request.urlopen(f"{base}/token") as answer:  # noqa: S310
            assert answer.read() == b"proof"
        for path in ("missing", "../../secret", ""):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{base}/{path}")  # noqa: S310
    with acme.something_listens() as busy:
        assert not busy


def test_names_are_tried_without_a_proxy(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the authority comes: it knows nothing of the host's proxy."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    with acme.Listener(("", 0), acme.Challenges) as free:
        monkeypatch.setattr(acme, "HTTP_PORT", free.server_port)
    with acme.answering(["localhost"], True):
        assert acme.unreachable(["localhost"]) == {}


def test_names_that_lead_elsewhere_are_named(acme: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with acme.Listener(("", 0), acme.Challenges) as free:
        monkeypatch.setattr(acme, "HTTP_PORT", free.server_port)
    told = pytest.raises(acme.AcmeError, match=r"port \d+: http://shop\.invalid/ \([^)]+\)\. Correct .* asgi_certificate_acme_check")
    with told, acme.answering(["localhost", "shop.invalid"], True):
        pytest.fail("should not have come so far")
    # Nothing of the check stays behind.
    assert list((acme.WEBROOT / acme.CHALLENGES).iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother", "somebody else answers there"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "the answer is 404"),
        (b"", "Remote end closed connection without response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0-OpenSSH_9.2"),
    ],
)
def test_whoever_else_answers(acme: Any, monkeypatch: pytest.MonkeyPatch, answer: bytes, said: str) -> None:
    class Other(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(4096)
            self.request.sendall(answer)

    (acme.WEBROOT / acme.CHALLENGES).mkdir(parents=True)
    with socketserver.TCPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(acme, "HTTP_PORT", server.server_address[1])
        assert acme.unreachable(["localhost"]) == {"localhost": said}
        server.shutdown()


@pytest.mark.parametrize(
    ("days", "names", "fails", "asked", "said"),
    [
        # Nothing to do.
        (90, ["shop.example"], [], [], ""),
        (10, ["shop.example"], [], [["shop.example"]], ""),
        (10, ["shop.example"], ["shop.example"], [["shop.example"]], "shop: no way to shop.example"),
        # A new name that cannot be had: as long as there is time, what is there stays; then it is renewed as it is.
        (90, ["shop.example", "new.example"], ["new.example"], [["shop.example", "new.example"]], "shop: no way to new.example"),
        (
            10,
            ["shop.example", "new.example"],
            ["new.example"],
            [["shop.example", "new.example"], ["shop.example"]],
            "shop: no way to new.example",
        ),
    ],
)
def test_renewal_keeps_the_names_that_work(
    acme: Any,
    config: Any,
    folder: Any,
    monkeypatch: pytest.MonkeyPatch,
    days: float,
    names: list[str],
    fails: list[str],
    asked: list[list[str]],
    said: str,
) -> None:
    folder(days=90)
    requests = []

    def issue(_config: Any, wanted: list[str]) -> None:
        requests.append(wanted)
        if missing := [name for name in wanted if name in fails]:
            raise acme.AcmeError(f"no way to {missing[0]}")

    # The authority's part is molecule/acme's.
    monkeypatch.setattr(acme, "issue", issue)
    monkeypatch.setattr(acme, "now", lambda: NOW + timedelta(days=90 - days))
    assert acme.renew(config(names=names)) == said
    assert requests == asked


def test_a_run_of_the_role_warns_as_long_as_the_old_one_serves(
    acme: Any, config: Any, folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder(days=90)

    def issue(_config: Any, _names: list[str]) -> None:
        raise acme.AcmeError("the authority is down")

    monkeypatch.setattr(acme, "issue", issue)
    monkeypatch.setattr(acme, "now", lambda: NOW + timedelta(days=80))
    told = acme.obtain(config())
    assert told["changed"] is False
    assert told["warning"] == "The certificate ends at 2027-02-19 12:00 UTC. the authority is down"
    with pytest.raises(acme.AcmeError, match="the authority is down"):
        acme.obtain(config(names=["shop.example", "new.example"]))
    monkeypatch.setattr(acme, "now", lambda: NOW + timedelta(days=1))
    assert acme.obtain(config()) == {"changed": False, "warning": ""}


class Services:
    """systemd, with units that can be stopped, and some that cannot be reloaded."""

    def __init__(self, stopped: tuple[str, ...] = (), broken: tuple[str, ...] = ()) -> None:
        self.stopped = stopped
        self.broken = broken
        self.reloaded: list[str] = []

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        service = command[-1]
        if command[1] == "is-active":
            return subprocess.CompletedProcess(command, 3 if service in self.stopped else 0, "", "")
        return subprocess.CompletedProcess(command, 0 if self.reload(service) else 1, "", "it does not listen")

    def reload(self, service: str) -> bool:
        self.reloaded.append(service)
        return service not in self.broken


@pytest.fixture
def services(acme: Any, monkeypatch: pytest.MonkeyPatch) -> Services:
    found = Services()

    def reload_nginx() -> None:
        if not found.reload("nginx"):
            raise acme.certificate.CertificateError("nginx refuses its configuration")

    monkeypatch.setattr(acme.certificate, "_run", found.run)
    monkeypatch.setattr(acme.certificate, "reload_nginx", reload_nginx)
    return found


ALL = ["nginx", "shop-tls", "mail", "old"]


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ((), []),
        (("nginx",), ["nginx refuses its configuration"]),
        (("nginx", "shop-tls"), ["nginx refuses its configuration", "shop-tls could not be reloaded: it does not listen"]),
    ],
)
def test_one_that_cannot_be_reloaded_keeps_no_other_from_it(
    acme: Any, services: Services, broken: tuple[str, ...], said: list[str]
) -> None:
    services.broken, services.stopped = broken, ("old",)
    assert acme.certificate.reload_services(ALL) == said
    assert services.reloaded == ["nginx", "shop-tls", "mail"]


def test_one_that_takes_too_long_to_reload_keeps_no_other_from_it(acme: Any, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*command: str) -> subprocess.CompletedProcess[str]:
        if command[1:] == ("reload", "--", "shop-tls"):
            raise acme.certificate.CertificateError("systemctl took longer than 600 seconds and was ended")
        return services.run(*command)

    monkeypatch.setattr(acme.certificate, "_run", run)
    assert acme.certificate.reload_services(ALL) == ["systemctl took longer than 600 seconds and was ended"]
    assert services.reloaded == ["nginx", "mail", "old"]


def test_services_are_reloaded_until_all_of_them_have_been(
    acme: Any, config: Any, folder: Any, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(days=90).parent
    given = config(services=["nginx", "shop-tls"])
    day, down = 70, False
    issued: list[int] = []

    def issue(_config: Any, _names: list[str]) -> None:
        if down:
            raise acme.AcmeError("the authority is down")
        issued.append(day)
        (place / "reload-due").write_text("1")

    def renewed() -> tuple[str, list[str]]:
        services.reloaded.clear()
        return acme.renew(given), services.reloaded

    monkeypatch.setattr(acme, "issue", issue)
    monkeypatch.setattr(acme, "now", lambda: NOW + timedelta(days=day))
    both = ["nginx", "shop-tls"]
    services.broken = ("nginx",)
    assert renewed() == ("shop: nginx refuses its configuration", both)
    # The new one is not due, but nginx has not read it.
    day = 1
    assert renewed() == ("shop: nginx refuses its configuration", both)
    # Also where there is no way to the next one.
    day, down = 70, True
    assert renewed() == ("shop: the authority is down\nshop: nginx refuses its configuration", both)
    services.broken = ()
    assert renewed() == ("shop: the authority is down", both)
    # Once all of them have been reloaded, they are left alone.
    day = 1
    assert renewed() == ("", [])
    assert issued == [70]
    assert sorted(path.name for path in place.iterdir()) == ["1", "live"]


def test_the_next_pair_is_told_once(acme: Any, config: Any, folder: Any, services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(days=90).parent
    monkeypatch.setattr(acme, "issue", lambda _config, _names: (place / "reload-due").touch())
    monkeypatch.setattr(acme, "now", lambda: NOW + timedelta(days=70))
    services.broken = ("nginx",)
    for _run in range(2):
        assert acme.renew(config(services=["nginx"])) == "shop: nginx refuses its configuration"


def test_what_waits_for_a_reload_is_remembered_beside_the_next_pair(acme: Any, folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder().parent
    monkeypatch.setattr(acme.certificate, "nginx_refuses", lambda: "")
    for generation in ("2", "3"):
        (place / generation).mkdir()
        acme.put_into_service("shop", place / generation)
    # 2 has never been served.
    assert (place / "reload-due").read_text() == "1"
    acme.certificate.Place(acme.ROOT, "shop").proved()
    assert sorted(path.name for path in place.iterdir()) == ["3", "fullchain.pem", "live", "privkey.pem"]
