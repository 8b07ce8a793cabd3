# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sites in nginx's configuration, and where two of them claim the same."""

from __future__ import annotations

import ipaddress
import os.path
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

_TOKEN = re.compile(
    r"""\s+ | \#[^\n]*
      | (?P<quoted>"(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*')
      | (?P<mark>[;{}])
      | (?P<word>(?:\\.|\$\{|[^\s;{\\])+)""",
    re.VERBOSE | re.DOTALL,
)
_HEADING = re.compile(r"^# configuration file (.+):\n", re.MULTILINE)
_WRITTEN = "# Written by the Ansible role steadfast.asgi.asgi_nginx;"
_OWN_NAME = re.compile(r"/asgi-([a-z][a-z0-9-]*)\.conf\Z")
# certbot's and asgi_certificate's, for the seconds in which an authority asks for a proof.
_TRANSIENT = ("le_http_01_cert_challenge.conf", "00-asgi-acme.conf")


@dataclass
class Directive:
    """One directive, with those of its block."""

    words: list[str]
    file: str
    line: int
    block: list[Directive] = field(default_factory=list)


@dataclass
class Server:
    """A server block: its names, its sockets by transport, address and port with their options, and what requests are passed on to."""

    file: str
    line: int
    names: set[str]
    sockets: dict[tuple[str, str, str], set[str]]
    serves: str = ""


def split_dump(dump: str) -> dict[str, str]:
    """Return the files in what C(nginx -T) prints, by their paths, in that order."""
    parts = _HEADING.split(dump)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def parse(text: str, file: str) -> list[Directive]:
    """Return the directives of a file. What nginx would not read is passed over, since nginx itself is asked later."""
    top: list[Directive] = []
    blocks = [top]
    words: list[str] = []
    line = start = 1
    for token in _TOKEN.finditer(text):
        if token["mark"]:
            if token["mark"] == "}":
                if len(blocks) > 1:
                    blocks.pop()
            elif words:
                directive = Directive(words, file, start)
                blocks[-1].append(directive)
                if token["mark"] == "{":
                    blocks.append(directive.block)
            words = []
        elif token["quoted"] or token["word"]:
            if not words:
                start = line
            words.append(re.sub(r"\\(.)", r"\1", token["quoted"][1:-1]) if token["quoted"] else token["word"])
        line += token[0].count("\n")
    return top


def _included(pattern: str, main: str, files: Iterable[str]) -> list[str]:
    """Return those of `files` that `include PATTERN` reads."""
    wanted = os.path.join(os.path.dirname(main), pattern).split("/")

    def fits(file: str) -> bool:
        parts = file.split("/")
        return len(parts) == len(wanted) and all(
            fnmatchcase(part, each) and (each.startswith(".") or not part.startswith(".")) for part, each in zip(parts, wanted, strict=True)
        )

    return sorted(file for file in files if fits(file))


class Configuration:
    """nginx's configuration, from the texts of its files; the first is the main one."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self.files = files
        self.main = next(iter(files), "")

    def servers(self, hostname: str = "") -> list[Server]:
        """Return all server blocks of the http block."""
        return [
            self._server(block, hostname.lower())
            for http in self.http()
            for block in self._expand(http.block, (self.main,))
            if block.words[0] == "server" and os.path.basename(block.file) not in _TRANSIENT
        ]

    def http(self) -> list[Directive]:
        """Return the http block, nothing where there is none."""
        main = self._expand(parse(self.files.get(self.main, ""), self.main), (self.main,))
        return [directive for directive in main if directive.words[0] == "http"]

    def _expand(self, directives: list[Directive], chain: tuple[str, ...]) -> Iterator[Directive]:
        for directive in directives:
            if directive.words[0] != "include" or len(directive.words) != 2:
                yield directive
                continue
            for file in _included(directive.words[1], self.main, self.files):
                if file not in chain:
                    yield from self._expand(parse(self.files[file], file), (*chain, file))

    def _server(self, block: Directive, hostname: str) -> Server:
        server = Server(block.file, block.line, set(), {})
        always: set[str] = set()
        for directive in self._expand(block.block, (block.file,)):
            name, *arguments = directive.words
            if name == "server_name":
                server.names |= {each for argument in arguments for each in _names(argument, hostname)}
            elif name == "listen" and arguments:
                for socket in _sockets(arguments[0], "quic" in arguments):
                    server.sockets.setdefault(socket, set()).update(arguments[1:])
            elif name == "ssl" and arguments == ["on"]:
                always.add("ssl")
        if not server.sockets:
            server.sockets["tcp", "*", "80"] = set()
        for options in server.sockets.values():
            options |= always
        server.serves = next(self._passes(block.block, (block.file,)), "")
        return server

    def _passes(self, directives: list[Directive], chain: tuple[str, ...]) -> Iterator[str]:
        """Yield what requests are passed on to."""
        for directive in self._expand(directives, chain):
            if directive.words[0].endswith("_pass") and len(directive.words) == 2:
                yield directive.words[1]
            yield from self._passes(directive.block, chain)


def _names(name: str, hostname: str) -> list[str]:
    """Return the names that a name in the configuration stands for. A regular expression stands for none that another site has."""
    name = hostname if name.lower() == "$hostname" else name.lower().rstrip(".")
    if name.startswith("."):
        return [name[1:], f"*{name}"]
    return [] if not name or name == "_" or name.startswith("~") else [name]


def _sockets(value: str, quic: bool) -> list[tuple[str, str, str]]:
    """Return what a listen directive opens: transport, address and port."""
    if value.startswith("unix:"):
        return [("tcp", value, "")]
    address, port = _address(value)
    first, _hyphen, last = port.partition("-")
    return [("udp" if quic else "tcp", address, str(number)) for number in range(int(first), int(last or first) + 1)]


def _address(value: str) -> tuple[str, str]:
    """Return the address and the port, or the range of ports, that a listen directive names."""
    if re.fullmatch("[0-9]+(-[0-9]+)?", value):
        return "*", value
    found = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::([0-9]+(?:-[0-9]+)?))?", value)
    if not found:
        return value, "0"
    address, port = found[1].lower(), found[2] or "80"
    if address.startswith("["):
        try:
            return f"[{ipaddress.ip_address(address[1:-1]).compressed}]", port
        except ValueError:
            return address, port
    return "*" if address == "0.0.0.0" else address, port  # noqa: S104


def written_by(file: str, text: str) -> str:
    """Return the application whose site a file is, if the role asgi_nginx has written it."""
    found = _OWN_NAME.search(file)
    return found[1] if found and text.startswith(_WRITTEN) else ""


def _place(server: Server, files: Mapping[str, str]) -> str:
    application = written_by(server.file, files.get(server.file, ""))
    serves = f", which passes requests to {server.serves}" if server.serves else ""
    of = f"the application {application}" if application else f"a site of somebody else's{serves}"
    return f"{of} ({server.file}, line {server.line})"


def _at(sockets: Iterable[tuple[str, str, str]]) -> str:
    kinds = {"tcp": "", "udp": " (QUIC)"}
    return ", ".join(f"{address}:{port}{kinds[kind]}" if port else address for kind, address, port in sorted(sockets))


def conflicts(files: Mapping[str, str], site: str, hostname: str = "") -> list[str]:
    """Return what the site in the file `site` claims that another one has: names, being the default server, the form of a port.

    `files` are nginx's as they will be, the main one first. Where the main file has no http block nothing is known, and nothing is refused.
    """
    configuration = Configuration(files)
    servers = configuration.servers(hostname)
    ours = [server for server in servers if server.file == site]
    if not ours:
        missing = f"{configuration.main} does not read {site}, so nginx would not serve the site. Put this into its http block"
        return [f"{missing}: include {os.path.dirname(site)}/*.conf;"] if configuration.http() else []
    found: dict[str, None] = {}
    for own in ours:
        for other in servers:
            if other.file == site:
                continue
            shared = {socket for socket in own.sockets if socket in other.sockets}
            for name in sorted(own.names & other.names) if shared else []:
                application = written_by(other.file, files[other.file])
                remove = f" or remove that site (asgi_nginx_app: {application}, asgi_nginx_state: absent)" if application else ""
                found[
                    f"{name} (asgi_nginx_domains or asgi_nginx_redirect_domains) is served already on {_at(shared)} by "
                    f"{_place(other, files)}. nginx would serve only one of the two. Take the name out of one of them{remove}."
                ] = None
            default = {socket for socket in shared if _default(own.sockets[socket]) and _default(other.sockets[socket])}
            if default:
                found[
                    f"asgi_nginx_default_server is true, and the default server of {_at(default)} is {_place(other, files)}. "
                    "Set it for one site of the host, and asgi_nginx_remove_debian_default to true if the other one is Debian's page."
                ] = None
            for option, variable in (("ssl", "asgi_nginx_tls"), ("proxy_protocol", "asgi_nginx_proxy_protocol")):
                other_form = {socket for socket in shared if option in other.sockets[socket] - own.sockets[socket] and socket[0] == "tcp"}
                if other_form:
                    found[
                        f"{variable} is false, and {_at(other_form)} is made for {option} by {_place(other, files)}, for all sites on it. "
                        f"Take another port (asgi_nginx_http_port, asgi_nginx_https_port), or set {variable} to true."
                    ] = None
    return list(found)


def _default(options: set[str]) -> bool:
    return not options.isdisjoint({"default_server", "default"})
