"""An ASGI application in one file, with the ways to misbehave that the tests need, each switched on by the environment."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import time

VERSION = "1"
LEAK: list[bytes] = []

# A slow import, as real applications have it.
time.sleep(float(os.environ.get("PLAIN_BOOT_SECONDS", "0")))
if os.environ.get("PLAIN_BROKEN") == "import":
    raise RuntimeError("this release cannot be imported")


async def lifespan(receive, send):
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup" and os.environ.get("PLAIN_BROKEN") == "lifespan":
            await send({"type": "lifespan.startup.failed", "message": "this release cannot start"})
            return
        if message["type"] == "lifespan.startup" and os.environ.get("PLAIN_BROKEN") == "hang":
            await asyncio.sleep(3600)
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            logging.getLogger("plain").warning("the lifespan is over")
            return


async def websocket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": json.dumps({"version": VERSION, "pid": os.getpid()})})
    while True:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        await send({"type": "websocket.send", "text": message.get("text") or ""})


async def answer(send, status, content):
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def listen_meanwhile(receive):
    """Listen for the client's leaving while it is answered, as Django does: after the body nothing else may come."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # Trio's, which has no such task.
        return
    listener = asyncio.ensure_future(receive())
    await asyncio.wait([listener], timeout=0.01)
    assert not listener.done() or listener.result()["type"] == "http.disconnect", listener
    listener.cancel()


async def hear_meanwhile(receive, answered):
    """Answer before the body is read, and listen for the client's leaving meanwhile, as Starlette does for what it streams."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        await answered
        return

    async def hear():
        while (await receive())["type"] != "http.disconnect":
            pass

    listener = asyncio.ensure_future(hear())
    # It waits for the first part by now.
    await asyncio.sleep(0)
    await answered
    listener.cancel()


def pause(seconds):
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.sleep(seconds)
    return asyncio.sleep(seconds)


async def events(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    for number in range(3):
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await pause(1)
    await send({"type": "http.response.body"})


async def forever(send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"data: again\n\n", "more_body": True})
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        logging.getLogger("plain").warning("the stream was cut off")
        raise


async def later(send):
    await answer(send, 200, {"pid": os.getpid()})
    await asyncio.sleep(5)
    logging.getLogger("plain").warning("what was for later is done")


async def child(send):
    """Tell by which signal a program of the application's ends that is told to."""
    program = subprocess.Popen(["sleep", "20"])
    program.terminate()
    await answer(send, 200, {"signal": -program.wait()})


SPECIAL = {"/events": events, "/forever": forever, "/later": later, "/child": child}


async def http(scope, receive, send):
    if scope["path"] in ("/unread", "/heard"):
        answered = answer(send, 200, {"path": scope["path"]})
        await (hear_meanwhile(receive, answered) if scope["path"] == "/heard" else answered)
        return
    if scope["path"] in SPECIAL:
        await SPECIAL[scope["path"]](send)
        return
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    path = scope["path"]
    if path == "/ready":
        await listen_meanwhile(receive)
        broken = os.environ.get("PLAIN_BROKEN") == "ready"
        content = {"status": "not ready: this release has lost its database" if broken else "ready", "version": VERSION}
        await answer(send, 503 if broken else 200, content | {"pid": os.getpid()})
    elif path == "/whoami":
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        await answer(send, 200, {"client": scope.get("client"), "scheme": scope["scheme"], "headers": headers})
    elif path == "/environment":
        await answer(send, 200, {name: value for name, value in os.environ.items() if name.startswith("PLAIN_")})
    elif path == "/log":
        logging.getLogger("plain").info("asked for %s", scope["query_string"].decode())
        try:
            raise ValueError("on purpose")
        except ValueError:
            logging.getLogger("plain").exception("it failed")
        await answer(send, 200, {"pid": os.getpid()})
    elif path == "/leak":
        # For a server that is to be killed for it.
        LEAK.append(b"x" * (int(scope["query_string"]) << 20))
        await answer(send, 200, {"pid": os.getpid()})
    elif path == "/credentials":
        folder = os.environ.get("CREDENTIALS_DIRECTORY", "/nowhere")
        names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
        found = {}
        for name in names:
            with open(os.path.join(folder, name), encoding="utf-8") as stream:
                found[name] = stream.read()
        await answer(send, 200, found)
    elif path == "/slow":
        await asyncio.sleep(float(scope["query_string"] or b"1"))
        await answer(send, 200, {"version": VERSION, "pid": os.getpid()})
    elif path == "/":
        await answer(send, 200, {"version": VERSION, "pid": os.getpid(), "size": size})
    else:
        await answer(send, 404, {"error": "not found"})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        await http(scope, receive, send)
