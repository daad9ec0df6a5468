"""The benches (see README.md): vpt compared with bare aiohttp and with a Flask stack."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from lab import DEVICES, OURS, PEERS, STEPS, TEST_CASES, BenchLab, make_env
from raw_http import BadAnswerError

CONNECTIONS = 16
WARMUP = 0.5
C_HOSTS = 50
C_RATE = 100
ACTION = {"command": "press_key", "action_type": "remote", "params": {"key": "OK"}}
C_PHASES = {
    "one": "one at a time",
    "paced": f"{C_RATE} a second asked for",
    "full": f"{C_HOSTS} in flight",
}
Rounds = list[dict[str, dict[str, Any]]]


def _listing(lab: BenchLab) -> dict[str, Any]:
    call = ["GET", "/api/testcases?limit=50", None]
    return {"requests": [call] * CONNECTIONS, "expect": lab.newest}


def _forwarding(clients: int) -> dict[str, Any]:
    path = "/api/hosts/b-1/execute"
    bodies = [json.dumps({"device_id": f"d{n + 1}", **ACTION}) for n in range(clients)]
    return {"requests": [["POST", path, body] for body in bodies], "expect": "true"}


async def compare(lab: BenchLab, peers: list[str], job: dict[str, Any], options: Any) -> Rounds:
    """Load the peers in turn, in a different order each round."""
    rounds: Rounds = []
    for number in range(options.rounds):
        turn = number % len(peers)
        results = {}
        for peer in peers[turn:] + peers[:turn]:
            results[peer] = await _load(lab, peer, job, options.seconds)
        rounds.append(results)
    return rounds


async def _load(lab: BenchLab, peer: str, job: dict[str, Any], seconds: float) -> dict[str, Any]:
    try:
        return await lab.ask(
            "load.py",
            {
                **job,
                "port": lab.ports[peer],
                # the document reads the bare token
                "token": lab.token if peer == "flask" else f"Bearer {lab.token}",
                "seconds": seconds,
                "warmup": WARMUP,
                "pids": {"server": lab.pids[peer], "db": lab.pids["db"]},
            },
        )
    except BadAnswerError as error:
        raise BadAnswerError(f"{peer}: {error}\n{peer} said:\n{lab.tail(peer)}") from error


def _median(rounds: Rounds, row: str, name: str) -> float:
    return median(one[row][name] for one in rounds)


def _ratio(rounds: Rounds, peer: str, other: str) -> float:
    """Return the median over the rounds: two peers of one round met the same machine."""
    return median(one[peer]["rate"] / one[other]["rate"] for one in rounds)


def show(title: str, rounds: Rounds, goals: dict[str, float]) -> None:
    """Print a comparison: medians over the rounds, and the goals."""
    print(f"\n{title}")
    columns = ("rate", "p50", "p99", "server cpu", "db cpu")
    print(f"{'':8}{'req/s':>9}{'p50 ms':>9}{'p99 ms':>9}{'server ms':>11}{'db ms':>8}{'client':>8}")
    for peer in sorted(rounds[0], key=PEERS.index):
        rate, p50, p99, server, db = (_median(rounds, peer, name) for name in columns)
        client = _median(rounds, peer, "client")
        print(
            f"{peer:8}{rate:9,.0f}{p50:9.2f}{p99:9.2f}{server:11.3f}{db:8.3f}{client:8.0%}"
            f"   rounds {', '.join(format(one[peer]['rate'], ',.0f') for one in rounds)}"
        )
    for other in ("before", "flask", "bare"):
        if "vpt" in rounds[0] and other in rounds[0]:
            _judge(f"vpt / {other}", _ratio(rounds, "vpt", other), goals.get(other))


def _judge(what: str, value: float, goal: float | None) -> None:
    verdict = ""
    if goal is not None:
        verdict = f"   (at least {goal:.2f}: {'reached' if value >= goal else 'NOT REACHED'})"
    print(f"{what} = {value:.2f}{verdict}", flush=True)


async def bench_a(lab: BenchLab, peers: list[str], options: Any) -> None:
    """Compare the listing."""
    rounds = await compare(lab, peers, _listing(lab), options)
    title = f"(a) GET /api/testcases?limit=50, {TEST_CASES} stored, {CONNECTIONS} connections"
    show(title, rounds, {"flask": 4, "bare": 0.85})


async def bench_b(lab: BenchLab, peers: list[str], options: Any) -> None:
    """Compare forwarding an action to a host."""
    for clients in (1, DEVICES):
        rounds = await compare(lab, peers, _forwarding(clients), options)
        goals = {"flask": 4, "bare": 0.6} if clients == DEVICES else {}
        show(f"(b) POST /api/hosts/<id>/execute, clients: {clients}", rounds, goals)


async def bench_c(lab: BenchLab, peers: list[str], options: Any) -> None:
    """Measure executions; only vpt has them."""
    ours = {peer: _executions(lab, peer) for peer in peers if peer in OURS}
    if not ours:
        return
    job = {
        "peers": ours,
        "token": lab.token,
        "join_token": lab.join_token,
        "test_case": lab.newest,
        "hosts": C_HOSTS,
        "steps": STEPS,
        "rate": C_RATE,
        "seconds": options.seconds,
        "rounds": options.rounds,
    }
    try:
        show_c(await lab.ask("flow.py", job))
    except BadAnswerError as error:
        raise BadAnswerError(f"{error}\nvpt said:\n{lab.tail('vpt')}") from error


def _executions(lab: BenchLab, peer: str) -> dict[str, Any]:
    return {
        "server": f"http://127.0.0.1:{lab.ports[peer]}",
        "port": lab.ports[peer],
        "dsn": lab.dsn_of(peer),
        "pids": {"server": lab.pids[peer], "db": lab.pids["db"]},
    }


def show_c(results: dict[str, Rounds]) -> None:
    """Print the phases of each peer, and what the goals ask of vpt."""
    for peer, rounds in results.items():
        _show_phases(peer, rounds)
    if "vpt" not in results:
        return
    rounds = results["vpt"]
    if "before" in results:
        pairs = list(zip(rounds, results["before"], strict=True))
        ratio = median(
            ours["full"]["started"] / theirs["full"]["started"] for ours, theirs in pairs
        )
        _judge("vpt / before, started/s, all devices at work", ratio, None)
    _judge("started/s, all devices at work", _median(rounds, "full", "started"), 100)
    p50 = _median(rounds, "paced", "p50")
    kept = _median(rounds, "paced", "started") >= 0.95 * C_RATE
    verdict = "reached" if p50 <= 50 and kept else "NOT REACHED"
    print(f"first action at {C_RATE}/s, median = {p50:.1f} ms   (at most 50: {verdict})")


def _show_phases(peer: str, rounds: Rounds) -> None:
    """Print the phases of one peer: medians over the rounds."""
    print(f"\n(c) POST /api/testcases/<id>/execute, {STEPS} steps, {C_HOSTS} instant hosts: {peer}")
    columns = ("started", "steps", "p50", "p95", "answer", "queued", "server", "db")
    print(
        f"{'':26}{'started/s':>10}{'steps/s':>9}{'first p50':>11}{'p95 ms':>8}"
        f"{'202 p50':>9}{'queued':>8}{'server ms':>11}{'db ms':>8}"
    )
    for phase, name in C_PHASES.items():
        started, steps, p50, p95, answer, queued, server, db = (
            _median(rounds, phase, column) for column in columns
        )
        print(
            f"{name:26}{started:10.1f}{steps:9,.0f}{p50:11.1f}{p95:8.1f}"
            f"{answer:9.1f}{queued:7.0f}%{server:11.2f}{db:8.2f}"
        )


BENCHES = {"a": bench_a, "b": bench_b, "c": bench_c}


def _sync_ms() -> float:
    """Return the median time of a synced write of 8 kB, as at each commit."""
    times = []
    with tempfile.TemporaryFile() as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(bytes(8192))
            file.flush()
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - began))
    return median(times)


def _say_where() -> None:
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, load before: {load:.2f}, "
        f"a synced write: {_sync_ms():.1f} ms"
    )
    if load > 0.3:
        print("OTHERS ARE USING THIS MACHINE: the figures are too low; the ratios hold better.")


async def run(options: Any) -> None:
    """Start what is needed, run the selected benches, end everything."""
    _say_where()
    wanted = {*options.peers, *(["before"] if options.before else [])}
    peers = [peer for peer in PEERS if peer in wanted]
    if "flask" in peers and options.which != "c":
        await make_env()
    async with BenchLab(options.before) as lab:
        for peer in peers if options.which != "c" else [peer for peer in peers if peer in OURS]:
            await lab.serve(peer)
        for name, bench in BENCHES.items():
            if options.which in (name, "all"):
                await bench(lab, peers, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    parser.add_argument("which", nargs="?", default="all", choices=[*BENCHES, "all"])
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement (4)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is shown (3)")
    parser.add_argument(
        "--peers",
        type=lambda text: text.split(","),
        default=["vpt", "bare", "flask"],
        help="which to start, comma separated (vpt,bare,flask)",
    )
    parser.add_argument(
        "--before",
        type=lambda text: Path(text).resolve(),
        help="a checkout of another commit, whose server is measured in the same run",
    )
    return parser.parse_args()


async def _until_ended(options: argparse.Namespace) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        with contextlib.suppress(NotImplementedError):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    await run(options)


def main() -> int:
    """Run and return: 0 measured, 2 an error, 130 interrupted."""
    try:
        asyncio.run(_until_ended(_options()))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except BadAnswerError as error:
        print(f"\nTHE BENCH FAILED: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
