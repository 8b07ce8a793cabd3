"""Write docs/reference out of the roles' argument specifications and the documentation inside the plugins.

Nothing there is written by hand: change the specification, and run this again.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path("docs/reference")

# Ansible's semantic markup: C(code), O(option=value), M(the.full.name) …
MARKUP = re.compile(r"\b([A-Z]{1,2})\(((?:[^)\\]|\\.)*)\)")
# Which of the documented kinds of plugins a collection's folder holds.
KINDS = {"modules": "Modules", "filter": "Filters"}


def read_yaml(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def code(text: str) -> str:
    return f"`{text}`"


def marked(match: re.Match[str]) -> str:
    """Return one piece of Ansible's markup as Markdown."""
    kind, text = match[1], re.sub(r"\\(.)", r"\1", match[2])
    if kind in ("C", "V", "E"):
        return code(text)
    if kind in ("O", "RV"):
        return code(text.replace("[]", ""))
    if kind == "M":
        collection, _, name = text.rpartition(".")
        return f"[{name}](../modules/{name}.md)" if collection == "steadfast.asgi" else code(text)
    if kind in ("I", "B"):
        return f"*{text}*" if kind == "I" else f"**{text}**"
    if kind == "U":
        return f"<{text}>"
    if kind == "L":
        label, _, url = text.rpartition(",")
        return f"[{label.strip()}]({url.strip()})"
    raise ValueError(f"unknown markup {match[0]}")


def plain(text: str) -> str:
    """Return text between pieces of markup with nothing in it that Markdown would interpret."""
    return text.replace("<", "&lt;").replace("*", r"\*")


def markdown(text: str) -> str:
    done, end = [], 0
    for match in MARKUP.finditer(text):
        done += [plain(text[end : match.start()]), marked(match)]
        end = match.end()
    return " ".join("".join([*done, plain(text[end:])]).split())


def paragraphs(description: str | list[str]) -> list[str]:
    return [markdown(text) for text in ([description] if isinstance(description, str) else description)]


def cell(text: str) -> str:
    """Return text for a table: a bar would end the cell, even inside of code."""
    return text.replace("|", r"\|")


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    heads = list(heads)
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    return [*lines, *(f"| {' | '.join(map(cell, row))} |" for row in rows)]


def literal(value: Any) -> str:
    """Return a value the way that it is written in YAML."""
    return code(json.dumps(value, ensure_ascii=False))


def default_of(option: Mapping[str, Any]) -> str:
    if "default" in option:
        return literal(option["default"])
    return "required" if option.get("required") else "none"


def kind_of(option: Mapping[str, Any]) -> str:
    kind = str(option.get("type", "str"))
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def told(option: Mapping[str, Any]) -> str:
    sentences = paragraphs(option["description"])
    if "choices" in option:
        sentences.append(f"One of {', '.join(code(str(choice)) for choice in option['choices'])}.")
    return " ".join(sentences)


def flattened(options: Mapping[str, Any], nested: str, prefix: str = "") -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield every option with its name, those inside of others as `outer.inner`. `nested` is the key that holds those."""
    for name, option in options.items():
        yield prefix + name, option
        yield from flattened(option.get(nested) or {}, nested, f"{prefix}{name}.")


def page(title: str, source: str, *blocks: list[str]) -> str:
    head = [f"<!-- Made by tools/docs out of {source}. -->", "", f"# {title}"]
    return "\n".join([*head, *(line for block in blocks if block for line in ("", *block)), ""])


def spaced(texts: Iterable[str]) -> list[str]:
    """Return the texts as paragraphs."""
    return "\n\n".join(texts).split("\n")


def role_page(role: Path) -> tuple[str, str]:
    """Return what a role is, in a phrase, and its page."""
    source = "meta/argument_specs.yml"
    spec = read_yaml(role / source)["argument_specs"]["main"]
    defaults = read_yaml(role / "defaults/main.yml")
    rows = [
        (code(name), kind_of(option), literal(defaults[name]) if name in defaults else default_of(option), told(option))
        for name, option in flattened(spec["options"], "options")
    ]
    text = page(
        f"Role {role.name}",
        f"roles/{role.name}/{source} and defaults/main.yml",
        spaced(paragraphs(spec["description"])),
        [f"How to use it, with examples: [roles/{role.name}](../../../roles/{role.name}/README.md)."],
        ["## Variables"],
        table(("variable", "type", "default", "what"), rows),
    )
    return markdown(spec["short_description"]), text


def documentation(plugin: Path) -> dict[str, Any]:
    """Return the values of DOCUMENTATION, EXAMPLES and RETURN in a plugin's source."""
    found: dict[str, str] = {}
    for node in ast.parse(plugin.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and isinstance(node.value, ast.Constant):
            found[node.targets[0].id] = str(node.value.value)
    return found


def plugin_page(plugin: Path, title: str) -> tuple[str, str]:
    """Return what a plugin does, in a phrase, and its page."""
    texts = documentation(plugin)
    doc = yaml.safe_load(texts["DOCUMENTATION"])
    options = [(code(name), kind_of(option), default_of(option), told(option)) for name, option in flattened(doc["options"], "suboptions")]
    returned = [
        (code(name), kind_of(value), markdown(value.get("returned", "always")), told(value))
        for name, value in flattened(yaml.safe_load(texts["RETURN"]) or {}, "contains")
    ]
    attributes = [
        (code(name), value["support"], " ".join(paragraphs(value["description"]) + paragraphs(value.get("details", []))))
        for name, value in doc.get("attributes", {}).items()
    ]
    notes = [f"- {note}" for note in paragraphs(doc.get("notes", []))]
    text = page(
        title,
        str(plugin.relative_to(ROOT)),
        spaced(paragraphs(doc["description"])),
        ["## Options"],
        table(("option", "type", "default", "what"), options),
        ["## Behaviour"] if attributes else [],
        table(("what", "support", "how"), attributes) if attributes else [],
        ["## Notes"] if notes else [],
        notes,
        ["## Examples"],
        ["```yaml", *texts["EXAMPLES"].strip().split("\n"), "```"],
        ["## Return values"] if returned else [],
        table(("value", "type", "when", "what"), returned) if returned else [],
    )
    return markdown(doc["short_description"]), text


def pages() -> dict[Path, str]:
    """Return the text of every page by its path below the repository's root."""
    made: dict[Path, str] = {}
    index = [["What every variable and option is, with its default. `ansible-doc -t role steadfast.asgi.asgi_nginx` tells the same."]]

    def add(heading: str, folder: str, found: Iterable[tuple[str, tuple[str, str]]]) -> None:
        rows = []
        for name, (phrase, text) in found:
            made[REFERENCE / folder / f"{name}.md"] = text
            rows.append((f"[{name}]({folder}/{name}.md)", phrase))
        index.extend([[f"## {heading}"], table(("name", "what"), rows)])

    roles = sorted(path for path in (ROOT / "roles").glob("asgi_*") if (path / "meta").is_dir())
    add("Roles", "roles", ((role.name, role_page(role)) for role in roles))
    for kind, heading in KINDS.items():
        plugins = sorted((ROOT / "plugins" / kind).glob("[a-z]*.py"))
        add(heading, kind, ((plugin.stem, plugin_page(plugin, f"{heading[:-1]} {plugin.stem}")) for plugin in plugins))
    made[REFERENCE / "README.md"] = page("Reference", "the roles' argument specifications and the plugins", *index)
    return made


def stale(made: Mapping[Path, str]) -> list[Path]:
    """Return the files in docs/reference that are missing, differ from what they have to be, or have no business there."""
    there = {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in (ROOT / REFERENCE).rglob("*.md")}
    return sorted(path for path in made.keys() | there.keys() if made.get(path) != there.get(path))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, and fail if something is out of date")
    check: bool = parser.parse_args().check
    made = pages()
    for path in stale(made):
        print(path)
        if check:
            continue
        if path not in made:
            (ROOT / path).unlink()
            continue
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(made[path], encoding="utf-8")
    if check and stale(made):
        print("out of date: run tools/docs", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
