"""The files of grafana/ are right, and a copy with any one mistake is not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.grafana.kit import GRAFANA
from tests.grafana.lint import VARIABLES, lint
from vpt.commands.grafana_env import grafana_env
from vpt.config import Config

DATASOURCE = "provisioning/datasources/vpt.yaml"
PROVIDER = "provisioning/dashboards/vpt.yaml"
RULES = "provisioning/alerting/rules.yaml"
NOTIFY = "provisioning/alerting/notify.yaml"
OVERVIEW = "dashboards/overview.json"
HOSTS = "dashboards/hosts.json"
INI = "grafana.ini"


def test_what_is_shipped_has_no_mistake() -> None:
    assert lint(GRAFANA) == []


def test_every_variable_of_the_files_is_one_that_vpt_prints(tmp_path: Path) -> None:
    config = Config(vpt_data_dir=tmp_path, database_url="postgresql://u:p@db/vpt")
    assert set(grafana_env(config)) == VARIABLES


Change = Callable[[str], str]


def swap(old: str, new: str) -> Change:
    """Change a text that has to be there."""

    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return change


def board(edit: Callable[[Any], Any]) -> Change:
    """Change a dashboard."""

    def change(text: str) -> str:
        content = json.loads(text)
        return json.dumps(edit(content) or content)

    return change


def without(*path: str | int) -> Change:
    """Take something out of a dashboard."""

    def edit(content: Any) -> None:
        *way, last = path
        for step in way:
            content = content[step]
        del content[last]

    return board(edit)


def with_value(value: Any, *path: str | int) -> Change:
    """Put another value into a dashboard."""

    def edit(content: Any) -> None:
        *way, last = path
        for step in way:
            content = content[step]
        content[last] = value

    return board(edit)


SQL = ("panels", 6, "targets", 0, "rawSql")
OVERRIDES = ("panels", 0, "fieldConfig", "overrides")
DOCUMENT_SQL = (
    "SELECT COUNT(CASE WHEN status = 'completed' THEN 1 END)::numeric / NULLIF(COUNT(*), 0) * 100"
    " FROM test_executions WHERE created_at >= NOW() - INTERVAL '24 hours'"
)
MISTAKES: dict[str, tuple[str, Change, str]] = {
    "wrapped": (OVERVIEW, board(lambda it: {"dashboard": it}), "bare object"),
    "no provider": (PROVIDER, lambda _: "apiVersion: 1\n", "no provider"),
    "provider's folder": (PROVIDER, swap("$VPT_GRAFANA_HOME/dashboards", "/tmp"), "path is not"),
    "provider's type": (PROVIDER, swap("type: file", "type: files"), "its type is file"),
    "json as yaml": (OVERVIEW, lambda text: "# config/grafana\n" + text, "cannot be read"),
    "no uid": (OVERVIEW, without("uid"), "uid is missing"),
    "no schema": (OVERVIEW, without("schemaVersion"), "schemaVersion"),
    "no panel id": (OVERVIEW, without("panels", 0, "id"), "id is missing"),
    "no place": (OVERVIEW, without("panels", 0, "gridPos"), "gridPos is missing"),
    "no panel source": (OVERVIEW, without("panels", 0, "datasource"), "not the provisioned one"),
    "no fieldConfig": (OVERVIEW, without("panels", 6, "fieldConfig"), ""),
    "no refId": (OVERVIEW, without("panels", 0, "targets", 0, "refId"), "refId"),
    "no rawQuery": (
        OVERVIEW,
        with_value(False, "panels", 0, "targets", 0, "rawQuery"),
        "refId and rawQuery",
    ),
    "no query": (OVERVIEW, without("panels", 0, "targets"), "there is no query"),
    "no SQL": (OVERVIEW, without("panels", 0, "targets", 0, "rawSql"), "rawSql is missing"),
    "no query's source": (
        OVERVIEW,
        without("panels", 0, "targets", 0, "datasource"),
        "not the provisioned one",
    ),
    "no variable's source": (
        HOSTS,
        without("templating", "list", 1, "datasource"),
        "$host: its datasource",
    ),
    "no annotation's source": (
        OVERVIEW,
        without("annotations", "list", 0, "datasource"),
        "Campaigns: its datasource",
    ),
    "no format": (OVERVIEW, without("panels", 0, "targets", 0, "format"), "without a format"),
    "own range": (OVERVIEW, with_value(DOCUMENT_SQL, *SQL), "own range"),
    "running counts": (OVERVIEW, with_value(DOCUMENT_SQL, *SQL), "that have a verdict"),
    "errors count": (
        OVERVIEW,
        swap("nullif(count(*) FILTER (WHERE status IN ('completed', 'failed')), 0)", "count(*)"),
        "that have a verdict",
    ),
    "no unit": (
        OVERVIEW,
        without("panels", 6, "fieldConfig", "defaults", "unit"),
        "unit is missing",
    ),
    "no thresholds": (
        OVERVIEW,
        without("panels", 6, "fieldConfig", "defaults", "thresholds"),
        "thresholds are missing",
    ),
    "no data": (
        OVERVIEW,
        without("panels", 6, "fieldConfig", "defaults", "noValue"),
        "what no rows mean",
    ),
    "uri": (DATASOURCE, swap("$VPT_GRAFANA_DB_ADDRESS", "${DATABASE_URL}"), "never a URI"),
    "top password": (
        DATASOURCE,
        swap("    secureJsonData:\n      password", "    password"),
        "password is no key",
    ),
    "top sslmode": (
        DATASOURCE,
        lambda text: re.sub(r" +sslmode: (.*)\n", "", text) + "    sslmode: disable\n",
        "sslmode is no key",
    ),
    "no sslmode": (DATASOURCE, lambda text: re.sub(r" +sslmode.*\n", "", text), "sslmode"),
    "top database": (
        DATASOURCE,
        lambda text: re.sub(r" +database: (.*)\n", "", text) + "    database: vpt\n",
        "database is no key",
    ),
    "braces": (
        DATASOURCE,
        swap("$VPT_GRAFANA_DB_PASSWORD", "${VPT_GRAFANA_DB_PASSWORD}"),
        "without braces",
    ),
    "unknown variable": (DATASOURCE, swap("$VPT_GRAFANA_DB_NAME", "$DB_NAME"), "nobody sets"),
    "no datasource uid": (DATASOURCE, swap("    uid: vpt-postgres\n", ""), "uid is not"),
    "editable": (DATASOURCE, swap("editable: false", "editable: true"), "editable false"),
    "text for a number": (DATASOURCE, swap("maxOpenConns: 10", "maxOpenConns: $N"), "maxOpenConns"),
    "no port": (DATASOURCE, swap("$VPT_GRAFANA_DB_ADDRESS", "localhost"), "url is host:port"),
    "not default": (DATASOURCE, swap("    isDefault: true\n", ""), "isDefault"),
    "own account": (DATASOURCE, swap("$VPT_GRAFANA_DB_USER", "vpt"), "may only read"),
    "admin's name": (INI, swap("admin_user = ${GRAFANA_ADMIN_USER}\n", ""), "admin_user"),
    "admin": (INI, swap("${GRAFANA_ADMIN_PASSWORD}", "admin"), "admin_password"),
    "secret": (INI, swap("secret_key = ${GRAFANA_SECRET_KEY}\n", ""), "secret_key"),
    "port": (INI, swap("3001", "3000"), "http_port"),
    "provisioning": (INI, swap("provisioning = ", "plugins = "), "provisioning"),
    "anonymous": (INI, swap("enabled = false", "enabled = true"), "auth.anonymous"),
    "HTTPS only": (
        INI,
        swap("[security]\n", "[security]\nstrict_transport_security = true\n"),
        "needs HTTPS",
    ),
    "sign up": (INI, swap("allow_sign_up = false", "allow_sign_up = true"), "allow_sign_up"),
    "inline comment": (INI, swap("= sqlite3", "= sqlite3 ; one file"), "a comment after a value"),
    "no alerts": (RULES, lambda _: "apiVersion: 1\ngroups: []\n", "at least ten"),
    "foreign source": (
        OVERVIEW,
        with_value("PCF1EFE2AC732608F", "panels", 0, "targets", 0, "datasource", "uid"),
        "not the provisioned one",
    ),
    "plugin": (
        OVERVIEW,
        with_value("volkovlabs-echarts-panel", "panels", 0, "type"),
        "no panel of Grafana's own",
    ),
    "same uid": (HOSTS, with_value("vpt-overview", "uid"), "there twice"),
    "same panel id": (HOSTS, with_value(2, "panels", 0, "id"), "there twice"),
    "overlap": (HOSTS, with_value(0, "panels", 1, "gridPos", "y"), "lies on another"),
    "outside": (HOSTS, with_value(20, "panels", 2, "gridPos", "x"), "outside the grid"),
    "hidden panel": (HOSTS, with_value("Hidden Panel", "panels", 2, "title"), "for people"),
    "wrong unit": (
        HOSTS,
        with_value("percents", *OVERRIDES, 1, "properties", 0, "value"),
        "unit is missing",
    ),
    "no title": (HOSTS, with_value("", "panels", 2, "title"), "for people"),
    "comment": (OVERVIEW, with_value("SELECT 1 -- one", *SQL), "comments are cut"),
    "unquoted variable": (HOSTS, with_value("SELECT '$host'", *SQL), "sqlstring"),
    "no such variable": (OVERVIEW, with_value("SELECT ${x:sqlstring}", *SQL), "no variable x"),
    "bracket": (
        OVERVIEW,
        with_value("SELECT $__timeGroup(date_trunc('minute', x),'5m')", *SQL),
        "no bracket",
    ),
    "dead link": (OVERVIEW, swap("/#/executions/", "/executions/"), "no page of vpt"),
    "no link": (HOSTS, without(*OVERRIDES, 0), "host does not lead"),
    "link elsewhere": (
        OVERVIEW,
        swap("/#/executions/", "/#/hosts/"),
        "execution does not lead",
    ),
    "relative link": (OVERVIEW, swap("${vpt_url:raw}/#", "/#"), "no page of vpt"),
    "colourless": (
        HOSTS,
        with_value({"mode": "x"}, *OVERRIDES, 1, "properties", 1, "value"),
        "color.mode",
    ),
    "rule without uid": (RULES, swap("uid: vpt-host-cpu", "uid: ''"), "needs a uid"),
    "rule twice": (RULES, swap("uid: vpt-host-cpu", "uid: vpt-host-lost"), "there twice"),
    "no panel of a rule": (RULES, swap("panelId: 1\n", "panelId: 99\n"), "no such panel"),
    "no condition": (RULES, swap("condition: C", "condition: D"), "condition"),
    "time series": (RULES, swap("format: table", "format: time_series"), "is a table"),
    "no range": (RULES, swap("{from: 600, to: 0}", "{from: 0, to: 0}"), "relativeTimeRange"),
    "dollar label": (RULES, swap("team: lab", "team: $labels.host"), "is expanded"),
    "wrong state": (RULES, swap("noDataState: OK", "noDataState: Ok"), "noDataState"),
    "wrong for": (RULES, swap("for: 1m", "for: one minute"), "for is a duration"),
    "wrong key": (RULES, swap("execErrState", "execErrorState"), "no key"),
    "operator": (RULES, swap("type: gt", "type: above"), "no such comparison"),
    "ends at once": (RULES, swap("type: lt, params: [80]", "type: lt, params: [95]"), "well again"),
    "no receiver": (NOTIFY, swap("receiver: vpt-webhook", "receiver: mail"), "no contact point"),
    "no url": (NOTIFY, swap("url: $VPT_ALERT_WEBHOOK_URL", "url: ''"), "needs a url"),
    "no mute": (NOTIFY, swap("[out-of-hours]", "[night]"), "no mute time"),
    "tabs": (NOTIFY, swap("  - orgId", "\t- orgId"), "cannot be read"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_caught(name: str, tmp_path: Path) -> None:
    path, change, complaint = MISTAKES[name]
    copy = tmp_path / "grafana"
    shutil.copytree(GRAFANA, copy)
    text = (copy / path).read_text(encoding="utf-8")
    (copy / path).write_text(change(text), encoding="utf-8")
    found = lint(copy)
    assert found
    assert complaint in "\n".join(found)
