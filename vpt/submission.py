"""What starts a run: a test case, parameters and a device become a complete request.

Test cases and campaigns are started the same way. All that is checked here is checked before
anything is stored; work that grows with the steps is done in a thread, beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import orjson

from vpt import parameters
from vpt.errors import ConflictError, InvalidError, NotFoundError, UnprocessableError
from vpt.model import Json, NewCampaign, NewExecution
from vpt.names import check_clear
from vpt.steps import STEP_KEYS, check_steps, step_errors
from vpt.store.db import Database, Session

_LARGE = 32 * 1024  # characters of steps; reading and filling in fewer takes about a millisecond

T = TypeVar("T")
Parameters = Mapping[str, Any]


class TestCaseChangedError(ConflictError):
    """A test case was changed while its campaign was being started: start it again."""

    __test__ = False


async def prepare_execution(
    db: Database, test_case: Any, wanted: Mapping[str, Any], user_id: str
) -> NewExecution:
    """Return the request to run a test case as `wanted`: its steps filled in, its device resolved.

    `test_case` is a row of the query test_case_to_run. Raises InvalidError when the parameters do
    not fit, UnprocessableError when there is no such host or device.
    """
    steps = await filled_steps(test_case["steps"], wanted["parameters"])
    device_id = await resolve_device(db, wanted["device_id"], wanted["host_id"])
    return _new_execution(test_case, steps, {**wanted, "device_id": device_id}, user_id)


async def filled_steps(text: str, values: Parameters) -> tuple[Json, ...]:
    """Return the steps of this JSON, filled in; InvalidError when the parameters do not fit."""
    return await _beside_the_loop(len(text), lambda: _filled(text, values))


async def prepare_campaign(session: Database, campaign_id: str, user_id: str) -> NewCampaign:
    """Return the request to run a campaign: every entry checked, none of their steps in memory.

    The steps are copied when the campaign execution is stored, and filled in when an entry starts.
    No connection is held in between: checking may take long, and others need them. What changes
    meanwhile is noticed by its version, at the latest when the steps are copied.
    Raises InvalidError that names the entry at fault, UnprocessableError for a missing device.
    """
    campaign = await session.row("campaign_to_run", id=campaign_id)
    if campaign is None:
        raise NotFoundError
    rows = await session.rows("campaign_entries_to_run", id=campaign_id)
    ids = {row["test_case_id"] for row in rows}
    cases = await test_cases(session, ids)
    if ids - cases.keys():  # deleted since the entries were read, which are others by now
        raise TestCaseChangedError
    await _check_parameters(session, cases, rows)
    devices = await _resolve_devices(session, rows)
    entries = tuple(
        _new_execution(
            cases[row["test_case_id"]],
            (),
            {
                "parameters": row["parameters"],
                "device_id": devices[row["device_id"], row["host_id"]],
                "host_id": row["host_id"],
                "priority": campaign["priority"],
            },
            user_id,
        )
        for row in rows
    )
    return NewCampaign(
        campaign_id=campaign_id,
        name=campaign["name"],
        entries=entries,
        stop_on_failure=campaign["stop_on_failure"],
        parallelism=campaign["parallelism"],
        priority=campaign["priority"],
        requested_by=user_id,
    )


async def resolve_references(
    session: Session, entries: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Return the entries of a campaign with the ids of their devices in place of the names.

    So a campaign means the same device tomorrow, whatever joins until then. Raises
    UnprocessableError when an entry names what does not exist, or not clearly.
    """
    ids = {entry["test_case_id"] for entry in entries}
    missing = ids - (await test_cases(session, ids)).keys()
    if missing:
        raise UnprocessableError(f"There is no test case {', '.join(sorted(missing)[:5])}.")
    devices = await _resolve_devices(session, entries)
    return [
        {**entry, "device_id": devices[entry["device_id"], entry["host_id"]]} for entry in entries
    ]


async def test_cases(session: Session | Database, ids: Iterable[str]) -> Mapping[str, Any]:
    """Return those of these test cases that exist, by id and without their steps."""
    rows = await session.rows("test_cases_to_run", ids=list(ids))
    return {row["id"]: row for row in rows}


async def resolve_device(
    session: Session | Database, device_id: str | None, host_id: str | None
) -> str | None:
    """Return the global id of the device that these two name, None when any will do.

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
    check_clear(device_id, rows)
    return str(rows[0]["id"])


class StepTemplate:
    """The steps of a test case, read once, so that many sets of parameters are checked quickly.

    `check` raises what filling in the steps and checking them would raise; its work grows with the
    parameters that are used, not with the steps.
    """

    def __init__(self, steps: Sequence[Json]) -> None:
        self._uses = parameters.uses_of(steps)
        self._wrong: dict[int, Json] = {}  # whatever the parameters are
        self._filled_in: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for index, step in enumerate(steps):
            if wrong := step_errors(step, filled_in=False):
                self._wrong[index] = wrong
            for key in STEP_KEYS.keys() & step.keys():
                if parameters.is_name(step[key]):
                    self._filled_in[key, step[key]].append(index)

    def check(self, values: Parameters) -> None:
        """Raise InvalidError or BadRequestError when these parameters do not fit the steps."""
        parameters.check(self._uses, values)
        errors = {index: dict(wrong) for index, wrong in self._wrong.items()}
        for (key, text), indexes in self._filled_in.items():
            wrong = STEP_KEYS[key].errors(parameters.filled(text, values))
            for index in indexes if wrong else ():
                errors.setdefault(index, {})[key] = wrong
        if errors:
            raise InvalidError({"steps": dict(sorted(errors.items()))})


async def _check_parameters(
    session: Database, cases: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]
) -> None:
    """Check each entry's parameters against its test case, one test case in memory at a time."""
    entries: dict[str, list[tuple[int, Parameters]]] = {}
    for position, row in enumerate(rows):
        entries.setdefault(row["test_case_id"], []).append((position, row["parameters"]))
    first: tuple[int, InvalidError] | None = None
    for test_case_id, sets in entries.items():
        found = await _first_misfit(session, cases[test_case_id], sets)
        if found is not None and (first is None or found[0] < first[0]):
            first = found
    if first is not None:
        position, error = first
        raise InvalidError({"test_cases": {position: error.errors}}) from error


async def _first_misfit(
    session: Database, test_case: Any, sets: Sequence[tuple[int, Parameters]]
) -> tuple[int, InvalidError] | None:
    text = await session.value("test_case_steps", id=test_case["id"], version=test_case["version"])
    if text is None:
        raise TestCaseChangedError
    # Each set may be as large as a body, so many of them count like large steps.
    size = len(text) + _LARGE * (len(sets) > 1)
    return await _beside_the_loop(size, lambda: _misfit(text, sets))


def _misfit(text: str, sets: Sequence[tuple[int, Parameters]]) -> tuple[int, InvalidError] | None:
    """Return the first position whose parameters do not fit, and why."""
    template = StepTemplate(orjson.loads(text))
    for position, values in sets:
        try:
            template.check(values)
        except InvalidError as error:
            return position, error
    return None


async def _resolve_devices(
    session: Session | Database, entries: Sequence[Mapping[str, Any]]
) -> Mapping[tuple[str | None, str | None], str | None]:
    """Resolve each device and host that is named, once, however many entries name it."""
    named = {(entry["device_id"], entry["host_id"]) for entry in entries}
    return {pair: await resolve_device(session, *pair) for pair in named}


def _new_execution(
    test_case: Any, steps: tuple[Json, ...], wanted: Mapping[str, Any], user_id: str
) -> NewExecution:
    """Build the request: what is wanted goes before what the test case says."""
    timeout_s = wanted.get("timeout_s")
    return NewExecution(
        test_case_id=test_case["id"],
        test_case_name=test_case["name"],
        test_case_version=test_case["version"],
        device_model=test_case["device_model"],
        requirements=tuple(test_case["requirements"]),
        steps=steps,
        parameters=wanted["parameters"],
        timeout_s=test_case["timeout_s"] if timeout_s is None else timeout_s,
        test_retries=test_case["test_retries"],
        device_id=wanted["device_id"],
        host_id=wanted["host_id"],
        priority=wanted["priority"],
        queue_timeout_s=wanted.get("queue_timeout_s"),
        requested_by=user_id,
    )


def _filled(text: str, values: Parameters) -> tuple[Json, ...]:
    steps = parameters.fill(orjson.loads(text), values)
    check_steps(steps)
    return steps


async def _beside_the_loop(size: int, work: Callable[[], T]) -> T:
    """Do work in a thread when it is about something large, else at once."""
    return await asyncio.to_thread(work) if size > _LARGE else work()
