from __future__ import annotations

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.nginx import Configuration, conflicts, parse, split_dump

MAIN = "/etc/nginx/nginx.conf"
SITE = "/etc/nginx/conf.d/asgi-shop.conf"
OTHER = "/etc/nginx/conf.d/asgi-blog.conf"
HAND = "/etc/nginx/sites-enabled/old"
WRITTEN = "# Written by the Ansible role steadfast.asgi.asgi_nginx; changes made here are overwritten.\n"
HTTP = "events {}\nhttp {\n include /etc/nginx/conf.d/*.conf;\n include sites-enabled/*;\n}\n"
OURS = WRITTEN + (
    "server { listen 80; listen [::]:80; server_name shop.example; return 301 https://$host$request_uri; }\n"
    "server { listen 443 ssl; listen [::]:443 ssl; listen 443 quic; server_name shop.example *.shop.example; }\n"
)


def refused(other: str, file: str = HAND, ours: str = OURS, main: str = HTTP, **more: str) -> list[str]:
    return conflicts({MAIN: main, SITE: ours, file: other} | more, SITE, "Shop.Example")


CLASHES = {
    "the same name": "server { listen 443 ssl; server_name shop.example; }",
    "one of several names": "server { listen 443 ssl; server_name a.example shop.example b.example; }",
    "on another line": "server {\n listen 443\n ssl;\n server_name a.example\n  shop.example;\n}",
    "a second directive": "server { listen 443 ssl; server_name a.example; server_name shop.example; }",
    "over HTTP alone": "server { listen 80; server_name shop.example; }",
    "without a listen": "server { server_name shop.example; }",
    "an address without a port": "server { listen 0.0.0.0; server_name shop.example; }",
    "any address": "server { listen *:80; server_name shop.example; }",
    "zeros": "server { listen 0.0.0.0:80; server_name shop.example; }",
    "IPv6 alone": "server { listen [::]:80; server_name shop.example; }",
    "IPv6 written in full": "server { listen [0:0:0:0:0:0:0:0]:80; server_name shop.example; }",
    "QUIC alone": "server { listen 443 quic reuseport; server_name shop.example; }",
    "a range of ports": "server { listen 78-82; server_name shop.example; }",
    "upper case": "server { listen 443 ssl; server_name SHOP.Example; }",
    "a trailing dot": "server { listen 443 ssl; server_name shop.example.; }",
    "quotes": "server { listen '443' ssl; server_name \"shop.example\"; }",
    "a dot for all": "server { listen 443 ssl; server_name .shop.example; }",
    "the same wildcard": "server { listen 443 ssl; server_name *.shop.example; }",
    "the host's name": "server { listen 443 ssl; server_name $hostname; }",
    "a file that is included": "server { include /etc/nginx/snippets/names; listen 443 ssl; }",
    "options of the socket": "server { listen 443 default_server ssl backlog=99 fastopen=3; server_name shop.example; }",
    "braces before": "map $a $b { default '}'; '~{' \"}\"; } server { listen 443 ssl; server_name shop.example; }",
    "comments before": "# server {\nserver { # }\n listen 443 ssl; #;\n server_name shop.example; }",
    "a location before": 'server { listen 443 ssl; location ~ "^/a{2}$" { return 404; } server_name shop.example; }',
    "a file with Windows's line ends": "server {\r\n listen 443 ssl;\r\n server_name shop.example;\r\n}\r\n",
}
FINE = {
    "another name": "server { listen 443 ssl; server_name blog.example; }",
    "another port": "server { listen 8443 ssl; server_name shop.example; }",
    "an address of its own": "server { listen 192.0.2.1:443 ssl; server_name shop.example; }",
    "a unix socket": "server { listen unix:/run/shop.sock; server_name shop.example; }",
    "a wildcard around it": "server { listen 443 ssl; server_name *.example; }",
    "a wildcard behind it": "server { listen 443 ssl; server_name shop.*; }",
    "a name below our wildcard": "server { listen 443 ssl; server_name www.shop.example; }",
    "a regular expression": "server { listen 443 ssl; server_name ~^shop\\.example$; }",
    "no name": "server { listen 443 ssl; }",
    "an empty name": 'server { listen 443 ssl; server_name ""; }',
    "the name that nobody asks for": "server { listen 443 ssl default_server; server_name _; }",
    "a comment": "# server { listen 443 ssl; server_name shop.example; }",
    "a text": "server { listen 443 ssl; return 200 'server_name shop.example;'; }",
    "a map": "map $host $a { hostnames; shop.example 1; }",
    "an upstream": "upstream shop.example { server 192.0.2.1:443; }",
    "nothing": "",
    "what nginx will refuse": "server { listen 443 ssl; } } } server_name shop.example;",
}


@pytest.mark.parametrize("other", CLASHES.values(), ids=CLASHES)
def test_a_name_that_another_site_has_is_refused(other: str) -> None:
    said = refused(other, **{"/etc/nginx/snippets/names": "server_name shop.example;"})
    assert said
    assert all("shop.example (asgi_nginx_domains" in each and HAND in each and "somebody else's" in each for each in said), said


@pytest.mark.parametrize("other", FINE.values(), ids=FINE)
def test_what_is_fine_is_not_refused(other: str) -> None:
    assert refused(other) == []


def test_the_other_site_is_named() -> None:
    other = WRITTEN + "\nupstream asgi_blog { server unix:/run/blog/live.sock; }\n\nserver {\n listen 80;\n server_name shop.example;\n}"
    (said,) = refused(other, OTHER)
    assert said.startswith(
        "shop.example (asgi_nginx_domains or asgi_nginx_redirect_domains) is served already on *:80 by the application blog "
    )
    assert f"({OTHER}, line 5)" in said
    assert "asgi_nginx_app: blog, asgi_nginx_state: absent" in said
    # Only its name is like ours.
    (said,) = refused(other.removeprefix(WRITTEN), OTHER)
    assert "somebody else's" in said
    assert "asgi_nginx_state" not in said


def test_what_the_other_site_does_is_said() -> None:
    (said,) = refused("server { server_name shop.example; location / { if ($a) { } proxy_pass http://127.0.0.1:8000; } }")
    assert "a site of somebody else's, which passes requests to http://127.0.0.1:8000 (" in said


def test_each_name_is_said_once() -> None:
    said = refused("server { listen 80; listen 443 ssl; server_name shop.example; }")
    assert [each.split(" is served")[0] for each in said] == ["shop.example (asgi_nginx_domains or asgi_nginx_redirect_domains)"] * 2
    assert "on *:80 by" in said[0]
    assert "on *:443 by" in said[1]


def test_the_site_is_no_conflict_with_itself() -> None:
    assert conflicts({MAIN: HTTP, SITE: OURS + OURS}, SITE) == []


@pytest.mark.parametrize("challenge", ["/etc/letsencrypt/le_http_01_cert_challenge.conf", "/etc/nginx/conf.d/00-asgi-acme.conf"])
def test_what_is_there_for_a_certificate_is_none(challenge: str) -> None:
    main = HTTP.replace("http {", f"http {{ include {challenge};")
    assert refused("server { listen 80; server_name shop.example; }", challenge, main=main) == []


@pytest.mark.parametrize(
    ("include", "read"),
    [
        ("/etc/nginx/sites-enabled/*;", True),
        ("sites-enabled/*;", True),
        ("sites-enabled/old;", True),
        ('"sites-enabled/[a-z]?d";', True),
        ("sites-available/*;", False),
        ("*;", False),
        ("/srv/*/*.conf;", False),
    ],
)
def test_files_that_nginx_does_not_read(include: str, read: bool) -> None:
    main = f"http {{ include conf.d/*.conf; include {include} }}"
    assert bool(refused("server { server_name shop.example; }", main=main)) == read


def test_files_are_read_through_others_and_never_in_a_circle() -> None:
    main = "include parts/http.conf;"
    parts = "http { include conf.d/*.conf; include parts/*.inc; }"
    found = refused(
        "include parts/*.inc; server { server_name shop.example; }",
        "/etc/nginx/parts/a.inc",
        main=main,
        **{"/etc/nginx/parts/http.conf": parts},
    )
    assert len(found) == 1


def test_a_file_that_nginx_would_not_read() -> None:
    (said,) = refused("", main="http { include sites-enabled/*; }")
    assert said.startswith(f"{MAIN} does not read {SITE}")
    assert said.endswith("include /etc/nginx/conf.d/*.conf;")


@pytest.mark.parametrize("main", ["", "events {}", "stream { include conf.d/*.conf; }"])
def test_where_nothing_is_known_nothing_is_refused(main: str) -> None:
    assert refused("server { server_name shop.example; }", main=main) == []
    assert conflicts({}, SITE) == []


def test_stream_is_not_http() -> None:
    assert refused("", main=HTTP + "stream { server { listen 443; server_name shop.example; } }") == []


@pytest.mark.parametrize(
    ("ours", "other", "beginning"),
    [
        ("listen 80 default_server", "listen *:80 default_server", "asgi_nginx_default_server is true"),
        ("listen 80 default_server", "listen 80 default", "asgi_nginx_default_server is true"),
        ("listen [::]:80 default_server", "listen [::]:80 ipv6only=on default_server", "asgi_nginx_default_server is true"),
        ("listen 80 default_server", "listen [::]:80 default_server", ""),
        ("listen 80 default_server", "listen 8080 default_server", ""),
        ("listen 443", "listen 443 ssl", "asgi_nginx_tls is false"),
        ("listen 443", "listen 443; ssl on", "asgi_nginx_tls is false"),
        ("listen 443 ssl", "listen 443", ""),
        ("listen 443 ssl", "listen 443 ssl http2", ""),
        ("listen 80", "listen 80 proxy_protocol", "asgi_nginx_proxy_protocol is false"),
        ("listen 80 proxy_protocol", "listen 80", ""),
        ("listen 80 proxy_protocol", "listen 80 proxy_protocol", ""),
        ("listen 443 quic", "listen 443 quic reuseport", ""),
        ("listen 443 quic", "listen 443 ssl", ""),
    ],
)
def test_options_that_hold_for_all_sites_of_an_address(ours: str, other: str, beginning: str) -> None:
    said = refused(f"server {{ {other}; server_name b.example; }}", ours=f"server {{ {ours}; server_name a.example; }}")
    assert [each[: len(beginning)] for each in said] == ([beginning] if beginning else [])


def test_dump() -> None:
    dump = f"# configuration file {MAIN}:\nhttp {{}}\n# a word\n\n# configuration file /a b.conf:\n\n# configuration file /c:\nx;"
    assert split_dump(dump) == {MAIN: "http {}\n# a word\n\n", "/a b.conf": "\n", "/c": "x;"}
    assert split_dump("") == {}


def test_parse() -> None:
    (server,) = parse("server{listen 80;location / {return 200 'a;b}\\'c';}}", "f")
    assert [each.words for each in server.block] == [["listen", "80"], ["location", "/"]]
    assert server.block[1].block[0].words == ["return", "200", "a;b}'c"]
    assert [each.words for each in parse("set $a ${b}c; d e\\;f;", "f")] == [["set", "$a", "${b}c"], ["d", "e\\;f"]]


def test_unterminated_quotes_take_no_time() -> None:
    text = "server { listen 80; server_name 'shop.example; }" + " \\" * 20000 + "'" * 1001
    assert isinstance(Configuration({MAIN: f"http {{ {text} }}"}).servers(), list)
