"""The files that asgi_service writes, rendered by Ansible as in the role, with its defaults."""

from __future__ import annotations

import asyncio
import configparser
import json
import logging.config
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.steadfast.asgi.plugins.filter.environment_file import environment_file
from ansible_collections.steadfast.asgi.plugins.module_utils.sandbox import CLEAN, helper, sandbox

ROOT = Path(__file__).resolve().parents[2]

Unit = dict[str, dict[str, list[str]]]
Render = Callable[..., str]
Files = Callable[..., list[dict[str, str]]]


@pytest.fixture(scope="module")
def evaluate() -> Callable[..., Any]:
    """Evaluate an expression with the variables of asgi_service itself, `variables` on top."""
    role = ROOT / "roles/asgi_service"
    loader = DataLoader()
    own: dict[str, Any] = {}
    for name in ("defaults/main.yml", "vars/main.yml"):
        own |= loader.load_from_file(str(role / name), trusted_as_template=True)

    def run(expression: str, **variables: Any) -> Any:
        merged = own | {
            "asgi_app": "shop",
            "asgi_import_path": "shop.main:app",
            "ansible_search_path": [str(role)],
            **variables,
        }
        return Templar(loader=loader, variables=merged).template(trust_as_template(expression))

    return run


@pytest.fixture(scope="module")
def render(evaluate: Callable[..., Any]) -> Render:
    """Render a template of asgi_service."""
    done: dict[str, str] = {}

    def run(template: str, **variables: Any) -> str:
        # Most tests compare with what the defaults give.
        key = repr((template, variables))
        if key not in done:
            done[key] = str(evaluate(f"{{{{ lookup('ansible.builtin.template', '{template}') }}}}", **variables))
        return done[key]

    return run


@pytest.fixture(scope="module")
def files(evaluate: Callable[..., Any]) -> Files:
    """Return the files in one of the role's lists of them."""
    return lambda name, **variables: list(evaluate(f"{{{{ {name} }}}}", **variables))


def parse(text: str) -> Unit:
    """Read a unit file: each section's directives with all their values, in order, continued lines joined."""
    unit: Unit = defaultdict(lambda: defaultdict(list))
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            name, separator, value = line.partition("=")
            assert separator, f"no directive: {line!r}"
            unit[section][name].append(" ".join(value.split()))
    return unit


@pytest.fixture
def service(render: Render) -> Callable[..., dict[str, list[str]]]:
    return lambda **variables: parse(render("slot.service.j2", **variables))["Service"]


Service = Callable[..., dict[str, list[str]]]

# How the server is started.
ENTRY = """:/bin/sh -ac '. "$0" && exec "$@"' /etc/shop/%i/env """

CLOSED_CALLS = "~@privileged @resources @keyring io_uring_enter io_uring_register io_uring_setup"

# What the sandbox consists of. `false` has to leave out all of it.
SANDBOX = {
    "ProtectSystem": ["strict"],
    "ProtectHome": ["true"],
    "PrivateTmp": ["true"],
    "PrivateDevices": ["true"],
    "ProtectProc": ["invisible"],
    "ProcSubset": ["pid"],
    "ProtectKernelTunables": ["true"],
    "ProtectKernelModules": ["true"],
    "ProtectControlGroups": ["true"],
    "NoNewPrivileges": ["true"],
    "CapabilityBoundingSet": [""],
    "AmbientCapabilities": [""],
    "RestrictSUIDSGID": ["true"],
    "RestrictNamespaces": ["true"],
    "MemoryDenyWriteExecute": ["true"],
    "SystemCallFilter": ["@system-service", CLOSED_CALLS, "@chown"],
    "TemporaryFileSystem": ["/dev/shm:mode=1777,size=50%"],
    "InaccessiblePaths": ["-/run/lock"],
    "SystemCallArchitectures": ["native"],
    "RestrictAddressFamilies": ["AF_UNIX AF_INET AF_INET6"],
}


def test_gunicorn_runs_the_release_of_its_slot(service: Service) -> None:
    unit = service(asgi_service_workers=4)
    release = "/opt/shop/slots/%i/release"
    command = "python -m gunicorn --config /etc/shop/%i/gunicorn.conf.py shop.main:app"
    assert unit["ExecStart"] == [f"{ENTRY}{release}/.venv/bin/{command}"]
    assert unit["WorkingDirectory"] == [f"{release}/app"]
    assert unit["Type"] == ["notify"]
    assert (unit["User"], unit["Group"]) == (["shop"], ["shop"])


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn", "hypercorn", "granian"])
def test_the_application_s_variables_reach_its_own_process_and_no_command_of_root_s(service: Service, server: str) -> None:
    variables = {"LD_PRELOAD": "/var/lib/shop/x.so", "PYTHONPYCACHEPREFIX": "/var/cache/shop", "MAINPID": "1"}
    tls = TLS if server == "gunicorn" else {}
    unit = service(asgi_service_server=server, asgi_service_environment=variables, **tls)
    assert not {"EnvironmentFile", "PassEnvironment"} & set(unit)
    assert not set(variables) & {assignment.partition("=")[0] for line in unit["Environment"] for assignment in line.split()}
    [start] = unit["ExecStart"]
    assert start.startswith(ENTRY)
    commands = [command for name, values in unit.items() if name.startswith("Exec") and name != "ExecStart" for command in values]
    assert len(commands) >= 4
    for command in commands:
        prefix, words = command[: len(command) - len(command.lstrip("-+!:@"))], shlex.split(command.lstrip("-+!:@"))
        if not set(prefix) & set("+!"):
            assert words[:4] == ["/usr/bin/mkdir", "-p", "-m", "0750"], "the application's user runs it"
        elif words[4] == "/usr/bin/python3":
            assert words[: len(helper("shop", "boot")) - 1] == helper("shop", "boot")[:-1]
            assert words[len(helper("shop", "boot")) - 1] in [helper("shop", name)[-1] for name in ("boot", "reload", "pair")]
        else:
            assert words[:5] == [*CLEAN, "/usr/bin/systemd-run"]
            assert {f"--property={directive}" for directive in sandbox()} <= set(words)


VALUES = ["plain", 'a "b" c', "a'b", "$HOME `id` $(id)", "two\nlines", "back\\slash\\\\", "\\\n", "tab\tend ", ""]
VALUES += ["ü€\U0001f600\x81\x88", "%i %%", "\r\n", "#x", "~", "!!", "a=b", "\x1b[0m"]


@pytest.mark.parametrize("value", VALUES)
def test_the_file_of_variables_reads_the_same_to_sh_as_to_systemd(tmp_path: Path, value: str) -> None:
    """systemd starts the server with /bin/sh, which reads what the filter has written for EnvironmentFile=."""
    file = tmp_path / "env"
    file.write_text(environment_file({"A_VALUE": value, "Z": "last", "PATH": "/of/its/own"}), encoding="utf-8", newline="")
    show = [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"]
    entry = shlex.split(ENTRY.removeprefix(":"))
    done = subprocess.run([*entry[:-1], str(file), *show], env={"KEPT": "yes"}, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert {name: found[name] for name in ("A_VALUE", "Z", "PATH", "KEPT")} == {
        "A_VALUE": value,
        "Z": "last",
        "PATH": "/of/its/own",
        "KEPT": "yes",
    }


def test_gunicorn_is_helped_to_find_an_object_within_another_one(service: Service) -> None:
    (command,) = service(asgi_service_import_path="shop.main:site.app")["ExecStart"]
    assert shlex.split(command)[-2:] == ["/etc/shop/%i/gunicorn.conf.py", 'asgi_entry:load("shop.main:site.app")']


def test_uvicorn_gets_its_options_on_the_command_line(service: Service) -> None:
    unit = service(
        asgi_service_server="uvicorn",
        asgi_service_workers=3,
        asgi_service_keepalive=7,
        asgi_service_backlog=99,
        asgi_service_graceful_timeout=11,
        asgi_service_log_level="warning",
        asgi_service_access_log=True,
    )
    (command,) = unit["ExecStart"]
    words = command.split()
    assert command.startswith(f"{ENTRY}/opt/shop/slots/%i/release/.venv/bin/python -m uvicorn ")
    assert words[-1] == "asgi_entry:create"
    assert "ASGI_IMPORT_PATH=shop.main:app" in unit["Environment"]
    assert '"ASGI_FORWARDED_ALLOW_IPS=*"' in unit["Environment"]
    for option, value in (
        ("--fd", "3"),
        ("--workers", "3"),
        ("--timeout-keep-alive", "7"),
        ("--backlog", "99"),
        ("--timeout-graceful-shutdown", "11"),
        ("--log-level", "warning"),
    ):
        assert words[words.index(option) + 1] == value
    assert "--access-log" in words
    assert "--no-access-log" in service(asgi_service_server="uvicorn")["ExecStart"][0].split()
    # uvicorn does not tell systemd when it is up.
    assert unit["Type"] == ["exec"]
    assert "gunicorn" not in " ".join(unit["ExecStart"])


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn", "hypercorn"])
def test_a_virtual_environment_of_one_s_own_takes_the_release_s_place(service: Service, server: str) -> None:
    unit = service(asgi_service_server=server, asgi_service_virtualenv="/srv/venv", asgi_service_directory="/srv/code")
    assert unit["ExecStart"][0].startswith(f"{ENTRY}/srv/venv/bin/python -m {server} ")
    assert unit["WorkingDirectory"] == ["/srv/code"]


def test_the_accounts_are_those_that_were_asked_for(service: Service, render: Render) -> None:
    unit = service(asgi_account_user="web", asgi_account_group="www")
    assert (unit["User"], unit["Group"]) == (["web"], ["www"])
    unit = service(asgi_service_user="svc")
    assert (unit["User"], unit["Group"]) == (["svc"], ["svc"])
    socket = parse(render("slot.socket.j2", asgi_service_socket_group="nginx", asgi_service_backlog=7))["Socket"]
    assert (socket["SocketUser"], socket["SocketGroup"], socket["SocketMode"]) == (["root"], ["nginx"], ["0660"])
    assert socket["Backlog"] == ["7"]


def test_a_process_that_hangs_is_killed_after_the_graceful_time(service: Service) -> None:
    for given in (20, "20"):
        unit = service(asgi_service_graceful_timeout=given)
        assert int(unit["TimeoutStopSec"][0]) > 20


def test_systemd_does_not_give_up_before_the_boot_timeout(service: Service) -> None:
    for given in (120, "120"):
        assert int(service(asgi_service_boot_timeout=given)["TimeoutStartSec"][0]) >= 120


def test_what_the_slots_share_is_no_runtime_directory(service: Service) -> None:
    """systemd removes a RuntimeDirectory= when its unit stops; the other slot must not lose its socket by that."""
    for directory in service()["RuntimeDirectory"][0].split():
        assert directory.startswith("shop/%i")


def test_the_sandbox_is_on_unless_switched_off(service: Service) -> None:
    confined = service()
    assert {name: confined[name] for name in SANDBOX} == SANDBOX
    free = service(asgi_service_sandbox="none")
    for name in SANDBOX:
        assert name not in free
    # Nothing else depends on it.
    assert {name: confined[name] for name in free} == free
    assert set(free) > {"ExecStart", "User", "Restart", "LimitNOFILE", "StateDirectory", "UMask"}


@pytest.mark.parametrize(
    ("switch", "changes"),
    [
        ({"asgi_service_sandbox_jit": True}, {"MemoryDenyWriteExecute": None}),
        ({"asgi_service_sandbox_proc": True}, {"ProtectProc": None, "ProcSubset": None}),
        ({"asgi_service_sandbox_readable_homes": True}, {"ProtectHome": ["read-only"]}),
        ({"asgi_service_sandbox_writable_paths": ["/srv/a", "/srv/b"]}, {"ReadWritePaths": ["/srv/a /srv/b"]}),
        ({"asgi_service_sandbox_writable_paths": ["/dev/shm"]}, {"ReadWritePaths": ["/dev/shm"], "TemporaryFileSystem": None}),
        ({"asgi_service_sandbox_writable_paths": ["/run/lock"]}, {"ReadWritePaths": ["/run/lock"], "InaccessiblePaths": None}),
        ({"asgi_service_sandbox_writable_paths": ["/var/lock"]}, {"ReadWritePaths": ["/var/lock"], "InaccessiblePaths": None}),
        (
            {"asgi_service_sandbox_system_calls": ["mbind", "@resources"]},
            {"SystemCallFilter": ["@system-service", CLOSED_CALLS, "@chown mbind @resources"]},
        ),
        (
            {"asgi_service_sandbox_address_families": ["AF_UNIX", "AF_NETLINK"]},
            {"RestrictAddressFamilies": ["AF_UNIX AF_NETLINK"]},
        ),
        ({"asgi_service_sandbox_address_families": []}, {"RestrictAddressFamilies": ["none"]}),
        (
            {"asgi_service_sandbox_network": ["localhost", "10.0.0.0/8"]},
            {"IPAddressDeny": ["any"], "IPAddressAllow": ["localhost 10.0.0.0/8"]},
        ),
        (
            {"asgi_service_sandbox": "strict"},
            {"IPAddressDeny": ["any"], "IPAddressAllow": ["localhost"], "UMask": ["0077"]},
        ),
        ({"asgi_service_directives": {"Nice": 5, "PrivateUsers": False}}, {"Nice": ["5"], "PrivateUsers": ["true", "false"]}),
        ({"asgi_service_directives": {"ReadOnlyPaths": ["/a", "/b"]}}, {"ReadOnlyPaths": ["/a", "/b"]}),
        ({"asgi_service_cpu_quota": "150%"}, {"CPUQuota": ["150%"]}),
        ({"asgi_service_memory_max": "512M"}, {"MemoryMax": ["512M"]}),
        ({"asgi_service_tasks_max": 9}, {"TasksMax": ["9"]}),
        ({"asgi_service_open_files": 1024}, {"LimitNOFILE": ["1024"]}),
    ],
)
def test_a_switch_changes_what_it_says_and_nothing_else(
    service: Service, switch: dict[str, Any], changes: dict[str, list[str] | None]
) -> None:
    expected = {**service(), **changes}
    assert dict(service(**switch)) == {name: value for name, value in expected.items() if value is not None}


@pytest.mark.parametrize("switch", ["sandbox_jit", "sandbox_proc", "sandbox_readable_homes"])
def test_a_switch_understands_the_words_of_the_command_line(service: Service, switch: str) -> None:
    """What --extra-vars name=value gives is text, and the text 'false' is true to Jinja."""
    name = f"asgi_service_{switch}"
    assert service(**{name: "false"}) == service(**{name: False})
    assert service(**{name: "true"}) == service(**{name: True})


def test_without_a_memory_limit_there_is_no_directive(service: Service) -> None:
    assert "MemoryMax" not in service()


def test_both_slots_are_in_a_slice_of_their_own(service: Service, render: Render) -> None:
    """A hyphen in a slice's name means a parent (systemd.slice(5)): the shop-eu would be limited together with the shop."""
    assert service(asgi_app="shop-eu")["Slice"] == ["asgi-shop_eu.slice"]
    assert parse(render("app.slice.j2"))["Slice"] == {}
    assert parse(render("app.slice.j2", asgi_service_total_memory_max="1G"))["Slice"] == {"MemoryMax": ["1G"]}


def test_the_unit_has_started_when_every_worker_is_ready(service: Service) -> None:
    command, *_ = service(asgi_service_workers=3, asgi_service_ready_status=[200, 204], asgi_service_boot_timeout=20)["ExecStartPost"]
    assert command.startswith("+"), "the service's user may not see into its workers"
    assert "--workers 3" in command
    assert "--status 200,204" in command
    # A rollout has the first word.
    assert "--timeout 23" in command


def test_the_units_are_well_formed(render: Render) -> None:
    for template in ("slot.service.j2", "slot.socket.j2"):
        for server in ("gunicorn", "uvicorn", "hypercorn"):
            text = render(template, asgi_service_server=server)
            configparser.RawConfigParser(strict=False, delimiters=("=",)).read_string(text.replace("\\\n", " "))
            assert "{{" not in text
            assert "{%" not in text
            assert text.endswith("\n")
            assert set(parse(text)) - {"Unit", "Install"} in ({"Service"}, {"Socket"})
    unit = parse(render("slot.service.j2"))
    assert unit["Install"]["WantedBy"] == ["multi-user.target"]
    assert unit["Unit"]["Requires"] == ["shop@%i.socket"]
    socket = parse(render("slot.socket.j2"))
    assert socket["Install"]["WantedBy"] == ["sockets.target"]
    assert socket["Socket"]["ListenStream"] == ["/run/shop/%i.sock"]


class Worker:
    """Takes the place of the worker class that the role puts on the host, where gunicorn and uvicorn are."""


@pytest.fixture
def settings(render: Render, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """gunicorn's configuration as gunicorn reads it, which is by running it."""

    def run(**variables: Any) -> dict[str, Any]:
        handover = ModuleType("asgi_handover")
        vars(handover).update(HandoverWorker=type("HandoverWorker", (Worker,), {}), on_starting=lambda _server: None)
        monkeypatch.setitem(sys.modules, "asgi_handover", handover)
        entry = ModuleType("asgi_entry")
        vars(entry).update(Entry=lambda app, forwarded: (app, forwarded))
        monkeypatch.setitem(sys.modules, "asgi_entry", entry)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)
        found: dict[str, Any] = {"__file__": "/etc/shop/blue/gunicorn.conf.py"}
        text = render("gunicorn.conf.py.j2", **variables)
        exec(compile(text, "gunicorn.conf.py", "exec"), found)  # noqa: S102 - this is how gunicorn reads it
        return found

    return run


Settings = Callable[..., dict[str, Any]]


def test_gunicorn_s_configuration_is_python_with_the_values_in_it(settings: Settings) -> None:
    found = settings(
        asgi_service_workers=5,
        asgi_service_timeout=61,
        asgi_service_graceful_timeout=31,
        asgi_service_keepalive=6,
        asgi_service_backlog=100,
        asgi_service_log_level="debug",
        asgi_service_access_log=True,
        asgi_service_ready_path="/health?deep=1",
    )
    expected = {
        "workers": 5,
        "timeout": 61,
        "graceful_timeout": 31,
        "keepalive": 6,
        "backlog": 100,
        "loglevel": "debug",
        "accesslog": "-",
        "errorlog": None,
        "proc_name": "shop",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert issubclass(found["worker_class"], Worker)
    assert found["worker_class"].ready_path == "/health?deep=1"
    # The socket is systemd's: gunicorn must not bind one of its own.
    assert "bind" not in found
    # That is asgi_entry's matter, by whose rules it is the same under every server.
    assert found["forwarded_allow_ips"] == ""
    assert found["worker_class"].CONFIG_KWARGS["proxy_headers"] is False
    assert found["worker_class"].wrap("app") == ("app", ["*"])


TLS: dict[str, Any] = {"asgi_service_tls_listen": [443, "192.0.2.7:8443", "[2001:db8::7]:443", "443"]}
TLS_SOCKETS = {
    "shop-tls-443.socket": "443",
    "shop-tls-192.0.2.7:8443.socket": "192.0.2.7:8443",
    "shop-tls-2001:db8::7:443.socket": "[2001:db8::7]:443",
}


def test_a_slot_is_given_the_sockets_for_tls_and_a_certificate_before_it_starts(service: Service) -> None:
    found = service(**TLS)
    assert found["Sockets"] == ["shop@%i.socket " + " ".join(TLS_SOCKETS)]
    [_, before], reloads = found["ExecStartPre"], found["ExecReload"]
    assert shlex.split(before.removeprefix("+"))[:-1] == [*helper("shop", "pair"), "--app", "shop", "--slot", "%i"]
    assert before.endswith(" --or-keep")
    # What cannot be used is not reloaded; so it comes first, and there is nothing to keep.
    assert ["lib.pair" in line for line in reloads] == [True, False]
    assert "--or-keep" not in reloads[0]
    plain = service()
    assert "Sockets" not in plain
    assert not [command for command in plain["ExecStartPre"] if "lib.pair" in command]
    assert len(plain["ExecReload"]) == 1


def test_there_is_a_socket_for_each_address_and_none_starts_a_slot(files: Files) -> None:
    units = {
        f"shop-{entry['path'].removeprefix('/etc/shop/next/')}": parse(entry["content"])
        for entry in files("_asgi_service_tls_address_files", **TLS)
    }
    sockets = {name: unit for name, unit in units.items() if name.endswith(".socket")}
    assert {name: socket["Socket"]["ListenStream"] for name, socket in sockets.items()} == {
        name: [address] for name, address in TLS_SOCKETS.items()
    }
    assert len(units) == 2 * len(sockets)
    for name, socket in sockets.items():
        # systemd's default is the service of the same name.
        assert "Service" not in socket["Socket"]
        always = name.replace(".socket", ".service")
        assert socket["Unit"]["Wants"] == [always]
        assert units[always]["Unit"]["PartOf"] == [name]
        assert (units[always]["Service"]["Type"], units[always]["Service"]["RemainAfterExit"]) == (["oneshot"], ["true"])
    assert files("_asgi_service_tls_address_files") == []


def test_gunicorn_is_told_what_to_serve_over_tls(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASGI_SLOT", "green")
    given = ModuleType("asgi_tls")
    vars(given)["Settings"] = dict
    monkeypatch.setitem(sys.modules, "asgi_tls", given)
    assert settings()["HandoverWorker"].tls is None
    found = settings(**TLS, asgi_service_tls_ciphers=["A-B", "C"])["HandoverWorker"].tls
    assert found == {"pair": "/run/shop/tls-green/pair.pem", "ciphers": "A-B:C"}
    for verify in ("required", "optional"):
        found = settings(**TLS, asgi_service_tls_client_ca="/etc/clients.pem", asgi_service_tls_client_verify=verify)["HandoverWorker"].tls
        assert (found["client_ca"], found["client_required"]) == ("/run/shop/tls-green/client-ca.pem", verify == "required")


def test_hypercorn_s_configuration_is_toml_with_the_values_in_it(render: Render) -> None:
    def settings(**variables: Any) -> dict[str, Any]:
        return tomllib.loads(render("hypercorn.toml.j2", **variables))

    found = settings(
        asgi_service_workers=5,
        asgi_service_graceful_timeout=31,
        asgi_service_keepalive=6,
        asgi_service_backlog=100,
        asgi_service_log_level="debug",
        asgi_service_access_log=True,
    )
    assert found == {
        "bind": ["fd://3"],
        "workers": 5,
        "worker_class": "uvloop",
        "backlog": 100,
        "keep_alive_timeout": 6,
        "graceful_timeout": 31,
        "loglevel": "debug",
        "errorlog": "-",
        "accesslog": "-",
        "h11_max_incomplete_size": 65536,
        "include_server_header": False,
        "include_date_header": False,
        "websocket_max_message_size": 16777216,
        "websocket_ping_interval": 20,
    }
    assert "websocket_ping_interval" not in settings(asgi_service_websocket_ping_interval=0)
    assert "accesslog" not in settings()


@pytest.mark.parametrize(
    ("kind", "headers", "client", "scheme"),
    [
        ("http", {"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"}, ("192.0.2.7", 0), "https"),
        ("websocket", {"x-forwarded-for": "2001:db8::7", "x-forwarded-proto": "https"}, ("2001:db8::7", 0), "wss"),
        ("http", {"x-forwarded-proto": "http"}, None, "http"),
        ("http", {}, None, "http"),
    ],
)
def test_the_application_sees_what_nginx_says(
    monkeypatch: pytest.MonkeyPatch, kind: str, headers: dict[str, str], client: tuple[str, int] | None, scheme: str
) -> None:
    seen: list[dict[str, Any]] = []

    async def app(scope: dict[str, Any], _receive: object, _send: object) -> None:
        seen.append(scope)

    shop = ModuleType("shop")
    vars(shop).update(web=SimpleNamespace(app=app))
    monkeypatch.setitem(sys.modules, "shop", shop)
    monkeypatch.setenv("ASGI_IMPORT_PATH", "shop:web.app")
    monkeypatch.setenv("ASGI_FORWARDED_ALLOW_IPS", "*")
    application = runpy.run_path(str(ROOT / "roles/asgi_service/files/asgi_entry.py"))["create"]()
    # What cannot be copied is passed on as it is.
    state = {"pool": threading.Lock()}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "headers": raw, "client": None, "scheme": "http" if kind == "http" else "ws", "state": state}
    asyncio.run(application(scope, None, None))
    assert (seen[0]["client"], seen[0]["scheme"], seen[0]["state"]) == (client, scheme, state)
    asyncio.run(application({"type": "lifespan"}, None, None))
    assert seen[1] == {"type": "lifespan"}


def test_the_access_log_is_off_by_default(settings: Settings) -> None:
    assert settings()["accesslog"] is None
    assert settings(asgi_service_access_log="false")["accesslog"] is None
    assert settings(asgi_service_access_log="true")["accesslog"] == "-"


def test_workers_that_are_renewed_are_not_renewed_all_at_once(settings: Settings) -> None:
    assert "max_requests" not in settings()
    for given in (1000, "1000"):
        found = settings(asgi_service_max_requests=given)
        assert found["max_requests"] == 1000
        assert found["max_requests_jitter"] >= 250


def test_the_live_socket_leads_through_the_live_link(render: Render) -> None:
    lines = [line.split() for line in render("tmpfiles.conf.j2").splitlines() if not line.startswith("#")]
    assert lines == [
        ["d", "/run/shop", "0755", "root", "root", "-"],
        ["L+", "/run/shop/live.sock", "-", "-", "-", "-", "/opt/shop/slots/live/socket"],
    ]


def test_a_server_that_keeps_ending_is_started_again_more_and_more_slowly(service: Service) -> None:
    unit = service()
    assert (unit["RestartSec"], unit["RestartSteps"], unit["RestartMaxDelaySec"]) == (["2"], ["6"], ["60"])
    # Its systemd, 252, does not know them.
    old = service(__asgi_service_place={"contents": {"/etc/os-release": 'ID=debian\nVERSION_ID="12"\n'}})
    assert (old["RestartSec"], "RestartSteps" in old) == (["2"], False)
    assert "RestartSteps" not in service(asgi_service_restart_delay=60)
    # What is counted is forgotten again.
    calms = [[command for command in each["ExecStartPost"] if "shop-calm-%i" in command] for each in (unit, old)]
    assert [len(commands) for commands in calms] == [1, 0]
    assert calms[0][0].endswith(" /usr/bin/systemctl reset-failed %n")
    assert " --timer-property=BindsTo=%n " in calms[0][0]


def test_shared_directories_are_made_by_the_application_s_user(service: Service) -> None:
    """Root makes nothing in a directory that the application can write to."""
    unit = service(asgi_shared=["media", "a/b"])
    assert unit["StateDirectory"] == ["shop"]
    assert unit["RuntimeDirectory"] == ["shop/%i"]
    assert unit["ExecStartPre"] == ["/usr/bin/mkdir -p -m 0750 /run/shop/%i/metrics /var/lib/shop/media /var/lib/shop/a/b"]


def test_uvicorn_s_limits_and_further_options_are_words_of_its_command_line(service: Service) -> None:
    [command] = service(
        asgi_service_server="uvicorn",
        asgi_service_limit_concurrency=100,
        asgi_service_max_requests=1000,
        asgi_service_root_path="/shop",
        asgi_service_event_loop="asyncio",
        asgi_service_websocket_max_size=5,
        asgi_service_max_header_size=7000,
        asgi_service_server_header=True,
        asgi_service_options={"ws_max_queue": 3, "use_colors": False},
    )["ExecStart"]
    for words in (
        "--limit-concurrency 100",
        "--limit-max-requests 1000 --limit-max-requests-jitter 500",
        "--root-path /shop",
        "--loop asyncio",
        "--ws-max-size 5",
        "--ws-ping-interval 20",
        "--ws-ping-timeout 20",
        "--no-date-header",
        "--h11-max-incomplete-event-size 7000",
        "--server-header",
        "--ws-max-queue 3",
        "--no-use-colors",
        "--no-proxy-headers",
        "--log-config /etc/shop/%i/logging.json",
    ):
        assert words in command
    assert command.endswith("--app-dir /etc/shop/%i --factory asgi_entry:create")


def test_hypercorn_s_limits_and_further_options_are_in_its_configuration(render: Render) -> None:
    text = render(
        "hypercorn.toml.j2",
        asgi_service_event_loop="trio",
        asgi_service_max_requests=1000,
        asgi_service_max_requests_jitter=7,
        asgi_service_root_path="/shop",
        asgi_service_statsd="127.0.0.1:8125",
        asgi_service_websocket_ping_interval=5,
        asgi_service_server_header="true",
        asgi_service_options={"keep_alive_max_requests": 7, "server_names": ["a.example"]},
    )
    found = tomllib.loads(text)
    assert (found["worker_class"], found["max_requests"], found["max_requests_jitter"]) == ("trio", 1000, 7)
    assert (found["root_path"], found["statsd_host"], found["statsd_prefix"]) == ("/shop", "127.0.0.1:8125", "shop")
    assert (found["websocket_ping_interval"], found["include_server_header"], found["server_names"]) == (5, True, ["a.example"])
    assert found["keep_alive_max_requests"] == 7


def test_gunicorn_s_further_options_are_its_own_or_uvicorn_s(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ModuleType("gunicorn.config")
    vars(config).update(KNOWN_SETTINGS=[SimpleNamespace(name="dogstatsd_tags"), SimpleNamespace(name="umask")])
    monkeypatch.setitem(sys.modules, "gunicorn", ModuleType("gunicorn"))
    monkeypatch.setitem(sys.modules, "gunicorn.config", config)
    found = settings(
        asgi_service_limit_concurrency=9,
        asgi_service_root_path="/shop",
        asgi_service_statsd="localhost:8125",
        asgi_service_max_header_size=3000,
        asgi_service_websocket_max_size=2,
        asgi_service_date_header="true",
        asgi_service_options={"dogstatsd_tags": "a:b", "ws_max_queue": 5},
    )
    assert found["dogstatsd_tags"] == "a:b"
    assert "ws_max_queue" not in found
    assert found["worker_class"].CONFIG_KWARGS == {
        "loop": "auto",
        "http": "auto",
        "limit_concurrency": 9,
        "root_path": "/shop",
        "proxy_headers": False,
        "server_header": False,
        "date_header": True,
        "h11_max_incomplete_event_size": 3000,
        "ws_max_size": 2,
        "ws_max_queue": 5,
        "ws_ping_interval": 20,
        "ws_ping_timeout": 20,
    }
    assert (found["statsd_host"], found["statsd_prefix"]) == ("localhost:8125", "shop")
    assert "statsd_host" not in settings()


def test_gunicorn_s_own_worker_has_limits_of_its_own_and_nothing_of_uvicorn_s(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    native, config = ModuleType("asgi_native"), ModuleType("gunicorn.config")
    vars(native).update(NativeWorker=type("NativeWorker", (Worker,), {}))
    vars(config).update(KNOWN_SETTINGS=[SimpleNamespace(name="umask")])
    monkeypatch.setitem(sys.modules, "asgi_native", native)
    monkeypatch.setitem(sys.modules, "gunicorn.config", config)
    found = settings(
        asgi_service_worker_class="asgi",
        asgi_service_forwarded_allow_ips=["10.0.0.0/8"],
        asgi_service_options={"umask": 7, "ws_max_queue": 5},
    )
    assert (found["limit_request_line"], found["limit_request_field_size"]) == (8190, 65536)
    assert found["websocket_max_message_size"] == 16777216
    assert found["worker_class"].forwarded == ["10.0.0.0/8"]
    assert found["umask"] == 7
    assert not hasattr(found["worker_class"], "CONFIG_KWARGS")


def test_the_log_is_json_by_default_and_text_is_there(render: Render) -> None:
    assert "asgi_entry.JsonFormatter" in render("gunicorn.conf.py.j2")
    assert "asgi_entry.JsonFormatter" not in render("gunicorn.conf.py.j2", asgi_service_log_format="text")


def test_a_worker_that_has_ended_is_taken_out_of_the_metrics(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    package, module = ModuleType("prometheus_client"), ModuleType("prometheus_client.multiprocess")
    vars(module).update(mark_process_dead=ended.append)
    vars(package).update(multiprocess=module)
    monkeypatch.setitem(sys.modules, "prometheus_client", package)
    settings()["child_exit"](None, SimpleNamespace(pid=4711))
    assert ended == [4711]


def exposure(folder: Path, name: str, text: str) -> float:
    """How systemd rates a unit that it does not run."""
    program = shutil.which("systemd-analyze")
    if not program:
        pytest.skip("there is no systemd-analyze")
    (folder / name).write_text(text, encoding="utf-8")
    command = [program, "security", "--offline=true", "--no-pager", str(folder / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"exposure level for .*: ([0-9.]+) ", done.stdout)
    if not found:
        pytest.skip(f"systemd-analyze does not rate files here: {done.stderr}")
    return float(found[1])


@pytest.mark.parametrize("server", ["gunicorn", "uvicorn", "hypercorn", "granian"])
@pytest.mark.parametrize("kind", ["default", "strict"])
def test_a_slot_is_rated_at_1_3_or_less(render: Render, tmp_path: Path, server: str, kind: str) -> None:
    text = render("slot.service.j2", asgi_service_server=server, asgi_service_sandbox=kind, **(TLS if server == "gunicorn" else {}))
    assert exposure(tmp_path, "shop@.service", text) <= 1.3


ACME = ROOT / "roles/asgi_certificate"


@pytest.mark.parametrize("unit", ["tls.service", "tls_address.service", "calm", "drain", "drain with TLS", "asgi-acme.service"])
def test_what_is_beside_the_slots_is_rated_at_2_or_less(evaluate: Callable[..., Any], render: Render, tmp_path: Path, unit: str) -> None:
    """On real hosts there are exposures() in molecule/support.py; here everybody sees at once what a change does to the rating."""
    of_a_drain: dict[str, Any] = {"PrivateNetwork": None}
    if unit.startswith("tls"):
        text = render(f"{unit}.j2", **TLS)
    elif unit == "asgi-acme.service":
        variables = DataLoader().load_from_file(str(ACME / "vars/main.yml"), trusted_as_template=True)
        text = str(
            evaluate(
                "{{ lookup('ansible.builtin.template', 'asgi-acme.service.j2') }}",
                **variables,
                asgi_certificate_acme_on_failure="",
                ansible_search_path=[str(ACME)],
            )
        )
    else:
        if unit == "drain with TLS":
            of_a_drain["CapabilityBoundingSet"] = "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"
        text = "\n".join(["[Service]", "ExecStart=/bin/true", *sandbox({} if unit == "calm" else of_a_drain)])
    assert "NoNewPrivileges=true" in text.splitlines()
    assert exposure(tmp_path, f"{unit.removesuffix('.service').replace(' ', '-')}.service", text) <= 2.0
