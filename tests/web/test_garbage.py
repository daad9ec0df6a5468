"""Schema-shaped garbage over every route: whatever comes, no 500."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from tests.conftest import JOIN_TOKEN, Client, ClientFactory, token
from tests.web.kit import FakeHost, made, test_case
from vpt.model import Role

WORDS = [
    *["name", "steps", "device_model", "device_id", "host_id", "parameters", "priority", "tags"],
    *["test_cases", "test_case_id", "host_name", "host_url", "capabilities", "devices", "model"],
    *["timeout_s", "status", "requirements", "description", "local_id", "ttl_s", "protocol"],
    *["queue_timeout_s", "stop_on_failure", "parallelism", "hardware", "host_secret", "api_key"],
    *["system_stats", "idempotency", "cancel", "test_retries", "command"],
    *["host_api_url", "device_name", "device_capabilities", "device_action_types", "remote"],
    *["device_verification_types", "per_device_metrics", "task_id", "result", "error", "stdout"],
]
PARAMS = [
    *["limit", "cursor", "q", "tag", "status", "since", "until", "attempt", "days"],
    *["host_id", "device_id", "test_case_id", "campaign_execution_id", "campaign_id", "model"],
    *["device_model", "sign", "signature", "expires", "capability"],
]
FIELD_DEVICE = {
    "device_id": "d1",
    "device_name": "n",
    "device_model": "stb",
    "device_capabilities": {"remote": ["ir"], "av": None},
    "device_action_types": {"Remote": [{"command": "press_key"}]},
    "device_verification_types": {"image": [{}]},
    "disk_usage": "20K",
}
TEXT = st.text(max_size=20) | st.sampled_from(
    ["\0", "\ud800", "${x}", "..", "a" * 300, "1e400", ""]
)
NUMBERS = st.integers() | st.floats() | st.sampled_from([2**31, 2**63, 2**64, 10**400, -1, 0])
KNOWN = st.sampled_from(["host-1", "host-1:tv-1", "tv-1", "http://127.0.0.1:1", "pixel", "online"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT | KNOWN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | TEXT, inner, max_size=4)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.sampled_from(WORDS) | TEXT, VALUES, max_size=6)
#: The name of a real thing, sent with one field of garbage.
ALMOST = st.tuples(st.sampled_from(WORDS), VALUES)
BODIES = st.one_of(OBJECTS.map(json.dumps), VALUES.map(json.dumps), st.just(""), TEXT)
ODD_PARTS = ["host-1:tv-1", "%00", "%ff", "..", "x", "1", "%ED%A0%80"]
TOKENS = st.sampled_from(
    [*[token(Role.ADMIN)] * 6, *[JOIN_TOKEN] * 2, *(token(role) for role in Role), "x", ""]
)
#: For each route; VPT_GARBAGE=1000 digs deeper.
EXAMPLES = int(os.environ.get("VPT_GARBAGE", "15"))


QUERIES = st.dictionaries(
    st.sampled_from(PARAMS),
    (TEXT | KNOWN).map(lambda t: t.encode(errors="replace").decode()),
    max_size=2,
)
HEADERS = st.dictionaries(
    st.sampled_from(["If-Match", "X-Request-ID", "Idempotency-Key", "Origin"]),
    st.sampled_from(['"1"', "x", "\u00ff"]),
    max_size=1,
)
JSON = {"Content-Type": "application/json"}


@dataclass
class Request:
    """What to send."""

    path: str
    query: dict[str, str]
    body: bytes
    credential: str
    headers: dict[str, str]


@dataclass
class Storm:
    """Garbage for the routes of one server; `ids` are those of real things."""

    client: Client
    ids: dict[str, str]
    bodies: list[dict[str, Any]]
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)

    def routes(self) -> list[tuple[str, str]]:
        """Return method and path of every route of our own; what deletes comes last."""
        found = {
            (route.method, route.resource.canonical)
            for route in self.client.app.router.routes()
            if route.resource is not None and "socket.io" not in route.resource.canonical
        }
        kept = [one for one in found if one[0] in {"GET", "POST", "PUT", "DELETE", "PATCH"}]
        return sorted(kept, key=lambda one: (one[0] == "DELETE", one))

    def requests(self, template: str) -> list[Request]:
        """Make garbage for one route."""
        of_hosts = [body for body in self.bodies if "host_name" in body]
        bodies = of_hosts * 3 + self.bodies if template.startswith("/server") else self.bodies
        almost = st.tuples(st.sampled_from(bodies), ALMOST).map(_one_wrong)
        right = next((one for start, one in self.ids.items() if template.startswith(start)), "x")
        parts = st.sampled_from([right] * 8 + ODD_PARTS)
        made: list[Request] = []

        @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True)
        @given(st.data())
        def collect(data: st.DataObject) -> None:
            path = re.sub(r"\{\w+\}", lambda _: data.draw(parts), template)
            body = data.draw(almost | almost | BODIES).encode(errors="surrogatepass")
            made.append(
                Request(path, data.draw(QUERIES), body, data.draw(TOKENS), data.draw(HEADERS))
            )

        collect()
        if template.startswith("/server"):  # what is right must get in among what is not
            right_body = json.dumps(of_hosts[-1]).encode()
            made.append(Request(template, {}, right_body, JOIN_TOKEN, {}))
        return made

    async def blow(self, method: str, template: str) -> None:
        """Send garbage to one route and look at each answer."""
        for one in self.requests(template):
            url = self.client.make_url("/").join(URL(one.path, encoded=True))
            headers = {"Authorization": f"Bearer {one.credential}", **JSON, **one.headers}
            async with self.client.session.request(
                method, url.update_query(one.query), data=one.body, headers=headers
            ) as response:
                text = await response.text(errors="replace")
                status = response.status
                self.statuses[f"{method} {template}", status] += 1
                what = (method, str(url), one, status, text)
                assert status < 500 or _is_truth(status, text), what
                assert status < 400 or response.content_type == "application/json", what


def _one_wrong(pair: tuple[dict[str, Any], tuple[str, Any]]) -> str:
    good, (key, value) = pair
    if key in FIELD_DEVICE and "devices" in good:
        return json.dumps(good | {"devices": [FIELD_DEVICE | {key: value}]})
    return json.dumps(good | {key: value})


def good_bodies(case_id: str) -> list[dict[str, Any]]:
    """Return bodies that are fine, for one field of garbage each."""
    return [
        {},
        test_case(),
        {"name": "c", "test_cases": [{"test_case_id": case_id, "parameters": {}}]},
        {"device_id": "tv-1", "host_id": "host-1", "parameters": {}},
        {"name": "d", "model": "pixel", "capabilities": [], "tags": []},
        {"host_name": "host-2", "host_url": "http://127.0.0.1:9", "capabilities": []},
        {"host_name": "host-1", "task_id": "t", "result": {"stdout": "x", "exit_code": 0}},
        {
            "host_name": "host-3",
            "host_url": "http://127.0.0.1:9",
            "devices": [FIELD_DEVICE],
            "task_id": "t",
        },
    ]


@pytest.mark.long
async def test_no_garbage_gets_a_500(client: ClientFactory, host: FakeHost) -> None:
    nobody, operator = await client(None), await client(Role.OPERATOR)
    case = await made(operator, "/api/testcases", test_case())
    run = await made(operator, f"/api/testcases/{case['id']}/execute", {})
    bodies = good_bodies(case["id"])
    campaign = await made(operator, "/api/campaigns", bodies[2])
    campaign_run = await made(operator, f"/api/campaigns/{campaign['id']}/execute", {})
    device = await made(operator, "/api/devices", bodies[4])
    ids = {
        "/api/testcases": case["id"],
        "/api/executions": run["execution_id"],
        "/api/campaigns": campaign["id"],
        "/api/campaign-executions": campaign_run["campaign_execution_id"],
        "/api/devices": device["id"],
        "/api/hosts": "host-1",
        "/screenshots": run["execution_id"],
    }
    joining = {"Authorization": f"Bearer {JOIN_TOKEN}"}
    path = "/server/system/register"
    async with nobody.post(path, json=bodies[-1], headers=joining) as response:
        assert response.status == 200
    storm = Storm(nobody, ids, bodies)
    for method, template in storm.routes():
        await storm.blow(method, template)
    let_in = {what for what, status in storm.statuses if status in {200, 201, 202, 204, 409}}
    assert len(let_in) > 30, storm.statuses
    # Nobody answers at the field host's URL: its pings are told to register anew.
    assert {one for one in let_in if "/server/" in one} == {
        "POST /server/system/register",
        *("POST /server/system/unregister", "POST /server/script/taskComplete"),
    }
    assert (await operator.get("/api/testcases")).status == 200


def _is_truth(status: int, text: str) -> bool:
    """A host that does not answer, or a health check of such a lab, is no mistake of ours."""
    truths = ("host_unreachable", "host_error", "action_timeout", '"status":"unhealthy"')
    return status in {502, 503, 504} and any(truth in text for truth in truths)
