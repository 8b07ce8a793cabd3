"""What the account can and cannot do, tried on the hosts."""

from __future__ import annotations

import pytest
from testinfra.host import Host


def run_as(host: Host, user: str, command: str) -> tuple[int, str]:
    """Run a command with the user's rights, without its login shell; return its code and what it said."""
    done = host.run(f"runuser -u {user} -- {command}")
    return done.rc, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("user", "group", "place"),
    [("shop", "shop", "/nonexistent"), ("bookkeeper", "books", "/home/bookkeeper"), ("miller", "millers", "/home/miller")],
)
def test_account(host: Host, user: str, group: str, place: str) -> None:
    name, _password, _uid, _gid, _comment, home, shell = host.check_output(f"getent passwd {user}").split(":")
    assert (name, home, shell) == (user, place, "/usr/sbin/nologin")
    assert not host.file("/nonexistent").exists
    assert host.check_output(f"id -gn {user}") == group
    # The shadow file's password field: locked, whether or not there ever was one.
    assert host.check_output(f"getent shadow {user}").split(":")[1].startswith("!")


def test_system_account_by_default(host: Host) -> None:
    user = host.user("shop")
    assert user.uid < 1000
    assert user.gid < 1000
    assert user.groups == ["shop"]


def test_numbers_and_groups_that_were_asked_for(host: Host) -> None:
    user = host.user("bookkeeper")
    assert (user.uid, user.gid) == (4711, 4712)
    assert sorted(user.groups) == ["books", "users"]


def test_account_is_adopted_while_its_older_setup_runs(host: Host) -> None:
    assert sorted(host.user("miller").groups) == ["millers", "users"]
    process = host.check_output("systemctl show --property MainPID --value old-mill")
    # It has run all the time, and still does.
    assert host.check_output(f"stat --format %U /proc/{process}") == "miller"


@pytest.mark.parametrize("user", ["shop", "bookkeeper", "miller"])
def test_nobody_logs_in(host: Host, user: str) -> None:
    # root needs no password: only the shell can refuse it.
    login = host.run(f"su - {user} -c 'echo inside'")
    assert login.rc != 0
    assert "inside" not in login.stdout
    assert "not available" in login.stdout + login.stderr


@pytest.mark.parametrize(("app", "group"), [("shop", "shop"), ("ledger", "books"), ("mill", "millers"), ("library", "librarian")])
def test_tree(host: Host, app: str, group: str) -> None:
    directories = [f"/opt/{app}{below}" for below in ["", "/releases", "/slots", "/slots/blue", "/slots/green"]]
    found = host.check_output(f"stat --format '%n %F %U:%G %a' {' '.join(directories)} /etc/{app}").splitlines()
    gated = [f"{path} directory root:{group} 750" for path in (f"/opt/{app}", f"/etc/{app}")]
    assert found == gated[:1] + [f"{path} directory root:root 755" for path in directories[1:]] + gated[1:]


@pytest.mark.parametrize(("app", "user"), [("shop", "shop"), ("ledger", "bookkeeper"), ("library", "librarian")])
def test_who_reads_and_writes(host: Host, app: str, user: str) -> None:
    assert run_as(host, user, f"ls /etc/{app} /opt/{app}/slots")[0] == 0
    for directory in [f"/etc/{app}", f"/opt/{app}", f"/opt/{app}/releases", f"/opt/{app}/slots/blue"]:
        code, said = run_as(host, user, f"touch {directory}/mine")
        assert code != 0
        assert "Permission denied" in said
    for stranger in ["nobody", "atlas"]:
        for directory in (f"/etc/{app}", f"/opt/{app}", f"/opt/{app}/releases"):
            code, said = run_as(host, stranger, f"ls {directory}")
            assert code != 0
            assert "Permission denied" in said


@pytest.mark.parametrize("app", ["shop", "ledger", "library"])
def test_nginx_goes_through_to_static_files_and_sees_nothing_else(host: Host, app: str) -> None:
    assert run_as(host, "www-data", f"ls /opt/{app}/slots")[0] == 0
    code, said = run_as(host, "www-data", f"ls /opt/{app}")
    assert code != 0
    assert "Permission denied" in said
    assert run_as(host, "www-data", f"ls /etc/{app}")[0] != 0


def test_adopted_files_are_kept(host: Host) -> None:
    assert host.file("/etc/ledger/old.conf").content_string == "kept\n"
    assert host.file("/home/bookkeeper").is_directory


def test_account_of_somebody_else_is_left_alone(host: Host) -> None:
    passwd = host.check_output("getent passwd librarian").split(":")
    assert passwd[5] == "/home/librarian"
    assert passwd[6] != "/usr/sbin/nologin"


def test_systemd_makes_the_rest(host: Host) -> None:
    """The role leaves /var/lib/APP and its like to the service: systemd creates them for the account."""
    assert not host.file("/var/lib/shop").exists
    host.check_output(
        "systemd-run --quiet --wait -p User=shop -p Group=shop -p StateDirectory=shop -p StateDirectoryMode=0750 "
        "touch /var/lib/shop/written"
    )
    state = host.file("/var/lib/shop")
    assert (state.user, state.group, state.mode) == ("shop", "shop", 0o750)
    host.check_output("rm -r /var/lib/shop")
