from __future__ import annotations

import re
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.steadfast.asgi.plugins.filter.environment_file import FilterModule, environment_file


def read_as_systemd_does(text: str) -> dict[str, str]:
    """What systemd makes of an environment file (systemd.exec(5), EnvironmentFile=), for the quoted form alone.

    A value ends at the first double quote that no backslash protects. Inside, a backslash before one of \\ " ` $ gives
    that character, before a line break nothing, and before anything else it stays.
    """
    found: dict[str, str] = {}
    rest = text
    while rest:
        start = re.match(r'([A-Za-z_][A-Za-z0-9_]*)="', rest)
        assert start, f"systemd would not take this for an assignment: {rest!r}"
        value, rest = "", rest[start.end() :]
        while rest[0] != '"':
            if rest[0] != "\\":
                value, rest = value + rest[0], rest[1:]
                continue
            value += rest[1] if rest[1] in '\\"`$' else "" if rest[1] == "\n" else rest[:2]
            rest = rest[2:]
        assert rest[:2] == '"\n', f"something follows the value: {rest!r}"
        found[start[1]], rest = value, rest[2:]
    return found


def test_the_reference_follows_systemd() -> None:
    assert read_as_systemd_does('A="a\\$b\\n"\nB="\\\\"\nC="x\\\ny\nz"\n') == {"A": "a$b\\n", "B": "\\", "C": "xy\nz"}


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "",
        " spaces at both ends ",
        "# no comment",
        "; no comment",
        "a=b",
        'say "hi"',
        "it's",
        "C:\\new\\table",
        "ends with a backslash\\",
        "\\",
        "backslash and line break \\\n",
        "$HOME ${HOME} $(id) `id`",
        "100 %h %%",
        "two\nlines",
        "\nOTHER=1\n",
        '"\nOTHER="1',
        "\t\r\n",
        "grüße ☂ 𝄞",
        "-----BEGIN PRIVATE KEY-----\nMIIB+/=\n-----END PRIVATE KEY-----\n",
        '\\"`$' * 3,
    ],
)
def test_text_comes_back_as_it_was(value: str) -> None:
    variables = {"FIRST": "1", "VALUE": value, "ZULETZT": "z"}
    assert read_as_systemd_does(environment_file(variables)) == variables


def test_what_a_shell_would_expand_is_protected_too() -> None:
    assert environment_file({"A": '\\"`$'}) == 'A="\\\\\\"\\`\\$"\n'


def test_every_character_of_latin_1_comes_back() -> None:
    value = "".join(map(chr, range(1, 256)))
    assert read_as_systemd_does(environment_file({"A": value})) == {"A": value}


@pytest.mark.parametrize(("value", "written"), [(True, "true"), (False, "false"), (0, "0"), (-7, "-7"), (1.5, "1.5")])
def test_numbers_and_booleans_are_written_as_text(value: Any, written: str) -> None:
    assert environment_file({"A": value}) == f'A="{written}"\n'


def test_the_order_of_the_mapping_does_not_matter() -> None:
    assert environment_file({"B": 1, "A": 2, "_C": 3}) == 'A="2"\nB="1"\n_C="3"\n'
    assert environment_file({"_C": 3, "A": 2, "B": 1}) == 'A="2"\nB="1"\n_C="3"\n'
    assert environment_file({}) == ""


@pytest.mark.parametrize("name", ["", "1A", "A-B", "A B", "A=B", "A\n", "A\nB", "Ä", "A.B", "${A}", "export A", 1])
def test_what_is_no_name_is_refused(name: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="environment variable"):
        environment_file({name: "x"})


def test_a_name_of_another_kind_is_refused_among_good_ones() -> None:
    variables: dict[Any, str] = {"A": "x", 1: "y", "B": "z"}
    with pytest.raises(AnsibleFilterError, match="1 cannot be the name"):
        environment_file(variables)


@pytest.mark.parametrize("value", [None, ["hush"], {"hush": "hush"}, b"hush", "hush\0hush", ("hush",)])
def test_a_refused_value_is_not_told(value: Any) -> None:
    with pytest.raises(AnsibleFilterError) as refused:
        environment_file({"SECRET": value})
    assert "SECRET" in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("variables", [None, "A=1", ["A"], 1])
def test_only_a_mapping_is_taken(variables: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="mapping"):
        environment_file(variables)


def test_ansible_finds_it_by_its_name() -> None:
    assert FilterModule().filters()["environment_file"]({"A": "b"}) == 'A="b"\n'
