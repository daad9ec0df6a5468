"""The checks after chaos: database, journals, effects and events are compared."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from listener import FINAL, Listener, Progress
from processes import HostProcess
from scripted import ScriptedHost
from workload import PlannedRun, Workload

#: What breaking processes may cost a run; any other kind of error would be a mistake of ours.
PRICE = ("host_lost", "server_restarted")


@dataclass
class HostRecord:
    """The durable records of a host, and the effects of its steps."""

    begun: Counter[str] = field(default_factory=Counter)  # by key
    said: dict[str, bool] = field(default_factory=dict)  # key to success, where it was answered
    acts: Counter[tuple[str, int]] = field(default_factory=Counter)  # by tag and step


def read_journal(host: HostProcess | ScriptedHost) -> HostRecord:
    """Read the journal of all processes of a host, and the file with the effects of its steps."""
    journal = HostRecord()
    for segment in sorted((host.folder / "data" / "journal").glob("*.jsonl")):
        for line in segment.read_bytes().splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # torn by a kill
                continue
            if record["do"] == "begin":
                journal.begun[record["key"]] += 1
            elif record["do"] == "end" and "success" in record["answer"]:
                journal.said[record["key"]] = record["answer"]["success"]
    acts = host.folder / "acts"
    for line in acts.read_text().splitlines() if acts.exists() else ():
        tag, step = line.split()
        journal.acts[tag, int(step)] += 1
    return journal


@dataclass
class Records:
    """The relevant rows of the database."""

    executions: dict[str, Any]
    campaigns: dict[str, Any]
    results: list[Any]
    attempts: list[Any]
    steps: list[Any]
    twice: list[Any]

    @classmethod
    async def read(cls, dsn: str) -> Records:
        """Read all at once."""
        connection = await asyncpg.connect(dsn)
        try:
            executions = await connection.fetch(_EXECUTIONS)
            campaigns = await connection.fetch("SELECT id, status FROM campaign_executions")
            return cls(
                {row["id"]: row for row in executions},
                {row["id"]: row for row in campaigns},
                await connection.fetch(_RESULTS),
                await connection.fetch("SELECT * FROM execution_attempts ORDER BY 1, 2"),
                await connection.fetch("SELECT * FROM execution_steps ORDER BY 1, 2, 3"),
                await connection.fetch(_GIVEN_TWICE),
            )
        finally:
            await connection.close()


class Comparison:
    """All checks; `differences` has a line for each violated guarantee."""

    def __init__(
        self,
        records: Records,
        workload: Workload,
        hosts: Sequence[HostProcess | ScriptedHost],
    ) -> None:
        self.differences: list[str] = []
        self.counts: Counter[str] = Counter()
        self._records = records
        self._workload = workload
        self._journals = {host.name: read_journal(host) for host in hosts}
        self._tags: dict[str, list[Any]] = defaultdict(list)
        for row in records.executions.values():
            self._tags[row["tag"]].append(row)
        self._hosts_of = {(a["execution_id"], a["attempt"]): a["host_id"] for a in records.attempts}

    def check(self, listener: Listener) -> None:
        """Check everything that was stored."""
        for words in self._workload.wrong:
            self.differ("wrong answers", words)
        self._nothing_lost()
        self._nothing_stuck()
        self._verdicts()
        self._keys_act_once()
        self._acts_fit_keys()
        self._steps_were_said()
        self._attempts_add_up()
        self._numbering()
        self._live(listener.events)

    def differ(self, what: str, words: str) -> None:
        """Record a violated guarantee."""
        self.counts[what] += 1
        self.differences.append(f"{what}: {words}")

    # ------------------------------------------------------------ lost and stuck

    def _nothing_lost(self) -> None:
        for order in self._workload.orders:
            if order.accepted is not None and order.accepted not in self._records.executions:
                self.differ("lost", f"{order.tag}, execution {order.accepted}, is not stored")
            if len(rows := self._tags[order.tag]) > 1:
                ids = [row["id"] for row in rows]
                self.differ("started twice", f"{order.tag} is {ids}")
        for order in self._workload.campaigns:
            if order.accepted is not None and order.accepted not in self._records.campaigns:
                self.differ("lost", f"{order.tag}, campaign {order.accepted}, is not stored")
        entries = (tag for tag in self._workload.verdicts if tag.startswith("c"))
        for tag in entries:
            if len(self._tags[tag]) > 1:
                self.differ("started twice", f"campaign entry {tag}: {self._tags[tag]}")

    def _nothing_stuck(self) -> None:
        for row in (*self._records.executions.values(), *self._records.campaigns.values()):
            self.counts[f"{row['status']}"] += "tag" in row
            if row["status"] not in FINAL:
                self.differ("stuck", f"{row['id']} is {row['status']}: {dict(row)}")
        for result in self._records.results:
            if result["execution_id"] is None and not result["skipped"]:
                self.differ("lost", f"campaign {result[0]}, entry {result[1]}: never started")
        for a in self._records.attempts:
            self.counts["attempts"] += 1
            self.counts[f"attempts lost: {a['error_kind']}"] += a["status"] == "error"
            if a["status"] == "running" or a["released_at"] is None:
                self.differ("stuck", f"{_name(a)} on {a['device_id']} holds it: {a['status']}")
        for row in self._records.twice:
            self.differ("device given twice", f"{dict(row)}")

    # ------------------------------------------------------------ verdicts

    def _verdicts(self) -> None:
        by_tag = {order.tag: order for order in self._workload.orders}
        for row in self._records.executions.values():
            expected = self._workload.verdicts.get(row["tag"], "completed")
            what = self._wrong_verdict(row, expected, by_tag.get(row["tag"]))
            if what is not None:
                words = f"execution {row['id']} ({row['tag']}), attempt {row['attempt']}"
                is_so = f"is {row['status']}/{row['error_kind']} ({row['error']})"
                self.differ(what, f"{words}: {is_so}, its hosts say {expected}")

    def _wrong_verdict(self, row: Any, expected: str, order: PlannedRun | None) -> str | None:
        status = row["status"]
        if status == "error":
            self.counts[f"error {row['error_kind']}"] += 1
            return None if row["error_kind"] in PRICE else "wrong error"
        if status == "cancelled":
            return None if order is not None and order.cancelled else "false cancelled"
        if status in FINAL and status != expected:
            return f"false {status}"
        return None

    def _steps_were_said(self) -> None:
        """Check that a step is `passed` or `failed` only if its host recorded just that."""
        for step in self._records.steps:
            self.counts["steps"] += 1
            if step["status"] not in {"passed", "failed"}:
                continue
            key = f"{step['execution_id']}/{step['attempt']}/{step['step']}/{step['tries']}"
            host = self._hosts_of[step["execution_id"], step["attempt"]]
            said = self._journals[host].said.get(key)
            if said is not (step["status"] == "passed"):
                self.differ(
                    "false step",
                    f"{_name(step)}, step {step['step']}, is {step['status']};"
                    f" {host} noted {said} for {key}",
                )

    def _attempts_add_up(self) -> None:
        """Check that an attempt is `failed` only with a failed step, `completed` if all passed."""
        found: dict[tuple[str, int], set[str]] = defaultdict(set)
        for step in self._records.steps:
            found[step["execution_id"], step["attempt"]].add(step["status"])
        for a in self._records.attempts:
            steps = found[a["execution_id"], a["attempt"]]
            if a["status"] == "failed" and "failed" not in steps:
                self.differ("false failed", f"{_name(a)} is failed, its steps are {steps}")
            if a["status"] == "completed" and steps != {"passed"}:
                self.differ("false completed", f"{_name(a)} is completed, its steps are {steps}")

    # ------------------------------------------------------------ acted once

    def _keys_act_once(self) -> None:
        for host, journal in self._journals.items():
            for key, times in journal.begun.items():
                execution_id, attempt, step, _ = key.split("/")
                where = f"execution {execution_id}, attempt {attempt}, step {step}"
                if times > 1:
                    self.differ("acted twice", f"{where}: {host} began {key} {times} times")
                if self._hosts_of.get((execution_id, int(attempt))) != host:
                    self.differ("acted elsewhere", f"{where}: {host} began {key}")

    def _acts_fit_keys(self) -> None:
        """Check by step that there are as many effects as responses at least, starts at most."""
        tags = {row["id"]: row["tag"] for row in self._records.executions.values()}
        for host, journal in self._journals.items():
            begun: Counter[tuple[str, int]] = Counter()
            done: Counter[tuple[str, int]] = Counter()
            for key in journal.begun:
                execution_id, _, step, _ = key.split("/")
                name = (tags.get(execution_id, ""), int(step))
                begun[name] += 1
                done[name] += journal.said.get(key) is True
            for (tag, step), times in journal.acts.items():
                self.counts["acts"] += times
                if times > begun[tag, step]:
                    words = f"{tag}, step {step}, on {host}: {times} acts under"
                    self.differ("acted twice", f"{words} {begun[tag, step]} keys")
            for (tag, step), times in done.items():
                if (tag, step) in self._acting and journal.acts[tag, step] < times:
                    words = f"{tag}, step {step}, on {host}: {times} passed"
                    self.differ("never acted", f"{words}, {journal.acts[tag, step]} acts")

    @property
    def _acting(self) -> set[tuple[str, int]]:
        """Return the steps that leave a line as their effect."""
        return {
            (row["tag"], number)
            for row in self._records.executions.values()
            for number, action in enumerate(row["actions"], 1)
            if action == "execute_bash_command"
        }

    # ------------------------------------------------------------ events

    def _numbering(self) -> None:
        """Check that the event numbers of attempts, steps and ends are 1 to n, each once."""
        numbers: dict[str, list[int]] = defaultdict(list)
        for row in (*self._records.attempts, *self._records.steps):
            if row["seq"] is not None:
                numbers[row["execution_id"]].append(row["seq"])
        for row in self._records.executions.values():
            found = sorted([*numbers[row["id"]], row["seq"]])
            if found != list(range(1, row["seq"] + 1)):
                self.differ("gap", f"execution {row['id']} ({row['tag']}) has numbers {found}")

    def _live(self, events: list[Progress]) -> None:
        """Check that the events of an execution in a connection have consecutive numbers."""
        last: dict[tuple[int, str], Progress] = {}
        for event in events:
            self.counts["events"] += 1
            before = last.get((event.connection, event.execution_id))
            last[event.connection, event.execution_id] = event
            if before is None:
                continue
            where = f"execution {event.execution_id}, connection {event.connection}"
            if event.seq != before.seq + 1:
                self.differ("gap", f"{where}: {event.seq} came after {before.seq}")
            if before.status in FINAL:
                self.differ("gap", f"{where}: {event.seq} came after the final one")

    def replayed(self, execution_id: str, events: list[Progress]) -> None:
        """Check the replay for a client that missed all events."""
        row = self._records.executions[execution_id]
        numbers = [event.seq for event in events]
        if numbers != list(range(1, row["seq"] + 1)):
            words = f"execution {execution_id} ({row['tag']}), replayed: {numbers}"
            self.differ("gap", f"{words} of {row['seq']}")
        elif events[-1].status != row["status"]:
            words = f"execution {execution_id}, replayed: ends as {events[-1].status}"
            self.differ("gap", f"{words}, is {row['status']}")

    def finals(self) -> Iterator[tuple[str, int]]:
        """Return the finished executions and the number of their last event."""
        for row in self._records.executions.values():
            if row["status"] in FINAL:
                yield row["id"], row["seq"]


def _name(row: Any) -> str:
    return f"execution {row['execution_id']}, attempt {row['attempt']}"


_EXECUTIONS = """
SELECT id, parameters ->> 'tag' AS tag, status, error_kind, error, attempt, seq, actions,
    campaign_execution_id
FROM test_executions
ORDER BY created_at
"""
_RESULTS = """
SELECT r.campaign_execution_id, r.position, r.execution_id, r.skipped
FROM campaign_results r
"""
_GIVEN_TWICE = """
SELECT *
FROM (
    SELECT execution_id, attempt, device_id, started_at, released_at,
        lead(execution_id) OVER next AS next_execution_id, lead(started_at) OVER next AS next_at
    FROM execution_attempts
    WINDOW next AS (PARTITION BY device_id ORDER BY started_at)
) AS attempts
WHERE next_at < released_at
"""
