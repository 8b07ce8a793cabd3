#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_release
short_description: Build a release of a Python application, complete or absent
description:
  - Makes C(releases/ID) out of an application's source directory on the controller, with its own virtual environment built by
    uv out of the application's C(uv.lock).
  - The ID is derived from the source and from how it is built, so the same source gives the same ID and a second run changes
    nothing.
  - A release is complete when C(release.json) is in it, which is written last. What has none was interrupted. It is removed
    by the next run, and M(steadfast.asgi.asgi_rollout) refuses it.
  - The application's lock knows nothing of the server that runs it, so the packages of O(server_requirements) that the lock
    does not have are added. Those that it has stay as they are.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  source:
    description: The source directory, on the controller. It holds C(pyproject.toml) and C(uv.lock).
    type: path
    required: true
  releases:
    description: The directory on the host that the release is made in. It must exist.
    type: path
    required: true
  import_path:
    description:
      - Where the application object is, as C(module:object). It is looked for, but not run, on the controller before anything is
        changed, and in the finished release.
      - Empty leaves that check out.
    type: str
    default: ''
  python:
    description: The interpreter on the host that the virtual environment is made from.
    type: str
    default: /usr/bin/python3
  uv:
    description: The uv program on the host.
    type: path
    required: true
  cache:
    description: uv's cache on the host. On the file system of O(releases), packages are hard links into it.
    type: path
    default: /opt/uv/cache
  server_requirements:
    description:
      - Requirements of the server, each pinned with C(==) and with its hashes, in the form that C(uv pip compile
        --generate-hashes) prints.
    type: str
    default: ''
  inspect:
    description: Only look at the source on the controller, and report its ID. Nothing is done on the host.
    type: bool
    default: false
  id:
    description: The release's ID. Set by the action plugin of this name.
    type: str
  archive:
    description: The packed source on the host. Set by the action plugin of this name.
    type: path
attributes:
  check_mode:
    description: Says whether a release would be built.
    support: full
  diff_mode:
    description: Names the new release.
    support: partial
    details: The packages in it are not compared.
  idempotent:
    description: A second run with the same source changes nothing.
    support: full
notes:
  - Give uv's settings (an index, a proxy, a CA bundle) in the task's C(environment).
  - Inside a git work tree the source is what git tracks or would track, and C(uv.lock) in any case.
    Elsewhere it is all but the usual litter.
seealso:
  - module: steadfast.asgi.asgi_rollout
"""

EXAMPLES = r"""
- name: Build the release
  steadfast.asgi.asgi_release:
    source: "{{ playbook_dir }}/../shop"
    releases: /opt/shop/releases
    import_path: shop.main:app
    uv: /opt/uv/0.13.8/bin/uv
    server_requirements: "{{ lookup('ansible.builtin.file', 'server-requirements.txt') }}"
  register: build
"""

RETURN = r"""
id:
  description: The ID of the release.
  returned: success
  type: str
  sample: 1.4.0-9f2c1b7a3d10
path:
  description: The directory of the release on the host.
  returned: success
  type: str
  sample: /opt/shop/releases/1.4.0-9f2c1b7a3d10
steps:
  description: What was done, with the seconds that each step took.
  returned: when a release was built
  type: list
  elements: dict
  sample: [{step: unpack, seconds: 0.02}, {step: sync, seconds: 1.31}]
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import tarfile
import time
import zlib
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError, find_app, unpack

MARK = "release.json"


class BuildError(Exception):
    """The release could not be built."""


def missing_requirements(text: str, installed: set[str]) -> str:
    """Return the entries of a hashed requirements file whose packages are not among `installed` (normalised names)."""
    kept = []
    entry: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith((" ", "\t")) and entry:
            entry.append(line)
            continue
        if entry and normalise(re.split(r"[=\s;\[]", entry[0], maxsplit=1)[0]) not in installed:
            kept += entry
        entry = [line] if line and not line.startswith("#") else []
    return "\n".join(kept) + "\n" if kept else ""


def normalise(name: str) -> str:
    """Return a package's name in the form of PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_packages(venv: str) -> set[str]:
    """Return the normalised names of the packages in a virtual environment."""
    found = set()
    for directory in site_packages(venv):
        for name in os.listdir(directory):
            if name.endswith(".dist-info"):
                found.add(normalise(name[: -len(".dist-info")].rsplit("-", 1)[0]))
    return found


def site_packages(venv: str) -> list[str]:
    library = os.path.join(venv, "lib")
    return [os.path.join(library, name, "site-packages") for name in sorted(os.listdir(library)) if name.startswith("python")]


class Build:
    """One build on the host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params = module.params
        self.path = os.path.join(self.params["releases"], self.params["id"])
        self.app = os.path.join(self.path, "app")
        self.venv = os.path.join(self.path, ".venv")
        self.steps: list[dict[str, Any]] = []

    @property
    def complete(self) -> bool:
        return os.path.isfile(os.path.join(self.path, MARK))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.steps.append({"step": name, "seconds": round(time.monotonic() - begun, 3)})

    def uv(self, *arguments: str) -> None:
        """Run uv on this release. Raises BuildError with uv's own words."""
        command = [self.params["uv"], *arguments]
        environment = {
            "UV_CACHE_DIR": self.params["cache"],
            "UV_PROJECT_ENVIRONMENT": self.venv,
            "UV_PYTHON": self.params["python"],
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_COMPILE_BYTECODE": "1",
            "UV_NO_PROGRESS": "1",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        rc, stdout, stderr = self.module.run_command(command, cwd=self.app, environ_update=environment)
        if rc != 0:
            raise BuildError(f"'{' '.join(command)}' failed in {self.app}: {(stderr or stdout).strip()}")

    def run(self) -> None:
        """Build in the final place, since a virtual environment holds its own path; the mark comes last."""
        if os.path.lexists(self.path):
            with self.step("clean"):
                shutil.rmtree(self.path)
        os.mkdir(self.path, 0o755)
        try:
            with self.step("unpack"), open(self.params["archive"], "rb") as stream:
                unpack(stream, self.app)
            with self.step("sync"):
                self.uv("sync", "--frozen", "--no-dev", "--no-editable")
            with self.step("server"):
                self.add_server()
            self.check_app()
            self.mark()
        except BaseException:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def add_server(self) -> None:
        """Add the server's packages that the application's lock does not have."""
        wanted = missing_requirements(self.params["server_requirements"], installed_packages(self.venv))
        if wanted:
            requirements = os.path.join(self.path, "server-requirements.txt")
            with open(requirements, "w", encoding="utf-8") as stream:
                stream.write(wanted)
            self.uv("pip", "install", "--python", self.venv, "--no-deps", "--require-hashes", "--requirement", requirements)
        self.uv("pip", "check", "--python", self.venv)

    def check_app(self) -> None:
        if self.params["import_path"]:
            missing = find_app(self.params["import_path"], [self.app, *site_packages(self.venv)])
            if missing:
                raise BuildError(f"import_path (asgi_import_path) is {self.params['import_path']}, but {missing}.")

    def mark(self) -> None:
        """Declare the release complete, durably: first all that is in it, then the mark."""
        # uv leaves its lock behind, which everybody may write to.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.venv, ".lock"))
        os.sync()
        temporary = os.path.join(self.path, f".{MARK}")
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump({"id": self.params["id"], "built": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, os.path.join(self.path, MARK))


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "path", "required": True},
            "releases": {"type": "path", "required": True},
            "import_path": {"type": "str", "default": ""},
            "python": {"type": "str", "default": "/usr/bin/python3"},
            "uv": {"type": "path", "required": True},
            "cache": {"type": "path", "default": "/opt/uv/cache"},
            "server_requirements": {"type": "str", "default": ""},
            "inspect": {"type": "bool", "default": False},
            "id": {"type": "str"},
            "archive": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if not module.params["id"]:
        module.fail_json(msg="This module is run by the action plugin of the same name; use it as steadfast.asgi.asgi_release.")
    # The application's user reads the release, whatever the host's default is.
    os.umask(0o022)
    build = Build(module)
    result = {"id": module.params["id"], "path": build.path}
    if build.complete:
        module.exit_json(changed=False, **result)
    result["diff"] = {"before": "", "after": f"release {module.params['id']}\n"}
    # Without an archive this is the question whether one is needed.
    if module.check_mode or not module.params["archive"]:
        module.exit_json(changed=True, **result)
    try:
        with open(os.path.join(module.params["releases"], ".lock"), "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not build.complete:
                build.run()
    except (BuildError, SourceError, OSError, EOFError, tarfile.TarError, zlib.error) as error:
        module.fail_json(msg=f"The release was not built, and nothing is left of it. {to_native(error)}", steps=build.steps)
    module.exit_json(changed=True, steps=build.steps, **result)


if __name__ == "__main__":
    main()
