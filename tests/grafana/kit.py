"""grafana/ as data, and Grafana's macros as the server expands them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

GRAFANA = Path(__file__).parents[2] / "grafana"
POSTGRES = "vpt-postgres"
_MACRO = re.compile(r"\$([_a-zA-Z0-9]+)\(([^)]*)\)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_VARIABLE = re.compile(r"\$\{(\w+):sqlstring\}")
_SCREEN = 1900  # pixels across; a panel asks for as many points as it is wide
#: Grafana's intervals: up to this many seconds a point, so many seconds.
_ROUNDED = (
    *((1.5, 1), (3.5, 2), (7.5, 5), (12.5, 10), (17.5, 15), (25, 20), (45, 30), (90, 60)),
    *((210, 120), (450, 300), (750, 600), (1050, 900), (1500, 1200), (2700, 1800), (5400, 3600)),
    *((9000, 7200), (16200, 10800), (32400, 21600), (86400, 43200), (604800, 86400)),
)


def load(name: str, folder: Path = GRAFANA) -> Any:
    """Read one YAML file of provisioning/."""
    return yaml.safe_load((folder / "provisioning" / name).read_text(encoding="utf-8"))


def dashboards(folder: Path = GRAFANA) -> dict[str, Any]:
    """Read every dashboard, by the name of its file."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / "dashboards").glob("*.json"))
    }


def rules() -> list[Any]:
    """Give every alert rule."""
    return [rule for group in load("alerting/rules.yaml")["groups"] for rule in group["rules"]]


@dataclass(frozen=True)
class Range:
    """What a panel looks at."""

    start: datetime
    end: datetime
    interval: str = "5m"


def last_day() -> Range:
    """Give the dashboards' own range."""
    now = datetime.now(UTC)
    return Range(now - timedelta(days=1), now)


def interval_of(seconds: float, points: float, least: float) -> str:
    """Give $__interval as Grafana chooses it for a range of so many seconds."""
    wanted = next(step for most, step in _ROUNDED if seconds / points < most)
    return text_of(max(wanted, least))


def text_of(seconds: float) -> str:
    """Write an interval in its largest whole unit."""
    for unit in ("d", "h", "m", "s"):
        if seconds % _SECONDS[unit] == 0:
            return f"{seconds / _SECONDS[unit]:g}{unit}"
    raise ValueError(f"{seconds} s is no interval")


def seconds_of(text: str) -> float:
    """Read an interval such as 5m or 1h30m; ValueError for what Grafana refuses."""
    if not re.fullmatch(r"(\d+(ms|[smhdw]))+", text):
        raise ValueError(f"error parsing interval {text}")
    return sum(int(n) * _SECONDS[unit] for n, unit in re.findall(r"(\d+)(ms|[smhdw])", text))


def expanded(sql: str, span: Range) -> str:
    """Expand the macros as Grafana's PostgreSQL datasource does."""
    start, end = (_zulu(moment) for moment in (span.start, span.end))
    milliseconds = str(int(seconds_of(span.interval) * 1000))
    sql = sql.replace("$__interval_ms", milliseconds).replace("$__interval", span.interval)

    def one(match: re.Match[str]) -> str:
        name, args = match[1], [part.strip() for part in match[2].split(",")]
        if name == "__timeFilter":
            return f"{args[0]} BETWEEN '{start}' AND '{end}'"
        if name in ("__timeFrom", "__timeTo"):
            return f"'{start if name == '__timeFrom' else end}'"
        if name in ("__timeGroup", "__timeGroupAlias"):
            width = f"{seconds_of(args[1].strip(chr(39))):g}"
            alias = name.endswith("Alias") or match.string[match.end() :].startswith(",")
            group = f"floor(extract(epoch from {args[0]})/{width})*{width}"
            return group + (' AS "time"' if alias else "")
        raise ValueError(f"unknown macro {name}")

    return _MACRO.sub(one, sql)


def _zulu(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def with_variables(sql: str, values: dict[str, list[str]]) -> str:
    """Put the values of variables in, as Grafana's page does; KeyError when one is unknown."""

    def one(match: re.Match[str]) -> str:
        return ",".join("'" + value.replace("'", "''") + "'" for value in values[match[1]])

    return _VARIABLE.sub(one, sql)


@dataclass(frozen=True)
class Statement:
    """One query and where it stands."""

    where: str
    sql: str
    format: str = "table"
    points: float = _SCREEN
    least: float = 10  # seconds; the datasource's timeInterval

    def over(self, range_: timedelta) -> Range:
        """Give what it looks at when the newest so and so long is chosen."""
        now, seconds = datetime.now(UTC), range_.total_seconds()
        return Range(now - range_, now, interval_of(seconds, self.points, self.least))


def statements(board: Any) -> Iterator[Statement]:
    """Give every query of a dashboard's panels and annotations."""
    for panel in board["panels"]:
        points = panel.get("maxDataPoints") or _SCREEN * panel["gridPos"]["w"] / 24
        least = max(Statement.least, seconds_of(panel.get("interval") or "1s"))
        for target in panel.get("targets", []):
            where = f"{board['uid']}: {panel['title']}"
            yield Statement(where, target["rawSql"], target["format"], points, least)
    for note in board["annotations"]["list"]:
        yield Statement(f"{board['uid']}: {note['name']}", note["target"]["rawSql"])
