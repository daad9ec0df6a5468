"""The server does what its own document says: schemathesis tries every route of a real one.

`VPT_SCHEMATHESIS=100` tries so many requests of each kind for each route, and sequences of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from tests.actors.fake_host import FakeHost
from tests.conftest import TEMPLATE, Postgres, other_database
from vpt.model import Json, Role
from vpt.store.tokens import issue_token

from .kit import (
    JOIN_TOKEN,
    SECRET,
    Process,
    ask,
    client,
    environment,
    execute,
    final,
    joined,
    make,
    open_folder,
    server,
)

MANY = int(os.environ.get("VPT_SCHEMATHESIS", "0"))
FEW = 3
LIMIT = 300 + 60 * MANY  # a hang is ended; a loaded machine is slow
CONFIG = Path(__file__).with_name("schemathesis.toml")
_NAME = "vpt_schemathesis"
#: What is not there, or was lost on the way; things are deleted by sequences and other tests.
OUT_OF_REACH = {
    "GET /api/devices/{id}/schema",
    "GET /api/devices/{id}/screenshot",
    "GET /api/devices/{id}/stream/{name}",
    "GET /api/executions/{id}/attempts/{attempt}/steps/{step}/error",
    "GET /api/executions/{id}/attempts/{attempt}/steps/{step}/output",
    "GET /screenshots/{execution_id}/{attempt}/{step}.png",
    "POST /api/devices/{id}/care/{care}",
    "POST /api/hosts/{id}/unregister",
    "POST /server/system/ping",
    "POST /server/system/unregister",
}


@asynccontextmanager
async def lab(postgres: Postgres, folder: Path) -> AsyncIterator[tuple[Process, dict[str, str]]]:
    """Run a server with a host; give it and one id for each kind of thing."""
    await postgres.statement(f"CREATE DATABASE {_NAME} TEMPLATE {TEMPLATE}")
    settings = {
        "DATABASE_URL": other_database(postgres.dsn, _NAME),
        "HOST_PROBE_INTERVAL": 0.5,
    }
    async with (
        server(folder, **settings) as one,
        client(one) as session,
        joined(session, FakeHost("tvs", ("tv1", "tv2"))) as host,
    ):
        yield one, await things(session, host)
    await postgres.statement(f"DROP DATABASE {_NAME} WITH (FORCE)")


async def things(session: aiohttp.ClientSession, host: FakeHost) -> dict[str, str]:
    """Make one of each kind, and some that wait; give the ids, for a route or for all of a kind."""
    case = await make(session, "press", "look", model=host.model)
    ran = await execute(session, case)
    await final(session, ran)
    body = {"name": "c", "test_cases": [{"test_case_id": case, "device_id": f"{host.name}:tv2"}]}
    campaign = (await ask(session, "POST", "/api/campaigns", body))["id"]
    run = await ask(session, "POST", f"/api/campaigns/{campaign}/execute", {})
    await ask(session, "GET", f"/api/campaign-executions/{run['campaign_execution_id']}?wait=30")
    await ask(session, "POST", f"/api/devices/{host.name}:tv2/lease", {})  # who wants it waits
    other = await ask(session, "POST", f"/api/campaigns/{campaign}/execute", {})
    waiting = [await execute(session, case, device_id=f"{host.name}:tv2") for _ in range(2)]
    return {
        "/api/testcases/{id}": case,
        "/api/executions/{id}": ran,
        "/api/executions/{id}/queue": waiting[0],
        "/api/executions/{id}/cancel": waiting[1],
        "/api/campaigns/{id}": campaign,
        "/api/campaign-executions/{id}": run["campaign_execution_id"],
        "/api/campaign-executions/{id}/cancel": other["campaign_execution_id"],
        "/api/devices/{id}": f"{host.name}:tv1",
        "/api/hosts/{id}": host.name,
    }


def tightened(document: Json, ids: dict[str, str]) -> Json:
    """Let the examples name what there is, and the answers hold nothing that is not named."""
    text = json.dumps(document).replace("tc_0123456789abcdef", ids["/api/testcases/{id}"])
    document = json.loads(text.replace("pi-1:desktop", ids["/api/devices/{id}"]))
    for name, schema in document["components"]["schemas"].items():
        if not name.endswith("Body"):
            schema.setdefault("additionalProperties", False)
    return document


def configured(routes: set[str], ids: dict[str, str]) -> Iterator[str]:
    """Give the configuration: real ids, except where things would be deleted or lost."""
    yield CONFIG.read_text(encoding="utf-8")
    for start, name in ids.items():
        longer = tuple(other for other in ids if other.startswith(start) and other != start)
        named = sorted(
            route
            for route in routes
            if (path := route.split(" ")[1]).startswith(start)
            and not path.startswith(longer)
            and "{step}" not in path  # one parameter of three that is real is of no use
            and _keeps(route)
        )
        yield f"""
[[operations]]
include-name = {json.dumps(named)}
parameters = {{ "path.id" = "{name}" }}
"""


def _keeps(route: str) -> bool:
    return not route.startswith("DELETE") and not route.endswith("unregister")


@pytest.mark.long
@pytest.mark.timeout(LIMIT + 60)
async def test_the_server_does_what_its_document_says(postgres: Postgres) -> None:
    with open_folder() as folder:
        async with lab(postgres, folder) as (one, ids):
            async with client(one) as session:
                document = tightened(await ask(session, "GET", "/api/openapi.json"), ids)
            routes = {
                f"{m.upper()} {path}" for path, item in document["paths"].items() for m in item
            }
            (folder / "openapi.json").write_text(json.dumps(document))
            (folder / "schemathesis.toml").write_text("".join(configured(routes, ids)))
            code, said = await schemathesis(folder, one.url)
            async with client(one) as session:
                met = await answered(session)
                assert await longest_filters(session, document) == 200
            log = one.said()
    assert code == 0, said
    assert {one for one in routes - met if not one.startswith("DELETE")} <= OUT_OF_REACH
    assert f"Tested: {len(routes)}" in said
    assert "Traceback" not in log
    assert '"request_failed"' not in log


async def answered(session: aiohttp.ClientSession) -> set[str]:
    """Give the routes that did what they are for at least once."""
    async with session.get("/metrics") as response:
        figures = text_string_to_metric_families(await response.text())
        return {
            f"{sample.labels['method']} {sample.labels['route']}"
            for family in figures
            for sample in family.samples
            if sample.name == "vpt_http_requests_total" and sample.labels["status"] < "300"
        }


async def longest_filters(session: aiohttp.ClientSession, document: Json) -> int:
    """Ask for a list with every text as long as the document allows; give the status."""
    params = document["paths"]["/api/executions"]["get"]["parameters"]
    longest = {
        item["name"]: "\N{GRINNING FACE}" * item["schema"]["maxLength"]
        for item in params
        if "maxLength" in item["schema"] and item["name"] != "cursor"
    }
    assert len(str(URL("/api/executions").with_query(longest))) > 8190
    async with session.get("/api/executions", params=longest) as response:
        return response.status


async def schemathesis(folder: Path, url: str) -> tuple[int, str]:
    """Run it with what is in the folder; give its exit code and what it said."""
    phases = "examples,coverage,fuzzing,stateful" if MANY else "examples,coverage,fuzzing"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
        *("run", "openapi.json", "--url", url, "--phases", phases),
        *("--max-examples", str(MANY or FEW)),
        cwd=folder,
        env=environment(
            VPT_TOKEN=issue_token(SECRET, "ann", Role.ADMIN, 1), VPT_JOIN_TOKEN=JOIN_TOKEN
        ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(child.communicate(), LIMIT)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode is not None
    return child.returncode, said.decode(errors="replace")
