"""What starts a run: a test case, parameters and a device become a complete request.

Test cases and campaigns are started the same way. All that is checked here is checked before
anything is stored; work that grows with the steps is done in a thread, beside the event loop.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import orjson

from vpt import graphs, parameters, secret_steps
from vpt.device_models import from_columns
from vpt.errors import ConflictError, InvalidError, NotFoundError, UnprocessableError
from vpt.model import Json, NewCampaign, NewExecution
from vpt.names import check_clear
from vpt.secret_steps import FilledSteps, check_references_only, secret_names
from vpt.steps import STEP_KEYS, check_steps, step_errors
from vpt.store.db import Database, Session
from vpt.store.seal import Sealer

_LARGE = 32 * 1024  # characters of steps; reading and filling in fewer takes about a millisecond

T = TypeVar("T")
Parameters = Mapping[str, Any]


class TestCaseChangedError(ConflictError):
    """A test case was changed while its campaign was being started: start it again."""

    __test__ = False


async def prepare_execution(
    db: Database, sealer: Sealer, test_case: Any, wanted: Mapping[str, Any], user_id: str
) -> NewExecution:
    """Return the request to run a test case as `wanted`: its steps filled in, its device resolved.

    `test_case` is a row of the query test_case_to_run. The values of its secret parameters are
    sealed. Raises InvalidError when the parameters do not fit, UnprocessableError when there is no
    such host, device or secret.
    """
    secret = secret_names(test_case["parameters"])
    filled = await filled_steps(test_case["steps"], wanted["parameters"], secret)
    await _check_secrets(db, filled.secret.names if filled.secret else ())
    device_id = await resolve_device(db, wanted["device_id"], wanted["host_id"])
    wanted = {**wanted, "device_id": device_id, "parameters": filled.parameters}
    new = _new_execution(test_case, filled.steps, wanted, user_id)
    sealed = sealer.seal(orjson.dumps(filled.values).decode()) if filled.values else None
    return replace(new, secret_steps=filled.secret, sealed_values=sealed)


async def filled_steps(
    text: str, values: Parameters, secret: frozenset[str] = frozenset()
) -> FilledSteps:
    """Return the steps of this JSON, filled in; InvalidError when the parameters do not fit."""
    return await _beside_the_loop(len(text), lambda: _filled(text, values, secret))


async def _check_secrets(session: Session | Database, names: Iterable[str]) -> None:
    """Raise UnprocessableError when there is no secret of one of these names."""
    wanted = set(names)
    known = {row["name"] for row in await session.rows("secrets_named", names=list(wanted))}
    if missing := sorted(wanted - known):
        raise UnprocessableError(f"There is no secret {', '.join(missing[:5])}.")


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
    UnprocessableError when an entry names what does not exist, or not clearly; InvalidError when
    one has a value for a secret parameter: everybody may read a campaign.
    """
    ids = {entry["test_case_id"] for entry in entries}
    cases = await test_cases(session, ids)
    if missing := ids - cases.keys():
        raise UnprocessableError(f"There is no test case {', '.join(sorted(missing)[:5])}.")
    for position, entry in enumerate(entries):
        secret = secret_names(cases[entry["test_case_id"]]["parameters"])
        with _at(position):
            check_references_only(entry["parameters"], secret)
    devices = await _resolve_devices(session, entries)
    return [
        {**entry, "device_id": devices[entry["device_id"], entry["host_id"]]} for entry in entries
    ]


@contextmanager
def _at(position: int) -> Iterator[None]:
    """Name the entry of a campaign at fault in an InvalidError."""
    try:
        yield
    except InvalidError as error:
        raise InvalidError({"test_cases": {position: error.errors}}) from error


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
        self._inputs = graphs.names_of(steps)  # names that are used if they are given
        self._wrong: dict[int, Json] = {}  # whatever the parameters are
        self._filled_in: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        for index, step in enumerate(steps):
            if wrong := step_errors(step, filled_in=False):
                self._wrong[index] = wrong
            for key in STEP_KEYS.keys() & step.keys():
                if parameters.is_name(step[key]):
                    self._filled_in[key, step[key]].append(index)

    def secrets(self, values: Parameters) -> set[str]:
        """Return the names of the secrets that these parameters and the steps refer to."""
        references = parameters.references_of(self._uses)
        for name in (self._uses.keys() | self._inputs.keys()) & values.keys():
            references |= parameters.references_in(values[name])
        return {parameters.secret_of(reference) for reference in references}

    def check(self, values: Parameters) -> None:
        """Raise InvalidError or BadRequestError when these parameters do not fit the steps."""
        inputs = Counter({name: self._inputs[name] for name in self._inputs.keys() & values.keys()})
        parameters.check(self._uses + inputs, values)
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
    names: set[str] = set()
    for test_case_id, sets in entries.items():
        found = await _first_misfit(session, cases[test_case_id], sets, names)
        if found is not None and (first is None or found[0] < first[0]):
            first = found
    if first is not None:
        position, error = first
        with _at(position):
            raise error
    await _check_secrets(session, names)


async def _first_misfit(
    session: Database, test_case: Any, sets: Sequence[tuple[int, Parameters]], names: set[str]
) -> tuple[int, InvalidError] | None:
    """Return the first entry that does not fit; add the secrets that all refer to to `names`."""
    text = await session.value("test_case_steps", id=test_case["id"], version=test_case["version"])
    if text is None:
        raise TestCaseChangedError
    # Each set may be as large as a body, so many of them count like large steps.
    size = len(text) + _LARGE * (len(sets) > 1)
    secret = secret_names(test_case["parameters"])
    return await _beside_the_loop(size, lambda: _misfit(text, sets, secret, names))


def _misfit(
    text: str,
    sets: Sequence[tuple[int, Parameters]],
    secret: frozenset[str],
    names: set[str],
) -> tuple[int, InvalidError] | None:
    """Return the first position whose parameters do not fit, and why."""
    template = StepTemplate(orjson.loads(text))
    for position, values in sets:
        try:
            check_references_only(values, secret)
            template.check(values)
            names |= template.secrets(values)
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
        device_model=from_columns(test_case["device_model"], test_case["device_models"]),
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


def _filled(text: str, values: Parameters, secret: frozenset[str]) -> FilledSteps:
    filled = secret_steps.fill(orjson.loads(text), values, secret)
    check_steps(filled.steps)
    return filled


async def _beside_the_loop(size: int, work: Callable[[], T]) -> T:
    """Do work in a thread when it is about something large, else at once."""
    return await asyncio.to_thread(work) if size > _LARGE else work()
