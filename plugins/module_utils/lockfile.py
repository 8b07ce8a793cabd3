# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the files that say which packages an application needs, on the controller, and refuse what would fail on the host."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

try:
    # Ansible needs it on the controller, where this is used.
    from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
    from packaging.specifiers import SpecifierSet
except ImportError:
    SpecifierSet = Marker = str  # type: ignore[assignment, misc]
    InvalidMarker = UndefinedComparison = UndefinedEnvironmentName = ValueError  # type: ignore[assignment, misc]

from ansible_collections.steadfast.asgi.plugins.module_utils.packages import normalise
from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError
from ansible_collections.steadfast.asgi.plugins.module_utils.values import file_hash, package_name, shown, version

LOCKS = ("uv.lock", "pylock.toml", "requirements.txt")

_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[[^\]]*\])?\s*\(?([^;@)]*)\)?")

# Where uv.lock has a package from, other than an index.
_PLACES = frozenset(["editable", "virtual", "directory", "path", "git", "url"])
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
# The option of a requirements file that includes another one.
_INCLUDED = re.compile(r"(?:-r|--requirement(?=[\s=]))[\s=]*(\S+)")


def accepts_python(requires: str, version: str) -> bool:
    """Return whether a project's requires-python allows a version. One that cannot be read does: uv's own message is better."""
    try:
        return SpecifierSet(requires).contains(version, prereleases=True)
    except ValueError:
        return True


_ENTRY = {"name": package_name, "marker": str}
# What is read of each file, and what it has to be: a table with these keys, a list of such, text, or what a function takes.
_DEPENDENCIES = [{**_ENTRY, "extra": [package_name], "version": version}]
_FILE = {"hash": file_hash, "hashes": {str: str}, "url": str}
_UV_LOCK = {
    "package": [
        {
            "name": package_name,
            "version": version,
            "source": {str: str},
            "dependencies": _DEPENDENCIES,
            "optional-dependencies": {str: _DEPENDENCIES},
            "dev-dependencies": {str: _DEPENDENCIES},
            "metadata": {"requires-dist": [{**_ENTRY, "specifier": str}], "requires-dev": {str: [{**_ENTRY, "specifier": str}]}},
            "resolution-markers": [str],
            "sdist": _FILE,
            "wheels": [_FILE],
        }
    ]
}
_PYLOCK = {
    "packages": [{**_ENTRY, "version": version, "sdist": _FILE, "wheels": [_FILE], "archive": _FILE, "vcs": {"url": str}, "directory": {}}]
}
_PYPROJECT = {
    "project": {
        "name": package_name,
        "version": str,
        "requires-python": str,
        "dynamic": [str],
        "dependencies": [str],
        "optional-dependencies": {str: [str]},
    },
    "dependency-groups": {str: []},
    "build-system": {"requires": [str]},
    "tool": {"uv": {"dev-dependencies": [str]}},
}
# A lock of a thousand packages has a few of them.
_LARGEST = 64 << 20


def read_toml(path: str) -> dict[str, Any]:
    """Return the content of a uv.lock, pylock.toml or pyproject.toml. Raises SourceError where it is not what it has to be."""
    try:
        text = read_text(path)
        content = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise SourceError(f"{path} cannot be read: {error}. Mend it; a lock is made anew by 'uv lock'.") from error
    known = _PYPROJECT if os.path.basename(path) == "pyproject.toml" else _UV_LOCK if format_of(path) == "uv" else _PYLOCK
    _check(content, known, path)
    return content


def read_text(path: str) -> str:
    """Return what a file says. Raises SourceError for one that is no text."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(_LARGEST + 1)
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} cannot be read: {error}. Mend it; a lock is made anew by 'uv lock'.") from error
    if len(text) > _LARGEST:
        raise SourceError(f"{path} has more than {_LARGEST >> 20} MiB. Name the right file.")
    return text


def _check(value: Any, wanted: Any, place: str) -> None:
    """Raise SourceError for a value that is not of the form that is wanted."""
    form = list if isinstance(wanted, list) else dict if isinstance(wanted, dict) else str
    if not isinstance(value, form):
        words = {list: "a list", dict: "a table", str: "a text"}
        raise SourceError(f"{place} is {shown(value)}, and not {words[form]}. Correct it; a lock is made anew by 'uv lock'.")
    if isinstance(value, list):
        for index, each in enumerate(value if wanted else []):
            _check(each, wanted[0], f"{place}, {index + 1}.")
    elif isinstance(value, dict):
        for key, each in value.items():
            if key in wanted or str in wanted:
                # The name of an entry says more than its number.
                name = f" ({value['name']!s:.40})" if "name" in value and key != "name" else ""
                _check(each, wanted.get(key, wanted.get(str)), f"{place}{name}, {key!s:.40}")
    elif wanted is not str:
        wanted(value, place)


def format_of(path: str) -> str:
    """Return what kind of file this is by its name: uv, pylock or requirements."""
    name = os.path.basename(path)
    if name == "uv.lock":
        return "uv"
    return "pylock" if re.match(r"pylock([.][^.]+)?[.]toml\Z", name) else "requirements"


def locked_packages(path: str) -> dict[str, str]:
    """Return the packages that a lock names: normalised name, version (the first, if there are several)."""
    found: dict[str, str] = {}
    if format_of(path) == "requirements":
        for name, specifier, _hashed in requirements(path):
            found.setdefault(name, specifier.partition("==")[2])
        return found
    content = read_toml(path)
    for package in content.get("package", content.get("packages", [])):
        found.setdefault(normalise(str(package.get("name", ""))), str(package.get("version", "")))
    return found


@dataclass(frozen=True)
class Pinned:
    """What is installed of a package."""

    name: str
    version: str
    hashes: tuple[str, ...] = ()
    url: str = ""  # where the lock names a file, and not a version

    def argument(self, place: str) -> str:
        """Return the entry of a requirements file, for a version of an index. Raises SourceError for what that cannot say.

        `place` is where it was read.
        """
        what = f"{package_name(self.name, place)}=={version(self.version, f'{place}, {self.name}')}"
        return " ".join([what, *(f"--hash={file_hash(each, f'{place}, {self.name}')}" for each in self.hashes)])


def refers_to_files(path: str) -> bool:
    """Return whether a pylock.toml or requirements file is not all: it can name other such files, constraints, or code beside it."""
    kind = format_of(path)
    if kind == "requirements":
        return any(map(_is_reference, _lines(path)))
    return any("directory" in package for package in read_toml(path).get("packages", []))


def _is_reference(entry: str) -> bool:
    if entry.startswith("-"):
        return re.match(r"-[rce]|--(requirement|constraint|editable)\b", entry) is not None
    # An entry can be NAME @ PLACE.
    place = re.sub(r"\A[^\s;@/]+\s*@\s*", "", entry).split(";")[0].split()[0]
    return place.startswith("file:") or ("://" not in place and ("/" in place or place.endswith((".whl", ".tar.gz", ".zip"))))


def local_packages(path: str) -> list[str]:
    """Return the packages of a uv.lock that are directories of the source, but for the one that it is in."""
    kinds = ("editable", "virtual", "directory")
    entries = [(entry["name"], entry.get("source", {})) for entry in read_toml(path).get("package", [])]
    return sorted({name for name, source in entries for kind in kinds if source.get(kind, ".") != "."})


def pinned(path: str, markers: Mapping[str, str], package: str, extras: Iterable[str], groups: Iterable[str]) -> list[Pinned]:
    """Return what a lock has installed on a host whose interpreter has these markers; the last three are for uv.lock."""
    kind = format_of(path)
    if kind == "requirements":
        return pinned_requirements("\n".join(_lines(path)), markers)
    if kind == "pylock":
        return _pinned_pylock(read_toml(path), markers)
    return _pinned_uv(path, markers, package, extras, groups)


def pinned_requirements(text: str, markers: Mapping[str, str]) -> list[Pinned]:
    """Return the entries of a requirements file that are for a host with these markers."""
    found = []
    for line in re.sub(r"\\\r?\n", " ", text).split("\n"):
        entry = re.sub(r"(^|\s)#.*", "", line).strip()
        match = _NAME.match(entry.split("--hash")[0])
        if not match or entry.startswith("-"):
            continue
        marker = re.search(r";\s*([^;]*?)\s*(--hash|\Z)", entry)
        if marker and not applies(marker.group(1), markers):
            continue
        hashes = tuple(re.findall(r"--hash[= ](\S+)", entry))
        url = re.match(r"[^;@]*@\s*(\S+)", entry)
        version = match.group(2).strip().lstrip("=").strip()
        found.append(Pinned(normalise(match.group(1)), version, hashes, url.group(1) if url else ""))
    return found


def applies(marker: str, markers: Mapping[str, str]) -> bool:
    """Return whether a marker is true. One that cannot be understood is: what is too much does no harm."""
    try:
        return bool(Marker(marker).evaluate(dict(markers)))
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName, KeyError):
        return True


def _hashes(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the hashes of a package's files, in the form that both pip and uv know."""
    files = [*entry.get("wheels", []), *([entry["sdist"]] if "sdist" in entry else [])]
    found = [each["hash"] for each in files if "hash" in each]
    found += [f"{kind}:{value}" for each in files for kind, value in each.get("hashes", {}).items()]
    return tuple(found)


def _pinned_pylock(content: Mapping[str, Any], markers: Mapping[str, str]) -> list[Pinned]:
    found = []
    for entry in content.get("packages", []):
        if applies(entry["marker"], markers) if "marker" in entry else True:
            archive = entry.get("archive", {})
            hashes = _hashes(entry) + tuple(f"{kind}:{value}" for kind, value in archive.get("hashes", {}).items())
            url = archive.get("url", "") or entry.get("vcs", {}).get("url", "")
            found.append(Pinned(normalise(entry["name"]), str(entry.get("version", "")), hashes, url))
    return found


# uv.lock


def _pinned_uv(path: str, markers: Mapping[str, str], package: str, extras: Iterable[str], groups: Iterable[str]) -> list[Pinned]:
    """Walk from the application to all that it needs."""
    entries: dict[str, list[dict[str, Any]]] = {}
    for entry in read_toml(path).get("package", []):
        entries.setdefault(entry["name"], []).append(entry)
    own = [entry for each in entries.values() for entry in each if {"editable", "virtual"} & set(entry.get("source", {}))]
    wanted = normalise(package)
    root = next((each for each in own if each["name"] == wanted or (not wanted and "." in each["source"].values())), None)
    if root is None:
        return []
    tool = read_toml(os.path.join(os.path.dirname(path), "pyproject.toml")).get("tool", {})
    default = tool.get("uv", {}).get("default-groups", [])
    named = [name for name in default if isinstance(name, str)] if isinstance(default, list) else []
    chosen = {*groups, *(root.get("dev-dependencies", {}) if default == "all" else named)} - ({"dev"} - set(groups))
    waiting = [dependency for group in chosen for dependency in root.get("dev-dependencies", {}).get(group, [])]
    waiting += [{"name": root["name"], "extra": list(extras), "source": root["source"]}]
    seen: set[tuple[str, str, str]] = set()
    found: dict[str, Pinned] = {}
    while waiting:
        dependency = waiting.pop()
        if "marker" in dependency and not applies(dependency["marker"], markers):
            continue
        entry = _entry_for(dependency, entries, markers)
        for extra in ["", *dependency.get("extra", [])]:
            mark = (entry["name"], entry.get("version", ""), extra)
            if mark not in seen:
                seen.add(mark)
                waiting += entry.get("optional-dependencies", {}).get(extra, []) if extra else entry.get("dependencies", [])
        source = entry.get("source", {})
        if not {"editable", "virtual", "directory"} & set(source):
            url = source.get("url", "") or (f"git+{source['git']}" if "git" in source else "")
            found[entry["name"]] = Pinned(entry["name"], str(entry.get("version", "")), _hashes(entry), url)
    return sorted(found.values(), key=lambda each: each.name)


def _entry_for(dependency: Mapping[str, Any], entries: Mapping[str, list[dict[str, Any]]], markers: Mapping[str, str]) -> dict[str, Any]:
    """Return which of several entries of a name is meant: the lock says it by version and source, or by markers."""
    named = [
        entry
        for entry in entries.get(dependency["name"], [])
        if all(dependency[key] == entry.get(key) for key in ("version", "source") if key in dependency)
    ]
    fitting = [entry for entry in named if any(applies(each, markers) for each in entry.get("resolution-markers", []))]
    return next(iter([*fitting, *named]), {"name": dependency["name"], "source": {"virtual": "."}})


def check_uv_lock(directory: str, package: str, extras: Iterable[str], groups: Iterable[str]) -> None:
    """Raise SourceError if a lock cannot be what its project was locked to, or lacks what is asked for."""
    path = os.path.join(directory, "uv.lock")
    locked = read_toml(path).get("package", [])
    members: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for entry in locked:
        place = next((entry["source"][kind] for kind in ("editable", "virtual") if kind in entry.get("source", {})), None)
        if place is not None and os.path.isfile(os.path.join(directory, place, "pyproject.toml")):
            members[entry["name"]] = (entry, read_toml(os.path.join(directory, place, "pyproject.toml")))
    for name, (entry, project) in members.items():
        difference = _difference(entry.get("metadata", {}), project)
        if difference:
            raise SourceError(
                f"{path} does not match pyproject.toml: {difference} of {name}. Bring it up to date with 'uv lock --project {directory}', "
                "and see with 'uv lock --check' that it is."
            )
    if package and normalise(package) not in members:
        known = ", ".join(sorted(members)) or "none"
        raise SourceError(f"asgi_release_package is {package}, and {path} has no such package of the workspace (it has {known}).")
    root = os.path.join(directory, "pyproject.toml")
    chosen = members[normalise(package)][1] if package else read_toml(root)
    for variable, asked, there in (
        ("asgi_release_extras", extras, chosen.get("project", {}).get("optional-dependencies", {})),
        ("asgi_release_groups", groups, {**read_toml(root).get("dependency-groups", {}), **chosen.get("dependency-groups", {})}),
    ):
        for name in asked:
            if normalise(name) not in map(normalise, there):
                known = ", ".join(sorted(there)) or "none"
                raise SourceError(f"{variable} names {name}, and pyproject.toml has no such thing (it has {known}).")


def _difference(metadata: dict[str, Any], content: dict[str, Any]) -> str:
    """Return what a project asks for and its lock does not know, or the other way round; '' if they agree."""
    project = content.get("project", {})
    dynamic = {"dependencies", "optional-dependencies"} & set(project.get("dynamic", []))
    lists = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    lists += [*content.get("dependency-groups", {}).values(), content.get("tool", {}).get("uv", {}).get("dev-dependencies", [])]
    # A group can also include another one.
    wanted = {_split(text) for texts in lists for text in texts if isinstance(text, str)}
    entries = [*metadata.get("requires-dist", []), *(entry for group in metadata.get("requires-dev", {}).values() for entry in group)]
    known = {(normalise(each["name"]), _specifiers(each.get("specifier", ""))) for each in entries}
    # Of what has a place of its own (tool.uv.sources), uv notes that, and not which versions the project would take from an index.
    placed = {normalise(each["name"]) for each in entries if _PLACES & set(each)}
    wanted, known = ({(each, frozenset() if each in placed else parts) for each, parts in found} for found in (wanted, known))
    # An extra may be made of others of the same project.
    name = normalise(str(project.get("name", "")))
    missing, surplus = ({each for each in found if each[0] != name} for found in (wanted - known, known - wanted))
    if dynamic:
        surplus.clear()
    for found, sentence in ((missing, "the lock does not have"), (surplus, "only the lock has")):
        if found:
            package, specifiers = min(found, key=lambda each: each[0])
            return f"{sentence} the dependency '{package}{','.join(sorted(map(str, specifiers)))}'"
    return ""


def _split(requirement: str) -> tuple[str, frozenset[Any]]:
    match = _NAME.match(requirement)
    return (normalise(match.group(1)), _specifiers(match.group(2))) if match else (requirement, frozenset())


def _specifiers(text: str) -> frozenset[Any]:
    """Return the parts of a version specifier, comparable whatever way they are written in."""
    try:
        return frozenset(SpecifierSet(text))
    except ValueError:
        return frozenset(re.sub(r"\s", "", text).split(","))


# requirements.txt


def _lines(path: str, above: tuple[str, ...] = (), top: str = "/") -> list[str]:
    """Return the entries and options of a requirements file, and of those that it includes. Raises SourceError where there is none."""
    found = []
    for line in re.sub(r"\\\r?\n", " ", read_text(path)).split("\n"):
        # Some programs begin a new entry at one of them, others do not.
        if _CONTROL.search(line.rstrip("\r")):
            raise SourceError(f"{path} has {shown(line)}. Leave out the control character.")
        entry = re.sub(r"(^|\s)#.*", "", line).strip()
        if not entry:
            continue
        found.append(entry)
        included = _INCLUDED.match(entry)
        if included and "://" not in included.group(1):
            other = os.path.normpath(os.path.join(os.path.dirname(path), included.group(1)))
            if not other.startswith(f"{top.rstrip('/')}/"):
                raise SourceError(f"{path} includes {shown(included.group(1))}, which is not in the source. Put a copy of it there.")
            if not os.path.isfile(other):
                raise SourceError(f"{path} includes {included.group(1)}, and there is no file {other}. Correct it, or add the file.")
            if other not in (path, *above):
                found += _lines(other, (path, *above), top)
    return found


def requirements(path: str) -> list[tuple[str, str, bool]]:
    """Return the entries of a requirements file: normalised name, specifier, has it a hash."""
    found = []
    for entry in _lines(path):
        if not entry.startswith("-"):
            match = _NAME.match(entry.split("--hash")[0])
            name, specifier = (match.group(1), match.group(2).strip()) if match else (entry, "")
            found.append((normalise(name), specifier, "--hash" in entry))
    return found


def check_includes(path: str, top: str) -> None:
    """Raise SourceError if a file of requirements, or one that it includes, includes what is not below `top`."""
    _lines(path, top=top)


def check_requirements(path: str, require_hashes: bool) -> None:
    """Raise SourceError if an entry has no hash and needs one."""
    bare = [name for name, _specifier, hashed in requirements(path) if not hashed]
    if require_hashes and bare:
        raise SourceError(
            f"{path} has no hash for {', '.join(bare[:5])}{' and more' if bare[5:] else ''}. Make it with 'uv pip compile "
            "--generate-hashes', or set asgi_release_require_hashes to false."
        )
