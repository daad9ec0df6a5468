"""`vpt import-virtualpytest`: what a lab has in its tables there, it has here, and it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.client.kit import Cli
from tests.conftest import Client
from tests.moving.other_system import (
    ENDED,
    KEY,
    OTHER_TEAM,
    TEAM,
    PostgRest,
    graph,
    pg_dump,
    tables,
)
from tests.moving.other_system import test_case as case_there
from tests.virtualpytest.stand_in import StandIn
from tests.web.kit import got, made, refused
from vpt.client.exits import MisuseError
from vpt.client.virtualpytest.convert import migration_of
from vpt.client.virtualpytest.dump import read_dump
from vpt.client.virtualpytest.scripts import read_parameters
from vpt.model import Json

ZAP = "zap.py --action --count --live on tvui"
CHANGES = [
    "create test case 'buy (dev)'",
    "create test case 'buy (prod)'",
    "create test case 'watch'",
    f"create test case '{ZAP}'",
    "create campaign 'nightly'",
    "tag device pi:device2 (rack a, 4k)",
]
LEFT_OUT = [
    "no place: 1 test cases that are not active",
    "no place: test case 'no models': userinterface 'nothing' names no models: use --default-model",
    "no place: test case 'empty': its graph has no nodes",
    "no place: campaign 'chained': it passes results of one script to the next (${previous...})",
    "no place: flags old of gone:device1: not registered",
    f"deployment 'every night' (active): test case '{ZAP}' at '0 2 * * *' on pi:device2,"
    " action=up, count=2, live=True",
    "hosts go on running active deployments by themselves: pause them there",
    "no place: 1 rows of navigation_trees: hosts read navigation in Supabase",
]


async def test_a_dump_imports_exports_and_runs(
    pi: StandIn, admin: Client, as_admin: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(tables()))
    dry = await as_admin("import-virtualpytest", path, "--dry-run")
    assert dry.out.splitlines() == [
        *(f"would {one}" for one in CHANGES),
        *LEFT_OUT,
        "6 would change",
    ]
    assert (await got(admin, "/api/testcases"))["items"] == []
    ended = await as_admin("import-virtualpytest", path)
    assert (ended.code, ended.out.splitlines()) == (0, [*CHANGES, *LEFT_OUT, "6 changed"])
    again = await as_admin("import-virtualpytest", path)
    assert again.out.splitlines() == [*LEFT_OUT, "nothing to do"]

    case = (await got(admin, "/api/testcases", q="buy (prod)", fields="steps"))["items"][0]
    assert case["device_model"] == ["stb", "android_mobile"]
    assert case["tags"] == ["smoke", "folder:Shop", "environment:prod"]
    assert case["steps"][0]["userinterface_name"] == "shopui"
    exported = tmp_path / "lab.yaml"
    assert (await as_admin("export", exported)).code == 0
    assert (await as_admin("import", exported, "--prune")).out == "nothing to do: 5 unchanged\n"

    run = await made(admin, f"/api/testcases/{case['id']}/execute", {})
    done = await got(admin, f"/api/executions/{run['execution_id']}", wait=30)
    assert done["status"] == "completed", done
    sent = pi.asked("/host/testcase/execute")[0].body["graph_json"]
    # What looked like a parameter of vpt was none there, and an input had its default.
    assert sent["nodes"][1]["data"]["params"] == {"key": "OK", "text": "costs ${5}"}
    campaign = (await got(admin, "/api/campaigns"))["items"][0]
    assert campaign["stop_on_failure"]
    assert {entry["device_id"] for entry in campaign["test_cases"]} == {"pi:device2"}
    begun = await made(admin, f"/api/campaigns/{campaign['id']}/execute", {})
    path_of_run = f"/api/campaign-executions/{begun['campaign_execution_id']}"
    ended_run = await got(admin, path_of_run, wait=60)
    assert ended_run["status"] == "completed", ended_run
    scripts = [one.body for one in pi.asked("/host/script/execute")]
    assert [one["script_name"] for one in scripts] == ["zap.py", "zap.py"]
    assert ["--action up" in scripts[0]["parameters"], "--action down" in scripts[1]["parameters"]]


async def test_the_tables_of_a_project_are_read_page_by_page_with_its_key(
    pi: StandIn, admin: Client, as_admin: Cli
) -> None:
    content = tables()
    content["testcase_definitions"] += [
        case_there(100 + n, f"many {n}", environment=None) for n in range(25)
    ]
    content["testcase_definitions"].append(case_there(900, "of others", team_id=OTHER_TEAM))
    del content["tags"]  # an older system has no tags
    async with PostgRest(content, most=10).running() as project:
        command = ("import-virtualpytest", "--supabase-url", project.url)
        ended = await as_admin(*command)
        assert (ended.code, "choose one with --team" in ended.err) == (4, True)
        ended = await as_admin(*command, "--team", TEAM, "--results")
        assert ended.code == 0, ended.err
        assert "imported 2 results; 0 were here, 2 have not finished or were discarded" in ended.out
        assert KEY not in ended.out + ended.err
        again = await as_admin(*command, "--team", TEAM, "--results")
        assert again.out.splitlines()[-1] == "nothing to do"
        assert "imported 0 results; 2 were here" in again.out
        late = await as_admin(*command, "--team", TEAM, "--results", "--since", ENDED, "--dry-run")
        assert "would import 0 results; 0 were here, 0 have not" in late.out
        wrong = await as_admin(*command, "--team", TEAM, "--key", "another")
        assert (wrong.code, "service_role" in wrong.err) == (4, True)
        nobody = await as_admin(*command, "--team", "x")
        assert (nobody.code, "Nothing is of the team x" in nobody.err) == (4, True)
    names = [one["name"] for one in (await got(admin, "/api/testcases"))["items"]]
    assert len([name for name in names if name.startswith("many")]) == 25
    assert "of others" not in names
    away = await as_admin(*command)
    assert (away.code, "does not answer" in away.err) == (2, True)


async def test_results_are_history_that_is_marked_as_imported(
    pi: StandIn, admin: Client, operator: Client, as_admin: Cli, vpt: Cli, tmp_path: Path
) -> None:
    path = tmp_path / "dump.json"
    path.write_text(json.dumps(tables()))
    refusal = await vpt("import-virtualpytest", path, "--results")  # an operator's token
    assert (refusal.code, "403" in refusal.err or "role" in refusal.err) == (4, True)
    assert (await as_admin("import-virtualpytest", path, "--results")).code == 0
    failed, passed = sorted(
        (await got(operator, "/api/executions"))["items"], key=lambda one: one["status"]
    )[::-1]
    assert (failed["error"], failed["imported_from"]) == ("Channel did not start", "virtualpytest")
    assert (passed["test_case_name"], passed["device_id"], passed["device_model"]) == (
        "buy",
        "pi:device2",
        "stb",
    )
    assert (passed["duration_s"], passed["created_at"]) == (90.5, "2026-03-01T10:00:00.000000Z")
    shown = await got(operator, f"/api/executions/{passed['execution_id']}")
    assert shown["steps"][0]["output"].endswith("1/report.html")
    assert (shown["attempts"][0]["status"], shown["imported_from"]) == (
        "completed",
        "virtualpytest",
    )
    done = await as_admin("logs", passed["execution_id"])
    assert done.code == 0


async def test_history_is_only_imported_when_it_can_be(admin: Client) -> None:
    one: Json = {
        "id": "a",
        "test_case_name": "n",
        "device_model": "m",
        "host_id": "h",
        "device_id": "h:d",
        "status": "completed",
        "started_at": "2026-01-01T00:00:00Z",
        "completed_at": "2026-01-01T00:00:01Z",
    }
    for wrong in (
        {"id": "../a"},
        {"status": "running"},
        {"completed_at": "2025-01-01T00:00:00Z"},
        {"started_at": "yesterday"},
        {"device_id": ""},
    ):
        body = {"source": "there", "executions": [one | wrong]}
        status, _ = await refused(admin, "POST", "/api/executions/import", json=body)
        assert status == 400, wrong
    body = {"source": "there", "executions": [one, one]}
    response = await admin.post("/api/executions/import", json=body)
    assert await response.json() == {"imported": 1, "known": 1}


def test_the_text_of_pg_dump_has_the_same_tables(tmp_path: Path) -> None:
    content = tables()
    as_json, as_text = tmp_path / "dump.json", tmp_path / "dump.sql"
    as_json.write_text(json.dumps(content))
    as_text.write_text(pg_dump(content))
    device = {"id": "pi:device2", "host_id": "pi", "local_id": "device2", "name": "stb device2"}
    devices = [device | {"model": "stb", "tags": []}]
    one, other = (migration_of(read_dump(path), devices) for path in (as_json, as_text))
    assert one.test_cases["watch"].description == "Says\twhat\\it does"
    assert one == other
    for text in ("", "INSERT INTO tags VALUES (1);", '{"tags": [1]}', '{"tags": 1}', "{"):
        as_text.write_text(text)
        with pytest.raises(MisuseError):
            read_dump(as_text)


def test_names_that_are_too_long_stay_different() -> None:
    long = "x" * 120
    rows = [case_there(n, f"{long}{n}") for n in range(2)] + [case_there(9, "odd\ud800")]
    done = migration_of({"testcase_definitions": rows}, [], default_model="stb")
    assert {len(name) for name in done.test_cases if name.startswith("x")} == {100}
    assert len([name for name in done.test_cases if name.startswith("x")]) == 2
    assert {case.device_model for case in done.test_cases.values()} == {"stb"}
    huge = case_there(1, "huge", graph_json=graph(text="x" * 2**20))
    assert "MiB" in migration_of({"testcase_definitions": [huge]}, [], "stb").left_out[0]


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("--a up --count 2 --live true", {"a": "up", "count": 2, "live": True}),
        ("--a 'b c' --version 1.10", {"a": "b c", "version": "1.10"}),
        ("--host pi --device device1 --a b", {"a": "b"}),
        ("one --a b", "one --a b"),
        ("--flag", "--flag"),
        ("--a 'b", "--a 'b"),
        ({"a": None, "b": 1, "c}": 2}, {"b": 1}),
        (None, {}),
        ([1], {}),
    ],
)
def test_parameters_of_a_script_are_read_by_name_where_they_have_names(
    told: object, read: object
) -> None:
    assert read_parameters(told) == read
