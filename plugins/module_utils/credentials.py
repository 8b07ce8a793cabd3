# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in files that only this machine can read: systemd's encrypted credentials, systemd-creds(1).

What is secret goes through standard input and output, and is on no command line.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

Run = Callable[[Sequence[str], bytes], "subprocess.CompletedProcess[bytes]"]

# The machine's key, which systemd makes when it first encrypts something.
KEY = "/var/lib/systemd/credential.secret"


class CredentialError(Exception):
    """systemd did not encrypt. The message says why, and nothing of the secret."""


def run_command(command: Sequence[str], given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(list(command), input=given, capture_output=True, check=False)


class Credentials:
    """The credentials of one machine, with the runner given from outside."""

    def __init__(self, run: Run = run_command, key: str = KEY) -> None:
        self._run = run
        self._key = key

    def encrypt(self, name: str, content: bytes) -> bytes:
        """Return what systemd makes of a secret; other bytes each time. Raises CredentialError."""
        # By the machine's key, and its TPM where there is one; but by no state of the firmware's, which an update would change.
        command = ["systemd-creds", "encrypt", "--with-key=auto", "--tpm2-pcrs=", f"--name={name}", "-", "-"]
        done = self._run(command, content)
        if done.returncode != 0 or not done.stdout:
            said = done.stderr.decode("utf-8", "replace").strip()
            raise CredentialError(f"the credential {name} cannot be encrypted on this host: {said or f'it ended with {done.returncode}'}")
        return done.stdout

    def decrypt(self, name: str, content: bytes) -> bytes | None:
        """Return the secret in what `encrypt` has returned, None if it is nothing of this machine's and this name."""
        done = self._run(["systemd-creds", "decrypt", f"--name={name}", "-", "-"], content)
        return done.stdout if done.returncode == 0 else None

    def obstacle(self, try_it: bool = True) -> str:
        """Return why this machine cannot encrypt, '' if it can. Without `try_it` no key is made for that, and it is guessed then."""
        if shutil.which("systemd-creds") is None:
            return "there is no systemd-creds, which comes with systemd 250 and later"
        if not try_it and not os.path.exists(self._key):
            return ""
        try:
            encrypted = self.encrypt("try", b"known")
        except (CredentialError, OSError) as error:
            return str(error)
        return "" if self.decrypt("try", encrypted) == b"known" else "what systemd-creds has encrypted it cannot decrypt"
