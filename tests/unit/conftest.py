"""Makes the collection importable under its full name, as it is for Ansible, and runs its modules in this process."""

from __future__ import annotations

import datetime
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible.plugins.loader import init_plugin_loader
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[2]

# A checkout is reached through the development link, a copy for ansible-test lies where Ansible looks for it.
_INSTALLED = ROOT.parts[-3:] == ("ansible_collections", "steadfast", "asgi")
init_plugin_loader([str(ROOT.parents[2] if _INSTALLED else ROOT / ".ansible/collections")])

RunModule = Callable[..., dict[str, Any]]


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> RunModule:
    """Run a module's main() with the real AnsibleModule around it and return what it printed.

    A module that failed has 'failed' in its result, as in a play.
    """

    def run(main: Callable[[], None], check: bool = False, **arguments: Any) -> dict[str, Any]:
        with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit):
            main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory with a short path: the name of a unix socket has 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="asgi-") as path:
        yield Path(path).resolve()


@pytest.fixture(scope="session")
def issue() -> Callable[[Path], None]:
    """Write a self-signed certificate of localhost's, and its key, into a folder."""

    def run(folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "fullchain.pem").write_bytes(certificate.public_bytes(pem))
        (folder / "privkey.pem").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    return run


@pytest.fixture(scope="session")
def pki() -> ModuleType:
    """What makes the certificates of the role's scenario."""
    spec = importlib.util.spec_from_file_location("asgi_pki", ROOT / "roles/asgi_certificate/molecule/default/pki.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["asgi_pki"] = module
    spec.loader.exec_module(module)
    return module
