"""How one certificate takes the place of another, on a host whose nginx and systemd are played."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import certificate
from ansible_collections.steadfast.asgi.plugins.modules import asgi_certificate

Apply = Callable[..., dict[str, Any]]

NAMES = ["DNS:given.example.org"]
FOREIGN = 'nginx: [emerg] unknown directive "x" in /etc/nginx/conf.d/other.conf:3'


class Killed(BaseException):
    """The process is gone, as after SIGKILL."""


class Host:
    """nginx and systemd. `refused`, `not_taken` and `stuck` are functions of the certificate that is live."""

    def __init__(self, root: Path) -> None:
        self.place = certificate.Place(root, "shop")
        self.foreign = ""
        self.alone = ""
        self.refused: Callable[[bytes], bool] = lambda _: False
        self.not_taken: Callable[[bytes], bool] = lambda _: False
        self.stuck: Callable[[bytes], bool] = lambda _: False
        self.served = b""
        self.reloads = 0

    def live(self) -> bytes:
        return certificate.leaf(self.place.path)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        rc, stderr = 0, ""
        if command[0] == "nginx" and "-c" in command:
            stderr = self.alone
        elif command[:2] == ("nginx", "-t"):
            stderr = self.foreign
            if not stderr and (self.refused(self.live()) or (self.served and not self.live())):
                stderr = f'nginx: [emerg] cannot load certificate "{self.place.path}/fullchain.pem": BIO_new_file() failed'
        rc = 1 if stderr else 0
        return subprocess.CompletedProcess(command, rc, "", stderr)

    def reload(self) -> None:
        self.reloads += 1
        if said := certificate.nginx_refuses():
            raise certificate.CertificateError(f"nginx is not reloaded, because it refuses its configuration:\n{said}")
        if self.not_taken(self.live()):
            raise certificate.CertificateError("nginx did not take its configuration when it was reloaded; see its error log.")
        if not self.stuck(self.live()):
            self.served = self.live()

    def shown(self, _place: certificate.Place, old: bytes) -> str:
        return "127.0.0.1:443 (shop)" if old and self.served == old else ""

    @property
    def generations(self) -> int:
        return sum(1 for path in self.place.path.iterdir() if path.is_dir() and not path.is_symlink())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path / "certificates")
    monkeypatch.setattr(asgi_certificate, "ROOT", tmp_path / "certificates")
    monkeypatch.setattr(asgi_certificate, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(certificate, "nginx", lambda: "nginx")
    monkeypatch.setattr(certificate, "_run", host.run)
    monkeypatch.setattr(certificate, "reload_nginx", host.reload)
    monkeypatch.setattr(certificate, "still_shown", host.shown)
    return host


@pytest.fixture
def apply(run_module: Callable[..., dict[str, Any]], pki: Any) -> Apply:
    def run(case: str = "fine", **arguments: Any) -> dict[str, Any]:
        made = pki.cases()[case]
        given = {"chain": made.chain.decode("utf-8", "surrogateescape"), "key": made.key.decode("utf-8", "surrogateescape")}
        all_of_them = {"name": "shop", "names": NAMES, "services": ["nginx"]} | given | arguments
        return run_module(asgi_certificate.main, **{name: value for name, value in all_of_them.items() if value is not None})

    return run


def leaf(pki: Any, case: str) -> bytes:
    return certificate.certificates(pki.cases()[case].chain)[0].der


OLD, NEW = "fine", "fine: RSA"


def test_first_second_and_the_same_again(host: Host, apply: Apply, pki: Any) -> None:
    assert apply(check=True)["changed"]
    assert not host.place.path.exists()
    for reloads, case in ((1, OLD), (2, NEW)):
        assert apply(case)["changed"]
        assert (host.served, host.reloads, host.generations, host.place.due) == (leaf(pki, case), reloads, 1, False)
        assert not apply(case)["changed"]
        assert not apply(case, check=True)["changed"]
        assert host.reloads == reloads
    assert os.stat(host.place.path / "privkey.pem").st_mode & 0o777 == 0o600
    assert os.stat(host.place.path / "fullchain.pem").st_mode & 0o777 == 0o644


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("way", ["content", "files", "generation"])
def test_whatever_is_bad_changes_nothing(host: Host, apply: Apply, pki: Any, tmp_path: Path, way: str, check: bool) -> None:
    apply()
    before = sorted(os.listdir(host.place.path)), host.place.live, host.reloads
    wrong = {}
    for name, case in pki.cases().items():
        if not case.said or (way == "content" and case.binary):
            continue
        arguments: dict[str, Any] = {}
        if way != "content":
            folder = host.place.path / "next" if way == "generation" else tmp_path
            folder.mkdir(exist_ok=True)
            (folder / "fullchain.pem").write_bytes(case.chain)
            (folder / "privkey.pem").write_bytes(case.key)
            files = {"chain_file": str(folder / "fullchain.pem"), "key_file": str(folder / "privkey.pem")}
            arguments = {"chain": None, "key": None} | ({"generation": "next"} if way == "generation" else files)
        result = apply(name if way == "content" else "fine", check=check, **arguments)
        if way == "generation" and check:
            (folder / "fullchain.pem").unlink()
            (folder / "privkey.pem").unlink()
            folder.rmdir()
        if (
            not (result.get("failed") and (case.said in result["msg"] or "has more than" in result["msg"]))
            or (sorted(os.listdir(host.place.path)), host.place.live, host.reloads) != before
        ):
            wrong[name] = result
        assert "PRIVATE KEY-----\n" not in str(result["msg"])
    assert wrong == {}
    assert certificate.usable(host.place.path / "live")


def test_what_nginx_alone_refuses_changes_nothing(host: Host, apply: Apply, pki: Any) -> None:
    apply()
    host.alone = "nginx: [emerg] SSL_CTX_use_certificate() failed (SSL: error:0A00018F:SSL routines::ee key too small)"
    for check in (True, False):
        result = apply(NEW, check=check)
        assert "ee key too small" in result["msg"]
        assert (host.served, host.generations) == (leaf(pki, OLD), 1)


@pytest.mark.parametrize("how", ["refused", "not_taken", "stuck"])
def test_what_nginx_does_not_take_goes_back(host: Host, apply: Apply, pki: Any, how: str) -> None:
    apply()
    setattr(host, how, lambda live: live == leaf(pki, NEW))
    said = {"refused": "cannot load certificate", "not_taken": "did not take its configuration", "stuck": "still shows the old certificate"}
    for _run in range(2):
        result = apply(NEW)
        assert said[how] in result["msg"]
        assert "the old one is live again" in result["msg"]
        assert (host.live(), host.served, host.generations) == (leaf(pki, OLD), leaf(pki, OLD), 1)
        assert not host.place.due
        assert not certificate.nginx_refuses()
    setattr(host, how, lambda _: False)
    assert apply(NEW)["changed"]
    assert (host.served, host.generations) == (leaf(pki, NEW), 1)


def test_the_first_that_nginx_does_not_take(host: Host, apply: Apply, pki: Any) -> None:
    host.not_taken = lambda _: True
    result = apply()
    assert "it is live, but not yet in service, and the next run tries again" in result["msg"]
    assert (host.live(), host.place.due) == (leaf(pki, OLD), True)
    assert apply(check=True)["changed"]
    host.not_taken = lambda _: False
    assert apply()["changed"]
    assert (host.served, host.place.due) == (leaf(pki, OLD), False)


def test_what_cannot_be_reloaded_with_either_is_told_so(host: Host, apply: Apply, pki: Any) -> None:
    apply()
    host.not_taken = lambda _: True
    result = apply(NEW)
    assert "The old one is live again, but could not be reloaded either" in result["msg"]
    assert host.live() == leaf(pki, OLD)
    host.not_taken = lambda _: False
    assert apply(OLD)["changed"], "it may not be what is served"
    assert (host.served, host.generations, host.place.due) == (leaf(pki, OLD), 1, False)


@pytest.mark.parametrize("check", [False, True])
def test_a_configuration_that_is_broken_elsewhere_is_not_ours(host: Host, apply: Apply, pki: Any, check: bool) -> None:
    apply()
    host.foreign = FOREIGN
    assert not apply(OLD, check=check)["changed"]
    result = apply(NEW, check=check)
    assert (
        "refuses the configuration that is on this host already, and not for the certificate of shop. Nothing was changed" in result["msg"]
    )
    assert "other.conf:3" in result["msg"]
    assert (host.live(), host.generations, host.reloads) == (leaf(pki, OLD), 1, 1)


def test_one_that_broke_nginx_is_replaced(host: Host, apply: Apply, pki: Any) -> None:
    """As a host is that another version of this collection, or somebody else, has left."""
    apply()
    bad = pki.cases()["no line break between two blocks"]
    (host.place.path / "live/fullchain.pem").write_bytes(bad.chain)
    host.refused = lambda live: live == b""
    assert certificate.nginx_refuses()
    assert apply(NEW)["changed"]
    assert (host.served, host.generations) == (leaf(pki, NEW), 1)
    assert not certificate.nginx_refuses()


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: (path / "live").unlink(),
        lambda path: (path / "fullchain.pem").unlink(),
        lambda path: ((path / "privkey.pem").unlink(), (path / "privkey.pem").write_text("x")),
        lambda path: (path / "live/privkey.pem").chmod(0o644),
        lambda path: (path / "live/privkey.pem").write_text("x"),
        lambda path: (path / "live/privkey.pem").unlink(),
        lambda path: ((path / "live/fullchain.pem").rename(path / "x"), (path / "live/fullchain.pem").symlink_to("../x")),
    ],
)
def test_what_somebody_has_changed_is_healed(host: Host, apply: Apply, pki: Any, harm: Callable[[Path], Any]) -> None:
    apply()
    harm(host.place.path)
    assert apply(check=True)["changed"]
    assert apply()["changed"]
    assert certificate.is_live(host.place, pki.cases()[OLD].chain, pki.cases()[OLD].key)
    assert (host.served, host.generations) == (leaf(pki, OLD), 1)
    assert not apply()["changed"]


def test_keys_of_a_run_that_was_killed_do_not_stay(host: Host, apply: Apply) -> None:
    apply()
    (host.place.path / "stray").mkdir()
    (host.place.path / "stray/privkey.pem").touch()
    assert apply(check=True)["changed"]
    assert host.generations == 2
    assert apply()["changed"]
    assert (host.generations, host.reloads) == (1, 1)
    assert not apply()["changed"]


def test_what_an_earlier_version_linked_is_copied(host: Host, apply: Apply, pki: Any, tmp_path: Path) -> None:
    good = pki.cases()[OLD]
    (tmp_path / "chain.pem").write_bytes(good.chain)
    (tmp_path / "key.pem").write_bytes(good.key)
    (host.place.path / "1").mkdir(parents=True)
    (host.place.path / "1/fullchain.pem").symlink_to(tmp_path / "chain.pem")
    (host.place.path / "1/privkey.pem").symlink_to(tmp_path / "key.pem")
    host.place.point("1")
    files = {"chain": None, "key": None, "chain_file": str(tmp_path / "chain.pem"), "key_file": str(tmp_path / "key.pem")}
    assert apply(**files)["changed"]
    assert not apply(**files)["changed"]
    assert certificate.is_live(host.place, good.chain, good.key)
    assert (tmp_path / "key.pem").exists()


def test_files_of_another_way_go_last(host: Host, apply: Apply, tmp_path: Path) -> None:
    apply()
    (tmp_path / "shop.json").touch()
    host.not_taken = lambda _: True
    absent = [str(tmp_path / "shop.json"), str(tmp_path / "none")]
    assert apply(NEW, absent=absent)["failed"]
    assert (tmp_path / "shop.json").exists()
    host.not_taken = lambda _: False
    assert apply(NEW, absent=absent)["changed"]
    assert not (tmp_path / "shop.json").exists()
    assert not apply(NEW, absent=absent)["changed"]


STEPS = ["write", "_link", "sync", "nginx_refuses", "reload_services", "still_shown"]


@pytest.mark.parametrize("outcome", ["taken", "refused"])
def test_a_run_that_is_killed_at_any_step(host: Host, apply: Apply, pki: Any, monkeypatch: pytest.MonkeyPatch, outcome: str) -> None:
    """At each step there is a key with its certificate, and the next run finishes the job."""
    plain = {name: getattr(certificate, name) for name in STEPS}
    point = 0
    while True:
        apply(OLD)
        if outcome == "refused":
            host.not_taken = lambda live: live == leaf(pki, NEW)
        left = point

        def counted(name: str) -> Callable[..., Any]:
            def run(*arguments: Any, **named: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    raise Killed
                done = plain[name](*arguments, **named)
                left -= 1
                if left == 0:
                    raise Killed
                return done

            return run

        for name in STEPS:
            monkeypatch.setattr(certificate, name, counted(name))
        try:
            point += 1
            left = point
            apply(NEW)
            killed = False
        except Killed:
            killed = True
        for name in STEPS:
            monkeypatch.setattr(certificate, name, plain[name])
        assert certificate.usable(host.place.path), point
        assert host.live() in (leaf(pki, OLD), leaf(pki, NEW))
        host.not_taken = lambda _: False
        # A restart of nginx serves what is live.
        if not killed:
            break
        apply(NEW)
        assert (host.live(), host.served, host.generations) == (leaf(pki, NEW), leaf(pki, NEW), 1), point
        assert not host.place.due
        assert not apply(NEW)["changed"]
    assert point > 20


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system"), PermissionError(1, "Operation not permitted")]
)
@pytest.mark.parametrize("call", range(1, 9))
def test_what_cannot_be_written_leaves_the_old_one(
    host: Host, apply: Apply, pki: Any, monkeypatch: pytest.MonkeyPatch, error: OSError, call: int
) -> None:
    apply(OLD)
    calls = 0

    def counted(plain: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                raise error
            return plain(*arguments, **named)

        return run

    monkeypatch.setattr(certificate, "write", counted(certificate.write))
    monkeypatch.setattr(certificate, "_link", counted(certificate._link))
    result = apply(NEW)
    monkeypatch.undo()
    assert certificate.usable(host.place.path)
    if calls >= call:
        assert error.strerror in result["msg"]
        assert (host.live(), host.generations) == (leaf(pki, OLD), 1)
    else:
        assert result["changed"]


def test_configuration_is_read_as_nginx_prints_it() -> None:
    text = """
# configuration file /etc/nginx/nginx.conf:
http {
    map $a $b { "~*x;{" 1; default '}'; }
    server { listen 80; server_name shop; }
    server {
        listen 443 ssl; listen [::]:443 ssl http2; listen 443 quic; listen 127.0.0.2:8443 ssl proxy_protocol; listen unix:/a ssl;
        listen 192.0.2.7:444 ssl default_server;
        server_name ~^x$ *.shop.example shop.example;
        ssl_certificate /c/shop/fullchain.pem;
        location / { if ($x ~ "}") { return 200; } }
    }
    server { listen 445 ssl; server_name other; ssl_certificate /c/other/fullchain.pem; }
}
"""
    assert certificate.sites(text, "/c/shop/fullchain.pem") == [
        ("127.0.0.1", 443, "a.shop.example"),
        ("::1", 443, "a.shop.example"),
        ("192.0.2.7", 444, "a.shop.example"),
    ]
    assert certificate.sites(text, "/c/none") == []
    assert certificate.sites("} } {", "/c/none") == []
