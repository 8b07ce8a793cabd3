"""A build backend (PEP 517) that first tries what the file `attempt` names, and then makes a wheel of what is left in `Build.files`."""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile

import attempts


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    build = attempts.Build()
    build.run()
    path = os.path.join(wheel_directory, "hostile-1.0-py3-none-any.whl")
    files = {
        **build.files,
        "hostile-1.0.dist-info/METADATA": b"Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n",
        "hostile-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: hostile\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        record = ""
        for file, content in files.items():
            info = zipfile.ZipInfo(file)
            info.external_attr = build.modes.get(file, 0o100644) << 16
            wheel.writestr(info, content)
            if file not in build.unrecorded:
                digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
                record += f"{file},sha256={digest},{len(content)}\n"
        wheel.writestr("hostile-1.0.dist-info/RECORD", f"{record}hostile-1.0.dist-info/RECORD,,\n")
    return os.path.basename(path)
