"""Values that the role refuses before it touches the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

GOOD = {"asgi_nginx_app": "shop", "asgi_nginx_domains": ["shop.example"]}
BAD_DOMAINS = [
    "a.example; return 200",
    "a.example\n",
    "a.example b.example",
    "a.example{",
    "$hostname",
    "https://a.example/",
    "büro.example",
    "-a.example",
    "_",
]

# Case: the variables, and what the message has to contain: the variable with the value, and the remedy.
CASES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "no-name": ({"asgi_nginx_app": ""}, ['asgi_nginx_app (asgi_app) is "".', "lower-case letters"]),
    "name-path": ({"asgi_nginx_app": "../shop"}, ['asgi_nginx_app (asgi_app) is "../shop".']),
    "name-newline": ({"asgi_nginx_app": "shop\n"}, ['asgi_nginx_app (asgi_app) is "shop\\n".']),
    "name-too-long": ({"asgi_nginx_app": "a" * 31}, ['asgi_nginx_app (asgi_app) is "aaaa', "1 to 30"]),
    "no-domain": ({"asgi_nginx_domains": []}, ['asgi_nginx_domains (asgi_domain) is "".', "example.org"]),
    "domain-string": ({"asgi_nginx_domains": "shop.example"}, ['is "asgi_nginx_domains".', "YAML list"]),
    "domains": (
        {"asgi_nginx_domains": BAD_DOMAINS},
        [
            'asgi_nginx_domains (asgi_domain) is "a.example; return 200".',
            'asgi_nginx_domains (asgi_domain) is "a.example\\n".',
            'asgi_nginx_domains (asgi_domain) is "a.example b.example".',
            'asgi_nginx_domains (asgi_domain) is "a.example{".',
            'asgi_nginx_domains (asgi_domain) is "$hostname".',
            'asgi_nginx_domains (asgi_domain) is "https://a.example/".',
            'asgi_nginx_domains (asgi_domain) is "b\\u00fcro.example".',
            'asgi_nginx_domains (asgi_domain) is "-a.example".',
            'asgi_nginx_domains (asgi_domain) is "_".',
            "xn--",
        ],
    ),
    "port-high": ({"asgi_nginx_http_port": 65536}, ['asgi_nginx_http_port is "65536".', "1 to 65535"]),
    "port-zero": ({"asgi_nginx_https_port": 0}, ['asgi_nginx_https_port is "0".', "1 to 65535"]),
    "port-twice": (
        {"asgi_nginx_http_port": 443, "asgi_nginx_https_port": 443},
        ['asgi_nginx_http_port, as well as asgi_nginx_https_port, is "443".', "two different ports"],
    ),
    "port-of-direct-tls": (
        # Its own ports, or it would be asked together with others.
        {
            "asgi_service_tls_listen": ["8443", "192.0.2.7:443"],
            "asgi_nginx_https_port": 443,
            "asgi_nginx_tls": True,
            "asgi_nginx_http_port": 80,
        },
        ['An address in asgi_service_tls_listen is "192.0.2.7:443".', "Set asgi_nginx_state to absent"],
    ),
    "upstream-semicolon": (
        {"asgi_nginx_upstream": "unix:/run/a.sock; deny all"},
        ['asgi_nginx_upstream is "unix:/run/a.sock; deny all".'],
    ),
    "upstream-up": ({"asgi_nginx_upstream": "unix:/run/../a.sock"}, ['asgi_nginx_upstream is "unix:/run/../a.sock".']),
    "upstream-url": (
        {"asgi_nginx_upstream": "http://127.0.0.1:8000"},
        ['asgi_nginx_upstream is "http://127.0.0.1:8000".', "host:port"],
    ),
    "upstream-port": ({"asgi_nginx_upstream": "127.0.0.1:80000"}, ['asgi_nginx_upstream is "127.0.0.1:80000".']),
    "upstream-list": (
        {"asgi_nginx_upstream": ["127.0.0.1:1", "127.0.0.1:0"]},
        ['asgi_nginx_upstream is "127.0.0.1:0".', "host:port"],
    ),
    "no-upstream": ({"asgi_nginx_upstream": []}, ['asgi_nginx_upstream is "".', "host:port"]),
    "redirect-domain": (
        {"asgi_nginx_redirect_domains": ["https://www.shop.example"]},
        ['asgi_nginx_redirect_domains is "https://www.shop.example".'],
    ),
    "redirect-to-itself": (
        {"asgi_nginx_redirect_domains": ["shop.example"], "asgi_nginx_domains": ["shop.example"]},
        ['asgi_nginx_redirect_domains and asgi_nginx_domains is "shop.example".', "either answers"],
    ),
    "redirect-to-wildcard": (
        {"asgi_nginx_redirect_domains": ["shop.test"], "asgi_nginx_domains": ["*.shop.example"]},
        ['are sent on, is "*.shop.example".', "without an asterisk"],
    ),
    "redirect-string": ({"asgi_nginx_redirect_domains": "shop.test"}, ['is "asgi_nginx_redirect_domains".', "YAML list"]),
    "certificate": ({"asgi_nginx_certificate": "/etc/a b.pem"}, ['asgi_nginx_certificate is "/etc/a b.pem".']),
    "key-up": ({"asgi_nginx_certificate_key": "/a/../k.pem"}, ['asgi_nginx_certificate_key is "/a/../k.pem".', "'..'"]),
    "second-certificate": (
        {"asgi_nginx_second_certificate": "rsa.pem"},
        ['asgi_nginx_client_ca is "rsa.pem".', "asgi_nginx_second_certificate_key one is", "Set both"],
    ),
    "client-ca": ({"asgi_nginx_client_ca": "/etc/ca.pem; deny all"}, ['asgi_nginx_client_ca is "/etc/ca.pem; deny all".']),
    "http3": (
        {"asgi_nginx_http3": True, "asgi_nginx_tls_protocols": ["TLSv1.2"]},
        ['asgi_nginx_http3 is "True".', "TLS 1.3 alone"],
    ),
    "acme-webroot": ({"asgi_nginx_acme_webroot": "/var/../etc"}, ['asgi_nginx_acme_webroot is "/var/../etc".']),
    "no-cipher": ({"asgi_nginx_tls_ciphers": []}, ['asgi_nginx_tls_ciphers is "".', "OpenSSL"]),
    "no-protocol": ({"asgi_nginx_tls_protocols": []}, ['asgi_nginx_tls_protocols is "".', "TLSv1.2, TLSv1.3"]),
    "cipher": ({"asgi_nginx_tls_ciphers": ["ALL; deny all"]}, ['asgi_nginx_tls_ciphers is "ALL; deny all".']),
    "age": ({"asgi_nginx_hsts_max_age": -1}, ['asgi_nginx_hsts_max_age is "-1".', "asgi_nginx_hsts set to false"]),
    "preload": (
        {"asgi_nginx_hsts_preload": True},
        ['asgi_nginx_hsts_preload is "True".', "asgi_nginx_hsts_include_subdomains"],
    ),
    "header-quote": (
        {"asgi_nginx_frame_options": 'DENY"; deny all; #'},
        ['asgi_nginx_frame_options is "DENY\\"; deny all; #".', "double quotes"],
    ),
    "header-newline": ({"asgi_nginx_referrer_policy": "origin\n"}, ['asgi_nginx_referrer_policy is "origin\\n".']),
    "header-backslash": (
        {"asgi_nginx_content_type_options": "a\\"},
        ['asgi_nginx_content_type_options is "a\\\\".', "backslashes"],
    ),
    "headers": (
        {"asgi_nginx_headers": {"X Y": "1", "strict-transport-security": "$request_uri"}},
        [
            'A header\'s name in asgi_nginx_headers is "X Y".',
            'A header\'s name in asgi_nginx_headers is "strict-transport-security".',
            'A header\'s value in asgi_nginx_headers is "$request_uri".',
        ],
    ),
    "proxies": (
        {"asgi_nginx_trusted_proxies": ["10.0.0.0/8; deny all", "0.0.0.0/0", "::/0", "proxy.example"]},
        [
            'asgi_nginx_trusted_proxies is "10.0.0.0/8; deny all".',
            'asgi_nginx_trusted_proxies is "0.0.0.0/0".',
            'asgi_nginx_trusted_proxies is "::/0".',
            'asgi_nginx_trusted_proxies is "proxy.example".',
            "forge",
        ],
    ),
    "proxy-protocol": (
        {"asgi_nginx_proxy_protocol": True, "asgi_nginx_trusted_proxies": []},
        ['asgi_nginx_proxy_protocol is "True".', "asgi_nginx_trusted_proxies"],
    ),
    "locations": (
        {
            "asgi_nginx_locations": [
                {"path": "/a b", "rate": "5", "burst": -1, "read_timeout": 0, "client_max_body_size": "1 GB"},
                {"path": "/c", "allow": ["all", "0.0.0.0/0"], "auth_file": "users", "auth_realm": 'a"; deny all'},
                {"path": "~ /d", "rate": "0r/s", "connections": -2},
            ]
        },
        [
            'A path in asgi_nginx_locations is "/a b".',
            'A path in asgi_nginx_locations is "~ /d".',
            'a rate in asgi_nginx_locations, is "5".',
            'a rate in asgi_nginx_locations, is "0r/s".',
            'one of that name in asgi_nginx_locations, is "-1".',
            'one of that name in asgi_nginx_locations, is "-2".',
            'send_timeout in asgi_nginx_locations is "0".',
            'A client_max_body_size in asgi_nginx_locations is "1 GB".',
            'A network in an allow of asgi_nginx_locations or asgi_nginx_static is "all".',
            'A network in an allow of asgi_nginx_locations or asgi_nginx_static is "0.0.0.0/0".',
            'An auth_file in asgi_nginx_locations or asgi_nginx_static is "users".',
            'An auth_realm in asgi_nginx_locations or asgi_nginx_static is "a\\"; deny all".',
        ],
    ),
    "shared-below": (
        {
            "asgi_nginx_static": [{"url": "/static/", "path": "static/"}, {"url": "/open/", "path": "open", "follow_links": True}],
            "asgi_release_shared": ["static/uploads", "open/uploads", "media"],
        },
        ['(asgi_shared) inside a folder of asgi_nginx_static is "static/uploads".', "follow_links"],
    ),
    "paths-twice": (
        {
            "asgi_nginx_locations": [{"path": "/x/"}],
            "asgi_nginx_static": [{"url": "/x/", "path": "x"}],
        },
        ['is there twice, which is "/x/, /x/".', "Name each once"],
    ),
    "closed": ({"asgi_nginx_closed": ["metrics"]}, ['A path in asgi_nginx_closed is "metrics".']),
    "log-skip": ({"asgi_nginx_access_log_skip": ["/a;b"]}, ['A path in asgi_nginx_access_log_skip is "/a;b".']),
    "log-sample": ({"asgi_nginx_access_log_sample": 101}, ['asgi_nginx_access_log_sample is "101".', "0 to 100"]),
    "log-sample-below": ({"asgi_nginx_access_log_sample": -1}, ['asgi_nginx_access_log_sample is "-1".']),
    "log-flush": ({"asgi_nginx_access_log_flush": -1}, ['asgi_nginx_access_log_flush is "-1".', "at once"]),
    "keepalive": ({"asgi_nginx_upstream_keepalive": -1}, ['asgi_nginx_upstream_keepalive is "-1".', "0 keeps none"]),
    "rate": ({"asgi_nginx_rate": "fast"}, ['asgi_nginx_rate, or a rate in asgi_nginx_locations, is "fast".', "10r/s"]),
    "connections": ({"asgi_nginx_connections": -1}, ['of that name in asgi_nginx_locations, is "-1".', "no limit"]),
    "fallback": (
        {"asgi_nginx_static": [{"url": "/f", "path": "f", "fallback": "../x"}, {"url": "/g/", "path": "g", "fallback": "/a;b"}]},
        [
            'A path or a fallback in asgi_nginx_static is "../x".',
            'A path or a fallback in asgi_nginx_static is "/a;b".',
            'with a page or a fallback is "/f".',
        ],
    ),
    "page": (
        {"asgi_nginx_static": [{"url": "/f", "path": "f", "page": "../x"}]},
        ['A page in asgi_nginx_static is "../x".', 'with a page or a fallback is "/f".', "index.html"],
    ),
    "error-pages": (
        {"asgi_nginx_error_pages": {"200": "/srv/ok.html", "404": "../secret"}},
        ['A code in asgi_nginx_error_pages is "200".', 'A file in asgi_nginx_error_pages is "../secret".'],
    ),
    "real-ip": ({"asgi_nginx_real_ip_header": "a b"}, ['asgi_nginx_real_ip_header is "a b".']),
    "static": (
        {
            "asgi_nginx_static": [
                {"url": "static", "path": "../.."},
                {"url": "/", "path": "/srv/../etc"},
                {"url": "/a{/", "path": "s;"},
                {"url": "/a/../b/", "path": "."},
                {"url": "/file", "path": "folder/", "cache_control": 'x"; deny all'},
            ]
        },
        [
            'A url in asgi_nginx_static is "static".',
            'A url in asgi_nginx_static is "/".',
            'A url in asgi_nginx_static is "/a{/".',
            'A url in asgi_nginx_static is "/a/../b/".',
            'A path or a fallback in asgi_nginx_static is "../..".',
            'A path or a fallback in asgi_nginx_static is "/srv/../etc".',
            'A path or a fallback in asgi_nginx_static is "s;".',
            'A path or a fallback in asgi_nginx_static is ".".',
            'A path in asgi_nginx_static is "folder/". Its url names a file',
            'asgi_nginx_static_cache_control, is "x\\"; deny all".',
        ],
    ),
    "root": ({"asgi_nginx_static_root": "srv"}, ['asgi_nginx_static_root is "srv".', "absolute path"]),
    "body-size": ({"asgi_nginx_client_max_body_size": "10 MB"}, ['asgi_nginx_client_max_body_size is "10 MB".', "10m"]),
    "timeout": ({"asgi_nginx_read_timeout": 0}, ['asgi_nginx_send_timeout is "0".', "at least 1"]),
    "client-timeout": ({"asgi_nginx_client_header_timeout": 0}, ["asgi_nginx_client_header_timeout, ", '"0".']),
    "log": ({"asgi_nginx_access_log": "/var/log/a;b"}, ['asgi_nginx_access_log is "/var/log/a;b".']),
    "log-format": ({"asgi_nginx_access_log_format": "a b"}, ['asgi_nginx_access_log_format is "a b".']),
    "error-log": ({"asgi_nginx_error_log": "error.log"}, ['asgi_nginx_error_log is "error.log".']),
    "package": ({"asgi_nginx_package": "nginx -y"}, ['asgi_nginx_package is "nginx -y".']),
    "extra": ({"asgi_nginx_extra": "deny all;"}, ['is "asgi_nginx_extra".', "YAML list"]),
    # Ansible refuses these itself, by the types and choices in argument_specs, and then gets no further.
    "type-state": ({"asgi_nginx_state": "gone"}, ["asgi_nginx_state", "present, absent", "gone"]),
    "type-http-port": ({"asgi_nginx_http_port": "http"}, ["asgi_nginx_http_port", "int"]),
    "type-log-sample": ({"asgi_nginx_access_log_sample": "5%"}, ["asgi_nginx_access_log_sample", "int", "5%"]),
    "type-https-port": ({"asgi_nginx_https_port": "443; deny all"}, ["asgi_nginx_https_port", "int", "443; deny all"]),
    "type-protocol": ({"asgi_nginx_tls_protocols": ["TLSv1"]}, ["asgi_nginx_tls_protocols", "TLSv1.2, TLSv1.3"]),
    "type-profile": ({"asgi_nginx_tls_profile": "old"}, ["asgi_nginx_tls_profile", "intermediate, modern", "old"]),
    "type-verify": ({"asgi_nginx_client_verify": "maybe"}, ["asgi_nginx_client_verify", "required, optional"]),
    "type-location": ({"asgi_nginx_locations": [{"buffering": False}]}, ["asgi_nginx_locations", "path"]),
    "type-static": ({"asgi_nginx_static": [{"url": "/s/"}]}, ["asgi_nginx_static", "path"]),
    # What is removed has to have a name as well.
    "absent": ({"asgi_nginx_app": "*", "asgi_nginx_state": "absent"}, ['asgi_nginx_app (asgi_app) is "*".']),
}

BLOG = {"asgi_nginx_app": "blog", "asgi_nginx_domains": ["blog.example"], "asgi_nginx_tls": False}
BY_SHOP = "by the application shop (/etc/nginx/conf.d/asgi-shop.conf, line "
# What another site of the host has: the variables, and what the message has to contain.
TAKEN: dict[str, tuple[dict[str, Any], list[str]]] = {
    "a name": ({"asgi_nginx_domains": ["shop.example"]}, ["shop.example (asgi_nginx_domains", BY_SHOP, "asgi_nginx_app: shop"]),
    "a name that redirects": ({"asgi_nginx_domains": ["blog.example", "www.shop.example"]}, ["www.shop.example (", BY_SHOP]),
    "a name in another file": (
        {"asgi_nginx_domains": ["by-hand.example"], "asgi_nginx_http_port": 8081},
        ["by-hand.example (", "*:8081", "a site of somebody else's (/etc/nginx/conf.d/shop.conf, line 2)"],
    ),
    "a wildcard": (
        {"asgi_nginx_domains": ["*.plain.example"], "asgi_nginx_http_port": 8080},
        ["*.plain.example (", "the application a-name-of-30-characters-length"],
    ),
    "the default server": (
        {"asgi_nginx_default_server": True},
        ["asgi_nginx_default_server is true", "/etc/nginx/sites-enabled/default", "asgi_nginx_remove_debian_default"],
    ),
    "a port for the PROXY protocol": ({"asgi_nginx_http_port": 8082}, ["asgi_nginx_proxy_protocol is false", "the application balanced ("]),
}


@pytest.fixture(scope="session")
def taken(refusals_of: Callable[..., dict[str, dict[str, str]]]) -> dict[str, dict[str, str]]:
    return refusals_of("asgi_nginx", {case: BLOG | variables for case, (variables, _) in TAKEN.items()})


@pytest.mark.parametrize("case", TAKEN)
def test_what_another_site_has_is_refused(taken: dict[str, dict[str, str]], case: str) -> None:
    for said in taken.values():
        assert case in said, "was not refused"
        for part in TAKEN[case][1]:
            assert part in said[case]


def packed() -> dict[str, dict[str, Any]]:
    """Put the cases into as few sets of variables as they fit: everything wrong in a set is said at once."""
    sets: list[tuple[list[str], dict[str, Any]]] = []
    for case, (variables, _expected) in CASES.items():
        for names, together in sets:
            same_kind = names[0].startswith("type-") == case.startswith("type-")
            if same_kind and case != "absent" and not together.keys() & variables.keys():
                names.append(case)
                together.update(variables)
                break
        else:
            sets.append(([case], dict(variables)))
    return {" ".join(names): GOOD | together for names, together in sets}


@pytest.fixture(scope="session")
def refused(refusals_of: Callable[..., dict[str, dict[str, str]]]) -> dict[str, str]:
    # The values alone are judged, on the controller: one host is enough.
    (said,) = refusals_of("asgi_nginx", packed(), "all[0]").values()
    return {case: message for names, message in said.items() for case in names.split()}


@pytest.mark.parametrize("case", CASES)
def test_refused(refused: dict[str, str], case: str) -> None:
    assert case in refused, "was not refused"
    for part in CASES[case][1]:
        assert part in refused[case]
