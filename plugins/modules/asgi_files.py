#!/usr/bin/python
# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: asgi_files
short_description: Write several files as one transaction, and put the old ones back if a check fails
description:
  - Brings a set of files, directories and symbolic links to the wanted state in one round trip.
  - C(ansible.builtin.template) validates one file at a time, through a temporary copy. Some programs can only judge their
    configuration as a whole and in place, C(nginx -t) for one. This module writes everything, runs O(validate), and
    when that fails puts back each entry as it was (content, owner, mode, or absence) before it reports the failure.
  - Each file is replaced by C(rename(2)), so a reader sees the old or the new content and never a part of it.
version_added: 0.1.0
author:
  - steadfast.asgi contributors (@steadfast-asgi)
options:
  files:
    description:
      - The entries, applied in this order. No path may be named twice.
      - The content shows up at high verbosity, as any module argument does. Secrets belong into O(secrets).
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path on the target host. The parent directory must exist, or be an earlier entry.
        type: path
        required: true
      state:
        description:
          - V(file) is a regular file with exactly O(files[].content).
          - V(directory) is a directory. Its content is left alone.
          - V(link) is a symbolic link to O(files[].target). It may dangle.
          - V(absent) is nothing at that path. A directory is removed only if it is empty.
        type: str
        choices: [file, directory, link, absent]
        default: file
      content:
        description: The whole content of the file, written as UTF-8. Required for O(files[].state=file).
        type: str
      target:
        description: What the link points to, taken literally. Required for O(files[].state=link).
        type: str
      diff:
        description: Whether a diff shows the content. Not worth it for files that nobody writes by hand, such as programs.
        type: bool
        default: true
      purge:
        description:
          - For O(files[].state=directory), patterns such as C(*.conf). Files in the directory whose names match one of them are removed,
            unless they are entries themselves.
        type: list
        elements: str
      owner:
        description: User name or numeric ID. Not used for links.
        type: str
        default: root
      group:
        description: Group name or numeric ID. Not used for links.
        type: str
        default: root
      mode:
        description: Octal mode, best as a string. The default is V(0644) for files and V(0755) for directories.
        type: raw
      let_through:
        description:
          - For O(files[].state=directory), groups whose members may go through the directory to what is in it, whatever O(files[].mode)
            says, and nothing else. Each becomes an entry of the directory's access list (acl(5)); other entries are left alone.
          - Where the host has no such group yet, or its file system knows no access lists, everybody may read and go through the directory,
            with a warning. Otherwise a program that has to get through would be shut out.
        type: list
        elements: str
  secrets:
    description:
      - Further files, of the same transaction. Nothing that Ansible shows or logs has any of this in it; a diff only names them.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Absolute path on the target host. The parent directory must exist, or be an entry of O(files).
        type: path
        required: true
      content:
        description: The whole content of the file, written as UTF-8.
        type: str
        required: true
      owner:
        description: User name or numeric ID.
        type: str
        default: root
      group:
        description: Group name or numeric ID.
        type: str
        default: root
      mode:
        description: Octal mode, best as a string.
        type: raw
        default: '0600'
      credential:
        description:
          - Encrypt the content as a credential of this name, which only this machine can decrypt (systemd-creds(1)). It is what
            C(LoadCredentialEncrypted=) of a unit takes.
          - Encrypting gives other bytes each time. The file counts as unchanged if it decrypts to O(secrets[].content).
        type: str
  find_can_encrypt:
    description: Find out whether this host can encrypt credentials, and return RV(can_encrypt) and RV(cannot_encrypt_because).
    type: bool
    default: false
  validate:
    description:
      - A command and its arguments, run without a shell after the files are in place and only if something changed.
      - A return code other than 0 puts everything back and fails the task. Then it is run once more, so that the message can say
        whether it refuses what was there before as well.
    type: list
    elements: str
  validate_always:
    description: Run O(validate) when nothing changed as well.
    type: bool
    default: false
  own:
    description:
      - Texts that are in the words of O(validate) where it refuses these files, such as their paths. If something is to change, O(validate)
        is run before it too. Where it refuses what is there already, and says none of these texts, the module fails and changes nothing.
      - Also in check mode.
    type: list
    elements: str
    default: []
  read:
    description:
      - Absolute paths of small text files to return the contents of, as they were before anything was written. One that is not
        there, or may not be read, is left out.
      - What a later task needs to know of the host, such as files below C(/proc), comes back without a round trip of its own.
    type: list
    elements: path
    default: []
  fingerprint:
    description: An absolute path of a directory. Return RV(fingerprint) of the files in it that O(files) and O(secrets) name.
    type: path
attributes:
  check_mode:
    description:
      - Compares as usual and writes nothing. O(validate) is not run, since there is nothing new to judge, unless O(own) is given.
        Where nothing has ever been
        encrypted, a host with C(systemd-creds) is taken for one that can, since trying would make its key.
    support: full
  diff_mode:
    description: Shows the content of files, and the kind, owner and mode of every entry.
    support: full
  idempotent:
    description: A second run with the same arguments changes nothing.
    support: full
notes:
  - In check mode an owner or group that does not exist yet counts as a change and not as an error, because an earlier task
    would have made it.
"""

EXAMPLES = r"""
- name: Replace two nginx files together
  steadfast.asgi.asgi_files:
    files:
      - path: /etc/nginx/conf.d/shop.conf
        content: "{{ lookup('ansible.builtin.template', 'shop.conf.j2') }}"
      - path: /etc/nginx/conf.d/old-shop.conf
        state: absent
    validate: [nginx, -t]
  notify: Reload nginx
"""

RETURN = r"""
changed_paths:
  description: The paths that differed from what was asked for, in the order of O(files).
  returned: success
  type: list
  elements: str
  sample: [/etc/nginx/conf.d/shop.conf]
can_encrypt:
  description: Whether something that was encrypted could be decrypted again.
  returned: success, if O(find_can_encrypt)
  type: bool
cannot_encrypt_because:
  description: Why not, empty if it could.
  returned: success, if O(find_can_encrypt)
  type: str
contents:
  description: The texts of the files that O(read) names, by their paths.
  returned: success, if O(read) names any
  type: dict
  sample: {/proc/loadavg: "0.00 0.01 0.05 1/123 4567\n"}
fingerprint:
  description: >-
    What tells these files from others that somebody else may write later, for the option
    O(steadfast.asgi.asgi_rollout#module:settings). In check mode that of the files that would be written.
  returned: success, if O(fingerprint)
  type: dict
  contains:
    directory:
      description: The directory.
      type: str
    names:
      description: The names of the files in it.
      type: list
      elements: str
    fingerprint:
      description: The value that stands for their contents.
      type: str
restored:
  description: The paths that were put back to their old state.
  returned: when O(validate) failed or a write failed
  type: list
  elements: str
refused_before:
  description: Whether O(validate) refuses what was there before as well, so that the new files are not to blame, or not alone.
  returned: when O(validate) failed
  type: bool
cmd:
  description: The command that judged the files.
  returned: when O(validate) was run
  type: list
  elements: str
rc:
  description: Its return code.
  returned: when O(validate) was run
  type: int
stdout:
  description: Its standard output.
  returned: when O(validate) was run
  type: str
stderr:
  description: Its standard error.
  returned: when O(validate) was run
  type: str
"""

import errno
import grp
import os
import pwd
import stat
import tempfile
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import Any

from ansible.module_utils.common.text.converters import to_native

from ansible_collections.steadfast.asgi.plugins.module_utils import acl
from ansible_collections.steadfast.asgi.plugins.module_utils.credentials import CredentialError, Credentials
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module
from ansible_collections.steadfast.asgi.plugins.module_utils.slots import fingerprint

_DEFAULT_MODES = {"file": 0o644, "directory": 0o755}


class FilesError(Exception):
    """An entry that cannot be applied. The message names its path."""


@dataclass(frozen=True)
class Entry:
    """What one path is, or is to be.

    `uid` and `gid` are None where they do not matter (links, absent) or, for a wanted entry in check mode, where the
    account does not exist yet.
    """

    path: str
    state: str
    content: bytes = b""
    target: str = ""
    mode: int = 0
    uid: int | None = None
    gid: int | None = None
    # The access list of a directory, b"" for none; None where it does not matter.
    acl: bytes | None = None

    def describe(self) -> str:
        """One line for a diff."""
        if self.state == "link":
            return f"link to {self.target}\n"
        if self.state == "absent":
            return "absent\n"
        return f"{self.state} {self.uid}:{self.gid} {self.mode:04o}{f', {acl.text(self.acl)}' if self.acl else ''}\n"


def observe(path: str) -> Entry:
    """Return what is at `path` now. Raises FilesError for a device, socket or pipe: those are never ours."""
    try:
        st = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Entry(path, "absent")
    if stat.S_ISLNK(st.st_mode):
        return Entry(path, "link", target=os.readlink(path))
    mode = stat.S_IMODE(st.st_mode)
    if stat.S_ISDIR(st.st_mode):
        return Entry(path, "directory", mode=mode, uid=st.st_uid, gid=st.st_gid, acl=access_list(path))
    if stat.S_ISREG(st.st_mode):
        with open(path, "rb") as stream:
            content = stream.read()
        return Entry(path, "file", content=content, mode=mode, uid=st.st_uid, gid=st.st_gid)
    raise FilesError(f"{path} is neither a file, a directory nor a link; move it away first")


def access_list(path: str) -> bytes | None:
    """Return the access list of a directory, None where its file system knows of none."""
    try:
        return acl.read(path)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
    return None


def observe_like(known: Entry) -> Entry:
    """Return what is at a path now; for a directory, behind a link too."""
    if known.state == "directory" and os.path.islink(known.path):
        return replace(observe(os.path.realpath(known.path)), path=known.path)
    return observe(known.path)


def check_replaceable(old: Entry, new: Entry, removed: set[str]) -> None:
    """Raise FilesError if `new` could only be had by destroying what we did not write.

    `removed` are the paths that will be gone when it is `new`'s turn.
    """
    if old.state == "directory" and new.state in ("file", "link"):
        raise FilesError(f"{new.path} is a directory, but a {new.state} is wanted there; move the directory away first")
    if old.state == "directory" and new.state == "absent" and {os.path.join(old.path, name) for name in os.listdir(old.path)} - removed:
        raise FilesError(f"{new.path} is a directory with files in it and is not removed; empty it first")
    if old.state in ("file", "link") and new.state == "directory":
        raise FilesError(f"{new.path} is a {old.state}, but a directory is wanted there; move it away first")


def place(entry: Entry) -> None:
    """Bring `entry.path` to `entry`, atomically for files and links."""
    path = entry.path
    if entry.state == "absent":
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        elif os.path.lexists(path):
            os.unlink(path)
        return
    if entry.state == "directory":
        if not os.path.isdir(path):
            os.mkdir(path, 0o700)
        os.chown(path, -1 if entry.uid is None else entry.uid, -1 if entry.gid is None else entry.gid)
        # Before the mode: whoever may go through at present can do so all the time.
        if entry.acl is not None:
            acl.write(path, entry.acl)
        os.chmod(path, entry.mode)
        return
    # A leading dot and this suffix keep the temporary name out of the globs that programs read (*.conf, sites-enabled/*).
    directory = os.path.dirname(path)
    if entry.state == "link":
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        temporary = os.path.join(directory, f".asgi-{os.getpid()}.tmp")
        os.symlink(entry.target, temporary)
        try:
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return
    handle, temporary = tempfile.mkstemp(prefix=".asgi-", suffix=".tmp", dir=directory)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(entry.content)
            stream.flush()
            os.fchown(stream.fileno(), -1 if entry.uid is None else entry.uid, -1 if entry.gid is None else entry.gid)
            os.fchmod(stream.fileno(), entry.mode)
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def account_id(name: str, kind: str, tolerate_missing: bool) -> int | None:
    """Resolve a user or group (`kind`) name or number to its ID; None if it is missing and that is tolerated."""
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    except KeyError:
        if tolerate_missing:
            return None
        raise FilesError(f"the {kind} '{name}' does not exist on this host; create it first") from None


def parse_mode(path: str, mode: Any) -> int:
    """Return a mode as a number. YAML makes a number of an unquoted 0644 by itself."""
    try:
        number = mode if isinstance(mode, int) else int(str(mode), 8)
    except ValueError:
        number = -1
    if not 0 <= number <= 0o7777:
        raise FilesError(f"{path}: mode '{mode}' is not an octal number such as '0644'")
    return number


def encrypted(path: str, name: str, content: bytes, check_mode: bool) -> bytes:
    """Return what a file with a credential is to have in it: what it has, if that decrypts to `content`. Raises FilesError."""
    old = observe(path)
    credentials = Credentials()
    try:
        if old.state == "file" and credentials.decrypt(name, old.content) == content:
            return old.content
        # Anything else than what is there.
        return b"(encrypted)" if check_mode else credentials.encrypt(name, content)
    except (CredentialError, OSError) as error:
        raise FilesError(f"{path}: {to_native(error)}") from None


def wanted_entry(spec: dict[str, Any], check_mode: bool) -> Entry:
    """Turn one element of the `files` option into an Entry. Raises FilesError for what makes no sense."""
    path, state = spec["path"], spec["state"]
    if not os.path.isabs(path) or os.path.normpath(path) != path:
        raise FilesError(f"path '{path}' must be absolute, without '..', doubled or trailing slashes")
    if state == "absent":
        return Entry(path, state)
    if state == "link":
        if not spec["target"]:
            raise FilesError(f"{path}: state=link needs 'target'")
        return Entry(path, state, target=spec["target"])
    if state == "file" and spec["content"] is None:
        raise FilesError(f"{path}: state=file needs 'content'")
    mode = _DEFAULT_MODES[state] if spec["mode"] is None else parse_mode(path, spec["mode"])
    content = (spec["content"] or "").encode("utf-8") if state == "file" else b""
    return Entry(
        path,
        state,
        content=encrypted(path, spec["credential"], content, check_mode) if spec.get("credential") else content,
        mode=mode,
        uid=account_id(spec["owner"], "user", check_mode),
        gid=account_id(spec["group"], "group", check_mode),
    )


def let_through(module: Module, entry: Entry, groups: list[str]) -> Entry:
    """Return what a directory is to be that groups may go through, as far as this host can do it."""
    numbers = [account_id(group, "group", True) for group in groups]
    there = entry.path if os.path.isdir(entry.path) else os.path.dirname(entry.path)
    old = access_list(there) if os.path.isdir(there) else b""
    reason = ""
    if None in numbers:
        reason = f"this host has no group {groups[numbers.index(None)]} yet"
    elif old is None:
        reason = "its file system knows no access lists (acl(5))"
    if reason:
        mode = entry.mode | (entry.mode >> 3 & 5)
        module.warn(
            f"Every user of this host may read what is in {entry.path}, for {reason}. Its mode becomes {mode:04o}, not {entry.mode:04o}."
        )
        return replace(entry, mode=mode)
    present = old if old and there == entry.path else b""
    return replace(entry, acl=acl.letting_through(present, entry.mode, {number for number in numbers if number is not None}))


def differences(old: Entry, new: Entry) -> list[dict[str, str]]:
    """Return Ansible diff entries that lead from `old` to `new`; an empty list if they are equal."""
    found = []
    if old.content != new.content:
        found.append(
            {
                "before": old.content.decode("utf-8", "replace"),
                "after": new.content.decode("utf-8", "replace"),
                "before_header": old.path,
                "after_header": new.path,
            }
        )
    if new.acl is None:
        old = replace(old, acl=None)
    if old.describe() != new.describe():
        found.append(
            {
                "before": old.describe(),
                "after": new.describe(),
                "before_header": f"{old.path} (attributes)",
                "after_header": f"{new.path} (attributes)",
            }
        )
    return found


def compare(module: Module, specs: list[dict[str, Any]]) -> tuple[list[Entry], list[tuple[Entry, Entry]], list[dict[str, str]]]:
    """Return what there is to be, what of it replaces what, and the diff. Raises FilesError for what cannot be done."""
    wanted = [wanted_entry(spec, module.check_mode) for spec in specs]
    wanted = [
        let_through(module, entry, spec["let_through"]) if spec.get("let_through") and entry.state == "directory" else entry
        for entry, spec in zip(wanted, specs, strict=True)
    ]
    paths = [entry.path for entry in wanted]
    wanted += [Entry(path, "absent") for path in superfluous(specs) if path not in paths]
    for path in paths:
        if paths.count(path) > 1:
            raise FilesError(f"path '{path}' is named twice")
    plan: list[tuple[Entry, Entry]] = []
    diff: list[dict[str, str]] = []
    removed: set[str] = set()
    unshown = {spec["path"] for spec in specs if not spec["diff"]}
    for new in wanted:
        # A directory may have been moved to another volume, with a link in its place.
        followed = new.state == "directory" and os.path.islink(new.path) and os.path.isdir(new.path)
        old = replace(observe(os.path.realpath(new.path)), path=new.path) if followed else observe(new.path)
        check_replaceable(old, new, removed)
        if new.state == "absent":
            removed.add(new.path)
        found = differences(old, new)
        if found:
            plan.append((old, new))
            diff.extend(found if new.path not in unshown else [{"prepared": f"{new.path} changes (it is not shown)\n"}])
    return wanted, plan, diff


def superfluous(specs: list[dict[str, Any]]) -> list[str]:
    """Return the files that match the patterns of directories, whether or not they are wanted."""
    found = []
    for spec in specs:
        if spec["state"] == "directory" and spec["purge"] and os.path.isdir(spec["path"]):
            with os.scandir(spec["path"]) as entries:
                files = [entry for entry in entries if not entry.is_dir(follow_symlinks=False)]
            found += sorted(entry.path for entry in files if any(fnmatch(entry.name, pattern) for pattern in spec["purge"]))
    return found


def put_back(done: list[Entry]) -> tuple[list[str], str]:
    """Bring each path back to what it was, the last one first; returns the paths, and a text for a message."""
    restored, failed = [], []
    for old in reversed(done):
        said = "somebody else has changed it meanwhile"
        try:
            # What could not be written is as it was. On a full disk it could not be written once more either.
            if observe_like(old) == old:
                continue
            place(old)
        except (OSError, FilesError) as error:
            said = to_native(error)
        # It may be so all the same.
        with suppress(OSError, FilesError):
            if observe_like(old) == old:
                restored.append(old.path)
                continue
        failed.append(f"{old.path} ({said})")
    if failed:
        return restored, f"these could NOT be put back as they were: {', '.join(failed)}"
    return restored, "everything was put back as it was" if restored else "no file was changed"


def read(paths: list[str]) -> dict[str, str]:
    """Return the texts of those of `paths` that can be read."""
    found = {}
    for path in paths:
        with suppress(OSError), open(path, encoding="utf-8", errors="replace") as stream:
            found[path] = stream.read()
    return found


def take_secrets(module: Module) -> list[dict[str, Any]]:
    """Return the secrets in the form of `files`, and leave them in nothing that the module returns.

    Ansible would blot out each value of a secret parameter wherever it occurs. Here these are names of users and modes too, so that
    nothing would be legible.
    """
    taken = [{**secret, "state": "file", "target": None, "diff": False, "purge": None} for secret in module.params["secrets"]]
    module.params["secrets"] = "(not shown)"
    module.no_log_values.clear()
    return taken


def run(module: Module) -> dict[str, Any]:
    """Do the whole job; returns what goes to exit_json, raises FilesError before anything was changed."""
    wanted, plan, diff = compare(module, module.params["files"] + take_secrets(module))
    result: dict[str, Any] = {"changed": bool(plan), "changed_paths": [new.path for old, new in plan], "diff": diff}
    if module.params["read"]:
        result["contents"] = read(module.params["read"])
    if module.params["find_can_encrypt"]:
        obstacle = Credentials().obstacle(try_it=not module.check_mode)
        result.update(can_encrypt=not obstacle, cannot_encrypt_because=obstacle)
    directory = module.params["fingerprint"]
    if plan and module.params["validate"] and module.params["own"]:
        refuse_what_is_not_ours(module)
    if module.check_mode:
        return result | fingerprint_in(directory, wanted)

    done: list[Entry] = []
    for old, new in plan:
        try:
            # Before the write, so that an entry that fails half way (made, but not yet owned) is put back too.
            done.append(old)
            place(new)
            if new.state != "absent":
                module.set_default_selinux_context(new.path, False)
        except OSError as error:
            restored, outcome = put_back(done)
            module.fail_json(msg=f"could not write {new.path}: {to_native(error)}; {outcome}", restored=restored)
        except SystemExit:
            # Ansible has failed already, and said why.
            put_back(done)
            raise

    if module.params["validate"] and (plan or module.params["validate_always"]):
        command = module.params["validate"]
        rc, stdout, stderr = judge(module, command)
        result.update(cmd=command, rc=rc, stdout=stdout, stderr=stderr)
        if rc != 0:
            restored, outcome = put_back(done)
            named, said = title(command), (stderr or stdout).strip()
            result.update(changed=False, restored=restored, refused_before=not plan)
            if not plan:
                module.fail_json(msg=f"{named} refuses the configuration that is there already; {outcome}. It said: {said}", **result)
            # What refuses everything has nothing against these files.
            again, _stdout, stderr_before = judge(module, command)
            if again != 0:
                result["refused_before"] = True
                msg = (
                    f"{named} refused the new configuration, and it refuses the one that was there before as well; {outcome}. Correct that "
                    f"first. It said: {said}"
                )
                if stderr_before.strip() and stderr_before.strip() != said:
                    msg += f"\nOf the one that was there before it said: {stderr_before.strip()}"
                module.fail_json(msg=msg, **result)
            module.fail_json(msg=f"{named} refused the new configuration; {outcome}. It said: {said}", **result)

    return result | fingerprint_in(directory, wanted)


def title(command: list[str]) -> str:
    """Return a command for a message, without the rest of a script that is long. The whole of it is in the result."""
    text = " ".join(" ".join(command).split())
    return f"'{text}'" if len(text) <= 100 else f"'{text[:100]}…'"


def refuse_what_is_not_ours(module: Module) -> None:
    """Fail where `validate` refuses what is there already, for something that is not among the files."""
    command = module.params["validate"]
    rc, stdout, stderr = judge(module, command)
    said = (stderr or stdout).strip()
    if rc not in (0, 127) and not any(text in said for text in module.params["own"]):
        module.fail_json(
            msg=f"{title(command)} refuses the configuration that is on this host already, and not for these files. Nothing was "
            f"changed. Correct that first, or remove it. It says: {said}",
            refused_before=True,
            restored=[],
            cmd=command,
            rc=rc,
            stdout=stdout,
            stderr=stderr,
        )


def judge(module: Module, command: list[str]) -> tuple[int, str, str]:
    """Run the command that judges the files; a command that cannot be run refuses."""
    try:
        found: tuple[int, str, str] = module.run_command(command, handle_exceptions=False, expand_user_and_vars=False)
    except OSError as error:
        return 127, "", to_native(error)
    return found


def fingerprint_in(directory: str | None, wanted: list[Entry]) -> dict[str, Any]:
    """Return the result `fingerprint` of the files wanted in a directory, nothing for no directory."""
    if not directory:
        return {}
    # Of what was to be written, not of what is there now, which may be somebody else's already.
    files = {os.path.basename(new.path): new.content for new in wanted if new.state == "file" and os.path.dirname(new.path) == directory}
    return {"fingerprint": {"directory": directory, "names": sorted(files), "fingerprint": fingerprint(files.items())}}


def main() -> None:
    module = Module(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "state": {"type": "str", "default": "file", "choices": ["file", "directory", "link", "absent"]},
                    "content": {"type": "str"},
                    "target": {"type": "str"},
                    "diff": {"type": "bool", "default": True},
                    "purge": {"type": "list", "elements": "str"},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "raw"},
                    "let_through": {"type": "list", "elements": "str"},
                },
            },
            "secrets": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "no_log": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str", "default": "root"},
                    "mode": {"type": "raw", "default": "0600"},
                    "credential": {"type": "str"},
                },
            },
            "find_can_encrypt": {"type": "bool", "default": False},
            "validate": {"type": "list", "elements": "str"},
            "own": {"type": "list", "elements": "str", "default": []},
            "validate_always": {"type": "bool", "default": False},
            "read": {"type": "list", "elements": "path", "default": []},
            "fingerprint": {"type": "path"},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except (FilesError, OSError) as error:
        module.fail_json(msg=to_native(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
