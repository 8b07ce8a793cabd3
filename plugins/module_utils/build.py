# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One build of a release on the host.

The application's build user runs whatever is not root's: uv, build scripts, the application's own commands. Root writes and reads
where that user cannot write, or when all of its processes have ended and what they left has been admitted.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterator
from typing import Any

from . import interpreter
from .admission import Admission, check_records, read
from .build_unit import Sandbox, configuration, local_files
from .builder import Builder, remove_tree
from .execute import KEPT, BuildError, Run, words
from .packages import (
    changes,
    contradicts,
    installed_packages,
    missing_requirements,
    site_packages,
    too_old,
    with_credentials,
)
from .slots import utc
from .source import find_app, unpack
from .static import held, publish, static_files, union_of
from .store import Bytecode, Store
from .tree import BUILDING, clone, is_interrupted, link_inside, remove_release

MARK = "release.json"

# How a release was admitted. One that was made in another way is nothing to begin with.
_ADMISSION = "1"

# What a recipe says of the application's own files, and not of its packages.
_OF_THE_APP = ("before_build", "after_build", "static", "shared")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Characters of what a command said that are repeated.
_MOST_WORDS = 4000

# A build may use the disk up to here: mebibytes, as a part of what has to be free at its beginning, and files in percent.
_FLOOR = 5
_FREE_FILES = 2


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


def existing(path: str) -> str:
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def free_mebibytes(path: str) -> int:
    """Return what is free for everybody on the file system that `path` is or would be on."""
    status = os.statvfs(existing(path))
    return status.f_bavail * status.f_frsize >> 20


def store_of(cache: str) -> Store:
    return Store(os.path.join(cache, "store"))


class Build:
    """One build on the host."""

    def __init__(self, params: dict[str, Any], environment: dict[str, str], run: Run) -> None:
        self.params = params
        self.environment = environment
        self.recipe: dict[str, Any] = params["recipe"] or {}
        self.releases: str = params["releases"]
        self.path = os.path.join(self.releases, params["id"])
        self.app = os.path.join(self.path, "app")
        self.venv = os.path.join(self.path, ".venv")
        home = os.path.dirname(self.releases)
        # The virtual environment of the release that is live, if there is one.
        self.live = os.path.join(home, "slots", "live", "release", ".venv")
        # What was sent, and what root writes for the build. Of all this the builder can write to the source alone.
        self.work = os.path.join(self.path, "build")
        self.source = os.path.join(self.work, "source")
        self.store = store_of(params["cache"])
        self.builder = Builder(params["build_user"], os.path.basename(home), params["cache"])
        self.builder.run_of = run
        self.builder.watch = self.disk_is_full
        self.note = {"pid": os.getpid(), "doing": f"building {params['id']}", "since": utc(time.time())}
        self.python = ""
        self.key = ""
        # The inodes of files that are another release's too, with their paths there.
        self.shared: dict[tuple[int, int], str] = {}
        self.scripts: dict[str, str] = {}
        self.admitted = self.admitted_app = self.admission()
        self.steps: list[dict[str, Any]] = []
        self.warnings: list[str] = []

    @property
    def complete(self) -> bool:
        return os.path.isfile(os.path.join(self.path, MARK))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.steps.append({"step": name, "seconds": round(time.monotonic() - begun, 3)})

    # Commands

    def execute(self, command: list[str], kept: int = KEPT) -> str:
        """Run a command as the user that builds. Raises BuildError with the command's own words."""
        offline = bool(self.recipe.get("wheelhouse"))
        environment = {
            **uv_environment(self.params),
            "UV_CACHE_DIR": self.builder.cache,
            "UV_LINK_MODE": "copy",
            "UV_PROJECT_ENVIRONMENT": self.venv,
            "UV_PYTHON": self.python,
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_COMPILE_BYTECODE": "0",
            "UV_NO_PROGRESS": "1",
            "PYTHONDONTWRITEBYTECODE": "",
        }
        if offline:
            environment |= {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": os.path.join(self.work, "wheelhouse")}
        there = os.path.isdir(self.source)
        cwd = self.source if there else self.work
        writable = [self.venv, self.builder.cache, *([self.source] if there else [])]
        code, stdout, stderr = self.builder.run(command, cwd, environment, writable, network=not offline, kept=kept)
        if code != 0:
            said = words(stderr or stdout, _MOST_WORDS)
            raise BuildError(f"'{' '.join(command)}' failed in {cwd}: {said or f'it ended with {code} and said nothing'}{self.hint(said)}")
        return stdout

    def uv(self, *arguments: str, kept: int = KEPT) -> str:
        return self.execute([self.params["uv"], *arguments], kept)

    def hint(self, said: str) -> str:
        """Return what a failure may have to do with the sandbox."""
        if self.builder.name and "Address family not supported" in said:
            return ". Builds get no sockets of the host's own (AF_UNIX) unless asgi_release_build_allow has unix_sockets"
        if self.builder.name and "loopback" not in self.params["build_allow"] and ("127.0.0.1" in said or "localhost" in said):
            return ". Builds cannot reach what listens on this host unless asgi_release_build_allow has loopback"
        return ""

    def disk_is_full(self) -> str:
        """Return why a build has to stop that uses up the disk, '' while there is enough."""
        for path in {existing(path) for path in (self.releases, self.params["cache"], "/tmp", "/var/tmp")}:  # noqa: S108
            status = os.statvfs(path)
            free, least = status.f_bavail * status.f_frsize >> 20, self.params["min_free"] // _FLOOR
            few = status.f_files and status.f_favail * 100 < status.f_files * _FREE_FILES and self.params["min_free"]
            if free < least or few:
                left = "files can be made" if few else f"MiB are free, fewer than {least},"
                return f"the build was stopped: only {status.f_favail if few else free} {left} on the file system of {path}"
        return ""

    # Checks

    def find_python(self) -> str:
        return interpreter.find(self.params["python"], self.params["python_root"])

    def probe(self) -> dict[str, Any]:
        return interpreter.probe(self.find_python(), self.params["python"], self.params["python_root"])

    def install_python(self) -> str:
        given = {
            **uv_environment(self.params),
            "UV_PYTHON_INSTALL_MIRROR": self.params["python_mirror"],
            "UV_PYTHON_DOWNLOADS_JSON_URL": self.params["python_downloads"],
        }
        values = {name: value for name, value in given.items() if value}
        uv, wanted, root, timeout = (self.params[name] for name in ("uv", "python", "python_root", "build_timeout"))
        return interpreter.install(uv, wanted, root, values, self.builder.reason_to_stop, timeout, self.note)

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

    # What is done

    def run(self) -> None:
        """Build in the final place, since a virtual environment holds its own path; the mark comes last."""
        self.check_uv()
        with self.step("prepare"):
            self.builder.prepare()
            self.forget_what_all_shared()
            self.clean()
            self.check_space()
        try:
            with self.builder.guarded(self.params["build_timeout"]):
                with self.step("interpreter"):
                    self.python = self.find_python() or self.install_python()
                    if self.builder.name:
                        interpreter.check(self.python)
                self.make()
        except BaseException:
            with contextlib.suppress(OSError):
                if os.path.lexists(self.path):
                    remove_release(self.path)
            raise

    def make(self) -> None:
        self.open_sandbox()
        with self.step("unpack"):
            self.unpack()
        if self.recipe.get("before_build"):
            with self.step("before_build"):
                self.run_hooks("before_build", _PATH)
                self.build_from_app()
        self.key = self.environment_key()
        with self.step("install"):
            self.builder.give(self.source)
            self.install()
        with self.step("server"):
            self.add_server()
        with self.step("admit"):
            self.admitted = self.admit()
        with self.step("compile"):
            Bytecode(self.store, self.python).add(self.venv, self.admitted.digests, self.admitted.twins, self.builder.run_alone)
        if self.recipe.get("after_build"):
            with self.step("after_build"):
                self.run_hooks("after_build", f"{self.venv}/bin:{_PATH}", VIRTUAL_ENV=self.venv)
        elif not self.recipe.get("before_build"):
            self.admit_app()
        self.link_shared()
        self.check_app()
        with self.step("finish"):
            self.finish()

    def open_sandbox(self) -> None:
        """Decide what the build sees and reaches."""
        if not self.builder.name:
            return
        given = {**self.builder_environment(), **self.environment}
        configured = configuration(given)
        readable = [os.path.dirname(self.params["uv"]), self.params["python_root"], os.path.dirname(os.path.dirname(self.python))]
        readable += [self.params["ca_bundle"], *local_files(configured)]
        self.builder.sandbox = Sandbox(
            user=self.builder.name,
            home=os.path.dirname(self.releases),
            release=self.path,
            memory=self.params["build_memory_max"],
            allow=self.params["build_allow"],
            readable=[path for path in readable if path and path not in ("/", "/usr", "/opt")],
            configured=configured,
        )
        if not self.builder.filters_addresses():
            self.warnings.append(
                "systemd cannot close addresses to units on this host (it needs a kernel with BPF for control groups), so this build can "
                "reach what listens on loopback and on link-local addresses, such as a cloud's metadata service."
            )

    def builder_environment(self) -> dict[str, str]:
        return {**os.environ, **uv_environment(self.params)}

    def forget_what_all_shared(self) -> None:
        """Remove what builds of all applications could write to before each had a user of its own."""
        if self.builder.name:
            for name in ("uv", "files"):
                remove_tree(os.path.join(self.params["cache"], name))
            remove_tree("/run/asgi-build.lock")

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
        os.makedirs(self.store.directory, 0o700, exist_ok=True)
        os.chmod(self.store.directory, 0o700)
        os.chown(self.venv, self.builder.uid, self.builder.gid)

    def run_hooks(self, when: str, path: str, **environment: str) -> None:
        """Run the application's own commands in its directory. What they leave there is root's, and part of the release."""
        network = {name: value for name, value in uv_environment(self.params).items() if not name.startswith("UV_")}
        # Bytecode belongs to the packages; that of the application would not be there for every release.
        given = {**network, "PYTHONDONTWRITEBYTECODE": "1", "PATH": path, **environment, **self.environment}
        self.builder.give(self.app)
        for command in self.recipe[when]:
            code, stdout, stderr = self.builder.run(command, self.app, given, [self.app])
            if code != 0:
                said = words("\n".join(text.strip() for text in (stdout, stderr) if text.strip()), _MOST_WORDS)
                raise BuildError(
                    f"asgi_release_{when}: '{shlex.join(command)}' failed in {self.app}: "
                    f"{said or f'it ended with {code} and said nothing'}{self.hint(said)}"
                )
        self.admit_app()

    def admit_app(self) -> None:
        """Replace what is in the application's directory by root's own, if it has a place there."""
        self.admitted_app = self.admission()
        self.admitted_app.admit(self.app)

    def admission(self, store: Store | None = None) -> Admission:
        admission = Admission(self.path, self.builder.uid, self.python, store)
        admission.check = self.builder.reason_to_stop
        return admission

    def build_from_app(self) -> None:
        """Have the application's package built from what commands have made of its source."""
        if os.path.isdir(self.source):
            remove_tree(self.source)
            shutil.copytree(self.app, self.source, symlinks=True)

    def link_shared(self) -> None:
        for name in self.recipe.get("shared", []):
            link_inside(self.app, name, os.path.join(self.params["shared_root"], name))
        # By these links others may lead out of the release now.
        for admission in (self.admitted, self.admitted_app):
            admission.judge_links()

    def environment_key(self) -> str:
        """Return what two releases have in common whose packages are the same, but for the application itself.

        '' without a lock, and where that is not all: it may include other files, or have packages that are part of the source. As yet
        all that was sent is root's.
        """
        if not self.recipe["lock"] or self.recipe.get("refers"):
            return ""
        lock = os.path.realpath(os.path.join(self.work, self.recipe["lock"]))
        if not lock.startswith(f"{os.path.realpath(self.work)}/"):
            raise BuildError(f"the lock {self.recipe['lock']} is a link to {lock}, which is not part of the source")
        total = hashlib.sha256(read(lock))
        recipe = {name: value for name, value in self.recipe.items() if name not in _OF_THE_APP}
        told = [_ADMISSION, recipe, os.path.realpath(self.python), self.python, self.params["server_requirements"]]
        total.update(json.dumps(told, sort_keys=True).encode())
        return total.hexdigest()

    def equal_release(self) -> str:
        """Return the path of the newest release whose virtual environment this one can begin with, '' if there is none."""
        found = []
        for mark in glob.glob(os.path.join(glob.escape(self.releases), "*", MARK)):
            with contextlib.suppress(OSError, ValueError, BuildError):
                content = json.loads(read(mark, 1 << 20))
                if self.key and content.get("environment") == self.key:
                    found.append((content["built"], os.path.dirname(mark)))
        return max(found)[1] if found else ""

    def install(self) -> None:
        """Install the application's packages, and the application itself where it is a package."""
        equal = self.equal_release()
        if equal:
            self.shared, self.scripts = clone(os.path.join(equal, ".venv"), self.venv, self.builder)
        lock, offline = self.recipe["lock"], self.recipe.get("wheelhouse")
        if self.recipe["format"] == "uv" and not offline:
            # Inexact, because an environment to begin with has the server in it already.
            self.uv("sync", "--frozen", "--no-dev", "--no-editable", "--inexact", *self.recipe["options"])
            return
        if not equal:
            self.uv("venv", "--python", self.python, self.venv)
        locked = os.path.join(self.work, lock) if lock else ""
        if self.recipe["format"] == "uv":
            options = ("--quiet", "--frozen", "--no-dev", "--no-emit-workspace", *self.recipe["options"])
            locked = self.write("requirements.txt", self.uv("export", *options, kept=16 << 20))
        pip = ("pip", "install", "--python", self.venv)
        if locked and not equal:
            self.uv(*pip, *(["--require-hashes"] if self.recipe["hashes"] else []), "--requirement", locked)
        for each in self.recipe["install"]:
            path = os.path.join(self.work, each)
            self.uv(*pip, *(["--no-deps"] if locked else []), path if os.path.exists(path) else each)

    def write(self, name: str, text: str) -> str:
        """Write a file for the build where it cannot write itself; return its path."""
        path = os.path.join(self.work, name)
        with open(path, "x", encoding="utf-8") as stream:
            stream.write(text)
        return path

    def add_server(self) -> None:
        """Add the server's packages that the application does not bring, and refuse those that are too old."""
        installed = installed_packages(self.venv)
        old = too_old(installed)
        if old:
            raise BuildError(" ".join([*old, "Raise it in the application's dependencies, or take it out: the role brings its own."]))
        wanted = missing_requirements(self.params["server_requirements"], installed)
        if wanted:
            requirements = self.write("server-requirements.txt", wanted)
            self.uv("pip", "install", "--python", self.venv, "--no-deps", "--require-hashes", "--requirement", requirements)
        try:
            self.uv("pip", "check", "--python", self.venv)
        except BuildError as error:
            # What uv.lock has was resolved with the project's own overrides (tool.uv), which the check does not know.
            if self.recipe["format"] != "uv" or contradicts(str(error), self.params["server_requirements"]):
                raise

    def admit(self) -> Admission:
        """Replace what is in the virtual environment by root's own, after a look at all of it; its files are other releases' too."""
        # uv leaves its lock behind, which everybody may write to.
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(os.path.join(self.venv, ".lock"))
        admission = self.admission(self.store)
        admission.known = self.shared
        admission.admit(self.venv)
        for site in site_packages(self.venv):
            check_records(site, admission.digests, self.scripts)
        return admission

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
            "environment": self.key,
            "static": self.recipe.get("static", []),
        }
        remove_tree(self.work)
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
