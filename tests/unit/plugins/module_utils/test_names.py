"""Which names of variables are warned of."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ansible_collections.steadfast.asgi.plugins.module_utils.names import misspelt, options_of

ROLES = Path(__file__).resolve().parents[4] / "roles"


def warnings(*given: str) -> list[str]:
    return list(misspelt(given, options_of(str(ROLES))))


def test_all_variables_of_all_roles_are_known() -> None:
    specs = {path.parts[-3]: yaml.safe_load(path.read_text(encoding="utf-8")) for path in ROLES.glob("asgi_*/meta/argument_specs.yml")}
    expected = {role: set(spec["argument_specs"]["main"]["options"]) for role, spec in specs.items()}
    assert options_of(str(ROLES)) == expected
    assert len(expected) == 7
    assert warnings(*(name for names in expected.values() for name in names)) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("asgi_service_worker", "asgi_service_workers"),
        ("asgi_rollout_bake_tme", "asgi_rollout_bake_time"),
        ("asgi_nginx_domain", "asgi_nginx_domains"),
        ("asgi_sevice_workers", "asgi_service_workers"),
    ],
)
def test_the_nearest_name_is_told(name: str, meant: str) -> None:
    [said] = warnings(name)
    assert said.startswith(f"{name} is no variable of the roles")
    assert said.endswith(f"Did you mean {meant}?")


def test_one_that_resembles_nothing_is_told_too() -> None:
    [said] = warnings("asgi_uv_xyzzyxyzzyxyzzyxyzzy")
    assert "docs/reference" in said


@pytest.mark.parametrize(
    "name",
    ["asgi_app", "asgi_source", "asgi_serial", "asgi_rollback_to", "asgi_release_id", "asgi_release_path", "asgi_command_result"],
)
def test_what_is_no_role_s_is_passed_over(name: str) -> None:
    assert warnings(name, f"__{name}", f"_{name}", f"my_{name}") == []
