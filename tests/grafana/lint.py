"""What Grafana would swallow without a word, or die of: each complaint is a line."""

from __future__ import annotations

import configparser
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.grafana.kit import POSTGRES, dashboards, load

UID = re.compile(r"[A-Za-z0-9_-]{1,40}")
DURATION = re.compile(r"(\d+(ms|[smhdw]))+")
CORE = {"alertlist", "barchart", "bargauge", "stat", "state-timeline", "table", "timeseries"}
UNITS = {"short", "percent", "s", "ms", "celsius", "dateTimeFromNow"}
ROUTE = re.compile(r"\$\{vpt_url:raw\}/#/(executions|campaign-executions|hosts)/\$\{__value\.raw\}")
#: Columns of a table, and the page of vpt that each leads to.
LINKED = {"execution": "executions", "run": "campaign-executions", "host": "hosts"}
VARIABLES = {
    "VPT_GRAFANA_DB_ADDRESS",
    "VPT_GRAFANA_DB_USER",
    "VPT_GRAFANA_DB_PASSWORD",
    "VPT_GRAFANA_DB_NAME",
    "VPT_GRAFANA_DB_SSLMODE",
    "VPT_GRAFANA_HOME",
    "VPT_GRAFANA_DATA",
    "VPT_ALERT_WEBHOOK_URL",
    "GRAFANA_ADMIN_USER",
    "GRAFANA_ADMIN_PASSWORD",
    "GRAFANA_SECRET_KEY",
}
_DATASOURCE = (
    "name uid type access url user isDefault editable secureJsonData jsonData orgId version"
)
_JSON_DATA = (
    "database sslmode postgresVersion timescaledb maxOpenConns maxIdleConns connMaxLifetime"
    " timeInterval"
)
_PROVIDER = (
    "name orgId type folder folderUid disableDeletion allowUiUpdates updateIntervalSeconds options"
)
_RULE = (
    "uid title condition for keepFiringFor noDataState execErrState dashboardUid panelId labels"
    " annotations data"
)
_OPERATORS = {"gt", "lt", "eq", "ne", "gte", "lte"}


def lint(folder: Path) -> list[str]:
    """Give every complaint about a copy of grafana/."""
    try:
        return [
            *_datasource(load("datasources/vpt.yaml", folder)),
            *_provider(folder),
            *_dashboards(folder),
            *_rules(folder),
            *_notify(folder),
            *_ini(folder),
            *_variables(folder),
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        return [f"cannot be read: {type(error).__name__}: {error}"]


def _unknown(where: str, found: Iterable[str], allowed: str) -> Iterator[str]:
    for key in sorted(set(found) - set(allowed.split())):
        yield f"{where}: {key} is no key that Grafana reads"


def _datasource(file: Any) -> Iterator[str]:
    yield from _unknown("datasources", file, "apiVersion prune datasources deleteDatasources")
    (source,) = file["datasources"]
    yield from _unknown("datasource", source, _DATASOURCE)
    yield from _unknown("datasource jsonData", source["jsonData"], _JSON_DATA)
    if source.get("uid") != POSTGRES:
        yield "datasource: its uid is not the one that panels and rules name"
    if not re.fullmatch(r"\$VPT_GRAFANA_DB_ADDRESS|[\w.-]+:\d+", source["url"]):
        yield "datasource: url is host:port, never a URI"
    if source.get("secureJsonData", {}).get("password") != "$VPT_GRAFANA_DB_PASSWORD":
        yield "datasource: the password is secureJsonData.password, a variable without braces"
    if source.get("user") != "$VPT_GRAFANA_DB_USER":
        yield "datasource: the user is the role that may only read"
    for name in ("database", "sslmode"):
        if name not in source["jsonData"]:
            yield f"datasource: jsonData.{name} is missing"
    if source.get("isDefault") is not True or source.get("editable") is not False:
        yield "datasource: isDefault is true, editable false"
    for name in ("timescaledb", "postgresVersion", "maxOpenConns"):
        if isinstance(source["jsonData"].get(name), str):
            yield f"datasource: jsonData.{name} may be no variable and no text"


def _provider(folder: Path) -> Iterator[str]:
    file = load("dashboards/vpt.yaml", folder)
    if not isinstance(file, dict) or not file.get("providers"):
        yield "dashboards: there is no provider, so no dashboard would be read"
        return
    for provider in file["providers"]:
        yield from _unknown("provider", provider, _PROVIDER)
        if provider["type"] != "file":
            yield "provider: its type is file"
        if provider["options"]["path"] != "$VPT_GRAFANA_HOME/dashboards":
            yield "provider: path is not where the dashboards are"


def _dashboards(folder: Path) -> Iterator[str]:
    boards = dashboards(folder)
    for name, board in boards.items():
        if "dashboard" in board or not board.get("title"):
            yield f"{name}: a dashboard file is the bare object with a title"
            continue
        yield from _board(name, board)
    for what in ("uid", "title"):
        counted = Counter(board.get(what) for board in boards.values())
        yield from (f"{what} {value} is there twice" for value, n in counted.items() if n > 1)


def _board(name: str, board: Any) -> Iterator[str]:
    if not UID.fullmatch(board.get("uid") or ""):
        yield f"{name}: uid is missing"
    if board.get("schemaVersion") not in (41, 42):
        yield f"{name}: schemaVersion is 41 or 42"
    ids = Counter(panel.get("id") for panel in board["panels"])
    yield from (f"{name}: panel id {n} is there twice" for n, count in ids.items() if count > 1)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        where = f"{name}: {panel.get('title')}"
        yield from _panel(where, panel)
        yield from _place(where, panel.get("gridPos"), taken)
    known = {variable["name"] for variable in board["templating"]["list"]}
    for variable in board["templating"]["list"]:
        yield from _source(f"{name}: ${variable['name']}", variable)
        yield from _sql(f"{name}: ${variable['name']}", variable["query"], known)
        if variable["type"] != "query":
            yield f"{name}: ${variable['name']} is no query variable"
    for note in board["annotations"]["list"]:
        yield from _source(f"{name}: {note['name']}", note)
        yield from _sql(f"{name}: {note['name']}", note["target"]["rawSql"], known)
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            where, sql = f"{name}: {panel.get('title')}", target.get("rawSql", "")
            yield from _sql(where, sql, known)
            yield from _meaning(where, sql)


def _meaning(where: str, sql: str) -> Iterator[str]:
    if re.search(
        r"(created|queued|started|completed|recorded)_at\s*>=?\s*now\(\)", sql, re.IGNORECASE
    ):
        newest = "recorded_at > now() - interval '1 hour'"  # of what is so now
        if newest not in sql:
            yield f"{where}: the dashboard's own range is not looked at"
    share = re.search(r"'completed'( THEN 1 END)?\)(::numeric)? /", sql, re.IGNORECASE)
    if share and "test_executions" in sql and "status IN ('completed', 'failed')" not in sql:
        yield f"{where}: a rate is of the tests that have a verdict"


def _panel(where: str, panel: Any) -> Iterator[str]:
    if not isinstance(panel.get("id"), int):
        yield f"{where}: id is missing"
    if not panel.get("title") or not panel.get("description") or "hidden" in panel["title"].lower():
        yield f"{where}: title and description are for people"
    if panel.get("type") not in CORE:
        yield f"{where}: {panel.get('type')} is no panel of Grafana's own"
    yield from _source(where, panel)
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    if panel.get("type") == "alertlist":
        return
    if defaults.get("unit") not in UNITS:
        yield f"{where}: unit is missing or unknown"
    if not defaults.get("thresholds", {}).get("steps"):
        yield f"{where}: thresholds are missing"
    if not panel.get("targets"):
        yield f"{where}: there is no query"
    for target in panel.get("targets", []):
        yield from _target(where, target)
    nullable = re.search(
        r"nullif\(|percentile_cont|avg\(", str(panel.get("targets")), re.IGNORECASE
    )
    if panel.get("type") == "stat" and nullable and not defaults.get("noValue"):
        yield f"{where}: nothing says what no rows mean"
    yield from _overrides(where, panel)
    yield from _links(where, panel)


def _links(where: str, panel: Any) -> Iterator[str]:
    linked = {
        override["matcher"]["options"]: entry["value"][0]["url"]
        for override in panel["fieldConfig"]["overrides"]
        for entry in override["properties"]
        if entry["id"] == "links"
    }
    for column, page in LINKED.items():
        sqls = [target.get("rawSql", "") for target in panel.get("targets", [])]
        shown = any(re.search(rf"AS {column}\b", sql) for sql in sqls)
        if panel["type"] == "table" and shown and f"/#/{page}/" not in linked.get(column, ""):
            yield f"{where}: {column} does not lead to its page in vpt"


def _target(where: str, target: Any) -> Iterator[str]:
    yield from _source(where, target)
    if not target.get("refId") or target.get("rawQuery") is not True:
        yield f"{where}: a query has refId and rawQuery"
    if target.get("format") not in ("table", "time_series"):
        yield f"{where}: without a format the query has to be a time series"


def _source(where: str, thing: Any) -> Iterator[str]:
    if (thing.get("datasource") or {}).get("uid") != POSTGRES:
        yield f"{where}: its datasource is not the provisioned one"


def _overrides(where: str, panel: Any) -> Iterator[str]:
    for override in panel["fieldConfig"]["overrides"]:
        properties = {entry["id"]: entry["value"] for entry in override["properties"]}
        if "thresholds" in properties and properties.get("color", {}).get("mode") != "thresholds":
            yield f"{where}: thresholds of a column colour only with color.mode thresholds"
        if properties.get("unit", "short") not in UNITS:
            yield f"{where}: unit is missing or unknown"
        for link in properties.get("links", []):
            if not ROUTE.fullmatch(link["url"]):
                yield f"{where}: {link['url']} is no page of vpt"


def _place(where: str, grid: Any, taken: set[tuple[int, int]]) -> Iterator[str]:
    if not grid:
        yield f"{where}: gridPos is missing"
        return
    across, down = (range(grid[at], grid[at] + grid[size]) for at, size in (("x", "w"), ("y", "h")))
    cells = {(x, y) for x in across for y in down}
    if grid["x"] + grid["w"] > 24 or taken & cells:
        yield f"{where}: it lies on another panel or outside the grid"
    taken |= cells


def _sql(where: str, sql: str, variables: set[str]) -> Iterator[str]:
    if not sql:
        yield f"{where}: rawSql is missing"
    if "--" in sql or "/*" in sql:
        yield f"{where}: comments are cut out before the macros"
    plain = re.sub(r"\$__\w+", "", sql)
    for braced, form, bare in re.findall(r"\$\{(\w+)(?::(\w+))?\}|\$(\w+)", plain):
        if bare or form != "sqlstring":
            yield f"{where}: write ${{{braced or bare}:sqlstring}}"
        elif braced not in variables:
            yield f"{where}: there is no variable {braced}"
    for args in re.findall(r"\$__\w+\(([^)]*)\)", sql):
        if "(" in args:
            yield f"{where}: an argument of a macro may hold no bracket"


def _rules(folder: Path) -> Iterator[str]:
    file = load("alerting/rules.yaml", folder)
    yield from _unknown("alerting", file, "apiVersion groups")
    panels = {b["uid"]: {p.get("id") for p in b["panels"]} for b in _bare(dashboards(folder))}
    rules = [rule for group in file["groups"] for rule in group["rules"]]
    if len(rules) < 10:
        yield "alerting: at least ten rules"
    for group in file["groups"]:
        yield from _unknown("group", group, "orgId name folder interval rules")
        if not DURATION.fullmatch(str(group["interval"])):
            yield "group: interval is a duration"
    for what in ("uid", "title"):
        counted = Counter(rule.get(what) for rule in rules)
        yield from (f"rule {what} {value} is there twice" for value, n in counted.items() if n > 1)
    for rule in rules:
        yield from _rule(f"rule {rule.get('uid')}", rule, panels)


def _bare(boards: dict[str, Any]) -> list[Any]:
    return [board for board in boards.values() if "panels" in board and "uid" in board]


def _rule(where: str, rule: Any, panels: dict[str, set[int]]) -> Iterator[str]:
    yield from _unknown(where, rule, _RULE)
    if not UID.fullmatch(rule.get("uid") or "") or not rule.get("title"):
        yield f"{where}: it needs a uid and a title"
    if not DURATION.fullmatch(str(rule["for"])):
        yield f"{where}: for is a duration"
    if rule.get("noDataState") not in ("NoData", "Alerting", "OK", "KeepLast"):
        yield f"{where}: noDataState {rule.get('noDataState')} is none"
    if rule.get("execErrState") not in ("Alerting", "Error", "OK", "KeepLast"):
        yield f"{where}: execErrState {rule.get('execErrState')} is none"
    if rule.get("panelId") not in panels.get(rule.get("dashboardUid"), set()):
        yield f"{where}: there is no such panel"
    if rule.get("labels", {}).get("severity") not in ("critical", "warning", "info"):
        yield f"{where}: severity is critical, warning or info"
    if "$" in f"{rule.get('labels')}{rule.get('title')}":
        yield f"{where}: $ in labels and titles is expanded"
    if not rule.get("annotations", {}).get("summary"):
        yield f"{where}: a summary says what is wrong"
    yield from _data(where, rule)


def _data(where: str, rule: Any) -> Iterator[str]:
    refs = [query["refId"] for query in rule["data"]]
    if rule["condition"] not in refs or len(set(refs)) != len(refs):
        yield f"{where}: its condition is none of its queries"
    for query in rule["data"]:
        model = query["model"]
        if query["datasourceUid"] == POSTGRES:
            span = query.get("relativeTimeRange") or {"from": 0, "to": 0}
            if not span["from"] > span["to"]:
                yield f"{where}: relativeTimeRange is missing"
            if model.get("format") != "table" or model.get("rawQuery") is not True:
                yield f"{where}: its query is a table"
            yield from _sql(where, model.get("rawSql", ""), set())
        elif query["datasourceUid"] != "__expr__":
            yield f"{where}: its datasource is not the provisioned one"
        elif model["type"] == "threshold":
            (condition,) = model["conditions"]
            yield from _condition(where, condition)


def _condition(where: str, condition: Any) -> Iterator[str]:
    fires, ends = condition["evaluator"], condition.get("unloadEvaluator")
    if fires["type"] not in _OPERATORS:
        yield f"{where}: there is no such comparison"
    if ends is None:
        return
    between = fires["params"][0] - ends["params"][0]
    if (fires["type"], ends["type"], between > 0) not in {("gt", "lt", True), ("lt", "gt", False)}:
        yield f"{where}: it ends before the value is well again"


def _notify(folder: Path) -> Iterator[str]:
    file = load("alerting/notify.yaml", folder)
    yield from _unknown("alerting", file, "apiVersion contactPoints policies muteTimes")
    points = {point["name"] for point in file["contactPoints"]}
    mutes = {mute["name"] for mute in file["muteTimes"]}
    for point in file["contactPoints"]:
        for receiver in point["receivers"]:
            if receiver["type"] == "webhook" and not receiver["settings"].get("url"):
                yield "contact point: a webhook needs a url"
    if len(file["policies"]) != 1:
        yield "policies: there is one tree"
    for policy in file["policies"]:
        if "mute_time_intervals" in policy:
            yield "policies: the root may not be muted"
        for route in [policy, *policy["routes"]]:
            if route["receiver"] not in points:
                yield f"policies: there is no contact point {route['receiver']}"
            for name in set(route.get("mute_time_intervals", [])) - mutes:
                yield f"policies: there is no mute time {name}"


def _ini(folder: Path) -> Iterator[str]:
    ini = configparser.RawConfigParser()
    ini.read_string((folder / "grafana.ini").read_text(encoding="utf-8"))
    wanted = {
        ("paths", "provisioning"): "${VPT_GRAFANA_HOME}/provisioning",
        ("server", "http_port"): "3001",
        ("security", "admin_user"): "${GRAFANA_ADMIN_USER}",
        ("security", "admin_password"): "${GRAFANA_ADMIN_PASSWORD}",
        ("security", "secret_key"): "${GRAFANA_SECRET_KEY}",
        ("auth.anonymous", "enabled"): "false",
        ("users", "allow_sign_up"): "false",
        ("log", "mode"): "console",
        ("plugins", "preinstall_disabled"): "true",
    }
    for (section, key), value in wanted.items():
        if ini.get(section, key, fallback=None) != value:
            yield f"grafana.ini: [{section}] {key} is {value}"
    if ini.get("security", "strict_transport_security", fallback="false") != "false":
        yield "grafana.ini: [security] strict_transport_security needs HTTPS"
    for section in ini.sections():
        for key, value in ini.items(section):
            if ";" in value or "#" in value:
                yield f"grafana.ini: [{section}] {key}: a comment after a value is a part of it"


def _variables(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.yaml")):
        if path.name == "rules.yaml":
            continue
        lines = path.read_text(encoding="utf-8").splitlines()
        text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
        for name in re.findall(r"\$\{?(\w+)", text):
            if name not in VARIABLES:
                yield f"{path.name}: nobody sets {name}"
