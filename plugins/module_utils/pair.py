# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Give the server of a slot, which is not root, the certificate and the key that it speaks TLS with.

What is on the host is for root alone, and is renewed at any time. A slot has a copy in memory that root owns and the service's
group can read, made when the slot is started and when it is reloaded, and only of what can be used.

The role asgi_service also installs this on the host, where the slot's unit runs it as a program. So it needs nothing but the
standard library and certificate.py beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import grp
import json
import os
import shutil
import ssl
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from . import certificate
from .certificate import CertificateError

# The settings of a slot that say which files they are.
SETTINGS = "tls.json"


class PairError(Exception):
    """There is no certificate that could be used. The message says which file it is about."""


def read(path: str) -> bytes:
    try:
        return certificate.read(path)
    except CertificateError as error:
        raise PairError(str(error)) from None


@dataclass(frozen=True)
class Pair:
    """The files on the host, and the folder for the copy: `pair.pem` with key and certificate, and `client-ca.pem`."""

    certificate: str
    key: str
    client_ca: str
    group: str
    folder: str

    @classmethod
    def of_slot(cls, app: str, slot: str, root: str = "") -> Pair | None:
        """Return what a slot is to have by its settings, None if it does not speak TLS."""
        try:
            with open(f"{root}/etc/{app}/{slot}/{SETTINGS}", encoding="utf-8") as stream:
                named = json.load(stream)
        except FileNotFoundError:
            return None
        return cls(named["certificate"], named["key"], named["client_ca"], named["group"], f"{root}/run/{app}/tls-{slot}")

    def wanted(self) -> dict[str, bytes]:
        """Return what the copy has to be by what is on the host now. Raises PairError."""
        found = {"pair.pem": self._joined(read(self.certificate), read(self.key))}
        if self.client_ca:
            found["client-ca.pem"] = read(self.client_ca)
        return found

    def renewed(self) -> bool:
        """Return whether the host has another certificate than the slot. One that cannot be read is found by who reloads."""
        try:
            return any(self._copy(name) != content for name, content in self.wanted().items())
        except PairError:
            return True

    @staticmethod
    def _joined(chain: bytes, key: bytes) -> bytes:
        return key.rstrip() + b"\n" + chain

    def install(self, even_expired: bool = False) -> bool:
        """Copy what is on the host, if it can be used; return whether that changed anything. Raises PairError.

        One that is not valid today is used only with `even_expired`: for a slot that has no other it is better than none.
        """
        for patience in (0.3, 0.3, 0.0):
            try:
                self._judge_files(even_expired)
                return self._install(self.wanted())
            except PairError:
                # The certificate may have been read before a renewal, and the key after it.
                if not patience:
                    raise
                time.sleep(patience)
        raise AssertionError

    def _judge_files(self, even_expired: bool) -> None:
        """Raise PairError for what OpenSSL reads in another way than was meant, or clients would refuse."""
        labels = certificate.Labels(self.certificate, self.key)
        found = certificate.judge(read(self.certificate), read(self.key), labels=labels, usable_only=True)
        problems = list(found.problems)
        if not problems and not even_expired:
            now = datetime.now(UTC)
            problems += [
                f"{self.certificate} has a certificate ({one.name()}) that is valid from {one.begin:%Y-%m-%d} to {one.end:%Y-%m-%d}."
                for one in found.chain
                if not one.begin <= now < one.end
            ]
        if problems:
            raise PairError(" ".join(problems))

    def usable(self) -> bool:
        """Return whether the slot has a copy already that it could go on with."""
        try:
            self._judge(self.folder)
        except PairError:
            return False
        return True

    def _install(self, wanted: dict[str, bytes]) -> bool:
        group = grp.getgrnam(self.group).gr_gid
        aside = f"{self.folder}.new"
        # All in the directory of root's, and for the group only when it is complete.
        shutil.rmtree(aside, ignore_errors=True)
        os.mkdir(aside, mode=0o700)
        try:
            for name, content in wanted.items():
                with open(os.open(f"{aside}/{name}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
                    stream.write(content)
                    stream.flush()
                    os.fchown(stream.fileno(), -1, group)
                    os.fchmod(stream.fileno(), 0o640)
            self._judge(aside)
            changed = any(self._copy(name) != content for name, content in wanted.items())
            with contextlib.suppress(FileExistsError):
                os.mkdir(self.folder, mode=0o700)
            os.chown(self.folder, -1, group)
            os.chmod(self.folder, 0o750)  # noqa: S103 - the group is the service's
            for name in wanted:
                os.replace(f"{aside}/{name}", f"{self.folder}/{name}")
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return changed

    def _judge(self, folder: str) -> None:
        """Raise PairError if a server could not use what is in a folder."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            # With a password, or OpenSSL would ask whoever is at the terminal.
            context.load_cert_chain(f"{folder}/pair.pem", password="")
        except (OSError, ValueError) as error:
            raise PairError(f"{self.certificate} and {self.key} are no certificate and key that could be used: {error}") from None
        if self.client_ca:
            try:
                context.load_verify_locations(f"{folder}/client-ca.pem")
            except (OSError, ValueError) as error:
                raise PairError(f"{self.client_ca} has no certificate of an authority that could be used: {error}") from None

    def _copy(self, name: str) -> bytes | None:
        try:
            return read(f"{self.folder}/{name}")
        except PairError:
            return None


def main(arguments: list[str] | None = None) -> int:
    """What the unit of a slot runs. Returns 0 when the slot has what it needs, 1 and a message when it does not."""
    parser = argparse.ArgumentParser(description="Give a slot the certificate that it serves.")
    parser.add_argument("--app", required=True, help="the application")
    parser.add_argument("--slot", required=True, help="its slot")
    parser.add_argument("--or-keep", action="store_true", help="where the host's files cannot be used, go on with the copy that is there")
    options = parser.parse_args(arguments)
    pair = Pair.of_slot(options.app, options.slot)
    if pair is None:
        return 0
    try:
        pair.install()
    except (PairError, OSError, KeyError) as error:
        print(f"TLS: {error}", file=sys.stderr)
        if not options.or_keep:
            return 1
        if pair.usable():
            print("TLS: what this slot had before serves on", file=sys.stderr)
            return 0
        try:
            pair.install(even_expired=True)
        except (PairError, OSError, KeyError):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
