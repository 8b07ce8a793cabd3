"""What every role has to keep in step: its defaults, its argument specification, its README and its tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if (path / "defaults").is_dir())
PYTHON_TYPES: dict[str, type | tuple[type, ...]] = {
    "str": str,
    "path": str,
    "bool": bool,
    "int": int,
    "float": (int, float),
    "list": list,
    "dict": dict,
}


class Role:
    def __init__(self, name: str) -> None:
        self.name = name
        self.path = ROOT / "roles" / name
        self.defaults: dict[str, Any] = self.read("defaults/main.yml")
        self.specs: dict[str, Any] = self.read("meta/argument_specs.yml")["argument_specs"]
        self.options: dict[str, dict[str, Any]] = self.specs["main"]["options"]

    def read(self, name: str) -> dict[str, Any]:
        path = self.path / name
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else None
        return dict(content or {})


@pytest.fixture(params=ROLES)
def role(request: pytest.FixtureRequest) -> Role:
    return Role(request.param)


def templated(value: Any) -> bool:
    return "{{" in str(value)


def test_the_seven_roles_are_looked_at() -> None:
    assert {
        "asgi_account",
        "asgi_certificate",
        "asgi_nginx",
        "asgi_release",
        "asgi_rollout",
        "asgi_service",
        "asgi_uv",
    } <= set(ROLES)


def test_variables_bear_the_role_s_name(role: Role) -> None:
    assert [name for name in role.options if not name.startswith(f"{role.name}_")] == []
    assert [name for name in role.read("vars/main.yml") if not name.startswith(f"_{role.name}_")] == []


def test_every_default_is_specified(role: Role) -> None:
    assert sorted(set(role.defaults) - set(role.options)) == []


def test_every_option_has_a_default_or_is_shown_as_one_without(role: Role) -> None:
    """A commented line in defaults/main.yml shows an option that is not set: `# asgi_account_uid: 990`."""
    text = (role.path / "defaults/main.yml").read_text(encoding="utf-8")
    for name in set(role.options) - set(role.defaults):
        assert re.search(rf"^# {name}:", text, re.MULTILINE), f"{name} is not in the defaults"
        assert not role.options[name].get("required"), f"{name} is required and has no default at all"
        assert "default" not in role.options[name], f"{name} has a default in the specification alone"


def test_literal_defaults_are_the_specified_ones(role: Role) -> None:
    for name, default in role.defaults.items():
        option = role.options[name]
        if "default" in option:
            assert option["default"] == default, name
            assert type(option["default"]) is type(default) or templated(default), name
        elif not templated(default):
            pytest.fail(f"{name} is {default!r} by default, which its specification does not say")
        else:
            # A default that is an expression is told in words, unless the option is required.
            told = option.get("required") or "default" in str(option["description"]).lower()
            assert told, f"nobody learns the default of {name}"


def test_defaults_have_the_specified_type(role: Role) -> None:
    for name, default in role.defaults.items():
        if not templated(default):
            assert isinstance(default, PYTHON_TYPES[role.options[name]["type"]]), name
            assert not (role.options[name]["type"] == "int" and isinstance(default, bool)), name
            choices = role.options[name].get("choices")
            chosen = default if isinstance(default, list) else [default]
            assert not choices or set(chosen) <= set(choices), name


def test_every_option_is_described(role: Role) -> None:
    for name, option in role.options.items():
        assert option.get("description"), name
        assert option.get("type") in PYTHON_TYPES, name
        assert option["type"] != "list" or option.get("elements"), name


def test_the_checks_know_the_same_options(role: Role) -> None:
    assert role.specs["validate"]["options"] == role.options
    assert (role.path / "tasks/validate.yml").exists()


def test_every_option_does_something(role: Role) -> None:
    used = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("tasks", "templates", "vars", "handlers", "files")
        for path in sorted((role.path / folder).rglob("*"))
        # To be checked is not yet to be used.
        if path.is_file() and not path.name.startswith("validate")
    )
    # An option may also be there for the other roles to refer to.
    others = [ROOT / "roles" / name / "defaults/main.yml" for name in ROLES if name != role.name]
    used += "\n".join(path.read_text(encoding="utf-8") for path in others)
    for name in role.options:
        assert re.search(rf"\b{name}\b", used), f"{name} is used nowhere"


@pytest.mark.parametrize("readme", sorted((ROOT / "roles").glob("*/README.md")), ids=lambda path: path.parent.name)
def test_the_readme_tells_every_variable_or_where_they_are(readme: Path) -> None:
    text = readme.read_text(encoding="utf-8")
    role = Role(readme.parent.name)
    assert role.name in text
    if "meta/argument_specs.yml" not in text:
        assert [name for name in role.options if name not in text] == []
    # And none that is not there any more.
    mentioned = set(re.findall(rf"\b{role.name}_[a-z0-9_]*[a-z0-9]\b(?![*_])", text))
    tasks = "".join(path.read_text(encoding="utf-8") for path in (readme.parent / "tasks").glob("*.yml"))
    facts = {name for name in mentioned if "set_fact" in tasks and f"    {name}:" in tasks}
    assert sorted(mentioned - set(role.options) - facts) == []
