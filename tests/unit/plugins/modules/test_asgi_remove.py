"""What goes with an application and what stays: real files, and a systemd and accounts that are played."""

from __future__ import annotations

import fcntl
import os
import pwd
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import Layout
from ansible_collections.steadfast.asgi.plugins.module_utils.units import Systemd
from ansible_collections.steadfast.asgi.plugins.modules import asgi_remove
from ansible_collections.steadfast.asgi.plugins.modules.asgi_remove import Removal, RemoveError, run

UNITS = "etc/systemd/system"
# What an application has, by its name; and what it has written itself.
FILES = [
    "etc/systemd/system/{}@blue.service",
    "etc/systemd/system/{}@blue.socket",
    "etc/systemd/system/{}@green.service",
    "etc/systemd/system/{}@green.socket",
    "etc/systemd/system/{}-tls.service",
    "etc/systemd/system/{}-tls-443.service",
    "etc/systemd/system/{}-tls-443.socket",
    "etc/systemd/system/multi-user.target.wants/{}@blue.service",
    "etc/systemd/system/sockets.target.wants/{}@blue.socket",
    "etc/systemd/system/asgi-{}.slice",
    "etc/tmpfiles.d/{}.conf",
    "run/systemd/system/{}-command-12-345.service",
    "etc/asgi-certificates/acme/{}.json",
    "etc/asgi-certificates/{}/live/privkey.pem",
    "run/{}/blue.sock",
    "etc/{}/next/env",
    "opt/{}/.steadfast-asgi",
    "opt/{}/releases/1.0-0a1b/release.json",
]
DATA = ["var/lib/{}/database", "var/cache/{}/page", "var/log/{}/own.log", "var/log/nginx/{}.access.log", "var/log/nginx/{}.access.log.1.gz"]
# Everybody's.
SHARED = ["etc/asgi-certificates/ca/ca-key.pem", "opt/uv/cache/uv/x", "var/log/nginx/error.log"]
TIMER = [f"{UNITS}/asgi-acme.timer", f"{UNITS}/asgi-acme.service"]


class Played:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.calls: list[str] = []
        self.running: set[str] = set()
        self.accounts: dict[str, str] = {}

    def write(self, *names: str) -> None:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def application(self, app: str) -> None:
        self.write(*(name.format(app) for name in FILES + DATA))
        self.running |= {
            f"{app}@blue.service",
            f"{app}@blue.socket",
            f"{app}-tls-443.socket",
            f"{app}-tls-443.service",
            f"asgi-{app}.slice",
        }
        self.accounts[app] = f"{app} (ASGI application)"

    def command(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        words, output = list(command), ""
        unit = words[-1]
        if words[:2] == ["systemctl", "show"]:
            output = f"ActiveState={'active' if unit in self.running else 'inactive'}\n"
        else:
            self.calls.append(" ".join(words))
            if "stop" in words:
                self.running.discard(unit)
            elif words[0] == "userdel":
                del self.accounts[unit]
        return subprocess.CompletedProcess(words, 0, output, "")

    def remove(self, app: str, data: bool = False, check: bool = False) -> list[str]:
        removed: list[str] = []
        run(Removal(Layout(app, str(self.root)), Systemd(self.command), data), check, removed)
        return [what.replace(f"{self.root}/", "/") for what in removed]

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    played = Played(tmp_path)

    def entries() -> list[pwd.struct_passwd]:
        # No group of the machine that tests has this number.
        homes = {name: f"/opt/uv/cache/users/{name}" if name.startswith("asgi-build-") else "/" for name in played.accounts}
        return [pwd.struct_passwd((name, "x", 1, 4294967, gecos, homes[name], "/")) for name, gecos in played.accounts.items()]

    monkeypatch.setattr(pwd, "getpwall", entries)
    played.write(*SHARED, *TIMER)
    (tmp_path / "run").mkdir()
    return played


def test_all_of_one_goes_but_what_it_has_written_and_nothing_of_another(played: Played) -> None:
    played.application("shop")
    # Whose name begins alike, as do its units.
    played.application("shop-command-1")
    others = {name.format("shop-command-1") for name in FILES + DATA} | set(SHARED + TIMER)
    announced = played.remove("shop", check=True)
    assert played.calls == []
    assert played.files() == others | {name.format("shop") for name in FILES + DATA}, "check mode only tells"

    assert played.remove("shop") == announced
    assert played.files() == others | {name.format("shop") for name in DATA}
    assert "user shop" not in announced, "the data would be owned by whoever comes next"
    assert played.running == {
        "shop-command-1@blue.service",
        "shop-command-1@blue.socket",
        "shop-command-1-tls-443.socket",
        "shop-command-1-tls-443.service",
        "asgi-shop-command-1.slice",
    }
    assert [word for call in played.calls for word in call.split() if word.startswith("shop-command-1")] == []
    assert "systemctl daemon-reload" in played.calls
    assert played.remove("shop") == []


def test_the_socket_is_stopped_before_the_service_and_the_mark_goes_last(played: Played) -> None:
    played.application("shop")
    removed = played.remove("shop", data=True)
    assert removed.index("unit shop@blue.socket") < removed.index("unit shop@blue.service") < removed.index("unit asgi-shop.slice")
    assert removed[-1] == "/opt/shop"
    assert removed.index("/var/lib/shop") < removed.index("user shop")


def test_data_goes_when_that_is_asked_for_also_afterwards(played: Played) -> None:
    played.application("shop")
    played.remove("shop")
    assert played.remove("shop", data=True) == [
        "/var/lib/shop",
        "/var/cache/shop",
        "/var/log/shop",
        "/var/log/nginx/shop.access.log",
        "/var/log/nginx/shop.access.log.1.gz",
        "user shop",
    ]
    assert played.files() == set(SHARED)
    assert played.remove("shop", data=True) == []


def test_the_account_goes_where_there_is_no_data(played: Played) -> None:
    played.application("shop")
    for place in ("lib", "cache", "log"):
        asgi_remove.remove(f"{played.root}/var/{place}/shop")
    assert "user shop" in played.remove("shop")


def test_who_builds_goes_with_its_cache_unless_others_may_need_it(played: Played) -> None:
    for app in ("shop", "blog"):
        played.application(app)
        played.accounts[f"asgi-build-{app}"] = f"{app} (builds of an ASGI application)"
        played.write(f"opt/uv/cache/users/asgi-build-{app}/wheels/x")
    played.accounts["builder"] = "shop (builds of an ASGI application)"
    removed = played.remove("shop", check=True)
    assert removed == played.remove("shop")
    assert "user asgi-build-shop" in removed
    assert "/opt/uv/cache/users/asgi-build-shop" in removed
    assert {"asgi-build-blog", "builder"} <= set(played.accounts)
    assert "asgi-build-shop" not in played.accounts
    assert "opt/uv/cache/users/asgi-build-blog/wheels/x" in "".join(played.files())


def test_the_timer_that_renews_goes_with_the_last_certificate(played: Played) -> None:
    played.application("shop")
    played.application("data")
    played.remove("shop")
    assert played.files() >= set(TIMER)
    played.remove("data")
    assert not played.files() & set(TIMER)
    assert "systemctl --quiet disable --now asgi-acme.timer" in played.calls


@pytest.mark.parametrize("left", range(len(FILES)))
def test_one_that_was_removed_by_half_is_removed_to_its_end(played: Played, left: int) -> None:
    played.application("shop")
    played.running.clear()
    for name in FILES[left + 1 :]:
        if not name.endswith("/.steadfast-asgi"):
            os.unlink(played.root / name.format("shop"))
    played.remove("shop", data=True)
    assert played.files() == set(SHARED)


def test_what_somebody_else_has_set_up_is_refused(played: Played) -> None:
    played.write("opt/shop/program", "etc/shop/settings")
    with pytest.raises(RemoveError, match=r"opt/shop, .*etc/shop: .* no .*/opt/shop/.steadfast-asgi"):
        played.remove("shop")
    assert (played.root / "opt/shop/program").exists()


@pytest.mark.parametrize("check", [False, True])
@pytest.mark.parametrize("lock", ["run/asgi-shop.lock", "opt/shop/releases/.lock"])
def test_a_deployment_is_not_disturbed(played: Played, lock: str, check: bool) -> None:
    played.application("shop")
    played.write(lock)
    (played.root / lock).chmod(0o600)
    before = played.files()
    with open(played.root / lock, "rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(LockedError):
            played.remove("shop", check=check)
    assert (played.files(), played.calls) == (before, [])


def test_links_are_removed_and_not_what_they_lead_to(played: Played) -> None:
    played.application("shop")
    played.write("srv/shop/database")
    asgi_remove.remove(f"{played.root}/var/lib/shop")
    (played.root / "var/lib/shop").symlink_to(played.root / "srv/shop")
    played.remove("shop", data=True)
    assert not (played.root / "var/lib/shop").is_symlink()
    assert (played.root / "srv/shop/database").exists()
