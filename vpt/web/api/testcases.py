"""Routes of test cases, and how a request to run one becomes a complete execution."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import structlog
from aiohttp import hdrs, web

from vpt import parameters
from vpt.errors import (
    ConflictError,
    KeyReusedError,
    NothingFitsError,
    PreconditionError,
    UnprocessableError,
)
from vpt.model import Json, NewExecution, RequestKey, Role, Submitted
from vpt.store.db import Database, Session
from vpt.store.disk import DiskFullError
from vpt.web.http.auth import needs, user_of
from vpt.web.http.idempotency import IDEMPOTENCY_KEY, once
from vpt.web.http.keys import DB, LAB
from vpt.web.http.operations import JSON, ResponseSpec, body_of, operation, page_of, query_of
from vpt.web.http.params import IF_MATCH, etag, text
from vpt.web.http.requests import (
    found,
    json_response,
    json_text,
    list_response,
    no_content,
    path_id,
)
from vpt.web.schemas.executions import EXECUTE, SubmittedResponse
from vpt.web.schemas.steps import check_steps
from vpt.web.schemas.testcases import TEST_CASE, TestCaseResponse

log = structlog.get_logger(__name__)
routes = web.RouteTableDef()

#: Why a valid request may not start anything.
NOT_STARTED = (
    UnprocessableError,
    NothingFitsError,
    KeyReusedError,
    ConflictError,
    DiskFullError,
)
_ONE = ResponseSpec({JSON: TestCaseResponse}, headers=(hdrs.ETAG,))


@routes.get("/api/testcases")
@needs(Role.VIEWER)
@operation(
    lists=TestCaseResponse,
    query=(
        text("q", "Only those whose name contains this text."),
        text("device_model", "Only those for this device model.", example="desktop"),
        text("tag", "Only those with this tag.", example="smoke"),
    ),
)
async def list_test_cases(request: web.Request) -> web.Response:
    """List test cases, newest first."""
    page, filters = page_of(request), query_of(request)
    rows = await request.app[DB].rows("test_case_items", **page.args(), **filters)
    return list_response(rows, page)


@routes.post("/api/testcases")
@needs(Role.OPERATOR)
@operation(_ONE, 201, body=TEST_CASE)
async def create_test_case(request: web.Request) -> web.Response:
    """Create a test case."""
    test_case = await body_of(request)
    test_case_id = f"tc_{secrets.token_hex(8)}"
    await request.app[DB].row("insert_test_case", id=test_case_id, **test_case)
    return await _answer(request, test_case_id, 201)


@routes.get("/api/testcases/{id}")
@needs(Role.VIEWER)
@operation(_ONE)
async def get_test_case(request: web.Request) -> web.Response:
    """Show a test case, with its version as ETag."""
    return await _answer(request, path_id(request))


@routes.put("/api/testcases/{id}")
@needs(Role.OPERATOR)
@operation(_ONE, headers=(IF_MATCH,), body=TEST_CASE, refuses=(PreconditionError,))
async def put_test_case(request: web.Request) -> web.Response:
    """Replace a test case; with If-Match only when nobody changed it since you read it."""
    db, test_case_id = request.app[DB], path_id(request)
    found(await db.row("test_case_item", id=test_case_id))
    test_case = await body_of(request)
    versions = IF_MATCH.of(request.headers)
    done = await db.row("update_test_case", id=test_case_id, versions=versions, **test_case)
    if done is None:
        raise PreconditionError
    return await _answer(request, test_case_id)


@routes.delete("/api/testcases/{id}")
@needs(Role.OPERATOR)
@operation(None, 204, headers=(IF_MATCH,), refuses=(ConflictError, PreconditionError))
async def delete_test_case(request: web.Request) -> web.Response:
    """Delete a test case that no campaign uses; its executions are kept."""
    db, test_case_id = request.app[DB], path_id(request)
    found(await db.row("test_case_item", id=test_case_id))
    if (
        await db.row("delete_test_case", id=test_case_id, versions=IF_MATCH.of(request.headers))
        is None
    ):
        raise PreconditionError
    return no_content()


@routes.post("/api/testcases/{id}/execute")
@needs(Role.OPERATOR)
@operation(
    SubmittedResponse,
    202,
    headers=(IDEMPOTENCY_KEY,),
    body=EXECUTE,
    refuses=NOT_STARTED,
)
async def execute_test_case(request: web.Request) -> web.Response:
    """Run a test case now, or as soon as a device that fits is free."""
    db, test_case_id = request.app[DB], path_id(request)

    async def start(key: RequestKey | None) -> web.Response:
        test_case = found((await test_cases(db, [test_case_id])).get(test_case_id))
        wish = await body_of(request)
        steps = filled_steps(test_case, wish["parameters"])
        wish["device_id"] = await resolve_device(db, wish["device_id"], wish["host_id"])
        new = new_execution(test_case, steps, wish, user_of(request).user_id)
        submitted = await request.app[LAB].executions.submit(new, key)
        return json_response(asdict(submitted), 202)

    async def again(execution_id: str) -> web.Response:
        row = found(await db.row("execution_status", execution_id=execution_id))
        known = Submitted(execution_id, row["status"], row["host_id"], row["device_id"])
        return json_response(asdict(known), 202)

    return await once(request, start, again)


async def _answer(request: web.Request, test_case_id: str, status: int = 200) -> web.Response:
    row = found(await request.app[DB].row("test_case_item", id=test_case_id))
    return json_text(row["item"], status, etag=etag(row["version"]))


async def test_cases(session: Session | Database, ids: Iterable[str]) -> Mapping[str, Any]:
    """Give the test cases of these ids that there are, ready to run."""
    rows = await session.rows("test_cases_to_run", ids=list(set(ids)))
    return {row["id"]: row for row in rows}


def filled_steps(test_case: Any, values: Json) -> tuple[Json, ...]:
    """Give the steps with parameters filled in; InvalidError when they do not fit."""
    steps = parameters.fill(test_case["steps"], values)
    check_steps(steps)
    return steps


def new_execution(
    test_case: Any, steps: tuple[Json, ...], wish: Mapping[str, Any], user_id: str
) -> NewExecution:
    """Make the request to run a test case: its copy of the steps, the wish over the default."""
    timeout_s = wish.get("timeout_s")
    return NewExecution(
        test_case_id=test_case["id"],
        test_case_name=test_case["name"],
        test_case_version=test_case["version"],
        device_model=test_case["device_model"],
        requirements=tuple(test_case["requirements"]),
        steps=steps,
        parameters=wish["parameters"],
        timeout_s=test_case["timeout_s"] if timeout_s is None else timeout_s,
        test_retries=test_case["test_retries"],
        device_id=wish["device_id"],
        host_id=wish["host_id"],
        priority=wish["priority"],
        queue_timeout_s=wish.get("queue_timeout_s"),
        requested_by=user_id,
    )


async def resolve_device(
    session: Session | Database, device_id: str | None, host_id: str | None
) -> str | None:
    """Give the global id of the device that these two name, None when any will do.

    Raises UnprocessableError when there is no such host or device, or when the name is not clear.
    """
    if host_id is not None and not await session.value("host_exists", id=host_id):
        raise UnprocessableError(f"There is no host {host_id}.")
    if device_id is None:
        return None
    rows = await session.rows("devices_named", device_id=device_id, host_id=host_id)
    if not rows:
        where = f" on host {host_id}" if host_id is not None else ""
        raise UnprocessableError(f"There is no device {device_id}{where}.")
    if len(rows) > 1 and not rows[0]["by_id"]:
        raise UnprocessableError(f"Several hosts have a device {device_id}: name the host_id.")
    return str(rows[0]["id"])
