"""A rollout that is cut off after any of its steps harms nothing, and the next one finishes the job."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Iterator

import pytest
import yaml
from client import Load
from harness import NAME, ROOT, FailedError, Host, in_thread, run

from ansible_collections.steadfast.asgi.plugins.modules import asgi_rollout

DEFAULTS = {name: option.get("default") for name, option in yaml.safe_load(asgi_rollout.DOCUMENTATION)["options"].items()}
STEPS = ("free", "memory", "boot", "ready", "enable", "flip", "settle")

# Runs the rollout as the module does, and kills itself after one of the steps.
DRIVER = """
import json, os, signal, sys
from utils.rollout import Rollout
from utils.slots import Layout
from utils.units import Systemd

def after(name):
    if name == sys.argv[1]:
        print("cut off after", name, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

Rollout(json.loads(sys.argv[2]), Layout("plain"), Systemd(), after_step=after).run()
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host("steadfast-cut-off", tmp_path_factory.mktemp("cut-off"), boot_seconds=0.3)
    host.set_up("one")
    host.build("two")
    host.execute("mkdir -p /root/fault")
    run("docker", "cp", str(ROOT / "plugins/module_utils"), f"{host.name}:/root/fault/utils")
    (host.work / "driver.py").write_text(DRIVER, encoding="utf-8")
    run("docker", "cp", str(host.work / "driver.py"), f"{host.name}:/root/fault/driver.py")
    yield host
    host.remove()


def cut_off(host: Host, name: str, step: str) -> None:
    """Begin a rollout of a release and kill it after a step."""
    given = {"release": host.releases[name], "strategy": "rollout", "user": "test", "ready_host": NAME}
    params = {**DEFAULTS, **given, "boot_timeout": 30, "drain_timeout": 5}
    command = ["docker", "exec", "--workdir", "/root/fault", host.name, "python3", "driver.py", step, json.dumps(params)]
    with pytest.raises(FailedError, match=f"cut off after {step}"):
        run(*command)


def other(host: Host) -> str:
    return "two" if host.live() == host.releases["one"] else "one"


@pytest.mark.parametrize("step", STEPS)
def test_killed_after_a_step(host: Host, step: str) -> None:
    name = other(host)

    async def act() -> Load:
        async with Load(host.site(), clients=8) as load:
            await asyncio.sleep(0.5)
            await in_thread(cut_off, host, name, step)
            done = await in_thread(host.roll_out, name)
            assert not done["failed"], done
            await asyncio.sleep(0.5)
        return load

    record = asyncio.run(act()).record
    assert record.failed() == {}
    assert host.live() == host.releases[name]
    host.settled()


def test_the_connection_is_lost(host: Host) -> None:
    """The session on the host is killed, as when the network is gone, while the slot boots: the rollout goes on to its end."""
    key = host.work / "key"
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key))
    host.execute("apt-get update -qq && apt-get install -qq --yes --no-install-recommends openssh-server >/dev/null 2>&1")
    host.execute(f"mkdir -p /root/.ssh && echo '{key.with_suffix('.pub').read_text(encoding='utf-8').strip()}' >/root/.ssh/authorized_keys")
    variables = {
        "ansible_host": host.address,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o ControlMaster=no",
        # Without it there is a terminal, and so a SIGHUP at its end.
        "ansible_pipelining": False,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    inventory = host.work / "ssh.json"
    inventory.write_text(json.dumps({"all": {"hosts": {host.name: variables}}}), encoding="utf-8")
    host.build("slow", ('os.environ.get("PLAIN_BOOT_SECONDS", "0")', '"4"'))
    old, release = host.live(), host.releases["slow"]
    options = {"app": "plain", "release": release, "ready_host": NAME, "workers": 4, "boot_timeout": 30, "drain_timeout": 3}
    command = ["ansible", "-i", str(inventory), "all", "-m", "steadfast.asgi.asgi_rollout", "-a", json.dumps(options)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as ansible:
        until = time.monotonic() + 30
        while release not in host.execute("readlink -f /opt/plain/slots/*/release"):
            assert time.monotonic() < until
            time.sleep(0.1)
        time.sleep(1)
        host.execute("pkill -KILL -f '^sshd.*(root@|session|priv)'")
        said, _ = ansible.communicate(timeout=30)
    assert ansible.returncode != 0, said
    assert host.live() == old, "it was cut off before the switch"
    while host.live() != release:
        assert time.monotonic() < until + 30
        time.sleep(0.2)
    assert json.loads(host.execute("tail -n 1 /opt/plain/history.jsonl"))["result"] == "ok"
    host.settled()


@pytest.mark.parametrize("step", ["boot", "enable", "flip"])
def test_power_lost_after_a_step(host: Host, step: str) -> None:
    """The container is killed and started again: whatever release the link named then is what serves."""
    name = other(host)
    old = host.live()
    cut_off(host, name, step)
    run("docker", "kill", host.name)
    run("docker", "start", host.name)
    expected = host.releases[name] if step == "flip" else old
    until = time.monotonic() + 30
    while True:
        try:
            answer = json.loads(
                host.execute(
                    f"curl -sS --max-time 10 --cacert /etc/asgi-certificates/ca/ca.pem --resolve {NAME}:443:127.0.0.1 https://{NAME}/"
                )
            )
            break
        except (FailedError, ValueError):
            if time.monotonic() > until:
                raise
            time.sleep(0.5)
    assert host.live() == expected
    assert host.releases[answer["version"]] == expected
    done = host.roll_out(name)
    assert not done["failed"], done
    assert host.live() == host.releases[name]
    host.settled()
