"""Groups that contradict each other, variables that no keyword reads, hosts that are lost."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.inventory.group import Group

from ansible_collections.steadfast.asgi.plugins.plugin_utils.fleet import (
    check_groups,
    check_keywords,
    check_strategy,
    conflicts,
    lost,
    other_application,
)

BLOG = {"asgi_app": "blog", "asgi_domain": "blog.example", "asgi_service_environment": {"KEY": "hunter2"}}
SHOP = {"asgi_app": "shop", "asgi_domain": "shop.example", "asgi_service_environment": {"KEY": "hunter3"}}


def tree(variables: dict[str, dict[str, Any]], children: dict[str, list[str]], priorities: dict[str, int]) -> dict[Any, dict[str, Any]]:
    """Return groups of Ansible's, each below `all`, with their variables."""
    groups = {name: Group(name) for name in ["all", *variables]}
    for name, group in groups.items():
        group.priority = priorities.get(name, 1)
        if name != "all":
            groups["all"].add_child_group(group)
    for parent, names in children.items():
        for name in names:
            groups[parent].add_child_group(groups[name])
    return {groups[name]: found for name, found in variables.items()}


# The variables of a host's groups, which group is whose parent, their priorities; and the variables that contradict each other.
TABLE: dict[str, tuple[dict[str, dict[str, Any]], dict[str, list[str]], dict[str, int], list[str]]] = {
    "one application": ({"shop": SHOP, "debian": {"other": 1}}, {}, {}, []),
    "two applications": ({"blog": BLOG, "shop": SHOP}, {}, {}, ["asgi_app", "asgi_domain", "asgi_service_environment"]),
    "the same values": ({"blog": SHOP, "shop": SHOP}, {}, {}, []),
    "a child of the other": ({"shop": SHOP, "canary": {"asgi_domain": "canary.example"}}, {"shop": ["canary"]}, {}, []),
    "a grandchild": ({"a": SHOP, "b": {}, "c": {"asgi_app": "x"}}, {"a": ["b"], "b": ["c"]}, {}, []),
    "a child of both": ({"blog": BLOG, "shop": SHOP, "both": SHOP}, {"blog": ["both"], "shop": ["both"]}, {}, []),
    "deeper, and no child": ({"blog": BLOG, "prod": {}, "shop": {"asgi_app": "shop"}}, {"prod": ["shop"]}, {}, ["asgi_app"]),
    "all, and a group": ({"all": BLOG, "shop": SHOP}, {}, {}, []),
    "a higher priority": ({"blog": BLOG, "shop": SHOP}, {}, {"shop": 10}, []),
    "the same higher priority": ({"blog": BLOG, "shop": SHOP}, {}, {"shop": 10, "blog": 10}, ["asgi_app", "asgi_domain"]),
    "other variables": ({"eu": {"asgi_domain": "eu.example"}, "web": {"asgi_domain": "example"}}, {}, {}, ["asgi_domain"]),
    "variables of somebody else's": ({"a": {"region": 1}, "b": {"region": 2}}, {}, {}, []),
}


@pytest.mark.parametrize("row", TABLE)
def test_groups_that_contradict_each_other(row: str) -> None:
    variables, children, priorities, expected = TABLE[row]
    found = conflicts(tree(variables, children, priorities), ())
    assert set(expected) <= set(found)
    assert bool(expected) == bool(found)


def test_what_is_set_for_the_host_or_the_run_is_no_contradiction() -> None:
    assert not conflicts(tree({"blog": BLOG, "shop": SHOP}, {}, {}), {*BLOG})


def test_the_message_names_host_groups_and_values_and_no_secret() -> None:
    said = "\n".join(check_groups("web1", conflicts(tree({"blog": BLOG, "shop": SHOP}, {}, {}), ())))
    for part in ("host web1", "blog and shop", 'blog: "blog"', 'shop: "shop"', "asgi_service_environment", "ansible_group_priority"):
        assert part in said
    assert "hunter" not in said
    said = "\n".join(check_groups("web1", conflicts(tree({"blog": BLOG, "shop": SHOP}, {}, {}), {"asgi_app", "asgi_domain"})))
    assert "asgi_service_environment (blog, shop)" in said
    assert "hunter" not in said


@pytest.mark.parametrize(
    ("named", "app", "found"),
    [
        (["blog"], "shop", {"blog": "blog", "shop": "shop"}),
        (["blog", "web9"], "shop", {"blog": "blog", "shop": "shop"}),
        (["shop"], "shop", {}),
        (["all"], "shop", {}),
        (["blog"], "set for the host", {}),
    ],
)
def test_a_play_over_one_group_does_not_deploy_another_ones_application(named: list[str], app: str, found: dict[str, str]) -> None:
    assert other_application(tree({"blog": BLOG, "shop": SHOP}, {}, {"shop": 10}), named, app) == found


def test_a_group_that_overrides_the_named_one_is_no_other_application() -> None:
    assert not other_application(tree({"web": BLOG, "shop": SHOP}, {"web": ["shop"]}, {}), ["web"], "shop")


@pytest.mark.parametrize(("name", "value"), [("asgi_serial", 2), ("asgi_max_fail_percentage", 0), ("asgi_hosts", "blog")])
def test_variables_that_no_keyword_reads(name: str, value: Any) -> None:
    said = "\n".join(check_keywords("web1", {name: value, "asgi_app": "shop"}, ()))
    assert f"{name} is " in said
    assert f"-e {name}=" in said
    assert not list(check_keywords("web1", {name: value}, {name}))


@pytest.mark.parametrize("strategy", ["linear", "debug", "ansible.builtin.linear", "ansible.builtin.debug", "mitogen_linear"])
def test_strategies_in_which_hosts_wait_for_each_other(strategy: str) -> None:
    assert not list(check_strategy(strategy))


@pytest.mark.parametrize("strategy", ["free", "host_pinned", "ansible.builtin.free", "ansible.builtin.host_pinned", "mitogen_free", "own"])
def test_strategies_in_which_they_do_not(strategy: str) -> None:
    assert strategy in next(check_strategy(strategy))


@pytest.mark.parametrize(
    ("batch", "left", "allowed", "ends"),
    [
        (["a", "b"], ["a", "b"], 0, False),
        (["a", "b"], ["a"], 0, True),
        (["a", "b"], ["a"], 50, False),
        (["a", "b"], ["a"], 49.9, True),
        (["a", "b", "c"], ["c"], 66, True),
        (["a"], [], 100, False),
    ],
)
def test_hosts_that_are_lost(batch: list[str], left: list[str], allowed: float, ends: bool) -> None:
    assert bool(list(lost(batch, left, allowed))) is ends
