"""Who gets in, and how the others are told."""

from __future__ import annotations

import base64
import json
import time

import jwt
import pytest
from yarl import URL

from tests.conftest import SECRET, Client, ClientFactory, token
from tests.web.kit import refused, test_case
from vpt.errors import InvalidTokenError
from vpt.model import Role
from vpt.store.db import Database
from vpt.store.tokens import issue_token, read_token
from vpt.web.http.auth import access_of, bearer

NO_TOKEN = (401, {"error": "No token provided", "code": "no_token"})
BAD_TOKEN = (401, {"error": "Invalid token", "code": "invalid_token"})


def signed(**claims: object) -> str:
    return jwt.encode(claims, SECRET, algorithm="HS256")


def unsigned(**claims: object) -> str:
    parts = [{"alg": "none", "typ": "JWT"}, claims]
    texts = [base64.urlsafe_b64encode(json.dumps(p).encode()).rstrip(b"=").decode() for p in parts]
    return f"{texts[0]}.{texts[1]}."


def deep_header() -> str:
    deep = base64.urlsafe_b64encode(b"[" * 2900).decode().rstrip("=")
    return f"{deep}.e30.x"


async def test_without_a_token_nobody_gets_in(nobody: Client) -> None:
    assert await refused(nobody, "GET", "/api/testcases") == NO_TOKEN
    assert await refused(nobody, "GET", "/api/nothing") == NO_TOKEN
    assert (await refused(nobody, "GET", "/nothing"))[0] == 404


BAD = {
    "no token at all": "x",
    "two words": "Basic dXNlcjpwdw==",
    "another key": issue_token("another key, which is long enough", "eve", Role.ADMIN, 1),
    "unsigned": unsigned(user_id="eve", role="admin"),
    "another algorithm": jwt.encode({"user_id": "eve"}, SECRET * 2, algorithm="HS512"),
    "expired": signed(user_id="ann", exp=int(time.time()) - 1),
    "exp that is none": signed(user_id="ann", exp="tomorrow"),
    "unknown role": signed(user_id="ann", role="root"),
    "role that is none": signed(user_id="ann", role=["admin"]),
    "no user": signed(role="admin"),
    "empty user": signed(user_id=""),
    "user with NUL": signed(user_id="a\0b"),
    "user that is none": signed(user_id={"name": "ann"}),
    "deep header": deep_header(),
}


async def test_a_bad_token_is_refused(nobody: Client) -> None:
    for kind, bad in BAD.items():
        headers = {"Authorization": f"Bearer {bad}"}
        answer = await refused(nobody, "GET", "/api/testcases", headers=headers)
        assert answer == BAD_TOKEN, kind


async def test_a_token_is_taken_with_and_without_bearer(nobody: Client) -> None:
    for form in ("Bearer {}", "bearer {}", "BEARER  {} ", "{}"):
        headers = {"Authorization": form.format(token())}
        assert (await nobody.get("/api/testcases", headers=headers)).status == 200, form


@pytest.mark.parametrize("header", ["", " ", "Bearer", "bearer "])
def test_a_header_without_a_token_is_no_token(header: str) -> None:
    assert bearer(header) is None


def test_a_token_without_role_is_an_operators_and_sub_names_the_user() -> None:
    user = read_token(SECRET, signed(sub="ann"))
    assert (user.user_id, user.role, user.expires_at) == ("ann", Role.OPERATOR, None)
    assert read_token(SECRET, signed(user_id=7)).user_id == "7"


def test_a_token_that_was_read_before_still_expires() -> None:
    brief = signed(user_id="ann", exp=int(time.time()) + 2)
    expires_at = read_token(SECRET, brief).expires_at or 0
    while time.time() < expires_at:
        read_token(SECRET, signed(user_id="bob"))
    with pytest.raises(InvalidTokenError):
        read_token(SECRET, brief)


def test_reading_many_tokens_forgets_the_oldest_and_still_reads_it() -> None:
    tokens = [signed(user_id=f"user {n}") for n in range(1100)]
    users = [read_token(SECRET, one).user_id for one in [*tokens, tokens[0]]]
    assert users[-1] == "user 0"


async def test_each_role_may_what_it_may(client: ClientFactory) -> None:
    expected = {
        Role.VIEWER: (200, 403),
        Role.OPERATOR: (200, 201),
        Role.ADMIN: (200, 201),
        Role.HOST: (403, 403),
    }
    for role, statuses in expected.items():
        one = await client(role)
        read = await one.get("/api/testcases")
        write = await one.post("/api/testcases", json=test_case())
        assert (read.status, write.status) == statuses
        if write.status == 403:
            assert (await write.json())["code"] == "forbidden"


async def test_the_role_is_checked_before_the_id_and_the_id_before_the_body(
    viewer: Client, operator: Client
) -> None:
    assert (await refused(viewer, "PUT", "/api/testcases/no", data=b"{"))[0] == 403
    assert (await refused(operator, "PUT", "/api/testcases/no", data=b"{"))[0] == 404
    assert (await refused(operator, "POST", "/api/testcases/no/execute", data=b"{"))[0] == 404


async def test_unknown_routes_and_wrong_methods_are_told_as_json(operator: Client) -> None:
    assert (await refused(operator, "GET", "/api/nothing"))[0] == 404
    response = await operator.patch("/api/testcases")
    assert response.status == 405
    assert response.headers["Allow"] == "GET,HEAD,OPTIONS,POST"
    assert (await response.json())["code"] == "method_not_allowed"


async def test_an_id_that_nobody_can_have_is_not_found(operator: Client) -> None:
    odd = ("%00", "a%00b", "%ff", "%ED%A0%80", "x" * 300, "a%0Ab")
    for place in ("testcases", "campaigns", "executions", "campaign-executions"):
        for path in odd:
            url = URL(f"/api/{place}/{path}", encoded=True)
            async with operator.session.get(operator.make_url("/").join(url)) as response:
                assert response.status == 404, url


async def test_every_route_says_who_may_call_it(operator: Client) -> None:
    open_routes = {
        str(route.resource)
        for route in operator.app.router.routes()
        if access_of(route.handler) is None and route.method != "OPTIONS"
    }
    assert all("/socket.io/" in route for route in open_routes), open_routes


async def test_a_page_of_an_allowed_origin_may_ask(operator: Client) -> None:
    asked = {"Origin": "https://pages.example", "Access-Control-Request-Method": "PUT"}
    nobody = {"Authorization": ""}
    preflight = await operator.options("/api/testcases/x", headers=asked | nobody)
    assert preflight.status == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "https://pages.example"
    refusal = await operator.get("/api/testcases", headers={"Origin": asked["Origin"]} | nobody)
    assert refusal.status == 401
    assert refusal.headers["Access-Control-Allow-Origin"] == "https://pages.example"
    stranger = {"Origin": "https://evil.example", "Access-Control-Request-Method": "PUT"}
    assert (await operator.options("/api/testcases/x", headers=stranger)).status == 403


async def test_a_sane_request_id_is_kept_and_another_one_replaced(operator: Client) -> None:
    sane = await operator.get("/api/testcases", headers={"X-Request-ID": "abc-1"})
    assert sane.headers["X-Request-ID"] == "abc-1"
    odd = await operator.get("/api/testcases", headers={"X-Request-ID": "a b" * 100})
    assert len(odd.headers["X-Request-ID"]) == 16


async def test_without_the_database_requests_are_asked_to_come_again(
    operator: Client, db: Database
) -> None:
    await db.close()
    response = await operator.get("/api/testcases")
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert (await response.json())["code"] == "database_away"
