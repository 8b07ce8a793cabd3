from __future__ import annotations

import base64
import gzip
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.steadfast.asgi.plugins.filter.nginx_conflicts import FilterModule, nginx_conflicts

SITE = "/etc/nginx/conf.d/asgi-shop.conf"
DEFAULT = "/etc/nginx/sites-enabled/default"
DUMP = (
    "# configuration file /etc/nginx/nginx.conf:\nhttp { include conf.d/*.conf; include sites-enabled/*; }\n\n"
    f"# configuration file {SITE}:\nserver {{ listen 80; server_name old.example; }}\n\n"
    f"# configuration file {DEFAULT}:\nserver {{ listen 80 default_server; server_name shop.example; }}\n"
)


def packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode())).decode()


def files(*more: dict[str, Any]) -> list[dict[str, Any]]:
    site = {"path": SITE, "content": "server { listen 80; server_name shop.example; }"}
    return [{"path": "/etc/nginx/snippets", "state": "directory"}, site, *more]


def test_the_new_site_takes_the_place_of_the_old_one() -> None:
    (said,) = nginx_conflicts(files(), packed(DUMP), SITE)
    assert said.startswith("shop.example (")
    assert DEFAULT in said


def test_the_place_is_that_in_the_file() -> None:
    written = "# Written by the Ansible role steadfast.asgi.asgi_nginx; changes made here are overwritten.\n"
    dump = f"{DUMP}\n# configuration file /etc/nginx/conf.d/asgi-blog.conf:\n{written}server {{ server_name shop.example; }}\n"
    said = nginx_conflicts(files(), packed(dump), SITE)
    assert any("the application blog (/etc/nginx/conf.d/asgi-blog.conf, line 2)" in each for each in said), said


def test_what_is_removed_is_no_conflict() -> None:
    assert nginx_conflicts(files({"path": DEFAULT, "state": "absent"}), packed(DUMP), SITE) == []


@pytest.mark.parametrize("dump", ["", packed("")])
def test_without_a_dump_nothing_is_refused(dump: str) -> None:
    assert nginx_conflicts(files(), dump, SITE) == []


@pytest.mark.parametrize("dump", ["no base64", base64.b64encode(b"no gzip").decode(), packed(DUMP)[:40]])
def test_a_dump_that_is_none(dump: str) -> None:
    with pytest.raises(AnsibleFilterError, match="nginx_conflicts needs"):
        nginx_conflicts(files(), dump, SITE)


def test_its_name() -> None:
    assert FilterModule().filters() == {"nginx_conflicts": nginx_conflicts}
