# Copyright: Contributors to the steadfast.asgi collection
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gunicorn's own ASGI worker, which behind a unix socket knows no client and at its end drops websockets without a word."""

from __future__ import annotations

from collections.abc import Sequence

from asgi_entry import Entry
from gunicorn.workers.gasgi import ASGIWorker


class NativeWorker(ASGIWorker):  # type: ignore[misc]
    """gunicorn's worker `asgi` that believes nginx and closes its websockets with 1012. The configuration file sets the attribute."""

    forwarded: Sequence[str] = ()

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self.asgi = Entry(self.asgi, self.forwarded)

    async def _shutdown(self) -> None:
        # Nobody is to come in while the others are sent away.
        for server in self.servers:
            server.close()
        await self.asgi.farewell()
        await super()._shutdown()
