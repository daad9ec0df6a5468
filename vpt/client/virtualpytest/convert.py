"""What the tables of a VirtualPyTest system are in vpt: pure functions, the same at each run."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import orjson

from vpt.bounds import LONGEST_DESCRIPTION, LONGEST_NAME, LONGEST_TEST_CASE
from vpt.client.files import CampaignSpec, TestCaseSpec
from vpt.client.virtualpytest.dump import Tables
from vpt.client.virtualpytest.scripts import ScriptCall, read_parameters
from vpt.device_models import any_of
from vpt.model import Json

#: Seconds that a graph or a script may take: that system has no limit for graphs, and this one for
#: scripts.
STEP_LIMIT_S = 3600
_ROOT_FOLDER = "(Root)"
_ANYWHERE = frozenset(("", "auto"))
_OF_PREVIOUS = "${previous."


@dataclass(frozen=True, slots=True)
class DeviceTags:
    """The flags of a device, which become tags of it."""

    device_id: str
    tags: tuple[str, ...]


@dataclass(slots=True)
class Migration:
    """What is to be stored, and what people are to be told."""

    test_cases: dict[str, TestCaseSpec] = field(default_factory=dict)
    campaigns: dict[str, CampaignSpec] = field(default_factory=dict)
    tags: list[DeviceTags] = field(default_factory=list)
    schedules: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def migration_of(
    tables: Tables, devices: Sequence[Json], default_model: str | None = None
) -> Migration:
    """Return what these tables are in vpt, where `devices` are registered.

    Test cases whose userinterface names no models are for `default_model`; without one they are
    left out.
    """
    return _Conversion(tables, devices, default_model).done()


class _Conversion:
    def __init__(self, tables: Tables, devices: Sequence[Json], default_model: str | None) -> None:
        self._tables, self._default_model = tables, default_model
        self._devices = {(one["host_id"], one["local_id"]): one for one in devices}
        self._named = {(one["host_id"], one["name"]): one for one in devices}
        self._models = {
            _text(row, "name"): [str(model) for model in _list(row.get("models")) if model]
            for row in self._rows("userinterfaces")
        }
        self._cases_of: dict[str, list[str]] = defaultdict(list)  # by that system's name
        self._case_by_id: dict[str, str] = {}
        self._out = Migration()

    def done(self) -> Migration:
        self._convert_test_cases()
        self._convert_campaigns()
        self._convert_flags()
        for row in self._rows("deployments"):
            self._convert_deployment(row)
        return self._out

    def _rows(self, table: str) -> list[Json]:
        return self._tables.get(table, [])

    # ------------------------------------------------------------ test cases

    def _convert_test_cases(self) -> None:
        rows = self._rows("testcase_definitions")
        active = [row for row in rows if row.get("is_active") is not False]
        if len(active) < len(rows):
            self._leave_out(f"{len(rows) - len(active)} test cases that are not active")
        often = Counter(_text(row, "testcase_name") for row in active)
        tags = self._tags_of_executables()
        for row in active:
            name = _text(row, "testcase_name")
            # The same name in several environments is several test cases there.
            suffix = f" ({_text(row, 'environment')})" if often[name] > 1 else ""
            self._convert_test_case(row, _cut(name, suffix), tags[_text(row, "testcase_id")])

    def _convert_test_case(self, row: Json, name: str, tags: Sequence[str]) -> None:
        interface, graph = _text(row, "userinterface_name"), _parsed(row.get("graph_json"))
        if name in self._out.test_cases:
            self._leave_out(f"test case {name!r}: another one has the same name")
            return
        if not isinstance(graph, dict) or not graph.get("nodes"):
            self._leave_out(f"test case {name!r}: its graph has no nodes")
            return
        step: Json = {"graph": _escaped(graph), "timeout_s": STEP_LIMIT_S}
        if interface:
            step["userinterface_name"] = interface
        more = [
            *([f"folder:{folder}"] if (folder := self._folder(row)) else []),
            *([f"environment:{_text(row, 'environment')}"] if row.get("environment") else []),
        ]
        made = {
            "name": name,
            "description": _text(row, "description")[:LONGEST_DESCRIPTION],
            "tags": [tag[:LONGEST_NAME] for tag in dict.fromkeys([*tags, *more])],
            "steps": [step],
        }
        if self._add_test_case(made, interface, None):
            self._cases_of[_text(row, "testcase_name")].append(name)
            self._case_by_id[_text(row, "testcase_id")] = name

    def _add_test_case(self, made: Json, interface: str, device: Json | None) -> bool:
        """Add a test case; where no model is named it is for that of the device that ran it."""
        name, models = made["name"], self._models.get(interface) or []
        if not models:
            one = (device or {}).get("model") or self._default_model
            models = [one] if one else []
        if not models:
            why = (
                f"userinterface {interface!r} names no models" if interface else "no userinterface"
            )
            self._leave_out(f"test case {name!r}: {why}: use --default-model")
            return False
        model = any_of(models)
        whole = made | {"device_model": model if isinstance(model, str) else list(model)}
        try:
            spec = _checked(whole)
        except (ValueError, TypeError) as error:  # of msgspec and of orjson, too
            self._leave_out(f"test case {name!r}: {error}")
            return False
        self._out.test_cases[name] = spec
        return True

    def _folder(self, row: Json) -> str | None:
        names = {row.get("folder_id"): _text(row, "name") for row in self._rows("folders")}
        folder = names.get(row.get("folder_id"))
        return None if folder in (None, "", _ROOT_FOLDER) else folder

    def _tags_of_executables(self) -> Mapping[str, list[str]]:
        names = {row.get("tag_id"): _text(row, "name") for row in self._rows("tags")}
        tags: dict[str, list[str]] = defaultdict(list)
        for row in self._rows("executable_tags"):
            name = names.get(row.get("tag_id"))
            if name and row.get("executable_type") == "testcase":
                tags[_text(row, "executable_id")].append(name)
        return defaultdict(list, {key: sorted(found) for key, found in tags.items()})

    # ------------------------------------------------------------ campaigns

    def _convert_campaigns(self) -> None:
        """Convert each campaign once: as it is defined, else as it was executed last."""
        latest: dict[str, Json] = {}
        executed = self._rows("campaign_executions")
        for row in sorted(executed, key=lambda one: _text(one, "started_at")):
            latest[_text(row, "campaign_name")] = row
        for row in self._rows("campaigns"):
            latest[_text(row, "campaign_name")] = row
        for name in sorted(latest):
            self._convert_campaign(_cut(name), latest[name])

    def _convert_campaign(self, name: str, row: Json) -> None:
        calls = [one for one in _list(_parsed(row.get("script_configurations"))) if _is_object(one)]
        config = _parsed(row.get("execution_config"))
        wrong = _reason_against(calls)
        place = {} if wrong else self._place(row, f"campaign {name!r}")
        entries: list[Json] = []
        for call in () if wrong else calls:
            entry = self._entry(call, row, place)
            if entry is None:
                wrong = f"{_text(call, 'script_name') or call.get('testcase_id')!r} was left out"
                break
            entries.append(entry)
        if wrong:
            self._leave_out(f"campaign {name!r}: {wrong}")
            return
        made = {
            "name": name,
            "description": _text(row, "campaign_description", "description")[:LONGEST_DESCRIPTION],
            "stop_on_failure": _is_object(config) and config.get("continue_on_failure") is False,
            "test_cases": entries,
        }
        try:
            self._out.campaigns[name] = msgspec.convert(made, CampaignSpec)
        except msgspec.ValidationError as error:
            self._leave_out(f"campaign {name!r}: {error}")

    def _entry(self, call: Json, row: Json, place: Json) -> Json | None:
        """Return an entry for a script or a test case, None when that is not in vpt."""
        name, parameters = _text(call, "script_name"), read_parameters(call.get("parameters"))
        if _text(call, "script_type") == "testcase" or call.get("testcase_id"):
            known = self._case_by_id.get(_text(call, "testcase_id")) or self._case(name)
            given = parameters if isinstance(parameters, dict) else {}
            return {"test_case": known, "parameters": given, **place} if known else None
        script = ScriptCall(name, _text(row, "userinterface_name"), parameters)
        known = self._script(script, self._device_of(row))
        return {"test_case": known, "parameters": script.values, **place} if known else None

    def _case(self, name: str) -> str | None:
        """Return the test case of this name: of several environments there is no saying."""
        found = self._cases_of.get(name, [])
        return found[0] if len(found) == 1 else None

    def _script(self, script: ScriptCall, device: Json | None) -> str | None:
        """Return the test case that runs this script; add it when it is the first call."""
        name = _cut(script.title)
        if name in self._out.test_cases:
            return name
        step = script.step | {"timeout_s": STEP_LIMIT_S}
        made: Json = {"name": name, "tags": ["script"], "steps": [step]}
        return name if self._add_test_case(made, script.interface, device) else None

    def _place(self, row: Json, what: str) -> Json:
        """Return where entries run: the device or the host that the row names."""
        host, device = _text(row, "host_name"), _text(row, "device_name", "device_id")
        found = self._device_of(row)
        if found is not None:
            return {"device_id": found["id"]}
        if host in _ANYWHERE or any(host == known for known, _ in self._devices):
            if device not in _ANYWHERE:
                of = host or "any host"
                self._leave_out(f"{what}: its device {device} of {of}: not registered")
            return {} if host in _ANYWHERE else {"host_id": host}
        self._leave_out(f"{what}: its host {host}: not registered, so any device that fits runs it")
        return {}

    def _device_of(self, row: Json) -> Json | None:
        """Return the registered device that a row names, by its id or its name at its host."""
        host = _text(row, "host_name")
        names = (_text(row, "device_id"), _text(row, "device_name"))
        known = ((host, one) for one in names if one)
        found = (self._devices.get(one) or self._named.get(one) for one in known)
        return next((one for one in found if one is not None), None)

    # ------------------------------------------------------------ devices and deployments

    def _convert_flags(self) -> None:
        for row in self._rows("device_flags"):
            flags = [str(flag)[:LONGEST_NAME] for flag in _list(row.get("flags")) if flag]
            if not flags:
                continue
            device = self._device_of(row)
            if device is None:
                where = f"{_text(row, 'host_name')}:{_text(row, 'device_id')}"
                self._leave_out(f"flags {', '.join(flags)} of {where}: not registered")
            elif set(flags) - set(device["tags"]):
                tags = tuple(dict.fromkeys([*device["tags"], *flags]))
                self._out.tags.append(DeviceTags(device["id"], tags))

    def _convert_deployment(self, row: Json) -> None:
        name, script = _text(row, "name"), _text(row, "script_name")
        parameters = read_parameters(row.get("parameters"))
        call = ScriptCall(script, _text(row, "userinterface_name"), parameters)
        known = self._case(script) or self._script(call, self._device_of(row))
        what = f"test case {known!r}" if known else f"the script {script!r} (left out)"
        given = "".join(f", {key}={value}" for key, value in sorted(call.values.items()))
        when = _text(row, "cron_expression") or "no cron expression"
        where = f"{_text(row, 'host_name')}:{_text(row, 'device_id')}"
        self._out.schedules.append(
            f"deployment {name!r} ({_text(row, 'status') or 'active'}): {what} at {when!r}"
            f" on {where}{given}"
        )

    def _leave_out(self, words: str) -> None:
        self._out.left_out.append(words)


def _checked(made: Json) -> TestCaseSpec:
    """Return a test case. Raises ValueError or TypeError when the server would refuse it."""
    if len(orjson.dumps(made)) > LONGEST_TEST_CASE:
        raise ValueError(f"it has more than {LONGEST_TEST_CASE >> 20} MiB")
    return msgspec.convert(made, TestCaseSpec)


def teams_of(tables: Tables) -> list[str]:
    """Return the teams that the rows belong to."""
    rows = (row for table in tables.values() for row in table)
    return sorted({str(row["team_id"]) for row in rows if row.get("team_id")})


def only_team(tables: Tables, team: str) -> Tables:
    """Return the rows of one team, and those that belong to none."""
    return {
        name: [row for row in rows if str(row.get("team_id") or team) == team]
        for name, rows in tables.items()
    }


def _reason_against(calls: Sequence[Json]) -> str | None:
    """Return why a campaign can have no counterpart, None when it can."""
    if not calls:
        return "it has no scripts"
    if any(_OF_PREVIOUS in str(call.get("parameters")) for call in calls):
        return "it passes results of one script to the next (${previous...})"
    return None


def _cut(name: str, suffix: str = "") -> str:
    """Return a name that is not too long; a long one ends in a hash, so that it stays unique."""
    whole = f"{name}{suffix}".strip()
    if len(whole) <= LONGEST_NAME:
        return whole
    return f"{whole[: LONGEST_NAME - 9].rstrip()} {hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def _text(row: Json, *names: str) -> str:
    """Return the first of these columns that has something, as text."""
    found = (row.get(name) for name in names)
    return next((str(value).strip() for value in found if value is not None), "")


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _parsed(value: Any) -> Any:
    """Return JSON that a dump has as text."""
    try:
        return orjson.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _escaped(value: Any) -> Any:
    """Return a graph with each `${` as a literal one, which it is in that system."""
    match value:
        case str():
            return value.replace("${", "$${")
        case dict():
            return {key: _escaped(inner) for key, inner in value.items()}
        case list():
            return [_escaped(inner) for inner in value]
    return value


def words_of(migration: Migration) -> Iterable[str]:
    """Return what people are to be told: what has no place, and what each deployment would be."""
    yield from (f"no place: {one}" for one in migration.left_out)
    yield from migration.schedules
    if migration.schedules:
        yield "hosts go on running active deployments by themselves: pause them there"
