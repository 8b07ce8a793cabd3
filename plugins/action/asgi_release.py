# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The controller's half of asgi_release: look at the source, and send it only where the host does not have that release yet."""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.action import ActionBase

from ansible_collections.steadfast.asgi.plugins.module_utils.source import (
    SourceError,
    digest,
    find_app,
    pack,
    source_files,
)

# Part of every ID. To be raised when the same source is to be built in another way.
_RECIPE = "1"


def read_toml(path: str) -> dict[str, Any]:
    """Return a TOML file's content. Raises SourceError where it has none."""
    with open(path, "rb") as stream:
        try:
            return tomllib.load(stream)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SourceError(f"{path} cannot be read: {error}. Mend it; a lock is made anew by 'uv lock'.") from error


class ActionModule(ActionBase):
    """Runs the module once if the release is there, and twice, with a transfer in between, if it is not."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        source = os.path.expanduser(str(arguments.get("source") or ""))
        if source:
            # A relative path is relative to the playbook, as everywhere in Ansible.
            source = self._loader.path_dwim(source)
        try:
            names, release = self._inspect(source, arguments)
        except (SourceError, OSError) as error:
            raise AnsibleActionFail(str(error)) from error
        if boolean(arguments.pop("inspect", False), strict=False):
            result.update(changed=False, id=release, path=os.path.join(str(arguments.get("releases") or ""), release))
            return result

        arguments["id"] = release
        answer: dict[str, Any] = self._execute_module("steadfast.asgi.asgi_release", arguments, task_vars=task_vars)
        if self._task.check_mode or answer.get("failed") or not answer.get("changed"):
            return answer

        remote = self._connection._shell.join_path(self._make_tmp_path(), "source.tar.gz")
        with tempfile.NamedTemporaryFile(prefix="asgi-release-", suffix=".tar.gz") as archive:
            pack(source, names, archive)
            archive.flush()
            self._transfer_file(archive.name, remote)
        try:
            answer = self._execute_module("steadfast.asgi.asgi_release", {**arguments, "archive": remote}, task_vars=task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer

    def _inspect(self, source: str, arguments: dict[str, Any]) -> tuple[list[str], str]:
        """Return the source's files and the release's ID. Raises SourceError where there is nothing that can be deployed."""
        if not os.path.isdir(source):
            raise SourceError(f"asgi_release_source (asgi_source) is {source!r}, which is not a directory on the controller.")
        for name, remedy in (
            ("pyproject.toml", "Name the directory that has one, or make one with 'uv init --bare'"),
            ("uv.lock", f"Make it with 'uv lock --project {source}'"),
        ):
            if not os.path.isfile(os.path.join(source, name)):
                raise SourceError(f"asgi_release_source (asgi_source) is {source}, which has no {name}. {remedy}.")
        project = read_toml(os.path.join(source, "pyproject.toml")).get("project")

        names = source_files(source)
        import_path = str(arguments.get("import_path") or "")
        if import_path:
            self._check_app(source, names, import_path)
        recipe = [_RECIPE, str(arguments.get("python") or ""), str(arguments.get("server_requirements") or "")]
        short = digest(source, names, recipe)[:12]
        version = str(project.get("version") or "") if isinstance(project, dict) else ""
        # A local version (1.0+abc) or an epoch would need quoting in a path; the digest says it all.
        return names, f"{version}-{short}" if re.match(r"[0-9A-Za-z][0-9A-Za-z.]{0,31}\Z", version) else short

    @staticmethod
    def _check_app(source: str, names: list[str], import_path: str) -> None:
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
            locked = {entry.get("name", "") for entry in read_toml(os.path.join(source, "uv.lock")).get("package", [])}
            if package.replace("_", "-").lower() in locked:
                return
            missing = f"neither the source {source} nor its lock has a package {package}"
        else:
            missing = find_app(import_path, roots)
        if missing:
            raise SourceError(
                f"asgi_release_import_path (asgi_import_path) is {import_path}, but {missing}. Write it as module:object, the way "
                "Python imports it from the source directory."
            )
