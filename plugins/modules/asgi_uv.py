#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_uv
short_description: Install exactly one version of uv from a Python package index
description:
  - Puts the programs C(uv) and C(uvx) into O(root)C(/VERSION/bin). Other versions beside it are left alone.
  - The installation is complete or absent. It is made in a directory beside, tried, and then renamed. What a run that
    broke off has left there is removed by the next one.
  - The package is fetched by pip in a virtual environment that is thrown away afterwards, so the settings of the host
    in C(/etc/pip.conf) apply. Only wheels are used, nothing is compiled.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  version:
    description: The version, in full.
    type: str
    required: true
  root:
    description: The directory that holds one directory for each version.
    type: path
    default: /opt/uv
  python:
    description: An interpreter that can make virtual environments. On Debian this takes the package C(python3-venv).
    type: path
    default: /usr/bin/python3
  index_url:
    description:
      - The package index. Empty, pip uses its own default or what the host's configuration says.
      - Reaches pip through its environment, where other users of the host cannot read it.
    type: str
    default: ''
  hashes:
    description: Digests of the wheel as pip writes them, one of which must match. Empty, any wheel of that version will do.
    type: list
    elements: str
    default: []
  ca_bundle:
    description: A file with the certificate authorities to trust. Empty, pip trusts what it trusts by default.
    type: path
    default: ''
  http_proxy:
    description: The proxy for an index on plain HTTP.
    type: str
    default: ''
  https_proxy:
    description: The proxy for an index on HTTPS.
    type: str
    default: ''
  no_proxy:
    description: Hosts to reach without the proxy, separated by commas.
    type: str
    default: ''
attributes:
  check_mode:
    description: Looks at what is installed and fetches nothing, so it cannot tell whether the index has the version.
    support: full
  diff_mode:
    description: Shows the version that the programs there report, before and after.
    support: full
  idempotent:
    description: A second run with the same arguments changes nothing.
    support: full
"""

EXAMPLES = r"""
- name: Install uv from a private index
  steadfast.asgi.asgi_uv:
    version: 0.13.8
    index_url: https://packages.example.org/simple
    ca_bundle: /etc/ssl/private-ca.pem
"""

RETURN = r"""
path:
  description: The program.
  returned: success
  type: str
  sample: /opt/uv/0.13.8/bin/uv
installed:
  description: Whether exactly this version was there, complete, before the module ran.
  returned: success
  type: bool
"""

import os
import re
import shutil
from typing import Any

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError, locked

PROGRAMS = ("uv", "uvx")


class InstallError(Exception):
    """uv could not be installed. The message says what to look at."""


def pip_environment(params: dict[str, Any]) -> dict[str, str]:
    """Return the environment that makes pip use the index, authorities and proxies that `params` name."""
    values = {
        "PIP_INDEX_URL": params["index_url"],
        "PIP_CERT": params["ca_bundle"],
        # Lower case wins over whatever the host's environment has in upper case.
        "http_proxy": params["http_proxy"],
        "https_proxy": params["https_proxy"],
        "no_proxy": params["no_proxy"],
    }
    return {name: value for name, value in values.items() if value} | {
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_NO_INPUT": "1",
    }


def requirement(version: str, hashes: list[str]) -> str:
    """Return the line of a requirements file that asks for this version and no other. Hashes make pip insist on them."""
    return " ".join([f"uv=={version}", *(f"--hash={value}" for value in hashes)]) + "\n"


class Installation:
    """One version of uv on this host."""

    def __init__(self, module: Module) -> None:
        self.module = module
        self.params: dict[str, Any] = module.params
        self.version: str = self.params["version"]
        self.root: str = self.params["root"]
        self.path = os.path.join(self.root, self.version)
        # Always the same name, so that a later run finds and removes what an earlier one left.
        self.staging = os.path.join(self.root, f".{self.version}.partial")

    def reported_version(self, directory: str) -> str:
        """Return the version that the uv in `directory` reports, or '' if there is none that runs."""
        try:
            rc, stdout, _stderr = self.module.run_command([f"{directory}/bin/uv", "--version"], handle_exceptions=False)
        except OSError:
            return ""
        match = re.match(r"uv (\S+)", stdout)
        return match.group(1) if rc == 0 and match else ""

    def run(self, doing: str, argv: list[str]) -> None:
        """Run a command in pip's environment; raise InstallError with its output if it fails."""
        try:
            rc, stdout, stderr = self.module.run_command(argv, environ_update=pip_environment(self.params), handle_exceptions=False)
        except OSError as error:
            raise InstallError(f"{doing}: {to_native(error)}") from None
        if rc != 0:
            raise InstallError(f"{doing}: {(stderr.strip() or stdout.strip())[-2000:]}")

    def fetch(self) -> str:
        """Make a complete installation in the staging directory and return its path."""
        environment, complete = f"{self.staging}/venv", f"{self.staging}/complete"
        os.makedirs(f"{complete}/bin")
        self.run("could not make a virtual environment", [self.params["python"], "-m", "venv", environment])
        with open(f"{self.staging}/requirements.txt", "w", encoding="utf-8") as stream:
            stream.write(requirement(self.version, self.params["hashes"]))
        options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--requirement={self.staging}/requirements.txt"]
        self.run(
            f"could not fetch uv {self.version} (check the version, the hashes, the index, its certificate authorities and the proxies)",
            [f"{environment}/bin/python", "-m", "pip", "install", *options],
        )
        # The programs are static: unlike the environment's scripts they can be moved.
        for program in PROGRAMS:
            os.rename(f"{environment}/bin/{program}", f"{complete}/bin/{program}")
        reported = self.reported_version(complete)
        if not reported:
            raise InstallError(f"the uv that was fetched does not run; is {self.root} mounted with noexec?")
        if reported != self.version:
            raise InstallError(f"the uv that was fetched says that it is '{reported}' and not {self.version}")
        return complete

    def install(self) -> None:
        """Install this version, or clean up behind an earlier run that did."""
        os.makedirs(self.root, exist_ok=True)
        # Another application's playbook may install the same version at the same time.
        note = {"pid": os.getpid(), "doing": f"installing uv {self.version}"}
        with locked(os.path.join(self.root, ".lock"), 600, note, what="another installation of uv", remedy="Look at that process"):
            shutil.rmtree(self.staging, ignore_errors=True)
            if self.reported_version(self.path) == self.version:
                return
            try:
                complete = self.fetch()
                if os.path.lexists(self.path):
                    os.rename(self.path, f"{self.staging}/broken")
                os.rename(complete, self.path)
            finally:
                shutil.rmtree(self.staging, ignore_errors=True)


def main() -> None:
    module = Module(
        argument_spec={
            "version": {"type": "str", "required": True},
            "root": {"type": "path", "default": "/opt/uv"},
            "python": {"type": "path", "default": "/usr/bin/python3"},
            # Each may contain a password.
            "index_url": {"type": "str", "default": "", "no_log": True},
            "http_proxy": {"type": "str", "default": "", "no_log": True},
            "https_proxy": {"type": "str", "default": "", "no_log": True},
            "hashes": {"type": "list", "elements": "str", "default": []},
            "ca_bundle": {"type": "path", "default": ""},
            "no_proxy": {"type": "str", "default": "", "no_log": False},
        },
        supports_check_mode=True,
    )
    # Everybody on the host may read and run uv, whatever umask the login of this run has.
    os.umask(0o022)
    installation = Installation(module)
    before = installation.reported_version(installation.path)
    installed = before == installation.version and not os.path.lexists(installation.staging)
    if not installed and not module.check_mode:
        try:
            installation.install()
        except (InstallError, LockedError, OSError) as error:
            module.fail_json(msg=to_native(error))
    module.exit_json(
        changed=not installed,
        installed=installed,
        path=f"{installation.path}/bin/uv",
        diff={
            "before": f"{before or 'absent'}\n",
            "after": f"{installation.version}\n",
            "before_header": installation.path,
            "after_header": installation.path,
        },
    )


if __name__ == "__main__":
    main()
