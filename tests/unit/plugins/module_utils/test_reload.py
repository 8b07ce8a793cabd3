"""A reload of a master that is played here, in a time that passes only while somebody sleeps; at the end, one of a real master."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils.readiness import Answer, Progress, Target
from ansible_collections.steadfast.asgi.plugins.module_utils.reload import Host, Reload, ReloadError, describe, main

MASTER = 100
LISTENING = 4711

At = dict[float, Callable[[], object]]


class Master:
    """A master with two workers. What happens to them, and when after the signal, the test says by `timeline`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.workers = [101, 102]
        # Who accepts from the listening socket, and who of them is not ready yet.
        self.accepting = {101, 102}
        self.booting: set[int] = set()
        self.main_pid = MASTER
        self.dead: set[int] = set()
        self.signals: list[tuple[int, int]] = []
        self.timeline: At = {}
        self.traceable = True
        self._turn = itertools.count()
        self._lock = threading.Lock()

    # What the tests let happen

    def fork(self, *pids: int, ready: bool = True) -> None:
        self.workers += pids
        self.accepting |= set(pids)
        if not ready:
            self.booting |= set(pids)

    def drain(self, *pids: int) -> None:
        self.accepting -= set(pids)

    def end(self, *pids: int) -> None:
        self.drain(*pids)
        self.workers = [pid for pid in self.workers if pid not in pids]
        self.dead |= set(pids)

    # What the reload sees

    def host(self) -> Host:
        return Host(
            children=lambda _pid: list(self.workers),
            alive=lambda pid: pid not in self.dead,
            listening=lambda _pid, path: {LISTENING} if path else set(),
            holds=lambda pid, inodes: LISTENING in inodes and pid in self.accepting,
            kill=lambda pid, number: self.signals.append((pid, number)),
            clock=lambda: self.now,
            sleep=self.sleep,
        )

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds
        for moment in [moment for moment in sorted(self.timeline) if moment <= self.now - 1000]:
            self.timeline.pop(moment)()

    def answer(self, pids: Iterable[int]) -> Answer:
        """Each question goes to the next worker that accepts."""
        with self._lock:
            turn = next(self._turn)
        if not self.accepting:
            return Answer(error="ConnectionRefusedError")
        worker = sorted(self.accepting)[turn % len(self.accepting)]
        if worker in self.booting:
            return Answer(503, "booting", worker)
        if not self.traceable:
            return Answer(200, "ready", None, traced=False)
        return Answer(200, "ready", worker if worker in pids else None)

    def target(self, socket: str = "/run/shop.sock") -> Target:
        master = self

        class Played(Target):
            def ask(self, timeout: float, pids: Iterable[int]) -> Answer:
                assert timeout > 0
                return master.answer(pids)

        return Played(socket)


@pytest.fixture
def master() -> Master:
    return Master()


Make = Callable[..., Reload]


@pytest.fixture
def reload(master: Master) -> Make:
    def make(timeline: At, socket: str = "/run/shop.sock", workers: int = 0, **more: Any) -> Reload:
        master.timeline = dict(timeline)
        return Reload(
            master=MASTER,
            target=master.target(socket),
            main_pid=lambda: master.main_pid,
            progress=Progress(workers=workers),
            timeout=12,
            host=master.host(),
            **more,
        )

    return make


def test_a_new_generation_is_adopted_when_the_old_one_is_gone(master: Master, reload: Make) -> None:
    job = reload({2: lambda: master.fork(103, 104), 4: lambda: master.end(101), 6: lambda: master.end(102)})
    job.run()
    assert master.signals == [(MASTER, signal.SIGHUP)]
    assert (job.old, job.new, job.draining) == ([101, 102], [103, 104], [])
    assert 6 <= job.seconds < 7, "neither before the old one is gone, nor long after it"
    assert describe(job) == {
        "old_pids": [101, 102],
        "new_pids": [103, 104],
        "draining_pids": [],
        "attempts": job.progress.attempts,
        "seconds": job.seconds,
        "answer": "200 ready",
    }


def test_old_workers_that_only_finish_what_they_have_are_not_waited_for(master: Master, reload: Make) -> None:
    job = reload({2: lambda: master.fork(103, 104), 4: lambda: master.drain(101, 102)})
    job.run()
    assert job.draining == [101, 102]
    assert 4 <= job.seconds < 5


def test_an_old_worker_that_still_accepts_is_no_new_generation(master: Master, reload: Make) -> None:
    job = reload({1: lambda: master.fork(103, 104), 2: lambda: master.drain(101)})
    with pytest.raises(ReloadError, match=r"within 12 s: .*Old workers that still accept: \[102\]; new ones: \[103, 104\]"):
        job.run()
    assert 12 <= job.seconds < 13


def test_answers_of_the_old_workers_prove_nothing(reload: Make) -> None:
    """No new worker ever comes, and the old ones answer 200 all the time."""
    job = reload({})
    with pytest.raises(ReloadError, match=r"within 12 s: 0 of .* after 0 attempts.*\[101, 102\]; new ones: none"):
        job.run()
    assert job.new == []


def test_every_new_worker_has_to_be_ready(master: Master, reload: Make) -> None:
    timeline: At = {
        1: lambda: master.fork(103, 104, ready=False),
        2: lambda: master.drain(101, 102),
        5: lambda: master.booting.discard(103),
        9: lambda: master.booting.discard(104),
    }
    job = reload(timeline)
    job.run()
    assert 9 <= job.seconds < 10


def test_the_deadline_names_what_was_missing(master: Master, reload: Make) -> None:
    job = reload({1: lambda: master.fork(103, 104, ready=False), 2: lambda: master.end(101, 102)})
    with pytest.raises(ReloadError, match=r"within 12 s: 0 of .* the last answer was: 503 booting\. Old workers that still accept: none"):
        job.run()


def test_how_many_there_were_says_nothing(master: Master, reload: Make) -> None:
    """One of them still drains after an earlier reload, one never booted, and the new settings ask for one worker."""
    master.workers.append(98)
    master.fork(99, ready=False)
    job = reload({1: lambda: master.fork(103), 2: lambda: master.end(99, 101, 102)})
    job.run()
    assert (job.old, job.new, job.draining) == ([101, 102, 98, 99], [103], [98])
    assert int(job.seconds) == 2


@pytest.mark.parametrize(("workers", "until"), [(0, 3), (1, 3), (3, 6)])
def test_there_have_to_be_as_many_new_workers_as_were_asked_for(master: Master, reload: Make, workers: int, until: int) -> None:
    timeline: At = {1: lambda: master.fork(103), 3: lambda: master.end(101, 102), 6: lambda: master.fork(104, 105)}
    job = reload(timeline, workers=workers)
    job.run()
    assert int(job.seconds) == until


def test_more_than_were_asked_for_have_to_be_ready_too(master: Master, reload: Make) -> None:
    timeline: At = {
        1: lambda: master.fork(103, 104),
        2: lambda: master.fork(105, ready=False),
        3: lambda: master.end(101, 102),
        6: master.booting.clear,
    }
    job = reload(timeline, workers=2)
    job.run()
    assert job.new == [103, 104, 105]
    assert int(job.seconds) == 6


def test_a_new_worker_that_ended_again_does_not_count(master: Master, reload: Make) -> None:
    timeline: At = {
        1: lambda: master.fork(103, 104),
        # Both had answered by now.
        3: lambda: master.end(104, 101, 102),
        8: lambda: master.fork(105),
    }
    job = reload(timeline, workers=2)
    job.run()
    assert job.new == [103, 105]
    assert 8 <= job.seconds < 9


@pytest.mark.parametrize(
    "happens",
    [
        lambda master: master.dead.add(MASTER),
        # systemd has started another one in its place.
        lambda master: setattr(master, "main_pid", 200),
        lambda master: setattr(master, "main_pid", 0),
    ],
    ids=["gone", "replaced", "unknown"],
)
def test_a_master_that_ends_is_noticed_at_once(master: Master, reload: Make, happens: Callable[[Master], object]) -> None:
    job = reload({1: lambda: master.fork(103, 104), 2: lambda: happens(master)})
    with pytest.raises(ReloadError, match="the master 100 ended during the reload"):
        job.run()
    assert 2 <= job.seconds < 3


def test_a_server_without_workers_gets_no_signal(master: Master, reload: Make) -> None:
    master.workers = []
    with pytest.raises(ReloadError, match="has no workers, so the signal would end it"):
        reload({}).run()
    assert master.signals == []


def test_another_signal_can_be_sent(master: Master, reload: Make) -> None:
    reload({1: lambda: master.fork(103, 104), 2: lambda: master.end(101, 102)}, signal=signal.SIGUSR1).run()
    assert master.signals == [(MASTER, signal.SIGUSR1)]


def test_behind_a_url_the_old_workers_have_to_be_gone(master: Master, reload: Make) -> None:
    """Whether they still accept from a port is not looked at."""
    timeline: At = {1: lambda: master.fork(103, 104), 2: lambda: master.drain(101, 102), 7: lambda: master.end(101, 102)}
    job = reload(timeline, socket="")
    job.run()
    assert (job.draining, int(job.seconds)) == ([], 7)


def test_answers_of_unknown_origin_count_when_no_old_worker_can_have_given_them(master: Master, reload: Make) -> None:
    master.traceable = False
    job = reload({1: lambda: master.fork(103, 104), 5: lambda: master.end(101, 102)}, socket="")
    job.run()
    assert 5 <= job.seconds < 6
    assert job.progress.attempts == 5, "no answer from before that was taken into account"


# As a program


# A master in the manner of gunicorn: at SIGHUP it forks new workers, and ends the old ones.
REAL = """
import os, signal, socket, sys
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(64)
def fork():
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
    while True:
        connection = listener.accept()[0]
        path = connection.recv(65536).split()[1]
        assert path == b"/healthz"
        connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        connection.recv(1)
        connection.close()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
old = [fork(), fork()]
print(*old, flush=True)
signal.sigwait([signal.SIGHUP])
new = [fork(), fork()]
for child in old:
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
signal.pause()
"""


@pytest.fixture
def real(short_path: Path) -> Iterator[tuple[int, str]]:
    """A master and its socket."""
    path = str(short_path / "app.sock")
    command = [sys.executable, "-I", "-S", "-c", REAL, path]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True))
        stack.callback(os.killpg, process.pid, signal.SIGKILL)
        assert process.stdout is not None
        assert len(process.stdout.readline().split()) == 2
        yield process.pid, path


def test_a_real_master_is_reloaded(real: tuple[int, str], capsys: pytest.CaptureFixture[str]) -> None:
    pid, path = real
    assert main(["--pid", str(pid), "--socket", path, "--path", "/healthz", "--timeout", "20"]) == 0
    assert capsys.readouterr().out.startswith("2 new workers serve after ")


def test_a_failure_is_a_message_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        code = main(["--pid", str(process.pid), "--socket", "/nonexistent.sock"])
        unharmed = process.poll() is None
        process.kill()
    assert (code, unharmed) == (1, True)
    assert capsys.readouterr().err == f"reload failed: the process {process.pid} has no workers, so the signal would end it\n"
