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
  - uv and the build scripts of packages run as O(build_user), in a unit of systemd's that can write to nothing but the build, and
    that reaches neither what listens on the host nor its cloud's metadata.
  - When they have ended, what they left is looked at file by file, and made root's. Links that leave the release, pipes, devices and
    files of other users fail the build. So do files that differ from the list of the package that brings them.
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
      - What is kept on the host for the next build. C(users/NAME) is uv's cache of each user that builds, which no other user can read.
        C(store) has the files of all releases and is root's. On the file system of O(releases), the files of a release are hard links
        into it.
    type: path
    default: /opt/uv/cache
  build_user:
    description:
      - The system user that builds. It is made if there is none of that name. It must have no processes outside of the build.
      - Without this option it is C(asgi-build-NAME), with the name of the directory that O(releases) is in.
      - Applications with the same user trust each other. They share uv's cache, and their builds take turns.
      - Empty is the user that runs the module, who then runs the build scripts of packages, without a unit and its limits.
    type: str
  build_timeout:
    description:
      - Seconds that the commands of one build may take together. After that the build is stopped and fails.
      - It is also how long a build waits for another one of the same application.
    type: int
    default: 1800
  build_memory_max:
    description: The memory that a build may have, as systemd's C(MemoryMax) takes it. A build that wants more is killed.
    type: str
    default: 75%
  build_allow:
    description:
      - What is open to a build that is closed otherwise.
      - V(loopback) is what listens on this host, at any of its addresses.
      - V(link_local) is the link-local addresses (C(169.254.0.0/16), C(fe80::/10)) and the metadata services of clouds.
      - V(unix_sockets) is sockets in the file system that the build sees, and abstract ones of the host.
      - The addresses of indexes, proxies and the host's resolver are open as they are configured, wherever they are.
    type: list
    elements: str
    choices: [link_local, loopback, unix_sockets]
    default: []
  min_free:
    description:
      - Mebibytes that have to be free on the file systems of O(releases) and O(cache) before a build.
      - A build is stopped when it leaves less than a fifth of that.
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
import os
import tarfile
import time
import zlib
from collections.abc import Iterator
from typing import Any

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils.build import Build
from ansible_collections.steadfast.asgi.plugins.module_utils.build_unit import ALLOWABLE
from ansible_collections.steadfast.asgi.plugins.module_utils.builder import user_of
from ansible_collections.steadfast.asgi.plugins.module_utils.execute import BuildError, Run, StoppedError
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.locks import LockedError, locked
from ansible_collections.steadfast.asgi.plugins.module_utils.packages import describe, installed_packages
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError


def secret_environment(module: Module) -> dict[str, str]:
    """Return the environment of the commands, and keep its values out of all that the module says.

    Ansible blots out each value of a secret parameter wherever it occurs. For a short one, such as "1", that would leave nothing
    legible, so those are only taken out of the parameters.
    """
    environment = {name: str(value) for name, value in module.params["build_environment"].items()}
    module.no_log_values -= {value for value in environment.values() if len(value) < 6}
    module.params["build_environment"] = dict.fromkeys(environment, "(not shown)")
    return environment


@contextlib.contextmanager
def alone(build: Build, run: Run, timeout: float) -> Iterator[None]:
    """Let one build at a time work on an application, and one have the user that builds. Raises LockedError, which names the holder."""

    def sleep(seconds: float) -> None:
        reason = run.over()
        if reason:
            raise StoppedError(reason)
        time.sleep(seconds)

    remedy = "Wait for it, or look at that process (it is waited for as long as a build may take, asgi_release_build_timeout)"
    with contextlib.ExitStack() as stack:
        own = os.path.join(build.releases, ".lock")
        stack.enter_context(locked(own, timeout, build.note, sleep=sleep, what="another build of this application", remedy=remedy))
        if build.builder.name:
            what = f"a build of another application with the same user (asgi_release_build_user: {build.builder.name})"
            note = {**build.note, "application": build.builder.app}
            of_the_user = f"/run/asgi-build-{build.builder.name}.lock"
            stack.enter_context(locked(of_the_user, timeout, note, sleep=sleep, what=what, remedy=remedy))
        yield


def main() -> None:
    text = {"type": "str", "default": ""}
    secret = {"type": "str", "default": "", "no_log": True}
    module = Module(
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
            "build_user": {"type": "str"},
            "build_timeout": {"type": "int", "default": 1800},
            "build_memory_max": {"type": "str", "default": "75%"},
            "build_allow": {"type": "list", "elements": "str", "default": [], "choices": list(ALLOWABLE)},
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
    if module.params["build_user"] is None:
        module.params["build_user"] = user_of(os.path.basename(os.path.dirname(module.params["releases"])))
    run = Run()
    build = Build(module.params, environment, run)
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
        run.listen()
        with alone(build, run, module.params["build_timeout"]):
            if not build.complete:
                build.run()
        packages = build.changed_packages()
    except (BuildError, LockedError, SourceError, OSError, EOFError, tarfile.TarError, zlib.error) as error:
        module.fail_json(msg=f"The release was not built, and nothing is left of it. {to_native(error)}", steps=build.steps)
    for warning in build.warnings:
        module.warn(warning)
    diff = {"prepared": describe(module.params["id"], packages)}
    module.exit_json(changed=True, steps=build.steps, packages=packages, diff=diff, **result)


if __name__ == "__main__":
    main()
