from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.steadfast.asgi.plugins.module_utils import boot, readiness
from ansible_collections.steadfast.asgi.plugins.module_utils.readiness import (
    Answer,
    Progress,
    Target,
    ask_many,
    peer_inode,
    probe,
    socket_owner,
)

# A server in the manner of gunicorn: the parent listens and never accepts, its forked children answer, one connection
# at a time. The answer is found by the path: what comes back for it is given as arguments (path, bytes).
SERVER = r"""
import os, socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen(64)
answers = dict(zip(sys.argv[3::2], sys.argv[4::2]))
children = []
for _ in range(int(sys.argv[2])):
    child = os.fork()
    if child:
        children.append(child)
        continue
    while True:
        connection = listener.accept()[0]
        request = connection.recv(65536).decode()
        path = request.split()[1]
        if path == "/slow":
            time.sleep(0.05)
        if path == "/long":
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + "ü".encode() * 100000
        elif path == "/echo":
            answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(request)}\r\n\r\n{request}".encode()
        else:
            answer = answers[path].encode("latin-1").decode("unicode_escape").encode("latin-1")
        connection.sendall(answer)
        if path != "/cut":
            connection.recv(1)
        connection.close()
print(*children, flush=True)
sys.stdin.read()
for child in children:
    os.kill(child, 9)
"""

OK = r"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nready"

Serve = Callable[..., list[int]]


def ask(socket_path: str, path: str, host: str, timeout: float, pids: list[int]) -> Answer:
    return Target(socket_path, path=path, host=host).ask(timeout, pids)


@pytest.fixture
def path(short_path: Path) -> str:
    return str(short_path / "app.sock")


@pytest.fixture
def serve(path: str) -> Iterator[Serve]:
    """Start the server at `path`; returns its workers' process IDs."""
    with contextlib.ExitStack() as stack:

        def start(workers: int = 1, **answers: str) -> list[int]:
            arguments = [word for name, answer in answers.items() for word in (f"/{name}", answer)]
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", SERVER, path, str(workers), *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            assert process.stdout is not None
            # Leaving the process's context closes its stdin, which is what it ends on.
            return [os.getpid(), process.pid, *map(int, process.stdout.readline().split())]

        yield start


def test_an_answer_is_traced_to_the_forked_worker_that_gave_it(serve: Serve, path: str) -> None:
    test, parent, worker = serve(ready=OK)
    assert ask(path, "/ready", "localhost", 2, [test, parent, worker]) == Answer(200, "ready", worker, traced=True)


def test_an_answer_of_another_process_has_no_pid_and_is_traced_all_the_same(serve: Serve, path: str) -> None:
    _test, parent, _worker = serve(ready=OK)
    answer = ask(path, "/ready", "localhost", 2, [parent])
    assert (answer.status, answer.pid, answer.traced) == (200, None, True)


def test_simultaneous_questions_reach_all_workers(serve: Serve, path: str) -> None:
    _test, _parent, *workers = pids = serve(workers=3, slow=OK)
    answers = ask_many(9, lambda: ask(path, "/slow", "localhost", 5, pids))
    assert len(answers) == 9
    assert {answer.pid for answer in answers} == set(workers)


def test_a_thread_that_cannot_be_had_is_an_answer(serve: Serve, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads count among the service's tasks (TasksMax=), and the application has some too."""
    pids = serve(ready=OK)

    def start(_thread: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert ask(path, "/ready", "localhost", 2, pids) == Answer(error="RuntimeError: can't start new thread")
        assert ask_many(5, Answer) == [Answer(error="RuntimeError: can't start new thread")]


def test_very_many_workers_are_found_in_rounds(serve: Serve, path: str) -> None:
    pids = serve(ready=OK)
    # Not all of them find a place in the queue of this small server.
    assert len(probe(Target(path, path="/ready"), Progress(workers=500), 2, pids)) == 1 + 64


def test_many_questions_are_asked_at_once() -> None:
    together = threading.Barrier(5)

    def one() -> Answer:
        return Answer(body=str(together.wait(5)))

    assert sorted(answer.body for answer in ask_many(5, one)) == ["0", "1", "2", "3", "4"]


def test_the_question_names_path_and_host(serve: Serve, path: str) -> None:
    serve()
    assert ask(path, "/echo", "example.org", 2, []).body.startswith("GET /echo HTTP/1.1\r\nHost: example.org\r\n")


def test_a_refusal_is_an_answer(serve: Serve, path: str) -> None:
    pids = serve(ready=r"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 20\r\n\r\ndatabase \n is down \xff")
    answer = ask(path, "/ready", "localhost", 2, pids)
    assert (answer.status, answer.pid) == (503, pids[-1])
    assert answer.summary() == "503 database is down �"


@pytest.mark.parametrize("answer", [r"SSH-2.0-OpenSSH_9.2\r\n", ""])
def test_what_is_no_http_answer_is_an_error(serve: Serve, path: str, answer: str) -> None:
    serve(cut=answer)
    answered = ask(path, "/cut", "localhost", 2, [])
    assert answered.status is None
    assert answered.error
    assert answered.summary() == answered.error


def test_nobody_there_is_an_error(path: str) -> None:
    assert "FileNotFoundError" in ask(path, "/ready", "localhost", 2, []).error
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(path)
        assert "ConnectionRefusedError" in ask(path, "/ready", "localhost", 2, []).error


def test_a_silent_server_is_not_waited_for_longer_than_said(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        begun = time.monotonic()
        answer = ask(path, "/ready", "localhost", 0.1, [os.getpid()])
        assert 0.1 <= time.monotonic() - begun < 1
    assert answer.status is None
    assert "imeout" in answer.error


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("closing", [r"Connection: close\r\n", ""], ids=["closing", "silent"])
def test_the_last_answer_of_a_connection_is_traced_too(
    serve: Serve, path: str, monkeypatch: pytest.MonkeyPatch, version: str, closing: str
) -> None:
    real = readiness.socket_owner

    def slow(inode: int, pids: Iterable[int]) -> int | None:
        # The server closes its end as soon as it can.
        time.sleep(0.03)
        return real(inode, pids)

    monkeypatch.setattr(readiness, "socket_owner", slow)
    test, parent, worker = serve(ready=rf"HTTP/{version} 200 OK\r\n{closing}Content-Length: 5\r\n\r\nready")
    assert ask(path, "/ready", "localhost", 2, [test, parent, worker]) == Answer(200, "ready", worker, traced=True)


def test_an_answer_is_traced_though_the_server_closes_at_once(serve: Serve, path: str) -> None:
    """As fast servers do, and applications that want no connection to be kept."""
    test, parent, *workers = serve(2, cut=OK.replace(r"\r\n", r"\r\nConnection: close\r\n", 1))
    for _ in range(50):
        assert ask(path, "/cut", "localhost", 2, [test, parent, *workers]).pid in workers


def test_an_answer_that_was_cut_off_is_an_error(serve: Serve, path: str) -> None:
    serve(cut=r"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\nhalf")
    answer = ask(path, "/cut", "localhost", 2, [])
    assert (answer.status, answer.error) == (None, "the answer ended 36 bytes too early")


def test_of_a_long_answer_the_beginning_will_do(serve: Serve, path: str) -> None:
    serve()
    answer = ask(path, "/long", "localhost", 2, [])
    assert (answer.status, set(answer.body)) == (200, {"ü"})


def test_a_server_that_drips_is_not_waited_for_to_the_end(path: str) -> None:
    def drip() -> None:
        with listening.accept()[0] as connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while True:
                connection.sendall(b"x")
                time.sleep(0.02)

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        server = threading.Thread(target=drip)
        server.start()
        begun = time.monotonic()
        answer = ask(path, "/ready", "localhost", 0.1, [os.getpid()])
        assert time.monotonic() - begun < 2
        server.join()
    assert answer.status is None
    assert answer.error


def test_no_connection_is_left_open(serve: Serve, path: str) -> None:
    serve(ready=OK, cut="")
    before = os.listdir("/proc/self/fd")
    for question in ("/ready", "/cut"):
        ask(path, question, "localhost", 2, [os.getpid()])
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.parametrize(
    ("family", "listens_at", "address"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        # A socket for both families, asked over IPv4.
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
    ids=["IPv4", "IPv6", "both"],
)
def test_an_answer_over_tcp_is_traced_too(family: socket.AddressFamily, listens_at: str, address: str) -> None:
    with socket.socket(family) as listening:
        try:
            if listens_at == "::":
                listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listening.bind((listens_at, 0))
        except OSError:
            pytest.skip("no IPv6 here")
        listening.listen()
        port = listening.getsockname()[1]
        requests: list[str] = []

        def serve() -> None:
            with listening.accept()[0] as connection:
                requests.append(connection.recv(65536).decode())
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                connection.recv(1)

        server = threading.Thread(target=serve)
        server.start()
        netloc = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        answer = Target.of_url(f"http://{netloc}/ready?deep=1").ask(2, [os.getpid()])
        server.join()
    assert answer == Answer(200, "ok", os.getpid(), traced=True)
    assert requests[0].startswith(f"GET /ready?deep=1 HTTP/1.1\r\nHost: {netloc}\r\n")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/ready",
        "unix:/run/app.sock",
        "ftp://example.org/",
        "http:///ready",
        "http://example.org:port/",
        "http://example.org:0/",
        "http://example.org:65536/",
        "http://[::1/",
        "http://user:word@example.org/",
    ],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="not an http or https URL"):
        Target.of_url(url)


def test_a_long_answer_is_shortened_in_a_message() -> None:
    text = Answer(500, "word " * 1000).summary(limit=50)
    assert text.startswith("500 word word")
    assert len(text) < 70


def test_the_other_end_of_a_socket_is_found() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        inode = os.fstat(theirs.fileno()).st_ino
        assert peer_inode(ours) == inode
        assert socket_owner(inode, [1, os.getpid()]) in (1, os.getpid())
        assert socket_owner(inode, [os.getpid()]) == os.getpid()
        assert socket_owner(inode, []) is None
    # A process that has ended, and one that has other sockets only.
    assert socket_owner(inode, [2**22 + 1, os.getpid()]) is None


def test_a_socket_without_another_end_has_no_peer() -> None:
    with socket.socket(socket.AF_UNIX) as alone:
        assert not peer_inode(alone)


# Progress

GOOD = Answer(200, "ready")


def good(pid: int) -> Answer:
    return Answer(200, "ready", pid)


def noted(progress: Progress, *answers: Answer) -> Progress:
    for answer in answers:
        progress.note(answer)
    return progress


def test_every_worker_has_to_be_seen() -> None:
    progress = noted(Progress(workers=2), *[good(10)] * 20)
    assert not progress.complete
    assert noted(progress, good(11)).complete


def test_answers_of_nobody_known_count_for_no_worker() -> None:
    assert not noted(Progress(workers=1), *[Answer(200, "ready", None, traced=True)] * 20).complete


def test_enough_answers_in_a_row_have_to_be_good() -> None:
    progress = noted(Progress(workers=1, successes_wanted=3), good(10), good(10))
    assert not progress.complete
    assert noted(progress, good(10)).complete


@pytest.mark.parametrize("bad", [Answer(503, "no", 10), Answer(503), Answer(error="timeout"), Answer(404, "", 11)])
def test_a_bad_answer_starts_the_count_anew(bad: Answer) -> None:
    progress = noted(Progress(workers=1, successes_wanted=3), good(10), good(10), good(10), bad)
    assert not progress.complete
    assert not noted(progress, good(10), good(10)).complete
    assert noted(progress, good(10)).complete


def test_a_worker_that_answered_badly_is_ready_no_more() -> None:
    progress = noted(Progress(workers=2, successes_wanted=1), good(10), good(11), Answer(500, "", 11), good(10))
    assert not progress.complete
    assert noted(progress, good(11)).complete


def test_a_worker_that_ended_does_not_count() -> None:
    progress = noted(Progress(workers=2, successes_wanted=1), good(10), good(11))
    progress.forget([10, 12])
    assert not progress.complete
    assert noted(progress, good(12)).complete


def test_what_means_ready_can_be_said() -> None:
    assert noted(Progress(workers=1, accepted=frozenset({204, 302})), *[Answer(204, "", 1)] * 3).complete
    assert not noted(Progress(workers=1, accepted=frozenset({204, 302})), *[good(1)] * 3).complete


def test_one_answer_of_unknown_origin_does_not_stand_for_the_workers() -> None:
    progress = noted(Progress(workers=4, successes_wanted=1), good(10), Answer(200, "", None, traced=False))
    assert not progress.complete


def test_the_body_can_be_asked_for_too() -> None:
    def complete(answered: str, **wanted: Any) -> bool:
        return noted(Progress(workers=1, successes_wanted=1, **wanted), Answer(200, answered, 1)).complete

    assert complete("all is well", body="well")
    assert not complete("all is bad", body="well")
    fields = {"status": "ok", "ready": True}
    assert complete('{"status": "ok", "ready": true, "more": 1}', fields=fields)
    for answered in ('{"status": "ok"}', '{"status": "ok", "ready": false}', '["status", "ready"]', "", "null"):
        assert not complete(answered, fields=fields), answered


def test_where_the_kernel_does_not_tell_the_answers_alone_count() -> None:
    progress = Progress(workers=4, successes_wanted=2)
    assert not noted(progress, Answer(200, "", None, traced=False)).complete
    assert noted(progress, Answer(200, "", None, traced=False)).complete


def test_the_summary_says_how_far_it_came() -> None:
    progress = noted(Progress(workers=4), good(10), good(11), Answer(503, "cache is cold", 12))
    assert progress.attempts == 3
    assert progress.summary() == "2 of 4 workers were ready after 3 attempts; the last answer was: 503 cache is cold"
    assert Progress(workers=1).summary() == "0 of 1 workers were ready after 0 attempts"


# The program that the unit runs after the server


def booted(socket_path: str, master: int, workers: int, timeout: float = 3, **options: str) -> int:
    words = [f"--{name}={value}" for name, value in options.items()]
    return boot.main([f"--pid={master}", f"--socket={socket_path}", f"--workers={workers}", f"--timeout={timeout}", *words])


def test_a_server_has_booted_when_all_its_workers_are_ready(serve: Serve, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, master, *_ = serve(3, slow=OK)
    assert booted(path, master, 3, path="/slow") == 0
    assert "3 workers are ready" in capsys.readouterr().out


def test_a_worker_that_is_missing_is_waited_for(serve: Serve, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, master, *_ = serve(2, ready=OK)
    assert booted(path, master, 3, timeout=0.5) == 1
    assert "2 of 3 workers were ready" in capsys.readouterr().err


def test_a_server_that_is_not_ready_in_time_says_why(serve: Serve, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = r"HTTP/1.1 503 No\r\nContent-Length: 11\r\n\r\nno database"
    _, master, *_ = serve(1, ready=refusal)
    assert booted(path, master, 1, timeout=0.5) == 1
    assert "503 no database" in capsys.readouterr().err
    assert booted(path, master, 1, status="200,503") == 0


def test_a_server_that_ended_is_not_waited_for(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    begun = time.monotonic()
    assert booted(path, process.pid, 1, timeout=30) == 1
    assert "ended while it booted" in capsys.readouterr().err
    assert time.monotonic() - begun < 5


def endless(first: bytes, again: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        connection.recv(4096)
        with contextlib.suppress(OSError):
            connection.sendall(first)
            while True:
                connection.sendall(again)
                time.sleep(pause)

    return serve


# What a server may do to whoever asks it, which is root.
HOSTILE = {
    "a head without an end": endless(b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 60_000 + b"\r\n"),
    "a status line without an end": endless(b"HTTP/1.1 200 ", b"O" * 60_000),
    "interim answers without an end": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "a body without an end": endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 60_000),
    "a chunk's head without an end": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0" * 60_000),
    "chunks without an end": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
    "a head that comes in drops": endless(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.02),
    "a body that comes in drops": endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n", b"x", 0.02),
    "nothing": endless(b"", b"", 0.02),
    "a way to somewhere else": endless(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/shadow\r\nContent-Length: 0\r\n\r\n", b"", 0.02),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_server_can_keep_or_fill_who_asks_it(short_path: Path, what: str) -> None:
    path = str(short_path / "blue.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                HOSTILE[what](connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        tracemalloc.start()
        begun = time.monotonic()
        try:
            answer = Target(socket=path).ask(0.5, [])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert time.monotonic() - begun < 4
        assert peak < 8 << 20
        assert answer.status in ((None, 200) if "body" in what or "chunk" in what else (302,) if "way" in what else (None,))
        assert len(answer.body) <= 64 * 1024
        thread.join(5)
