"""What becomes an argument, and what does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.source import SourceError
from ansible_collections.steadfast.asgi.plugins.module_utils.values import (
    address,
    file_hash,
    file_name,
    hashed,
    legible,
    package_name,
    reference,
    requirement,
    version,
    written,
)

SCHEMES = ("https", "ssh", "file")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1.0", "1.0"), ("v1.0.RC1", "1.0rc1"), ("1!2.0+CPU", "1!2.0+cpu"), (" 1.0\u2028", None), ("1.0\n", None), ("", None), ("1 0", None)],
)
def test_a_version_is_written_again(text: str, expected: str | None) -> None:
    if expected:
        assert version(text, "uv.lock") == expected
    else:
        with pytest.raises(SourceError, match=r"^uv\.lock has the version"):
            version(text, "uv.lock")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hatchling", "hatchling"),
        ("Foo.Bar [b, a] >=1,<2 ; python_version > '3'", "Foo.Bar[a,b]<2,>=1"),
        ("setuptools>=61.0", "setuptools>=61.0"),
        ("a (>=1)", "a>=1"),
    ],
)
def test_a_requirement_is_written_again(text: str, expected: str) -> None:
    assert written(requirement(text, "x")) == expected


BAD: dict[str, tuple[Callable[[str], object], list[str]]] = {
    "a requirement": (
        lambda text: requirement(text, "x"),
        ["", "-e .", "--pre", "./a", "a b", "a==1\n", "a @ file:///x", "a @ git+https://x/y", "a===1", "a;", "a[", "${A}", "a==${A}"],
    ),
    "a name": (lambda text: package_name(text, "x"), ["", "-a", "a-", "a b", "a\n", "ä", "a/b", "../a", "a[b]", "a" * 2000]),
    "a hash": (lambda text: file_hash(text, "x"), ["", "sha256:", "sha256:xy", "aa", "sha256:aa\n", "sha256:aa -e .", "crc:aa"]),
    "a file": (lambda text: file_name(text, "x"), ["", "-e.whl", "a b.whl", "a\n.whl", "a/b.whl", ".hidden", "a;b", "a[b]", "a@b", "a#b"]),
    "server requirements": (
        lambda text: hashed(text, "x"),
        ["-e .", "a", "a>=1", "a==1.*", "a==1 -e .", "a==1 --hash=x", "a==1\x0c-e .", "--index-url https://x", "a @ https://x/a.whl"],
    ),
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, (_check, texts) in BAD.items() for text in texts])
def test_what_does_not_parse_is_refused(kind: str, text: str) -> None:
    with pytest.raises(SourceError, match=r"^x has"):
        BAD[kind][0](text)


def test_server_requirements_are_written_again() -> None:
    text = "# by uv\nA.b[x]==1.0 ; python_version > '3' \\\n    --hash=sha256:AA \\\n    --hash sha256:bb\n\nc==2 # why\n"
    assert hashed(text, "x") == 'A.b[x]==1.0 ; python_version > "3" \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nc==2\n'
    assert hashed("\n# nothing\n", "x") == ""


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://git.example.org/shop.git", True),
        ("ssh://git@git.example.org:2222/~me/shop.git", True),
        ("ssh://[::1]:22/x", True),
        ("file:///srv/shop", True),
        ("https://-x/y", False),
        ("ssh://git@-oProxyCommand=x/y", False),
        ("ssh://-git@example.org/y", False),
        ("ssh://git@example.org:x/y", False),
        ("ext::sh -c id", False),
        ("ftp://example.org/x", False),
        ("https://example.org/a b", False),
        ("https://example.org/a\n", False),
        ("https://example.org/${HOME}", False),
        ("https:///x", False),
        ("-u", False),
    ],
)
def test_an_address_has_a_known_scheme_and_a_host(url: str, good: bool) -> None:
    if good:
        assert address(url, SCHEMES) == url
    else:
        with pytest.raises(ValueError, match=r"^$|netloc|IPv6"):
            address(url, SCHEMES)


@pytest.mark.parametrize(
    ("ref", "good"),
    [
        ("main", True),
        ("refs/tags/v1.0", True),
        ("feature/über-1", True),
        ("#12-fix", True),
        ("-x", False),
        ("--upload-pack=x", False),
        ("*", False),
        ("a..b", False),
        ("a:b", False),
        ("a^{}", False),
        ("a~1", False),
        ("a.lock", False),
        ("a/", False),
        ("a\n", False),
        ("", False),
    ],
)
def test_a_reference_is_one_name(ref: str, good: bool) -> None:
    if good:
        assert reference(ref) == ref
    else:
        with pytest.raises(ValueError, match=r"^$"):
            reference(ref)


def test_a_message_does_nothing_to_a_terminal() -> None:
    assert legible("a\n\x1b]52;c;eA==\x07\u202eü") == "a\n\\x1b]52;c;eA==\\x07\\u202eü"
