"""What the roles refuse. That the roles ask is shown where the roles are tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.steadfast.asgi.plugins.module_utils.checks import CHECKS

ROOT = Path(__file__).resolve().parents[4]
# In place of the defaults that are expressions.
FILLED: dict[str, dict[str, Any]] = {
    "asgi_account": {"app": "shop", "user": "shop", "group": "shop", "socket_group": "www-data"},
    "asgi_uv": {},
    "asgi_release": {
        "app": "shop",
        "import_path": "app.main:app",
        "uv": "/opt/uv/0.13.8/bin/uv",
        "build_user": "asgi-build-shop",
        "index_url": "",
        "ca_bundle": "",
        "http_proxy": "",
        "https_proxy": "",
        "no_proxy": "",
    },
    "asgi_service": {
        "app": "shop",
        "import_path": "app.main:app",
        "user": "shop",
        "group": "shop",
        "max_requests_jitter": 0,
        "shared": [],
        "ready_host": "shop.example",
        "sandbox_network": [],
        "tls_certificate": "/etc/asgi-certificates/shop/fullchain.pem",
        "tls_certificate_key": "/etc/asgi-certificates/shop/privkey.pem",
        "max_header_size": 65536,
        "websocket_max_size": 16777216,
        "websocket_ping_interval": 20,
        "websocket_ping_timeout": 20,
    },
    "asgi_rollout": {
        "app": "shop",
        "release": "",
        "ready_path": "/ready",
        "ready_host": "shop.example",
        "ready_status": [200],
        "boot_timeout": 60,
    },
}

# What granian knows no limits for.
GRANIAN = {"server": "granian"} | dict.fromkeys(
    ["max_header_size", "websocket_max_size", "websocket_ping_interval", "websocket_ping_timeout"], 0
)

NATIVE = {"worker_class": "asgi", "websocket_ping_interval": 0, "websocket_ping_timeout": 0}


def values(role: str, **changed: Any) -> dict[str, Any]:
    """The role's defaults, with some changes, by the variables' full names."""
    defaults = yaml.safe_load((ROOT / f"roles/{role}/defaults/main.yml").read_text(encoding="utf-8"))
    return defaults | {f"{role}_{name}": value for name, value in (FILLED[role] | changed).items()}


def problems(role: str, **changed: Any) -> list[str]:
    return list(CHECKS[role](values(role, **changed)))


@pytest.mark.parametrize("role", CHECKS)
def test_the_defaults_are_good(role: str) -> None:
    assert problems(role) == []


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("asgi_account", {"app": "a" * 30, "uid": 100, "gid": "59999", "groups": ["www-data", "_ssl"]}),
    ("asgi_account", {"user": "www-data", "group": "www-data", "manage_user": False}),
    ("asgi_account", {"user": "www-data", "manage_user": "no"}),
    ("asgi_uv", {"root": "/srv/uv-1", "ca_bundle": "/etc/ssl/ca.pem", "index_url": "https://me:secret@index.example/python"}),
    ("asgi_uv", {"hashes": ["sha256:" + 64 * "0", "sha512:" + 128 * "f"], "no_proxy": "localhost,.example.org,10.0.0.0/8,[::1]"}),
    ("asgi_release", {"python": "3.13"}),
    (
        "asgi_release",
        {"python": "/usr/bin/python3.11", "build_user": "builder", "extras": ["fast"], "package": "shop", "subdirectory": "a/b"},
    ),
    ("asgi_release", {"build_timeout": "60", "build_memory_max": "2G", "build_allow": ["loopback"]}),
    ("asgi_release", {"build_memory_max": "infinity", "build_user": ""}),
    ("asgi_release", {"indexes": [{"url": "https://index.example/python"}], "python_mirror": "file:///srv/python", "keep": "1"}),
    ("asgi_service", {"workers": 4, "memory_max": "50%", "cpu_quota": "150%", "root_path": "/shop/v1", "timeout": "60"}),
    ("asgi_service", {"virtualenv": "/srv/shop/.venv", "directory": "/srv/shop", "ready_status": ["200", 204]}),
    (
        "asgi_service",
        {"server": "hypercorn", "event_loop": "trio", "statsd": "127.0.0.1:8125", "max_requests": 1000, "websocket_ping_timeout": 0},
    ),
    ("asgi_service", {"server": "uvicorn", "options": {"ws": "auto", "h11": ["a", "b"]}, "limit_concurrency": 100}),
    ("asgi_service", {"options": {"proc_title": "a b", "reuse_port": True}, "directives": {"Nice": 5, "LimitNPROC": ["1", "2"]}}),
    ("asgi_service", {"sandbox_network": ["10.0.0.0/8", "localhost", "::1"], "sandbox_system_calls": ["@chown", "mbind"]}),
    ("asgi_service", {"environment": {"A": "x", "_B1": 1, "C": False, "D": 0.5}, "credentials": {"token": "secret", "pin": 1}}),
    ("asgi_service", GRANIAN | {"limit_concurrency": 5}),
    ("asgi_service", {"forwarded_allow_ips": ["*", "192.0.2.7", "10.0.0.0/8", "2001:db8::/32", "::1"], "server_header": True}),
    ("asgi_service", {"tls_listen": [443, "192.0.2.7:8443", "[2001:db8::7]:443"], "tls_client_ca": "/srv/ca.pem"}),
    ("asgi_service", {"shared": ["media", "media/public"], "sandbox_writable_paths": ["/srv/data"]}),
    ("asgi_rollout", {"release": "/opt/shop/releases/1.0-0a1b", "ready_path": "/ready?deep=1", "ready_host": "::1"}),
    ("asgi_rollout", {"migrate": ["alembic upgrade head", ["python", "manage.py", "migrate"]], "after_activate": ["true"]}),
]


@pytest.mark.parametrize(("role", "changed"), GOOD)
def test_good_values_are_not_refused(role: str, changed: dict[str, Any]) -> None:
    assert problems(role, **changed) == []


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("asgi_account", {"app": ""}, 'asgi_account_app (asgi_app) is "": it must be 1 to 30'),
    ("asgi_account", {"app": "shop\n"}, "1 to 30 lower-case letters"),
    ("asgi_account", {"app": "a" * 31}, "1 to 30 lower-case letters"),
    ("asgi_account", {"app": "getty"}, "such as 'shop' or 'getty-app'"),
    ("asgi_account", {"app": "asgi-build-shop"}, "a name that the system or a well-known service uses"),
    ("asgi_account", {"app": "systemd-shop"}, "that the system or a well-known service uses"),
    ("asgi_account", {"user": "my user"}, 'asgi_account_user is "my user"'),
    ("asgi_account", {"group": "shop\n"}, 'asgi_account_group "shop\\n"'),
    ("asgi_account", {"groups": ["users,sudo"]}, 'asgi_account_groups ["users,sudo"]'),
    ("asgi_account", {"user": "root", "manage_user": False}, "one of them belongs to the system"),
    ("asgi_account", {"group": "www-data"}, "one of them belongs to the system"),
    ("asgi_account", {"socket_group": "www data"}, 'asgi_account_socket_group (asgi_service_socket_group) is "www data"'),
    ("asgi_account", {"uid": 99}, 'asgi_account_uid is 99 and asgi_account_gid "unset"'),
    ("asgi_account", {"gid": "60000"}, 'asgi_account_gid "60000": each must be a number from 100 to 59999'),
    ("asgi_uv", {"version": 0.13}, "asgi_uv_version is 0.13: it must be one version in full"),
    ("asgi_uv", {"version": "0.13.8\n"}, "three numbers in quotes"),
    ("asgi_uv", {"root": "/opt/../etc"}, "without '..'"),
    ("asgi_uv", {"root": "/opt/uv/"}, "without a slash at the end"),
    ("asgi_uv", {"ca_bundle": "ca.pem"}, 'asgi_uv_ca_bundle "ca.pem"'),
    ("asgi_uv", {"index_url": "file:///srv"}, "asgi_uv_index_url is not an address"),
    ("asgi_uv", {"http_proxy": "http://proxy:3128\n"}, "asgi_uv_http_proxy is not an address"),
    ("asgi_uv", {"https_proxy": "me:hunter2@proxy"}, "asgi_uv_https_proxy is not an address"),
    ("asgi_uv", {"no_proxy": "a, b"}, "separated by commas without spaces"),
    ("asgi_uv", {"hashes": ["sha256:abc"]}, "as in the output of pip hash"),
    ("asgi_release", {"app": "a/b"}, 'asgi_release_app (asgi_app) is "a/b". It names directories'),
    ("asgi_release", {"import_path": "plain:app\n"}, "Write it as module:object"),
    ("asgi_release", {"python_root": "python"}, 'asgi_release_python_root is "python". Give an absolute path'),
    ("asgi_release", {"uv": "/opt/../uv"}, "asgi_release_uv is"),
    ("asgi_release", {"cache": "/opt/a b"}, "asgi_release_cache is"),
    ("asgi_release", {"python": "/usr/bin/../python3"}, "asgi_release_python is"),
    ("asgi_release", {"python": "latest"}, "or a version in quotes"),
    ("asgi_release", {"build_user": "root"}, "neither root nor the application's"),
    ("asgi_release", {"build_user": "shop"}, "neither root nor the application's"),
    ("asgi_release", {"build_user": "a b"}, "neither root nor the application's"),
    ("asgi_release", {"build_timeout": 9}, "asgi_release_build_timeout is 9"),
    ("asgi_release", {"build_timeout": 100000}, "10 to 86400 seconds"),
    ("asgi_release", {"build_memory_max": "lots"}, 'asgi_release_build_memory_max "lots"'),
    ("asgi_release", {"build_memory_max": "1G\nUser=root"}, "an amount of memory"),
    ("asgi_release", {"build_memory_max": "0%"}, "an amount of memory"),
    ("asgi_release", {"groups": ["--all"]}, 'asgi_release_groups ["--all"]'),
    ("asgi_release", {"extras": ["a b"]}, "Use names of packages and groups"),
    ("asgi_release", {"package": "-p"}, 'asgi_release_package "-p"'),
    ("asgi_release", {"subdirectory": "../other"}, "without '..'"),
    ("asgi_release", {"min_free": -1}, "asgi_release_min_free is -1 and asgi_release_keep 5"),
    ("asgi_release", {"keep": 0}, "at least 1 release"),
    ("asgi_release", {"index_url": "https://me:hunter2@index.example/ --pre"}, "asgi_release_index_url is not an address"),
    ("asgi_release", {"python_downloads": "list.json"}, "asgi_release_python_downloads is not an address"),
    ("asgi_release", {"indexes": [{"url": ""}]}, "asgi_release_indexes has an address"),
    ("asgi_release", {"indexes": [{"url": "https://me:hunter2@index.example/"}]}, "go into username and password"),
    ("asgi_service", {"app": "a%n"}, "It names directories and systemd units"),
    ("asgi_service", {"app": "shop\n"}, "It names directories and systemd units"),
    ("asgi_service", {"import_path": "app.main"}, "Write it as module:object"),
    ("asgi_service", {"user": "root"}, "asgi_service_user is root"),
    ("asgi_service", {"user": "--help"}, 'asgi_service_user is "--help", which is no name'),
    ("asgi_service", {"group": "a b"}, "asgi_service_group is"),
    ("asgi_service", {"socket_group": "www data"}, "asgi_service_socket_group is"),
    ("asgi_service", {"virtualenv": "/srv/.venv"}, "Set asgi_service_virtualenv and asgi_service_directory together"),
    ("asgi_service", {"virtualenv": ".venv", "directory": "/srv"}, 'asgi_service_virtualenv is ".venv"'),
    ("asgi_service", {"virtualenv": "/a", "directory": "/srv/../etc"}, "asgi_service_directory is"),
    ("asgi_service", {"virtualenv": "/a", "directory": "/srv/%h"}, "asgi_service_directory is"),
    ("asgi_service", {"ready_path": "ready"}, "asgi_service_ready_path is"),
    ("asgi_service", {"sandbox_writable_paths": ["/a", "data"]}, 'asgi_service_sandbox_writable_paths has "data"'),
    ("asgi_service", {"sandbox_writable_paths": ["/srv\nUser=root"]}, "asgi_service_sandbox_writable_paths has"),
    ("asgi_service", {"ready_host": "https://shop.example"}, "asgi_domain (asgi_service_ready_host) is"),
    ("asgi_service", {"ready_status": [20]}, "asgi_service_ready_status is [20]"),
    ("asgi_service", {"ready_status": []}, "asgi_service_ready_status is []"),
    ("asgi_service", {"ready_status": [600]}, "asgi_service_ready_status is [600]"),
    ("asgi_service", {"timeout": 0}, "asgi_service_timeout is 0, but must be at least 1."),
    ("asgi_service", {"max_requests_jitter": -1}, "asgi_service_max_requests_jitter is -1"),
    ("asgi_service", {"open_files": 63}, "at least 64"),
    ("asgi_service", {"workers": "many"}, "Write io, cpu, or a number of at least 1."),
    ("asgi_service", {"workers": "2\n"}, "asgi_service_workers is"),
    ("asgi_service", {"worker_memory": "50%"}, "asgi_service_worker_memory is"),
    ("asgi_service", {"memory_max": "1G\nUser=root"}, "asgi_service_memory_max is"),
    ("asgi_service", {"total_memory_max": "1 G"}, "asgi_service_total_memory_max is"),
    ("asgi_service", {"cpu_quota": "2"}, "asgi_service_cpu_quota is"),
    ("asgi_service", {"root_path": "/shop/"}, "asgi_service_root_path is"),
    ("asgi_service", {"statsd": "localhost"}, "asgi_service_statsd is"),
    ("asgi_service", {"statsd": "localhost:8125", "server": "uvicorn"}, "asgi_service_statsd is set, which uvicorn"),
    ("asgi_service", {"event_loop": "trio"}, "asgi_service_event_loop is"),
    ("asgi_service", {"limit_concurrency": 5, "server": "hypercorn", "websocket_ping_timeout": 0}, "but gunicorn, uvicorn, granian"),
    ("asgi_service", NATIVE | {"limit_concurrency": 5}, "which gunicorn (asgi_service_server) has not, but uvicorn"),
    ("asgi_service", GRANIAN | {"max_requests": 5}, "asgi_service_max_requests is set"),
    ("asgi_service", {"forwarded_allow_ips": ["*", "proxy.example.org"]}, 'asgi_service_forwarded_allow_ips has "proxy.example.org"'),
    ("asgi_service", {"forwarded_allow_ips": ["10.0.0.300"]}, 'asgi_service_forwarded_allow_ips has "10.0.0.300"'),
    ("asgi_service", {"forwarded_allow_ips": ['*"\nUser=root']}, "asgi_service_forwarded_allow_ips has"),
    ("asgi_service", {"max_header_size": 10}, "asgi_service_max_header_size is 10, but must be at least 1024."),
    ("asgi_service", GRANIAN | {"max_header_size": 65536}, "asgi_service_max_header_size is set, which granian"),
    ("asgi_service", {"websocket_max_size": 0}, "asgi_service_websocket_max_size is 0, but must be at least 1."),
    ("asgi_service", GRANIAN | {"websocket_max_size": 1024}, "asgi_service_websocket_max_size is set, which granian"),
    ("asgi_service", {"websocket_ping_interval": 0}, "asgi_service_websocket_ping_interval is 0"),
    ("asgi_service", NATIVE | {"websocket_ping_interval": 20}, "asgi_service_websocket_ping_interval is set, which gunicorn"),
    ("asgi_service", {"websocket_ping_timeout": 20, "server": "hypercorn"}, "asgi_service_websocket_ping_timeout is set, which hypercorn"),
    ("asgi_service", GRANIAN | {"server_header": True}, "asgi_service_server_header is set, which granian"),
    ("asgi_service", NATIVE | {"date_header": "yes"}, "asgi_service_date_header is set, which gunicorn"),
    ("asgi_service", {"tls_listen": ["443", "65536"]}, 'asgi_service_tls_listen is ["443", "65536"]'),
    ("asgi_service", {"tls_listen": ["0"]}, "give ports from 1 to 65535"),
    ("asgi_service", {"tls_listen": ["shop.example:443"]}, "give ports from 1 to 65535"),
    ("asgi_service", {"tls_listen": ["2001:db8::7:443"]}, "give ports from 1 to 65535"),
    ("asgi_service", {"tls_listen": ["443\nExecStartPre=+/bin/false"]}, "give ports from 1 to 65535"),
    ("asgi_service", {"tls_listen": ["443"], "tls_ciphers": ["ALL:@SECLEVEL=0"]}, 'asgi_service_tls_ciphers is ["ALL:@SECLEVEL=0"]'),
    ("asgi_service", {"tls_listen": ["443"], "tls_ciphers": []}, "asgi_service_tls_ciphers is []"),
    ("asgi_service", {"tls_listen": ["443"], "tls_certificate": ""}, "may not be empty"),
    ("asgi_service", {"tls_certificate_key": "/srv/../x"}, "asgi_service_tls_certificate_key is"),
    ("asgi_service", {"tls_client_ca": "clients.pem"}, 'asgi_service_tls_client_ca is "clients.pem"'),
    ("asgi_service", NATIVE | {"tls_listen": ["443"]}, "gunicorn with asgi_service_worker_class: handover"),
    ("asgi_service", {"tls_listen": ["443"], "server": "uvicorn"}, "which uvicorn (asgi_service_server) has not, but gunicorn"),
    ("asgi_service", {"sandbox_network": ["everywhere"]}, "asgi_service_sandbox_network is"),
    ("asgi_service", {"sandbox_system_calls": ["mbind; x"]}, "asgi_service_sandbox_system_calls takes"),
    ("asgi_service", {"sandbox_address_families": ["inet"]}, "asgi_service_sandbox_address_families such as"),
    ("asgi_service", {"shared": ["../etc"]}, 'asgi_service_shared (asgi_shared) has "../etc"'),
    ("asgi_service", {"shared": ["media/"]}, "below /var/lib/shop"),
    ("asgi_service", {"options": {"bind": "0.0.0.0:80"}}, 'asgi_service_options has ["bind"]'),
    ("asgi_service", {"options": {"a-b": 1}}, "or a value that no option can have"),
    ("asgi_service", {"options": {"proc_title": ["a", "a\nb"]}}, "or a value that no option can have"),
    ("asgi_service", {"options": {"header": "A: b"}, "server": "uvicorn"}, "without spaces for uvicorn"),
    ("asgi_service", {"options": "bind"}, "Give a mapping of the server's own names"),
    ("asgi_service", {"directives": {"nice": 1}}, "asgi_service_directives is"),
    ("asgi_service", {"directives": {"Nice": ["1", "1\nUser=root"]}}, "asgi_service_directives is"),
    ("asgi_service", {"directives": ["Nice=1"]}, "asgi_service_directives is"),
    ("asgi_service", {"directives": {"Environment": "LD_PRELOAD=/var/lib/shop/x.so"}}, "asgi_service_directives has Environment, which"),
    ("asgi_service", {"directives": {"EnvironmentFile": ["/var/lib/shop/env"]}}, "asgi_service_directives has EnvironmentFile, which"),
    ("asgi_service", {"directives": {"PassEnvironment": "A"}}, "asgi_service_directives has PassEnvironment, which"),
    ("asgi_service", {"environment": {"A": "x\0y"}}, "asgi_service_environment has values with a NUL character, for"),
    ("asgi_service", {"environment": "A=hunter2"}, "asgi_service_environment is not a mapping"),
    ("asgi_service", {"environment": {"A-B": "hunter2"}}, 'has the names ["A-B"]'),
    ("asgi_service", {"environment": {"A": ["hunter2"], "B": "x"}}, 'for ["A"]'),
    ("asgi_service", {"credentials": ["hunter2"]}, "the names are []"),
    ("asgi_service", {"credentials": {"../token": "hunter2"}}, 'the names are ["../token"]'),
    ("asgi_service", {"credentials": {"token": {"a": "hunter2"}}}, "write each value as one text"),
    ("asgi_rollout", {"app": ""}, 'asgi_rollout_app (asgi_app) is "". It names directories and systemd units'),
    ("asgi_rollout", {"release": "/opt/other/releases/1.0"}, "Give the path of a release below /opt/shop/releases"),
    ("asgi_rollout", {"release": "/opt/shop/releases/.."}, "Give the path of a release"),
    ("asgi_rollout", {"ready_path": "/ready\r\nX: y"}, "asgi_rollout_ready_path is"),
    ("asgi_rollout", {"ready_host": "a b"}, 'asgi_rollout_ready_host "a b"'),
    ("asgi_rollout", {"ready_status": []}, "asgi_rollout_ready_status []"),
    (
        "asgi_rollout",
        {"migrate": "alembic upgrade head"},
        'asgi_rollout_migrate is "alembic upgrade head". Write it as a list, also if it is one command: '
        'asgi_rollout_migrate: ["alembic upgrade head"]',
    ),
    ("asgi_rollout", {"migrate": [""]}, 'asgi_rollout_migrate has "". Each command is a text'),
    ("asgi_rollout", {"before_activate": [{"cmd": "true"}]}, 'asgi_rollout_before_activate has {"cmd": "true"}.'),
    ("asgi_rollout", {"after_activate": [5]}, "asgi_rollout_after_activate has 5."),
    ("asgi_rollout", {"bake_time": -1}, "asgi_rollout_bake_time is -1, but must be at least 0."),
    ("asgi_rollout", {"command_timeout": "0"}, "asgi_rollout_command_timeout is 0, but must be at least 1."),
]


@pytest.mark.parametrize(("role", "changed", "expected"), BAD)
def test_bad_values_are_refused(role: str, changed: dict[str, Any], expected: str) -> None:
    [said] = problems(role, **changed)
    assert expected in said
    assert "hunter2" not in said


def test_everything_wrong_is_said_at_once() -> None:
    assert len(problems("asgi_uv", version="1", root="uv", no_proxy="a b")) == 3
