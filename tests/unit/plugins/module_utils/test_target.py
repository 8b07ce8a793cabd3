"""What pip and uv call a host."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.target import PROBE, Target


def target(libc: str = "glibc 2.36", machine: str = "x86_64", version: str = "3.11.2") -> Target:
    markers = {"python_full_version": version, "python_version": version.rpartition(".")[0], "platform_machine": machine}
    return Target.of({"libc": libc, "markers": markers})


def test_an_interpreter_says_what_it_is() -> None:
    done = subprocess.run([sys.executable, "-I", "-c", PROBE], check=True, capture_output=True, text=True)
    found = Target.of(json.loads(done.stdout))
    assert found.version == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert found.markers["sys_platform"] == sys.platform
    assert found.markers["extra"] == ""


@pytest.mark.parametrize(
    ("libc", "machine", "first", "last", "uv"),
    [
        ("glibc 2.36", "x86_64", "manylinux_2_36_x86_64", "linux_x86_64", "x86_64-manylinux_2_36"),
        ("glibc 2.41", "aarch64", "manylinux_2_41_aarch64", "linux_aarch64", "aarch64-manylinux_2_40"),
        ("glibc 2.29", "x86_64", "manylinux_2_29_x86_64", "linux_x86_64", "x86_64-manylinux_2_28"),
        ("", "x86_64", "musllinux_1_2_x86_64", "musllinux_1_0_x86_64", "x86_64-unknown-linux-musl"),
    ],
)
def test_the_platform_has_the_names_of_pip_and_of_uv(libc: str, machine: str, first: str, last: str, uv: str) -> None:
    found = target(libc, machine)
    assert (found.platforms()[0], found.platforms()[-1]) == (first, last)
    assert f"--python-platform={uv}" in found.for_uv()
    assert "--abi=cp311" in found.for_pip()


def test_old_wheels_are_for_the_host_too() -> None:
    assert {"manylinux2014_x86_64", "manylinux1_x86_64", "manylinux_2_17_x86_64"} <= set(target().platforms())
    assert "manylinux1_aarch64" not in target(machine="aarch64").platforms()


def test_a_candidate_s_wheels_are_those_of_the_release() -> None:
    assert "--python-version=3.14.0" in target(version="3.14.0rc2").for_pip()
