"""Executions: watched, listed, cancelled; and their screenshots."""

from __future__ import annotations

import json
import time

import asyncpg
import pytest
from yarl import URL

from tests.conftest import Client
from tests.web.kit import PNG, FakeHost, Json, got, made, refused, test_case
from vpt.config import Config
from vpt.store.artifacts import Artifacts
from vpt.store.db import Database
from vpt.web.api import screenshots


async def run(client: Client, wish: Json | None = None, **changes: object) -> Json:
    """Make a test case and run it."""
    case = await made(client, "/api/testcases", test_case(**changes))
    return await made(client, f"/api/testcases/{case['id']}/execute", wish or {})


async def finished(client: Client, execution: Json) -> Json:
    """Wait for its end."""
    return await got(client, f"/api/executions/{execution['execution_id']}", wait="30")


async def test_an_execution_tells_its_attempts_and_steps(operator: Client, host: FakeHost) -> None:
    host.answer = lambda action: {"success": action["step"] == 1, "output": "out", "error": "no"}
    steps = [{"command": "a", "params": {"key": key}} for key in ("${key}", "B", "C")]
    done = await finished(operator, await run(operator, {"parameters": {"key": 1}}, steps=steps))
    assert done["status"] == "failed"
    assert [step["step"]["params"]["key"] for step in done["steps"]] == [1, "B", "C"]
    assert [(a["attempt"], a["host"], a["status"]) for a in done["attempts"]] == [
        (1, "host-1", "failed")
    ]
    assert [(s["index"], s["action"], s["status"], s["tries"]) for s in done["steps"]] == [
        (1, "a", "passed", 1),
        (2, "a", "failed", 1),
        (3, "a", "skipped", 0),
    ]
    assert done["steps"][0]["output"] == "out"
    assert done["steps"][0]["started_at"].endswith("Z")
    assert done["steps"][0]["screenshot_url"] is None


async def test_an_earlier_attempt_can_be_asked_for(operator: Client, host: FakeHost) -> None:
    answers = iter([False, True])
    host.answer = lambda _: {"success": next(answers)}
    done = await finished(operator, await run(operator, steps=[{"command": "a"}], test_retries=1))
    path = f"/api/executions/{done['execution_id']}"
    assert (done["status"], done["steps"][0]["status"]) == ("completed", "passed")
    first = await got(operator, path, attempt="1")
    assert (first["steps"][0]["status"], len(first["attempts"])) == ("failed", 2)
    assert (await refused(operator, "GET", path, params={"attempt": "3"}))[0] == 404
    for odd in ("0", "-1", "x", "9" * 30):
        assert (await refused(operator, "GET", path, params={"attempt": odd}))[0] == 400
    for odd in ("-1", "61", "nan", "inf", "x", ""):
        assert (await refused(operator, "GET", path, params={"wait": odd}))[0] == 400


async def test_waiting_ends_when_the_time_is_over(operator: Client, host: FakeHost) -> None:
    host.gate.clear()
    execution = await run(operator)
    began = time.monotonic()
    seen = await got(operator, f"/api/executions/{execution['execution_id']}", wait="0.2")
    assert (seen["status"], time.monotonic() - began >= 0.2) == ("running", True)
    host.gate.set()
    assert (await finished(operator, execution))["status"] == "completed"


async def test_a_running_execution_is_cancelled_and_a_final_one_is_not(
    operator: Client, viewer: Client, host: FakeHost
) -> None:
    host.gate.clear()
    execution = await run(operator)
    path = f"/api/executions/{execution['execution_id']}/cancel"
    assert (await refused(viewer, "POST", path))[0] == 403
    assert (await operator.post(path)).status == 202
    assert (await finished(operator, execution))["status"] == "cancelled"
    status, answer = await refused(operator, "POST", path)
    assert (status, answer["code"]) == (409, "conflict")
    assert (await refused(operator, "POST", "/api/executions/no/cancel"))[0] == 404


async def test_executions_are_filtered(operator: Client, host: FakeHost) -> None:
    first = await finished(operator, await run(operator))
    host.answer = lambda _: {"success": False}
    second = await finished(operator, await run(operator))
    for params, expected in (
        ({}, [second, first]),
        ({"status": "failed"}, [second]),
        ({"test_case_id": first["test_case_id"]}, [first]),
        ({"host_id": "host-1"}, [second, first]),
        ({"host_id": "host-2"}, []),
        ({"device_id": "host-1:tv-1", "limit": "1"}, [second]),
        ({"campaign_execution_id": "none"}, []),
        ({"since": second["created_at"]}, [second]),
        ({"until": second["created_at"]}, [first]),
        ({"since": "2020-01-01"}, [second, first]),
    ):
        page = await got(operator, "/api/executions", **params)
        ids = [item["execution_id"] for item in page["items"]]
        assert ids == [item["execution_id"] for item in expected], params


_LONG = """
    UPDATE test_executions SET actions = array_fill('a'::text, ARRAY[$1::int]),
        steps = (SELECT json_agg('{"command": "a"}'::json) FROM generate_series(1, $1))
"""
_OUTPUTS = """
    INSERT INTO execution_steps (execution_id, attempt, step, action, status, output, error)
    SELECT e.id, 1, n, 'a', 'passed', said.text, said.text
    FROM test_executions AS e
    CROSS JOIN generate_series(3, $1::int) AS n
    CROSS JOIN (
        SELECT string_agg(md5(i::text), '') AS text FROM generate_series(1, 32768) AS i
    ) AS said
"""


async def _long_outputs(db: Database, steps: int) -> None:
    """Give the one execution so many steps that said 1 MiB each that cannot be compressed."""
    async with db.session() as session:
        await session._connection.execute(_LONG, steps, timeout=60)
        await session._connection.execute(_OUTPUTS, steps, timeout=60)


async def test_an_execution_can_be_read_whatever_its_steps_said(
    operator: Client, host: FakeHost, db: Database
) -> None:
    done = await finished(operator, await run(operator))
    await _long_outputs(db, 12)
    path = f"/api/executions/{done['execution_id']}"
    text = await (await operator.get(path)).text()
    assert len(text) < 2**20
    item = json.loads(text)
    short, long = item["steps"][0], item["steps"][-1]
    assert (short["output"], short["output_size"], short["output_truncated"]) == (None, None, False)
    for kind in ("output", "error"):
        assert (long[f"{kind}_size"], long[f"{kind}_truncated"]) == (2**20, True)
        response = await operator.get(f"{path}/attempts/1/steps/12/{kind}")
        whole = await response.text()
        assert (len(whole), response.content_type) == (2**20, "text/plain")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert whole.startswith(long[kind])
        assert len(long[kind]) == 10_000


async def test_the_beginning_of_an_output_is_read_without_the_rest(
    operator: Client, host: FakeHost, db: Database
) -> None:
    done = await finished(operator, await run(operator))
    await _long_outputs(db, 12)
    async with db.session() as session:
        [[plan]] = await session._connection.fetch(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + db.queries["execution_item"].sql,
            *(done["execution_id"], None),
        )
    blocks = plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"]
    whole = 2 * 10 * 2**20 / 8192
    assert blocks < whole / 4


async def test_a_step_that_is_not_there_has_no_output(operator: Client, host: FakeHost) -> None:
    done = await finished(operator, await run(operator))
    path = f"/api/executions/{done['execution_id']}/attempts"
    empty = await operator.get(f"{path}/1/steps/1/output")
    assert (empty.status, await empty.text()) == (200, "")
    for wrong in ("1/steps/3", "2/steps/1", "0/steps/1", "1/steps/x", "1/steps/99999999999"):
        assert (await refused(operator, "GET", f"{path}/{wrong}/output"))[0] == 404, wrong
    assert (await refused(operator, "GET", "/api/executions/no/attempts/1/steps/1/error"))[0] == 404


async def test_history_outlives_its_test_case(operator: Client, host: FakeHost) -> None:
    done = await finished(operator, await run(operator, name="Short lived"))
    assert (await operator.delete(f"/api/testcases/{done['test_case_id']}")).status == 204
    after = await finished(operator, done)
    assert (after["test_case_name"], len(after["steps"])) == ("Short lived", 2)


async def test_a_screenshot_is_for_token_holders_and_signed_links(
    operator: Client, nobody: Client, host: FakeHost
) -> None:
    host.answer = lambda _: {"success": True, "screenshot": PNG}
    done = await finished(operator, await run(operator))
    url = done["steps"][1]["screenshot_url"]
    assert url == f"/screenshots/{done['execution_id']}/1/2.png"
    picture = await operator.get(url)
    assert (picture.status, picture.content_type) == (200, "image/png")
    assert picture.headers["X-Content-Type-Options"] == "nosniff"
    assert "private" in picture.headers["Cache-Control"]
    assert (await refused(nobody, "GET", url))[0] == 401
    assert (await refused(nobody, "GET", url, params={"sign": "1"}))[0] == 401
    link = await got(operator, url, sign="1")
    signed = await nobody.get(link["url"])
    assert (signed.status, await signed.read()) == (200, await picture.read())
    for forged in (
        link["url"].replace("/1/2.png", "/1/1.png"),
        link["url"].replace("expires=", "expires=9"),
        link["url"] + "0",
        f"{url}?signature=%00%ff&expires=x",
        f"{url}?signature=",
    ):
        assert (await refused(nobody, "GET", forged))[0] == 401, forged


async def test_a_step_shows_its_other_pictures(
    operator: Client, nobody: Client, host: FakeHost, config: Config, dsn: str
) -> None:
    host.answer = lambda _: {"success": True, "screenshot": PNG}
    done = await finished(operator, await run(operator))
    assert done["steps"][0]["pictures"] == []
    name = done["execution_id"]
    await Artifacts(config.vpt_data_dir).save(name, 1, 1, PNG, 1)
    connection = await asyncpg.connect(dsn)
    stored = '[{"number": 1, "caption": "logo"}]'
    await connection.execute("UPDATE execution_steps SET pictures = $1 WHERE step = 1", stored)
    await connection.close()
    done = await finished(operator, done)
    url = f"/screenshots/{name}/1/1-1.png"
    assert done["steps"][0]["pictures"] == [{"url": url, "caption": "logo"}]
    assert (await operator.get(url)).content_type == "image/png"
    link = await got(operator, url, sign="1")
    assert (await nobody.get(link["url"])).status == 200
    assert (await operator.get(f"/screenshots/{name}/1/1-2.png")).status == 404


async def test_a_signed_link_ends(
    operator: Client, nobody: Client, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.answer = lambda _: {"success": True, "screenshot": PNG}
    done = await finished(operator, await run(operator))
    url = done["steps"][0]["screenshot_url"]
    monkeypatch.setattr(screenshots, "LINK_SECONDS", 0)
    expired = await got(operator, url, sign="1")
    assert await refused(nobody, "GET", expired["url"]) == (
        401,
        {"error": "The link has expired", "code": "invalid_token"},
    )


ODD_PATHS = (
    "x/1/1.png",
    "../1/1.png",
    "%2e%2e/1/1.png",
    "..%2f..%2fsecret_key/1/1.png",
    "x/0/1.png",
    "x/1/-1.png",
    "x/1/%2e%2e%2f1.png",
    "x/1/1.jpeg",
    "x/1/99999999999.png",
)


async def test_no_path_reaches_the_file_system_unchecked(operator: Client) -> None:
    for path in ODD_PATHS:
        url = operator.make_url("/").join(URL(f"/screenshots/{path}", encoded=True))
        async with operator.session.get(url) as response:
            assert response.status == 404, path
