"""Tests a running server from outside, as its users do.

It adds a host of its own, runs a campaign there, reads the metrics, asks Grafana, and deletes what
it made; the executions stay. From the environment it reads URL (http://127.0.0.1:5109 when
not set; the server has to reach this machine, too), TOKEN (vpt token --user smoke --role admin),
HOST_TOKEN (vpt host-token smoke, or the join token) and, for Grafana, GRAFANA_URL.
It exits with 0 when all is well, else with 1. It needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

NAME = "smoke"
READY, CAMPAIGN = 120.0, 60.0  # seconds
SECRET = os.urandom(32).hex()


class NotWellError(Exception):
    """The server does not work as it should; the message says what is wrong."""


class Server:
    """The server that is tested."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token

    def ask(self, method: str, path: str, body: Any = None, token: str = "") -> Any:
        """Return the response, parsed when it is JSON; NotWellError when its status is an error."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            None if body is None else json.dumps(body).encode(),
            {
                "Authorization": f"Bearer {token or self.token}",
                "Content-Type": "application/json",
            },
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=90) as response:
                text = response.read().decode()
                is_json = response.headers.get_content_type() == "application/json"
                return json.loads(text) if is_json else text
        except urllib.error.HTTPError as error:
            raise NotWellError(f"{method} {path}: {error.code} {error.read().decode()}") from error
        except (OSError, ValueError) as error:
            raise NotWellError(f"{method} {path}: {error}") from error


class Host(BaseHTTPRequestHandler):
    """A host that passes each step at once; it accepts requests of the server only."""

    def do_GET(self) -> None:
        self.answer(200, {"status": "ok"})

    def do_POST(self) -> None:
        step = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {SECRET}":
            self.answer(401, {"error": "Only the server may do that."})
        else:
            self.answer(200, {"success": True, "output": f"did {step.get('command')}"})

    def answer(self, status: int, body: Any) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def until(what: str, limit: float, look: Callable[[], Any]) -> Any:
    """Wait until `look` returns something true; a timeout reports what it raised last."""
    end, why = time.monotonic() + limit, ""
    while time.monotonic() < end:
        try:
            if found := look():
                return found
        except NotWellError as error:
            why = f": {error}"
        time.sleep(0.2)
    raise NotWellError(f"{what} not within {limit:.0f} s{why}")


def own_address(server: Server) -> str:
    """Return the address of this machine on the way to the server."""
    parts = urlsplit(server.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname or "", port), 10) as connection:
        return str(connection.getsockname()[0])


@contextmanager
def joined_host(server: Server, token: str) -> Iterator[None]:
    """Run a host that has joined; at the end unregister and delete it."""
    address = own_address(server)
    web = ThreadingHTTPServer((address, 0), Host)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    card = {
        "host_name": NAME,
        "host_url": f"http://{address}:{web.server_address[1]}",
        "host_secret": SECRET,
        "devices": [{"device_id": "one", "name": NAME, "model": NAME}],
    }
    try:
        server.ask("POST", "/api/hosts/register", card, token)
        yield
        server.ask("POST", f"/api/hosts/{NAME}/unregister", {}, token)
        until("the host is forgotten", 30, lambda: forgotten(server))
    finally:
        web.shutdown()


def forgotten(server: Server) -> bool:
    """Delete the host, which is refused while its lanes are busy."""
    server.ask("DELETE", f"/api/hosts/{NAME}")
    return True


@contextmanager
def made(server: Server, path: str, body: Any) -> Iterator[str]:
    """Create something and delete it at the end; yield its id."""
    thing = server.ask("POST", path, body)["id"]
    try:
        yield thing
    finally:
        server.ask("DELETE", f"{path}/{thing}")


def run_campaign(server: Server) -> None:
    """Run a campaign of two test cases on the host."""
    steps = [{"command": "first"}, {"command": "second"}]
    case = {"name": "Smoke", "device_model": NAME, "steps": steps}
    with ExitStack() as stack:
        ids = [stack.enter_context(made(server, "/api/testcases", case)) for _ in range(2)]
        entries = [{"test_case_id": one} for one in ids]
        campaign = stack.enter_context(
            made(server, "/api/campaigns", {"name": "Smoke", "test_cases": entries})
        )
        run = server.ask("POST", f"/api/campaigns/{campaign}/execute", {})
        path = f"/api/campaign-executions/{run['campaign_execution_id']}"
        done = server.ask("GET", f"{path}?wait={CAMPAIGN:.0f}")
        if done["status"] != "completed":
            raise NotWellError(f"the campaign is {done['status']}: {done['results']}")


def check_metrics(server: Server) -> None:
    """Check that the executions are counted."""
    lines = server.ask("GET", "/metrics").splitlines()
    counted = [
        line for line in lines if line.startswith('vpt_executions_total{status="completed"}')
    ]
    if not counted or float(counted[0].split()[-1]) < 2:
        raise NotWellError(f"/metrics counts no completed executions: {counted}")


def check_grafana(url: str) -> None:
    """Check that Grafana is up and has its own database."""
    health = until("Grafana is up", READY, lambda: Server(url, "none").ask("GET", "/api/health"))
    if health.get("database") != "ok":
        raise NotWellError(f"Grafana says {health}")


def try_all(server: Server, host_token: str, grafana: str) -> None:
    """Test one thing after the other, and print each."""
    until("the server is ready", READY, lambda: server.ask("GET", "/api/health/ready"))
    print(f"ready: vpt {server.ask('GET', '/api/system/info')['version']} at {server.url}")
    with joined_host(server, host_token):
        print("a host joined")
        run_campaign(server)
        print("a campaign completed on it")
    check_metrics(server)
    print("the metrics count it")
    if grafana:
        check_grafana(grafana)
        print(f"Grafana is well at {grafana}")


def main() -> int:
    """Run the tests; return the exit code."""
    if missing := [name for name in ("TOKEN", "HOST_TOKEN") if not os.environ.get(name)]:
        print(f"{' and '.join(missing)} not set: see the head of this file", file=sys.stderr)
        return 4
    server = Server(os.environ.get("URL", "http://127.0.0.1:5109"), os.environ["TOKEN"])
    try:
        try_all(server, os.environ["HOST_TOKEN"], os.environ.get("GRAFANA_URL", ""))
    except (NotWellError, OSError) as error:
        print(f"not well: {error}", file=sys.stderr)
        return 1
    print("all is well")
    return 0


if __name__ == "__main__":
    sys.exit(main())
