"""The playbooks that the tests judge. Each runs once, whatever the number of tests and hosts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def story() -> str:
    """What Ansible said, as talkative as it gets in practice, on the second day of all hosts."""
    playbook = ["ansible-playbook", "-vvv", "--diff", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(HERE / "day_two.yml")]
    done = subprocess.run(playbook, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    return done.stdout + done.stderr
