"""What the keywords of a play are set to, before any host is asked."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.steadfast.asgi.plugins.filter.keyword import keyword

GROUPS = {"all": ["web1", "web2", "db1"], "ungrouped": [], "shop": ["web1", "web2"], "data": ["db1"]}


@pytest.mark.parametrize("value", [1, "2", "1%", "10%", "100%", [1, "50%"], ["1", 5]])
def test_sizes_of_batches(value: Any) -> None:
    assert keyword(value, "asgi_serial") == value


@pytest.mark.parametrize("value", [0, "0", -1, "-1", "0%", "101%", "1.5", "10 %", "abc", "", [], [1, "x"], "[1, 2]", "1,2", True, None, {}])
def test_what_is_no_size_of_a_batch(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"asgi_serial is .*-e asgi_serial=2"):
        keyword(value, "asgi_serial")


@pytest.mark.parametrize("value", [0, "0", 49.5, "10%", 100])
def test_percentages(value: Any) -> None:
    assert keyword(value, "asgi_max_fail_percentage") == value


@pytest.mark.parametrize("value", [-1, "-1", 101, "abc", "", None, True, [1]])
def test_what_is_no_percentage(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match=r"asgi_max_fail_percentage is .*-e asgi_max_fail_percentage=0"):
        keyword(value, "asgi_max_fail_percentage")


@pytest.mark.parametrize("value", ["all", "shop", "web1", "shop:data", "shop:!web1", "web*", ["shop", "data"], "shop,data", "all:&data"])
def test_patterns_that_match(value: Any) -> None:
    assert keyword(value, "asgi_hosts", GROUPS) == value


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", ["blog", "web3", "shop:&data", "shop:!all"])
def test_patterns_that_match_nothing(value: str) -> None:
    with pytest.raises(AnsibleFilterError, match=r"matches no host of the inventory .*\(data, shop\)"):
        keyword(value, "asgi_hosts", GROUPS)


@pytest.mark.parametrize("value", ["", None, 3, [], [""]])
def test_what_is_no_pattern(value: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="asgi_hosts is"):
        keyword(value, "asgi_hosts", GROUPS)


def test_an_inventory_without_hosts() -> None:
    with pytest.raises(AnsibleFilterError, match=r"has no hosts.*'hosts:' of the group app.*group_vars/app.yml"):
        keyword("all", "asgi_hosts", {"all": [], "ungrouped": [], "app": []})
