"""Commands that are not trusted: they end in time, say no more than is kept, and do not outlive the run."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.execute import KEPT, Run, StoppedError, execute, words


def run(code: str, check: Callable[[], str] = lambda: "", data: bytes = b"", kept: int = KEPT) -> tuple[int, str, str]:
    return execute([sys.executable, "-c", code], os.environ, "/", data, check, kept)


def test_a_command_gets_its_input_and_is_heard() -> None:
    code = "import sys; text = sys.stdin.read(); print(len(text)); print('no', file=sys.stderr); sys.exit(3)"
    assert run(code, data=b"x" * 300_000) == (3, "300000\n", "no\n")


def test_a_command_that_does_not_read_is_no_trouble() -> None:
    assert run("print(1)", data=b"x" * 1_000_000) == (0, "1\n", "")


def test_only_the_end_of_an_endless_output_is_kept() -> None:
    code = "import sys\nfor _ in range(64): sys.stdout.write('x' * (1 << 20))\nprint('the end'); print('e' * (3 << 20), file=sys.stderr)"
    _code, stdout, stderr = run(code)
    assert len(stdout) == KEPT
    assert stdout.endswith("the end\n")
    assert len(stderr) == KEPT
    with pytest.raises(StoppedError, match="said more than 2 MiB"):
        run(code, kept=2 << 20)


def test_what_it_leaves_behind_is_not_waited_for() -> None:
    """As a process in the background would be that keeps the outputs open."""
    begun = time.monotonic()
    assert run("import subprocess; subprocess.Popen(['sleep', '20'], start_new_session=True); print('done')")[1] == "done\n"
    assert time.monotonic() - begun < 10


def test_a_reason_to_stop_ends_the_command_and_its_children(tmp_path: Path) -> None:
    code = f"import os, time; os.fork(); open('{tmp_path}/' + str(os.getpid()), 'w'); time.sleep(60)"
    begun = time.monotonic()
    with pytest.raises(StoppedError, match="enough"):
        run(code, lambda: "enough" if len(list(tmp_path.iterdir())) == 2 else "")
    assert time.monotonic() - begun < 30
    for path in tmp_path.iterdir():
        for _attempt in range(50):
            stat = Path(f"/proc/{path.name}/stat")
            if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] in "ZX":
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"{path.name} is alive")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_run(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}
    going = Run()
    try:
        going.listen()
        assert going.over() == ""
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        with pytest.raises(StoppedError, match=number.name):
            run("import time; time.sleep(60)", going.over)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


GONE = """
import os, sys, time
from ansible_collections.steadfast.asgi.plugins.module_utils.execute import Run
run = Run()
# In one piece: who has read the first one may be gone before the second.
os.write(1, b"ready")
for _ in range(200):
    reason = run.over()
    if reason:
        open(sys.argv[1], "w").write(reason)
        break
    time.sleep(0.05)
"""


@pytest.mark.parametrize("how", ["nobody reads the answer", "the parent is gone"])
def test_a_run_is_over_when_its_connection_is(tmp_path: Path, how: str) -> None:
    """ssh closes the pipes, and with a terminal the shell ends."""
    read, write = os.pipe()
    path = os.pathsep.join(each for each in sys.path if each)
    environment = os.environ | {"PYTHONPATH": path}
    shell = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", '"$@" & wait', "sh", sys.executable, "-c", GONE, str(tmp_path / "reason")],
        environment,
        file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)],
    )
    os.close(write)
    assert os.read(read, 100).startswith(b"ready")
    if how == "nobody reads the answer":
        os.close(read)
    else:
        os.kill(shell, signal.SIGKILL)
    for _attempt in range(100):
        if (tmp_path / "reason").exists() and (tmp_path / "reason").read_text():
            break
        time.sleep(0.1)
    os.waitpid(shell, 0)
    assert "the run was stopped" in (tmp_path / "reason").read_text()


def test_what_was_said_means_nothing_to_a_terminal() -> None:
    assert words("one\x1b]52;c;x\x07\r\ntwo\tthree\x9b2J ö\n", 100) == "one\\x1b]52;c;x\\x07\ntwo\tthree\\x9b2J ö"
    assert words("0123456789", 4) == "6789"
