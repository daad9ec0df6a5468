"""Tables of a VirtualPyTest system in a file: JSON, or the text of `pg_dump --data-only`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vpt.client.exits import MisuseError
from vpt.model import Json

Tables = dict[str, list[Json]]

#: Of a `pg_dump`, whose values are text: the columns that are not.
_JSON = frozenset(("graph_json", "script_configurations", "execution_config", "metadata"))
_ARRAYS = frozenset(("models", "flags"))
_FLAGS = frozenset(("is_active", "success", "discard"))
_NUMBERS = frozenset(("folder_id", "tag_id", "max_executions"))

_COPY = re.compile(r'COPY (?:"?public"?\.)?"?(\w+)"? \((.*)\) FROM stdin;')
_ESCAPE = re.compile(r"\\(.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "v": "\v"}
_ELEMENT = re.compile(r'"((?:[^"\\]|\\.)*)"|([^,{}"]+)')
#: What is read at once, of a file and of an answer: a lab's definitions have a few megabytes.
LARGEST = 512 * 2**20


def read_dump(path: Path) -> Tables:
    """Return the tables of a file. Raises MisuseError when it is neither of the two forms."""
    if path.stat().st_size > LARGEST:
        raise MisuseError(
            f"{path} has more than {LARGEST >> 20} MiB: dump fewer tables, "
            "or the results without their oldest ones."
        )
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    tables = _of_json(path, text) if text.lstrip().startswith("{") else _of_pg_dump(text)
    if not tables:
        raise MisuseError(
            f"{path} has no tables: expected JSON ({{table: [row, ...]}}) or the plain text of "
            "pg_dump --data-only, without --inserts."
        )
    return tables


def _of_json(path: Path, text: str) -> Tables:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MisuseError(f"{path} is not JSON: {error}") from error
    tables = {name: rows for name, rows in whole.items() if isinstance(rows, list)}
    for name, rows in tables.items():
        if not all(isinstance(row, dict) for row in rows):
            raise MisuseError(f"{path}: the rows of {name} are not all objects.")
    return tables


def _of_pg_dump(text: str) -> Tables:
    tables: Tables = {}
    lines = iter(text.split("\n"))
    for line in lines:
        found = _COPY.fullmatch(line.rstrip("\r"))
        if found is not None:
            names = [name.strip().strip('"') for name in found[2].split(",")]
            tables.setdefault(found[1], []).extend(_rows(names, lines))
    return tables


def _rows(names: list[str], lines: Iterator[str]) -> Iterator[Json]:
    for line in lines:
        row = line.rstrip("\r")
        if row == "\\.":
            return
        cells = [_cell(cell) for cell in row.split("\t")]
        yield {name: _value(name, cell) for name, cell in zip(names, cells, strict=False)}


def _cell(text: str) -> str | None:
    if text == "\\N":
        return None
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text)


def _value(name: str, text: str | None) -> Any:
    if text is None:
        return None
    for columns, read in _READ:
        if name in columns:
            return read(text)
    return text


def _number(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdecimal() else text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _array(text: str) -> list[str]:
    """Return the elements of a PostgreSQL array of texts: `{a,"b c"}`."""
    found = _ELEMENT.findall(text)
    return [_ESCAPE.sub(r"\1", quoted) if quoted or not plain else plain for quoted, plain in found]


_READ: tuple[tuple[frozenset[str], Callable[[str], Any]], ...] = (
    (_JSON, _json),
    (_ARRAYS, _array),
    (_FLAGS, lambda text: text == "t"),
    (_NUMBERS, _number),
)
