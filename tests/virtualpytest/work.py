"""What such a host does when asked: batches, graphs and scripts, kept in memory only."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

from .body import Json


@dataclass(frozen=True)
class Behaviour:
    """How a command, or a script by its name, goes.

    `error` lets the whole execution break; `screenshot` names one (True: a real one of its own);
    `hang` lasts until `Work.release` is set; `result` is put over a script's result.
    """

    seconds: float = 0.0
    success: bool = True
    message: str = "done"
    screenshot: bool | str = False
    hang: bool = False
    error: str | None = None
    result: Json = field(default_factory=dict)


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

    async def act(self, execution: Execution, command: str, params: Json) -> Behaviour:
        """Do one thing; give how it went."""
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
            "message": self.results[-1]["message"],
            "error": self.results[-1]["message"] if failed else None,
            "result": self._result(good) | {"execution_time_ms": _ms(begun)},
        }

    async def _all(self, execution: Execution, steps: Sequence[Json]) -> bool:
        for number, step in enumerate(steps):
            execution.state |= {"progress": 100 * number // len(steps), "message": step["command"]}
            how = await self.work.act(execution, step["command"], step.get("params") or {})
            word = {"resultType": "PASS" if how.success else "FAIL"}
            self.results.append({"success": how.success, "message": how.message} | word)
            self.screenshots += self.work.picture(execution, how)
            if not how.success:
                return False
        return True

    def _result(self, good: bool) -> Json:
        passed = sum(each["success"] for each in self.results)
        counts = {"passed_count": passed, "failed_count": len(self.results) - passed}
        pictures = {f"{self.kind}_screenshots": self.screenshots}
        common = {"success": good, "results": self.results, "output_data": {}}
        return common | counts | pictures


# ---------------------------------------------------------------- graphs


@dataclass
class Graph:
    """Blocks, walked along the edges from the start to a terminal."""

    work: Work
    nodes: dict[str, Json]
    edges: Sequence[Json]
    steps: list[Json] = field(default_factory=list)

    @classmethod
    def read(cls, work: Work, said: Any) -> Graph | None:
        """Accept a graph; return None for one without one start, some terminal and commands."""
        if not isinstance(said, dict) or not isinstance(said.get("nodes"), list):
            return None
        kinds = [node.get("type") for node in said["nodes"]]
        if kinds.count("start") != 1 or not {"success", "failure"} & set(kinds):
            return None
        does = [node for node in said["nodes"] if node.get("type") in {"action", "verification"}]
        if not all(isinstance(node.get("data", {}).get("command"), str) for node in does):
            return None
        return cls(work, {node["id"]: node for node in said["nodes"]}, said.get("edges", []))

    def fresh(self) -> Json:
        """Return the state of one that has just begun."""
        blocks = {each: {"status": "pending"} for each in self.nodes}
        return {"status": "running", "current_block_id": None, "block_states": blocks} | {
            "result": None
        }

    async def run(self, execution: Execution) -> None:
        """Walk, then say where it ended."""
        try:
            end, error = await self._walk(execution), None
        except BrokenError as broken:
            end, error = "error", str(broken)
        execution.state |= {
            "status": "completed" if end == "success" else "failed",
            "current_block_id": None,
            "result": {
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
            data = node["data"]
            how = await self.work.act(execution, data["command"], data.get("params") or {})
            word = "success" if how.success else "failure"
            told = {"block_id": node["id"], "success": how.success, "message": how.message}
            self.steps.append(told | {"screenshots": self.work.picture(execution, how)})
        execution.state["block_states"][node["id"]] = {"status": word}
        return word

    def _after(self, node: str, handle: str) -> Json:
        for edge in self.edges:
            if edge["source"] == node and edge.get("sourceHandle", "success") == handle:
                return self.nodes[edge["target"]]
        raise BrokenError(f"no way on from {node} after {handle}")


# ---------------------------------------------------------------- scripts


@dataclass
class Script:
    """One script; its state is at the end what the callback tells."""

    work: Work
    name: str
    parameters: str
    when_done: Callable[[Json], Awaitable[None]]

    async def run(self, execution: Execution) -> None:
        """Run it, and tell."""
        begun = time.monotonic()
        try:
            how = await self.work.act(execution, self.name, {"parameters": self.parameters})
        except BrokenError as broken:
            execution.state |= {"error": str(broken)}
        else:
            execution.state |= {"result": self._result(how) | {"execution_time_ms": _ms(begun)}}
        execution.acts = False  # before anybody hears of it
        await self.when_done(execution.state)

    def _result(self, how: Behaviour) -> Json:
        told = {"stdout": how.message, "stderr": "", "exit_code": 0 if how.success else 1}
        urls = {"report_url": None, "logs_url": None}
        return told | {"script_success": how.success} | urls | how.result


def _ms(begun: float) -> int:
    return round((time.monotonic() - begun) * 1000)


def commands(acts: Iterable[Act], device: str) -> list[str]:
    """Return what was really done to a device, in order."""
    return [act.command for act in acts if act.device == device]
