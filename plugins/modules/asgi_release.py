#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_release
short_description: Build a release of a Python application, complete or absent
description:
  - Makes C(releases/ID) out of an application's source, with its own virtual environment built by uv.
  - The ID is derived from the source and from how it is built, so the same source gives the same ID and a second run changes
    nothing.
  - A release is complete when C(release.json) is in it, which is written last. What has none was interrupted. It is removed
    by the next build, and M(steadfast.asgi.asgi_rollout) refuses it.
  - uv and the build scripts of packages run as O(build_user), in a unit of systemd's that can write to nothing but the build.
    When they have ended the result is made root's.
  - The application knows nothing of the server that runs it, so the packages of O(server_requirements) that it does not bring
    are added. Those that it brings stay as they are, unless they are too old.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  source:
    description:
      - A directory or an archive on the controller, C(git+URL@REF), the URL of an archive or wheel, a wheel or source
        distribution on the controller, or a requirement (C(name==version)).
      - git and downloads run on the controller, whatever the host can reach.
    type: str
    required: true
  subdirectory:
    description: The directory in the source that is the application, with its C(pyproject.toml) or requirements. Empty is the whole source.
    type: str
    default: ''
  checksum:
    description: The digest of the file that O(source) names, as C(sha256:DIGITS). A URL needs it.
    type: str
    default: ''
  git_key:
    description: A private key on the controller that git uses with ssh.
    type: str
    default: ''
  git_known_hosts:
    description: The lines that ssh checks the git server's key against, in the form of C(known_hosts). Empty is the user's own file.
    type: str
    default: ''
  git_submodules:
    description: Whether submodules are fetched too.
    type: bool
    default: false
  lock:
    description:
      - The file that says which packages are installed. Empty is the first that the source has of C(uv.lock), C(pylock.toml)
        and C(requirements.txt).
      - For a project a path in the source; for a wheel, a source distribution or a requirement one on the controller.
    type: str
    default: ''
  require_hashes:
    description: Whether every entry of a C(requirements.txt) has to have a hash.
    type: bool
    default: true
  package:
    description: The package of a workspace that is the application. For C(uv.lock).
    type: str
    default: ''
  extras:
    description: The application's extras that are installed too. For C(uv.lock).
    type: list
    elements: str
    default: []
  groups:
    description: The dependency groups that are installed too. For C(uv.lock).
    type: list
    elements: str
    default: []
  wheelhouse:
    description:
      - A directory on the controller with all wheels that are needed. They are sent along, and nothing is fetched by the host.
    type: str
    default: ''
  offline:
    description:
      - Whether the controller fetches all wheels, for the host's interpreter, and sends them along; the host fetches nothing.
      - With O(wheelhouse) those wheels are used too.
    type: bool
    default: false
  before_build:
    description:
      - Commands that are run in the application's directory before its packages are installed, as O(build_user) and in the same
        unit. They can write to that directory and nothing else. Where the application itself is a package, it is built from
        what they leave.
      - A command is a string, which is split the way a shell would but given to none, or a list of arguments.
      - With O(source) a package or a requirement the directory is empty.
    type: list
    elements: raw
    default: []
  after_build:
    description:
      - Commands that are run in the same way when the virtual environment is complete. Its programs come first in E(PATH).
    type: list
    elements: raw
    default: []
  build_environment:
    description:
      - The environment of O(before_build) and O(after_build), beside E(PATH), E(HOME), the proxies and O(ca_bundle).
      - The values are not shown, and a changed one makes another release.
    type: dict
    default: {}
  static:
    description:
      - Directories of static files, relative to the application's directory. They must be there when O(after_build) has run.
      - Their files are linked into C(static/DIRECTORY) beside O(releases), together with those of all other releases.
    type: list
    elements: str
    default: []
  shared:
    description:
      - Paths in the application's directory that become links to the same paths below O(shared_root).
    type: list
    elements: str
    default: []
  shared_root:
    description: The directory on the host that O(shared) points to, such as C(/var/lib/shop). It need not be there.
    type: path
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
    description:
      - The interpreter that the virtual environment is made from, as a path on the host or as a version (C(3.13)).
      - A version is taken from C(/usr/bin) or C(/usr/local/bin) if it is there, otherwise from O(python_root), where uv installs it.
    type: str
    default: /usr/bin/python3
  python_root:
    description: Where uv keeps the interpreters that it installs.
    type: path
    default: /opt/uv/python
  python_mirror:
    description: Where uv fetches interpreters from, C(https://) or C(file://), in place of its own address.
    type: str
    default: ''
  python_downloads:
    description:
      - A list of interpreters that uv can install in place of those that it knows by itself, as the C(https://) or C(file://) address
        of a file in JSON. Each entry says where the archive is, and its digest.
    type: str
    default: ''
  uv:
    description: The uv program on the host.
    type: path
    required: true
  cache:
    description:
      - What is kept on the host for the next build, uv's cache (C(uv)) and the files of all releases (C(files)). On the file
        system of O(releases), the files of a release are hard links into it.
    type: path
    default: /opt/uv/cache
  build_user:
    description:
      - The system user that builds. It is made if there is none of that name.
      - Empty is the user that runs the module, who then runs the build scripts of packages.
    type: str
    default: asgi-build
  min_free:
    description: Mebibytes that have to be free on the file systems of O(releases) and O(cache) before a build.
    type: int
    default: 500
  server_requirements:
    description:
      - Requirements of the server, each pinned with C(==) and with its hashes, in the form that C(uv pip compile
        --generate-hashes) prints.
    type: str
    default: ''
  index_url:
    description: The default package index. It may contain a user and a password. Empty is uv's default.
    type: str
    default: ''
  indexes:
    description: Further package indexes. Each is asked before the default one.
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description: The address, without a user and a password.
        type: str
        required: true
      username:
        description: The user.
        type: str
        default: ''
      password:
        description: The password or token. Only uv and the build scripts on the host get to know it, by their environment.
        type: str
        default: ''
  ca_bundle:
    description: A file on the host with the certificate authorities to trust. Empty, uv trusts what it trusts by default.
    type: str
    default: ''
  http_proxy:
    description: The proxy for addresses with http.
    type: str
    default: ''
  https_proxy:
    description: The proxy for addresses with https.
    type: str
    default: ''
  no_proxy:
    description: Hosts to reach without the proxy, separated by commas.
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
  recipe:
    description: What to install. Set by the action plugin of this name.
    type: dict
attributes:
  check_mode:
    description: Says whether a release would be built.
    support: full
  diff_mode:
    description:
      - Names the packages that differ from those of the live release. In check mode it takes them from the lock; without one it only
        names the release.
    support: full
  idempotent:
    description: A second run with the same source changes nothing.
    support: full
notes:
  - Further settings of uv's can be given in the task's C(environment). They appear in process lists, so give no password there.
  - Inside a git work tree the source is what git tracks or would track, and C(uv.lock) in any case.
    Elsewhere it is all but the usual litter. A work tree that git on the controller cannot list is refused, and so is one of another tool.
  - A link that leaves the source is refused, and so is what is neither a file nor a link.
  - A source is read once in a run. Every later host, batch and task gets the same bytes.
seealso:
  - module: steadfast.asgi.asgi_rollout
  - module: steadfast.asgi.asgi_prune
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

- name: Build a release of what others wrote, from the package index
  steadfast.asgi.asgi_release:
    source: datasette==0.65.5
    releases: /opt/data/releases
    uv: /opt/uv/0.13.8/bin/uv
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
packages:
  description: The packages that differ from those of the live release. A version is empty where the package is not there.
  returned: when a release was built, or would be and has a lock
  type: list
  elements: dict
  sample: [{name: starlette, old: 1.9.0, new: 1.10.0}]
pinned:
  description: The source with the commit in full that a branch or tag stands for.
  returned: success, for a repository
  type: str
  sample: git+https://git.example.org/shop.git@3d9f1c0a5b7e2d4f6a8c0e1b3d5f7a9c1e3b5d7f
steps:
  description: What was done, with the seconds that each step took.
  returned: when a release was built
  type: list
  elements: dict
  sample: [{step: unpack, seconds: 0.02}, {step: install, seconds: 1.31}]
"""

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import tarfile
import time
import zlib
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils.build import (
    BUILDING,
    Builder,
    BuildError,
    Store,
    clone,
    is_interrupted,
    link,
    link_inside,
    remove_release,
    take_over,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError
from ansible_collections.steadfast.asgi.plugins.module_utils.packages import (
    changes,
    contradicts,
    describe,
    installed_packages,
    missing_requirements,
    site_packages,
    too_old,
    with_credentials,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import utc
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError, find_app, unpack
from ansible_collections.steadfast.asgi.plugins.module_utils.static import held, publish, static_files, union_of
from ansible_collections.steadfast.asgi.plugins.module_utils.target import PROBE

MARK = "release.json"

# What a recipe says of the application's own files, and not of its packages.
_OF_THE_APP = ("before_build", "after_build", "static", "shared")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def uv_environment(params: dict[str, Any]) -> dict[str, str]:
    """Return the environment that tells uv of indexes, authorities and proxies."""
    values = {
        "UV_DEFAULT_INDEX": params["index_url"],
        "UV_INDEX": " ".join(with_credentials(index["url"], index["username"], index["password"]) for index in params["indexes"]),
        "SSL_CERT_FILE": params["ca_bundle"],
        "http_proxy": params["http_proxy"],
        "https_proxy": params["https_proxy"],
        "no_proxy": params["no_proxy"],
    }
    return {name: value for name, value in values.items() if value}


def secret_environment(module: AnsibleModule) -> dict[str, str]:
    """Return the environment of the commands, and keep its values out of all that the module says.

    Ansible blots out each value of a secret parameter wherever it occurs. For a short one, such as "1", that would leave nothing
    legible, so those are only taken out of the parameters.
    """
    environment = {name: str(value) for name, value in module.params["build_environment"].items()}
    module.no_log_values -= {value for value in environment.values() if len(value) < 6}
    module.params["build_environment"] = dict.fromkeys(environment, "(not shown)")
    return environment


def free_mebibytes(path: str) -> int:
    """Return what is free for everybody on the file system that `path` is or would be on."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize >> 20


def _numbers(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]


class Build:
    """One build on the host."""

    def __init__(self, module: AnsibleModule, environment: dict[str, str]) -> None:
        self.module = module
        self.environment = environment
        self.params = module.params
        self.recipe: dict[str, Any] = module.params["recipe"] or {}
        self.releases: str = module.params["releases"]
        self.path = os.path.join(self.releases, module.params["id"])
        self.app = os.path.join(self.path, "app")
        self.venv = os.path.join(self.path, ".venv")
        # The virtual environment of the release that is live, if there is one.
        self.live = os.path.join(os.path.dirname(self.releases), "slots", "live", "release", ".venv")
        # What is unpacked, and what the build may litter; it is gone when the release is complete.
        self.work = os.path.join(self.path, "build")
        self.source = os.path.join(self.work, "source")
        self.cache = os.path.join(module.params["cache"], "uv")
        self.store = Store(os.path.join(module.params["cache"], "files"))
        self.builder = Builder(module.run_command, module.params["build_user"])
        self.python = ""
        self.steps: list[dict[str, Any]] = []

    @property
    def complete(self) -> bool:
        return os.path.isfile(os.path.join(self.path, MARK))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.steps.append({"step": name, "seconds": round(time.monotonic() - begun, 3)})

    def execute(self, *command: str) -> str:
        """Run a command as the user that builds. Raises BuildError with the command's own words."""
        environment = {
            **uv_environment(self.params),
            "UV_CACHE_DIR": self.cache,
            "UV_LINK_MODE": "copy",
            "UV_PROJECT_ENVIRONMENT": self.venv,
            "UV_PYTHON": self.python,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_COMPILE_BYTECODE": "0",
            "UV_NO_PROGRESS": "1",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        if self.recipe.get("wheelhouse"):
            environment |= {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": os.path.join(self.work, "wheelhouse")}
        cwd = self.source if os.path.isdir(self.source) else self.work
        rc, stdout, stderr = self.builder.run(command, cwd, environment, [self.work, self.venv, self.cache])
        if rc != 0:
            said = (stderr or stdout).strip()
            raise BuildError(f"'{' '.join(command)}' failed in {cwd}: {said or f'it ended with {rc} and said nothing'}")
        return stdout

    def uv(self, *arguments: str) -> str:
        return self.execute(self.params["uv"], *arguments)

    def find_python(self) -> str:
        """Return the interpreter's path, '' for a version that uv would have to install. Raises BuildError for a path to nothing."""
        wanted: str = self.params["python"]
        if wanted.startswith("/"):
            if not os.access(wanted, os.X_OK):
                raise BuildError(
                    f"python (asgi_release_python) is {wanted}, and this host has no such program. Install it, or give a version such "
                    "as 3.13, which uv installs."
                )
            return wanted
        places = [f"/usr/bin/python{wanted}", f"/usr/local/bin/python{wanted}"]
        minor = ".".join(wanted.split(".")[:2])
        pattern = os.path.join(glob.escape(self.params["python_root"]), f"cpython-{wanted}[.-]*linux-*")
        # uv has a link from each minor version to its newest patch. A release keeps the interpreter that it was built with.
        roots = sorted({os.path.realpath(path) for path in glob.glob(pattern)}, key=_numbers, reverse=True)
        managed = [os.path.join(root, "bin", f"python{minor}") for root in roots]
        return next((place for place in [*places, *managed] if os.access(place, os.X_OK)), "")

    def probe(self) -> dict[str, Any]:
        """Return what the interpreter says of itself and of the host (PROBE)."""
        python = self.find_python()
        # None of those that uv installs is run as root; they differ from the host's own in nothing but the version.
        own = python and not python.startswith(self.params["python_root"])
        rc, stdout, stderr = self.module.run_command([python if own else sys.executable, "-I", "-c", PROBE])
        if rc != 0:
            raise BuildError(f"python (asgi_release_python) is {python}, which cannot be run: {stderr.strip()}")
        told: dict[str, Any] = json.loads(stdout)
        if not own:
            named = re.search(r"cpython-([0-9.]+)", python)
            full = named.group(1) if named else self.params["python"]
            full += ".0" if full.count(".") == 1 else ""
            told["markers"] |= {"python_full_version": full, "implementation_version": full, "python_version": full.rpartition(".")[0]}
        return told

    def install_python(self) -> str:
        """Have uv install an interpreter, for all applications of the host. It is unpacked, and none of it is run as root."""
        wanted: str = self.params["python"]
        command = [self.params["uv"], "python", "install", "--no-bin", "--no-config", wanted]
        environment = {
            **uv_environment(self.params),
            "UV_PYTHON_INSTALL_DIR": self.params["python_root"],
            "UV_PYTHON_INSTALL_MIRROR": self.params["python_mirror"],
            "UV_PYTHON_DOWNLOADS_JSON_URL": self.params["python_downloads"],
            "UV_CACHE_DIR": os.path.join(self.params["python_root"], ".cache"),
            "UV_NO_PROGRESS": "1",
        }
        values = {name: value for name, value in environment.items() if value}
        rc, stdout, stderr = self.module.run_command(command, environ_update=values)
        shutil.rmtree(values["UV_CACHE_DIR"], ignore_errors=True)
        # Everybody may write to it.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.params["python_root"], ".lock"))
        found = self.find_python()
        if rc != 0 or not found:
            raise BuildError(
                f"python (asgi_release_python) is {wanted}, which is not on this host, and uv cannot install it: "
                f"{(stderr or stdout).strip()}. Where there is no way to uv's own address, name a mirror (asgi_release_python_mirror), "
                "a list of archives (asgi_release_python_downloads) or a path on the host."
            )
        return found

    def check_space(self) -> None:
        for name in ("releases", "cache"):
            free = free_mebibytes(self.params[name])
            if free < self.params["min_free"]:
                raise BuildError(
                    f"{free} MiB are free for {self.params[name]}, and min_free (asgi_release_min_free) is {self.params['min_free']}. "
                    "Remove releases that are not needed any more, or what else fills the disk."
                )

    def check_uv(self) -> None:
        if not os.access(self.params["uv"], os.X_OK):
            raise BuildError(f"uv (asgi_release_uv) is {self.params['uv']}, and this host has no such program. Apply asgi_uv first.")

    def run(self) -> None:
        """Build in the final place, since a virtual environment holds its own path; the mark comes last."""
        self.check_uv()
        with self.step("prepare"):
            self.builder.prepare()
            self.clean()
            self.check_space()
            self.python = self.find_python() or self.install_python()
        try:
            with self.step("unpack"):
                self.unpack()
            if self.recipe.get("before_build"):
                with self.step("before_build"):
                    self.run_hooks("before_build", _PATH)
                    self.build_from_app()
            with self.step("install"):
                self.install()
            with self.step("server"):
                self.add_server()
            with self.step("take over"):
                take_over(self.venv, self.builder, self.store, final=False)
            with self.step("compile"):
                self.compile()
            if self.recipe.get("after_build"):
                with self.step("after_build"):
                    self.run_hooks("after_build", f"{self.venv}/bin:{_PATH}", VIRTUAL_ENV=self.venv)
            self.link_shared()
            self.check_app()
            with self.step("finish"):
                self.finish()
        except BaseException:
            self.builder.stop()
            with contextlib.suppress(OSError):
                remove_release(self.path)
            raise

    def clean(self) -> None:
        """Remove what interrupted builds have left, of this release and of others."""
        paths = [os.path.join(self.releases, name) for name in os.listdir(self.releases)]
        for path in {self.path, *filter(is_interrupted, paths)}:
            if os.path.lexists(path):
                remove_release(path)

    def unpack(self) -> None:
        os.mkdir(self.path, 0o755)
        with open(os.path.join(self.path, BUILDING), "wb"):
            pass
        with open(self.params["archive"], "rb") as stream:
            unpack(stream, self.work)
        if os.path.isdir(self.source):
            # A build writes into the source that it builds from. The application's own stays as it came.
            shutil.copytree(self.source, self.app, symlinks=True)
        else:
            os.mkdir(self.app, 0o755)
        os.mkdir(self.venv, 0o755)
        for directory, mode in ((self.params["cache"], 0o755), (self.store.directory, 0o700), (self.cache, 0o700)):
            if not os.path.isdir(directory):
                os.makedirs(directory, mode)
        os.chown(self.cache, self.builder.uid, self.builder.gid)
        os.chown(self.venv, self.builder.uid, self.builder.gid)
        self.builder.give(self.work)

    def run_hooks(self, when: str, path: str, **environment: str) -> None:
        """Run the application's own commands in its directory. What they leave there is root's, and part of the release."""
        network = {name: value for name, value in uv_environment(self.params).items() if not name.startswith("UV_")}
        # Bytecode belongs to the packages; that of the application would not be there for every release.
        given = {**network, "PYTHONDONTWRITEBYTECODE": "1", "PATH": path, **environment, **self.environment}
        self.builder.give(self.app)
        for command in self.recipe[when]:
            rc, stdout, stderr = self.builder.run(command, self.app, given, [self.app])
            if rc != 0:
                said = "\n".join(text.strip() for text in (stdout, stderr) if text.strip())[-4000:]
                raise BuildError(
                    f"asgi_release_{when}: '{shlex.join(command)}' failed in {self.app}: {said or f'it ended with {rc} and said nothing'}"
                )
        take_over(self.app, self.builder, None, final=True)

    def build_from_app(self) -> None:
        """Have the application's package built from what commands have made of its source."""
        if os.path.isdir(self.source):
            shutil.rmtree(self.source)
            shutil.copytree(self.app, self.source, symlinks=True)
            self.builder.give(self.source)

    def link_shared(self) -> None:
        for name in self.recipe.get("shared", []):
            link_inside(self.app, name, os.path.join(self.params["shared_root"], name))

    def environment_key(self) -> str:
        """Return what two releases have in common whose packages are the same, but for the application itself.

        '' without a lock, and where that is not all: it may include other files, or have packages that are part of the source.
        """
        if not self.recipe["lock"] or self.recipe.get("refers"):
            return ""
        with open(os.path.join(self.work, self.recipe["lock"]), "rb") as stream:
            total = hashlib.sha256(stream.read())
        recipe = {name: value for name, value in self.recipe.items() if name not in _OF_THE_APP}
        told = [recipe, os.path.realpath(self.python), self.python, self.params["server_requirements"]]
        total.update(json.dumps(told, sort_keys=True).encode())
        return total.hexdigest()

    def equal_release(self) -> str:
        """Return the path of the newest release whose virtual environment this one can begin with, '' if there is none."""
        key, found = self.environment_key(), []
        for mark in glob.glob(os.path.join(glob.escape(self.releases), "*", MARK)):
            with contextlib.suppress(OSError, ValueError), open(mark, encoding="utf-8") as stream:
                content = json.load(stream)
                if key and content.get("environment") == key:
                    found.append((content["built"], os.path.dirname(mark)))
        return max(found)[1] if found else ""

    def install(self) -> None:
        """Install the application's packages, and the application itself where it is a package."""
        equal = self.equal_release()
        if equal:
            clone(os.path.join(equal, ".venv"), self.venv, self.builder)
        lock, offline = self.recipe["lock"], self.recipe.get("wheelhouse")
        if self.recipe["format"] == "uv" and not offline:
            # Inexact, because an environment to begin with has the server in it already.
            self.uv("sync", "--frozen", "--no-dev", "--no-editable", "--inexact", *self.recipe["options"])
            return
        if not equal:
            self.uv("venv", "--python", self.python, self.venv)
        locked = os.path.join(self.work, lock) if lock else ""
        if self.recipe["format"] == "uv":
            locked = os.path.join(self.work, "requirements.txt")
            self.uv("export", "--quiet", "--frozen", "--no-dev", "--no-emit-workspace", "--output-file", locked, *self.recipe["options"])
        pip = ("pip", "install", "--python", self.venv)
        if locked and not equal:
            self.uv(*pip, *(["--require-hashes"] if self.recipe["hashes"] else []), "--requirement", locked)
        for each in self.recipe["install"]:
            path = os.path.join(self.work, each)
            self.uv(*pip, *(["--no-deps"] if locked else []), path if os.path.exists(path) else each)

    def add_server(self) -> None:
        """Add the server's packages that the application does not bring, and refuse those that are too old."""
        installed = installed_packages(self.venv)
        old = too_old(installed)
        if old:
            raise BuildError(" ".join([*old, "Raise it in the application's dependencies, or take it out: the role brings its own."]))
        wanted = missing_requirements(self.params["server_requirements"], installed)
        if wanted:
            requirements = os.path.join(self.work, "server-requirements.txt")
            with open(requirements, "w", encoding="utf-8") as stream:
                stream.write(wanted)
            self.uv("pip", "install", "--python", self.venv, "--no-deps", "--require-hashes", "--requirement", requirements)
        try:
            self.uv("pip", "check", "--python", self.venv)
        except BuildError as error:
            # What uv.lock has was resolved with the project's own overrides (tool.uv), which the check does not know.
            if self.recipe["format"] != "uv" or contradicts(str(error), self.params["server_requirements"]):
                raise

    def bytecode(self) -> list[tuple[str, str]]:
        """Return where the bytecode of new modules belongs and where it is kept; nothing for an interpreter that it is not known of."""
        tags = [re.fullmatch(r"python3\.(\d+)", name) for name in os.listdir(os.path.join(self.venv, "lib"))]
        return [each for tag in tags if tag for each in self.store.bytecode(self.python, f"cpython-3{tag.group(1)}")]

    def take_bytecode(self) -> None:
        """Take over the bytecode that other releases have for the same modules."""
        for wanted, kept in self.bytecode():
            if os.path.exists(kept):
                folder = os.path.dirname(wanted)
                if not os.path.isdir(folder):
                    os.mkdir(folder, 0o755)
                    os.chown(folder, self.builder.uid, self.builder.gid)
                link(kept, wanted)

    def keep_bytecode(self) -> None:
        """Keep for other releases what was compiled for this one."""
        for made, kept in self.bytecode():
            if os.path.isfile(made) and not os.path.exists(kept):
                os.makedirs(os.path.dirname(kept), mode=0o700, exist_ok=True)
                link(made, kept)

    def compile(self) -> None:
        """Compile bytecode where there is none yet.

        uv does it with each installation, of all that is there: faster than Python's own compileall, but too early, since the
        times of the files are part of it. So it installs a project that needs nothing.
        """
        self.take_bytecode()
        project = os.path.join(self.work, "compile")
        os.mkdir(project)
        with open(os.path.join(project, "pyproject.toml"), "w", encoding="utf-8") as stream:
            stream.write('[project]\nname = "compile"\nversion = "0"\n[tool.uv]\npackage = false\n')
        self.builder.give(project)
        self.uv("sync", "--directory", project, "--inexact", "--offline", "--compile-bytecode")

    def check_app(self) -> None:
        if self.params["import_path"]:
            missing = find_app(self.params["import_path"], [self.app, *site_packages(self.venv)])
            if missing:
                raise BuildError(f"import_path (asgi_import_path) is {self.params['import_path']}, but {missing}.")

    def finish(self) -> None:
        """Declare the release complete, durably: first all that is in it, then the mark."""
        mark = {
            "id": self.params["id"],
            "built": utc(time.time()),
            "environment": self.environment_key(),
            "static": self.recipe.get("static", []),
        }
        # uv leaves its lock behind, which everybody may write to.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.venv, ".lock"))
        take_over(self.venv, self.builder, self.store, final=True)
        self.keep_bytecode()
        shutil.rmtree(self.work)
        if not mark["static"]:
            self.declare(mark)
            return
        union = union_of(self.releases)
        files = self.static_files()
        # Until there is a mark, whoever prunes takes these files for nobody's.
        with held(union):
            publish(union, files)
            self.declare(mark)

    def static_files(self) -> dict[str, str]:
        for name in self.recipe["static"]:
            path = os.path.join(self.app, name)
            if not os.path.isdir(path) or not f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(self.path)}/"):
                raise BuildError(
                    f"asgi_release_static names {name}, and the release has no such directory. Correct the path, or have a command of "
                    "asgi_release_after_build make it"
                )
        return static_files(self.path, self.recipe["static"])

    def declare(self, mark: dict[str, Any]) -> None:
        os.sync()
        temporary = os.path.join(self.path, f".{MARK}")
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump(mark, stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, os.path.join(self.path, MARK))
        os.unlink(os.path.join(self.path, BUILDING))

    def changed_packages(self) -> list[dict[str, str]]:
        """Return how the packages differ from those of the release that is live."""
        return changes(installed_packages(self.live), installed_packages(self.venv))


def main() -> None:
    text = {"type": "str", "default": ""}
    secret = {"type": "str", "default": "", "no_log": True}
    module = AnsibleModule(
        argument_spec={
            "source": {"type": "str", "required": True},
            "subdirectory": text,
            "checksum": text,
            "git_key": {"type": "str", "default": "", "no_log": False},
            "git_known_hosts": text,
            "git_submodules": {"type": "bool", "default": False},
            "lock": text,
            "require_hashes": {"type": "bool", "default": True},
            "package": text,
            "extras": {"type": "list", "elements": "str", "default": []},
            "groups": {"type": "list", "elements": "str", "default": []},
            "wheelhouse": text,
            "offline": {"type": "bool", "default": False},
            "before_build": {"type": "list", "elements": "raw", "default": []},
            "after_build": {"type": "list", "elements": "raw", "default": []},
            "build_environment": {"type": "dict", "default": {}, "no_log": True},
            "static": {"type": "list", "elements": "str", "default": []},
            "shared": {"type": "list", "elements": "str", "default": []},
            "shared_root": {"type": "path"},
            "releases": {"type": "path", "required": True},
            "import_path": text,
            "python": {"type": "str", "default": "/usr/bin/python3"},
            "python_root": {"type": "path", "default": "/opt/uv/python"},
            "python_mirror": text,
            "python_downloads": text,
            "uv": {"type": "path", "required": True},
            "cache": {"type": "path", "default": "/opt/uv/cache"},
            "build_user": {"type": "str", "default": "asgi-build"},
            "min_free": {"type": "int", "default": 500},
            "server_requirements": text,
            # Each may contain a password.
            "index_url": secret,
            "indexes": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"url": {"type": "str", "required": True}, "username": text, "password": secret},
            },
            "http_proxy": secret,
            "https_proxy": secret,
            "ca_bundle": text,
            "no_proxy": {"type": "str", "default": "", "no_log": False},
            "inspect": {"type": "bool", "default": False},
            "id": {"type": "str"},
            "archive": {"type": "path"},
            "recipe": {"type": "dict"},
        },
        supports_check_mode=True,
    )
    environment = secret_environment(module)
    if not module.params["id"]:
        module.fail_json(msg="This module is run by the action plugin of the same name; use it as steadfast.asgi.asgi_release.")
    # The application's user reads the release, whatever the host's default is.
    os.umask(0o022)
    build = Build(module, environment)
    result: dict[str, Any] = {"id": module.params["id"], "path": build.path}
    if build.complete:
        module.exit_json(changed=False, **result)
    try:
        build.find_python()
        # Without an archive this is the question whether one is needed.
        if module.check_mode or not module.params["archive"]:
            diff = {"prepared": describe(module.params["id"], [])}
            # For the action plugin: what to choose packages for, and what they are compared with.
            module.exit_json(changed=True, diff=diff, target=build.probe(), live=installed_packages(build.live), **result)
        with open(os.path.join(module.params["releases"], ".lock"), "w", encoding="utf-8") as own, host_lock(build.builder):
            fcntl.flock(own, fcntl.LOCK_EX)
            if not build.complete:
                build.run()
        packages = build.changed_packages()
    except (BuildError, LockedError, SourceError, OSError, EOFError, tarfile.TarError, zlib.error) as error:
        module.fail_json(msg=f"The release was not built, and nothing is left of it. {to_native(error)}", steps=build.steps)
    diff = {"prepared": describe(module.params["id"], packages)}
    module.exit_json(changed=True, steps=build.steps, packages=packages, diff=diff, **result)


@contextlib.contextmanager
def host_lock(builder: Builder) -> Iterator[None]:
    """Let one build at a time have the user that builds. The kernel drops the lock when this process ends."""
    with open("/run/asgi-build.lock" if builder.name else os.devnull, "w", encoding="utf-8") as stream:
        if builder.name:
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    main()
