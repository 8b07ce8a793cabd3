# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of asgi_release: look at the source, and send it only where the host does not have that release yet."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.steadfast.asgi.plugins.module_utils.command import CommandError, argv
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import legible
from ansible_collections.steadfast.asgi.plugins.module_utils.lockfile import (
    LOCKS,
    Pinned,
    accepts_python,
    check_requirements,
    check_uv_lock,
    format_of,
    local_packages,
    locked_packages,
    pinned,
    pinned_requirements,
    read_toml,
    refers_to_files,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.origin import Options, Origin, is_path, opened
from ansible_collections.steadfast.asgi.plugins.module_utils.packages import (
    changes,
    describe,
    missing_requirements,
    normalise,
    too_old,
    with_credentials,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.source import (
    SourceError,
    digest,
    find_app,
    pack,
    source_files,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.target import Target
from ansible_collections.steadfast.asgi.plugins.module_utils.wheelhouse import Wheels, build_requirements, wants_of

# Part of every ID. To be raised when the same source is to be built in another way.
_RECIPE = "2"

_RELATIVE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*\Z")

# All that a directory has which is to be empty.
_PLACEHOLDERS = frozenset([".gitkeep", ".keep", ".gitignore"])


class Plan:
    """What is to be built: the files to send, how they are installed, and the ID of the release."""

    def __init__(self, origin: Origin, arguments: dict[str, Any], loader: Any) -> None:
        self.arguments = arguments
        self.loader = loader
        self.offline = boolean(arguments.get("offline", False), strict=False)
        # What is sent: where to, from which directory, and the names.
        self.files: list[tuple[str, str, list[str]]] = []
        self.recipe: dict[str, Any] = {
            "lock": "",
            "format": "",
            "options": [],
            "install": [],
            "hashes": boolean(arguments.get("require_hashes", True), strict=False),
            "wheelhouse": bool(self.text("wheelhouse")) or self.offline,
        }
        # Where the packages are named, on the controller: a lock, or what is to be asked for its requirements.
        self.lock = self.artifact = self.requirement = ""
        self.pyproject: dict[str, Any] = {}
        self.requires_python = ""
        for name in ("before_build", "after_build"):
            if self.arguments.get(name):
                self.recipe[name] = commands(name, self.arguments[name])
        for name in ("static", "shared"):
            if self.arguments.get(name):
                self.recipe[name] = relative_paths(name, self.names(name))
        if self.recipe.get("shared") and not self.text("shared_root"):
            raise SourceError("shared_root is missing: the directory on the host that the shared paths point to.")
        environment = self.arguments.get("build_environment") or {}
        check_environment(environment)
        self.environment = json.dumps({str(name): str(value) for name, value in environment.items()}, sort_keys=True)
        if origin.directory:
            self.id = self.plan_project(origin)
        else:
            self.id = self.plan_package(origin)
        self.wheelhouse = self.find_wheelhouse() if self.text("wheelhouse") else ""

    def text(self, name: str) -> str:
        return str(self.arguments.get(name) or "")

    def names(self, name: str) -> list[str]:
        value = self.arguments.get(name) or []
        return [str(each) for each in (value if isinstance(value, list) else str(value).split(","))]

    def plan_project(self, origin: Origin) -> str:
        """A directory with a project in it. Raises SourceError where there is nothing that can be deployed."""
        directory = os.path.normpath(os.path.join(origin.directory, self.text("subdirectory") or "."))
        if not f"{directory}/".startswith(f"{os.path.normpath(origin.directory)}/") or not os.path.isdir(directory):
            raise SourceError(f"asgi_release_subdirectory is {self.text('subdirectory')}, and the source has no such directory.")
        self.find_lock(directory)
        lock, kind = self.recipe["lock"].removeprefix("source/"), self.recipe["format"]
        pyproject = os.path.join(directory, "pyproject.toml")
        content = self.pyproject = read_toml(pyproject) if os.path.isfile(pyproject) else {}
        project = content.get("project")
        self.requires_python = str(project.get("requires-python") or "") if isinstance(project, dict) else ""
        if is_version(self.text("python")):
            # Which patch version it will be is not known yet.
            wanted = self.text("python")
            self.check_python([wanted] if wanted.count(".") > 1 else [f"{wanted}.{patch}" for patch in range(100)])
        extras, groups, package = self.names("extras"), self.names("groups"), self.text("package")
        if kind == "uv":
            check_uv_lock(directory, package, extras, groups)
            chosen = [("--package", package)] if package else []
            chosen += [("--extra", name) for name in extras] + [("--group", name) for name in groups]
            self.recipe["options"] = [part for pair in chosen for part in pair]
            if self.recipe["wheelhouse"]:
                self.check_offline(directory)
        elif package or extras or groups:
            raise SourceError(
                "asgi_release_package, asgi_release_extras and asgi_release_groups need a uv.lock; a file of requirements has them all."
            )
        elif kind == "requirements":
            check_requirements(os.path.join(directory, lock), self.recipe["hashes"])
        # With uv.lock that is uv's own business, as long as there is a network.
        if "build-system" in content and (kind != "uv" or self.recipe["wheelhouse"]):
            self.recipe["install"] = ["source"]
        packages = locked_packages(os.path.join(directory, lock)) if lock else {}
        self.check_versions(packages)
        if kind != "uv" and refers_to_files(os.path.join(directory, lock)):
            # The lock alone does not say whether the packages of another release would be the same.
            self.recipe["refers"] = True
        # What it is built from is needed whatever .gitignore says.
        names = self.without_shared(directory, sorted({*source_files(directory), lock}))
        self.files.append(("source", directory, names))
        if self.text("import_path"):
            _check_app(directory, names, self.text("import_path"), packages if lock else None)
        version = str(project.get("version") or "") if isinstance(project, dict) else ""
        if origin.commit:
            return f"{origin.commit[:12]}-{digest(directory, [], self.how())[:6]}"
        return release_id(version, digest(directory, names, self.how()))

    def check_offline(self, directory: str) -> None:
        """Raise SourceError for what uv.lock cannot have installed without an index: other projects of the source, which uv would build."""
        lock = os.path.join(directory, "uv.lock")
        others = local_packages(lock)
        if others or "project" not in self.pyproject:
            what = f"has {', '.join(others[:5])} as part of the source" if others else "is that of a workspace without a project of its own"
            raise SourceError(
                f"asgi_release_offline and asgi_release_wheelhouse do not work with this uv.lock: {lock} {what}. Build wheels with 'uv "
                "build --all-packages --wheel', name the application's in asgi_release_source (asgi_source), the directory in "
                "asgi_release_wheelhouse, and a lock that 'uv pip compile' makes in asgi_release_lock; or let the host reach an index."
            )

    def without_shared(self, directory: str, names: list[str]) -> list[str]:
        """Leave out what only keeps git from forgetting a directory. Raises SourceError for what a link would hide."""
        kept = []
        for name in names:
            shared = next((path for path in self.recipe.get("shared", []) if f"{name}/".startswith(f"{path}/")), None)
            if shared is None:
                kept.append(name)
            elif os.path.basename(name) not in _PLACEHOLDERS:
                raise SourceError(
                    f"asgi_release_shared (asgi_shared) names {shared}, and {directory} has {name} there, which the link to the "
                    "application's own directory would hide. Move it, or take the path out of the variable."
                )
        return kept

    def find_lock(self, directory: str) -> None:
        """Find the file with the packages, in the source."""
        lock = os.path.normpath(
            self.text("lock") or next((name for name in LOCKS if os.path.isfile(os.path.join(directory, name))), "uv.lock")
        )
        if lock.startswith(("/", "..")):
            raise SourceError(f"asgi_release_lock is {lock}. Name a file in the source, by its path from there.")
        kind = format_of(lock)
        if kind == "uv" and lock != "uv.lock":
            raise SourceError(
                f"asgi_release_lock is {lock}. A uv.lock lies beside its pyproject.toml: name that in asgi_release_subdirectory."
            )
        if kind == "uv" and not os.path.isfile(os.path.join(directory, "pyproject.toml")):
            raise SourceError(
                f"asgi_release_source (asgi_source) is {directory}, which has no pyproject.toml and no file of requirements. Name the "
                "directory that has one (asgi_release_subdirectory), or make one with 'uv init --bare'."
            )
        if not os.path.isfile(os.path.join(directory, lock)):
            remedy = f"Make it with 'uv lock --project {directory}'" if kind == "uv" else "Correct asgi_release_lock"
            raise SourceError(f"asgi_release_source (asgi_source) is {directory}, which has no {lock}. {remedy}.")
        self.recipe |= {"lock": f"source/{lock}", "format": kind}
        self.lock = os.path.join(directory, lock)

    def plan_package(self, origin: Origin) -> str:
        """A wheel, a source distribution or a requirement: all that it needs it says by itself, unless there is a lock for it."""
        for name in ("subdirectory", "package", "extras", "groups"):
            if self.arguments.get(name):
                raise SourceError(
                    f"asgi_release_{name} is for a project; a package is installed as it is, with extras as in NAME[EXTRA]==VERSION."
                )
        told = self.how()
        if self.text("lock"):
            lock = self.loader.path_dwim(os.path.expanduser(self.text("lock")))
            if format_of(lock) == "uv" or not os.path.isfile(lock):
                raise SourceError(
                    f"asgi_release_lock is {lock}. For a package it has to be a requirements.txt or pylock.toml on the controller, as "
                    "'uv pip compile --generate-hashes' makes it."
                )
            if refers_to_files(lock):
                raise SourceError(
                    f"asgi_release_lock is {lock}, which refers to other files. For a package it is sent alone: make one that has all in "
                    "it, as 'uv pip compile --generate-hashes' does."
                )
            if format_of(lock) == "requirements":
                check_requirements(lock, self.recipe["hashes"])
            self.check_versions(locked_packages(lock))
            self.lock = lock
            directory, name = os.path.split(lock)
            self.recipe |= {"lock": f"extra/{name}", "format": format_of(lock)}
            self.files.append(("extra", directory, [name]))
            told = [*self.how(), digest(directory, [name], [])]
        self.artifact, self.requirement = origin.artifact, origin.requirement
        if origin.artifact:
            directory, name = os.path.split(origin.artifact)
            self.recipe["install"] = [f"extra/{name}"]
            self.files.append(("extra", directory, [name]))
            return release_id(origin.version, digest(directory, [name], told))
        self.recipe["install"] = [origin.requirement]
        return release_id(origin.version, digest("/", [], [*told, origin.requirement]))

    def find_wheelhouse(self) -> str:
        """Return the directory of wheels on the controller. Raises SourceError where it has none."""
        directory = self.loader.path_dwim(os.path.expanduser(self.text("wheelhouse")))
        wheels = wheels_in(directory) if os.path.isdir(directory) else []
        if not wheels:
            raise SourceError(
                f"asgi_release_wheelhouse is {directory}, which is no directory with wheels on the controller. Make it with "
                f"'pip download --only-binary=:all: --dest {directory} --requirement requirements.txt', or leave it to the role "
                "(asgi_release_offline)."
            )
        if not self.offline:
            self.files.append(("wheelhouse", directory, wheels))
        return str(directory)

    def packages(self, target: Target) -> list[Pinned] | None:
        """Return what the lock has installed on a host, without the server; None without a lock."""
        if not self.lock:
            return None
        return pinned(self.lock, target.markers, self.text("package"), self.names("extras"), self.names("groups"))

    def server(self, packages: Iterable[Pinned], target: Target) -> list[Pinned]:
        """Return what of the server's packages is installed beside those of the application."""
        names = {each.name: each.version for each in packages}
        return pinned_requirements(missing_requirements(self.text("server_requirements"), names), target.markers)

    def changes(self, live: dict[str, str], target: Target) -> list[dict[str, str]] | None:
        """Return how the packages will differ from those of the live release; None without a lock."""
        packages = self.packages(target)
        if packages is None:
            return None
        will = {each.name: each.version for each in [*packages, *self.server(packages, target)]}
        project = self.pyproject.get("project", {})
        # Installed as a package, the application is one of them.
        if "build-system" in self.pyproject and project.get("name"):
            will[normalise(project["name"])] = str(project.get("version", ""))
        return changes(live, will)

    def fetch_wheels(self, target: Target) -> None:
        """Add all wheels that a host needs to what is sent."""
        environment = {"PIP_INDEX_URL": self.text("index_url"), "UV_DEFAULT_INDEX": self.text("index_url")}
        indexes = [
            with_credentials(str(each["url"]), str(each.get("username", "")), str(each.get("password", "")))
            for each in self.arguments.get("indexes") or []
        ]
        environment |= {"PIP_EXTRA_INDEX_URL": " ".join(indexes), "UV_INDEX": " ".join(indexes)}
        wheels = Wheels(target, {name: value for name, value in environment.items() if value}, self.wheelhouse)
        runs, builds = wants_of(self.artifact) if self.artifact else ([self.requirement] if self.requirement else [], [])
        if self.recipe["install"] == ["source"]:
            runs, builds = [], build_requirements(self.pyproject)
        packages = self.packages(target)
        if packages is None:
            packages = wheels.resolve(runs) if runs else []
        parts = [packages, self.server(packages, target), wheels.resolve(builds) if builds else []]
        found = {name: directory for directory in map(wheels.fetch, parts) for name in wheels_in(directory)}
        for name in wheels_in(self.wheelhouse) if self.wheelhouse else []:
            found[name] = self.wheelhouse
        for directory in sorted(set(found.values())):
            self.files.append(("wheelhouse", directory, sorted(name for name in found if found[name] == directory)))

    def check_python(self, versions: list[str]) -> None:
        """Raise SourceError if the project wants none of these versions of Python."""
        if not any(accepts_python(self.requires_python, version) for version in versions):
            python = self.text("python") or "/usr/bin/python3"
            what = python if is_version(python) else f"{python}, which is Python {versions[0]} on this host"
            raise SourceError(
                f"asgi_release_python is {what}, and the project's pyproject.toml has requires-python = {self.requires_python!r}. Name a "
                "version that both can use."
            )

    def check_versions(self, packages: dict[str, str]) -> None:
        old = too_old(packages)
        if old:
            raise SourceError(" ".join([*old, "Raise it in the application's dependencies, or take it out: the role brings its own."]))

    def how(self) -> list[str]:
        """Return what the result depends on beside the source."""
        told = [self.text(name) for name in ("python", "server_requirements", "subdirectory", "git_submodules")]
        told += [self.environment] if self.environment != "{}" else []
        return [_RECIPE, *told, json.dumps(self.recipe, sort_keys=True)]


def commands(name: str, given: Any) -> list[list[str]]:
    """Return commands as lists of arguments. Raises SourceError, with the variable's name, for what is none."""
    try:
        return [argv(command) for command in (given if isinstance(given, list) else [given])]
    except CommandError as error:
        raise SourceError(f"asgi_release_{name}: {error}") from error


def relative_paths(name: str, paths: list[str]) -> list[str]:
    """Return paths in the application's directory. Raises SourceError for one that leaves it, or that is in another one."""
    variable = f"asgi_release_{name}{' (asgi_shared)' if name == 'shared' else ''}"
    for path in paths:
        if not _RELATIVE.match(path):
            raise SourceError(
                f"{variable} has {path!r}. Write a path in the application's directory, of letters, digits and . _ - + /, without '..' and "
                "without a slash at its end."
            )
        outer = [other for other in paths if f"{path}/".startswith(f"{other}/")]
        if len(outer) > 1:
            raise SourceError(f"{variable} has {path!r} twice, or a directory that it is in. Leave one of them out.")
    return paths


def check_environment(environment: Any) -> None:
    """Raise SourceError for what is no environment. The values are not repeated: they may be secrets."""
    if not isinstance(environment, dict):
        raise SourceError("asgi_release_build_environment is no mapping (it is not shown). Write NAME: value.")
    for name, value in environment.items():
        if not re.match(r"[A-Za-z_][A-Za-z0-9_]*\Z", str(name)):
            raise SourceError(
                f"asgi_release_build_environment has the name {name!r}. Use letters, digits and underscores, not beginning with a digit."
            )
        if not isinstance(value, str | int | float) or "\0" in str(value):
            raise SourceError(f"asgi_release_build_environment: the value of {name} (it is not shown) is no text. Write it in quotes.")


def is_version(python: str) -> bool:
    """Return whether an interpreter is named by its version and not by its path."""
    return re.match(r"[0-9.]+\Z", python) is not None


def wheels_in(directory: str) -> list[str]:
    """Return the names of the files in a directory that uv can install from."""
    return sorted(name for name in os.listdir(directory) if name.endswith((".whl", ".tar.gz")))


def release_id(version: str, total: str) -> str:
    """Return the ID of a release: one plain component of a path."""
    # A local version (1.0+abc) or an epoch would need quoting in a path; the digest says it all.
    return f"{version}-{total[:12]}" if re.match(r"[0-9A-Za-z][0-9A-Za-z.]{0,31}\Z", version) else total[:12]


def at_one_commit(source: str, task_vars: Mapping[str, Any]) -> str:
    """Return a source with the commit that a host of this play has found already, whatever was pushed to its branch since.

    The role keeps what each host finds, by the source; the first host that has found it decides for all.
    """
    if source.startswith("git+"):
        for host in task_vars.get("ansible_play_hosts_all", []):
            found = task_vars["hostvars"][host].get("__asgi_release_commits", {})
            if source in found:
                return str(found[source])
    return source


def _check_app(source: str, names: list[str], import_path: str, packages: dict[str, str] | None) -> None:
    """Raise SourceError if the application cannot be where `import_path` says.

    A top-level package that the source does not have at all may come with one of the dependencies; that is judged on the
    host, when they are installed.
    """
    package = re.split(r"[.:]", import_path, maxsplit=1)[0]
    roots = sorted(
        {os.path.join(source, name.removesuffix(f"{package}.py")) for name in names if f"/{name}".endswith(f"/{package}.py")}
    ) + sorted(
        {os.path.join(source, f"/{name}".partition(f"/{package}/")[0].lstrip("/")) for name in names if f"/{package}/" in f"/{name}"}
    )
    if not roots:
        if packages is None or normalise(package) in packages:
            return
        missing = f"neither the source {source} nor its lock has a package {package}"
    else:
        missing = find_app(import_path, roots)
    if missing:
        raise SourceError(
            f"asgi_release_import_path (asgi_import_path) is {import_path}, but {missing}. Write it as module:object, the way "
            "Python imports it from the source directory."
        )


class ActionModule(ActionBase):
    """Runs the module once if the release is there, and twice, with a transfer in between, if it is not."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        source = str(arguments.get("source") or "")
        if source and is_path(source):
            # A relative path is relative to the playbook, as everywhere in Ansible.
            given, source = source, self._loader.path_dwim(os.path.expanduser(source))
            if "/" in given and not os.path.exists(source) and not os.path.isabs(os.path.expanduser(given)):
                raise AnsibleActionFail(
                    f"asgi_release_source (asgi_source) is {given!r}, which is relative to the playbook: {source} is not a file or "
                    "directory on the controller. Write an absolute path, or one from the inventory's directory, as in "
                    "'{{ inventory_dir }}/../shop'."
                )
        source = at_one_commit(source, task_vars or {})
        key = str(arguments.get("git_key") or "")
        options = Options(
            checksum=str(arguments.get("checksum") or ""),
            git_key=self._loader.path_dwim(os.path.expanduser(key)) if key else "",
            git_known_hosts=str(arguments.get("git_known_hosts") or ""),
            git_submodules=boolean(arguments.get("git_submodules", False), strict=False),
        )
        with tempfile.NamedTemporaryFile(prefix="asgi-release-", suffix=".tar.gz") as archive:
            try:
                with opened(source, options) as origin:
                    plan, source = Plan(origin, arguments, self._loader), origin.pinned or source
                # Out of the module's answer secrets are blotted out, and a part of these might look like one.
                known = {"id": plan.id, "path": os.path.join(plan.text("releases"), plan.id)}
                if origin.pinned:
                    known["pinned"] = origin.pinned
                if boolean(arguments.pop("inspect", False), strict=False):
                    return result | {"changed": False} | known
                told = {**arguments, "id": plan.id, "recipe": plan.recipe}
                answer: dict[str, Any] = self._execute_module("steadfast.asgi.asgi_release", told, task_vars=task_vars)
                if answer.get("failed") or not answer.get("changed"):
                    return answer | known
                target, live = Target.of(answer.pop("target")), answer.pop("live")
                if not is_version(plan.text("python")):
                    plan.check_python([target.release])
                if self._task.check_mode:
                    with opened(source, options) as origin:
                        packages = Plan(origin, arguments, self._loader).changes(live, target)
                    if packages is not None:
                        answer |= {"packages": packages, "diff": {"prepared": describe(plan.id, packages)}}
                    return answer | known
                # Opened again: as long as it is open no other host's build may look at it.
                with opened(source, options) as origin:
                    again = Plan(origin, arguments, self._loader)
                    if again.id != plan.id:
                        raise SourceError("asgi_release_source (asgi_source) has just changed. Run this again when it is at rest.")
                    if again.offline:
                        again.fetch_wheels(target)
                    pack(again.files, archive)
                    archive.flush()
            except (SourceError, OSError) as error:
                raise AnsibleActionFail(legible(str(error))) from error
            remote = self._connection._shell.join_path(self._make_tmp_path(), "source.tar.gz")
            self._transfer_file(archive.name, remote)
        try:
            answer = self._execute_module("steadfast.asgi.asgi_release", {**told, "archive": remote}, task_vars=task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer | known
