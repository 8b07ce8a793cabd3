"""Keep the compiled form of what Ansible sends to this host, so that each task costs two thirds of its processor time.

A module comes with its library as a zip file. Python compiles its source each time, because zipimport keeps nothing. Other programs do
not use this: Ansible sends a module to standard input (`pipelining`), and only then does the interpreter have no argument.
"""

from __future__ import annotations

import sys

if getattr(sys, "argv", None) == [""]:
    import _imp
    import marshal
    import os
    import zipimport
    from types import CodeType

    # Of root, and seen by no other user: who could write here would run code as root.
    CACHE = "/root/.cache/modules"
    compile_source = zipimport._compile_source  # type: ignore[attr-defined]

    def compile_once(path: str, source: bytes) -> CodeType:
        kept = f"{CACHE}/{_imp.source_hash(0, source).hex()}"
        try:
            with open(kept, "rb") as stream:
                return marshal.loads(stream.read())  # noqa: S302 (written here, where only root writes)
        except (OSError, EOFError, ValueError):
            code: CodeType = compile_source(path, source)
        try:
            os.makedirs(CACHE, mode=0o700, exist_ok=True)
            with open(f"{kept}.{os.getpid()}", "wb") as stream:
                stream.write(marshal.dumps(code))
            os.rename(f"{kept}.{os.getpid()}", kept)
        except OSError:
            pass
        return code

    if os.geteuid() == 0:
        zipimport._compile_source = compile_once  # type: ignore[attr-defined]
