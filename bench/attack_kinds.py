"""The attacks: what each sends or does, against which server, and what may come of it."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

import asyncpg
from attack_host import BAD
from attack_lab import HOST, SERVER, STRICT, AttackLab, Json, Options
from attack_report import Row
from raw_http import BadAnswerError
from shapes import HEAD, MIB, SHAPES, TAIL

from vpt.connections import MOST_UNREAD

#: Statuses with which a body may be answered: whatever it is, it is no error of the server (500),
#: nobody is refused for their credential (401, 403), and an answer comes.
#: An action may be refused by its host (502).
ANSWERED = frozenset(("200", "201", "202", "400", "404", "408", "409", "413", "415", "422", "502"))
#: What may come of an action or a step on a host that answers badly.
#: A step whose answer broke off is sent again for as long as the host may come back (`running`); a
#: run waits for a host that answers 401 (`queued`).
FAILED = ANSWERED | {"423", "503", "504", "completed", "failed", "running", "queued"}
FAILED |= {f"error {kind}" for kind in ("host_error", "host_refused", "host_lost", "timeout")}
#: Routes that read a body: name, path, who asks, and what is around the shape.
ROUTES: Mapping[str, tuple[str, str, str, str]] = {
    "end of a script": ("/server/script/taskComplete", "join", HEAD.decode(), TAIL.decode()),
    "VPT register": (
        "/server/system/register",
        "join",
        '{"host_name":"h8","host_url":"http://127.0.0.1:9","devices":[{"device_id":"d",'
        '"device_action_types":{"a":',
        "}}]}",
    ),
    "VPT ping": (
        "/server/system/ping",
        "join",
        '{"host_name":"b-1","per_device_metrics":[{"device_id":"d1","disk_usage":',
        "}]}",
    ),
    "register": (
        "/api/hosts/register",
        "join",
        '{"host_name":"h9","host_url":"http://127.0.0.1:9","hardware":{"a":',
        "}}",
    ),
    "heartbeat": ("/api/hosts/b-1/heartbeat", "join", '{"system_stats":{"a":', "}}"),
    "test case": (
        "/api/testcases",
        "operator",
        '{"name":"x","device_model":"m","steps":[{"a":',
        "}]}",
    ),
    "execute": ("/api/testcases/bench-0001/execute", "operator", '{"parameters":{"a":', "}}"),
    "action": (
        "/api/hosts/reference/execute",
        "operator",
        '{"command":"press_key","params":{"a":',
        "}}",
    ),
}
#: Routes of the reference host.
HOST_ROUTES: Mapping[str, tuple[str, str, str, str]] = {
    "action": (
        "/host/remote/executeAction",
        HOST,
        '{"command":"press_key","action_type":"desktop","params":{"a":',
        "}}",
    ),
    "cancel": ("/host/cancel", HOST, '{"execution_id":"x","attempt":1,"a":', "}"),
    "action of a stranger": ("/host/remote/executeAction", "", '{"a":', "}"),
}
#: Routes that are sent the largest bodies, too: they take minutes to make.
_LARGEST = ("end of a script", "test case")
#: Routes that do most with a body, of all that read as large ones.
_HEAVY = (*_LARGEST, "VPT register", "heartbeat", "action")
_FEW = ("arrays", "keys", "escapes", "text")
#: How a silent connection is silent: what it sends at first, and each second.
_LONG = "GET / HTTP/1.1\r\n" + "".join(f"X-{n}: {'x' * 8000}\r\n" for n in range(7))
_GET = "GET /api/health/live HTTP/1.1\r\nHost: x\r\n"
SILENCES = {
    "no byte": ("", ""),
    "half heads": (_GET, ""),
    "dripped heads": (f"{_GET}X: ", "x"),
    "long half heads": (_LONG, ""),
    "idle": (f"{_GET}\r\n", ""),
}
_OF_ALL_SHAPES = 16  # MiB; larger ones, which are refused, have few shapes, and are no steps
_ANSWER = 8 * MIB  # bytes of a page of a list, at most
_READ_S = 42.0  # seconds after which nobody has kept an answer that is not read
_LIMIT_A_SECOND = 10  # refusals of one user or peer that are logged
_LINE = 4096  # bytes of a line of the log

Check = Callable[[Row], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Attack:
    """One attack: an attacker's job, whom it attacks, and which answers may come."""

    name: str
    job: Json
    victim: str = SERVER
    may_come: frozenset[str] = ANSWERED
    check: Check | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Attacks of one kind, and the settings of the server that they need."""

    make: Callable[[AttackLab, Options], AsyncIterator[Attack]]
    settings: Json = field(default_factory=dict)


# ---------------------------------------------------------------- bodies


def _body_job(lab: AttackLab, route: tuple[str, str, str, str], mib: float, **more: object) -> Json:
    path, who, head, tail = route
    job = {"kind": "bodies", "path": path, "token": lab.tokens[who], "head": head, "tail": tail}
    return {**job, "mib": mib, "shapes": list(SHAPES), "chunked": False, "together": 1, **more}


def _shapes_of(mib: float) -> list[str]:
    """Return all shapes, of the largest bodies a few: to make those takes most of the time."""
    return list(SHAPES if mib <= _OF_ALL_SHAPES else _FEW)


async def bodies(lab: AttackLab, options: Options) -> AsyncIterator[Attack]:
    """Send bodies of all shapes to all routes, with the default MAX_BODY."""
    if options.small:
        for name in ("end of a script", "heartbeat"):
            yield Attack(f"{name}, 3.9 MiB", _body_job(lab, ROUTES[name], 3.9, shapes=_FEW))
        return
    for name, route in ROUTES.items():
        for mib in (3.9, 16, 64) if name in _LARGEST else (3.9,):
            job = _body_job(lab, route, mib, shapes=_shapes_of(mib))
            yield Attack(f"{name}, {mib} MiB", job)
        if name in _LARGEST:
            job = _body_job(lab, route, 16, chunked=True, shapes=_FEW)
            yield Attack(f"{name}, 16 MiB of unknown length", job)


async def large(lab: AttackLab, _: Options) -> AsyncIterator[Attack]:
    """Send them to a server whose MAX_BODY lets them in."""
    for name in _HEAVY:
        route = ROUTES[name]
        for mib in (7.9, 63.9) if name in _LARGEST else (7.9,):
            job = _body_job(lab, route, mib, shapes=_shapes_of(mib))
            yield Attack(f"{name}, {mib} MiB let in", job)


async def together(lab: AttackLab, _: Options) -> AsyncIterator[Attack]:
    """Send some large bodies at once; the server may refuse what is too much together."""
    may_come = ANSWERED | {"503"}
    for name, count in (("end of a script", 4), ("heartbeat", 8)):
        job = _body_job(lab, ROUTES[name], 63.9, shapes=_FEW, together=count)
        yield Attack(f"{name}, {count} of 63.9 MiB at once", job, may_come=may_come)


async def host(lab: AttackLab, options: Options) -> AsyncIterator[Attack]:
    """Send the same bodies to the reference host, and hold silent connections to it."""
    for name, route in list(HOST_ROUTES.items())[: 1 if options.small else None]:
        mib, shapes = (3.9, _FEW) if options.small else (8.9, tuple(SHAPES))
        shapes = shapes if name == "action" else _FEW
        may_come = ANSWERED if route[1] else ANSWERED | {"401"}
        job = _body_job(lab, route, mib, shapes=shapes)
        yield Attack(f"host: {name}, {mib} MiB", job, HOST, may_come)
    if options.small:
        return
    job = _silent_job(options, "half heads", 2000)
    yield Attack("host: silent, half heads", {**job, "askers": 0}, HOST)


# ---------------------------------------------------------------- connections


def _silent_job(options: Options, name: str, count: int) -> Json:
    first, drop = SILENCES[name]
    job = {"kind": "silent", "name": name, "count": count, "first": first, "drop": drop}
    return {**job, "askers": 20, "seconds": options.seconds}


async def silent(
    lab: AttackLab, options: Options, kinds: Iterable[str] = SILENCES
) -> AsyncIterator[Attack]:
    """Hold connections that are silent, and slow ones that are at work."""
    count = 100 if options.small else 2000
    for name in () if options.small else kinds:
        yield Attack(f"{count} silent, {name}", _silent_job(options, name, count))
    head = "POST /api/testcases HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {lab.tokens['operator']}\r\nContent-Length: 100000\r\n\r\n{{"
    job = {**_silent_job(options, "idle", count), "name": "slow bodies", "first": head}
    # Those are at work, so they may fill the place of their address.
    yield Attack(
        f"{count} slow bodies", {**job, "drop": " "}, may_come=ANSWERED | {"503", "no answer"}
    )


def few(lab: AttackLab, options: Options) -> AsyncIterator[Attack]:
    """Hold more connections than the server has descriptors."""
    return silent(lab, options, ("no byte", "long half heads"))


async def readers(lab: AttackLab, options: Options) -> AsyncIterator[Attack]:
    """Ask for large pages, and read nothing or little of them."""
    step = {"command": "x", "params": {"a": "x" * (MIB - 1000)}}
    for number in range(2 if options.small else 12):
        body = {"name": f"large {number}", "device_model": "m", "steps": [step]}
        await lab.ask("POST", "/api/testcases", body, "operator")
    limit, count = (2, 3) if options.small else (50, 20)
    path = f"/api/testcases?q=large&fields=steps&limit={limit}"
    job = {"kind": "readers", "path": path, "token": lab.tokens["viewer"], "count": count}
    job |= {"answer": min(_ANSWER, limit * MIB), "seconds": options.seconds}
    if not options.small:
        yield Attack(f"{count} readers at a drip", {**job, "name": "drip", "drip": 1024})
    seconds = options.seconds if options.small else _READ_S
    offset = lab.log.stat().st_size

    async def check(row: Row) -> None:
        ended = [e["count"] for e in lab.events(offset) if e["event"] == "answers_not_read"]
        row.notes.append(f"{sum(ended)} ended")
        if sum(ended) < min(count, MOST_UNREAD // 2 // job["answer"]) and not options.small:
            row.broken.append("answers that are not read are kept")

    last = {**job, "name": "nothing", "drip": 0, "seconds": seconds}
    yield Attack(f"{count} readers of nothing", last, check=check)


async def refusals(lab: AttackLab, options: Options) -> AsyncIterator[Attack]:
    """Flood the server with requests that it refuses, over five connections each."""
    floods = (
        ("", "GET", "/api/testcases", None),
        ("", "GET", "/api/" + "%01" * 10_000, None),
        ("viewer", "DELETE", "/api/testcases/bench-0001", None),
        ("operator", "GET", "/api/executions/none", None),
        ("operator", "POST", "/api/testcases", "{"),
    )
    job = {"kind": "flood", "name": "refusals", "seconds": options.seconds}
    job["floods"] = [
        {"token": f"Bearer {lab.tokens[who]}", "requests": [(method, path, body)] * 5}
        for who, method, path, body in floods
    ]
    offset, rows, began = lab.log.stat().st_size, await _audit_rows(lab), time.monotonic()

    async def check(row: Row) -> None:
        passed = time.monotonic() - began + 2
        written = lab.log.stat().st_size - offset
        audited = await _audit_rows(lab) - rows
        row.notes.append(f"log {written / 1024:.0f} KiB, audit {audited} rows")
        # A peer and two users; a sum of what was left out each ten seconds.
        if written > 4 * _LIMIT_A_SECOND * passed * _LINE:
            row.broken.append("the log grows with the refusals")
        if audited > 3 * _LIMIT_A_SECOND * passed:
            row.broken.append("the audit grows with the refusals")

    may_come = frozenset(("400", "401", "403", "404"))
    yield Attack("floods of refusals", job, may_come=may_come, check=check)


async def _audit_rows(lab: AttackLab) -> int:
    connection = await asyncpg.connect(lab.bench.dsn)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM audit"))
    finally:
        await connection.close()


# ---------------------------------------------------------------- hosts


@contextlib.asynccontextmanager
async def _bad_hosts(lab: AttackLab, stem: str, paths: Mapping[str, str]) -> AsyncIterator[Json]:
    """Let hosts join, one for each path; return their names."""
    names = {f"{stem}-{number}": path for number, path in enumerate(paths.values())}
    await lab.join_bad({name: quote(path) for name, path in names.items()})
    yield dict(zip(paths, names, strict=True))
    for name in names:
        with contextlib.suppress(BadAnswerError):  # one that is at work still
            await lab.delete_host(name)


async def _on_hosts(
    lab: AttackLab, stem: str, paths: Mapping[str, str], mib: float, options: Options
) -> AsyncIterator[Attack]:
    """Run an action, and a step (not in the small run), on a host of each path.

    Each answers with `mib` at most.
    """
    size = int(mib * MIB)
    step = {"command": "press_key", "action_type": "remote", "params": {}}
    stored = {"name": stem, "device_model": stem, "steps": [step]}
    test_case = (await lab.ask("POST", "/api/testcases", stored, "operator"))["id"]
    async with _bad_hosts(lab, stem, paths) as names:
        await lab.until_available(*names.values())
        action = {**step, "device_id": "d1", "timeout_s": 5}
        wanted = [
            (how, "POST", f"/api/hosts/{name}/execute", json.dumps(action), size)
            for how, name in names.items()
        ]
        job = {"kind": "requests", "token": lab.tokens["operator"], "requests": wanted}
        yield Attack(f"{stem}: actions", job, may_come=FAILED)
        if options.small:
            return
        at_once = {**job, "kind": "all_at_once", "requests": wanted[:4], "name": "four"}
        yield Attack(f"{stem}: four actions at once", at_once, may_come=FAILED)
        if mib > _OF_ALL_SHAPES:
            return
        devices = [(how, f"{name}:d1", size) for how, name in names.items()]
        path = f"/api/testcases/{test_case}/execute"
        job = {"kind": "executions", "path": path, "token": lab.tokens["operator"]}
        yield Attack(
            f"{stem}: steps", {**job, "devices": devices, "wait": options.seconds}, may_come=FAILED
        )


async def _probed(
    lab: AttackLab, stem: str, paths: Mapping[str, str], mib: float, options: Options
) -> AsyncIterator[Attack]:
    """Let hosts join that answer probes like this."""
    probes = {how: f"probes/{path}" for how, path in paths.items()}
    async with _bad_hosts(lab, f"p{stem}", probes):
        job = {"kind": "wait", "name": stem, "seconds": options.seconds}
        job |= {"bytes": int(mib * MIB), "connections": len(paths)}
        yield Attack(f"{stem}: probes", job)


async def answers(lab: AttackLab, options: Options) -> AsyncIterator[Attack]:
    """Let hosts answer actions, steps and probes with JSON of each shape."""
    for mib in (4,) if options.small else (16, 64):
        shapes = SHAPES if mib == _OF_ALL_SHAPES else _FEW
        paths = {shape: f"{shape}-{mib}" for shape in shapes}
        stem = f"answers{mib}"
        async for attack in _on_hosts(lab, stem, paths, mib, options):
            yield attack
    if not options.small:
        async for attack in _probed(lab, "answers16", _of_size(16), 16, options):
            yield attack


def _of_size(mib: float) -> Mapping[str, str]:
    return {shape: f"{shape}-{mib}" for shape in SHAPES}


async def bad(lab: AttackLab, options: Options) -> AsyncIterator[Attack]:
    """Let hosts answer actions, steps and probes with what is no answer."""
    slow = ("drip", "silence")
    paths = {how: how for how in BAD if not (options.small and how in slow)}
    async for attack in _on_hosts(lab, "bad", paths, 16, options):
        yield attack
    if not options.small:
        async for attack in _probed(lab, "bad", paths, 16, options):
            yield attack


GROUPS: Mapping[str, Group] = {
    "bodies": Group(bodies),
    "host": Group(host),
    "silent": Group(silent),
    "readers": Group(readers),
    "refusals": Group(refusals),
    "answers": Group(answers),
    "bad": Group(bad),
    "large": Group(large, STRICT),
    "together": Group(together, STRICT),
    "few": Group(few, STRICT),
}
#: What the small run leaves out.
NOT_SMALL = frozenset(("large", "together", "few"))
