"""Ctrl-C and SIGTERM during a run, and the question that a person is asked then."""

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
    """Handles SIGINT and SIGTERM: the first one sets `came`, the second one ends the command."""

    def __init__(self, leave: Callable[[], object]) -> None:
        """`leave` is called at the second signal."""
        self._leave = leave
        self.came = asyncio.Event()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self.came.is_set():
            self._leave()
        self.came.set()


async def ask_yes_no(question: str) -> bool:
    """Ask the person at the terminal; return False without an answer."""
    click.echo(f"\n{question} [y/N] ", nl=False)
    answer = ""
    try:
        with _typed_lines() as lines:
            answer = await lines.get()
    finally:
        if not answer.endswith("\n"):  # Ctrl-C, Ctrl-D: the next output starts on its own line
            click.echo()
    return answer.strip().lower() in {"y", "yes"}


@contextmanager
def _typed_lines() -> Iterator[asyncio.Queue[str]]:
    """Yield a queue of the lines that are typed. No thread: a blocked read cannot be ended."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str] = asyncio.Queue()
    loop.add_reader(sys.stdin, lambda: lines.put_nowait(sys.stdin.readline()))
    try:
        yield lines
    finally:
        loop.remove_reader(sys.stdin)
