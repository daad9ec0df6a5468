"""Test cases and campaigns as YAML or JSON files, by name, without what only one server knows.

A document has a list `test_cases`, a list `campaigns`, or both. Fields that are left out have
their defaults.
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

from vpt.bounds import (
    DEFAULT_PRIORITY,
    HIGHEST_PRIORITY,
    LONGEST_DESCRIPTION,
    LONGEST_ID,
    LONGEST_NAME,
    LONGEST_TIMEOUT_S,
    MOST_ENTRIES,
    MOST_PARALLEL,
    MOST_RETRIES,
    MOST_STEP_RETRIES,
    MOST_STEPS,
    MOST_WORDS,
)
from vpt.client.exits import MisuseError
from vpt.client.text import one_line
from vpt.device_models import any_of
from vpt.model import Json

SUFFIXES = (".yaml", ".yml", ".json")
_SHOWN, _LARGEST = 20, 1_000_000
_FLOAT = r"[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?"

Title = Annotated[str, Meta(min_length=1, max_length=LONGEST_NAME)]
Text = Annotated[str, Meta(max_length=LONGEST_DESCRIPTION)]
Words = Annotated[list[Title], Meta(max_length=MOST_WORDS)]
Models = Annotated[list[Title], Meta(min_length=1, max_length=MOST_WORDS)]
Seconds = Annotated[float, Meta(gt=0, le=LONGEST_TIMEOUT_S)]
Reference = Annotated[str, Meta(min_length=1, max_length=LONGEST_ID)]


class _Named(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The base of all that is identified by a name."""

    name: Title


class ParameterSpec(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What a test case says of a parameter; the value of a secret one is in no file."""

    secret: bool = False


class TestCaseSpec(_Named, kw_only=True):
    """A test case, with the fields and bounds of `POST /api/testcases`."""

    __test__ = False

    description: Text = ""
    device_model: Title | Models
    requirements: Words = []
    tags: Words = []
    timeout_s: Seconds | None = None
    test_retries: Annotated[int, Meta(ge=0, le=MOST_RETRIES)] = 0
    parameters: Annotated[dict[Title, ParameterSpec], Meta(max_length=MOST_WORDS)] = {}
    steps: Annotated[list[dict[str, Any]], Meta(min_length=1, max_length=MOST_STEPS)]

    def __post_init__(self) -> None:
        """Write a list of models as the server does: one alone is a text, none stands twice."""
        if isinstance(self.device_model, list):
            asked = any_of(self.device_model)
            self.device_model = asked if isinstance(asked, str) else list(asked)


class CampaignEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One entry of a campaign; it refers to its test case by name."""

    test_case: Title
    device_id: Reference | None = None
    host_id: Reference | None = None
    parameters: dict[str, Any] = {}


class CampaignSpec(_Named, kw_only=True):
    """A campaign, with the fields and bounds of `POST /api/campaigns`, but names instead of ids."""

    description: Text = ""
    stop_on_failure: bool = False
    parallelism: Annotated[int, Meta(ge=1, le=MOST_PARALLEL)] = 1
    priority: Annotated[int, Meta(ge=0, le=HIGHEST_PRIORITY)] = DEFAULT_PRIORITY
    test_cases: Annotated[list[CampaignEntry], Meta(min_length=1, max_length=MOST_ENTRIES)]


class Document(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """The content of one file, or of all files together."""

    test_cases: list[TestCaseSpec] = []
    campaigns: list[CampaignSpec] = []


Name = Annotated[
    str, Meta(pattern=r"^\$\{[^{}]+\}$")
]  # `${name}`: the run replaces it by a parameter


class _Step(msgspec.Struct):
    """The fields of a step that the server reads; all others are for the host."""

    timeout_s: Seconds | Name = 1.0
    retries: Annotated[float, Meta(ge=0, le=MOST_STEP_RETRIES)] | Name = 0
    continue_on_failure: bool | Name = False
    delay_s: Annotated[float, Meta(ge=0, le=LONGEST_TIMEOUT_S)] | Name = 0


class _Steps(msgspec.Struct):
    steps: list[_Step]


class _Outline(msgspec.Struct):
    test_cases: list[_Steps] = []


Spec = TypeVar("Spec", TestCaseSpec, CampaignSpec)


def changed_fields(old: Spec, new: Spec) -> list[str]:
    """Return the names of the fields whose values differ."""
    before, after = _whole(old), _whole(new)
    return [name for name in before if not _same(before[name], after[name])]


def _whole(thing: Spec) -> Json:
    return {name: msgspec.to_builtins(getattr(thing, name)) for name in thing.__struct_fields__}


def _same(old: Any, new: Any) -> bool:
    """Compare as JSON does: in Python True equals 1, in JSON it does not."""
    match old, new:
        case dict(), dict():
            return old.keys() == new.keys() and all(_same(old[key], new[key]) for key in old)
        case list(), list():
            return len(old) == len(new) and all(map(_same, old, new))
    return isinstance(old, bool) == isinstance(new, bool) and bool(old == new)


# ---------------------------------------------------------------- reading


@dataclass
class FileContent:
    """The test cases and campaigns of all files, by name, and the errors found in the files."""

    test_cases: dict[str, TestCaseSpec] = field(default_factory=dict)
    campaigns: dict[str, CampaignSpec] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    _at: dict[tuple[str, str], Path] = field(default_factory=dict)

    def load(self, path: Path) -> None:
        """Add the content of a file, or its errors to `wrong`."""
        try:
            documents = [_checked(raw) for raw in _parsed(path)]
        except yaml.MarkedYAMLError as error:
            self._note(path, error.problem or error.context or "no YAML", error.problem_mark)
            return
        except RecursionError:
            self._note(path, "it is nested too deeply, or contains itself")
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

    def _add(self, path: Path, word: str, things: list[Spec], known: dict[str, Spec]) -> None:
        for thing in things:
            first = self._at.setdefault((word, thing.name), path)
            if thing.name in known:
                self._note(path, f"the {word} {thing.name!r} is already defined in {first}")
            known[thing.name] = thing


def read_files(paths: Iterable[Path]) -> FileContent:
    """Read files, and all YAML and JSON files below folders.

    Raises MisuseError with all errors, file by file.
    """
    wanted = FileContent()
    for path in _files(paths):
        wanted.load(path)
    if wanted.wrong:
        raise MisuseError(first_of(wanted.wrong))
    return wanted


def first_of(wrong: list[str]) -> str:
    """Return the first errors, one per line, and the number of the others."""
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
    """Yield the files below a folder; links are followed, but not back into `above`."""
    inside = (*above, folder.resolve())
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.resolve() in inside:
            continue
        if path.is_dir():
            yield from _below(path, inside)
        elif path.suffix in SUFFIXES:
            if not path.exists():  # --prune would delete what a skipped file defines
                raise MisuseError(f"{path} is a link to a file that does not exist.")
            if path.is_file():
                yield path


def _parsed(path: Path) -> Iterator[Any]:
    text = path.read_text(encoding="utf-8-sig")  # editors on Windows write a byte order mark
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
    """Return the place of an error that ends with a path such as `$.campaigns[0]`, if known."""
    found = re.search(r" - at `(?:key in )?\$([^`]*)`$", words)
    if found is None:
        return None
    try:
        [node] = yaml.compose_all(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (ValueError, yaml.YAMLError, RecursionError):  # several documents, or no YAML
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
        raise ValueError(f"{twice!r} appears twice in one object")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def _check_json(value: Any, at: str, counted: Iterator[int]) -> None:
    """Raise ValueError for values that JSON does not have, and for more than `_LARGEST` values.

    The limit stops a small file whose YAML references unfold to millions of values.
    """
    if next(counted) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} values")
    match value:
        case dict():
            for key, inner in value.items():
                if not isinstance(key, str):
                    raise ValueError(  # noqa: TRY004 (an error in the file)
                        f"the key {key!r} is not a text: quote it - at `{at}`"
                    )
                _check_json(inner, f"{at}.{key}", counted)
        case list():
            for number, inner in enumerate(value):
                _check_json(inner, f"{at}[{number}]", counted)
        case float() if not math.isfinite(value):
            raise ValueError(f"{value} is not a JSON number - at `{at}`")
        case str() if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"an unpaired surrogate (half a character) - at `{at}`")
        case None | str() | bool() | int() | float():
            pass
        case _:
            raise ValueError(f"JSON has no {type(value).__name__} - at `{at}`")


class _Loader(yaml.SafeLoader):
    """Reads YAML with the types of JSON: no dates, `yes` is a text, 017 is a text."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Raise ConstructorError for a repeated key: YAML would silently drop one of the two."""
        plain = [key.value for key, _ in node.value if key.tag not in ("tag:yaml.org,2002:merge",)]
        if len(set(plain)) < len(plain):
            twice = next(name for name in plain if plain.count(name) > 1)
            raise yaml.constructor.ConstructorError(
                None, None, f"{twice!r} appears twice in one mapping", node.start_mark
            )
        return super().construct_mapping(node, deep)


def _whole_characters(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Join surrogate pairs: JSON escapes some characters as two, which YAML keeps apart."""
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
    """Writes YAML for people: indented lists, texts of several lines as blocks, no references."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        """Indent lists below their key, which PyYAML does not."""
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        """Write equal values in full, never as a reference."""
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)
#: In addition to the numbers of YAML 1.1, so that 1e3 as a text is quoted for every reader.
_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(rf"(?:{_FLOAT})\Z"), list("-+0123456789")
)


def dump(test_cases: list[TestCaseSpec], campaigns: list[CampaignSpec], form: str) -> str:
    """Return the text of a file in `form`, yaml or json; equal content gives equal text."""
    whole: Json = msgspec.to_builtins(Document(test_cases=test_cases, campaigns=campaigns))
    for case in whole.get("test_cases", ()):
        if case.get("timeout_s", 0.5).is_integer():
            case["timeout_s"] = int(case["timeout_s"])
    if form == "json":
        return json.dumps(whole, ensure_ascii=False, indent=2) + "\n"
    text: str = yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
