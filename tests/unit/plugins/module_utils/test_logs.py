from __future__ import annotations

import json

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.logs import readable


def test_a_traceback_is_unfolded_and_the_rest_stays() -> None:
    failed = {
        "time": "now",
        "level": "error",
        "logger": "uvicorn.error",
        "message": "it failed",
        "exception": "Traceback:\n  x\nValueError: y",
    }
    text = f"Starting shop\n{json.dumps(failed)}\nMain process exited"
    assert readable(text) == "Starting shop\n[ERROR] uvicorn.error: it failed\nTraceback:\n  x\nValueError: y\nMain process exited"


@pytest.mark.parametrize("line", ["{", "{}", '{"message": 5}', '["message"]', '{"level": "info"}', "", "plain"])
def test_what_is_no_entry_stays_as_it_is(line: str) -> None:
    assert readable(line) == line


def test_an_application_s_own_form_of_json_is_read_as_far_as_it_goes() -> None:
    assert readable('{"message": "hello", "level": 30, "exception": null}') == "hello"
