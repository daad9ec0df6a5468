"""`vpt ls` and `vpt logs`: what is there, and what happened."""

from __future__ import annotations

import json
import re

from tests.actors.fake_host import until
from tests.client.kit import Cli, Terminal
from tests.conftest import Client
from tests.web.kit import PNG, FakeHost, got, made, test_case
from vpt.store.db import Database


async def test_lists_have_columns_filters_and_all_pages_up_to_the_limit(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    for number in range(3):
        await made(operator, "/api/testcases", test_case(name=f"Case {number}\t!", tags=["a"]))
    listed = await vpt("ls", "testcases", "--limit", "2", "--tag", "a")
    assert (listed.code, listed.err) == (0, "")
    rows = [line.split("\t") for line in listed.out.splitlines()]
    assert [row[1:5] for row in rows] == [[f"Case {n} !", "pixel", "2", "a"] for n in (2, 1)]
    objects = await vpt("ls", "testcases", "--name", "case 1", "--json")
    assert [json.loads(line)["name"] for line in objects.out.splitlines()] == ["Case 1\t!"]
    assert (await vpt("ls", "devices", "--model", "pixel", "--host", "host-1")).out == (
        "host-1:tv-1\ttv-1\tpixel\tonline\thost-1\t\t\n"
    )
    assert (await vpt("ls", "executions", "--since", "yesterday")).code == 4


#: No actor knows of it, so nobody writes its rows but the test.
QUIET = (
    """
INSERT INTO hosts (id, host_url, dialect, credential, status, reason, reason_text)
VALUES ('h', 'http://127.0.0.1:1', 'document', 'join', 'suspect', 'broken', 'three errors')
""",
    """
INSERT INTO devices (id, host_id, name, status, reason, reason_text, reason_until)
VALUES ('h:d', 'h', 'd', 'offline', 'held_back', E'no\tcable', '2026-11-29T10:00:00Z')
""",
)


async def test_lists_say_why_a_device_or_a_host_gets_no_runs(vpt: Cli, db: Database) -> None:
    async def listed(what: str) -> list[str]:
        return (await vpt("ls", what)).out.rstrip("\n").split("\t")

    async with db.session() as session:
        for statement in QUIET:
            await session._connection.execute(statement)
    until = "2026-11-29T10:00:00.000000Z"
    assert (await listed("devices"))[3:] == ["offline (held_back)", "h", "no cable", until]
    assert (await listed("hosts"))[1:2] == ["suspect (broken)"]
    assert (await listed("hosts"))[5:] == ["three errors", ""]
    async with db.session() as session:
        trouble = "trouble_kind = 'refused', trouble_text = 'refused', trouble_since = now()"
        await session._connection.execute(f"UPDATE hosts SET {trouble}")
    assert (await listed("hosts"))[5:] == ["refused", ""]


async def test_a_list_goes_on_page_after_page(vpt: Cli, db: Database) -> None:
    test_case = {"name": "n", "description": "", "steps": [{}], "device_model": "tv"}
    more = {
        "requirements": [],
        "tags": [],
        "timeout_s": None,
        "test_retries": 0,
        "device_models": [],
    }
    rows = [{"id": f"tc_{number}", **test_case, **more} for number in range(2100)]
    async with db.transaction() as session:
        await session.many("insert_test_case", rows)
    listed = await vpt("ls", "testcases", "--limit", "2050")
    assert len({line.split("\t")[0] for line in listed.out.splitlines()}) == 2050


async def test_on_a_terminal_a_list_is_a_table_with_a_heading(host: FakeHost, vpt: Cli) -> None:
    with Terminal(vpt, "ls", "hosts") as terminal:
        assert await terminal.ended() == 0
        assert "last seen" in terminal.drawn and "host-1" in terminal.drawn


async def test_a_list_of_hosts_says_why_one_cannot_be_reached(operator: Client, vpt: Cli) -> None:
    server = await FakeHost("silent").join(operator)
    await server.close()

    async def told() -> bool:
        cells = (await vpt("ls", "hosts")).out.rstrip("\n").split("\t")
        down = cells[1] in ("suspect (probes)", "lost (probes)")
        return down and cells[-2] == "connection refused"

    await until(told)


async def test_on_a_narrow_terminal_ids_and_devices_stay_whole(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    await made(operator, "/api/testcases", test_case(name="A name of some length, as it is"))
    ended = await vpt("run", "testcase", "A name of some length, as it is", "--no-wait")
    for columns in (60, 80):
        with Terminal(vpt, "ls", "executions", columns=columns) as terminal:
            assert await terminal.ended() == 0
            words = terminal.drawn.split()
        assert {ended.out.strip(), "host-1:tv-1", "began"} <= set(words)
        assert "error" not in words, "a column that says nothing is left out"


async def test_logs_tell_every_attempt_with_its_output_errors_and_pictures(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    said = {"output": "one\n::error::two\x07\n##vso[x] ##[y] ## z", "screenshot": PNG}
    steps = [
        {"command": "look", "answers": said},
        {"command": "press", "success": False, "answers": {"error": "stuck"}},
        {"command": "never", "params": {"key": "OK", "times": 2}},
    ]
    case = await made(operator, "/api/testcases", test_case(steps=steps, test_retries=1))
    execution_id = (await vpt("run", "testcase", case["id"], "--no-wait")).out.strip()
    await got(operator, f"/api/executions/{execution_id}", wait=10)
    whole, second = [
        (await vpt("logs", execution_id, *more)).out for more in ((), ("--attempt", "2"))
    ]
    links = re.findall(rf"screenshot: ({vpt.url}\S+)", whole)
    assert len(links) == 2
    async with operator.session.get(links[0], headers={"Authorization": ""}) as picture:
        assert picture.content_type == "image/png"
    told = re.sub(r", \d+ ms|\?expires\S+| \((?:answers|success) .*\)", "", whole).splitlines()
    attempt = [
        "  step 1, look: passed",
        "    output:",
        "    | one",
        "    | ::error::two\ufffd",
        "    | # #vso[x] # #[y] ## z",
        f"    screenshot: {vpt.url}/screenshots/{execution_id}/1/1.png",
        "  step 2, press: failed",
        "    error:",
        "    | stuck",
        "  step 3, never (key OK, times 2): skipped",
        "attempt 1: failed",
    ]
    assert told[:13] == [
        f"test case Start the app, execution {execution_id}",
        "attempt 1 on host-1:tv-1 of host-1",
        *attempt,
    ]
    assert "attempt 2: failed" in second and "attempt 1 on" not in second
    assert (await vpt("logs", "nothing")).code == 4
    assert "no attempt 9: there were 2" in (await vpt("logs", execution_id, "--attempt", "9")).err


async def test_logs_have_the_whole_of_a_long_output(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    lines = [f"line {number}" for number in range(5000)]
    said = {"output": "\n".join(lines)}
    steps = [{"command": "look", "answers": said}]
    case = await made(operator, "/api/testcases", test_case(steps=steps))
    execution_id = (await vpt("run", "testcase", case["id"], "--no-wait")).out.strip()
    done = await got(operator, f"/api/executions/{execution_id}", wait=10)
    assert done["steps"][0]["output_truncated"]
    told = (await vpt("logs", execution_id)).out.splitlines()
    assert [line[6:] for line in told if line.startswith("    | ")] == lines


async def test_logs_follow_a_run_and_a_campaign_to_the_end(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    case = await made(operator, "/api/testcases", test_case())
    body = {"name": "Nightly", "test_cases": [{"test_case_id": case["id"]}] * 2}
    campaign = await made(operator, "/api/campaigns", body)
    host.gate.clear()
    started = await made(operator, f"/api/campaigns/{campaign['id']}/execute", {})
    async with vpt.under_way("logs", started["campaign_execution_id"], "-f") as running:
        await running.says("attempt 1 on host-1:tv-1")
        host.gate.set()
        ended = await running.ended()
    assert ended.code == 0
    assert ended.out.count("step 2, press_key: passed") == 2
    assert ended.lines[-1].startswith("campaign Nightly: completed, 2 tests: 2 passed in ")


HOSTILE = "::stop-commands::x \x1b]0;owned\x07\x9b\u202e\u2028\u200b ##[error]"


async def test_no_name_of_others_steers_a_terminal_or_ci(
    operator: Client, host: FakeHost, vpt: Cli
) -> None:
    case = await made(operator, "/api/testcases", test_case(name=HOSTILE, tags=[HOSTILE]))
    started = await vpt("run", "testcase", case["id"], "--no-wait")
    execution_id = started.out.strip()
    await got(operator, f"/api/executions/{execution_id}", wait=10)
    for args in (
        ("logs", execution_id),
        ("ls", "testcases"),
        ("ls", "testcases", "--json"),
        ("ls", "executions", "--since", HOSTILE.replace("\x00", "")),
        ("run", "testcase", HOSTILE + "none"),
        ("run", "testcase", case["id"]),
        (HOSTILE,),
    ):
        ended = await vpt(*args)
        for text in (ended.out, ended.err, started.err):
            assert not [char for char in text if not char.isprintable() and char not in "\n\t"], (
                args
            )
            assert not re.findall(r"^\s*::|##\w*\[", text, re.MULTILINE), args
