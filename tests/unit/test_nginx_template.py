"""The site that asgi_nginx writes: what depends on nginx's version and on variables that the role's scenario leaves alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLE = Path(__file__).resolve().parents[2] / "roles/asgi_nginx"

Render = Callable[..., str]


@pytest.fixture(scope="module")
def render() -> Render:
    """Render the site as the role would on a host that was probed like this, with `variables` on top of its own."""
    loader = DataLoader()
    own: dict[str, Any] = {}
    for name in ("defaults/main.yml", "vars/main.yml"):
        own |= loader.load_from_file(str(ROLE / name), trusted_as_template=True)

    def run(template: str = "site.conf.j2", nginx: str = "1.26.3", debian: str = "13", ipv6: str = "yes", **variables: Any) -> str:
        version = f"nginx version: nginx/{nginx}" if nginx else ""
        probe = [f"nginx={version}", f"debian={debian}", f"ipv6={ipv6}", "service=active,enabled", "unread="]
        given = {"asgi_app": "shop", "asgi_domain": "shop.example", "ansible_search_path": [str(ROLE)], **variables}
        merged = own | {"__asgi_nginx_probe": {"stdout_lines": probe}, "__asgi_nginx_probe_again": {}} | given
        expression = f"{{{{ lookup('ansible.builtin.template', '{template}') }}}}"
        return str(Templar(loader=loader, variables=merged).template(trust_as_template(expression)))

    return run


def directives(text: str, name: str) -> list[str]:
    """The values of all directives of this name, in order."""
    return re.findall(rf"^\s*{name}\s+(.*?);$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("nginx", "debian", "listen", "http2", "keepalive"),
    [
        ("1.22.1", "12", "443 ssl http2", [], []),
        ("1.25.0", "12", "443 ssl http2", [], []),
        ("1.25.1", "12", "443 ssl", ["on"], []),
        ("1.26.3", "13", "443 ssl", ["on"], []),
        ("1.29.6", "13", "443 ssl", ["on"], []),
        ("1.29.7", "13", "443 ssl", ["on"], ["0"]),
        # Not installed yet, in check mode: what its Debian would install.
        ("", "12", "443 ssl http2", [], []),
        ("", "13", "443 ssl", ["on"], []),
        ("", "forky/sid", "443 ssl", ["on"], []),
    ],
)
def test_versions(render: Render, nginx: str, debian: str, listen: str, http2: list[str], keepalive: list[str]) -> None:
    site = render(nginx=nginx, debian=debian)
    assert directives(site, "listen")[-2:] == [listen, "[::]:" + listen]
    assert directives(site, "http2") == http2
    assert directives(site, "keepalive") == keepalive


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
    assert "ssl" not in render(asgi_nginx_default_server=True, asgi_nginx_tls=False)
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
    assert len(locations) == 3
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
    assert directives(site, "add_header Cache-Control") == ["no-store always"]


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
