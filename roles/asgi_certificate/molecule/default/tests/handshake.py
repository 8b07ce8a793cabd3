"""Serves one request with the pair in argv[1] and makes it, as a client that trusts nothing but the authority in argv[2]."""

from __future__ import annotations

import socket
import ssl
import sys
import threading

pair, authority, name = sys.argv[1:]

server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain(f"{pair}/fullchain.pem", f"{pair}/privkey.pem")
client = ssl.create_default_context(cadata=authority)
client.verify_flags |= ssl.VERIFY_X509_STRICT
listener = socket.create_server(("127.0.0.1", 0))


def serve() -> None:
    with server.wrap_socket(listener.accept()[0], server_side=True) as tls:
        tls.sendall(b"hello")


threading.Thread(target=serve, daemon=True).start()
with client.wrap_socket(socket.create_connection(listener.getsockname()), server_hostname=name) as tls:
    print(tls.recv(5).decode())
