"""Ctrl-C and SIGTERM while something goes on, and the question that a person is asked then."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self

import click

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """The first one is for the command to deal with; the second one ends it at once."""

    def __init__(self, leave: Callable[[], object]) -> None:
        """`leave` is what the second one does."""
        self._leave = leave
        self.came = asyncio.Event()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    def _take(self) -> None:
        if self.came.is_set():
            self._leave()
        self.came.set()


async def says_yes(question: str) -> bool:
    """Ask the person at the terminal; no answer is a no."""
    click.echo(f"\n{question} [y/N] ", nl=False)
    answer = ""
    try:
        with _typed_lines() as lines:
            answer = await lines.get()
    finally:
        if not answer.endswith("\n"):  # Ctrl-C, Ctrl-D: what follows begins on a line of its own
            click.echo()
    return answer.strip().lower() in {"y", "yes"}


@contextmanager
def _typed_lines() -> Iterator[asyncio.Queue[str]]:
    """Give what is typed, line by line, without a thread that nobody could end."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    try:
        yield lines
    finally:
        loop.remove_reader(sys.stdin)
