"""Test cases and campaigns as files: YAML or JSON, by name, without anything of one server only.

A document has a list `test_cases`, a list `campaigns`, or both. What is left out has its default.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import yaml
from msgspec import Meta

from vpt.client.exits import MisuseError
from vpt.client.text import one_line
from vpt.model import Json

SUFFIXES = (".yaml", ".yml", ".json")
_SHOWN, _LARGEST = 20, 1_000_000
_FLOAT = r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"

Title = Annotated[str, Meta(min_length=1, max_length=100)]
Text = Annotated[str, Meta(max_length=1000)]
Words = Annotated[list[Title], Meta(max_length=100)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Reference = Annotated[str, Meta(min_length=1, max_length=200)]


class _Thing(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Something with a name."""

    name: Title


class TestCase(_Thing, kw_only=True):
    """A test case, as the server takes it."""

    __test__ = False

    description: Text = ""
    device_model: Title
    requirements: Words = []
    tags: Words = []
    timeout_s: Seconds | None = None
    test_retries: Annotated[int, Meta(ge=0, le=10)] = 0
    steps: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=1000)]


class Entry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One test of a campaign, by the name of its test case."""

    test_case: Title
    device_id: Reference | None = None
    host_id: Reference | None = None
    parameters: dict[str, Any] = {}


class Campaign(_Thing, kw_only=True):
    """A campaign, whose tests are named."""

    description: Text = ""
    stop_on_failure: bool = False
    parallelism: Annotated[int, Meta(ge=1, le=1000)] = 1
    priority: Annotated[int, Meta(ge=0, le=100)] = 50
    test_cases: Annotated[list[Entry], Meta(min_length=1, max_length=1000)]


class Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A file, or all files together."""

    test_cases: list[TestCase] = []
    campaigns: list[Campaign] = []


Name = Annotated[str, Meta(pattern=r"^\$\{[^{}]+\}$")]  # a parameter's value may stand in its place


class _Step(msgspec.Struct):
    """What the server itself reads of a step; all else is for the host."""

    timeout_s: Seconds | Name = 1.0
    retries: Annotated[float, Meta(ge=0, le=100)] | Name = 0
    continue_on_failure: bool | Name = False
    delay_s: Annotated[float, Meta(ge=0, le=86_400)] | Name = 0


class _Steps(msgspec.Struct):
    steps: list[_Step]


class _Outline(msgspec.Struct):
    test_cases: list[_Steps] = []


Thing = TypeVar("Thing", TestCase, Campaign)


def changes(old: Thing, new: Thing) -> list[str]:
    """Name the fields in which they differ."""
    before, after = _whole(old), _whole(new)
    return [name for name in before if not _same(before[name], after[name])]


def _whole(thing: Thing) -> Json:
    return {name: msgspec.to_builtins(getattr(thing, name)) for name in thing.__struct_fields__}


def _same(old: Any, new: Any) -> bool:
    """Compare as JSON: to Python true is 1."""
    match old, new:
        case dict(), dict():
            return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
        case list(), list():
            return len(old) == len(new) and all(map(_same, old, new))
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


# ---------------------------------------------------------------- reading


@dataclass
class Wanted:
    """What files hold: everything by name."""

    test_cases: dict[str, TestCase] = field(default_factory=dict)
    campaigns: dict[str, Campaign] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _at: dict[tuple[str, str], Path] = field(default_factory=dict)

    def take(self, path: Path) -> None:
        """Take what a file holds, or note what is wrong with it."""
        try:
            documents = [_checked(raw) for raw in _parsed(path)]
        except yaml.MarkedYAMLError as error:
            self._note(path, error.problem or error.context or "no YAML", error.problem_mark)
            return
        except RecursionError:
            self._note(path, "it is nested too deep, or within itself")
            return
        except (ValueError, OSError, yaml.YAMLError) as error:  # msgspec's is a ValueError
            self._note(path, error, _place(path, str(error)))
            return
        for document in documents:
            self._add(path, "test case", document.test_cases, self.test_cases)
            self._add(path, "campaign", document.campaigns, self.campaigns)

    def _note(self, path: Path, words: object, at: yaml.Mark | None = None) -> None:
        where = "" if at is None else f", line {at.line + 1}"
        self.wrong.append(f"{path}{where}: {one_line(words)}")

    def _add(self, path: Path, word: str, things: list[Thing], known: dict[str, Thing]) -> None:
        for thing in things:
            first = self._at.setdefault((word, thing.name), path)
            if thing.name in known:
                self._note(path, f"the {word} {thing.name!r} stands in {first}, too")
            known[thing.name] = thing


def read(paths: Iterable[Path]) -> Wanted:
    """Read files, and all of YAML and JSON below folders.

    Raises MisuseError that names everything that is wrong, file by file.
    """
    wanted = Wanted()
    for path in _files(paths):
        wanted.take(path)
    if wanted.wrong:
        raise MisuseError(shortened(wanted.wrong))
    return wanted


def shortened(wrong: list[str]) -> str:
    """Say what is wrong line by line, and how much more there is than that."""
    more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
    return "\n".join([*wrong[:_SHOWN], *more])


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inner = list(_below(path, ()))
        if not inner:
            raise MisuseError(f"{path} has no files that end in {', '.join(SUFFIXES)}.")
        yield from inner


def _below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Give the files of a folder and, through links, too, of those in it."""
    inside = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.resolve() in inside:
            continue
        if path.is_dir():
            yield from _below(path, inside)
        elif path.suffix in SUFFIXES:
            if not path.exists():  # left out it would be pruned
                raise MisuseError(f"{path} is a link that leads nowhere.")
            if path.is_file():
                yield path


def _parsed(path: Path) -> Iterator[Any]:
    text = path.read_text(encoding="utf-8-sig")  # some editors of Windows begin so
    if path.suffix == ".json":
        yield json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    else:
        yield from yaml.load_all(text, Loader=_Loader)


def _checked(raw: Any) -> Document:
    _check_json(raw, "$", count(1))
    whole = {} if raw is None else raw
    document = msgspec.convert(whole, Document)
    msgspec.convert(whole, _Outline)
    return document


def _place(path: Path, words: str) -> yaml.Mark | None:
    """Give where that is which an error ends with, at `$.campaigns[0]`, if that can be told."""
    found = re.search(r" - at `(?:key in )?\$([^`]*)`$", words)
    if found is None:
        return None
    try:
        [node] = yaml.compose_all(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (ValueError, yaml.YAMLError, RecursionError):  # several documents, or JSON only
        return None
    for name, number in re.findall(r"\.([^.\[]+)|\[(\d+)\]", found[1]):
        inner = _inner(node, name, number)
        if inner is None:
            break
        node = inner
    return node.start_mark if node is not None else None


def _inner(node: Any, name: str, number: str) -> Any:
    if number and isinstance(node, yaml.SequenceNode) and int(number) < len(node.value):
        return node.value[int(number)]
    if name and isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == name), None)
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _check_json(value: Any, at: str, counted: Iterator[int]) -> None:
    """Raise ValueError for what YAML has and JSON has not, and for what grows by references."""
    if next(counted) > _LARGEST:
        raise ValueError(f"it holds more than {_LARGEST} values")
    match value:
        case dict():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise ValueError(  # noqa: TRY004 (of the file)
                        f"the key {key!r} is no text: quote it - at `{at}`"
                    )
                _check_json(inner, f"{at}.{key}", counted)
        case list():
            for number, inner in enumerate(value):
                _check_json(inner, f"{at}[{number}]", counted)
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is no number of JSON - at `{at}`")
        case str() if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"half a character - at `{at}`")
        case None | str() | bool() | int() | float():
            pass
        case _:
            raise ValueError(f"a {type(value).__name__} is nothing that JSON has - at `{at}`")


class _Loader(yaml.SafeLoader):
    """YAML that means what JSON means: no dates, no `yes` for true, no 017 for 15."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that stands twice, of which one would silently be lost."""
        plain = [key.value for key, _ in node.value if key.tag not in ("tag:yaml.org,2002:merge",)]
        if len(set(plain)) < len(plain):
            twice = next(name for name in plain if plain.count(name) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice!r} stands twice in one mapping", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _whole_characters(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Join what JSON writes as two escapes, so that JSON is YAML."""
    text: str = loader.construct_scalar(node)
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


_Loader.add_constructor("tag:yaml.org,2002:str", _whole_characters)
for _tag, _pattern, _first in (
    ("null", r"~|null|", ["~", "n", ""]),
    ("bool", r"true|false", list("tf")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", _FLOAT, list("-+0123456789")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(rf"(?:{_pattern})\Z"), _first
    )


# ---------------------------------------------------------------- writing


class _Dumper(yaml.SafeDumper):
    """YAML for people: indented lists, long texts as blocks, no references."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent lists, too."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write what stands twice twice."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
#: Beside those of YAML 1.1, so that every reader takes a text for a text: 1e3 is quoted.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"(?:{_FLOAT})\Z"), list("-+0123456789")
)


def written(test_cases: list[TestCase], campaigns: list[Campaign], form: str) -> str:
    """Give the text of a file, `yaml` or `json`; the same for the same content."""
    whole: Json = msgspec.to_builtins(Document(test_cases=test_cases, campaigns=campaigns))
    for case in whole.get("test_cases", ()):
        if case.get("timeout_s", 0.5).is_integer():
            case["timeout_s"] = int(case["timeout_s"])
    if form == "json":
        return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"
    text: str = yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
