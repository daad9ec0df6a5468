"""The journal: a key is acted on once, whatever happens in between."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from vpt.host.journal import KEEP_S, AttemptKey, Journal
from vpt.host.responses import JsonResponse

from .kit import Caller, FakeServer, alive, process, running, until, written


async def opened(folder: Path) -> Journal:
    journal = Journal(folder)
    await journal.open()
    return journal


def only_segment(folder: Path) -> Path:
    (segment,) = folder.glob("*.jsonl")
    return segment


async def test_a_repeated_key_gets_the_first_answer_and_acts_once(
    host: Caller, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    first = await host.bash(f"echo x >> {mark}; echo $RANDOM", key="k")
    assert await host.bash(f"echo x >> {mark}; echo $RANDOM", key="k") == first
    assert await host.bash(f"echo other >> {mark}", key="k") == first
    assert mark.read_text() == "x\n"


async def test_equal_keys_at_once_act_once(host: Caller, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    command = f"echo x >> {mark}; sleep 0.2; echo $RANDOM"
    answers = await asyncio.gather(*(host.bash(command, key="k") for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    assert mark.read_text() == "x\n"


async def test_without_a_key_each_request_acts(host: Caller, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for _ in range(2):
        await host.bash(f"echo x >> {mark}")
    assert mark.read_text() == "x\nx\n"


async def test_a_frozen_host_does_not_say_no_for_the_time_it_lost(
    server: FakeServer, tmp_path: Path
) -> None:
    begun, done = tmp_path / "begun", tmp_path / "done"
    params = {"command": f"echo x > {begun}; sleep 0.3; echo x > {done}", "timeout": 1}
    async with process(server, tmp_path / "data") as (child, host):
        call = asyncio.create_task(host.act("execute_bash_command", params))
        await written(begun)  # a host that is frozen earlier starts no command
        frozen_at = time.monotonic()
        os.kill(child.pid, signal.SIGSTOP)
        await until(lambda: done.exists() and time.monotonic() > frozen_at + 2.5)
        os.kill(child.pid, signal.SIGCONT)
        assert (await call)[1].get("error") is None


async def test_answers_survive_a_kill(server: FakeServer, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with process(server, tmp_path / "data") as (child, host):
        first = await host.bash(f"echo x >> {mark}; echo $RANDOM", key="k")
        os.kill(child.pid, signal.SIGKILL)
    async with process(server, tmp_path / "data") as (_, again):
        assert again.secret == host.secret
        assert await again.bash(f"echo x >> {mark}; echo $RANDOM", key="k") == first
    assert mark.read_text() == "x\n"


async def test_an_action_in_the_middle_of_a_kill_has_an_unknown_fate(
    server: FakeServer, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    command = f"echo $$ > {mark}; sleep 1000; echo survived > {mark}"
    async with process(server, tmp_path / "data") as (child, host):
        acting = asyncio.create_task(host.bash(command, key="k"))
        waiting = asyncio.create_task(host.bash("echo fine", key="never begun"))
        pid = int(await written(mark))
        os.kill(child.pid, signal.SIGKILL)
        await asyncio.wait({acting, waiting})
        assert acting.exception() is not None
        assert waiting.exception() is not None
    await until(lambda: not alive(pid))
    async with process(server, tmp_path / "data") as (_, again):
        status, answer = await again.bash(command, key="k")
        assert (status, answer["code"]) == (503, "fate_unknown")
        assert (await again.bash("echo fine", key="never begun"))[1]["output"] == "fine\n"


async def test_a_beginning_is_on_the_disk_before_the_action(
    server: FakeServer, tmp_path: Path
) -> None:
    async with running(server, tmp_path / "data") as host:
        answer = (await host.bash(f"cat {tmp_path}/data/journal/*", key="my-key"))[1]
    assert '"do":"begin","key":"my-key"' in answer["output"]


async def test_a_clean_stop_answers_that_the_host_stops_and_keeps_that(
    server: FakeServer, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    command = f"echo $$ > {mark}; sleep 1000"
    async with process(server, tmp_path / "data") as (child, host):
        acting = asyncio.create_task(host.bash(command, key="k"))
        pid = int(await written(mark))
        os.kill(child.pid, signal.SIGTERM)
        status, answer = await acting
        assert (status, answer["code"]) == (503, "host_stopping")
        assert await child.wait() == 0
        assert not alive(pid)
    async with process(server, tmp_path / "data") as (_, again):
        assert await again.bash(command, key="k") == (status, answer)


async def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    await journal.begin("whole")
    await journal.end("whole", JsonResponse(200, b'{"a":1}'))
    await journal.begin("begun")
    await journal.close()
    segment = only_segment(tmp_path)
    with segment.open("ab") as file:
        file.write(b'{"do":"begin","key":"to')
    again = await opened(tmp_path)
    whole, begun = again.find("whole"), again.find("begun")
    assert whole is not None
    assert begun is not None
    assert await again.read(whole) == JsonResponse(200, b'{"a":1}')
    assert not begun.answered
    assert again.find("to") is None
    await again.begin("next")
    await again.close()
    last = await opened(tmp_path)
    assert last.find("next") is not None
    await last.close()


async def test_one_fsync_serves_many_writers(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    started = time.monotonic()
    await asyncio.gather(*(journal.begin(f"k{number}") for number in range(5000)))
    elapsed = time.monotonic() - started
    assert all(journal.find(f"k{number}") for number in range(5000))
    await journal.close()
    assert elapsed < 5


async def test_what_is_older_than_a_day_is_forgotten(tmp_path: Path) -> None:
    journal = await opened(tmp_path)
    await journal.begin("old")
    await journal.cancel(AttemptKey("e", 1))
    await journal.close()
    segment = only_segment(tmp_path)
    past = time.time() - KEEP_S - 10
    os.utime(segment, (past, past))
    again = await opened(tmp_path)
    assert again.find("old") is None
    assert not again.is_cancelled(AttemptKey("e", 1))
    assert not segment.exists()
    await again.close()


async def test_what_the_disk_does_not_take_is_not_done(server: FakeServer, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    async with running(server, tmp_path / "data") as host:
        (tmp_path / "data" / "journal").rename(tmp_path / "gone")
        status, answer = await host.bash(f"touch {mark}", key="k")
        assert (status, answer["code"]) == (503, "journal_unavailable")
        assert not mark.exists()
        (tmp_path / "gone").rename(tmp_path / "data" / "journal")
        assert (await host.bash(f"touch {mark}", key="k"))[1]["success"] is True
    assert mark.exists()


async def test_a_folder_is_for_one_host(server: FakeServer, tmp_path: Path) -> None:
    async with running(server, tmp_path / "data"):
        with pytest.raises(OSError, match="another vpt host"):
            async with running(server, tmp_path / "data"):
                pass
