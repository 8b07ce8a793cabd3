"""What a request passes through is looked at and not believed; and the way back is to a release and its settings.

After the other tests: each case damages what the one before it left in order. On one release of Debian: links, owners and modes are the
same on the other.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

testinfra_hosts = ["ansible://debian13"]

# Seconds for a boot: the live slot has the processors first, and other things run on this machine too.
PATIENCE = 120

# What happens to the host (S is the live slot, R its release), how the next run answers and what it says, and what somebody has to do
# where it refuses.
CASES: dict[str, tuple[str, str, str, str]] = {
    "the socket link leads elsewhere": ("ln -sfn /run/other.sock slots/$S/socket", "settle", "leads to /run/other.sock", ""),
    "the socket link is gone": ("rm slots/$S/socket", "settle", "/socket is missing", ""),
    "the live socket leads elsewhere": ("ln -sfn /run/other.sock /run/plain/live.sock", "settle", "live.sock leads to /run/other.sock", ""),
    "the live socket is gone": ("rm /run/plain/live.sock", "settle", "live.sock is missing", ""),
    "the live link is gone": ("rm slots/live", "settle", "slots/live is missing", ""),
    "nobody gets through": ("chmod 0700 /opt/plain /run/plain", "settle", "/run/plain has mode 0700", ""),
    "the slots are somebody else's": ("chown -h nobody slots slots/live && chmod 0777 slots", "settle", "slots belongs to user 65534", ""),
    "nginx may not use the socket": ("chmod 0600 /run/plain/$S.sock", "settle", "has mode 0600, and not 0660", ""),
    "the socket is of another group": ("chgrp root /run/plain/$S.sock", "settle", "sock is of group 0, and not of", ""),
    "anybody may read the environment": ("chmod 0644 /etc/plain/$S/env", "settle", "env has mode 0644, and not 0640", ""),
    "the application may write its settings": ("chown plain /etc/plain/$S", "settle", "and not to 0", ""),
    "anybody may write the unit": ("chmod 0666 $U", "settle", "service has mode 0666, and not 0644", ""),
    "systemd has not read the unit": ("touch $U /etc/systemd/system/plain@$S.socket", "settle", "systemd has not read", ""),
    "nothing is started at boot": ("systemctl --quiet disable plain@$S.service plain@$S.socket", "settle", "is not started at boot", ""),
    "tmpfiles are gone": ("rm /etc/tmpfiles.d/plain.conf", "settle", "does not make /run/plain at boot", ""),
    "the history is garbage": ("head -c 1000 /dev/urandom >>history.jsonl", "settle", "has lines that are none of a history", ""),
    "the history is a pipe": ("mv history.jsonl /root/ && mkfifo history.jsonl", "settle", "history.jsonl is a something else", ""),
    "the release is not root's": ("chown plain $R $R/release.json", "settle", "release.json belongs to user", ""),
    "the unit is masked": ("ln -sf /dev/null $U && systemctl daemon-reload", "rollout", "next/service", ""),
    "the socket is gone": ("rm /run/plain/$S.sock", "rollout", "nobody listens on", ""),
    "the settings are gone": ("rm -r /etc/plain/$S", "rollout", "changed since slot", ""),
    "the release link dangles": ("ln -sfn ../../releases/none slots/$S/release", "rollout", "another release", ""),
    "another program listens": (
        "systemctl --quiet stop stranger; rm /run/plain/$S.sock\n"
        "systemd-run --quiet --unit=stranger python3 -c 'import http.server as h, socketserver as s, os;"
        "os.umask(0o117); s.UnixStreamServer(\"/run/plain/'$S'.sock\", h.BaseHTTPRequestHandler).serve_forever()'; sleep 2;"
        "chown root:www-data /run/plain/$S.sock",
        "rollout",
        "on /run/plain/live.sock",
        "",
    ),
    "the socket link is a directory": (
        "rm slots/$S/socket && mkdir slots/$S/socket",
        "",
        "/socket is a directory, and has to be a link",
        "rmdir slots/$S/socket && ln -s /run/plain/$S.sock slots/$S/socket",
    ),
    "the release's mark is garbage": (
        "cp $R/release.json /root/ && echo garbage >$R/release.json",
        "",
        "release.json is damaged",
        "cp /root/release.json $R/release.json",
    ),
    "the interpreter is gone": (
        "mv $R/.venv/bin/python $R/.venv/bin/away && ln -s /none $R/.venv/bin/python",
        "",
        "the interpreter of",
        "mv $R/.venv/bin/away $R/.venv/bin/python",
    ),
}

WHERE = "cd /opt/plain; S=$(readlink slots/live); U=/etc/systemd/system/plain@$S.service; R={{ was.stdout }}\n"
ASK = "runuser -u www-data -- curl -sS --max-time 30 -o /dev/null -w '%{http_code}' --unix-socket /run/plain/live.sock http://localhost/"


def name_of(host: Host) -> str:
    return host.backend.get_hostname()


def play(folder: Path, tasks: list[dict[str, Any]]) -> subprocess.CompletedProcess[str]:
    """Run tasks on the host, with the release that is live in the variable `was`; what they put into `found` is in the folder."""
    first = {"ansible.builtin.command": "readlink -f /opt/plain/slots/live/release", "register": "was", "check_mode": False}
    content = "{{ found | default({}) | to_json }}"
    copy = {"content": content, "dest": f"{folder}/{{{{ inventory_hostname }}}}.json", "mode": "0600"}
    last = {"ansible.builtin.copy": copy, "delegate_to": "localhost", "become": False}
    path = folder / "playbook.json"
    path.write_text(
        json.dumps([{"hosts": "debian13", "become": True, "gather_facts": False, "tasks": [first, *tasks, last]}]), encoding="utf-8"
    )
    environment = os.environ | {"ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"}
    argv = ["ansible-playbook", "--inventory", os.environ["MOLECULE_INVENTORY_FILE"], str(path)]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def rolled(**options: Any) -> dict[str, Any]:
    """A task that makes live what is live already."""
    common = {"app": "plain", "release": "{{ was.stdout }}", "boot_timeout": PATIENCE, "drain_timeout": 3}
    return {"steadfast.asgi.asgi_rollout": common | options, "ignore_errors": True}


def found(folder: Path, host: Host) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / f"{name_of(host)}.json").read_text(encoding="utf-8"))
    return result


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all cases."""
    folder = tmp_path_factory.mktemp("damaged")
    tasks: list[dict[str, Any]] = [rolled()]
    for name, (script, _, _, remedy) in CASES.items():
        result = "{{ found | default({}) | combine({case: {'way': answer.way | default(''), 'said': answer.reason | default(answer.msg),"
        result += " 'status': asked.stdout}}) }}"
        tasks += [
            {"ansible.builtin.shell": f"{WHERE}{script}"},
            rolled() | {"register": "answer"},
            {"ansible.builtin.shell": f"{WHERE}{remedy or 'true'}\n{ASK}", "register": "asked", "ignore_errors": True},
            {"ansible.builtin.set_fact": {"found": result}, "vars": {"case": name}},
        ]
    last = {"found": "{{ found | combine({'last': answer.way}) }}"}
    play(folder, [*tasks, rolled() | {"register": "answer"}, {"ansible.builtin.set_fact": last}])
    return folder


@pytest.mark.parametrize("case", CASES)
def test_what_is_damaged_is_reconciled_or_refused_by_name(host: Host, damaged: Path, case: str) -> None:
    _, way, said, _ = CASES[case]
    outcome = found(damaged, host)[case]
    assert outcome["way"] == way, outcome
    assert said in outcome["said"]
    assert outcome["status"] == "200", outcome


def test_afterwards_there_is_nothing_left_to_do(host: Host, damaged: Path) -> None:
    assert found(damaged, host)["last"] == "nothing"


# The way back to settings


ASKER = f"""cat >/root/asker <<'END'
while :; do test "$({ASK})" = 200 && echo ok || echo failed; sleep 0.2; done >/root/asked
END
systemd-run --quiet --unit=asker sh /root/asker"""
NOTE = "runuser -u www-data -- curl -sS --max-time 30 --unix-socket /run/plain/live.sock http://localhost/environment"


def settings(note: str) -> list[dict[str, Any]]:
    """Tasks that deploy the same release with another environment."""
    common = {"asgi_app": "plain", "asgi_import_path": "plain:app", "asgi_service_boot_timeout": PATIENCE}
    common |= {
        "asgi_service_environment": {"PLAIN_NOTE": note},
        "asgi_rollout_release": "{{ was.stdout }}",
        "asgi_rollout_drain_timeout": 3,
    }
    roles = ["asgi_service", "asgi_rollout"]
    return [{"ansible.builtin.include_role": {"name": f"steadfast.asgi.{role}"}, "vars": common} for role in roles]


def noted(name: str) -> list[dict[str, Any]]:
    """Tasks that remember the environment of what serves."""
    fact = {"found": "{{ found | default({}) | combine({case: (asked.stdout | from_json).PLAIN_NOTE | default('')}) }}"}
    return [{"ansible.builtin.shell": NOTE, "register": "asked"}, {"ansible.builtin.set_fact": fact, "vars": {"case": name}}]


@pytest.fixture(scope="module")
def back(damaged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two deployments of nothing but settings, and the way back from both, under a loop of requests."""
    assert damaged
    folder = tmp_path_factory.mktemp("back")
    rollback = {"steadfast.asgi.asgi_rollout": {"app": "plain", "rollback": True, "boot_timeout": PATIENCE, "drain_timeout": 3}}
    count = {
        "ansible.builtin.shell": "systemctl stop asker; grep -c ok /root/asked; grep -c failed /root/asked || true",
        "register": "asked",
    }
    counted = {"ansible.builtin.set_fact": {"found": "{{ found | combine({'asked': asked.stdout_lines}) }}"}}
    tasks = [{"ansible.builtin.shell": ASKER}, *settings("first"), *noted("first"), *settings("second"), *noted("second")]
    tasks += [rollback, *noted("back"), rollback, *noted("further back"), *settings("second"), *noted("again"), count, counted]
    play(folder, tasks)
    return folder


def test_settings_are_rolled_back_without_a_failed_request(host: Host, back: Path) -> None:
    outcome = found(back, host)
    served, failed = map(int, outcome.pop("asked"))
    assert outcome == {"first": "first", "second": "second", "back": "first", "further back": "", "again": "second"}
    assert (served > 20, failed) == (True, 0)


@pytest.mark.usefixtures("back")
def test_the_settings_of_before_are_kept_for_root_alone(host: Host) -> None:
    kept = host.file("/etc/plain/kept")
    assert (kept.user, kept.mode) == ("root", 0o700)
    assert len(kept.listdir()) >= 3
    assert host.run("runuser -u plain -- ls /etc/plain/kept").failed
