"""What is printed of what others have written."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import basic
from ansible.module_utils.basic import AnsibleModule

from ansible_collections.steadfast.asgi.plugins.filter.legible import FilterModule
from ansible_collections.steadfast.asgi.plugins.module_utils.legible import Module, legible

TABLE = {
    "a\tb\nc": "a\tb\nc",
    "grün, 日本語, \U0001f600, é": "grün, 日本語, \U0001f600, é",
    "a\\x1b": "a\\x1b",
    "\x1b[31mred\x1b[0m": r"\x1b[31mred\x1b[0m",
    "\x1b]52;c;ZXZpbA==\x07": r"\x1b]52;c;ZXZpbA==\x07",
    "\x00\x08\x0b\x0c\x7f": r"\x00\x08\x0b\x0c\x7f",
    "\x80\x85\x9b31m\x9d\x9f": r"\x80\x85\x9b31m\x9d\x9f",
    "100 %\rdone": r"100 %\x0ddone",
    "one\r\ntwo\r\n": "one\ntwo\n",
    "\u202a\u202e\u2066\u2069\u061c\u200e\u200f": r"\u202a\u202e\u2066\u2069\u061c\u200e\u200f",
    "a\u200bb\u200dc\u2060d\ufeff\u00ad": r"a\u200bb\u200dc\u2060d\ufeff\xad",
    "\u2028\u2029": r"\u2028\u2029",
    "\U000e0041": r"\U000e0041",
    "\udc9b": r"\udc9b",
}


@pytest.mark.parametrize("text", TABLE)
def test_what_acts_and_is_not_seen_is_escaped(text: str) -> None:
    assert legible(text) == TABLE[text]
    assert FilterModule().filters()["legible"]({text: [text, 1, None]}) == {TABLE[text]: [TABLE[text], 1, None]}


def test_every_character_can_be_printed_afterwards() -> None:
    for number in range(sys.maxunicode + 1):
        done = legible(chr(number))
        assert done in ("\n", "\t") or done.isprintable() or (len(done) == 1 and number > 0x9F), hex(number)
        done.encode()


def test_of_a_long_text_the_ends_are_left() -> None:
    done = legible(f"begin{'x' * 10_000}\x1bend", 1000)
    assert done.startswith("begin")
    assert done.endswith("\\x1bend")
    assert "… 9009 characters are left out here …" in done
    assert len(done) < 1100


def test_whatever_a_module_reports_is_legible(run_module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _, warning: warnings.append(warning))

    def succeed() -> None:
        module = Module(argument_spec={})
        module.warn("warned \x1b")
        module.exit_json(changed=True, answer="\x1b]0;", steps=[{"said": ("\x9b", 1)}], diff={"before": "\u202e"})

    done = run_module(succeed)
    assert (done["answer"], done["steps"], done["diff"]) == ("\\x1b]0;", [{"said": ["\\x9b", 1]}], {"before": "\\u202e"})
    assert warnings == ["warned \\x1b"]

    def fail() -> None:
        Module(argument_spec={}).fail_json("no \x07", journal="\x1b")

    done = run_module(fail)
    assert (done["failed"], done["msg"], done["journal"]) == (True, "no \\x07", "\\x1b")


MODULES = Path(__file__).resolve().parents[4] / "plugins/modules"


@pytest.mark.parametrize("name", sorted(path.stem for path in MODULES.glob("*.py") if "    main()" in path.read_text(encoding="utf-8")))
def test_who_looks_at_its_options_only_runs_no_module(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ansible-lint's rule `args` does it, also where the module has been imported before."""
    module = importlib.import_module(f"ansible_collections.steadfast.asgi.plugins.modules.{name}")

    class OptionsAreValidError(Exception):
        pass

    class Ends(AnsibleModule):  # type: ignore[misc]
        def __init__(self, **_options: Any) -> None:
            raise OptionsAreValidError

    monkeypatch.setattr(basic, "AnsibleModule", Ends)
    with pytest.raises(OptionsAreValidError):
        module.main()


def test_no_module_reports_in_another_way() -> None:
    texts = {path.name: path.read_text(encoding="utf-8") for path in MODULES.glob("*.py")}
    assert texts
    programs = {name: text for name, text in texts.items() if "    main()" in text}
    assert [name for name, text in programs.items() if "module_utils.legible import Module\n" not in text] == []
    assert [name for name, text in texts.items() if "AnsibleModule" in text] == []
