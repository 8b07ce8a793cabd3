"""The site that asgi_nginx writes: what depends on nginx's version and on variables that the role's scenario leaves alone."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles/asgi_nginx"

Render = Callable[..., str]


@pytest.fixture(scope="module")
def evaluate() -> Render:
    """Evaluate a template as the role would on a host that was probed like this, with `variables` on top of its own."""
    loader = DataLoader()
    own: dict[str, Any] = {}
    for name in ("defaults/main.yml", "vars/main.yml"):
        own |= loader.load_from_file(str(ROLE / name), trusted_as_template=True)

    def run(template: str, nginx: str = "1.26.3", debian: str = "13", ipv6: str = "yes", **variables: Any) -> str:
        version = nginx and f"nginx version: nginx/{nginx} built with OpenSSL {variables.pop('openssl', '3.0.17 1 Jul 2025')}"
        if nginx >= "1.26":
            version += " configure arguments: --with-http_v2_module --with-http_v3_module"
        probe = [f"nginx={version}", f"debian={debian}", f"ipv6={ipv6}", "service=active,enabled", "unread="]
        probe += [f"{name}={variables.pop(name, '')}" for name in ("brotli", "quic")]
        given = {"asgi_app": "shop", "asgi_domain": "shop.example", "ansible_search_path": [str(ROLE)], **variables}
        merged = own | {"__asgi_nginx_probe": {"stdout_lines": probe}, "__asgi_nginx_probe_again": {}} | given
        return str(Templar(loader=loader, variables=merged).template(trust_as_template(template)))

    return run


@pytest.fixture(scope="module")
def render(evaluate: Render) -> Render:
    """Render the site, or another of the role's files."""

    def run(file: str = "site.conf.j2", **given: Any) -> str:
        return evaluate(f"{{{{ lookup('ansible.builtin.template', '{file}') }}}}", **given)

    return run


def directives(text: str, name: str) -> list[str]:
    """The values of all directives of this name, in order."""
    return re.findall(rf"^\s*{name}\s+(.*?);$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("nginx", "debian", "listen", "http2", "keepalive"),
    [
        ("1.22.1", "12", "443 ssl http2", [], ["32"]),
        ("1.25.0", "12", "443 ssl http2", [], ["32"]),
        ("1.25.1", "12", "443 ssl", ["on"], ["32"]),
        ("1.26.3", "13", "443 ssl", ["on"], ["32"]),
        ("1.29.6", "13", "443 ssl", ["on"], ["32"]),
        ("1.29.7", "13", "443 ssl", ["on"], ["0", "32"]),
        # Not installed yet, in check mode: what its Debian would install.
        ("", "12", "443 ssl http2", [], ["32"]),
        ("", "13", "443 ssl", ["on"], ["32"]),
        ("", "forky/sid", "443 ssl", ["on"], ["32"]),
    ],
)
def test_versions(render: Render, nginx: str, debian: str, listen: str, http2: list[str], keepalive: list[str]) -> None:
    site = render(nginx=nginx, debian=debian)
    assert directives(site, "listen")[-2:] == [listen, "[::]:" + listen]
    assert directives(site, "http2") == http2
    assert directives(site, "keepalive") == keepalive


@pytest.mark.parametrize(("nginx", "least"), [("1.26.3", []), ("1.27.3", []), ("1.27.4", ["5s"]), ("1.29.7", ["5s"])])
def test_a_reload_lets_idle_clients_stay_a_while_where_nginx_can(render: Render, nginx: str, least: list[str]) -> None:
    assert directives(render(nginx=nginx), "keepalive_min_timeout") == least


def test_kept_connections(render: Render) -> None:
    kept = block(render(), "upstream asgi_shop.kept")
    assert directives(kept, "server") == ["unix:/run/shop/live.sock max_fails=0", "unix:/run/shop/./live.sock max_fails=0 backup"]
    assert directives(render(asgi_nginx_upstream_keepalive=5), "keepalive") == ["5"]


@pytest.mark.parametrize(
    "variables",
    [
        {"asgi_nginx_upstream_keepalive": 0},
        {"asgi_service_workers": "cpu"},
        {"asgi_service_limit_concurrency": 100},
        # An error on a kept connection would count against its server.
        {"asgi_nginx_upstream": ["127.0.0.1:8000"]},
        {"asgi_nginx_upstream": ["unix:/run/a.sock", "unix:/run/b.sock"]},
    ],
)
def test_no_kept_connections(render: Render, variables: dict[str, Any]) -> None:
    site = render(nginx="1.26.3", **variables)
    assert "kept" not in site
    assert directives(site, "proxy_pass") == ["http://asgi_shop"]
    assert re.findall(r"^    (.*);$", block(site, "map $asgi_upgrade_shop $asgi_conn_shop"), re.MULTILINE) == [
        "default close",
        "websocket upgrade",
    ]


def test_access_log_line_by_line(render: Render) -> None:
    site = render(asgi_nginx_access_log_flush=0)
    assert set(directives(site, "access_log")) == {"/var/log/nginx/shop.access.log asgi_shop if=$asgi_log_shop"}


def test_http2_off(render: Render) -> None:
    for nginx in ("1.22.1", "1.26.3"):
        assert "http2" not in render(nginx=nginx, asgi_nginx_http2=False)


@pytest.mark.parametrize(("ipv6", "wanted"), [("yes", False), ("", True), ("", "yes")])
def test_ipv6_only_where_it_is_and_is_wanted(render: Render, ipv6: str, wanted: bool | str) -> None:
    assert directives(render(ipv6=ipv6, asgi_nginx_ipv6=wanted), "listen") == ["80", "443 ssl"]


@pytest.mark.parametrize(
    ("domains", "port", "target"),
    [
        (["shop.example"], 443, "https://shop.example$request_uri"),
        (["shop.example"], 8443, "https://shop.example:8443$request_uri"),
        (["shop.example", "www.shop.example"], "443", "https://$host$request_uri"),
        (["*.shop.example"], 443, "https://$host$request_uri"),
    ],
)
def test_redirect_goes_to_the_name_that_was_asked_for(render: Render, domains: list[str], port: int, target: str) -> None:
    site = render(asgi_nginx_domains=domains, asgi_nginx_https_port=port)
    assert directives(site, "return")[0] == f"301 {target}"


def test_application_learns_an_unusual_port(render: Render) -> None:
    for headers in ("Host", "X-Forwarded-Host"):
        assert f"{headers} $host:8443" in directives(render(asgi_nginx_https_port=8443), "proxy_set_header")
        assert f"{headers} $host" in directives(render(asgi_nginx_https_port="443"), "proxy_set_header")


def test_no_redirect(render: Render) -> None:
    site = render(asgi_nginx_redirect=False)
    assert directives(site, "listen") == ["443 ssl", "[::]:443 ssl"]
    assert "301" not in site


def test_default_server_shows_nothing(render: Render) -> None:
    site = render(asgi_nginx_default_server=True)
    first = site[site.index("server {") : site.index("server {", site.index("ssl_reject_handshake"))]
    ports = ["80", "[::]:80", "443 ssl", "[::]:443 ssl"]
    assert directives(first, "listen") == [f"{port} default_server" for port in ports]
    assert directives(first, "ssl_reject_handshake") == ["on"]
    assert directives(first, "return") == ["444"]
    assert site.count("default_server") == 4
    # Without TLS there is no handshake.
    assert not directives(render(asgi_nginx_default_server=True, asgi_nginx_tls=False), r"(?:ssl\w*|listen .* ssl)")
    assert "default_server" not in render()


@pytest.mark.parametrize(
    ("variables", "header"),
    [
        ({}, ['"max-age=63072000" always']),
        ({"asgi_nginx_hsts_include_subdomains": True}, ['"max-age=63072000; includeSubDomains" always']),
        (
            {"asgi_nginx_hsts_include_subdomains": True, "asgi_nginx_hsts_preload": True, "asgi_nginx_hsts_max_age": 31536000},
            ['"max-age=31536000; includeSubDomains; preload" always'],
        ),
        ({"asgi_nginx_hsts_max_age": 0}, ['"max-age=0" always']),
        ({"asgi_nginx_hsts": False}, []),
        ({"asgi_nginx_tls": False}, []),
    ],
)
def test_hsts(render: Render, variables: dict[str, Any], header: list[str]) -> None:
    assert directives(render("headers.conf.j2", **variables), "add_header Strict-Transport-Security") == header
    # The application's own is hidden where nginx sends one, and passed on where it does not.
    assert bool(directives(render(**variables), "proxy_hide_header")) == bool(header)


def test_every_location_that_adds_a_header_includes_the_others(render: Render) -> None:
    site = render(asgi_nginx_static=[{"url": "/static/", "path": "static"}, {"url": "/icon.svg", "path": "/srv/icon.svg"}])
    locations = [block for block in re.split(r"\n    location ", site)[1:] if "add_header" in block]
    assert len(locations) == 4
    for location in locations:
        assert directives(location, "include") == ["/etc/nginx/snippets/asgi-shop-headers.conf"]


def test_headers_that_are_unset_leave_nothing(render: Render) -> None:
    unset = dict.fromkeys(["asgi_nginx_content_type_options", "asgi_nginx_referrer_policy", "asgi_nginx_frame_options"], "")
    assert not directives(render("headers.conf.j2", asgi_nginx_hsts=False, **unset), "add_header")
    assert "upstream_http" not in render(**unset)


def test_header_variables_match(render: Render) -> None:
    variables = {"asgi_app": "my-shop", "asgi_nginx_headers": {"Permissions-Policy": "camera=()", "X-Frame-Options": "DENY"}}
    added = re.findall(r"^add_header (\S+) (\$\S+) always;$", render("headers.conf.j2", **variables), re.MULTILINE)
    made = re.findall(r'^map \$upstream_http_(\S+) (\$\S+) {\n.*\n    "" "(.*)";', render(**variables), re.MULTILINE)
    assert [(name.lower().replace("-", "_"), variable) for name, variable in added] == [row[:2] for row in made]
    assert ("x_frame_options", "$asgi_header3_my_shop", "DENY") in made
    assert ("permissions_policy", "$asgi_header4_my_shop", "camera=()") in made


@pytest.mark.parametrize(
    ("entry", "location", "alias"),
    [
        ({"url": "/s/", "path": "static"}, "^~ /s/", "/opt/shop/slots/live/release/app/static/"),
        ({"url": "/s/", "path": "static/"}, "^~ /s/", "/opt/shop/slots/live/release/app/static/"),
        ({"url": "/s/", "path": "/srv/media"}, "^~ /s/", "/srv/media/"),
        ({"url": "/a/b.txt", "path": "b.txt"}, "= /a/b.txt", "/opt/shop/slots/live/release/app/b.txt"),
    ],
)
def test_static_folders_end_with_a_slash_on_both_sides(render: Render, entry: dict[str, str], location: str, alias: str) -> None:
    site = render(asgi_nginx_static=[entry])
    assert f"    location {location} {{\n        alias {alias};\n" in site


def test_cache_control_can_be_left_out(render: Render) -> None:
    site = render(asgi_nginx_static=[{"url": "/s/", "path": "s", "cache_control": ""}])
    assert directives(site, "add_header Cache-Control") == ["no-store always"] * 2


def test_logs(render: Render) -> None:
    site = render(asgi_nginx_access_log="off", asgi_nginx_error_log="")
    assert set(directives(site, "access_log")) == {"off"}
    assert not directives(site, "error_log")
    assert not directives(render(asgi_nginx_access_log=""), "access_log")


def test_own_lines(render: Render) -> None:
    block = "location /up {\n    proxy_pass http://asgi_shop;\n}\n"
    site = render(asgi_nginx_extra=["deny 192.0.2.1;", block], asgi_nginx_redirect_extra=["allow all;"])
    assert "\n\n    deny 192.0.2.1;\n\n    location /up {\n        proxy_pass http://asgi_shop;\n    }\n" in site
    # Before ours, so that an error_page of the user's wins: nginx takes the first.
    assert site.index("location /up") < site.index("error_page")
    assert site.index("allow all;") < site.index("return 301")


def test_gzip_off(render: Render) -> None:
    assert directives(render(asgi_nginx_gzip="false"), "gzip") == ["off"]


def block(text: str, beginning: str) -> str:
    """What is between the braces of the one block that begins so."""
    (found,) = re.findall(rf"^( *){re.escape(beginning)} {{\n(.*?)^\1}}", text, re.MULTILINE | re.DOTALL)
    return found[1]


@pytest.mark.parametrize(
    ("upstream", "servers", "next_upstream"),
    [
        ("unix:/run/a.sock", ["unix:/run/a.sock max_fails=0"] * 2, "error"),
        (["unix:/run/a.sock"], ["unix:/run/a.sock max_fails=0"] * 2, "error"),
        ("127.0.0.1:8000", ["127.0.0.1:8000"], "error timeout"),
        (["10.0.0.1:80", "10.0.0.2:80"], ["10.0.0.1:80", "10.0.0.2:80"], "error timeout"),
    ],
)
def test_upstreams(render: Render, upstream: str | list[str], servers: list[str], next_upstream: str) -> None:
    site = render(asgi_nginx_upstream=upstream)
    assert directives(block(site, "upstream asgi_shop"), "server") == servers
    # Never non_idempotent.
    assert directives(site, "proxy_next_upstream") == [next_upstream]


def test_slow_clients_are_cut_off_by_every_server(render: Render) -> None:
    """nginx takes the time for the header from the default server of a port, whichever that is."""
    site = render(asgi_nginx_default_server=True, asgi_nginx_redirect_domains=["www.shop.example"])
    assert directives(site, "client_header_timeout") == ["15"] * site.count("\nserver {")


def test_tls_profiles(render: Render) -> None:
    intermediate, modern = render(), render(asgi_nginx_tls_profile="modern")
    assert directives(intermediate, "ssl_protocols") == ["TLSv1.2 TLSv1.3"]
    assert directives(intermediate, "ssl_ciphers")[0].startswith("ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-")
    assert directives(modern, "ssl_protocols") == ["TLSv1.3"]
    assert not directives(modern, "ssl_ciphers")
    for site in (intermediate, modern):
        assert directives(site, "ssl_early_data") == ["off"]
        assert directives(site, "ssl_session_tickets") == ["off"]


@pytest.mark.parametrize(
    ("nginx", "debian", "openssl", "first"),
    [
        ("1.22.1", "12", "3.0.17 1 Jul 2025", "X25519"),
        ("1.26.3", "13", "3.5.1 1 Jul 2025", "?X25519MLKEM768"),
        ("1.26.3", "12", "3.0.17 1 Jul 2025 (running with OpenSSL 3.5.4 30 Sep 2025)", "?X25519MLKEM768"),
        ("", "12", "", "X25519"),
        ("", "13", "", "?X25519MLKEM768"),
    ],
)
def test_post_quantum_where_openssl_has_it(render: Render, nginx: str, debian: str, openssl: str, first: str) -> None:
    (groups,) = directives(render(nginx=nginx, debian=debian, openssl=openssl), "ssl_ecdh_curve")
    assert groups.split(":")[0] == first
    assert groups.endswith("X25519:prime256v1:secp384r1")


def test_the_default_server_offers_the_same(render: Render) -> None:
    """nginx takes the groups, and where the name comes too late the versions, from the default server."""
    site = render(asgi_nginx_default_server=True)
    for name in ("ssl_protocols", "ssl_ciphers", "ssl_ecdh_curve"):
        first, second = directives(site, name)
        assert first == second


def test_two_certificates(render: Render) -> None:
    site = render(asgi_nginx_second_certificate="/etc/rsa.pem", asgi_nginx_second_certificate_key="/etc/rsa-key.pem")
    assert directives(site, "ssl_certificate") == ["/etc/asgi-certificates/shop/fullchain.pem", "/etc/rsa.pem"]
    assert directives(site, "ssl_certificate_key") == ["/etc/asgi-certificates/shop/privkey.pem", "/etc/rsa-key.pem"]


def test_client_certificates(render: Render) -> None:
    assert "X-SSL-Client-Verify $ssl_client_verify" in directives(render(asgi_nginx_client_ca="/etc/ca.pem"), "proxy_set_header")
    assert directives(render(asgi_nginx_client_ca="/etc/ca.pem"), "ssl_verify_client") == ["on"]
    optional = render(asgi_nginx_client_ca="/etc/ca.pem", asgi_nginx_client_verify="optional")
    assert directives(optional, "ssl_verify_client") == ["optional"]
    # Without, a client cannot say that it had one.
    assert 'X-SSL-Client-Verify ""' in directives(render(), "proxy_set_header")


def test_http3(render: Render) -> None:
    site = render(asgi_nginx_http3=True)
    assert directives(site, "listen")[-2:] == ["443 quic reuseport", "[::]:443 quic reuseport"]
    assert directives(render("headers.conf.j2", asgi_nginx_http3=True), "add_header Alt-Svc") == ["'h3=\":443\"; ma=86400' always"]
    # Another site shares the socket between the workers already.
    assert directives(render(asgi_nginx_http3=True, quic="/etc/nginx/conf.d/other.conf "), "listen")[-1] == "[::]:443 quic"
    # And so does the first of this site's servers.
    servers = render(asgi_nginx_http3=True, asgi_nginx_default_server=True, asgi_nginx_redirect_domains=["www.shop.example"], ipv6="")
    quic = [listen for listen in directives(servers, "listen") if "quic" in listen]
    assert quic == ["443 quic default_server reuseport", "443 quic", "443 quic"]
    # Where nginx does not have it, where it is not wanted, and without TLS.
    for variables in ({"nginx": "1.22.1"}, {"asgi_nginx_http3": False}, {"asgi_nginx_tls": False}):
        given = {"asgi_nginx_http3": True, **variables}
        assert "quic" not in render(**given)
        assert "Alt-Svc" not in render("headers.conf.j2", **given)


def test_redirect_domains(render: Render) -> None:
    variables = {"asgi_nginx_redirect_domains": ["www.shop.example", "shop.test"]}
    site = render(**variables)
    assert directives(site, "server_name") == ["shop.example", "www.shop.example shop.test"] * 2
    assert [line for line in directives(site, "return") if "301" in line] == ["301 https://shop.example$request_uri"] * 3
    assert len(directives(site, "ssl_certificate")) == 2
    plain = render(asgi_nginx_tls=False, asgi_nginx_http_port=8080, **variables)
    assert directives(plain, "return")[-1] == "301 $scheme://shop.example:8080$request_uri"


def test_acme_challenges_are_answered_over_http_alone(render: Render) -> None:
    variables = {"asgi_nginx_acme_webroot": "/var/lib/asgi-acme", "asgi_nginx_redirect_domains": ["www.shop.example"]}
    site = render(**variables)
    assert directives(site, "root") == ["/var/lib/asgi-acme"] * 2
    assert "acme-challenge" not in site[site.index("443 ssl") :]
    assert "acme-challenge" not in render()
    assert "acme-challenge" in render(asgi_certificate_provider="acme")


def test_proxy_protocol(render: Render) -> None:
    site = render(asgi_nginx_proxy_protocol=True, asgi_nginx_trusted_proxies=["10.0.0.1"], asgi_nginx_default_server=True, ipv6="")
    assert {listen.split()[-1] for listen in directives(site, "listen")} == {"proxy_protocol"}
    assert directives(site, "real_ip_header") == ["proxy_protocol"]
    # The balancer passes on what the client sent, headers included.
    assert "x_forwarded_proto" not in site
    assert "X-Forwarded-Proto $scheme" in directives(site, "proxy_set_header")


def test_an_answer_may_have_headers_of_several_cookies(render: Render) -> None:
    site = render()
    assert directives(site, "proxy_buffer_size") == ["16k"]
    # nginx refuses twice the first buffer if all the others together are not more than that.
    assert directives(site, "proxy_buffers") == ["4 16k"]


def test_locations(render: Render) -> None:
    site = render(
        asgi_nginx_locations=[
            {"path": "/events", "buffering": False, "read_timeout": 3600},
            {"path": "/upload", "request_buffering": "no", "client_max_body_size": "1g", "send_timeout": 9},
            {"path": "/login", "exact": True, "rate": "5r/m", "burst": 3, "connections": 2},
            {"path": "/admin", "allow": ["10.0.0.0/8", "::1"], "auth_file": "/etc/nginx/users", "satisfy": "any"},
            {"path": "/nobody", "allow": []},
        ],
        asgi_nginx_closed=["/metrics", "/nobody"],
    )
    events = block(site, "location ^~ /events")
    assert directives(events, "proxy_buffering") == ["off"]
    assert directives(events, "proxy_read_timeout") == ["3600"]
    upload = block(site, "location ^~ /upload")
    assert directives(upload, "proxy_request_buffering") == ["off"]
    assert (directives(upload, "client_max_body_size"), directives(upload, "proxy_send_timeout")) == (["1g"], ["9"])
    login = block(site, "location = /login")
    assert directives(login, "limit_req") == ["zone=asgi_shop.req.3 burst=3 nodelay"]
    assert directives(login, "limit_conn") == ["asgi_shop.con.3 2"]
    assert "$binary_remote_addr zone=asgi_shop.req.3:10m rate=5r/m" in directives(site, "limit_req_zone")
    admin = block(site, "location ^~ /admin")
    assert directives(admin, "allow") == ["10.0.0.0/8", "::1"]
    assert (directives(admin, "deny"), directives(admin, "satisfy")) == (["all"], ["any"])
    assert directives(admin, "auth_basic_user_file") == ["/etc/nginx/users"]
    assert directives(block(site, "location ^~ /nobody"), "deny") == ["all"]
    assert directives(block(site, "location ^~ /metrics"), "return") == ["404"]
    for name in ("events", "upload", "admin", "nobody"):
        assert directives(block(site, f"location ^~ /{name}"), "proxy_pass") == ["http://asgi_shop$asgi_kept_shop"]
    # The headers of the server block are inherited: no location has a header of its own, in either direction.
    assert not re.findall("proxy_set_header|add_header", "".join((events, upload, login, admin)))


def test_all_of_the_application_can_have_rules(render: Render) -> None:
    site = render(asgi_nginx_locations=[{"path": "/", "auth_file": "/etc/nginx/users"}])
    assert directives(site[site.rindex("location / {") :], "auth_basic") == ['"Restricted"']


def test_an_exact_location_takes_nothing_from_the_others(render: Render) -> None:
    rules = [{"path": "/", "exact": True, "rate": "1r/s"}, {"path": "/metrics", "exact": "true", "allow": ["10.0.0.1"]}]
    site = render(asgi_nginx_locations=rules, asgi_nginx_closed=["/metrics"], asgi_nginx_redirect=False)
    for location in ("location /", "location = /", "location = /metrics"):
        assert directives(block(site, location), "proxy_pass") == ["http://asgi_shop$asgi_kept_shop"]
    assert directives(block(site, "location ^~ /metrics"), "return") == ["404"]


def matches(site: str) -> list[str]:
    """What the locations of the site's own server match, without nginx's own."""
    found = re.findall(r"^    location (.*) [{]$", site, re.MULTILINE)
    return [match for match in found if not re.search(r"@asgi_|/[.]asgi-|/[.]well-known/", match)]


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"^~ /metrics", "/"}),
        ({"asgi_nginx_closed": ["/internal/"]}, {"^~ /internal/", "= /internal", "/"}),
        ({"asgi_nginx_closed": []}, {"/"}),
        # nginx itself redirects who asks for a folder of the application without the slash.
        ({"asgi_nginx_locations": [{"path": "/admin/"}], "asgi_nginx_closed": []}, {"^~ /admin/", "/"}),
        ({"asgi_nginx_locations": [{"path": "/a", "exact": True}], "asgi_nginx_closed": []}, {"= /a", "= /a/", "/"}),
        ({"asgi_nginx_locations": [{"path": "/a/", "exact": True}], "asgi_nginx_closed": []}, {"= /a/", "= /a", "/"}),
        ({"asgi_nginx_locations": [{"path": "/", "exact": True}], "asgi_nginx_closed": []}, {"= /", "/"}),
        # Both are named: each has its own rules.
        (
            {"asgi_nginx_locations": [{"path": "/a", "exact": True}, {"path": "/a/", "exact": True}], "asgi_nginx_closed": []},
            {"= /a", "= /a/", "/"},
        ),
        ({"asgi_nginx_closed": ["/a/"], "asgi_nginx_locations": [{"path": "/a", "exact": True}]}, {"= /a", "= /a/", "^~ /a/", "/"}),
        ({"asgi_service_root_path": "/shop"}, {"^~ /metrics", "^~ /shop/metrics", "/"}),
        ({"asgi_service_root_path": "/shop", "asgi_nginx_closed": ["/shop/a/"]}, {"^~ /shop/a/", "= /shop/a", "^~ /a/", "= /a", "/"}),
        ({"asgi_service_root_path": "/shop", "asgi_nginx_closed": ["/shopping"]}, {"^~ /shopping", "^~ /shop/shopping", "/"}),
        ({"asgi_service_root_path": "/shop", "asgi_nginx_closed": ["/metrics", "/shop/metrics"]}, {"^~ /metrics", "^~ /shop/metrics", "/"}),
        # All of the application: what is asked for without the path that it is mounted at reaches it as well.
        ({"asgi_service_root_path": "/shop", "asgi_nginx_closed": [], "asgi_nginx_locations": [{"path": "/shop"}]}, {"^~ /shop", "/"}),
        ({"asgi_service_root_path": "/shop", "asgi_nginx_closed": [], "asgi_nginx_locations": [{"path": "/"}]}, {"/"}),
        (
            {"asgi_service_root_path": "/shop", "asgi_nginx_closed": [], "asgi_nginx_locations": [{"path": "/a", "exact": True}]},
            {"= /a", "= /a/", "= /shop/a", "= /shop/a/", "/"},
        ),
        ({"asgi_nginx_static": [{"url": "/", "path": "d", "page": "i.html"}], "asgi_nginx_closed": []}, {"/", "= /i.html"}),
    ],
)
def test_a_rule_is_for_all_forms_of_a_path(render: Render, variables: dict[str, Any], expected: set[str]) -> None:
    found = matches(render(asgi_nginx_tls=False, **variables))
    assert len(set(found)) == len(found)
    assert set(found) == expected


def test_twins_have_the_rules_of_the_path(render: Render) -> None:
    locations = [{"path": "/login", "exact": True, "rate": "5r/m", "allow": ["10.0.0.0/8"]}, {"path": "/shop", "auth_file": "/etc/users"}]
    site = render(asgi_nginx_locations=locations, asgi_service_root_path="/shop", asgi_nginx_tls=False)
    first, *others = [block(site, f"location = {path}") for path in ("/login", "/login/", "/shop/login", "/shop/login/")]
    assert others == [first] * 3
    assert "limit_req zone=asgi_shop.req.1;" in first
    assert "auth_basic_user_file /etc/users;" in block(site, "location /")


REFUSALS = {
    "/metrics": "",
    "/": "",
    "//": "slashes",
    "/..": "segment",
    "/a/..": "segment",
    "/a/../b": "segment",
    "/a/./b": "segment",
    "/a/.": "segment",
    "/a/.?b": "segment",
    "/a/%2e%2E/b": "segment",
    "/a%2f..%2Fb": "segment",
    "/a/.%2e": "segment",
    "/a/..;b": "segment",
    "/a/..%3B": "segment",
    "/a/..%3fb": "segment",
    "/a/..%23b": "segment",
    "/a/..%5Cb": "segment",
    "/a/..\\b": "segment",
    "/a#": "segment",
    "/a%0ab": "segment",
    "/a%1F": "segment",
    "/a%7F": "segment",
    "/a%00": "segment",
    "/a?/../b": "",
    "/a?%00#": "",
    "/a?//": "",
    "/a/...": "",
    "/a/..b": "",
    "/a/.b": "",
    "/a/b..": "",
    "/a/%2e%2eb": "",
    "/a%20b%2fc%3f%23%25%5c": "",
    "/a//b": "deep",
    "/a%2f%2fb": "deep",
    "/a/%2Fb": "deep",
    "/a/b//c": "",
    "/%2fa": "slashes",
}


@pytest.fixture(scope="module")
def shallow_and_deep(render: Render) -> tuple[str, str]:
    return render(), render(asgi_nginx_locations=[{"path": "/x/y"}])


@pytest.mark.parametrize(("path", "refused"), REFUSALS.items(), ids=REFUSALS)
def test_paths_that_are_refused(shallow_and_deep: tuple[str, str], path: str, refused: str) -> None:
    """nginx itself is asked in the role's scenario; this is what each of the two expressions is for."""

    def verdict(site: str) -> list[str]:
        expressions = re.findall(r"if \([$]request_uri ~[*] '(.*)'\)", site)
        assert len(expressions) == 2
        return [
            name for name, expression in zip(("segment", "slashes"), expressions, strict=True) if re.search(expression, path, re.IGNORECASE)
        ]

    shallow, deep = map(verdict, shallow_and_deep)
    assert shallow == [each for each in [refused] if each in {"segment", "slashes"}]
    assert deep == (["slashes"] if refused == "deep" else shallow)


@pytest.mark.parametrize(
    ("variables", "depth"),
    [
        ({"asgi_nginx_closed": []}, 1),
        ({}, 1),
        ({"asgi_nginx_closed": ["/a/b/c/"]}, 3),
        ({"asgi_nginx_locations": [{"path": "/a/b"}]}, 2),
        ({"asgi_nginx_locations": [{"path": "/a/b", "exact": True}]}, 3),
        ({"asgi_nginx_static": [{"url": "/robots.txt", "path": "robots.txt"}, {"url": "/a/b/", "path": "b"}]}, 2),
        ({"asgi_nginx_extra": ["location = /a/b/c {\n return 404;\n}", "location /a{ return 404; }"]}, 4),
        ({"asgi_service_root_path": "/shop/v1"}, 3),
    ],
)
def test_how_much_of_a_path_rules_look_at(evaluate: Render, variables: dict[str, Any], depth: int) -> None:
    assert int(evaluate("{{ _asgi_nginx_depth }}", **variables)) == depth


def test_an_exact_path_ends_where_a_url_has_a_query(render: Render) -> None:
    (expression,) = re.findall(r"if \([$]uri ~ '(.*)'\)", render(asgi_nginx_locations=[{"path": "/a.b/", "exact": True}, {"path": "/c"}]))
    assert [path for path in ("/a.b?", "/a.b/;x", "/a.b//#", "/a.b", "/a.b/c", "/axb?", "/c?", "/") if re.match(expression, path)] == [
        "/a.b?",
        "/a.b/;x",
        "/a.b//#",
    ]


def test_a_page_for_refused_paths_is_served(render: Render) -> None:
    site = render(asgi_nginx_error_pages={400: "400.html"})
    assert site.count("set $asgi_bad_shop 1;") == 2
    assert '    if ($uri = /.asgi-errors/400) {\n        set $asgi_bad_shop "";' in site
    assert "asgi_bad" not in render(asgi_nginx_error_pages={404: "404.html"})


ROOT_OF_FILES = "/opt/shop/slots/live/release/app"


@pytest.mark.parametrize(
    ("entry", "rules"),
    [
        ({"url": "/s/", "path": "static"}, [f"on from={ROOT_OF_FILES}"]),
        ({"url": "/s/", "path": "static/"}, [f"on from={ROOT_OF_FILES}"]),
        ({"url": "/s/", "path": f"{ROOT_OF_FILES}/static"}, [f"on from={ROOT_OF_FILES}"]),
        ({"url": "/r.txt", "path": "static/r.txt"}, [f"on from={ROOT_OF_FILES}"]),
        ({"url": "/r.txt", "path": "/srv/r.txt"}, ["if_not_owner from=/srv"]),
        ({"url": "/s/", "path": "/srv/s/"}, ["if_not_owner from=/srv/s"]),
        (
            {"url": "/s/", "path": "static", "fallback": "/opt/shop/static/static/"},
            [f"on from={ROOT_OF_FILES}", "if_not_owner from=/opt/shop/static/static"],
        ),
        ({"url": "/s/", "path": "static", "page": "i.html"}, [f"on from={ROOT_OF_FILES}"] * 2),
        ({"url": "/m/", "path": "media/big"}, [f"if_not_owner from={ROOT_OF_FILES}/media"]),
        ({"url": "/m/", "path": "media"}, [f"if_not_owner from={ROOT_OF_FILES}/media"]),
        ({"url": "/m/", "path": "mediate"}, [f"on from={ROOT_OF_FILES}"]),
        ({"url": "/s/", "path": "static", "follow_links": True, "page": "i.html", "fallback": "old"}, []),
    ],
)
def test_links_in_static_folders(render: Render, entry: dict[str, Any], rules: list[str]) -> None:
    assert directives(render(asgi_nginx_static=[entry], asgi_shared=["media"]), "disable_symlinks") == rules


def test_links_elsewhere(render: Render) -> None:
    site = render(asgi_nginx_error_pages={404: "404.html", 403: "/srv/e/403.html"}, asgi_nginx_acme_webroot="/var/lib/asgi-acme")
    found = directives(site, "disable_symlinks")
    assert set(found) == {f"on from={ROOT_OF_FILES}", "if_not_owner from=/srv/e", "if_not_owner from=/var/lib/asgi-acme"}


def test_clients_with_certificates_name_the_site(render: Render) -> None:
    assert "421" not in render()
    site = render(asgi_nginx_client_ca="/etc/ca.pem")
    (expression,) = re.findall("'~(.*)' 1;", block(site, "map $ssl_server_name:$host $asgi_nameless_shop"))
    assert [each for each in ("a.example:a.example", ":a.example", ":192.0.2.1", ":[fe80::1]", ":") if re.search(expression, each)] == [
        ":a.example"
    ]


def test_other_words_for_the_path_do_not_reach_the_application(render: Render) -> None:
    site = render()
    for name in ("X-Forwarded-Prefix", "X-Original-Url", "X-Rewrite-Url", "SCRIPT_NAME", "PATH_INFO"):
        assert f'proxy_set_header {name} "";' in site


def test_limits_of_the_site(render: Render) -> None:
    site = render(asgi_app="my-shop", asgi_nginx_rate="50r/s", asgi_nginx_burst=100, asgi_nginx_connections=20)
    assert directives(site, "limit_req_zone") == ["$binary_remote_addr zone=asgi_my_shop.req:10m rate=50r/s"]
    assert directives(site, "limit_req") == ["zone=asgi_my_shop.req burst=100 nodelay"]
    assert directives(site, "limit_conn") == ["asgi_my_shop.con 20"]
    assert directives(site, "limit_req_status") == ["429"]
    assert not directives(render(), "limit_(?:req|conn)(?:_zone)?")


def shared_memory(site: str) -> set[str]:
    """The zones of a site by name, which nginx has one list of, for limits and sessions of TLS alike."""
    return set(re.findall(r"(?:zone=|shared:)([^: ]+):", site))


@pytest.mark.parametrize("neighbour", ["shop-1", "shop-con-1", "req-shop", "con-shop-1"])
def test_neighbours_share_no_memory(render: Render, neighbour: str) -> None:
    limits = {"rate": "5r/s", "connections": 5}
    variables = {"asgi_nginx_rate": "50r/s", "asgi_nginx_connections": 20, "asgi_nginx_locations": [{"path": "/login", **limits}]}
    mine, theirs = (shared_memory(render(asgi_app=app, **variables)) for app in ("shop", neighbour))
    assert len(mine) == len(theirs) == 5
    assert not mine & theirs


def test_single_page_application(render: Render) -> None:
    site = render(asgi_nginx_static=[{"url": "/", "path": "dist", "page": "index.html"}], asgi_nginx_locations=[{"path": "/api/"}])
    assert "location / {\n        root /opt/shop/slots/live/release/app/dist;" in site
    assert directives(site, "try_files") == ["$uri /index.html"]
    assert directives(block(site, "location = /index.html"), "add_header Cache-Control") == ["no-cache"]
    assert site.count("location / {") == 2  # The other one redirects.


@pytest.mark.parametrize("fallback", ["/srv/old", "/srv/old/"])
def test_second_folder(render: Render, fallback: str) -> None:
    entry = {"url": "/s/", "path": "s", "fallback": fallback, "hashed": True, "precompressed": True, "allow": ["10.0.0.1"]}
    site = render(asgi_nginx_static=[entry])
    assert directives(block(site, "location ^~ /s/"), "try_files") == ["$uri $uri/ /.asgi-fallback$uri"]
    second = block(site, "location ^~ /.asgi-fallback/s/")
    assert directives(second, "alias") == ["/srv/old/"]
    assert directives(second, "add_header Cache-Control") == ["$asgi_cache1_shop"]
    assert directives(second, "include") == ["/etc/nginx/snippets/asgi-shop-headers.conf"]
    assert directives(second, "gzip_static") == ["on"]
    assert "        internal;" in second
    # A redirect to a folder would show this path.
    assert directives(second, "try_files") == ["$uri =404"]
    assert not directives(second, "(?:allow|deny)")


def test_second_folder_before_the_page(render: Render) -> None:
    site = render(asgi_nginx_static=[{"url": "/", "path": "dist", "fallback": "old", "page": "index.html"}])
    assert directives(site, "try_files") == ["$uri /.asgi-fallback$uri", "$uri /index.html"]
    assert directives(block(site, "location ^~ /.asgi-fallback/"), "alias") == ["/opt/shop/slots/live/release/app/old/"]


def test_static_options(render: Render) -> None:
    static = [
        {"url": "/plain/", "path": "a"},
        {"url": "/assets/", "path": "b", "hashed": True, "precompressed": True, "allow": ["10.0.0.1"]},
        {"url": "/none/", "path": "c", "hashed": True, "cache_control": ""},
    ]
    site = render(asgi_nginx_static=static, brotli="brotli-filter brotli-static")
    assets = block(site, "location ^~ /assets/")
    assert (directives(assets, "gzip_static"), directives(assets, "brotli_static")) == (["on"], ["on"])
    assert directives(assets, "add_header Cache-Control") == ["$asgi_cache1_shop"]
    assert directives(assets, "deny") == ["all"]
    assert directives(block(site, "location ^~ /none/"), "add_header Cache-Control") == ["$asgi_cache2_shop"]
    assert 'default "public, max-age=3600";' in block(site, "map $asgi_hashed_shop $asgi_cache1_shop")
    assert 'default "";' in block(site, "map $asgi_hashed_shop $asgi_cache2_shop")
    assert "gzip_static" not in block(site, "location ^~ /plain/")
    assert directives(render(asgi_nginx_static=static, brotli="brotli-filter "), "brotli_static") == []


def test_the_hash_in_a_name(render: Render) -> None:
    site = render(asgi_nginx_static=[{"url": "/s/", "path": "s", "hashed": True}])
    (pattern,) = re.findall(r"^    '~(.*)' 1;$", site, re.MULTILINE)
    for name in ("site.5f3a9c1b.css", "app-0123456789abcdef.js", "a.b.55e7cbb9ba48.min.js.map"):
        assert re.search(pattern, f"/s/{name}"), name
    for name in ("site.css", "deadbeef.css", "jquery-3.7.1.min.js", "5f3a9c1b/site.css", "x-facade.js"):
        assert not re.search(pattern, f"/s/{name}"), name


def test_brotli_only_where_it_is_loaded_and_wanted(render: Render) -> None:
    assert directives(render(brotli="brotli-filter "), "brotli") == ["on"]
    assert "brotli" not in render()
    assert "brotli" not in render(brotli="brotli-filter ", asgi_nginx_brotli=False)
    assert "brotli" not in render(brotli="brotli-filter ", asgi_nginx_gzip=False)


SYSTEMCTL = """#!/bin/sh
# nginx is stopped, or not there any more.
echo "$1" >>{calls}
case $1 in
  is-active) exit 3 ;;
  show) echo 0 ;;
  *) echo 'nginx.service is not active, cannot reload.' >&2; exit 1 ;;
esac
"""


@pytest.mark.parametrize(("state", "code", "asked"), [("absent", 0, {"is-active"}), ("present", 1, {"show", "reload"})])
def test_reload_of_an_nginx_that_does_not_run(evaluate: Render, tmp_path: Path, state: str, code: int, asked: set[str]) -> None:
    """Nobody serves a site that was removed; one that is to be served has had nginx started for it."""
    (handler,) = DataLoader().load_from_file(str(ROLE / "handlers/main.yml"))
    # An nginx that is content with its configuration.
    others = {"_asgi_nginx_stamp": str(tmp_path / "stamp"), "_asgi_nginx_binary": "true"}
    script = evaluate(handler["ansible.builtin.shell"]["cmd"], asgi_nginx_state=state, **others)
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(calls=tmp_path / "calls"), encoding="ascii")
    (tmp_path / "systemctl").chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script], env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code, done.stderr
    assert set((tmp_path / "calls").read_text(encoding="ascii").split()) == asked
    assert not (tmp_path / "stamp").exists()


def test_error_pages(render: Render) -> None:
    site = render(asgi_nginx_error_pages={404: "/srv/404.html", 503: "errors/503.html"})
    # nginx takes the first for a status.
    assert directives(site, "error_page")[:2] == ["404 /.asgi-errors/404", "503 /.asgi-errors/503"]
    page = block(site, "location = /.asgi-errors/503")
    assert directives(page, "alias") == ["/opt/shop/slots/live/release/app/errors/503.html"]
    assert directives(page, "add_header Retry-After") == ["120 always"]
    assert "        internal;" in page
    # Or the page itself would be down for maintenance.
    assert "if ($uri = /.asgi-errors/503) {" in site
    assert "$uri = " not in render(asgi_nginx_error_pages={404: "/srv/404.html"})


def test_maintenance(render: Render) -> None:
    assert "if (-f /etc/nginx/asgi-shop.maintenance) {\n        return 503;" in render()


def test_access_log_is_json(render: Render) -> None:
    site = render()
    (pieces,) = re.findall(r"^log_format asgi_shop escape=json (.*?);$", site, re.MULTILINE | re.DOTALL)
    line = json.loads(re.sub(r"\$\w+", "x", "".join(re.findall("'(.*)'", pieces))))
    assert {"time", "request_id", "client", "status", "seconds", "upstream_seconds", "tls"} <= set(line)
    assert set(directives(site, "access_log")) == {"/var/log/nginx/shop.access.log asgi_shop buffer=64k flush=1s if=$asgi_log_shop"}
    assert "    /ready 1;" in block(site, "map $uri $asgi_check_shop")
    combined = render(asgi_nginx_access_log_format="combined", asgi_nginx_access_log_skip=[])
    assert set(directives(combined, "access_log")) == {"/var/log/nginx/shop.access.log combined buffer=64k flush=1s"}
    assert "log_format" not in combined


@pytest.mark.parametrize(
    ("variables", "source", "map_of"),
    [
        ({}, "$asgi_check_shop:$status", ["default 1", "~^1:[23] 0"]),
        ({"asgi_nginx_access_log_sample": 5}, "$asgi_check_shop:$status", ["default 1", "~^1:[23] 0", "~^0:2 $asgi_sample_shop"]),
        (
            {"asgi_nginx_access_log_sample": "0", "asgi_nginx_access_log_skip": []},
            "0:$status",
            ["default 1", "~^1:[23] 0", "~^0:2 $asgi_sample_shop"],
        ),
    ],
)
def test_what_is_logged(render: Render, variables: dict[str, Any], source: str, map_of: list[str]) -> None:
    site = render(**variables)
    assert re.findall(r"^    (.*);$", block(site, f"map {source} $asgi_log_shop"), re.MULTILINE) == map_of
    assert set(directives(site, "access_log")) == {"/var/log/nginx/shop.access.log asgi_shop buffer=64k flush=1s if=$asgi_log_shop"}
    sample = variables.get("asgi_nginx_access_log_sample")
    shares = {5: ["5% 1", "* 0"], "0": ["* 0"]}
    assert ("split_clients" in site) == (sample is not None)
    if sample is not None:
        assert re.findall(r"^    (.*);$", block(site, "split_clients $request_id $asgi_sample_shop"), re.MULTILINE) == shares[sample]


# All that the template can write, in few sites.
SITES: dict[str, dict[str, Any]] = {
    "as it is": {},
    "old nginx": {"nginx": "1.22.1", "asgi_nginx_http3": True},
    "new nginx": {"nginx": "1.29.7", "openssl": "3.5.1", "brotli": "brotli-filter brotli-static "},
    "modern": {"asgi_nginx_tls_profile": "modern", "asgi_nginx_http3": True, "asgi_nginx_default_server": True},
    "plain": {"asgi_nginx_tls": False, "asgi_nginx_trusted_proxies": ["10.0.0.1"], "asgi_nginx_upstream": "127.0.0.1:8000"},
    "balanced": {
        "asgi_nginx_trusted_proxies": ["10.0.0.0/8"],
        "asgi_nginx_proxy_protocol": True,
        "asgi_nginx_upstream": ["10.0.0.1:80", "10.0.0.2:80"],
        "asgi_nginx_access_log_format": "combined",
        "asgi_nginx_access_log_sample": 5,
    },
    "names": {
        "asgi_nginx_domains": ["shop.example", "*.shop.example"],
        "asgi_nginx_redirect_domains": ["shop.test"],
        "asgi_nginx_acme_webroot": "/var/lib/asgi-acme",
        "asgi_nginx_client_ca": "/etc/ca.pem",
        "asgi_nginx_second_certificate": "/etc/rsa.pem",
        "asgi_nginx_second_certificate_key": "/etc/rsa-key.pem",
    },
    "rules": {
        "asgi_nginx_rate": "50r/s",
        "asgi_nginx_burst": 100,
        "asgi_nginx_connections": 20,
        "asgi_nginx_locations": [
            {"path": "/events", "buffering": False},
            {"path": "/login", "exact": True, "rate": "5r/m"},
            {"path": "/admin", "allow": ["10.0.0.0/8"], "auth_file": "/etc/nginx/users", "satisfy": "any"},
        ],
        "asgi_nginx_closed": ["/metrics"],
        "asgi_nginx_error_pages": {404: "/srv/404.html", 503: "/srv/503.html"},
    },
    "static": {
        "asgi_nginx_static": [
            {"url": "/", "path": "dist", "page": "index.html"},
            {"url": "/static/", "path": "static", "fallback": "/opt/shop/static", "hashed": True, "precompressed": True},
            {"url": "/papers/", "path": "/srv/papers", "allow": ["10.0.0.0/8"]},
            {"url": "/robots.txt", "path": "static/robots.txt"},
        ],
        "asgi_nginx_locations": [{"path": "/api/"}],
    },
}

# What gixy says of which sites, and why it stays.
ACCEPTED = {
    # Costs a stat(2), and a cache would serve files of the release before.
    "try_files_is_evil_too": {"static"},
    # A hidden file is 404 for everybody, also for those who may come in.
    "return_bypasses_allow_deny": {"static"},
    # Which site of a host is the default one is not for each site to say; see asgi_nginx_default_server.
    "default_server_flag": {"names"},
    # Both names that the variable of proxy_pass can make are upstreams of the file, so nothing is ever looked up.
    "missing_resolver": set(SITES),
    # The names in $ssl_client_s_dn are escaped as in RFC 2253, control characters too; the others are nginx's words and digits.
    "http_splitting": {"names"},
}


@pytest.mark.parametrize("name", SITES)
def test_gixy_finds_nothing(render: Render, tmp_path: Path, name: str) -> None:
    headers = tmp_path / "headers.conf"
    headers.write_text(render("headers.conf.j2", **SITES[name]), encoding="utf-8")
    site = render(**SITES[name]).replace("/etc/nginx/snippets/asgi-shop-headers.conf", str(headers))
    (tmp_path / "nginx.conf").write_text(f"events {{}}\nhttp {{\n{site}\n}}\n", encoding="utf-8")
    command = ["gixy", "--format", "json", str(tmp_path / "nginx.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = json.loads(done.stdout)
    problems = [problem for problem in found if name not in ACCEPTED.get(problem["plugin"], set())]
    assert problems == []


CONFIGURATION = "# configuration file /etc/nginx/conf.d/asgi-shop.conf:"
WARNING = 'nginx: [warn] conflicting server name "{}" on 0.0.0.0:80, ignored'


@pytest.mark.parametrize(
    ("state", "said", "code", "shown"),
    [
        ("present", [CONFIGURATION], 0, ""),
        ("present", ["nginx: [emerg] no"], 1, "nginx: [emerg] no"),
        ("present", [CONFIGURATION, WARNING.format("shop.example")], 1, "conflicting server name"),
        ("present", [CONFIGURATION, WARNING.format("*.shop.test")], 1, "Another site has the same name."),
        ("present", [CONFIGURATION, WARNING.format("a.shop.test")], 0, ""),
        ("present", [CONFIGURATION, "secret 1;"], 0, ""),
        ("present", ["# configuration file /etc/nginx/nginx.conf:"], 1, "nginx does not read /etc/nginx/conf.d/asgi-shop.conf"),
        ("absent", [WARNING.format("shop.example")], 0, ""),
    ],
)
def test_what_nginx_says_is_judged(evaluate: Render, tmp_path: Path, state: str, said: list[str], code: int, shown: str) -> None:
    nginx = tmp_path / "nginx"
    lines = "".join(f"echo '{line}'\n" for line in said)
    nginx.write_text(f"#!/bin/sh\n[ $1 = -T ] || exit 9\n{lines}exit {int('[emerg]' in said[0])}\n", encoding="utf-8")
    nginx.chmod(0o755)
    log = tmp_path / "log"
    log.touch(0o644)
    variables = {"asgi_nginx_state": state, "asgi_nginx_redirect_domains": ["*.shop.test"]}
    judge = evaluate("{{ _asgi_nginx_judge }}", **variables)
    done = subprocess.run(["sh", "-c", judge, str(nginx), str(log)], capture_output=True, text=True, check=False)
    assert done.returncode == code, done
    assert shown in done.stderr
    assert "secret" not in done.stdout + done.stderr
    assert log.stat().st_mode & 0o777 == (0o644 if code else 0o640)
