"""Each application answers by its own name, and what is done to one of them is nothing to the others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import Client, changed, play

APPS = ["data", "api", "desk"]


@pytest.fixture
def client(host: Host) -> Callable[[str], Client]:
    def of(app: str) -> Client:
        exported = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"{app}-ca.pem")
        return Client(host, f"{app}.example", exported.read_text(encoding="utf-8"))

    return of


@pytest.mark.parametrize(
    ("app", "path", "said"),
    [
        ("data", "/-/versions.json", '"version": "0.65.5"'),
        ("data", "/_memory.json?sql=select+6*7", "42"),
        ("api", "/ready", '{"status":"ready"}'),
        ("api", "/schema/openapi.json", '"openapi":"3.1.0"'),
        ("desk", "/ready", "Django 6.1"),
        ("desk", "/admin/login/", "Log in"),
    ],
)
def test_it_answers_by_its_own_name(client: Callable[[str], Client], app: str, path: str, said: str) -> None:
    answer = client(app).ask(path)
    assert answer.status_code == 200
    assert said in answer.text


def test_what_the_admin_s_pages_name_is_served(client: Callable[[str], Client]) -> None:
    desk = client("desk")
    named = re.findall(r'(?:href|src)="(/static/[^"]+)"', desk.ask("/admin/login/").text)
    assert named
    for path in named:
        assert desk.ask(path).status_code == 200


def test_the_database_was_migrated(client: Callable[[str], Client]) -> None:
    """A wrong password is looked for in the database's table of users."""
    desk = client("desk")
    page = desk.ask("/admin/login/")
    token = re.findall(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)[0]
    answer = desk.ask(
        "/admin/login/",
        "POST",
        headers={"Cookie": f"csrftoken={page.cookies['csrftoken']}", "Referer": "https://desk.example/admin/login/"},
        data={"csrfmiddlewaretoken": token, "username": "nobody", "password": "x"},
    )
    assert answer.status_code == 200
    assert "Please enter the correct username" in answer.text


def test_uploads_outlive_a_release(host: Host) -> None:
    app = "/opt/desk/slots/live/release/app"
    assert host.run(f"runuser -u desk -- touch {app}/media/upload").rc == 0
    assert host.file("/var/lib/desk/media/upload").user == "desk"
    assert host.run(f"runuser -u desk -- touch {app}/upload").rc != 0
    assert host.run(f"runuser -u api -- cat {app}/media/upload").rc != 0


def state(host: Host, app: str) -> str:
    """All that there is of an application: its processes, its settings, its releases and its site.

    But for the number of names that a file has, since applications share those of packages.
    """
    site = f"/etc/nginx/conf.d/asgi-{app}.conf"
    files = f"find /etc/{app} /opt/{app} {site} -printf '%i %M %u %g %s %t %p %l\\n'; sha256sum {site}"
    return host.check_output(f"systemctl show --property MainPID,ActiveEnterTimestamp '{app}@*.service'; {files}")


def test_another_deployment_of_one_leaves_the_others_alone(host: Host, client: Callable[[str], Client]) -> None:
    before = {app: state(host, app) for app in APPS}
    for app in APPS:
        assert "MainPID=" in before[app]
    other = "-e={'api_environment': {'ANOTHER': 'time'}}"
    assert changed(play("api.yml", host, other), host)
    after = {app: state(host, app) for app in APPS}
    assert after["api"] != before["api"]
    assert (after["data"], after["desk"]) == (before["data"], before["desk"])
    for app, path in (("data", "/-/versions.json"), ("api", "/ready"), ("desk", "/ready")):
        assert client(app).ask(path).status_code == 200
    assert changed(play("api.yml", host, other), host) == []


def test_one_that_is_stopped_takes_no_other_along(host: Host, client: Callable[[str], Client]) -> None:
    slot = host.check_output("readlink /opt/data/slots/live")
    host.check_output(f"systemctl stop data@{slot}.socket data@{slot}.service")
    try:
        assert client("data").ask("/-/versions.json").status_code == 502
        assert client("api").ask("/ready").status_code == 200
        assert client("desk").ask("/ready").status_code == 200
    finally:
        host.check_output(f"systemctl start data@{slot}.socket data@{slot}.service")
    assert client("data").ask("/-/versions.json").status_code == 200


def left_of(host: Host, app: str) -> list[str]:
    """Whatever the host has under an application's name."""
    places = "/opt /etc /run /var/lib /var/cache /var/log"
    names = rf"-name {app} -o -name '{app}[@.-]*' -o -name 'asgi-{app}*'"
    # The lock is empty, and gone after the next boot.
    files = host.check_output(
        rf"find {places} \( {names} \) -not -path '*/site-packages/*' -not -path '/opt/[du]*' -not -name 'asgi-{app}.lock'"
    )
    units = host.check_output(f"systemctl list-units --all --plain --no-legend '{app}@*' '{app}-*' 'asgi-{app}*'")
    accounts = host.check_output(f"getent passwd {app}; getent group {app}; true")
    return sorted([*files.splitlines(), *units.splitlines(), *accounts.splitlines()])


# The last one: it takes one of them away.
def test_one_is_removed_and_the_others_answer_on(host: Host, client: Callable[[str], Client]) -> None:
    def remove(*options: str) -> list[str]:
        named = "-e={'asgi_app': 'api', 'asgi_remove': 'api'}"
        return changed(play("../../playbooks/remove.yml", host, named, *options), host)

    others = {app: state(host, app) for app in ("data", "desk")}
    announced = remove("--check")
    assert client("api").ask("/ready").status_code == 200, "check mode only tells"
    assert [task for task in remove() if "Reload nginx" not in task] == announced
    assert remove() == []
    kept = left_of(host, "api")
    assert "/var/lib/api" in kept
    assert [what for what in kept if not what.startswith(("/var/", "api:x:"))] == []
    assert remove("-e=asgi_remove_data=true") == ["Remove the application"]
    assert left_of(host, "api") == []
    assert remove("-e=asgi_remove_data=true") == []
    assert {app: state(host, app) for app in ("data", "desk")} == others
    for app, path in (("data", "/-/versions.json"), ("desk", "/ready")):
        assert client(app).ask(path).status_code == 200
