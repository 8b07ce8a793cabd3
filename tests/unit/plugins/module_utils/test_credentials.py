from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.credentials import CredentialError, Credentials, run_command


class Machine:
    """What systemd-creds does: other bytes each time, and no word of a secret in its arguments. (The scenario has the real one.)"""

    def __init__(self, key: str = "key", broken: bool = False) -> None:
        self.key = key
        self.broken = broken
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
        self.commands.append(list(command))
        assert command[0] == "systemd-creds"
        [name] = [word.removeprefix("--name=") for word in command if word.startswith("--name=")]
        if command[1] == "encrypt":
            if self.broken:
                return subprocess.CompletedProcess(command, 1, b"", b"no key, no TPM\n")
            made = f"{len(self.commands)} {self.key} {name} ".encode() + bytes(byte ^ 1 for byte in given)
            return subprocess.CompletedProcess(command, 0, made, b"not on encrypted media, using anyway\n")
        _, _, rest = given.partition(b" ")
        mark = f"{self.key} {name} ".encode()
        if not rest.startswith(mark):
            return subprocess.CompletedProcess(command, 1, b"", b"refusing")
        return subprocess.CompletedProcess(command, 0, bytes(byte ^ 1 for byte in rest.removeprefix(mark)), b"")


def test_what_was_encrypted_is_decrypted_here_and_under_its_name_only() -> None:
    machine = Machine()
    here = Credentials(machine)
    made = here.encrypt("token", b"two\nlines\n")
    assert made != here.encrypt("token", b"two\nlines\n")
    assert here.decrypt("token", made) == b"two\nlines\n"
    assert here.decrypt("other", made) is None
    assert here.decrypt("token", b"two\nlines\n") is None
    assert Credentials(Machine("another")).decrypt("token", made) is None
    assert "lines" not in str(machine.commands)


def test_what_cannot_be_encrypted_is_named_with_the_reason() -> None:
    with pytest.raises(CredentialError) as failed:
        Credentials(Machine(broken=True)).encrypt("token", b"secret")
    assert str(failed.value) == "the credential token cannot be encrypted on this host: no key, no TPM"


def test_a_machine_that_can_has_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = tmp_path / "credential.secret"
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/systemd-creds")
    assert Credentials(Machine(), str(key)).obstacle() == ""
    assert "no key, no TPM" in Credentials(Machine(broken=True), str(key)).obstacle()
    # In check mode no key is made for it, and one that is there is used.
    machine = Machine(broken=True)
    assert Credentials(machine, str(key)).obstacle(try_it=False) == ""
    assert machine.commands == []
    key.write_text("x")
    assert "no key, no TPM" in Credentials(machine, str(key)).obstacle(try_it=False)


def test_a_machine_that_forgets_its_key_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/systemd-creds")
    machine = Machine()

    def run(command: Sequence[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
        machine.key = command[1]
        return machine(command, given)

    assert "cannot decrypt" in Credentials(run, str(tmp_path / "key")).obstacle()


def test_an_old_systemd_is_an_obstacle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert "systemd 250" in Credentials(Machine()).obstacle()


def test_bytes_go_through_as_they_are() -> None:
    assert run_command(["cat"], b"\xff\0\n").stdout == b"\xff\0\n"
