# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the roles refuse among their variables' values, before anything is changed.

Types and choices are judged by Ansible before, by the role's argument specification. Patterns have to match a value as a whole, so
that no line break slips through at its end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ansible.module_utils.parsing.convert_bool import boolean

# The values by the variables' full names.
Given = Mapping[str, Any]

_APP = r"[a-z][a-z0-9-]{0,29}"
_ACCOUNT = r"[a-z_][a-z0-9_-]{0,31}"
_IMPORT_PATH = r"[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*([.][A-Za-z_][A-Za-z0-9_]*)*"
# Characters that mean nothing special to systemd, sh or nginx; no '%', which systemd would expand.
_PATH = r"/[A-Za-z0-9_./@+-]*"


def shown(value: Any) -> str:
    """A value as it is told in a message: quoted, on one line."""
    return json.dumps(value, default=str)


def fits(pattern: str, value: Any) -> bool:
    """Whether a value, written out, has that form from its beginning to its end."""
    return re.fullmatch(pattern, str(value)) is not None


def misfits(pattern: str, values: Iterable[Any]) -> list[Any]:
    return [value for value in values if not fits(pattern, value)]


def flattened(values: Iterable[Any]) -> list[Any]:
    """The values, and in place of a list what is in it."""
    return [each for value in values for each in (flattened(value) if isinstance(value, list) else [value])]


def is_plain_path(value: Any) -> bool:
    return fits(_PATH, value) and ".." not in str(value)


def below(given: Given, least: Mapping[str, int]) -> Iterator[str]:
    """Say which numbers are too small."""
    for name, bound in least.items():
        if int(given[name]) < bound:
            yield f"{name} is {given[name]}, but must be at least {bound}."


def check_app(given: Given, name: str, what: str) -> Iterator[str]:
    if not fits(_APP, given[name]):
        yield (
            f"{name} (asgi_app) is {shown(given[name])}. It names {what}: use 1 to 30 lower-case letters, digits and hyphens, "
            "beginning with a letter."
        )


def check_import_path(given: Given, name: str) -> Iterator[str]:
    if not fits(_IMPORT_PATH, given[name]):
        yield f"{name} (asgi_import_path) is {shown(given[name])}. Write it as module:object, as in app.main:app."


# Names that a host needs for itself, whether or not their owner is installed yet: Debian's users and groups, directories of /etc,
# /run and /var, template units (getty@.service), services that often share a host with an application, and what this collection
# itself puts there.
_HOST_NAMES = """
    adm alternatives apache2 apparmor apt asgi-certificates audio audit autovt backup bin caddy cdrom chrony cloud
    cloud-init containerd containers credentials cron crontab daemon dbus default dhcp dialout dip disk dkms docker
    dovecot dpkg e2scrub exim4 fail2ban fax floppy fonts games getty gnats grafana grub haproxy httpd ifup input irc
    iscsi kmem kvm ldap letsencrypt list lock log logrotate lp lvm mail man mariadb memcached messagebus modprobe
    mongodb mount mysql named netdev netplan network news nftables nginx nobody nogroup ntp ntpsec openvpn operator
    opt pam php plugdev podman polkit polkitd postfix postgres postgresql private prometheus proxy python python3
    quotaon rabbitmq redis render root rpcbind rsyslog sasl security selinux serial-getty sgx shadow shm skel snapd
    snmp src ssh sshd ssl ssl-cert staff sudo sync sys syslog systemd tape tmpfiles tomcat tty ucf udev unbound user
    users utmp uucp uv valkey varnish video voice wg-quick www-data xdg
"""
_RESERVED = frozenset(_HOST_NAMES.split())


def check_account(given: Given) -> Iterator[str]:
    app, user, group, groups = (given[f"asgi_account_{name}"] for name in ("app", "user", "group", "groups"))
    if not fits(_APP, app):
        yield (
            f"asgi_account_app (asgi_app) is {shown(app)}: it must be 1 to 30 lower-case letters, digits and hyphens and start with "
            "a letter, because it names a user, a directory and a unit. For example: asgi_app: shop"
        )
        # The others follow it.
        return
    # What builds an application runs as a user that is called asgi-build-APP.
    if app in _RESERVED or app.startswith(("systemd-", "asgi-build-")):
        yield (
            f"asgi_account_app (asgi_app) is '{app}', a name that the system or a well-known service uses for itself. Choose one "
            f"that only this application has, such as 'shop' or '{app}-app'."
        )
        return
    if misfits(_ACCOUNT, [user, group, *groups]):
        yield (
            f"asgi_account_user is {shown(user)}, asgi_account_group {shown(group)} and asgi_account_groups {shown(groups)}: each "
            "must be 1 to 32 lower-case letters, digits, hyphens and underscores and start with a letter or an underscore."
        )
    if not fits(_ACCOUNT, given["asgi_account_socket_group"]):
        yield (
            f"asgi_account_socket_group (asgi_service_socket_group) is {shown(given['asgi_account_socket_group'])}, which is no name of a "
            "group. Name the group that nginx's workers are in."
        )
    taken = _RESERVED if boolean(given["asgi_account_manage_user"]) else frozenset(["root"])
    if user in taken or group in taken:
        yield (
            f"asgi_account_user is '{user}' and asgi_account_group '{group}': one of them belongs to the system. Leave them out, and "
            "the application gets an account of its own."
        )
    uid, gid = given.get("asgi_account_uid"), given.get("asgi_account_gid")
    if any(number is not None and not 100 <= int(number) < 60000 for number in (uid, gid)):
        yield (
            f"asgi_account_uid is {shown('unset' if uid is None else uid)} and asgi_account_gid "
            f"{shown('unset' if gid is None else gid)}: each must be a number from 100 to 59999 (Debian and systemd keep the others "
            "for themselves). Leave them out, and the host chooses."
        )


def check_uv(given: Given) -> Iterator[str]:
    version, root, bundle = (given[f"asgi_uv_{name}"] for name in ("version", "root", "ca_bundle"))
    if not fits(r"[0-9]+[.][0-9]+[.][0-9]+", version):
        yield (
            f"asgi_uv_version is {shown(version)}: it must be one version in full, three numbers in quotes. "
            'For example: asgi_uv_version: "0.13.8"'
        )
    if not fits(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+", root) or not fits(r"(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", bundle):
        yield (
            f"asgi_uv_root is {shown(root)} and asgi_uv_ca_bundle {shown(bundle)}: each must be an absolute path of letters, digits, "
            "'.', '_' and '-', without '..' and without a slash at the end."
        )
    yield from check_addresses(given, ["asgi_uv_index_url", "asgi_uv_http_proxy", "asgi_uv_https_proxy"], "https?")
    if not fits(r"[A-Za-z0-9.:/,*_\[\]-]*", given["asgi_uv_no_proxy"]):
        yield (
            f"asgi_uv_no_proxy is {shown(given['asgi_uv_no_proxy'])}: it must be host names, domains or networks, separated by commas "
            "without spaces. For example: localhost,.example.org"
        )
    if misfits(r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}", given["asgi_uv_hashes"]):
        yield (
            f"asgi_uv_hashes is {shown(given['asgi_uv_hashes'])}: each must be sha256:, sha384: or sha512: followed by the digest in "
            "lower-case hexadecimal digits, as in the output of pip hash."
        )


def check_addresses(given: Given, names: Iterable[str], schemes: str) -> Iterator[str]:
    """The message does not repeat what may contain a password."""
    for name in names:
        if not fits(rf"(({schemes})://[^\s\"'`$\\<>]+)?", given[name]):
            yield (
                f"{name} is not an address that can be used (it is not shown, since it may contain a password): it must be empty or "
                "start with http:// or https://, without spaces, quotes, dollar signs and backslashes."
            )


def check_release(given: Given) -> Iterator[str]:
    yield from check_app(given, "asgi_release_app", "directories")
    yield from check_import_path(given, "asgi_release_import_path")
    for name in ("asgi_release_python_root", "asgi_release_uv", "asgi_release_cache"):
        if not is_plain_path(given[name]):
            yield f"{name} is {shown(given[name])}. Give an absolute path of letters, digits and . _ - + @ /, without '..'."
    python = given["asgi_release_python"]
    if not is_plain_path(python) and not fits(r"3[.][0-9]{1,2}([.][0-9]{1,2})?", python):
        yield (
            f"asgi_release_python is {shown(python)}. Give the absolute path of an interpreter on the host, or a version in quotes, "
            'such as "3.13".'
        )
    builder = given["asgi_release_build_user"]
    others = ["root", given["asgi_release_app"], given.get("asgi_account_user")]
    if builder and (builder in others or not fits(r"[a-z_][a-z0-9_-]{0,30}", builder)):
        yield (
            f"asgi_release_build_user is {shown(builder)}. Name a system user of its own, neither root nor the application's; one that "
            "is not there is made."
        )
    timeout, memory = given["asgi_release_build_timeout"], given["asgi_release_build_memory_max"]
    if not 10 <= int(timeout) <= 86400 or not fits(r"[1-9][0-9]*[KMGT]?|[1-9][0-9]?%|100%|infinity", memory):
        yield (
            f"asgi_release_build_timeout is {timeout} and asgi_release_build_memory_max {shown(memory)}. Use 10 to 86400 seconds, and "
            "an amount of memory in the form that systemd takes, such as 2G, 75% or infinity."
        )
    extras, groups, package, folder = (given[f"asgi_release_{name}"] for name in ("extras", "groups", "package", "subdirectory"))
    if misfits(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?", [*extras, *groups, *([package] if package else [])]) or not fits(
        r"([A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*)?", folder
    ):
        yield (
            f"asgi_release_extras is {shown(extras)}, asgi_release_groups {shown(groups)}, asgi_release_package {shown(package)} and "
            f"asgi_release_subdirectory {shown(folder)}. Use names of packages and groups, and a path inside the source without '..'."
        )
    free, keep = given["asgi_release_min_free"], given["asgi_release_keep"]
    if int(free) < 0 or int(keep) < 1:
        yield f"asgi_release_min_free is {free} and asgi_release_keep {keep}. Use at least 0 mebibytes, and at least 1 release."
    addresses = ("index_url", "python_mirror", "python_downloads", "http_proxy", "https_proxy")
    yield from check_addresses(given, [f"asgi_release_{name}" for name in addresses], "https?|file")
    if misfits(r"(https?|file)://[^\s\"'`$\\<>@]+", [index["url"] for index in given["asgi_release_indexes"]]):
        yield (
            "asgi_release_indexes has an address that cannot be used (it is not shown, since it may contain a password): it must start "
            "with http:// or https://, without spaces, quotes, dollar signs and backslashes. A user and a password go into username "
            "and password."
        )


def check_rollout(given: Given) -> Iterator[str]:
    app, release = given["asgi_rollout_app"], given["asgi_rollout_release"]
    yield from check_app(given, "asgi_rollout_app", "directories and systemd units")
    if release and not fits(rf"/opt/{re.escape(str(app))}/releases/[A-Za-z0-9][A-Za-z0-9._-]*", release):
        yield (
            f"asgi_rollout_release is {shown(release)}. Give the path of a release below /opt/{app}/releases (asgi_rollback_to takes "
            "its name alone), or leave it empty."
        )
    path, host, status = (given[f"asgi_rollout_ready_{name}"] for name in ("path", "host", "status"))
    if not fits(r"/[A-Za-z0-9_./?=&%~+-]*", path) or not fits(r"[A-Za-z0-9.:_-]+", host) or not status:
        yield (
            f"asgi_rollout_ready_path is {shown(path)}, asgi_rollout_ready_host {shown(host)} and asgi_rollout_ready_status "
            f"{shown(status)}. Give a path such as /ready, a host name and a list of status codes."
        )
    for name in ("asgi_rollout_migrate", "asgi_rollout_before_activate", "asgi_rollout_after_activate"):
        yield from check_commands(name, given[name])
    least = {"workers": 0, "boot_timeout": 1, "drain_timeout": 0, "bake_time": 0, "lock_timeout": 0, "command_timeout": 1}
    yield from below(given, {f"asgi_rollout_{name}": bound for name, bound in least.items()})


def check_commands(name: str, commands: Any) -> Iterator[str]:
    if not isinstance(commands, list):
        yield f"{name} is {shown(commands)}. Write it as a list, also if it is one command: {name}: [{shown(commands)}]"
        return
    wrong = [command for command in commands if not command or not isinstance(command, (str, list))]
    if wrong:
        yield f"{name} has {shown(wrong)[1:-1]}. Each command is a text such as 'alembic upgrade head', or a list of words."


_SIZE = r"([0-9]+[KMGT]?|[0-9]{1,3}%)?"
_SIZES = "a size (512M, 2G), a share (50%), or nothing"
# The form of a variable, as a pattern and in words.
_SERVICE_FORMS = {
    "workers": (r"io|cpu|[1-9][0-9]{0,3}", "io, cpu, or a number of at least 1"),
    "worker_memory": (r"[1-9][0-9]*[KMGT]?", "a size (256M)"),
    "memory_max": (_SIZE, _SIZES),
    "total_memory_max": (_SIZE, _SIZES),
    "cpu_quota": (r"([1-9][0-9]*%)?", "a share of one processor (150%), or nothing"),
    "root_path": (r"(/[A-Za-z0-9_.~-]+)*", "a path such as /shop, without a slash at its end, or nothing"),
    "statsd": (r"([A-Za-z0-9.-]+:[0-9]{1,5})?", "a host and a port (127.0.0.1:8125), or nothing"),
}
_SERVICE_LEAST = {
    "timeout": 1,
    "graceful_timeout": 1,
    "keepalive": 1,
    "max_requests": 0,
    "max_requests_jitter": 0,
    "limit_concurrency": 0,
    "restart_delay": 1,
    "restart_delay_max": 1,
    "websocket_close_window": 0,
    "backlog": 1,
    "boot_timeout": 1,
    "open_files": 64,
    "tasks_max": 8,
}
# What the role sets itself, under any server's name for it.
_SERVICE_OWN_NAMES = """
    access_log access_logfile accesslog address app app_dir application_path backlog backpressure bind callback_notify chdir config
    control_socket control_socket_disable daemon date_header errorlog factory fd forwarded_allow_ips graceful_timeout group
    h11_max_incomplete_event_size h11_max_incomplete_size host include_date_header include_server_header insecure_bind interface
    keep_alive_timeout keepalive keyfile limit_concurrency limit_max_requests limit_max_requests_jitter limit_request_field_size
    limit_request_line log_access log_config log_dictconfig log_level logconfig logconfig_dict logconfig_json logger_class
    loglevel loop max_requests max_requests_jitter on_starting pid_file pid_path pidfile port preload_app proc_name proxy_headers
    reload respawn_failed_workers root_path server_header statsd_host statsd_prefix target timeout timeout_graceful_shutdown
    timeout_keep_alive timeout_notify uds url_path_prefix use_reloader user websocket_max_message_size
    websocket_ping_interval worker_class worker_tmp_dir workers workers_kill_timeout ws_max_size ws_ping_interval ws_ping_timeout
    wsgi_app
"""
_SERVICE_OWN_OPTIONS = frozenset(_SERVICE_OWN_NAMES.split())


def check_service(given: Given) -> Iterator[str]:
    yield from check_app(given, "asgi_service_app", "directories and systemd units")
    yield from check_import_path(given, "asgi_service_import_path")
    yield from _check_service_places(given)
    yield from _check_service_readiness(given)
    yield from _check_service_numbers(given)
    yield from _check_service_server(given)
    yield from _check_service_tls(given)
    yield from _check_service_sandbox(given)
    yield from _check_service_environment(given)


def _check_service_places(given: Given) -> Iterator[str]:
    """Accounts and paths."""
    for name in ("asgi_service_user", "asgi_service_group", "asgi_service_socket_group"):
        if not fits(_ACCOUNT, given[name]):
            yield f"{name} is {shown(given[name])}, which is no name of a user or group. Name an account on the host."
    if given["asgi_service_user"] == "root":
        yield "asgi_service_user is root. Name an account without privileges; asgi_account makes one."
    environment, directory = given["asgi_service_virtualenv"], given["asgi_service_directory"]
    places = ("virtualenv", "directory", "ready_path", "tls_certificate", "tls_certificate_key", "tls_client_ca")
    for name in [f"asgi_service_{place}" for place in places]:
        if given[name] and not is_plain_path(given[name]):
            yield f"{name} is {shown(given[name])}. Give an absolute path of letters, digits and . _ - + @ /, without '..'."
    if bool(environment) != bool(directory):
        yield (
            "Set asgi_service_virtualenv and asgi_service_directory together (an environment that you made, and the directory to run "
            "in), or neither, to run what asgi_release built."
        )
    for path in given["asgi_service_shared"]:
        if not fits(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", path):
            yield (
                f"asgi_service_shared (asgi_shared) has {shown(path)}. Give paths below /var/lib/{given['asgi_service_app']} of letters, "
                "digits and . _ -, as in media or media/public, without '..' and without a slash at either end."
            )


def _check_service_readiness(given: Given) -> Iterator[str]:
    host, status = given["asgi_service_ready_host"], given["asgi_service_ready_status"]
    if not fits(r"[A-Za-z0-9.:_-]+", host):
        yield (
            f"asgi_domain (asgi_service_ready_host) is {shown(host)}. Give one host name, as in www.example.org, without a scheme, a "
            "path or spaces."
        )
    if not status or any(not 100 <= int(code) < 600 for code in status):
        yield f"asgi_service_ready_status is {shown(status)}. Give a list of HTTP status codes such as [200, 204]."


def _on_uvicorn(given: Given) -> list[str]:
    """The servers that run uvicorn. With its own worker gunicorn is another one."""
    return (["gunicorn"] if given["asgi_service_worker_class"] == "handover" else []) + ["uvicorn"]


def _check_service_numbers(given: Given) -> Iterator[str]:
    server = given["asgi_service_server"]
    granian = server == "granian"
    # uvicorn cannot do without.
    ping = 1 if server in _on_uvicorn(given) else 0
    least = _SERVICE_LEAST | {
        "max_header_size": 0 if granian else 1024,
        "websocket_max_size": 0 if granian else 1,
        "websocket_ping_interval": ping,
        "websocket_ping_timeout": ping,
    }
    yield from below(given, {f"asgi_service_{name}": bound for name, bound in least.items()})


# An address or a network of IPv4 or IPv6, or everybody. What gets through here but is none would be found out when the server starts.
_PROXY = (
    r"[*]"
    r"|((25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])([.](?!/|\Z)|(?=/|\Z))){4}(/([12]?[0-9]|3[0-2]))?"
    r"|(?!.*:::)(?!.*::.*::)[0-9A-Fa-f]{0,4}(:[0-9A-Fa-f]{0,4}){2,7}(/([1-9]?[0-9]|1[01][0-9]|12[0-8]))?"
)


def _check_service_server(given: Given) -> Iterator[str]:
    """What the server is told, and whether it is one that can do it."""
    for name, (pattern, form) in _SERVICE_FORMS.items():
        if not fits(pattern, given[f"asgi_service_{name}"]):
            yield f"asgi_service_{name} is {shown(given[f'asgi_service_{name}'])}. Write {form}."
    server, loop = given["asgi_service_server"], given["asgi_service_event_loop"]
    if loop not in ("auto", "asyncio", "uvloop") and (server, loop) != ("hypercorn", "trio"):
        yield (f"asgi_service_event_loop is {shown(loop)}. Write auto, asyncio or uvloop; trio is for asgi_service_server hypercorn.")
    for address in misfits(_PROXY, given["asgi_service_forwarded_allow_ips"]):
        yield (
            f"asgi_service_forwarded_allow_ips has {shown(address)}. Give the addresses (192.0.2.7) and networks (10.0.0.0/8) of the "
            "proxies, or '*' for whoever can connect."
        )
    on_uvicorn = _on_uvicorn(given)
    pinging = [*on_uvicorn, "hypercorn"]
    others = ["gunicorn", "uvicorn", "hypercorn"]
    handover = given["asgi_service_worker_class"] == "handover"
    speaking_tls = ["gunicorn" if handover else "gunicorn with asgi_service_worker_class: handover"]
    for name, value, servers in (
        ("statsd", given["asgi_service_statsd"], ["gunicorn", "hypercorn"]),
        ("limit_concurrency", int(given["asgi_service_limit_concurrency"]), [*on_uvicorn, "granian"]),
        ("max_requests", int(given["asgi_service_max_requests"]), others),
        ("max_header_size", int(given["asgi_service_max_header_size"]), others),
        ("websocket_max_size", int(given["asgi_service_websocket_max_size"]), others),
        ("websocket_ping_interval", int(given["asgi_service_websocket_ping_interval"]), pinging),
        ("websocket_ping_timeout", int(given["asgi_service_websocket_ping_timeout"]), on_uvicorn),
        ("server_header", boolean(given["asgi_service_server_header"]), pinging),
        ("date_header", boolean(given["asgi_service_date_header"]), pinging),
        ("tls_listen", given["asgi_service_tls_listen"], speaking_tls),
    ):
        if value and server not in servers:
            yield f"asgi_service_{name} is set, which {server} (asgi_service_server) has not, but {', '.join(servers)}."
    options = given["asgi_service_options"]
    own = sorted(_SERVICE_OWN_OPTIONS.intersection(options)) if isinstance(options, dict) else []
    value_form = r"[A-Za-z0-9_./:,=@+*-]+" if server == "uvicorn" else r"[^\n\r]*"
    if not isinstance(options, dict) or own or misfits(r"[a-z][a-z0-9_]*", options) or misfits(value_form, flattened(options.values())):
        yield (
            f"asgi_service_options has {shown(own)}, which the role sets itself (see asgi_service_workers and its neighbours), or a value "
            "that no option can have. Give a mapping of the server's own names, in lower case with underscores, to text of one line "
            "(without spaces for uvicorn), numbers, booleans or lists."
        )


# A port; an IPv4 or an IPv6 address and a port.
_TLS_ADDRESS = r"(([0-9]{1,3}[.]){3}[0-9]{1,3}:|\[[0-9a-fA-F:.]+\]:)?[1-9][0-9]{0,4}"


def _check_service_tls(given: Given) -> Iterator[str]:
    addresses = [str(address) for address in given["asgi_service_tls_listen"]]
    ciphers = given["asgi_service_tls_ciphers"]
    pair = given["asgi_service_tls_certificate"] and given["asgi_service_tls_certificate_key"]
    if (
        misfits(_TLS_ADDRESS, addresses)
        or any(int(address.rpartition(":")[2]) > 65535 for address in addresses)
        or misfits(r"[A-Z0-9-]+", ciphers)
        or (addresses and not (ciphers and pair))
    ):
        yield (
            f"asgi_service_tls_listen is {shown(addresses)}: give ports from 1 to 65535, or addresses with a port such as 192.0.2.7:443 "
            f"and [2001:db8::7]:443. asgi_service_tls_ciphers is {shown(ciphers)}: give OpenSSL's names of cipher suites. "
            "asgi_service_tls_certificate and asgi_service_tls_certificate_key may not be empty."
        )


# The directives that set variables for every command of a unit, those of root's among them.
_OF_THE_ENVIRONMENT = ("Environment", "EnvironmentFile", "PassEnvironment")


def _check_service_sandbox(given: Given) -> Iterator[str]:
    for path in given["asgi_service_sandbox_writable_paths"]:
        if not is_plain_path(path):
            yield (
                f"asgi_service_sandbox_writable_paths has {shown(path)}. Give absolute paths of letters, digits and . _ - + @ /, without "
                "'..'."
            )
    network = given["asgi_service_sandbox_network"]
    if misfits(r"localhost|link-local|multicast|any|[0-9a-fA-F.:]+(/[0-9]{1,3})?", network):
        yield (
            f"asgi_service_sandbox_network is {shown(network)}. Give addresses (192.0.2.7), networks (10.0.0.0/8) or localhost, "
            "link-local, multicast."
        )
    if misfits(r"@?[a-z0-9_-]+", given["asgi_service_sandbox_system_calls"]) or misfits(
        r"AF_[A-Z0-9]+", given["asgi_service_sandbox_address_families"]
    ):
        yield (
            "asgi_service_sandbox_system_calls takes names such as mbind or @chown, asgi_service_sandbox_address_families such as "
            "AF_NETLINK."
        )
    directives = given["asgi_service_directives"]
    if isinstance(directives, dict) and (names := [name for name in _OF_THE_ENVIRONMENT if name in directives]):
        yield (
            f"asgi_service_directives has {', '.join(names)}, which would also reach the commands that root runs in the unit. Put the "
            "variables into asgi_service_environment, which the application's own processes get."
        )
    if (
        not isinstance(directives, dict)
        or misfits(r"[A-Z][A-Za-z0-9]*", directives)
        or any("\n" in str(value) for value in flattened(directives.values()))
    ):
        yield (
            f"asgi_service_directives is {shown(directives)}. Give a mapping of directives of systemd's, as in LimitNPROC, and their "
            "values, each of one line or a list of such."
        )


def _check_service_environment(given: Given) -> Iterator[str]:
    """The messages name the variables and the secrets, and never show a value."""
    environment, credentials = given["asgi_service_environment"], given["asgi_service_credentials"]
    if not isinstance(environment, dict):
        yield "asgi_service_environment is not a mapping. Write one name and its value on each line, with a colon between them."
    else:
        if names := misfits(r"[A-Za-z_][A-Za-z0-9_]*", environment):
            yield (
                f"asgi_service_environment has the names {shown(names)}, which cannot be environment variables. Use letters, digits and "
                "underscores, not beginning with a digit."
            )
        if broken := [name for name, value in environment.items() if "\0" in str(value)]:
            yield (
                f"asgi_service_environment has values with a NUL character, for {shown(broken)}, which no environment can carry. Take it "
                "out, or use asgi_service_credentials."
            )
        if compound := [name for name, value in environment.items() if not isinstance(value, (str, int, float))]:
            yield (
                f"asgi_service_environment has values that are not text, a number or a boolean, for {shown(compound)}. Write each as one "
                "text; to_json makes one of a list or a mapping."
            )
    names = list(credentials) if isinstance(credentials, dict) else []
    if (
        not isinstance(credentials, dict)
        or misfits(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", names)
        or any(not isinstance(value, (str, int, float)) for value in credentials.values())
    ):
        yield (
            f"asgi_service_credentials is not a mapping of names to texts (its values are not shown; the names are {shown(names)}). Use "
            "letters, digits and . _ - in a name, which names a file, and write each value as one text."
        )


CHECKS: dict[str, Callable[[Given], Iterator[str]]] = {
    "asgi_account": check_account,
    "asgi_uv": check_uv,
    "asgi_release": check_release,
    "asgi_service": check_service,
    "asgi_rollout": check_rollout,
}
