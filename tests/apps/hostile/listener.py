"""What listens on a host where no build may come, and notes who did; an accomplice of the build; and a client of what is live."""

from __future__ import annotations

import contextlib
import glob
import http.client
import os
import selectors
import socket
import ssl
import sys
import time


def bound(family: int, address: object, kind: int = socket.SOCK_STREAM) -> socket.socket | None:
    server = socket.socket(family, kind)
    with contextlib.suppress(OSError):
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server.bind(address)
        if kind == socket.SOCK_STREAM:
            server.listen()
        return server
    return None


def listen(log: str) -> None:
    places = [
        (socket.AF_INET, ("0.0.0.0", 8011), socket.SOCK_STREAM),
        (socket.AF_INET6, ("::", 8011), socket.SOCK_STREAM),
        (socket.AF_INET, ("169.254.169.254", 80), socket.SOCK_STREAM),
        (socket.AF_INET6, ("fd00:ec2::254", 80), socket.SOCK_STREAM),
        (socket.AF_UNIX, "\0hostile-listener", socket.SOCK_STREAM),
        (socket.AF_INET, ("0.0.0.0", 8011), socket.SOCK_DGRAM),
        (socket.AF_INET6, ("::", 8011), socket.SOCK_DGRAM),
    ]
    selector = selectors.DefaultSelector()
    for place in places:
        server = bound(*place)
        if server:
            selector.register(server, selectors.EVENT_READ, place)
    while True:
        for key, _events in selector.select():
            _family, address, kind = key.data
            with contextlib.suppress(OSError):
                if kind == socket.SOCK_DGRAM:
                    _data, peer = key.fileobj.recvfrom(100)
                    key.fileobj.sendto(b"here", peer)
                else:
                    client, peer = key.fileobj.accept()
                    client.close()
                with open(log, "a", encoding="utf-8") as stream:
                    stream.write(f"{address!r} {kind} from {peer}\n")


def help_the_build() -> None:
    """Keep every open file that is handed over, and write to it until the end."""
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0hostile-accomplice")
    server.listen()
    server.settimeout(0.1)
    kept: list[int] = []
    seen: set[str] = set()
    while True:
        with contextlib.suppress(OSError):
            client, _peer = server.accept()
            _data, descriptors, _flags, _address = socket.recv_fds(client, 10, 10)
            kept += descriptors
            client.sendall(b"x")
        for path in glob.glob("/opt/*/releases/*/.venv/lib/python*/site-packages/opened.py"):
            if path not in seen:
                with contextlib.suppress(OSError):
                    kept.append(os.open(path, os.O_RDWR))
                    seen.add(path)
        for descriptor in kept:
            with contextlib.suppress(OSError):
                os.pwrite(descriptor, str(time.time_ns()).encode(), 0)


def ask(answers: str) -> None:
    """Ask the application that is live, without a pause that would hide an outage."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    while True:
        time.sleep(0.1)
        try:
            client = http.client.HTTPSConnection("127.0.0.1", 443, timeout=30, context=context)
            client.request("GET", "/", headers={"Host": "victim.example"})
            said = str(client.getresponse().status)
            client.close()
        except OSError as error:
            said = type(error).__name__
        with open(answers, "a", encoding="utf-8") as stream:
            stream.write(f"{said}\n")


if __name__ == "__main__":
    if sys.argv[1] == "listen":
        listen(sys.argv[2])
    elif sys.argv[1] == "ask":
        ask(sys.argv[2])
    else:
        help_the_build()
