"""The end of a script is told once: whoever has to ask for it again finds it."""

from __future__ import annotations

import asyncio

from vpt.dialects.results import StepResult
from vpt.dialects.scripts import ScriptTasks

REPORT = {"result": {"script_success": True}}


def passed(end: asyncio.Future[object]) -> bool:
    result = end.result() if end.done() else None
    return isinstance(result, StepResult) and result.success


async def test_an_end_that_came_too_late_for_one_call_is_there_for_the_next() -> None:
    tasks = ScriptTasks()
    tasks.expect("t", "pi", 0)  # its call broke, and its time was over while it was parked
    assert tasks.complete("t", REPORT, "pi")
    tasks.expect("other", "po", 60)
    assert passed(tasks.expect("t", "pi", 60))


async def test_an_end_that_was_taken_but_not_stored_is_found_again() -> None:
    tasks = ScriptTasks()
    tasks.expect("t", "pi", 60)
    assert tasks.complete("t", REPORT, "pi")
    tasks.taken("t")  # then the call is given up, before it answered
    tasks.expect("other", "po", 60)
    assert passed(tasks.expect("t", "pi", 60))


async def test_what_is_over_is_forgotten() -> None:
    tasks = ScriptTasks()
    for number in range(1000):
        tasks.expect(f"t{number}", "pi", 0)
        tasks.complete(f"t{number}", REPORT, "pi")
    tasks.expect("t", "pi", 60)
    assert len(tasks._known) == 1 and len(tasks._unclaimed) == 256


async def test_of_two_words_on_a_task_nobody_knows_yet_the_first_counts() -> None:
    tasks = ScriptTasks()
    tasks.complete("t", REPORT, None)
    tasks.complete("t", {"result": {"script_success": False}}, None)
    assert passed(tasks.expect("t", "pi", 60))
