"""The document of events says what the code logs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEVELS = ("debug", "info", "warning", "error", "critical")
ROW = re.compile(rf"^\| `(\w+)` \| ({'|'.join(LEVELS)}) \|(.*)\|$", re.MULTILINE)
NOT_THE_SERVER = ("vpt/host/", "vpt/commands/demo.py")

#: Event, level, and the fields that can be read off the call.
Said = tuple[str, str, frozenset[str]]


def events_of(tree: ast.AST) -> Iterator[Said]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        called = ast.unparse(node.func)
        if called == "fx.Log":
            name, fields = node.args
            assert isinstance(fields, ast.Dict)
            keys = [ast.literal_eval(key) for key in fields.keys if key]
            yield ast.literal_eval(name), "warning" if node.keywords else "info", frozenset(keys)
        elif called.startswith("log."):
            level = {"exception": "error"}.get(node.func.attr, node.func.attr)
            keys = [word.arg for word in node.keywords if word.arg and word.arg != "exc_info"]
            yield ast.literal_eval(node.args[0]), level, frozenset(keys)


def logged() -> set[Said]:
    said: set[Said] = set()
    for path in (ROOT / "vpt").rglob("*.py"):
        if not str(path.relative_to(ROOT)).startswith(NOT_THE_SERVER):
            said |= set(events_of(ast.parse(path.read_text(encoding="utf-8"))))
    return said


def documented() -> dict[tuple[str, str], set[str]]:
    text = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")
    rows: list[tuple[str, str, str]] = ROW.findall(text)
    assert len({name for name, _, _ in rows}) == len(rows)
    return {(name, level): set(re.findall(r"`(\w+)`", rest)) for name, level, rest in rows}


def test_every_event_is_documented_and_every_documented_event_is_logged() -> None:
    assert set(documented()) == {(name, level) for name, level, _ in logged()}


def test_every_field_is_documented() -> None:
    known = documented()
    missing = {name: fields - known[name, level] for name, level, fields in logged()}
    assert {name: fields for name, fields in missing.items() if fields} == {}
