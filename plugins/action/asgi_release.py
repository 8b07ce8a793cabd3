# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of asgi_release: look at the source, and send it only where the host does not have that release yet."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from typing import Any

import ansible.constants
from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.steadfast.asgi.plugins.module_utils.command import CommandError, argv
from ansible_collections.steadfast.asgi.plugins.module_utils.lockfile import (
    LOCKS,
    Pinned,
    accepts_python,
    check_includes,
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
from ansible_collections.steadfast.asgi.plugins.module_utils.origin import Options, is_path
from ansible_collections.steadfast.asgi.plugins.module_utils.packages import (
    changes,
    describe,
    missing_requirements,
    normalise,
    too_old,
    with_credentials,
)
from ansible_collections.steadfast.asgi.plugins.module_utils.snapshot import Run, Snapshot
from ansible_collections.steadfast.asgi.plugins.module_utils.source import Entry, SourceError, check_links, digest, find_app
from ansible_collections.steadfast.asgi.plugins.module_utils.target import Target
from ansible_collections.steadfast.asgi.plugins.module_utils.values import address, file_name, hashed, legible, package_name, plain, shown
from ansible_collections.steadfast.asgi.plugins.module_utils.wheelhouse import Wheels, build_requirements, wants_of

# Part of every ID. To be raised when the same source is to be built in another way.
_RECIPE = "2"

_RELATIVE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*\Z")

# All that a directory has which is to be empty.
_PLACEHOLDERS = frozenset([".gitkeep", ".keep", ".gitignore"])


class Plan:
    """What is to be built: the files to send, how they are installed, and the ID of the release."""

    def __init__(self, found: Snapshot, arguments: dict[str, Any], loader: Any, run: Run) -> None:
        self.arguments = arguments
        self.loader = loader
        self.run = run
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
        self.source = ""
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
        self.check_words()
        self.server_requirements = hashed(self.text("server_requirements"), "asgi_release_server_requirements")
        if found.origin.directory:
            self.id = self.plan_project(found)
        else:
            self.id = self.plan_package(found)
        self.wheelhouse = self.find_wheelhouse() if self.text("wheelhouse") else None

    def text(self, name: str) -> str:
        return str(self.arguments.get(name) or "")

    def names(self, name: str) -> list[str]:
        value = self.arguments.get(name) or []
        return [str(each) for each in (value if isinstance(value, list) else str(value).split(","))]

    def check_words(self) -> None:
        """Raise SourceError for a variable that is put on a command line, on the controller or the host, and does not belong there."""
        python = self.text("python")
        if python and not re.match(r"(3(\.[0-9]{1,3}){1,2}|/.+)\Z", python):
            raise SourceError(
                f"asgi_release_python is {shown(python)}. Write the path of an interpreter on the host, or a version: '3.13'."
            )
        for name in ("extras", "groups", "package"):
            for each in self.names(name) if name != "package" else [self.text(name)]:
                if each:
                    package_name(each, f"asgi_release_{name}")
        for name in ("python", "subdirectory", "lock", "wheelhouse", "uv", "import_path"):
            if not self.text(name).isprintable():
                raise SourceError(f"asgi_release_{name} is {shown(self.text(name))}. Leave out the line break or control character.")
        urls = [self.text("index_url"), *(str(each.get("url", "")) for each in self.arguments.get("indexes") or [])]
        for url in filter(None, urls):
            try:
                # A user and a password may have all that an address may not.
                address(re.sub(r"://[^/\s]*@", "://", plain(url)), ("https", "http", "file"))
            except ValueError:
                raise SourceError(
                    "asgi_release_index_url or asgi_release_indexes has an address that cannot be used (it is not shown, since it may "
                    "contain a password): write https://, http:// or file://, a host and a path."
                ) from None

    def plan_project(self, found: Snapshot) -> str:
        """A directory with a project in it. Raises SourceError where there is nothing that can be deployed."""
        directory, origin = found.directory, found.origin
        self.source = directory
        check_links(found.entries, self.recipe.get("shared", []))
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
            check_includes(os.path.join(directory, lock), directory)
            check_requirements(os.path.join(directory, lock), self.recipe["hashes"])
        # With uv.lock that is uv's own business, as long as there is a network.
        if "build-system" in content and (kind != "uv" or self.recipe["wheelhouse"]):
            self.recipe["install"] = ["source"]
        packages = locked_packages(os.path.join(directory, lock)) if lock else {}
        self.check_versions(packages)
        if kind != "uv" and refers_to_files(os.path.join(directory, lock)):
            # The lock alone does not say whether the packages of another release would be the same.
            self.recipe["refers"] = True
        entries = self.without_shared(found)
        names = [entry.name for entry in entries]
        self.files.append(("source", directory, names))
        if self.text("import_path"):
            _check_app(directory, names, self.text("import_path"), packages if lock else None)
        version = str(project.get("version") or "") if isinstance(project, dict) else ""
        if origin.commit:
            return f"{origin.commit[:12]}-{digest([], self.how())[:6]}"
        return release_id(version, digest(entries, self.how()))

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

    def without_shared(self, found: Snapshot) -> list[Entry]:
        """Leave out what only keeps git from forgetting a directory. Raises SourceError for what a link would hide."""
        kept = []
        for entry in found.entries:
            shared = next((path for path in self.recipe.get("shared", []) if f"{entry.name}/".startswith(f"{path}/")), None)
            if shared is None:
                kept.append(entry)
            elif os.path.basename(entry.name) not in _PLACEHOLDERS:
                raise SourceError(
                    f"asgi_release_shared (asgi_shared) names {shared}, and {found.directory} has {entry.name} there, which the link to "
                    "the application's own directory would hide. Move it, or take the path out of the variable."
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

    def plan_package(self, found: Snapshot) -> str:
        """A wheel, a source distribution or a requirement: all that it needs it says by itself, unless there is a lock for it."""
        for name in ("subdirectory", "package", "extras", "groups"):
            if self.arguments.get(name):
                raise SourceError(
                    f"asgi_release_{name} is for a project; a package is installed as it is, with extras as in NAME[EXTRA]==VERSION."
                )
        told = self.how()
        if self.text("lock"):
            directory, name = os.path.split(self.loader.path_dwim(os.path.expanduser(self.text("lock"))))

            def choose() -> list[str]:
                if format_of(name) == "uv" or not os.path.isfile(os.path.join(directory, name)):
                    raise SourceError(
                        f"asgi_release_lock is {os.path.join(directory, name)}. For a package it has to be a requirements.txt or "
                        "pylock.toml on the controller, as 'uv pip compile --generate-hashes' makes it."
                    )
                return [name]

            read = self.run.files(directory, name, choose)
            lock = os.path.join(read.directory, name)
            if refers_to_files(lock):
                raise SourceError(
                    f"asgi_release_lock is {lock}, which refers to other files. For a package it is sent alone: make one that has all in "
                    "it, as 'uv pip compile --generate-hashes' does."
                )
            if format_of(lock) == "requirements":
                check_requirements(lock, self.recipe["hashes"])
            self.check_versions(locked_packages(lock))
            self.lock = lock
            self.recipe |= {"lock": f"extra/{name}", "format": format_of(lock)}
            self.files.append(("extra", read.directory, [name]))
            told = [*self.how(), digest(read.entries, [])]
        origin = found.origin
        self.artifact, self.requirement = origin.artifact, origin.requirement
        if origin.artifact:
            directory, name = os.path.split(origin.artifact)
            self.recipe["install"] = [f"extra/{name}"]
            self.files.append(("extra", directory, [name]))
            return release_id(origin.version, digest(found.entries, told))
        self.recipe["install"] = [origin.requirement]
        return release_id(origin.version, digest([], [*told, origin.requirement]))

    def find_wheelhouse(self) -> Snapshot:
        """Return the wheels of a directory on the controller. Raises SourceError where it has none."""
        directory = self.loader.path_dwim(os.path.expanduser(self.text("wheelhouse")))

        def choose() -> list[str]:
            wheels = wheels_in(directory) if os.path.isdir(directory) else []
            if not wheels:
                raise SourceError(
                    f"asgi_release_wheelhouse is {directory}, which is no directory with wheels on the controller. Make it with "
                    f"'pip download --only-binary=:all: --dest {directory} --requirement requirements.txt', or leave it to the role "
                    "(asgi_release_offline)."
                )
            return [file_name(name, f"asgi_release_wheelhouse ({directory})") for name in wheels]

        found = self.run.files(directory, "wheels", choose)
        if not self.offline:
            self.files.append(("wheelhouse", found.directory, found.names))
        return found

    def packages(self, target: Target) -> list[Pinned] | None:
        """Return what the lock has installed on a host, without the server; None without a lock."""
        if not self.lock:
            return None
        return pinned(self.lock, target.markers, self.text("package"), self.names("extras"), self.names("groups"))

    def server(self, packages: Iterable[Pinned], target: Target) -> list[Pinned]:
        """Return what of the server's packages is installed beside those of the application."""
        names = {each.name: each.version for each in packages}
        return pinned_requirements(missing_requirements(self.server_requirements, names), target.markers)

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
        own, known = "", []
        if self.wheelhouse:
            own, known = self.wheelhouse.directory, [f"{entry.name} {entry.content}" for entry in self.wheelhouse.entries]
        wheels = Wheels(target, {name: value for name, value in environment.items() if value}, own, known)
        what = f"asgi_release_source (asgi_source) {self.artifact or self.requirement}"
        runs, builds = wants_of(self.artifact) if self.artifact else ([self.requirement] if self.requirement else [], [])
        if self.recipe["install"] == ["source"]:
            what = os.path.join(self.source, "pyproject.toml")
            runs, builds = [], build_requirements(self.pyproject)
        packages, lock = self.packages(target), self.lock or what
        if packages is None:
            packages = wheels.resolve(runs, what) if runs else []
        parts = [
            (packages, lock),
            (self.server(packages, target), "asgi_release_server_requirements"),
            (wheels.resolve(builds, f"{what}, build-system.requires") if builds else [], what),
        ]
        found = {name: directory for directory in (wheels.fetch(*part) for part in parts) for name in wheels_in(directory)}
        for name in self.wheelhouse.names if self.wheelhouse else []:
            found[name] = own
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
        key = str(arguments.get("git_key") or "")
        options = Options(
            checksum=str(arguments.get("checksum") or ""),
            git_key=self._loader.path_dwim(os.path.expanduser(key)) if key else "",
            git_known_hosts=str(arguments.get("git_known_hosts") or ""),
            git_submodules=boolean(arguments.get("git_submodules", False), strict=False),
        )
        # The processes of one ansible-playbook have this directory in common, and no others.
        run = Run(os.path.join(ansible.constants.DEFAULT_LOCAL_TMP, "steadfast.asgi"))
        try:
            found = run.source(source, options, str(arguments.get("subdirectory") or ""), str(arguments.get("lock") or ""))
            plan = Plan(found, arguments, self._loader, run)
            # Out of the module's answer secrets are blotted out, and a part of these might look like one.
            known = {"id": plan.id, "path": os.path.join(plan.text("releases"), plan.id)}
            if found.origin.pinned:
                known["pinned"] = found.origin.pinned
            if boolean(arguments.pop("inspect", False), strict=False):
                return result | {"changed": False} | known
            told = {**arguments, "id": plan.id, "recipe": plan.recipe, "server_requirements": plan.server_requirements}
            answer: dict[str, Any] = self._execute_module("steadfast.asgi.asgi_release", told, task_vars=task_vars)
            if answer.get("failed") or not answer.get("changed"):
                return answer | known
            target, live = Target.of(answer.pop("target")), answer.pop("live")
            if not is_version(plan.text("python")):
                plan.check_python([target.release])
            if self._task.check_mode:
                packages = plan.changes(live, target)
                if packages is not None:
                    answer |= {"packages": packages, "diff": {"prepared": describe(plan.id, packages)}}
                return answer | known
            if plan.offline:
                plan.fetch_wheels(target)
            archive = run.archive(plan.files)
        except (SourceError, OSError) as error:
            # Without the cause, whose words Ansible would add.
            raise AnsibleActionFail(legible(run.original(str(error)))) from None
        remote = self._connection._shell.join_path(self._make_tmp_path(), "source.tar.gz")
        self._transfer_file(archive, remote)
        try:
            answer = self._execute_module("steadfast.asgi.asgi_release", {**told, "archive": remote}, task_vars=task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer | known
