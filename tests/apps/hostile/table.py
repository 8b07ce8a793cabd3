"""The attempts as JSON, and a source for each: what the scenario's playbook asks for."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

from attempts import ATTEMPTS

HERE = Path(__file__).parent
SENT = ("pyproject.toml", "uv.lock", "hostile.py", "backend.py", "attempts.py", "probes.py")


def sources(folder: Path) -> None:
    for name in sorted({each.group for each in ATTEMPTS.values()}):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir(parents=True)
        for file in SENT:
            shutil.copy(HERE / file, folder / name)
        (folder / name / "attempt").write_text(f"{name}\n", encoding="utf-8")
        # Of its own, since releases with the same lock begin as copies of each other.
        with open(folder / name / "uv.lock", "a", encoding="utf-8") as stream:
            stream.write(f"# {name}\n")


def builds(everywhere: bool) -> str:
    """One entry for each build, in the order of the table: an attempt has the options of the first of its group."""
    found: dict[str, dict[str, object]] = {}
    for each in ATTEMPTS.values():
        if each.everywhere or not everywhere:
            build = found.setdefault(
                each.group, {"name": each.group, "app": each.app, "seconds": 0, "options": {}, "attempts": [], "tries": each.tries}
            )
            build["attempts"].append(each.name)  # type: ignore[attr-defined]
            build["options"] |= each.options  # type: ignore[operator]
            build["seconds"] = max(build["seconds"], each.seconds)  # type: ignore[type-var]
    return json.dumps(list(found.values()))


if __name__ == "__main__":
    if sys.argv[1] == "--sources":
        sources(Path(sys.argv[2]))
    else:
        print(builds(sys.argv[1] == "--everywhere"))
