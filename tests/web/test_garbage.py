"""Schema-shaped garbage over every route: whatever comes, no 500."""

from __future__ import annotations

import json
import os
from typing import Any

from aiohttp import hdrs
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
]
PARAMS = [
    *["limit", "cursor", "q", "tag", "status", "since", "until", "wait", "attempt", "days"],
    *["host_id", "device_id", "test_case_id", "campaign_execution_id", "campaign_id", "model"],
    *["device_model", "sign", "signature", "expires", "capability"],
]
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
PARTS = st.sampled_from(["host-1", "host-1:tv-1", "%00", "%ff", "..", "x", "1", "%ED%A0%80"])
TOKENS = st.sampled_from([*(token(role) for role in Role), JOIN_TOKEN, "x", ""])
#: For each route; VPT_GARBAGE=1000 digs deeper.
EXAMPLES = int(os.environ.get("VPT_GARBAGE", "25"))
HEADERS = st.sampled_from(["If-Match", "Content-Encoding", "X-Request-ID", "Idempotency-Key"])


def routes_of(client: Client) -> list[tuple[str, str]]:
    """Give method and path template of every route of our own."""
    found = {
        (route.method, route.resource.canonical)
        for route in client.app.router.routes()
        if route.resource is not None and not route.resource.canonical.startswith("/socket.io")
    }
    return sorted((m, path) for m, path in found if m not in {hdrs.METH_HEAD, hdrs.METH_ANY})


def good_bodies(case_id: str) -> list[dict[str, Any]]:
    """Give bodies that are fine, for one field of garbage each."""
    return [
        test_case(),
        {"name": "c", "test_cases": [{"test_case_id": case_id, "parameters": {}}]},
        {"device_id": "tv-1", "host_id": "host-1", "parameters": {}, "command": "x"},
        {"name": "d", "model": "pixel", "capabilities": [], "tags": []},
        {"host_name": "host-2", "host_url": "http://127.0.0.1:9", "capabilities": []},
    ]


async def test_no_garbage_gets_a_500(client: ClientFactory, host: FakeHost) -> None:
    nobody, operator = await client(None), await client(Role.OPERATOR)
    case = await made(operator, "/api/testcases", test_case())
    execution = await made(operator, f"/api/testcases/{case['id']}/execute", {})
    campaign = await made(operator, "/api/campaigns", good_bodies(case["id"])[1])
    ids = [case["id"], execution["execution_id"], campaign["id"], campaign["id"]]
    tried = set()
    for method, template in routes_of(operator):
        await _storm(nobody, method, template, ids, good_bodies(case["id"]))
        tried.add(template)
    assert len(tried) > 15
    assert (await operator.get("/api/testcases")).status == 200


async def _storm(
    client: Client, method: str, template: str, ids: list[str], bodies: list[dict[str, Any]]
) -> None:
    parts = PARTS | st.sampled_from(ids)
    almost = st.tuples(st.sampled_from(bodies), ALMOST).map(
        lambda b: json.dumps(b[0] | dict([b[1]]))
    )

    @settings(max_examples=EXAMPLES, deadline=None, database=None, derandomize=True)
    @given(st.data())
    def collect(data: st.DataObject) -> None:
        path = template
        while "{" in path:
            start, end = path.index("{"), path.index("}")
            path = path[:start] + data.draw(parts) + path[end + 1 :]
        requests.append(
            (
                path,
                data.draw(st.dictionaries(st.sampled_from(PARAMS), TEXT | KNOWN, max_size=2)),
                data.draw(almost | BODIES).encode(errors="surrogatepass"),
                data.draw(TOKENS),
                data.draw(
                    st.dictionaries(HEADERS, st.sampled_from(['"1"', "gzip", "x"]), max_size=1)
                ),
            )
        )

    requests: list[tuple[str, dict[str, str], bytes, str, dict[str, str]]] = []
    collect()
    for path, params, body, credential, headers in requests:
        params.pop("wait", None)
        query = {key: value.encode(errors="replace").decode() for key, value in params.items()}
        url = client.make_url("/").join(URL(path, encoded=True)).update_query(query)
        sent = {"Content-Type": "application/json", "Authorization": f"Bearer {credential}"}
        async with client.session.request(
            method, url, data=body, headers=sent | headers, allow_redirects=False
        ) as response:
            text = await response.text()
            what = (method, str(url), body[:2000], credential, headers, text)
            assert response.status < 500 or _is_truth(response.status, text), what
            if response.status >= 400:
                assert response.content_type == "application/json", what


def _is_truth(status: int, text: str) -> bool:
    """A host that does not answer, or a health check of such a lab, is no mistake of ours."""
    truths = ("host_unreachable", "host_error", "action_timeout", '"status":"unhealthy"')
    return status in {502, 503, 504} and any(truth in text for truth in truths)
