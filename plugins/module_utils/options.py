# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a server which options it has.

The role asgi_service installs it on the host and runs it with the Python of the virtual environment that the server is in. So it
needs nothing but the standard library and the server itself.
"""

from __future__ import annotations

import difflib
import inspect
import sys
from collections.abc import Iterable
from importlib import import_module


def parameters(function: object) -> set[str]:
    return {name for name in inspect.signature(function).parameters if name != "self"}  # type: ignore[arg-type]


# Settings of gunicorn's that only its own workers heed, since they are about HTTP. A worker that is built on uvicorn has uvicorn's.
UNHEEDED_BY_UVICORN = frozenset(
    (
        "access_log_format",
        "asgi_disconnect_grace_period",
        "asgi_lifespan",
        "asgi_loop",
        "casefold_http_method",
        "forwarder_headers",
        "header_map",
        "http2_cleartext",
        "http2_initial_window_size",
        "http2_max_concurrent_streams",
        "http2_max_frame_size",
        "http2_max_header_list_size",
        "http_parser",
        "http_protocols",
        "limit_request_field_size",
        "limit_request_fields",
        "limit_request_line",
        "permit_obsolete_folding",
        "permit_unconventional_http_method",
        "permit_unconventional_http_version",
        "post_request",
        "pre_request",
        "protocol",
        "proxy_allow_ips",
        "proxy_protocol",
        "secure_scheme_headers",
        "sendfile",
        "strip_header_spaces",
        "threads",
        "tmp_upload_dir",
        "uwsgi_allow_ips",
        "websocket_max_message_size",
        "worker_connections",
    )
)


def known(server: str) -> set[str]:
    """Return the names of all options of a server that have an effect. Raises ImportError where it is not installed.

    `gunicorn` is the one with workers on uvicorn, `gunicorn/asgi` the one with its own.
    """
    if server.startswith("gunicorn"):
        own = {setting.name for setting in import_module("gunicorn.config").KNOWN_SETTINGS}
        if server == "gunicorn/asgi":
            return own
        return (own - UNHEEDED_BY_UVICORN) | parameters(import_module("uvicorn.config").Config.__init__)
    if server == "uvicorn":
        return {parameter.name for parameter in import_module("uvicorn.main").main.params}
    if server == "hypercorn":
        config = import_module("hypercorn.config").Config
        return {name for name in dir(config) if not name.startswith("_") and not callable(getattr(config, name))}
    return parameters(import_module("granian.server").Server.__init__)


def complaints(server: str, names: Iterable[str], options: Iterable[str]) -> list[str]:
    """Return one sentence for each of `names` that is not among the server's `options`, with what may have been meant."""
    options = sorted(options)
    found = []
    for name in names:
        if name in options:
            continue
        near = difflib.get_close_matches(name, options, n=3)
        program, slash, worker = server.partition("/")
        having = f"{program} with its own {worker} worker" if slash else program
        hint = f"did you mean {' or '.join(near)}?" if near else f"see {program}'s own documentation."
        if server == "gunicorn" and name in UNHEEDED_BY_UVICORN:
            what = "which gunicorn leaves to its workers, and those on uvicorn do not heed it"
            found.append(f"asgi_service_options has {name}, {what}; {hint}")
        else:
            found.append(f"asgi_service_options has {name}, but {having} has no option of this name; {hint}")
    return found


def main(arguments: list[str]) -> int:
    """Return 0 if the server, the first argument, has all options that the others name; 1 and a message if not."""
    server, *names = arguments
    try:
        found = complaints(server, names, known(server))
    except ImportError as error:
        found = [f"asgi_service_options cannot be checked, for {server.partition('/')[0]} is not in {sys.prefix}: {error}"]
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
