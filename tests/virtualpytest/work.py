"""What such a host does when asked: batches, graphs and scripts, kept in memory only."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from .body import Json


@dataclass(frozen=True)
class Behaviour:
    """How a command, or a script by its name, goes.

    `message` is what the product shows: the reason of a failure, what a script prints. An action's
    own result never has a reason: it stands in the logs, unless `tells` is set as in newer hosts.
    `answer` is what the controller answers beside that, such as the output of a shell command.
    `error` lets the whole execution break; `screenshot` names one (True: a real one of its own);
    `hang` lasts until `Work.release` is set; `result` is put over a result (an item of a batch, a
    script); `environment` lets a script print its environment, `marker` its verdict.
    """

    seconds: float = 0.0
    success: bool = True
    message: str = "done"
    screenshot: bool | str = False
    hang: bool = False
    error: str | None = None
    result: Json = field(default_factory=dict)
    answer: Json = field(default_factory=dict)
    tells: bool = False
    environment: bool = False
    marker: bool = False


def by_name(command: str, params: Json) -> Behaviour:
    """Return what a command does that no test has spoken of."""
    match command:
        case "wait":
            return Behaviour(seconds=float(params.get("seconds", 0)))
        case "fail":
            return Behaviour(success=False, message="no")
        case "hang":
            return Behaviour(hang=True)
        case "screenshot":
            return Behaviour(screenshot=True)
        case _:
            return Behaviour()


@dataclass(frozen=True)
class Act:
    """One thing that was done, to the device that it was really done to."""

    device: str
    asked: str  # the device that was meant
    command: str
    params: Json
    at: float  # of time.monotonic()


@dataclass
class Execution:
    """What a poll tells about, and its end."""

    id: str
    kind: str
    asked: str
    device: str  # which it acts on
    state: Json
    acts: bool = True  # until it has done all
    task: asyncio.Task[None] | None = None


class BrokenError(Exception):
    """The host itself could not go on."""


Run = Callable[[Execution], Awaitable[None]]


class Work:
    """All that is being done. Two at once, and the second acts on the wrong device."""

    def __init__(
        self,
        devices: Sequence[str],
        shoot: Callable[[str], str],
        keep: Callable[..., None],
    ) -> None:
        self.devices = devices
        self.acts: list[Act] = []
        self.mixed_up: list[tuple[str, str]] = []  # device that was meant, device that it was
        self.release = asyncio.Event()
        self.interfaces = {"shopui"}  # those whose navigation trees the host finds
        self._shoot = shoot
        self._keep = keep
        self._table: dict[str, list[Behaviour]] = {}
        self._executions: dict[str, Execution] = {}

    def on(self, command: str, times: int | None, behaviour: Behaviour) -> None:
        """Let a command go so: from now on, or so often before what was said earlier."""
        if times is None:
            self._table[command] = [behaviour]
        else:
            later = self._table.get(command, [Behaviour()])
            self._table[command] = [behaviour] * times + later

    def find(self, kind: str, number: str) -> Execution | None:
        """Return what is remembered under an id."""
        known = self._executions.get(number)
        return known if known is not None and known.kind == kind else None

    def is_at_work_on(self, device: str) -> bool:
        """Return whether something that it was asked to do on a device is not over."""
        return any(each.acts and each.asked == device for each in self._executions.values())

    def begin(self, kind: str, device: str, run: Run, state: Json | None = None) -> Execution:
        """Start something, whatever else goes on: the host does not look."""
        execution = Execution(f"{kind}-{uuid4()}", kind, device, device, state or {})
        others = [each for each in self._executions.values() if each.acts]
        if others:
            execution.device = self._wrong(device, others[-1].device)
            self.mixed_up.append((device, execution.device))
        self._executions[execution.id] = execution
        execution.task = asyncio.create_task(self._live(execution, run), name=execution.id)
        return execution

    async def forget(self) -> None:
        """Drop everything, as the end of the process does."""
        tasks = [each.task for each in self._executions.values() if each.task is not None]
        self._executions.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _wrong(self, meant: str, other: str) -> str:
        if other != meant:
            return other
        return next((each for each in self.devices if each != meant), f"not {meant}")

    async def _live(self, execution: Execution, run: Run) -> None:
        try:
            await run(execution)
        except BrokenError as error:
            execution.state |= {"status": "error", "error": str(error), "result": None}
        execution.acts = False

    def act_on(self, execution: Execution, device: str) -> None:
        """Let an execution act on another device than the one that it was asked for."""
        if execution.device == execution.asked:
            execution.device = device

    async def act(self, execution: Execution, command: str, params: Json) -> Behaviour:
        """Do one thing; return how it went."""
        said = self._table.get(command)
        if said is None:
            behaviour = by_name(command, params)
        else:
            behaviour = said.pop(0) if len(said) > 1 else said[0]
        act = Act(execution.device, execution.asked, command, params, time.monotonic())
        self.acts.append(act)
        self._keep("act", **asdict(act))
        if behaviour.hang:
            await self.release.wait()
        await asyncio.sleep(behaviour.seconds)
        if behaviour.error is not None:
            raise BrokenError(behaviour.error)
        return behaviour

    def picture(self, execution: Execution, behaviour: Behaviour) -> list[str]:
        """Return the names of the screenshots that something made."""
        if isinstance(behaviour.screenshot, str):
            return [behaviour.screenshot]
        return [self._shoot(execution.device)] if behaviour.screenshot else []


# ---------------------------------------------------------------- batches


@dataclass
class Batch:
    """Actions or verifications, one after the other, up to the first that fails."""

    work: Work
    kind: str  # action or verification
    steps: Sequence[Json]
    retry: Sequence[Json] = ()
    failure: Sequence[Json] = ()
    results: list[Json] = field(default_factory=list)
    screenshots: list[str] = field(default_factory=list)
    logs: list[str] = field(default_factory=list)

    @staticmethod
    def fresh() -> Json:
        """Return the state of one that has just begun."""
        return {"status": "running", "progress": 0, "message": "begun", "error": None} | {
            "result": None
        }

    async def run(self, execution: Execution) -> None:
        """Do them, then say how it went, each kind in its own way."""
        begun = time.monotonic()
        good = await self._all(execution, self.steps)
        if not good and self.retry:
            good = await self._all(execution, self.retry)
        if not good:
            await self._all(execution, self.failure)
        failed = self.kind == "verification" and not good
        execution.state |= {
            "status": "error" if failed else "completed",
            "progress": 100,
            "message": f"Batch {self.kind} execution completed: {self._passed}/{len(self.steps)}",
            "error": self.results[-1]["message"] if failed else None,
            "result": self._result(good) | {"execution_time_ms": ms_since(begun)},
        }

    async def _all(self, execution: Execution, steps: Sequence[Json]) -> bool:
        for number, step in enumerate(steps):
            command, params = step["command"], step.get("params") or {}
            execution.state |= {"progress": 100 * number // len(steps), "message": command}
            how = await self.work.act(execution, command, params)
            self.logs += log_of(number + 1, command, params, how)
            pictures = self.work.picture(execution, how)
            picture = {"screenshot_path": pictures[-1] if pictures else ""}
            self.results.append(self._item(step, how) | picture | how.result)
            self.screenshots += pictures
            if not how.success:
                return False
        return True

    def _item(self, step: Json, how: Behaviour) -> Json:
        """Return the result of one step: of an action its reason is in the logs only."""
        common = {"success": how.success, "resultType": "PASS" if how.success else "FAIL"}
        asked = {"command": step["command"], "params": step.get("params") or {}}
        if self.kind == "verification":
            kind = {"verification_type": step.get("verification_type"), "execution_time_ms": 1}
            return common | asked | kind | {"message": how.message}
        failed = how.message if how.tells else "Failed after 1 iteration(s)"
        done = how.success and how.message != "done"  # a block that says more than its name
        message = {"message": how.message if done else step["command"]}
        error = {"error": None if how.success else failed}
        return common | message | error | (asked if how.tells else {})

    @property
    def _passed(self) -> int:
        return sum(each["success"] for each in self.results)

    def _result(self, good: bool) -> Json:
        counts = {"passed_count": self._passed, "failed_count": len(self.results) - self._passed}
        pictures = {f"{self.kind}_screenshots": self.screenshots}
        common = {"success": good, "results": self.results, "output_data": {}}
        told = {"logs": "\n".join(self.logs), "error": None if good else self._error()}
        return common | counts | pictures | told

    def _error(self) -> str:
        last = self.results[-1]
        if self.kind == "verification":
            return str(last["message"])
        return f"Actions failed: {last['message']}"


def log_of(number: int, command: str, params: Json, how: Behaviour) -> list[str]:
    """Return what such a host writes into its log while it does one thing."""
    head = [
        "",
        f"[@lib:action_executor] ▶️  MAIN ACTION {number}: {command}",
        f"[@lib:action_executor:_execute_single_action] → remote {params or ''}".rstrip(),
    ]
    if how.success:
        return [*head, f"[@lib:action_executor] ✅ {command}: SUCCESS (1ms)"]
    answer = {"success": False, **how.answer, "error": how.message}
    return [
        *head,
        f"[@lib:action_executor] ❌ {command}: FAILED (1ms)",
        f"[@lib:action_executor]    Error: {how.message}",
        f"[@lib:action_executor]    Full response: {answer}",
    ]


# ---------------------------------------------------------------- graphs

_REFERENCE = re.compile(r"\{([\w .-]+)\}")
_DOES = {"action", "verification", "navigation"}


@dataclass
class Graph:
    """Blocks, walked along the edges from the start to a terminal."""

    work: Work
    nodes: dict[str, Json]
    edges: Sequence[Json]
    interface: str = ""  # the user interface whose navigation tree it uses
    steps: list[Json] = field(default_factory=list)

    @classmethod
    def read(cls, work: Work, said: Any, interface: str = "") -> Graph | str:
        """Accept a graph; return what is wrong with one that no host can run."""
        nodes = said.get("nodes") if isinstance(said, dict) else None
        if not isinstance(nodes, list) or not nodes:
            return "Graph must contain at least one node"
        wrong = "; ".join(_wrong_with(nodes))
        if wrong:
            return wrong
        return cls(work, {node["id"]: node for node in nodes}, said.get("edges", []), interface)

    @staticmethod
    def invalid(why: str) -> Run:
        """Return the run of a graph that is refused: the host says so at its end."""

        async def run(execution: Execution) -> None:
            error = f"Invalid graph: {why}"
            result = {"success": False, "error": error, "validation_errors": why.split("; ")}
            execution.state |= {"status": "failed", "result": result, "error": error}

        return run

    def fresh(self) -> Json:
        """Return the state of one that has just begun."""
        blocks = {each: {"status": "pending"} for each in self.nodes}
        return {"status": "running", "current_block_id": None, "block_states": blocks} | {
            "result": None
        }

    async def run(self, execution: Execution) -> None:
        """Walk, then say where it ended."""
        try:
            end = await self._walk(execution)
            error = None if end == "success" else "Test case reached FAILURE block"
        except BrokenError as broken:
            end, error = "error", str(broken)
        execution.state |= {
            "status": "completed" if end == "success" else "failed",
            "current_block_id": None,
            "result": {
                "success": end == "success",
                "result_type": end,
                "step_results": self.steps,
                "report_url": None,
                "error": error,
            },
        }

    async def _walk(self, execution: Execution) -> str:
        here = next(node for node in self.nodes.values() if node["type"] == "start")
        while here["type"] not in {"success", "failure"}:
            here = self._after(here["id"], await self._block(execution, here))
        execution.state["block_states"][here["id"]] = {"status": "success"}
        return str(here["type"])

    async def _block(self, execution: Execution, node: Json) -> str:
        execution.state["current_block_id"] = node["id"]
        execution.state["block_states"][node["id"]] = {"status": "running"}
        word = "success"
        if node["type"] != "start":
            self.steps.append(await self._step(execution, node))
            word = "success" if self.steps[-1]["success"] else "failure"
        execution.state["block_states"][node["id"]] = {"status": word}
        return word

    async def _step(self, execution: Execution, node: Json) -> Json:
        """Run one block; a reason stands in its `error`, what it said in its `logs`."""
        told = {"block_id": node["id"], "step_category": node["type"], "screenshots": []}
        if error := self._impossible(node):
            return told | {"success": False, "message": _title(node), "error": error, "logs": ""}
        logs: list[str] = []
        for command, params in _commands(node):
            how = await self.work.act(execution, command, params)
            logs += log_of(1, command, params, how)
            told["screenshots"] += self.work.picture(execution, how)
        message = how.message if how.success and how.message != "done" else _title(node)
        error = None if how.success else f"Actions failed: {how.message}"
        told |= {"success": how.success, "message": message, "error": error} | how.result
        return told | {"logs": "\n".join(logs)}

    def _impossible(self, node: Json) -> str | None:
        """Return why a block cannot even begin: a variable or a navigation tree is not there."""
        for name in _references(node.get("data")):
            return f"Unresolved variable '{{{name}}}' — no value, default, or variable provides it"
        if node["type"] == "navigation" and self.interface not in self.work.interfaces:
            missing = f"User interface '{self.interface}' not found"
            return f"Failed to load navigation tree: {missing}"
        return None

    def _after(self, node: str, handle: str) -> Json:
        for edge in self.edges:
            if edge["source"] == node and edge.get("sourceHandle", "success") == handle:
                return self.nodes[edge["target"]]
        raise BrokenError(f"no way on from {node} after {handle}")


def _wrong_with(nodes: Sequence[Json]) -> Iterator[str]:
    """Return what such a host's validation finds in the blocks of a graph."""
    kinds = [node.get("type") for node in nodes]
    if kinds.count("start") != 1:
        yield "Graph must contain exactly one START block"
    if not {"success", "failure"} & set(kinds):
        yield "Graph must contain at least one SUCCESS or FAILURE block"
    for node in nodes:
        if node.get("type") in _DOES and not list(_commands(node)):
            yield f"{node['type'].capitalize()} block {node.get('id')} missing 'command'"


def _commands(node: Json) -> Iterator[tuple[str, Json]]:
    """Return the commands of a block: one of its own, a list, or the way to a node."""
    data = node.get("data") or {}
    if node["type"] == "navigation":
        label = data.get("target_node_label") or data.get("target_node") or ""
        yield from [(f"go to {label}", {})] if label else []
        return
    listed = data.get("actions") or data.get("verifications") or [data]
    for each in listed:
        if isinstance(each.get("command"), str):
            yield each["command"], each.get("params") or {}


def _title(node: Json) -> str:
    if node["type"] == "navigation":
        return f"Navigate to: {(node.get('data') or {}).get('target_node_label')}"
    return f"Block: {len(list(_commands(node)))} {node['type']}(s)"


def _references(item: Any) -> Iterator[str]:
    """Return the names in whole strings `{name}`: such a host fills in none of them."""
    match item:
        case str():
            found = _REFERENCE.fullmatch(item)
            yield from [found[1]] if found else []
        case dict():
            for child in item.values():
                yield from _references(child)
        case list():
            for child in item:
                yield from _references(child)


# ---------------------------------------------------------------- helpers


def ms_since(begun: float) -> int:
    """Return the milliseconds since a moment of time.monotonic()."""
    return round((time.monotonic() - begun) * 1000)


def commands(acts: Iterable[Act], device: str) -> list[str]:
    """Return what was really done to a device, in order."""
    return [act.command for act in acts if act.device == device]
