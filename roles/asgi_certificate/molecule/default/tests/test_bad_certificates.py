"""Bad certificates on hosts with nginx, by each way that they come: refused or put back, and nginx can be started after each."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

SCENARIO = Path(__file__).parents[1]
ROLE = SCENARIO.parents[1]
SCRATCH = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
CASES = "/root/cases"
SITE = """
server {
    listen 443 ssl;
    server_name given.example.org;
    ssl_certificate /etc/asgi-certificates/given/fullchain.pem;
    ssl_certificate_key /etc/asgi-certificates/given/privkey.pem;
    %s
}
"""


def load_cases() -> dict[str, Any]:
    spec = importlib.util.spec_from_file_location("asgi_pki", SCENARIO / "pki.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["asgi_pki"] = module
    spec.loader.exec_module(module)
    found: dict[str, Any] = module.cases()
    return found


def packed(cases: dict[str, Any]) -> str:
    """The cases as folders in an archive, for a shell that unpacks them."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, case in cases.items():
            for file, content in (("chain.pem", case.chain), ("key.pem", case.key)):
                entry = tarfile.TarInfo(f"{name}/{file}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return f"mkdir -p {CASES} && cd {CASES} && base64 --decode <<END | tar xz\n{base64.encodebytes(stream.getvalue()).decode()}END\n"


def role(**variables: Any) -> dict[str, Any]:
    return {"ansible.builtin.include_role": {"name": "steadfast.asgi.asgi_certificate"}, "vars": variables}


def keep(name: str, value: str) -> dict[str, Any]:
    return {"ansible.builtin.set_fact": {"outcome": "{{ outcome | default({}) | combine({" + repr(name) + ": " + value + "}) }}"}}


def attempt(name: str, task: dict[str, Any]) -> dict[str, Any]:
    return {"block": [task, keep(name, "'accepted'")], "rescue": [keep(name, "ansible_failed_result.msg")]}


def run_script(script: str, name: str) -> list[dict[str, Any]]:
    text = (Path(__file__).parent / script).read_text(encoding="utf-8")
    return [
        {"ansible.builtin.command": {"argv": ["python3", "-", name], "stdin": text}, "register": "script", "changed_when": False},
        keep(name, "script.stdout | from_json"),
    ]


@pytest.fixture(scope="session")
def outcomes(story: str) -> dict[str, Any]:
    """What became of all of them, host by host, in one run of Ansible."""
    assert "PLAY RECAP" in story
    cases = load_cases()
    bad = {name: case for name, case in cases.items() if case.said}
    # Every second one: half a minute is enough. tests/unit has them all.
    chosen = dict(list(bad.items())[::2])
    weak = cases["fine: RSA"]
    provided = {"asgi_certificate_name": "given", "asgi_domain": "given.example.org", "asgi_certificate_provider": "provided"}
    good = {"asgi_certificate_chain_content": cases["fine"].chain.decode(), "asgi_certificate_key_content": cases["fine"].key.decode()}
    small = {"asgi_certificate_chain_content": weak.chain.decode(), "asgi_certificate_key_content": weak.key.decode()}
    copy = {"dest": "/etc/nginx/conf.d/given.conf", "mode": "0644"}
    other = "/etc/nginx/conf.d/zz-other.conf"
    nothing = {"changed_when": False}
    shell = "ansible.builtin.shell"
    tasks: list[dict[str, Any]] = [
        {shell: packed(chosen), **nothing},
        {"ansible.builtin.copy": {"src": str(ROLE / "files/self_signed.sh"), "dest": "/root/self_signed.sh", "mode": "0755"}},
        *run_script("try_certificates.py", "timer"),
        *run_script("try_certificates.py", "self_signed"),
        # From here on it is a content.
        attempt("content", role(**provided, **good)),
        *run_script("try_certificates.py", "look"),
        # nginx alone accepts it, and not in this site.
        {"ansible.builtin.copy": {**copy, "content": SITE % "ssl_ciphers DEFAULT:@SECLEVEL=3;"}},
        {shell: "systemctl reload nginx", **nothing},
        attempt("refused by the site", role(**provided, **small)),
        attempt("refused by the site again", role(**provided, **small)),
        *run_script("try_certificates.py", "look after the site's refusal"),
        {"ansible.builtin.copy": {**copy, "content": SITE % ""}},
        {shell: f"echo no_such_directive\\; >{other}", **nothing},
        attempt("broken elsewhere", role(**provided, **small)),
        {shell: f"rm {other}", **nothing},
        *run_script("try_certificates.py", "look after a refusal for another"),
        attempt("at last", role(**provided, **small)),
        *run_script("try_certificates.py", "look at last"),
    ]
    copied = {"content": "{{ outcome | to_json }}", "dest": f"{SCRATCH}/{{{{ inventory_hostname }}}}-bad.json", "mode": "0600"}
    tasks.append({"ansible.builtin.copy": copied, "delegate_to": "localhost", "become": False})
    playbook = SCRATCH / "bad_certificates.yml"
    playbook.write_text(json.dumps([{"hosts": "all", "become": True, "gather_facts": False, "tasks": tasks}]), encoding="utf-8")
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(playbook)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    return {"chosen": set(chosen), "certificates": cases}


@pytest.fixture
def outcome(host: Any, outcomes: dict[str, Any]) -> dict[str, Any]:
    name = str(host.backend.get_pytest_id()).removeprefix("ansible://")
    found: dict[str, Any] = json.loads((SCRATCH / f"{name}-bad.json").read_text(encoding="utf-8"))
    return found | outcomes


def test_what_the_timer_finds(outcome: dict[str, Any]) -> None:
    """A certificate that another tool has renewed: refused, and nginx serves the old one also after a restart."""
    seen = outcome["timer"]
    assert set(seen) == outcome["chosen"]
    assert len(seen) >= 25
    assert {name: said for name, said in seen.items() if not said["fine"]} == {}


def test_what_somebody_put_in_place_of_the_host_s_own(outcome: dict[str, Any]) -> None:
    """The role issues another one."""
    # These bear names of this very authority.
    assert {name: stays for name, stays in outcome["self_signed"].items() if stays} == {}


@pytest.mark.parametrize("step", ["refused by the site", "refused by the site again"])
def test_what_a_site_refuses_goes_back(outcome: dict[str, Any], step: str) -> None:
    assert outcome["content"] == "accepted"
    assert "nginx does not accept it, so the old one is live again" in outcome[step]
    assert "key too small" in outcome[step]
    assert outcome["look after the site's refusal"] == outcome["look"]


def test_another_site_s_fault_is_not_ours(outcome: dict[str, Any]) -> None:
    assert "refuses the configuration that is on this host already, and not for the certificate of given" in outcome["broken elsewhere"]
    assert "zz-other.conf" in outcome["broken elsewhere"]
    assert outcome["look after a refusal for another"] == outcome["look"]


def test_a_good_one_is_served_at_last(outcome: dict[str, Any]) -> None:
    assert outcome["at last"] == "accepted"
    assert outcome["look at last"]["fine"]
    assert outcome["look at last"]["served"] != outcome["look"]["served"]
