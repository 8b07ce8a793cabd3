#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_certificate
short_description: Judge a certificate on the host, switch to it, and switch back if what uses it does not take it
description:
  - Judges a chain and its key by their form, by what they say, by the host's OpenSSL, and by the host's nginx where there is one, in a
    configuration that nobody else sees. Fails before anything has changed if one of them objects.
  - Writes both into a new directory and makes it live by one rename, so that no reader finds a key with another certificate.
  - Judges nginx's configuration as a whole, reloads what uses the certificate, and sees that it is served. If that fails, the old
    certificate is live again and is reloaded, and the module fails with the words of what refused it. The old one is removed only after
    the new one is in service.
  - Fails before anything has changed if nginx refuses its configuration already, and not for this certificate.
version_added: 1.0.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  name:
    description: The name of the directory below C(/etc/asgi-certificates).
    type: str
    required: true
  names:
    description: What the certificate has to be for, such as V(DNS:shop.example.org) and V(IP:192.0.2.7).
    type: list
    elements: str
    default: []
  chain:
    description: The chain, in PEM form. Give this and O(key), or O(chain_file) and O(key_file), or O(generation).
    type: str
  key:
    description: The private key, in PEM form.
    type: str
  chain_file:
    description: The absolute path of a file on the host with the chain. It is copied.
    type: path
  key_file:
    description: The absolute path of a file on the host with the private key. It is copied, and never leaves the host.
    type: path
  generation:
    description: The name of a directory in that of O(name) that has C(fullchain.pem) and C(privkey.pem) already.
    type: str
  chain_label:
    description: What the chain is called in messages.
    type: str
    default: The chain
  key_label:
    description: What the key is called in messages.
    type: str
    default: The key
  names_label:
    description: What O(names) is called in messages.
    type: str
    default: The list of names
  services:
    description: Units to reload after a switch, those of them that are running.
    type: list
    elements: str
    default: []
  absent:
    description: Absolute paths of files to remove after the switch.
    type: list
    elements: path
    default: []
  judge_only:
    description: Only judge, and change nothing.
    type: bool
    default: false
attributes:
  check_mode:
    description: Judges as usual, and changes nothing.
    support: full
  diff_mode:
    description: Names the certificate before and after.
    support: full
  idempotent:
    description: A second run with the same arguments changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Switch to a certificate
  steadfast.asgi.asgi_certificate:
    name: shop
    names: [DNS:shop.example.org]
    chain: "{{ lookup('ansible.builtin.file', 'shop.pem') }}"
    key: "{{ vault_shop_key }}"
    services: [nginx]
"""

RETURN = r"""
problems:
  description: What is wrong with the chain and the key.
  returned: when it was refused
  type: list
  elements: str
warnings_of_certificate:
  description: What is to be said of the certificate though it can be used.
  returned: success
  type: list
  elements: str
end:
  description: When the first of its certificates ends.
  returned: success
  type: str
  sample: "2027-02-19 12:00"
days_left:
  description: In how many days that is.
  returned: success
  type: int
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils import certificate
from ansible_collections.steadfast.asgi.plugins.module_utils.certificate import CertificateError, Labels, Place
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError, locked

ROOT = Path("/etc/asgi-certificates")
# The same that renews certificates takes.
LOCK = "/run/asgi-acme.lock"


class UnreadableError(CertificateError):
    """A file that cannot be read. The message is complete."""


def given(params: dict[str, Any], place: Place, labels: Labels) -> tuple[bytes, bytes]:
    """Return the chain and the key. Raises CertificateError for what cannot be read."""
    if params["chain"] is not None:
        return params["chain"].encode("utf-8", "surrogateescape"), params["key"].encode("utf-8", "surrogateescape")
    if params["generation"]:
        folder = place.path / params["generation"]
        return certificate.read(folder / certificate.CHAIN), certificate.read(folder / certificate.KEY)
    found, problems = [], []
    for label, path in ((labels.chain, params["chain_file"]), (labels.key, params["key_file"])):
        try:
            found.append(certificate.read(path))
        except CertificateError as error:
            problems.append(
                f"{label}: {error}. Correct the path, or put the file there, on the host, first. If it is on the controller, "
                "set asgi_certificate_remote to false."
            )
    if problems:
        raise UnreadableError("\n".join(problems))
    return found[0], found[1]


def refuse(module: AnsibleModule, problems: list[str]) -> None:
    if problems:
        module.fail_json(msg="\n".join(problems), problems=problems)


def describe(chain: bytes) -> str:
    """Return what a diff says of a chain."""
    try:
        leaf = certificate.certificates(chain)[0]
    except CertificateError:
        return "(no certificate)\n"
    return f"{', '.join(leaf.names) or leaf.name()}, until {leaf.end:%Y-%m-%d %H:%M}, SHA-256 {certificate.fingerprint(leaf)}\n"


def run(module: AnsibleModule) -> dict[str, Any]:
    """Do the job; returns what goes to exit_json. Raises CertificateError."""
    params = module.params
    place = Place(ROOT, params["name"])
    labels = Labels(params["chain_label"], params["key_label"], params["names_label"])
    chain, key = given(params, place, labels)
    found = certificate.judge(chain, key, params["names"], labels=labels)
    refuse(module, found.problems)
    if said := certificate.nginx_objects(chain, key):
        refuse(module, [f"nginx does not accept {labels.chain} and {labels.key}. It says: {said}"])
    end = min(one.end for one in found.chain)
    result: dict[str, Any] = {
        "changed": False,
        "warnings_of_certificate": found.warnings,
        "end": f"{end:%Y-%m-%d %H:%M}",
        "days_left": (end - datetime.now(UTC)).days,
    }
    if params["judge_only"]:
        return result

    generation = params["generation"]
    there = place.live == generation and place.linked() if generation else certificate.is_live(place, chain, key)
    stale = [path for path in params["absent"] if Path(path).exists()]
    # Of a run that was killed.
    strays = there and place.strays()
    if there and not place.due and not stale and not strays:
        return result
    if not there or place.due:
        refusal = certificate.nginx_refuses()
        if refusal and not place.is_about(refusal):
            module.fail_json(
                msg=f"nginx refuses the configuration that is on this host already, and not for the certificate of {place.name}. Nothing "
                f"was changed. Correct that file first, or remove it. nginx says: {refusal}"
            )
    result["changed"] = True
    before = certificate.read_or_nothing(place.path / "live" / certificate.CHAIN)
    result["diff"] = {
        "before": describe(before),
        "after": describe(chain),
        "before_header": str(place.path),
        "after_header": str(place.path),
    }
    if module.check_mode:
        return result
    if not there or place.due:
        if not there:
            generation = generation or certificate.store(place, chain, key)
        certificate.put_into_service(place, generation or place.live, params["services"])
    elif strays:
        place.proved()
    for path in stale:
        Path(path).unlink(missing_ok=True)
    return result


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "default": []},
            "chain": {"type": "str"},
            "key": {"type": "str", "no_log": True},
            "chain_file": {"type": "path"},
            "key_file": {"type": "path", "no_log": False},
            "generation": {"type": "str"},
            "chain_label": {"type": "str", "default": "The chain"},
            "key_label": {"type": "str", "default": "The key", "no_log": False},
            "names_label": {"type": "str", "default": "The list of names"},
            "services": {"type": "list", "elements": "str", "default": []},
            "absent": {"type": "list", "elements": "path", "default": []},
            "judge_only": {"type": "bool", "default": False},
        },
        required_one_of=[("chain", "chain_file", "generation")],
        mutually_exclusive=[("chain", "chain_file", "generation")],
        required_together=[("chain", "key"), ("chain_file", "key_file")],
        supports_check_mode=True,
    )
    try:
        if module.check_mode or module.params["judge_only"]:
            result = run(module)
        else:
            note = {"module": "asgi_certificate", "name": module.params["name"]}
            with locked(LOCK, 300, note, what="another change or renewal of certificates", remedy="Wait for it, or look at that process"):
                result = run(module)
    except (CertificateError, LockedError, OSError) as error:
        discard(module)
        if isinstance(error, UnreadableError):
            module.fail_json(msg=str(error))
        module.fail_json(msg=f"The certificate of {module.params['name']}: {to_native(error)}")
    except SystemExit:
        discard(module)
        raise
    module.exit_json(**result)


def discard(module: AnsibleModule) -> None:
    """Remove what an earlier task has written and is not live."""
    generation = module.params["generation"]
    place = Place(ROOT, module.params["name"])
    if generation and not module.check_mode and place.live != generation:
        shutil.rmtree(place.path / generation, ignore_errors=True)


if __name__ == "__main__":
    main()
