"""The documentation says what the code says: the reference is up to date, links lead somewhere, variables exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ansible_collections.steadfast.asgi.tools import reference

ROOT = Path(__file__).resolve().parents[2]
GUIDES = sorted(path for path in (ROOT / "docs").rglob("*.md") if "reference" not in path.relative_to(ROOT).parts)
READMES = [ROOT / "README.md", *sorted((ROOT / "roles").glob("*/README.md")), ROOT / "examples/fastapi-app/README.md"]
INVENTORIES = sorted(path for folder in ("examples/inventories", "playbooks/inventory") for path in (ROOT / folder).rglob("*.yml"))
ROLES = sorted(path.name for path in (ROOT / "roles").glob("asgi_*"))

# Set by the user for all roles together, or for the playbooks.
SHARED = {"asgi_app", "asgi_shared", "asgi_source", "asgi_import_path", "asgi_domain"}
SHARED |= {"asgi_hosts", "asgi_serial", "asgi_max_fail_percentage", "asgi_rollback_to", "asgi_rollback_run"}
SHARED |= {"asgi_remove", "asgi_remove_data", "asgi_command"}
# Facts that a role leaves behind, a file, and what nginx calls an application named shop.
FOUND = {"asgi_release_id", "asgi_release_path", "asgi_handover", "asgi_tls", "asgi_shop"}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def known_names() -> set[str]:
    """Return every name beginning with asgi_ that means something to the collection."""
    names = SHARED | FOUND | set(ROLES) | {path.stem for path in (ROOT / "plugins/modules").glob("asgi_*.py")}
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
        names |= set(specs["argument_specs"]["main"]["options"])
    return names


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def made() -> dict[Path, str]:
    return reference.pages()


def test_the_reference_is_up_to_date(made: dict[Path, str]) -> None:
    assert [str(path) for path in reference.stale(made)] == [], "run `make docs`"


def test_the_reference_is_about_every_role_and_plugin(made: dict[Path, str]) -> None:
    names = {path.stem for path in made}
    assert set(ROLES) | {path.stem for path in (ROOT / "plugins/modules").glob("asgi_*.py")} <= names


def test_the_reference_notices_a_change(made: dict[Path, str]) -> None:
    page = next(iter(made))
    extra = Path("docs/reference/roles/asgi_gone.md")
    assert reference.stale({**made, page: "other", extra: "new"}) == sorted([page, extra])


def test_markup_becomes_markdown() -> None:
    text = "Set O(files[].state=link), V(a|b) or C(x_y); M(steadfast.asgi.asgi_uv) and M(ansible.builtin.apt), a < b, 2 * 3."
    assert reference.markdown(text) == (
        "Set `files.state=link`, `a|b` or `x_y`; [asgi_uv](../modules/asgi_uv.md) and `ansible.builtin.apt`, a &lt; b, 2 \\* 3."
    )


@pytest.mark.parametrize("path", [*READMES, *GUIDES, *sorted((ROOT / "docs/reference").rglob("*.md"))], ids=name_of)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        assert not anchor or anchor in anchors(page), target


@pytest.mark.parametrize("path", [*READMES, *GUIDES, *INVENTORIES], ids=name_of)
def test_only_names_that_exist_are_named(path: Path) -> None:
    # asgi_nginx_* stands for many, and asgi_nginx_ would be the beginning of one.
    named = set(re.findall(r"(?<![\w.-])asgi_[a-z0-9_]*[a-z0-9]\b(?![*_])", path.read_text(encoding="utf-8")))
    registered = set(re.findall(r"register: (asgi_\w+)", path.read_text(encoding="utf-8")))
    assert sorted(named - known_names() - registered) == []


@pytest.mark.parametrize("path", [READMES[0], *GUIDES], ids=name_of)
def test_examples_are_yaml(path: Path) -> None:
    for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yaml.safe_load(block)


@pytest.mark.parametrize("path", [READMES[0], *GUIDES], ids=name_of)
def test_playbooks_that_are_named_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\bsteadfast\.asgi\.([a-z]+)\b(?![_.])", text))
    named |= set(re.findall(r"\bplaybooks/([a-z]+)\.yml\b", text))
    assert sorted(named - {file.stem for file in (ROOT / "playbooks").glob("*.yml")}) == []


def test_the_inventory_of_the_playbooks_names_what_a_user_has_to_set() -> None:
    variables = yaml.safe_load((ROOT / "playbooks/inventory/group_vars/app.yml").read_text(encoding="utf-8"))
    assert {"asgi_app", "asgi_source", "asgi_import_path", "asgi_domain"} <= set(variables)


@pytest.mark.parametrize("folder", ["examples/inventories/starter", "playbooks/inventory"])
def test_an_inventory_is_read_by_ansible(folder: str) -> None:
    command = ["ansible-inventory", "--inventory", str(ROOT / folder), "--list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert '"app"' in done.stdout or '"shop"' in done.stdout
