"""What was there keeps working, and what came from this collection works beside it."""

from __future__ import annotations

import pytest
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import Client, changed, play


def client_of(host: Host, domain: str) -> Client:
    return Client(host, domain, host.file(f"/etc/ssl/theirs/{domain}.pem").content_string)


@pytest.fixture
def theirs(host: Host) -> Client:
    return client_of(host, "theirs.example")


@pytest.fixture
def shop(host: Host) -> Client:
    return client_of(host, "shop.example")


def test_their_files_are_as_they_were(host: Host) -> None:
    host.check_output("grep --quiet /etc/nginx/nginx.conf /root/before/files && sha256sum --check --quiet /root/before/files")


@pytest.mark.parametrize("database", ["passwd", "group"])
def test_their_accounts_are_as_they_were(host: Host, database: str) -> None:
    assert host.check_output(f"getent {database}") == host.check_output(f"cat /root/before/{database}")


def test_their_processes_are_the_same(host: Host) -> None:
    """nginx has been reloaded, and nothing was restarted."""
    before = host.check_output("cat /root/before/processes")
    assert before.count("MainPID=") == 2
    assert "MainPID=0" not in before.splitlines()
    assert host.check_output("systemctl show --property MainPID nginx till") == before


def test_their_site_answers(theirs: Client) -> None:
    for answer in (theirs.ask("/"), theirs.ask_without_tls("/")):
        assert (answer.status_code, answer.text) == (200, "theirs\n")
        assert answer.headers["x-theirs"] == "yes"
        assert "strict-transport-security" not in answer.headers


def test_their_site_stays_the_one_for_other_names(theirs: Client) -> None:
    theirs.domain = "whatever.example"
    assert theirs.ask_without_tls("/").text == "theirs\n"


def test_the_new_site_answers(shop: Client) -> None:
    answer = shop.ask("/")
    assert (answer.status_code, answer.json()["version"]) == (200, "1")
    assert answer.headers["strict-transport-security"] == "max-age=63072000"
    assert shop.ask_without_tls("/a?b").headers["location"] == "https://shop.example/a?b"


def test_the_new_site_tells_the_program_who_asks(shop: Client) -> None:
    seen = shop.ask("/whoami", headers={"X-Forwarded-For": "6.6.6.6"}).json()
    assert seen["client"][0] == shop.own_address()
    assert seen["scheme"] == "https"


def test_the_new_service_answers_behind_their_own_site(theirs: Client, host: Host) -> None:
    answer = theirs.ask("/ledger/")
    assert (answer.status_code, answer.json()["version"]) == (200, "1")
    environment = host.check_output(f"tr '\\0' '\\n' </proc/{answer.json()['pid']}/environ").splitlines()
    assert "USER=keeper" in environment
    assert {"ASGI_SLOT=blue", "ASGI_SLOT=green"} & set(environment)


def test_their_playbook_undoes_nothing(host: Host, theirs: Client, shop: Client) -> None:
    assert changed(play("theirs.yml", host), host) == []
    assert theirs.ask("/").text == "theirs\n"
    assert theirs.ask("/ledger/").status_code == 200
    assert shop.ask("/").status_code == 200
