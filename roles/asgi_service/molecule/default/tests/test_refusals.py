"""Bad input is refused before anything is changed, by a message that names the variable."""

from __future__ import annotations

from typing import Any

import pytest

GOOD = {"asgi_service_app": "refused", "asgi_service_import_path": "plain:app", "asgi_service_user": "keeper"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name_slash": ({"asgi_service_app": "a/b"}, "asgi_service_app"),
    "name_newline": ({"asgi_service_app": "a\nUser=root"}, "asgi_service_app"),
    "name_empty": ({"asgi_service_app": ""}, "asgi_service_app"),
    "name_percent": ({"asgi_service_app": "a%n"}, "asgi_service_app"),
    "import_no_object": ({"asgi_service_import_path": "app.main"}, "asgi_service_import_path"),
    "import_shell": ({"asgi_service_import_path": "app:app; reboot"}, "asgi_service_import_path"),
    "import_newline": ({"asgi_service_import_path": "app:app\nExecStartPre=+/bin/false"}, "asgi_service_import_path"),
    "user_root": ({"asgi_service_user": "root"}, "asgi_service_user is root"),
    "user_option": ({"asgi_service_user": "--help"}, "asgi_service_user"),
    "group_space": ({"asgi_service_group": "a b"}, "asgi_service_group"),
    "socket_group": ({"asgi_service_socket_group": "www data"}, "asgi_service_socket_group"),
    "credentials_list": ({"asgi_service_credentials": ["token"]}, "asgi_service_credentials"),
    "credentials_path": ({"asgi_service_credentials": {"../token": "x"}}, "asgi_service_credentials"),
    "credentials_compound": ({"asgi_service_credentials": {"token": {"a": 1}}}, "asgi_service_credentials"),
    "workers_text": ({"asgi_service_workers": "many"}, "asgi_service_workers"),
    "workers_none": ({"asgi_service_workers": 0}, "asgi_service_workers"),
    "workers_newline": ({"asgi_service_workers": "2\n"}, "asgi_service_workers"),
    "worker_memory": ({"asgi_service_worker_memory": "50%"}, "asgi_service_worker_memory"),
    "server": ({"asgi_service_server": "waitress"}, "asgi_service_server"),
    "worker_class": ({"asgi_service_worker_class": "sync"}, "asgi_service_worker_class"),
    "event_loop": ({"asgi_service_event_loop": "trio"}, "asgi_service_event_loop"),
    "log_format": ({"asgi_service_log_format": "xml"}, "asgi_service_log_format"),
    "jitter": ({"asgi_service_max_requests_jitter": -1}, "asgi_service_max_requests_jitter"),
    "limit_concurrency": ({"asgi_service_limit_concurrency": -1}, "asgi_service_limit_concurrency"),
    "limit_concurrency_hypercorn": (
        {"asgi_service_limit_concurrency": 5, "asgi_service_server": "hypercorn"},
        "asgi_service_limit_concurrency is set, which hypercorn",
    ),
    "limit_concurrency_native": (
        {"asgi_service_limit_concurrency": 5, "asgi_service_worker_class": "asgi"},
        "asgi_service_limit_concurrency is set, which gunicorn",
    ),
    "max_requests_granian": ({"asgi_service_max_requests": 5, "asgi_service_server": "granian"}, "asgi_service_max_requests is set"),
    "forwarded_name": ({"asgi_service_forwarded_allow_ips": ["proxy.example.org"]}, "asgi_service_forwarded_allow_ips"),
    "forwarded_number": ({"asgi_service_forwarded_allow_ips": ["10.0.0.300"]}, "asgi_service_forwarded_allow_ips"),
    "forwarded_quote": ({"asgi_service_forwarded_allow_ips": ['*"\nUser=root']}, "asgi_service_forwarded_allow_ips"),
    "header_size": ({"asgi_service_max_header_size": 10}, "asgi_service_max_header_size"),
    "header_size_granian": (
        {"asgi_service_max_header_size": 65536, "asgi_service_server": "granian"},
        "asgi_service_max_header_size is set, which granian",
    ),
    "websocket_max_size": ({"asgi_service_websocket_max_size": 0}, "asgi_service_websocket_max_size"),
    "websocket_max_size_granian": (
        {"asgi_service_websocket_max_size": 1024, "asgi_service_server": "granian"},
        "asgi_service_websocket_max_size is set, which granian",
    ),
    "websocket_ping_interval": ({"asgi_service_websocket_ping_interval": 0}, "asgi_service_websocket_ping_interval"),
    "websocket_ping_interval_native": (
        {"asgi_service_websocket_ping_interval": 20, "asgi_service_worker_class": "asgi"},
        "asgi_service_websocket_ping_interval is set, which gunicorn",
    ),
    "websocket_ping_timeout_hypercorn": (
        {"asgi_service_websocket_ping_timeout": 20, "asgi_service_server": "hypercorn"},
        "asgi_service_websocket_ping_timeout is set, which hypercorn",
    ),
    "server_header_granian": (
        {"asgi_service_server_header": True, "asgi_service_server": "granian"},
        "asgi_service_server_header is set, which granian",
    ),
    "date_header_native": (
        {"asgi_service_date_header": True, "asgi_service_worker_class": "asgi"},
        "asgi_service_date_header is set, which gunicorn",
    ),
    "tls_port": ({"asgi_service_tls_listen": ["443", "65536"]}, "asgi_service_tls_listen"),
    "tls_zero": ({"asgi_service_tls_listen": ["0"]}, "asgi_service_tls_listen"),
    "tls_name": ({"asgi_service_tls_listen": ["shop.example:443"]}, "asgi_service_tls_listen"),
    "tls_bare_ipv6": ({"asgi_service_tls_listen": ["2001:db8::7:443"]}, "asgi_service_tls_listen"),
    "tls_newline": ({"asgi_service_tls_listen": ["443\nExecStartPre=+/bin/false"]}, "asgi_service_tls_listen"),
    "tls_ciphers": ({"asgi_service_tls_listen": ["443"], "asgi_service_tls_ciphers": ["ALL:@SECLEVEL=0"]}, "asgi_service_tls_ciphers"),
    "tls_certificate": ({"asgi_service_tls_listen": ["443"], "asgi_service_tls_certificate": ""}, "asgi_service_tls_certificate"),
    "tls_key": ({"asgi_service_tls_certificate_key": "/srv/../x"}, "asgi_service_tls_certificate_key"),
    "tls_client_ca": ({"asgi_service_tls_client_ca": "clients.pem"}, "asgi_service_tls_client_ca"),
    "tls_client_verify": ({"asgi_service_tls_client_verify": "maybe"}, "asgi_service_tls_client_verify"),
    "tls_uvicorn": (
        {"asgi_service_tls_listen": ["443"], "asgi_service_server": "uvicorn"},
        "asgi_service_tls_listen is set, which uvicorn (asgi_service_server) has not, but gunicorn",
    ),
    "tls_hypercorn": ({"asgi_service_tls_listen": ["443"], "asgi_service_server": "hypercorn"}, "asgi_service_tls_listen is set"),
    "tls_native": ({"asgi_service_tls_listen": ["443"], "asgi_service_worker_class": "asgi"}, "asgi_service_worker_class: handover"),
    "root_path": ({"asgi_service_root_path": "shop"}, "asgi_service_root_path"),
    "root_path_newline": ({"asgi_service_root_path": "/shop\n"}, "asgi_service_root_path"),
    "statsd": ({"asgi_service_statsd": "localhost"}, "asgi_service_statsd"),
    "statsd_uvicorn": ({"asgi_service_statsd": "localhost:8125", "asgi_service_server": "uvicorn"}, "asgi_service_statsd is set"),
    "restart_delay": ({"asgi_service_restart_delay": 0}, "asgi_service_restart_delay"),
    "restart_delay_max": ({"asgi_service_restart_delay_max": 0}, "asgi_service_restart_delay_max"),
    "shared_up": ({"asgi_service_shared": ["../etc"]}, "asgi_service_shared"),
    "shared_absolute": ({"asgi_service_shared": ["/srv/media"]}, "asgi_service_shared"),
    "shared_space": ({"asgi_service_shared": ["a b"]}, "asgi_service_shared"),
    "options_own": ({"asgi_service_options": {"bind": "0.0.0.0:80"}}, "bind"),
    "options_name": ({"asgi_service_options": {"a-b": 1}}, "asgi_service_options"),
    "options_newline": ({"asgi_service_options": {"proc_title": "a\nb"}}, "asgi_service_options"),
    "options_command": ({"asgi_service_server": "uvicorn", "asgi_service_options": {"header": "A: b"}}, "asgi_service_options"),
    "log_level": ({"asgi_service_log_level": "loud"}, "asgi_service_log_level"),
    "venv_alone": ({"asgi_service_virtualenv": "/srv/plain/.venv"}, "asgi_service_directory"),
    "venv_relative": ({"asgi_service_virtualenv": ".venv", "asgi_service_directory": "/srv"}, "asgi_service_virtualenv"),
    "directory_up": ({"asgi_service_virtualenv": "/a", "asgi_service_directory": "/srv/../etc"}, "asgi_service_directory"),
    "directory_specifier": ({"asgi_service_virtualenv": "/a", "asgi_service_directory": "/srv/%h"}, "asgi_service_directory"),
    "sandbox": ({"asgi_service_sandbox": "off"}, "asgi_service_sandbox"),
    "total_memory": ({"asgi_service_total_memory_max": "1 G"}, "asgi_service_total_memory_max"),
    "cpu_quota": ({"asgi_service_cpu_quota": "2"}, "asgi_service_cpu_quota"),
    "network": ({"asgi_service_sandbox_network": ["everywhere"]}, "asgi_service_sandbox_network"),
    "directive_name": ({"asgi_service_directives": {"nice": 1}}, "asgi_service_directives"),
    "directive_newline": ({"asgi_service_directives": {"Nice": "1\nUser=root"}}, "asgi_service_directives"),
    "ready_status": ({"asgi_service_ready_status": [20]}, "asgi_service_ready_status"),
    "ready_status_none": ({"asgi_service_ready_status": []}, "asgi_service_ready_status"),
    "memory": ({"asgi_service_memory_max": "lots"}, "asgi_service_memory_max"),
    "memory_newline": ({"asgi_service_memory_max": "1G\nUser=root"}, "asgi_service_memory_max"),
    "writable_relative": ({"asgi_service_sandbox_writable_paths": ["data"]}, "asgi_service_sandbox_writable_paths"),
    "writable_space": ({"asgi_service_sandbox_writable_paths": ["/a /"]}, "asgi_service_sandbox_writable_paths"),
    "system_calls": ({"asgi_service_sandbox_system_calls": ["mbind; x"]}, "asgi_service_sandbox_system_calls"),
    "families": ({"asgi_service_sandbox_address_families": ["inet"]}, "asgi_service_sandbox_address_families"),
    "environment_name": ({"asgi_service_environment": {"A-B": "1"}}, "A-B"),
    "environment_list": ({"asgi_service_environment": {"HOSTS": ["a", "b"]}}, "HOSTS"),
    "environment_text": ({"asgi_service_environment": "A=1"}, "asgi_service_environment"),
    "boot_timeout": ({"asgi_service_boot_timeout": -1}, "asgi_service_boot_timeout"),
    "ready_path": ({"asgi_service_ready_path": "ready"}, "asgi_service_ready_path"),
}


@pytest.fixture(scope="module")
def refusals(refusals_of: Any) -> dict[str, dict[str, str]]:
    # The values alone are judged, on the controller: one host is enough.
    return refusals_of("asgi_service", {name: GOOD | variables for name, (variables, _) in BAD.items()}, "all[0]")


@pytest.mark.parametrize("case", BAD)
def test_refused_by_name(refusals: dict[str, dict[str, str]], case: str) -> None:
    for host, said in refusals.items():
        assert BAD[case][1] in said.get(case, "(not refused)"), f"{host}: {said.get(case)}"
