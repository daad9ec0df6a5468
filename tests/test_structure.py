"""The measures of docs/style.md that a program can take."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "vpt"
SOURCES = {
    str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8")
    for path in sorted(PACKAGE.rglob("*.py"))
}
LONGEST_MODULE, LONGEST_CLASS = 500, 350
MEDIAN, NINETIETH = 6, 16
#: Comments for each 100 lines of the actors, whose rules are the least obvious.
FEWEST_COMMENTS = 6


def _nodes() -> Iterator[tuple[str, ast.AST]]:
    for name, text in SOURCES.items():
        for node in ast.walk(ast.parse(text)):
            yield name, node


def _length(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_no_module_and_no_class_is_too_long_to_be_read_at_once() -> None:
    modules = {name: len(text.splitlines()) for name, text in SOURCES.items()}
    assert {name: length for name, length in modules.items() if length > LONGEST_MODULE} == {}
    classes = {
        (name, node.name): _length(node)
        for name, node in _nodes()
        if isinstance(node, ast.ClassDef)
    }
    assert {name: length for name, length in classes.items() if length > LONGEST_CLASS} == {}


def test_functions_are_short() -> None:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    lengths = sorted(_length(node) for _, node in _nodes() if isinstance(node, kinds))
    assert lengths[len(lengths) // 2] <= MEDIAN
    assert lengths[len(lengths) * 9 // 10] <= NINETIETH


def test_a_class_name_means_one_thing() -> None:
    names = Counter(
        node.name
        for text in SOURCES.values()
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_actors_say_why() -> None:
    lines = comments = 0
    for name, text in SOURCES.items():
        if name.startswith("actors/"):
            lines += len(text.splitlines())
            tokens = tokenize.generate_tokens(io.StringIO(text).readline)
            comments += sum(token.type == tokenize.COMMENT for token in tokens)
    assert 100 * comments / lines >= FEWEST_COMMENTS


def test_no_docstring_begins_with_a_word_that_means_something_else() -> None:
    """A function returns, builds, notifies or accepts; it does not give, say, tell or take."""
    wrong = [
        f"{name}: {node.name}"
        for name, node in _nodes()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (ast.get_docstring(node) or "").split(" ")[0] in {"Give", "Say", "Tell", "Take"}
    ]
    assert wrong == []
