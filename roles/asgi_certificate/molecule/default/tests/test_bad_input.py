"""What the role refuses: the run fails, the message names the variable, and nothing on the host has changed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

SCRATCH = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
PKI = SCRATCH / "pki"

OWN = {"asgi_certificate_name": "own", "asgi_domain": "own.example.org"}
GOOD = {
    "asgi_certificate_name": "given",
    "asgi_domain": "given.example.org",
    "asgi_certificate_provider": "provided",
    "asgi_certificate_chain_file": f"{PKI}/good.pem",
    "asgi_certificate_key_file": f"{PKI}/good-key.pem",
}
BY_ACME = {**OWN, "asgi_certificate_provider": "acme", "asgi_certificate_acme_agree_tos": True}
REMOTE = {
    **GOOD,
    "asgi_certificate_remote": True,
    "asgi_certificate_chain_file": "/root/pki/good.pem",
    "asgi_certificate_key_file": "/root/pki/good-key.pem",
}


JOINED = f"{{{{ lookup('ansible.builtin.file', '{PKI}/joined.pem') }}}}"


def chain(name: str, key: str = "good-key.pem", **others: Any) -> dict[str, Any]:
    files = {"asgi_certificate_chain_file": f"{PKI}/{name}", "asgi_certificate_key_file": f"{PKI}/{key}"}
    return {**GOOD, **files, **others}


# Each of these alone would do. Refused together they must all be in the message.
BAD_NAMES = [
    "",
    "own.example.org; reboot",
    "own.example.org\nx",
    "own.example.org\n",
    "own.example.org/x",
    "own.example.org'",
    "Own.example.org",
    "own_app.example.org",
    "own..example.org",
    "-own.example.org",
    "$own.example.org",
    "own.*.example.org",
    "a." * 127 + "org",
    "192.0.2.256",
    "192.0.2.01",
    "2001:db8::g",
    "2001:DB8::1",
    "2001:db8:0:0:0:0:0:1",
    "2001:0db8::1",
    "2001:db8::1::2",
    "2001:db8::0:1",
    "2001:db8:1",
]
GOOD_NAMES = [
    "localhost",
    "xn--bcher-kva.example",
    "*.3.example",
    "192.0.2.255",
    "::1",
    "fe80::",
    "2001:db8:1:2:3:4:5:6",
]

# Variables, the beginning of a line of the message, and what else it says.
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "domain with a semicolon": (
        {**OWN, "asgi_domain": "own.example.org; reboot"},
        "asgi_certificate_names (asgi_domain) has",
        "each entry must be a host name",
    ),
    "names": (
        {**OWN, "asgi_certificate_names": GOOD_NAMES + BAD_NAMES},
        "asgi_certificate_names (asgi_domain) has",
        ", ".join(json.dumps(name) for name in BAD_NAMES) + ": each",
    ),
    "no domain": ({"asgi_certificate_name": "own"}, "asgi_domain is not set, and asgi_certificate_names is []", "asgi_domain: shop"),
    "names in one string": ({**OWN, "asgi_certificate_names": "own.example.org"}, "asgi_certificate_names is", "list"),
    "no application": ({**OWN, "asgi_certificate_name": ""}, "asgi_certificate_name (asgi_app) is", "lower-case"),
    "application named ca": ({**OWN, "asgi_certificate_name": "ca"}, "asgi_certificate_name (asgi_app) is", "not be 'ca'"),
    "application named acme": ({**OWN, "asgi_certificate_name": "acme"}, "asgi_certificate_name (asgi_app) is", "or 'acme'"),
    "acme, terms not agreed to": (
        {**BY_ACME, "asgi_certificate_acme_agree_tos": False},
        "asgi_certificate_provider is 'acme', but asgi_certificate_acme_agree_tos is not true",
        "terms of https://acme-v02.api.letsencrypt.org/directory",
    ),
    "acme, an address and a short name": (
        {**BY_ACME, "asgi_certificate_names": ["own.example.org", "192.0.2.7", "2001:db8::7", "intranet"]},
        "asgi_certificate_names has",
        "192.0.2.7, 2001:db8::7, intranet: by ACME",
    ),
    "acme, a wildcard by HTTP-01": (
        {**BY_ACME, "asgi_certificate_names": ["*.own.example.org"]},
        "asgi_certificate_names has *.own.example.org",
        "asgi_certificate_acme_challenge to dns-01",
    ),
    "acme, DNS-01 without a program": (
        {**BY_ACME, "asgi_certificate_acme_challenge": "dns-01", "asgi_certificate_acme_cleanup_hook": "rm -r /"},
        "asgi_certificate_acme_auth_hook is",
        'asgi_certificate_acme_cleanup_hook is "rm -r /"',
    ),
    "acme, unknown challenge": ({**BY_ACME, "asgi_certificate_acme_challenge": "tls-alpn-01"}, "value of", "http-01, dns-01"),
    "acme, unknown key": ({**BY_ACME, "asgi_certificate_acme_key_type": "ed25519"}, "value of", "ecdsa, rsa"),
    "acme, no directory": (
        {**BY_ACME, "asgi_certificate_acme_directory": "http://acme.example.org"},
        'asgi_certificate_acme_directory is "http://acme.example.org"',
        "https://acme-v02",
    ),
    "acme, staging elsewhere": (
        {**BY_ACME, "asgi_certificate_acme_directory": "https://acme.example.org/d", "asgi_certificate_acme_staging": True},
        "asgi_certificate_acme_staging is true",
        "own directory for tests",
    ),
    "acme, mail": (
        {**BY_ACME, "asgi_certificate_acme_email": "me@example.org, you@example.org"},
        "asgi_certificate_acme_email is",
        "one address",
    ),
    "acme, half an external account": ({**BY_ACME, "asgi_certificate_acme_eab_kid": "k"}, "Set both of asgi_certificate", "neither"),
    "acme, a key with a line more": (
        {**BY_ACME, "asgi_certificate_acme_eab_kid": "k", "asgi_certificate_acme_eab_hmac_key": "a\nserver = https://b"},
        "asgi_certificate_acme_eab_kid or asgi_certificate_acme_eab_hmac_key has",
        "base64url",
    ),
    "acme, a bundle elsewhere": (
        {**BY_ACME, "asgi_certificate_acme_ca_bundle": "ca.pem"},
        'asgi_certificate_acme_ca_bundle is "ca.pem"',
        "absolute path",
    ),
    "acme, a proxy without a scheme": (
        {**BY_ACME, "asgi_certificate_acme_https_proxy": "me:hunter2@proxy:3128"},
        "asgi_certificate_acme_https_proxy is not an address",
        "http:// or https://",
    ),
    "acme, a unit with a line more": (
        {**BY_ACME, "asgi_certificate_acme_on_failure": "mail.service\nExecStart=/bin/sh"},
        "asgi_certificate_acme_on_failure is",
        "systemd unit",
    ),
    "unknown provider": ({**OWN, "asgi_certificate_provider": "magic"}, "value of asgi_certificate_provider", "self_sig"),
    "long life": ({**OWN, "asgi_certificate_lifetime": 398}, "asgi_certificate_lifetime is 398", "90 to 397"),
    "renewal before the start": (
        {**OWN, "asgi_certificate_lifetime": 90, "asgi_certificate_renew_before": 90},
        "asgi_certificate_lifetime is 90 and asgi_certificate_renew_before 90",
        "less than the first",
    ),
    "export into nowhere relative": ({**OWN, "asgi_certificate_ca_export": "no/ca.pem"}, "asgi_certificate_ca_export is", "/no is not"),
    "export over a folder": ({**OWN, "asgi_certificate_ca_export": "/tmp"}, "asgi_certificate_ca_export is", "a directory itself"),
    "export into the collection": (
        {**OWN, "asgi_certificate_ca_export": "ca.pem", "_asgi_certificate_here": "/x/ansible_collections/steadfast/asgi/playbooks"},
        "asgi_certificate_ca_export is",
        "the collection's own",
    ),
    "export into nowhere": ({**OWN, "asgi_certificate_ca_export": "/no/such/ca.pem"}, "asgi_certificate_ca_export is", "/no"),
    "service with a semicolon": (
        {**OWN, "asgi_certificate_reload_services": ["nginx; reboot"]},
        "asgi_certificate_reload_services is",
        "systemd units",
    ),
    "nothing provided": (
        {**OWN, "asgi_certificate_provider": "provided"},
        "asgi_certificate_provider is 'provided'",
        "exactly one of asgi_certificate_key_file",
    ),
    "file and content": (
        {**GOOD, "asgi_certificate_key_content": "x"},
        "asgi_certificate_provider is 'provided'",
        "exactly one of asgi_certificate_key_file and asgi_certificate_key_content",
    ),
    "missing files": (
        chain("no-chain.pem", "no-key.pem"),
        "asgi_certificate_chain_file is",
        f'asgi_certificate_key_file is "{PKI}/no-key.pem", and there is no such file on the controller',
    ),
    "key of another certificate": (chain("good.pem", "renewed-key.pem"), "asgi_certificate_key_file (", "is not the key of"),
    "key with a passphrase": (chain("good.pem", "encrypted-key.pem"), "asgi_certificate_key_file (", "has a passphrase"),
    "key that is broken": (chain("good.pem", "broken-key.pem"), "asgi_certificate_key_file (", "not a private key"),
    "chain without a line break": (chain("joined.pem"), "asgi_certificate_chain_file (", "A line break is missing"),
    "chain without a line break, as text": (
        {**chain("joined.pem", asgi_certificate_chain_content=JOINED), "asgi_certificate_chain_file": ""},
        "asgi_certificate_chain_content has",
        "A line break is missing",
    ),
    "chain in the wrong order": (chain("reversed.pem"), "asgi_certificate_chain_file (", "is not in order"),
    "chain with a namesake of the issuer": (chain("namesake.pem"), "asgi_certificate_chain_file (", "is not in order"),
    "chain that is broken": (chain("broken.pem"), "asgi_certificate_chain_file (", "not a readable certificate"),
    "chain with the key in it": (chain("with-key.pem"), "asgi_certificate_chain_file (", "nothing else"),
    "expired": (chain("expired.pem", "expired-key.pem"), "asgi_certificate_chain_file (", "expired at"),
    "not yet valid": (chain("future.pem", "future-key.pem"), "asgi_certificate_chain_file (", "not valid before"),
    "names that are not covered": (
        chain("good.pem", asgi_certificate_names=["www.given.example.org", "other.org", "a.b.given.example.org", "192.0.2.1"]),
        "asgi_certificate_names (asgi_domain) has dns:a.b.given.example.org, dns:other.org, ip:192.0.2.1,",
        "is for dns:given.example.org, dns:*.given.example.org.",
    ),
    "on the host, relative": (
        {**REMOTE, "asgi_certificate_key_file": "key.pem"},
        "asgi_certificate_remote is true, so asgi_certificate_chain_file and asgi_certificate_key_file must be absolute",
        '"key.pem"',
    ),
    "on the host, missing": (
        {**REMOTE, "asgi_certificate_key_file": "/root/none.pem"},
        "asgi_certificate_key_file (/root/none.pem): /root/none.pem cannot be read",
        "No such file or directory. Correct the path",
    ),
    "on the host, with a passphrase": (
        {**REMOTE, "asgi_certificate_key_file": "/root/pki/encrypted-key.pem"},
        "asgi_certificate_key_file (/root/pki/encrypted-key.pem)",
        "has a passphrase",
    ),
    "on the host, another key": (
        {**REMOTE, "asgi_certificate_key_file": "/etc/asgi-certificates/own/privkey.pem"},
        "asgi_certificate_key_file (/etc/asgi-certificates/own/privkey.pem)",
        "is not the key of",
    ),
}

# These must pass, or the table above could be right for the wrong reason.
FINE: dict[str, dict[str, Any]] = {
    "names below the wildcard": chain("good.pem", asgi_certificate_names=["a.given.example.org", "*.given.example.org"]),
    "all kinds of names, and numbers as text": {
        **OWN,
        "asgi_certificate_names": GOOD_NAMES,
        "asgi_certificate_lifetime": "90",
        "asgi_certificate_renew_before": "10",
    },
}

SNAPSHOT = {
    "ansible.builtin.shell": "find /etc /root -xdev -printf '%p %m %u %T@ %l\\n' | sort; dpkg -l; systemctl show nginx -p MainPID",
    "changed_when": False,
}


def attempt(variables: dict[str, Any], file: str | None = None) -> dict[str, Any]:
    role: dict[str, Any] = {"name": "steadfast.asgi.asgi_certificate"}
    if file:
        role["tasks_from"] = file
    return {"ansible.builtin.include_role": role, "vars": variables}


def note(name: str, value: str) -> dict[str, Any]:
    return {"ansible.builtin.set_fact": {"outcome": "{{ outcome | default({}) | combine({" + repr(name) + ": " + value + "}) }}"}}


@pytest.fixture(scope="module")
def outcome(story: str) -> dict[str, Any]:
    """Try all cases on one host, one after the other, in one run of Ansible; returns what became of each."""
    assert "PLAY RECAP" in story
    tasks: list[dict[str, Any]] = [{**SNAPSHOT, "register": "before"}]
    for name, (variables, _, _) in CASES.items():
        accepted = [attempt(variables), note(name, "'accepted'")]
        tasks.append({"block": accepted, "rescue": [note(name, "ansible_failed_result.msg")]})
    for name, variables in FINE.items():
        accepted = [attempt(variables, "validate"), note(name, "'accepted'")]
        tasks.append({"block": accepted, "rescue": [note(name, "ansible_failed_result.msg")]})
    tasks += [{**SNAPSHOT, "register": "after"}, note("unchanged", "before.stdout == after.stdout")]
    tasks.append(
        {
            "ansible.builtin.copy": {"content": "{{ outcome | to_json }}", "dest": f"{SCRATCH}/outcome.json", "mode": "0600"},
            "delegate_to": "localhost",
            "become": False,
        }
    )
    playbook = SCRATCH / "bad_input.yml"
    playbook.write_text(json.dumps([{"hosts": "debian13", "become": True, "gather_facts": False, "tasks": tasks}]))
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    done = subprocess.run(["ansible-playbook", "-i", inventory, playbook], capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    result: dict[str, Any] = json.loads((SCRATCH / "outcome.json").read_text())
    result["said"] = done.stdout + done.stderr
    return result


@pytest.mark.parametrize("case", CASES)
def test_refused(outcome: dict[str, Any], case: str) -> None:
    _, beginning, rest = CASES[case]
    lines = [line for line in outcome[case].splitlines() if line.startswith(beginning)]
    assert lines, outcome[case]
    assert rest in outcome[case]


@pytest.mark.parametrize("case", FINE)
def test_accepted(outcome: dict[str, Any], case: str) -> None:
    assert outcome[case] == "accepted"


def test_no_key_is_ever_shown(outcome: dict[str, Any]) -> None:
    for name in ("good-key.pem", "encrypted-key.pem", "expired-key.pem", "broken-key.pem"):
        assert (PKI / name).read_text().splitlines()[1] not in outcome["said"]
    assert "hunter2" not in outcome["said"]


def test_nothing_changed(outcome: dict[str, Any]) -> None:
    assert outcome["unchanged"] is True
