"""Many hosts in one process, that only note when they are probed; `/report` gives the moments.

Takes the number of hosts; prints the port of the report and then those of the hosts.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from aiohttp import web


class Host:
    """One host: a port of its own and the moments (s) of its probes."""

    def __init__(self) -> None:
        self.probes: list[float] = []

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path != "/bare":
            self.probes.append(time.monotonic())
        return web.Response(status=204)

    async def listen(self) -> int:
        listener = await asyncio.get_running_loop().create_server(
            web.Server(self.answer, access_log=None, keepalive_timeout=75), "127.0.0.1", 0
        )
        return int(listener.sockets[0].getsockname()[1])


async def main(count: int) -> None:
    """Serve until killed."""
    hosts = [Host() for _ in range(count)]

    async def report(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response([host.probes for host in hosts])

    reporter = await asyncio.get_running_loop().create_server(
        web.Server(report, access_log=None), "127.0.0.1", 0
    )
    ports = [await host.listen() for host in hosts]
    sys.stdout.write(json.dumps([reporter.sockets[0].getsockname()[1], *ports]) + "\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
