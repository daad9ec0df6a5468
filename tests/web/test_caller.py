"""Who a request comes from, directly and by way of proxies that are trusted or not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from tests.conftest import Client, ClientFactory
from tests.web.kit import FakeHost, test_case
from vpt.config import Config
from vpt.model import Role
from vpt.web.http import caller
from vpt.web.http.caller import client_address

#: 127.0.0.1 is the proxy; 10.9.0.0/16 are more of them.
TRUSTED = (ip_network("127.0.0.1/32"), ip_network("10.9.0.0/16"))
OPEN = (ip_network("127.0.0.0/8"), ip_network("192.0.2.0/24"))
CLIENT = "192.0.2.7"


@pytest.fixture
def config(config: Config, request: pytest.FixtureRequest) -> Config:
    """Give the settings that the test names."""
    settings = getattr(request, "param", {})
    return replace(config, **settings)


def through(trusted: bool, prefix: str = "") -> dict[str, object]:
    """Return settings with open networks, behind a proxy that is trusted or not."""
    url = f"https://lab.example{prefix}" if prefix else None
    return {
        "host_open_networks": OPEN,
        "trusted_proxies": TRUSTED if trusted else (),
        "server_url": url,
    }


def join(name: str, url: str = "http://127.0.0.1:9") -> dict[str, object]:
    """Return the registration of a host."""
    return {"host_name": name, "host_url": url, "capabilities": [], "devices": []}


async def registered(client: Client, headers: Mapping[str, str], **body: str) -> int:
    """Register a host without a credential; return the status."""
    response = await client.post("/api/hosts/register", json=join("h", **body), headers=headers)
    return response.status


#: Headers of a proxy, and whether the request may count as one of this machine.
PASSED_ON = {
    "none": ({}, True),
    "for": ({"X-Forwarded-For": "127.0.0.1"}, False),
    "proto": ({"X-Forwarded-Proto": "https"}, False),
    "host": ({"x-forwarded-host": "lab.example"}, False),
    "prefix": ({"X-Forwarded-Prefix": "/vpt"}, False),
    "forwarded": ({"Forwarded": "for=127.0.0.1"}, False),
    "real": ({"X-Real-IP": "127.0.0.1"}, False),
    "via": ({"Via": "1.1 somebody"}, False),
}


@pytest.mark.parametrize("config", [through(trusted=False)], indirect=True)
async def test_what_somebody_passed_on_gets_no_right_from_an_address(
    client: ClientFactory,
) -> None:
    nobody = await client(None)
    admin = await client(Role.ADMIN)
    for kind, (headers, local) in PASSED_ON.items():
        assert await registered(nobody, headers) == (200 if local else 401), kind
        other = join("a", "http://127.0.0.1:10")  # a URL of its own: nobody answers at either
        response = await admin.post("/api/hosts/register", json=other, headers=headers)
        assert response.status == (200 if local else 400), kind


@pytest.mark.parametrize("config", [through(trusted=True)], indirect=True)
async def test_a_trusted_proxy_tells_who_asks(client: ClientFactory) -> None:
    nobody = await client(None)
    here = {"url": f"http://{CLIENT}:9"}
    good = (
        {"X-Forwarded-For": CLIENT},
        {"X-Forwarded-For": f"{CLIENT}:4711"},
        {"X-Forwarded-For": f"::ffff:{CLIENT}"},
        {"X-Forwarded-For": f"127.0.0.1, {CLIENT}, 10.9.0.1"},
        {"Forwarded": f'for=127.0.0.1, for="{CLIENT}:80";proto=https'},
        {"X-Forwarded-For": CLIENT, "Forwarded": f"for={CLIENT}"},
    )
    bad = (
        {"X-Forwarded-For": f"{CLIENT}, 203.0.113.1"},  # the last one is who asked the proxy
        {"X-Forwarded-For": f"{CLIENT}, unknown, 10.9.0.1"},
        {"X-Forwarded-For": f"{CLIENT}, "},
        {"X-Forwarded-For": ""},
        {"X-Forwarded-Proto": "https"},  # it does not tell who asks
        {"X-Forwarded-For": "203.0.113.1", "Forwarded": f"for={CLIENT}"},
        {"X-Forwarded-For": CLIENT, "Forwarded": "for=203.0.113.1"},
        {"Forwarded": "for=_hidden"},
        {"X-Forwarded-For": ",".join([CLIENT] * 40)},
    )
    for headers in good:
        assert await registered(nobody, headers, **here) == 200, headers
    for headers in bad:
        assert await registered(nobody, headers, **here) == 401, headers
    lines = CIMultiDict([("X-Forwarded-For", CLIENT), ("X-Forwarded-For", "203.0.113.1")])
    assert await registered(nobody, lines, **here) == 401


def test_a_proxy_elsewhere_cannot_name_a_client_on_this_machine() -> None:
    for local in ("127.0.0.1", "::1", "::ffff:127.0.0.2"):
        headers = CIMultiDictProxy(CIMultiDict({"X-Forwarded-For": local}))
        assert client_address(headers, TRUSTED, "10.9.0.1") == "", local
    there = CIMultiDictProxy(CIMultiDict({"X-Forwarded-For": CLIENT}))
    assert client_address(there, TRUSTED, "10.9.0.1") == CLIENT
    here = CIMultiDictProxy(CIMultiDict({"X-Forwarded-For": "127.0.0.2"}))
    assert client_address(here, TRUSTED, "127.0.0.1") == "127.0.0.2"


@pytest.mark.parametrize("config", [through(trusted=True)], indirect=True)
async def test_the_audit_has_the_address_of_the_client(client: ClientFactory) -> None:
    admin = await client(Role.ADMIN)
    headers = {"X-Forwarded-For": f"198.51.100.1, {CLIENT}"}
    await admin.post("/api/testcases", json=test_case(), headers=headers)
    entry = (await (await admin.get("/api/audit")).json())["items"][0]
    assert entry["peer"] == CLIENT


#: Where the page, the documents and live events are; what the proxy adds, and whether it strips.
BELOW = {
    "kept": ("/vpt", {}),
    "stripped": ("", {}),
    "told": ("", {"X-Forwarded-For": CLIENT, "X-Forwarded-Prefix": "/lab/a"}),
    "told and kept": ("/lab/a", {"X-Forwarded-For": CLIENT, "X-Forwarded-Prefix": "/lab/a/"}),
}


@pytest.mark.parametrize("config", [through(trusted=True, prefix="/vpt")], indirect=True)
@pytest.mark.parametrize("kind", BELOW)
async def test_everything_works_below_a_prefix(client: ClientFactory, kind: str) -> None:
    way, headers = BELOW[kind]
    prefix = "/lab/a" if headers else "/vpt"
    operator = await client(Role.OPERATOR)

    async def get(path: str) -> tuple[int, str]:
        response = await operator.get(f"{way}{path}", headers=headers)
        return response.status, await response.text()

    status, page = await get("/")
    assert status == 200
    assert f'src="{prefix}/console/' in page
    assert '="/console' not in page
    script = page.partition(f'src="{prefix}')[2].partition('"')[0]
    assert (await get(script))[0] == 200
    for path in ("/api/openapi.json", "/api/docs", "/api/docs/start.js", "/api/testcases?limit=1"):
        assert (await get(path))[0] == 200, path
    assert (await get("/socket.io/?EIO=4&transport=polling"))[0] == 200
    assert (await get("/nothing"))[0] == 404
    assert (await get("/api/nothing"))[0] == 404
    created = await operator.post(f"{way}/api/testcases", json=test_case(), headers=headers)
    assert created.status == 201
    assert (await operator.put(f"{way}/api/testcases", headers=headers)).status == 405
    if way:
        front = await operator.get(way, headers=headers, allow_redirects=False)
        assert (front.status, front.headers["Location"]) == (308, f"{way}/")
        assert (await get(f"{way}/"))[0] == 404  # one prefix is removed, not each
        deep = way * 1000
        assert (await get(deep))[0] == 404


@pytest.mark.parametrize("config", [through(trusted=False)], indirect=True)
async def test_a_prefix_counts_from_a_trusted_proxy_only(client: ClientFactory) -> None:
    nobody = await client(None)
    headers = {"X-Forwarded-Prefix": "/lab"}
    assert 'src="/console/' in await (await nobody.get("/", headers=headers)).text()
    assert (await nobody.get("/lab/", headers=headers)).status == 404


@pytest.mark.parametrize("config", [through(trusted=True)], indirect=True)
async def test_a_prefix_is_a_plain_path(client: ClientFactory) -> None:
    nobody = await client(None)
    for prefix in ('/"><script>', "//evil.example", "/a/../b", "/api", "vpt", "/%2e", "/a b"):
        headers = {"X-Forwarded-For": CLIENT, "X-Forwarded-Prefix": prefix}
        assert 'src="/console/' in await (await nobody.get("/", headers=headers)).text(), prefix


@pytest.mark.parametrize("config", [through(trusted=True, prefix="/vpt")], indirect=True)
async def test_the_same_key_below_the_prefix_and_without_it_starts_once(
    client: ClientFactory, host: FakeHost
) -> None:
    assert host.devices
    operator = await client(Role.OPERATOR)
    case = await (await operator.post("/api/testcases", json=test_case())).json()
    ids = set()
    for way in ("", "/vpt"):
        response = await operator.post(
            f"{way}/api/testcases/{case['id']}/execute", headers={"Idempotency-Key": "k"}
        )
        assert response.status == 202, await response.text()
        ids.add((await response.json())["execution_id"])
    assert len(ids) == 1


#: Origins, the Host that reaches us, and whether a page of that origin may connect.
ORIGINS = {
    "SERVER_URL": ("https://lab.example", "127.0.0.1:5109", {}, True),
    "its default port": ("https://lab.example:443", "backend", {}, True),
    "our own": ("http://here:81", "here:81", {}, True),
    "our own with a default port": ("https://here", "here:443", {}, True),
    "of the proxy": ("https://x.example", "b", {"X-Forwarded-Host": "x.example"}, True),
    "another": ("https://evil.example", "backend", {}, False),
    "port": ("http://here", "here:81", {}, False),
}


@pytest.mark.parametrize("config", [through(trusted=True, prefix="/vpt")], indirect=True)
async def test_pages_of_server_url_and_of_the_proxy_may_connect(client: ClientFactory) -> None:
    nobody = await client(None)
    for kind, (origin, host, more, allowed) in ORIGINS.items():
        headers = {"Origin": origin, "Host": host, "X-Forwarded-For": CLIENT, **more}
        response = await nobody.get("/socket.io/?EIO=4&transport=polling", headers=headers)
        assert response.status == (200 if allowed else 400), kind
    asked = {"Origin": "https://lab.example", "Access-Control-Request-Method": "PUT"}
    for way in ("", "/vpt"):
        preflight = await nobody.options(f"{way}/api/testcases/x", headers=asked)
        assert preflight.status == 200
        assert preflight.headers["Access-Control-Allow-Origin"] == "https://lab.example"
    other = {**asked, "Origin": "https://evil.example"}
    assert (await nobody.options("/api/testcases/x", headers=other)).status == 403


@pytest.mark.parametrize("config", [through(trusted=True, prefix="/vpt")], indirect=True)
async def test_the_documents_name_the_prefix(client: ClientFactory) -> None:
    nobody = await client(None)
    url = nobody.make_url("/vpt/api/openapi.json")
    document = await (await nobody.get(url.path)).json()
    assert url.join(type(url)(document["servers"][0]["url"])).path == "/vpt/"
    events = await (await nobody.get("/vpt/api/asyncapi.json")).json()
    where = events["servers"]["vpt"]
    assert (where["host"], where["pathname"]) == ("lab.example", "/vpt/socket.io/")
    assert where["protocol"] == "wss"


@pytest.mark.parametrize("name", ["X-Forwarded-For", "Forwarded"])
def test_a_chain_of_thousands_costs_no_more_than_one_that_is_too_long(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    parse = caller.parse_address
    monkeypatch.setattr(caller, "parse_address", lambda text: read.append(text) or parse(text))
    part = CLIENT if name == "X-Forwarded-For" else f"for={CLIENT}"
    lines = [(name, ",".join([part] * 500))] * 10
    headers = CIMultiDictProxy(CIMultiDict(lines))
    assert client_address(headers, TRUSTED, "127.0.0.1") == ""
    assert len(read) < 100
