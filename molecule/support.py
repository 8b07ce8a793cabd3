"""What the tests of several scenarios use: a client on this side of the network, and Ansible."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from testinfra.host import Host
from websockets.asyncio.client import connect


def name_of(host: Host) -> str:
    return host.backend.get_hostname()


class Client:
    """A site's client on the controller. It trusts nothing but the given authority, and asks for the site by its name."""

    def __init__(self, host: Host, domain: str, authority: str) -> None:
        self.host = host
        self.domain = domain
        self.context = ssl.create_default_context(cadata=authority)
        self.address = ""
        self.locate()

    def locate(self) -> None:
        """Find the host. One that was restarted may have another address."""
        self.address = self.host.check_output("hostname -I").split()[0]

    def tcp(self) -> socket.socket:
        return socket.create_connection((self.address, 443), timeout=20)

    def ask(self, path: str, method: str = "GET", **request: Any) -> httpx.Response:
        return self._ask("https", path, method, **request)

    def ask_without_tls(self, path: str) -> httpx.Response:
        return self._ask("http", path, "GET")

    def _ask(self, scheme: str, path: str, method: str, headers: dict[str, str] | None = None, **request: Any) -> httpx.Response:
        # What `curl --resolve` does: the connection goes to the address, everything else is about the name.
        url = f"{scheme}://{self.address}{path}"
        headers = {"Host": self.domain} | (headers or {})
        with httpx.Client(verify=self.context, trust_env=False, timeout=20) as client:
            return client.request(method, url, headers=headers, extensions={"sni_hostname": self.domain}, **request)

    def websocket(self, path: str) -> connect:
        """Return a context of asyncio's.

        The library's client with threads reads and writes one TLS connection at the same time, which OpenSSL does not allow: of a hundred
        handshakes one was never answered, or never sent.
        """
        return connect(f"wss://{self.domain}{path}", host=self.address, port=443, ssl=self.context, server_hostname=self.domain, proxy=None)

    def own_address(self) -> str:
        """This controller's address as the host sees it."""
        with self.tcp() as tcp:
            return tcp.getsockname()[0]


def ansible(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of Ansible's programs on the hosts of this scenario."""
    settings = {"ANSIBLE_PIPELINING": "true", "ANSIBLE_NOCOLOR": "true", "ANSIBLE_FORCE_COLOR": "false"} | environment
    return subprocess.run(
        [command[0], f"--inventory={os.environ['MOLECULE_INVENTORY_FILE']}", *command[1:]],
        cwd=os.environ["MOLECULE_SCENARIO_DIRECTORY"],
        env=os.environ | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def play(playbook: str, host: Host | None, *options: str) -> dict[str, Any]:
    """Run a playbook of the scenario, on one host or on all, and return what Ansible's JSON callback tells. Fails if it fails."""
    limit = [f"--limit={name_of(host)},localhost"] if host else []
    done = ansible("ansible-playbook", *limit, *options, playbook, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr)
    return json.loads(done.stdout)


def changed(told: dict[str, Any], host: Host) -> list[str]:
    """The tasks that changed something on the host, from what `play` returned."""
    tasks = (task for part in told["plays"] for task in part["tasks"])
    return [task["task"]["name"] for task in tasks if task["hosts"].get(name_of(host), {}).get("changed")]


# Keeps the text of every unit that comes into being, be it for a moment, in a folder.
WATCH = """
import glob, os, shutil, time
while True:
    for path in glob.glob("/run/systemd/transient/*.service") + glob.glob("/run/systemd/system/*.service"):
        kept = "/run/seen/" + os.path.basename(path)
        try:
            if not os.path.exists(kept):
                shutil.copy(path, kept + ".new")
                os.rename(kept + ".new", kept)
        except OSError:
            pass
    time.sleep(0.002)
"""
# Each unit of services that no package of the distribution has brought, with systemd's rating of it.
RATE = """
rate() {
    systemd-analyze security --no-pager "$@" 2>/dev/null |
        sed -n 's/.*Overall exposure level for \\(.*\\): \\([0-9.]*\\) .*/\\1 \\2/p'
}
units=$(systemctl list-units --all --type=service --plain --no-legend --no-pager | cut -d' ' -f1)
files=$(systemctl list-unit-files --type=service --no-legend --no-pager | cut -d' ' -f1 | grep -v @.service)
for unit in $(printf '%s\\n' $units $files | sort -u); do
    path=$(systemctl show --property=FragmentPath --value "$unit")
    case $path in /etc/systemd/system/* | /run/systemd/system/*) [ -f "$path" ] && [ ! -L "$path" ] && rate "$unit" ;; esac
done
for path in /run/seen/*.service; do [ ! -e "$path" ] || rate --offline=true "$path"; done
"""


@contextmanager
def watching_units(host: Host) -> Iterator[None]:
    """Keep the units that come into being on a host meanwhile, for `exposures`."""
    script = base64.b64encode(WATCH.encode()).decode()
    host.check_output(f"rm -rf /run/seen && mkdir /run/seen && echo {script} | base64 --decode >/run/watch.py")
    host.check_output("systemd-run --quiet --collect --unit=watching-units /usr/bin/python3 /run/watch.py")
    try:
        yield
    finally:
        host.check_output("systemctl stop watching-units; rm /run/watch.py /run/seen/watching-units.service")


def exposures(host: Host) -> dict[str, float]:
    """Return how systemd rates the services on a host that no package has brought, those among them that were seen for a moment."""
    script = base64.b64encode(RATE.encode()).decode()
    told = host.check_output(f"echo {script} | base64 --decode | sh")
    return {name: float(rating) for name, rating in (line.split() for line in told.splitlines())}
