"""What Prometheus is told."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_parsed
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.actors.fake_host import until
from tests.conftest import JOIN_TOKEN, Client, token
from tests.web.kit import FakeHost, got, made, test_case
from vpt.actors.lab import Lab
from vpt.config import Config
from vpt.events import Events
from vpt.measures import Histogram
from vpt.model import Role
from vpt.store.db import Database
from vpt.web.app import make_app
from vpt.web.http.keys import CONFIG

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
ODD = ("PROPFIND", "LOCK", "PURGE", "SEARCH")  # methods that parsers know and we do not
UNITS = ("_seconds", "_bytes")


async def scrape(client: Client, accept: str = "text/plain") -> str:
    response = await client.get("/metrics", headers={"Accept": accept})
    assert response.status == 200, await response.text()
    return await response.text()


async def families(client: Client) -> dict[str, Metric]:
    return {family.name: family for family in parsed(await scrape(client))}


def value(found: dict[str, Metric], sample: str, **labels: str) -> float:
    """Return the value of the one sample of that name which has these labels."""
    hits = [
        item.value
        for family in found.values()
        for item in family.samples
        if item.name == sample and labels.items() <= item.labels.items()
    ]
    assert len(hits) == 1, (sample, labels, hits)
    return hits[0]


def series(found: dict[str, Metric]) -> set[tuple[str, frozenset[tuple[str, str]]]]:
    return {
        (item.name, frozenset(item.labels.items()))
        for family in found.values()
        for item in family.samples
    }


async def worked(client: Client, number: int) -> list[str]:
    """Run something, ask for what is there and for what is not; give all ids of it."""
    case = await made(client, "/api/testcases", test_case(name=f"case {number}"))
    execution = await made(client, f"/api/testcases/{case['id']}/execute", {})
    ids = [case["id"], execution["execution_id"], f"nobody-{number}"]
    await got(client, f"/api/executions/{ids[1]}", wait="30")
    for path in ("/api/executions/{}", "/api/hosts/{}/status", "/api/nothing/{}", "/{}"):
        async with client.get(path.format(ids[2])) as response:
            assert response.status == 404
    async with client.request(ODD[number % len(ODD)], f"/api/executions/{ids[1]}") as response:
        assert response.status == 405
    return ids


async def test_what_ran_is_counted(operator: Client, host: FakeHost) -> None:
    host.answer = lambda action: {"success": action["step"] == 1}
    ids = await worked(operator, 1)
    found = await families(operator)
    assert value(found, "vpt_executions_total", status="failed") == 1
    assert value(found, "vpt_executions_total", status="completed") == 0
    assert value(found, "vpt_step_duration_seconds_count", status="passed") == 1
    assert value(found, "vpt_step_duration_seconds_count", status="failed") == 1
    assert value(found, "vpt_dispatch_latency_seconds_count") == 1
    assert value(found, "vpt_dispatch_latency_seconds_bucket", le="60.0") == 1
    assert value(found, "vpt_hosts", status="available") == 1
    assert value(found, "vpt_devices", status="online") == 1
    assert value(found, "vpt_queue_length") == value(found, "vpt_queue_oldest_seconds") == 0
    assert value(found, "vpt_probe_duration_seconds_count") >= 1
    assert value(found, "vpt_database_connections_limit") == 10
    assert value(found, "process_resident_memory_bytes") > 1_000_000
    execution = {"method": "GET", "route": "/api/executions/{id}"}
    assert value(found, "vpt_http_requests_total", **execution, status="200") == 1
    assert value(found, "vpt_http_requests_total", **execution, status="404") == 1
    assert value(found, "vpt_http_request_duration_seconds_count", **execution) == 2
    assert ids[1] not in await scrape(operator)


async def test_what_waits_is_shown(operator: Client, host: FakeHost) -> None:
    host.gate.clear()
    case = await made(operator, "/api/testcases", test_case())
    for _ in range(3):
        await made(operator, f"/api/testcases/{case['id']}/execute", {})
    found = await families(operator)
    assert value(found, "vpt_queue_length") == 2
    assert value(found, "vpt_queue_oldest_seconds") > 0
    assert value(found, "vpt_devices", status="busy") == 1


async def test_devices_that_are_away_are_counted(operator: Client, host: FakeHost) -> None:
    found = await families(operator)
    assert value(found, "vpt_devices_without_runs", reason="away") == 0
    body = {"devices": {host.devices[0]: {"available": False}}}
    headers = {"Authorization": f"Bearer {JOIN_TOKEN}"}
    path = f"/api/hosts/{host.name}/heartbeat"
    assert (await operator.post(path, json=body, headers=headers)).status == 200

    async def is_away() -> bool:
        found = await families(operator)
        return value(found, "vpt_devices_without_runs", reason="away") == 1

    await until(is_away)
    found = await families(operator)
    assert value(found, "vpt_devices", status="offline") == 1
    assert value(found, "vpt_devices_without_runs", reason="held_back") == 0
    assert value(found, "vpt_hosts_in_trouble", kind="refused") == 0


async def test_hosts_that_cannot_be_reached_are_counted_by_the_kind_of_their_trouble(
    operator: Client, host: FakeHost
) -> None:
    host.status = 401
    path = f"/api/hosts/{host.name}/execute"
    assert (await operator.post(path, json={"command": "a"})).status == 502
    found = await families(operator)
    counted = {item.labels["kind"]: item.value for item in found["vpt_hosts_in_trouble"].samples}
    assert counted.pop("credential") == 1
    assert set(counted.values()) == {0}
    assert value(found, "vpt_hosts", status="suspect") == 1


async def test_no_label_grows_with_ids(operator: Client, host: FakeHost) -> None:
    ids = await worked(operator, 0)
    await families(operator)
    before = series(await families(operator))
    for number in range(1, 12):
        ids += await worked(operator, number)
    after = series(await families(operator))
    assert {name for name, _ in after - before} == set()
    values = {text for _, labels in after for _, text in labels}
    names = [*ids, host.name, *host.devices, "operator"]
    assert [text for text in values if any(name in text for name in names)] == []


async def test_names_follow_the_conventions(operator: Client, host: FakeHost) -> None:
    await worked(operator, 1)
    for family in (await families(operator)).values():
        assert re.fullmatch(r"(vpt|process)(_[a-z0-9]+)+", family.name), family.name
        assert family.documentation, family.name
        if family.type == "histogram":
            assert family.name.endswith(UNITS), family.name
        suffix = {"counter": "_total", "histogram": ("_bucket", "_count", "_sum")}
        for item in family.samples:
            assert item.name.endswith(suffix.get(family.type, "")), item.name
            assert family.type == "counter" or "_total" not in item.name
            assert all(re.fullmatch(r"[a-z]+", label) for label in item.labels)
    text = await scrape(operator, OPENMETRICS)
    assert [f.name for f in open_parsed(text)]


async def test_every_metric_is_in_the_document(operator: Client, host: FakeHost) -> None:
    await worked(operator, 1)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    written = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    told = {
        family.name + "_total" * (family.type == "counter"): (family.type, labels_of(family))
        for family in (await families(operator)).values()
    }
    assert written == told


def labels_of(family: Metric) -> set[str]:
    return {label for item in family.samples for label in item.labels} - {"le"}


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=0.0.4", "\xff;q=x"])
async def test_whatever_is_accepted_gets_text(operator: Client, accept: str) -> None:
    assert list(parsed(await scrape(operator, accept)))


async def test_the_token_of_the_setting_and_every_user_get_in(
    operator: Client, viewer: Client, nobody: Client
) -> None:
    await scrape(viewer)
    await scrape(operator)
    for header in ({}, {"Authorization": "Bearer None"}, {"Authorization": "Bearer scraper"}):
        assert (await nobody.get("/metrics", headers=header)).status == 401


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Bearer a scraper's", 200),
        (f"Bearer {token(Role.VIEWER)}", 200),
        (f"Bearer {token(Role.HOST)}", 403),
        ("Bearer a scraper", 401),
        ("Bearer \xff", 401),
        ("Bearer ", 401),
    ],
)
async def test_who_scrapes_has_a_token_of_its_own(
    config: Config, db: Database, lab: Lab, events: Events, header: str, status: int
) -> None:
    app = make_app(replace(config, metrics_token="a scraper's"), db, lab, events)
    async with TestClient(TestServer(app)) as client:
        assert app[CONFIG].metrics_token
        response = await client.get("/metrics", headers={"Authorization": header})
        assert response.status == status
        assert (await client.get("/api/hosts", headers={"Authorization": header})).status != (
            200 if "scraper" in header else 0
        )


def test_a_spread_counts_each_value_once_in_the_lowest_bucket_that_holds_it() -> None:
    spread = Histogram((1.0, 2.0))
    for number in (0.5, 1.0, 1.5, 2.0, 3.0):
        spread.add(number)
    assert list(spread.up_to()) == [(1.0, 2), (2.0, 4), (float("inf"), 5)]
    assert (spread.total, spread.sum) == (5, 8.0)
    spread.join(spread)
    assert (spread.total, spread.sum) == (10, 16.0)
