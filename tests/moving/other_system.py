"""A made-up VirtualPyTest system: its tables, and a small PostgREST that shows them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from vpt.model import Json

TEAM, OTHER_TEAM = "7fdeb4bb-3639-4ec3-959f-b54769a219ce", "11111111-2222-3333-4444-555555555555"
KEY = "the service role's key"
BEGAN, ENDED = "2026-03-01T10:00:00+00:00", "2026-03-01T10:01:30.5+00:00"


def graph(command: str = "press_key", **params: Any) -> Json:
    """Return a graph as that system's builder stores it."""
    ends = [
        {"id": "success", "type": "success", "data": {}},
        {"id": "failure", "type": "failure", "data": {}},
    ]
    action = {
        "id": "a1",
        "type": "action",
        "position": {"x": 100, "y": 20},
        "data": {"command": command, "action_type": "remote", "params": params},
    }
    return {
        "nodes": [{"id": "start", "type": "start", "data": {}}, action, *ends],
        "edges": [
            {"id": "e0", "source": "start", "target": "a1", "sourceHandle": "success"},
            {"id": "e1", "source": "a1", "target": "success", "sourceHandle": "success"},
            {"id": "e2", "source": "a1", "target": "failure", "sourceHandle": "failure"},
        ],
        "scriptConfig": {"inputs": [{"name": "key", "type": "string", "default": "OK"}]},
    }


def test_case(number: int, name: str, **changes: Any) -> Json:
    """Return a row of testcase_definitions."""
    return {
        "testcase_id": f"00000000-0000-0000-0000-{number:012}",
        "team_id": TEAM,
        "testcase_name": name,
        "description": "Says\twhat\\it does",
        "userinterface_name": "shopui",
        "graph_json": graph(key="{key}", text="costs ${5}"),
        "is_active": True,
        "folder_id": 1,
        "environment": "prod",
        **changes,
    }


test_case.__test__ = False  # type: ignore[attr-defined]


def result(number: int, **changes: Any) -> Json:
    """Return a row of script_results."""
    return {
        "id": f"10000000-0000-0000-0000-{number:012}",
        "team_id": TEAM,
        "script_name": "buy",
        "script_type": "testcase",
        "userinterface_name": "shopui",
        "host_name": "pi",
        "device_name": "stb device2",
        "success": True,
        "started_at": BEGAN,
        "completed_at": ENDED,
        "html_report_r2_url": f"https://r2.example.org/{number}/report.html",
        "error_msg": None,
        "discard": False,
        **changes,
    }


def tables() -> dict[str, list[Json]]:
    """Return the tables of a system with a bit of everything."""
    zap = {"script_name": "zap.py", "script_type": "script"}
    return {
        "testcase_definitions": [
            test_case(1, "buy"),
            test_case(2, "watch", userinterface_name="tvui", folder_id=0),
            test_case(3, "buy", environment="dev"),
            test_case(4, "old one", is_active=False),
            test_case(5, "no models", userinterface_name="nothing"),
            test_case(6, "empty", graph_json={"nodes": []}),
        ],
        "folders": [{"folder_id": 0, "name": "(Root)"}, {"folder_id": 1, "name": "Shop"}],
        "tags": [{"tag_id": 7, "name": "smoke", "color": "#f44336"}],
        "executable_tags": [
            {
                "executable_type": "testcase",
                "executable_id": f"00000000-0000-0000-0000-{1:012}",
                "tag_id": 7,
            },
            {"executable_type": "script", "executable_id": "zap.py", "tag_id": 7},
        ],
        "userinterfaces": [
            {"id": "u1", "team_id": TEAM, "name": "shopui", "models": ["stb", "android_mobile"]},
            {"id": "u2", "team_id": TEAM, "name": "tvui", "models": ["stb"]},
        ],
        "campaign_executions": [
            _campaign(1, "nightly", [{**zap, "parameters": {}}], started_at=BEGAN),
            _campaign(
                2,
                "nightly",
                [
                    {**zap, "parameters": {"action": "up", "count": 3, "live": False}},
                    {"script_type": "testcase", "testcase_id": f"00000000-0000-0000-0000-{2:012}"},
                    {**zap, "parameters": {"action": "down", "count": 1, "live": True}},
                ],
                started_at=ENDED,
            ),
            _campaign(3, "chained", [{**zap, "parameters": {"action": "${previous.node}"}}]),
        ],
        "device_flags": [
            {"id": "f1", "host_name": "pi", "device_id": "device2", "flags": ["rack a", "4k"]},
            {"id": "f2", "host_name": "gone", "device_id": "device1", "flags": ["old"]},
            {"id": "f3", "host_name": "pi", "device_id": "device1", "flags": []},
        ],
        "deployments": [
            {
                "id": "d1",
                "team_id": TEAM,
                "name": "every night",
                "host_name": "pi",
                "device_id": "device2",
                "script_name": "zap.py",
                "userinterface_name": "tvui",
                "parameters": "--action up --count 2 --live true",
                "cron_expression": "0 2 * * *",
                "status": "active",
            }
        ],
        "script_results": [
            result(1),
            result(2, success=False, error_msg="Channel did not start", script_name="zap.py"),
            result(3, success=False, completed_at=BEGAN),  # it runs still
            result(4, discard=True),
        ],
        "navigation_trees": [{"id": "n1", "team_id": TEAM, "name": "shopui"}],
    }


def _campaign(number: int, name: str, scripts: list[Json], **changes: Any) -> Json:
    return {
        "id": f"20000000-0000-0000-0000-{number:012}",
        "team_id": TEAM,
        "campaign_name": name,
        "campaign_description": "each night",
        "userinterface_name": "tvui",
        "host_name": "pi",
        "device_name": "stb device2",
        "started_at": BEGAN,
        "script_configurations": scripts,
        "execution_config": {"continue_on_failure": False},
        **changes,
    }


def pg_dump(content: Mapping[str, list[Json]]) -> str:
    """Return these tables as `pg_dump --data-only` writes them."""
    parts = ["--\n-- PostgreSQL database dump\n--\n\nSET statement_timeout = 0;\n"]
    for name, rows in content.items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        parts.append(f"COPY public.{name} ({', '.join(columns)}) FROM stdin;\n")
        parts += ["\t".join(_cell(row.get(one)) for one in columns) + "\n" for row in rows]
        parts.append("\\.\n\n")
    return "".join(parts)


def _cell(value: Any) -> str:
    match value:
        case None:
            return "\\N"
        case bool():
            return "t" if value else "f"
        case list() if all(isinstance(one, str) for one in value):
            value = "{" + ",".join(f'"{one}"' if " " in one else one for one in value) + "}"
        case dict() | list():
            value = json.dumps(value)
    return str(value).replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


class PostgRest:
    """Shows tables as PostgREST does: with a key, page by page, at most `most` rows a page."""

    def __init__(self, content: Mapping[str, list[Json]], most: int = 1000) -> None:
        self.tables, self.most = dict(content), most
        self.asked: list[str] = []
        self.url = ""

    async def _show(self, request: web.Request) -> web.Response:
        name, query = request.match_info["table"], request.query
        self.asked.append(name)
        if request.headers.get("apikey") != KEY:
            return web.json_response({"message": "Invalid API key"}, status=401)
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        if name not in self.tables:
            missing = {"code": "PGRST205", "message": f"Could not find the table '{name}'"}
            return web.json_response(missing, status=404)
        rows = self.tables[name]
        order = query["order"].split(",")
        for column, value in query.items():
            if value.startswith("eq."):
                rows = [row for row in rows if str(row[column]) == value[3:]]
            if value.startswith("gte."):
                rows = [row for row in rows if str(row[column]) >= value[4:]]
        rows = sorted(rows, key=lambda row: [str(row[column]) for column in order])
        begin = int(query["offset"])
        return web.json_response(rows[begin : begin + min(self.most, int(query["limit"]))])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[PostgRest]:
        """Serve on a free port."""
        app = web.Application()
        app.router.add_get("/rest/v1/{table}", self._show)
        server = TestServer(app)
        await server.start_server()
        self.url = str(server.make_url("/"))
        try:
            yield self
        finally:
            await server.close()
