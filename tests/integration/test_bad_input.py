"""Wrong or dangerous values end site.yml with the variable's name and the remedy, before anything on the host has changed.

What each role refuses is tested with the role, value by value. This table is about the whole: that site.yml asks every role
first, and that its message leads to the variable which the user has set.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).resolve().parents[2]
HOST = f"bad-input-{os.environ['STEADFAST_CHECKOUT']}"

# All of them good: each row of the table spoils one.
GOOD = {
    "asgi_app": "shop",
    "asgi_source": str(ROOT / "tests/apps/plain"),
    "asgi_import_path": "plain:app",
    "asgi_domain": "shop.example",
    "ansible_host": HOST,
    "ansible_connection": "community.docker.docker",
    "ansible_python_interpreter": "/usr/bin/python3",
}


def provided(chain: str, key: str) -> dict[str, str]:
    return {
        "asgi_certificate_provider": "provided",
        "asgi_certificate_chain_file": f"{{{{ folder }}}}/{chain}",
        "asgi_certificate_key_file": f"{{{{ folder }}}}/{key}",
    }


# Row: the variables, and what the message has to contain: the variable's name, and the remedy.
TABLE: dict[str, tuple[dict[str, Any], list[str]]] = {
    "name missing": ({"asgi_app": ""}, ["asgi_app", "lower-case letters"]),
    "name with a slash": ({"asgi_app": "../etc"}, ["asgi_app", "lower-case letters"]),
    "name with a newline": ({"asgi_app": "shop\n"}, ["asgi_app", "lower-case letters"]),
    "name in upper case": ({"asgi_app": "Shop"}, ["asgi_app", "lower-case letters"]),
    "name too long": ({"asgi_app": "s" * 31}, ["asgi_app", "1 to 30"]),
    "name of another service": ({"asgi_app": "nginx"}, ["asgi_app", "Choose one"]),
    "uv's version with a space": ({"asgi_uv_version": "0.13.8 --pre"}, ["asgi_uv_version", "three numbers"]),
    "uv's version as a number": ({"asgi_uv_version": 0.13}, ["asgi_uv_version", "in quotes"]),
    "uv's index with a quote": ({"asgi_uv_index_url": 'https://index.example/"'}, ["asgi_uv_index_url", "without spaces, quotes"]),
    "uv's directory with a dot dot": ({"asgi_uv_root": "/opt/../etc"}, ["asgi_uv_root", "absolute path"]),
    "uv's authorities with a space": ({"asgi_uv_ca_bundle": "/etc/ssl/my ca.pem"}, ["asgi_uv_ca_bundle", "absolute path"]),
    "uv's proxy without a scheme": ({"asgi_uv_https_proxy": "me:hunter2@proxy:3128"}, ["asgi_uv_https_proxy", "http://"]),
    "uv's exceptions with a space": ({"asgi_uv_no_proxy": "a.example, b.example"}, ["asgi_uv_no_proxy", "without spaces"]),
    "uv's hash without a kind": ({"asgi_uv_hashes": ["0" * 64]}, ["asgi_uv_hashes", "sha256:"]),
    "source missing": ({"asgi_source": ""}, ["asgi_source", "directory on the controller"]),
    "source not there": ({"asgi_source": "{{ folder }}/nowhere"}, ["asgi_source", "directory on the controller"]),
    "source without a project": ({"asgi_source": "{{ folder }}/no-project"}, ["asgi_source", "pyproject.toml"]),
    "source without a lock file": ({"asgi_source": "{{ folder }}/no-lock"}, ["asgi_source", "uv lock --project"]),
    "import path without an object": ({"asgi_import_path": "plain"}, ["asgi_import_path", "module:object"]),
    "import path with an argument": ({"asgi_import_path": "plain:app --reload"}, ["asgi_import_path", "module:object"]),
    "import path with a newline": ({"asgi_import_path": "plain:app\n"}, ["asgi_import_path", "module:object"]),
    "import path to no module": ({"asgi_import_path": "nowhere:app"}, ["asgi_import_path", "module:object"]),
    "import path to no object": ({"asgi_import_path": "plain:nowhere"}, ["asgi_import_path", "module:object"]),
    "a command for a shell": ({"asgi_release_after_build": ["a && b"]}, ["asgi_release_after_build", "Make it several commands"]),
    "a build's secret without a name": (
        {"asgi_release_build_environment": {"A-B": "hunter2"}},
        ["asgi_release_build_environment", "Use letters, digits"],
    ),
    "static files outside": ({"asgi_release_static": ["/etc"]}, ["asgi_release_static", "without '..'"]),
    "shared path outside": ({"asgi_shared": ["media/../../etc"]}, ["asgi_shared", "without '..'"]),
    "shared path in the source": ({"asgi_shared": ["plain.py"]}, ["asgi_shared", "Move it"]),
    "offline as text": ({"asgi_release_offline": "often"}, ["asgi_release_offline", "bool"]),
    "wheelhouse not there": ({"asgi_release_wheelhouse": "{{ folder }}/nowhere"}, ["asgi_release_wheelhouse", "asgi_release_offline"]),
    "list of interpreters that is a path": (
        {"asgi_release_python_downloads": "downloads.json"},
        ["asgi_release_python_downloads", "http://"],
    ),
    "interpreter with a command": ({"asgi_release_python": "/usr/bin/python3; reboot"}, ["asgi_release_python", "absolute path"]),
    "interpreter without a number": ({"asgi_release_python": "latest"}, ["asgi_release_python", "in quotes"]),
    "interpreters in a relative place": ({"asgi_release_python_root": "python"}, ["asgi_release_python_root", "absolute path"]),
    "uv in a relative place": ({"asgi_release_uv": "bin/uv"}, ["asgi_release_uv", "absolute path"]),
    "cache outside": ({"asgi_release_cache": "/opt/uv/../.."}, ["asgi_release_cache", "without '..'"]),
    "root builds": ({"asgi_release_build_user": "root"}, ["asgi_release_build_user", "neither root nor"]),
    "the application builds": ({"asgi_release_build_user": "shop"}, ["asgi_release_build_user", "neither root nor"]),
    "subdirectory outside": ({"asgi_release_subdirectory": "../other"}, ["asgi_release_subdirectory", "without '..'"]),
    "subdirectory not there": ({"asgi_release_subdirectory": "backend"}, ["asgi_release_subdirectory", "no such directory"]),
    "group that is an option": ({"asgi_release_groups": ["--all-groups"]}, ["asgi_release_groups", "names of packages"]),
    "unknown extra": ({"asgi_release_extras": ["fast"]}, ["asgi_release_extras names fast", "it has none"]),
    "unknown package": ({"asgi_release_package": "shpo"}, ["asgi_release_package is shpo", "it has"]),
    "no release kept": ({"asgi_release_keep": 0}, ["asgi_release_keep", "at least 1"]),
    "less than no space": ({"asgi_release_min_free": -1}, ["asgi_release_min_free", "at least 0"]),
    "index with an option": ({"asgi_release_index_url": "https://index.example/ --pre"}, ["asgi_release_index_url", "without spaces"]),
    "index with a password": (
        {"asgi_release_indexes": [{"url": "https://me:hunter2@index.example/"}]},
        ["asgi_release_indexes", "username and password"],
    ),
    "requirement that floats": ({"asgi_source": "datasette>=0.65"}, ["asgi_source", "datasette==0.65.5"]),
    "address with a password": ({"asgi_source": "git+https://me:hunter2@example.org/x.git"}, ["asgi_source", "asgi_release_git_key"]),
    "address without a checksum": ({"asgi_source": "https://example.org/x.tar.gz"}, ["asgi_source", "asgi_release_checksum"]),
    "unknown server": ({"asgi_service_server": "daphne"}, ["asgi_service_server", "gunicorn, uvicorn, hypercorn"]),
    "workers as text": ({"asgi_service_workers": "many"}, ["asgi_service_workers", "io, cpu, or a number"]),
    "no worker, and no memory for one": (
        {"asgi_service_workers": 0, "asgi_service_worker_memory": "none"},
        ["asgi_service_workers is 0", "at least 1", 'asgi_service_worker_memory is "none"', "256M"],
    ),
    "unknown kind of log": ({"asgi_service_log_format": "xml"}, ["asgi_service_log_format", "json, text"]),
    "Trio without hypercorn": ({"asgi_service_event_loop": "trio"}, ["asgi_service_event_loop", "auto, asyncio or uvloop"]),
    "a server's option that the role sets": ({"asgi_service_options": {"bind": "0.0.0.0:80"}}, ["asgi_service_options", "bind"]),
    "figures to nowhere": ({"asgi_service_statsd": "8125"}, ["asgi_service_statsd", "127.0.0.1:8125"]),
    "mounted at a word": ({"asgi_service_root_path": "shop"}, ["asgi_service_root_path", "/shop"]),
    "TLS of a server that has none": (
        {"asgi_service_tls_listen": ["8443"], "asgi_service_server": "granian"},
        ["asgi_service_tls_listen", "which granian (asgi_service_server) has not"],
    ),
    "TLS where nginx has it": ({"asgi_service_tls_listen": ["443"]}, ["asgi_service_tls_listen", "asgi_nginx_state"]),
    "unknown worker class": ({"asgi_service_worker_class": "sync"}, ["asgi_service_worker_class", "handover, asgi"]),
    "no time": (
        {"asgi_service_timeout": 0, "asgi_service_graceful_timeout": -1},
        ["asgi_service_timeout is 0", "asgi_service_graceful_timeout is -1", "at least 1"],
    ),
    "user root": ({"asgi_service_user": "root"}, ["asgi_service_user", "without privileges"]),
    "environment with a bad name": ({"asgi_service_environment": {"MY-VAR": "x"}}, ["asgi_service_environment", "underscores"]),
    "environment as a list": ({"asgi_service_environment": ["A=1"]}, ["asgi_service_environment", "dict"]),
    "environment in an environment": ({"asgi_service_environment": {"A": {"B": 1}}}, ["asgi_service_environment", "text, a number"]),
    "writable path with a newline": (
        {"asgi_service_sandbox_writable_paths": ["/srv\nUser=root"]},
        ["asgi_service_sandbox_writable_paths", "absolute paths"],
    ),
    "memory without a unit": ({"asgi_service_memory_max": "lots"}, ["asgi_service_memory_max", "512M"]),
    "ready path that is none": ({"asgi_service_ready_path": "ready"}, ["asgi_service_ready_path", "absolute path"]),
    "negative drain": ({"asgi_rollout_drain_timeout": -1}, ["asgi_rollout_drain_timeout", "at least 0"]),
    "domain empty": ({"asgi_domain": ""}, ["asgi_domain", "host name"]),
    "domain with a semicolon": ({"asgi_domain": "a.example; return 200"}, ["asgi_domain", "host name"]),
    "domain with a space": ({"asgi_domain": "a.example b.example"}, ["asgi_domain", "host name"]),
    "domain with a scheme": ({"asgi_domain": "https://a.example"}, ["asgi_domain", "host name"]),
    "terms not agreed to": ({"asgi_certificate_provider": "acme"}, ["asgi_certificate_acme_agree_tos", "set it to true if you agree"]),
    "unknown provider": ({"asgi_certificate_provider": "notary"}, ["asgi_certificate_provider", "self_signed"]),
    "certificate not there": (provided("nowhere.pem", "key.pem"), ["asgi_certificate_chain_file", "Correct the path"]),
    "key not there": (provided("chain.pem", "nowhere.pem"), ["asgi_certificate_key_file", "Correct the path"]),
    "certificate with another key": (provided("chain.pem", "other-key.pem"), ["asgi_certificate_key_file", "Provide the key"]),
    "certificate for another name": (
        provided("chain.pem", "key.pem") | {"asgi_domain": "other.example"},
        ["asgi_domain", "Provide one for all the names"],
    ),
    "certificate that is over": (provided("expired.pem", "key.pem"), ["asgi_certificate_chain_file", "Provide a chain"]),
    "port as text": ({"asgi_nginx_https_port": "https"}, ["asgi_nginx_https_port", "int"]),
    # That role says everything at once, so this is one row.
    "what nginx would obey": (
        {
            "asgi_nginx_http_port": 65536,
            "asgi_nginx_upstream": "127.0.0.1:80; deny all",
            "asgi_nginx_static": [{"url": "/static/", "path": "../../.."}, {"url": "/a{/", "path": "static"}],
            "asgi_nginx_frame_options": 'DENY"; deny all; #',
            "asgi_nginx_trusted_proxies": ["0.0.0.0/0"],
            "asgi_nginx_read_timeout": 0,
        },
        [
            'asgi_nginx_http_port is "65536". Use a number from 1 to 65535.',
            'asgi_nginx_upstream is "127.0.0.1:80; deny all". Write unix:/path/of/a.sock',
            'A url in asgi_nginx_static is "/a{/". Write /a/folder/',
            'A path or a fallback in asgi_nginx_static is "../../..". Write an absolute path',
            'asgi_nginx_frame_options is "DENY\\"; deny all; #". Give one line without double quotes',
            'asgi_nginx_trusted_proxies is "0.0.0.0/0". Use addresses or networks',
            'asgi_nginx_read_timeout and asgi_nginx_send_timeout is "0". Give a number of seconds',
        ],
    ),
}


def alias(row: str) -> str:
    """The row's name in the inventory: all of them are the same host."""
    return "".join(letter if letter.isalnum() else "-" for letter in row)


def write_certificate(path: Path, key: EllipticCurvePrivateKey, days: int) -> None:
    """A certificate of its own issuer for shop.example, which ends in that many days."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "shop.example")])
    end = datetime.now(UTC) + timedelta(days=days)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - timedelta(days=90))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("shop.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path.write_bytes(certificate.public_bytes(Encoding.PEM))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the table names."""
    folder = tmp_path_factory.mktemp("bad-input")
    (folder / "no-project").mkdir()
    (folder / "no-lock").mkdir()
    (folder / "no-lock/pyproject.toml").write_text('[project]\nname = "shop"\nversion = "1"\n', encoding="utf-8")
    keys = {"key.pem": generate_private_key(SECP256R1()), "other-key.pem": generate_private_key(SECP256R1())}
    for name, key in keys.items():
        (folder / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    write_certificate(folder / "chain.pem", keys["key.pem"], days=60)
    write_certificate(folder / "expired.pem", keys["key.pem"], days=-1)
    return folder


@pytest.fixture(scope="module")
def clean_host() -> Iterator[str]:
    subprocess.run([ROOT / "tools/start-host", HOST, "steadfast-asgi-test:debian13"], check=True, timeout=120)
    yield HOST
    subprocess.run(["docker", "rm", "--force", "--volumes", HOST], check=True, capture_output=True, timeout=60)


def changes(host: str) -> set[str]:
    """What differs from the image the host was made of; Ansible's own temporary files are no change."""
    done = subprocess.run(["docker", "diff", host], check=True, capture_output=True, text=True, timeout=60)
    return {line for line in done.stdout.splitlines() if "/root" not in line}


class Refused:
    """What one run of site.yml said to all rows of the table at once."""

    def __init__(self, clean_host: str, folder: Path) -> None:
        inventory = folder / "inventory.json"
        hosts = {alias(row): GOOD | variables for row, (variables, _expected) in TABLE.items()}
        inventory.write_text(json.dumps({"all": {"vars": {"folder": str(folder)}, "hosts": hosts}}), encoding="utf-8")
        before = changes(clean_host)
        done = subprocess.run(
            ["ansible-playbook", "playbooks/site.yml", f"--inventory={inventory}"],
            cwd=ROOT,
            env=os.environ | {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.changes = changes(clean_host) - before
        self.returncode = done.returncode
        answer = json.loads(done.stdout)
        self.stats: dict[str, dict[str, int]] = answer["stats"]
        self.messages: dict[str, str] = {}
        for task in answer["plays"][0]["tasks"]:
            for host, result in task["hosts"].items():
                if result.get("failed"):
                    # A loop has one message for each item.
                    self.messages[host] = "\n".join(str(each.get("msg")) for each in result.get("results", [result]))


@pytest.fixture(scope="module")
def refused(clean_host: str, folder: Path) -> Refused:
    return Refused(clean_host, folder)


@pytest.mark.parametrize("row", TABLE)
def test_the_message_names_the_variable_and_the_remedy(refused: Refused, row: str) -> None:
    message = refused.messages.get(alias(row), "(not refused)")
    for expected in TABLE[row][1]:
        assert expected in message
    assert "hunter2" not in message


@pytest.mark.parametrize("row", TABLE)
def test_the_run_failed_without_a_change(refused: Refused, row: str) -> None:
    stats = refused.stats[alias(row)]
    assert (stats["failures"], stats["unreachable"], stats["changed"]) == (1, 0, 0)


def test_nothing_on_the_host_has_changed(refused: Refused) -> None:
    assert refused.returncode != 0
    assert refused.changes == set()
