"""What one application's build, process and user can do to another application of the host: nothing. The probes are in
tests/apps/hostile/probes.py.
"""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path

import pytest
from testinfra.host import Host

from ansible_collections.steadfast.asgi.molecule.support import ansible, name_of

HOSTILE = Path(__file__).parents[3] / "tests/apps/hostile"
PAIRS = [("rival", "victim"), ("victim", "rival")]


def _probes() -> list[str]:
    spec = importlib.util.spec_from_file_location("hostile_probes", HOSTILE / "probes.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return list(module.PROBES)


PROBES = _probes()
FOUND: dict[tuple[str, str, str], dict[str, str]] = {}


def build(host: Host, _mine: str, _other: str) -> dict[str, str]:
    """The report that a build of rival's has left."""
    path = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"], f"hostile-{name_of(host)}.json")
    reports = json.loads(path.read_text(encoding="utf-8"))["judged"]["reports"]
    assert len(reports) == 1
    return dict(next(iter(reports.values())))


def sandbox(host: Host, mine: str, other: str) -> dict[str, str]:
    """As the application runs."""
    command = ["python", "-B", "/usr/local/lib/hostile-probes.py", mine, other, "sandbox"]
    arguments = json.dumps({"app": mine, "commands": [command], "timeout": 200})
    called = ["ansible", name_of(host), "--become", "-m", "steadfast.asgi.asgi_command", "-a", arguments]
    done = ansible(*called, ANSIBLE_STDOUT_CALLBACK="minimal", ANSIBLE_CALLBACK_RESULT_FORMAT="json")
    assert done.returncode == 0, done.stdout + done.stderr
    answer = json.loads(done.stdout[done.stdout.index("{") :])
    return dict(json.loads(answer["commands"][0]["output"].strip().splitlines()[-1]))


def shell(host: Host, mine: str, other: str) -> dict[str, str]:
    """As somebody who has a shell as the application's user."""
    return dict(json.loads(host.check_output(f"runuser -u {mine} -- python3 -B /usr/local/lib/hostile-probes.py {mine} {other} shell")))


CONTEXTS = {"build": build, "sandbox": sandbox, "shell": shell}


def found(host: Host, mine: str, other: str, context: str) -> dict[str, str]:
    """What all probes have found. They are tried once, also where that fails."""
    key = (name_of(host), mine, context)
    if key not in FOUND:
        FOUND[key] = {}
        FOUND[key] = CONTEXTS[context](host, mine, other)
    return FOUND[key]


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    ("mine", "other", "context"),
    [("rival", "victim", "build"), *((mine, other, context) for mine, other in PAIRS for context in ("sandbox", "shell"))],
)
def test_it_can_do_nothing_to_the_other(host: Host, probe: str, mine: str, other: str, context: str) -> None:
    assert found(host, mine, other, context)[probe] == ""


def test_the_probes_find_what_they_look_for(host: Host) -> None:
    """As root they succeed, so they try what is there."""
    names = ["reads-settings", "reads-code", "takes-locks", "reads-processes", "connects-to-sockets"]
    told = json.loads(host.check_output(f"python3 -B /usr/local/lib/hostile-probes.py rival victim root {' '.join(names)}"))
    assert [name for name in names if not told[name]] == []


@pytest.mark.parametrize(("mine", "other"), PAIRS)
def test_a_unit_has_limits(host: Host, mine: str, other: str) -> None:
    slot = host.check_output(f"readlink /opt/{mine}/slots/live")
    told = dict(
        line.split("=", 1)
        for line in host.check_output(
            f"systemctl show --property=TasksMax,LimitCORE,LimitNOFILE,User,Slice {mine}@{slot}.service"
        ).splitlines()
    )
    assert told["TasksMax"].isdigit()
    assert told["LimitCORE"] == "0"
    assert told["User"] != host.check_output(f"systemctl show --property=User --value {other}@{slot}.service")
    assert told["Slice"] == f"asgi-{mine}.slice"


@pytest.mark.parametrize(("mine", "other"), PAIRS)
def test_nginx_serves_no_link_of_the_application_s(host: Host, mine: str, other: str) -> None:
    """What the application may write to is served (asgi_shared, asgi_nginx_static), by a user who reads more than the application does."""
    media, log = f"/var/lib/{mine}/media", "/var/log/nginx/hostile.log"
    host.check_output(f"echo secret >{log} && chown www-data:adm {log} && chmod 640 {log}")
    links = {"log": log, "code": f"/opt/{other}/slots/live/release/app/hostile.py", "passwd": "/etc/passwd", "folder": "/etc"}
    for name, target in links.items():
        host.check_output(f"runuser -u {mine} -- ln -sfn {target} {media}/{name}")
    host.check_output(f"runuser -u {mine} -- sh -c 'echo fine >{media}/own.txt; chmod 755 /var/lib/{mine} {media}'")

    def ask(path: str) -> str:
        where = f"--resolve {mine}.example:443:127.0.0.1 https://{mine}.example/media/{path}"
        return host.check_output(f"curl --insecure --silent --output /dev/null --write-out '%{{http_code}}' {where}")

    try:
        assert ask("own.txt") == "200"
        assert [path for path in ("log", "code", "passwd", "folder/passwd") if ask(path) == "200"] == []
    finally:
        # What an application opens to everybody is open to its neighbours too.
        host.check_output(f"chmod 750 /var/lib/{mine} {media} && cd {media} && rm {' '.join(links)} own.txt")


def test_a_shared_path_leads_nowhere_else(host: Host) -> None:
    """systemd makes such directories, and gives them to the application, which owns the one that they are in."""
    target = "/usr/local/lib/hostile-target"
    host.check_output(f"mkdir -p {target}/uploads && touch {target}/uploads/file")
    host.check_output(f"runuser -u rival -- sh -c 'cd /var/lib/rival && mv data data.old && ln -s {target} data'")
    slot = host.check_output("readlink /opt/rival/slots/live")
    host.run(f"systemctl restart rival@{slot}.service")
    taken = host.check_output(f"find {target} ! -user root")
    host.check_output(
        f"runuser -u rival -- sh -c 'cd /var/lib/rival && rm data && mv data.old data' && systemctl restart rival@{slot}.service"
    )
    assert taken == ""


def test_an_application_leaves_nothing_where_all_can_see_it(host: Host) -> None:
    for mine, other in PAIRS:
        assert found(host, mine, other, "sandbox")
    left = host.check_output(
        "find /dev/shm /run/lock /tmp /var/tmp /dev/mqueue -maxdepth 1 -name 'hostile-trace-*'; ipcs | grep 0x686f7374; true"
    )
    assert left == ""
