"""The copy of the certificate that a slot serves."""

from __future__ import annotations

import grp
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import pair as pair_module
from ansible_collections.steadfast.asgi.plugins.module_utils.pair import Pair, PairError

Issue = Callable[[Path], None]


@pytest.fixture
def pair(tmp_path: Path, issue: Issue, monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    issue(tmp_path / "host")
    (tmp_path / "etc/shop/blue").mkdir(parents=True)
    (tmp_path / "run/shop").mkdir(parents=True)
    named = {
        "certificate": f"{tmp_path}/host/fullchain.pem",
        "key": f"{tmp_path}/host/privkey.pem",
        "client_ca": "",
        "group": grp.getgrgid(os.getgid()).gr_name,
    }
    (tmp_path / "etc/shop/blue/tls.json").write_text(json.dumps(named))
    found = Pair.of_slot("shop", "blue", str(tmp_path))
    assert found
    return found


def test_a_slot_without_tls_has_none(tmp_path: Path) -> None:
    assert Pair.of_slot("shop", "green", str(tmp_path)) is None


def test_a_slot_is_given_what_only_its_group_can_read(pair: Pair) -> None:
    assert pair.renewed()
    assert not pair.usable()
    assert pair.install()
    assert pair.usable()
    assert not pair.renewed()
    assert not pair.install(), "nothing has changed"
    assert stat.S_IMODE(os.stat(pair.folder).st_mode) == 0o750
    assert stat.S_IMODE(os.stat(f"{pair.folder}/pair.pem").st_mode) == 0o640
    assert os.listdir(os.path.dirname(pair.folder)) == ["tls-blue"]


def test_a_renewed_one_is_noticed_and_taken(pair: Pair, tmp_path: Path, issue: Issue) -> None:
    pair.install()
    issue(tmp_path / "host")
    assert pair.renewed()
    assert pair.install()
    assert not pair.renewed()


@pytest.mark.parametrize("broken", ["privkey.pem", "fullchain.pem"])
@pytest.mark.parametrize("how", ["of another", "empty", "missing", "no text"])
def test_what_cannot_be_used_is_not_taken(pair: Pair, tmp_path: Path, issue: Issue, broken: str, how: str) -> None:
    pair.install()
    before = Path(pair.folder, "pair.pem").read_bytes()
    path = tmp_path / "host" / broken
    if how == "of another":
        issue(tmp_path / "other")
        path.write_bytes((tmp_path / "other" / broken).read_bytes())
    elif how == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else bytes(range(256)))
    with pytest.raises(PairError, match=broken):
        pair.install()
    assert Path(pair.folder, "pair.pem").read_bytes() == before
    assert pair.usable()
    assert pair.renewed(), "whoever reloads is to say so"
    assert os.listdir(os.path.dirname(pair.folder)) == ["tls-blue"]


def test_whatever_is_bad_is_not_taken(pair: Pair, tmp_path: Path, pki: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What names it has is nobody's business here, and whom it is from neither."""
    pair.install()
    before = Path(pair.folder, "pair.pem").read_bytes()
    monkeypatch.setattr(Pair, "of_slot", lambda _app, _slot: pair)
    taken, kept = set(), 0
    for name, case in pki.cases().items():
        (tmp_path / "host/fullchain.pem").write_bytes(case.chain)
        (tmp_path / "host/privkey.pem").write_bytes(case.key)
        if not case.said:
            assert pair.install(), name
            Path(pair.folder, "pair.pem").write_bytes(before)
            continue
        try:
            pair.install()
        except PairError:
            assert Path(pair.folder, "pair.pem").read_bytes() == before, name
            assert pair_module.main(["--app", "shop", "--slot", "blue", "--or-keep"]) == 0, name
            assert Path(pair.folder, "pair.pem").read_bytes() == before, name
            kept += 1
        else:
            taken.add(name)
            Path(pair.folder, "pair.pem").write_bytes(before)
    assert kept >= 35
    # These a server can load, and sends as they were written. The role asgi_certificate refuses them.
    assert taken <= {
        "brainpool", "DSA", "gap", "issuer that is no authority", "leaf that is an authority", "leaf twice", "namesake of the issuer",
        "no names", "only for clients", "only the intermediate", "other names", "root in the middle", "root twice", "secp256k1",
        "signature that is wrong", "wildcard of two levels",
        # By the security level of this OpenSSL.
        "signed with SHA-1", "signed with MD5", "issuer signed with SHA-1",
    }  # fmt: skip


def test_an_expired_one_is_better_than_none(pair: Pair, tmp_path: Path, pki: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pair, "of_slot", lambda _app, _slot: pair)
    case = pki.cases()["expired"]
    (tmp_path / "host/fullchain.pem").write_bytes(case.chain)
    (tmp_path / "host/privkey.pem").write_bytes(case.key)
    with pytest.raises(PairError, match="is valid from"):
        pair.install()
    assert pair_module.main(["--app", "shop", "--slot", "blue"]) == 1
    assert pair_module.main(["--app", "shop", "--slot", "blue", "--or-keep"]) == 0
    assert pair.usable()


def test_a_renewal_between_two_reads_is_waited_for(pair: Pair, tmp_path: Path, issue: Issue, monkeypatch: pytest.MonkeyPatch) -> None:
    issue(tmp_path / "next")
    key = tmp_path / "host/privkey.pem"
    key.write_bytes((tmp_path / "next/privkey.pem").read_bytes())

    def finish(_: float) -> None:
        (tmp_path / "host/fullchain.pem").write_bytes((tmp_path / "next/fullchain.pem").read_bytes())

    monkeypatch.setattr(time, "sleep", finish)
    assert pair.install()


def test_an_authority_of_clients_goes_with_it(pair: Pair, tmp_path: Path) -> None:
    with_authority = Pair(pair.certificate, pair.key, f"{tmp_path}/clients.pem", pair.group, pair.folder)
    (tmp_path / "clients.pem").write_text("no certificate")
    with pytest.raises(PairError, match=r"clients\.pem has no certificate of an authority"):
        with_authority.install()
    (tmp_path / "clients.pem").write_bytes((tmp_path / "host/fullchain.pem").read_bytes())
    assert with_authority.install()
    assert sorted(os.listdir(pair.folder)) == ["client-ca.pem", "pair.pem"]


@pytest.mark.parametrize(("keep", "code"), [(False, 1), (True, 0)])
def test_a_slot_that_is_started_again_may_go_on_with_what_it_has(
    pair: Pair, tmp_path: Path, keep: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Pair, "of_slot", lambda _app, _slot: pair)
    arguments = ["--app", "shop", "--slot", "blue", *(["--or-keep"] if keep else [])]
    (tmp_path / "host/privkey.pem").rename(tmp_path / "host/moved")
    assert pair_module.main(arguments) == 1, "there is none to keep"
    (tmp_path / "host/moved").rename(tmp_path / "host/privkey.pem")
    assert pair_module.main(arguments) == 0
    (tmp_path / "host/privkey.pem").unlink()
    capsys.readouterr()
    assert pair_module.main(arguments) == code
    assert "privkey.pem cannot be read: No such file or directory" in capsys.readouterr().err
