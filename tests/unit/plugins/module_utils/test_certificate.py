"""What a certificate is refused for, and how one takes the place of another."""

from __future__ import annotations

from typing import Any

from ansible_collections.steadfast.asgi.plugins.module_utils import certificate

NAMES = ["DNS:given.example.org"]


def test_bad_and_unusual_ones(pki: Any) -> None:
    """All in one test: to make them takes longer than to judge them."""
    wrong = {}
    made = pki.cases()
    for name, case in made.items():
        found = certificate.judge(case.chain, case.key, NAMES)
        said = "\n".join(found.problems)
        if bool(case.said) != bool(said) or case.said not in said:
            wrong[name] = said or f"accepted, {found.warnings}"
        assert "PRIVATE KEY-----\nM" not in said
    assert wrong == {}
    assert sum(1 for case in made.values() if case.said) >= 50
