"""What the bodies of test cases, campaigns and executions may hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from marshmallow import Schema, ValidationError, pre_load, validate
from marshmallow import fields as f

from vpt.model import Json
from vpt.steps import LONGEST_TIMEOUT, STEP_KEYS, KeyRule, step_errors

MOST_STEPS = MOST_ENTRIES = 1000
MOST_WORDS = 100
MOST_RETRIES = 10


class Number(f.Float):
    """A number of JSON: no string of digits, no boolean."""

    def _validated(self, value: Any) -> float:
        if isinstance(value, str):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Whole(f.Integer):
    """A whole number of JSON, which may be written 1.0."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strict=True, **options)

    def _validated(self, value: Any) -> int:
        whole = isinstance(value, float) and value.is_integer()
        return super()._validated(int(value) if whole else value)


class Flag(f.Boolean):
    """True or false of JSON, nothing that looks like them."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


def about(sentence: str) -> dict[str, str]:
    """Make the metadata of a field, for people; none of nothing."""
    return {"description": sentence} if sentence else {}


def words(sentence: str) -> f.List[str]:
    """Make a field for a list of names: capabilities, tags."""
    word = f.String(validate=validate.Length(1, 100))
    many = validate.Length(max=MOST_WORDS)
    return f.List(word, load_default=list, validate=many, metadata=about(sentence))


def title(sentence: str) -> f.String:
    """Make a required field of 1 to 100 characters."""
    return f.String(required=True, validate=validate.Length(1, 100), metadata=about(sentence))


def _whole(sentence: str, lowest: int, highest: int, **options: Any) -> Whole:
    return Whole(validate=validate.Range(lowest, highest), metadata=about(sentence), **options)


def _seconds(sentence: str, *, zero: bool = False, **options: Any) -> Number:
    bounds = validate.Range(0, LONGEST_TIMEOUT, min_inclusive=zero)
    return Number(validate=bounds, metadata=about(sentence), **options)


def _reference(sentence: str) -> f.String:
    length = validate.Length(1, 200)
    return f.String(load_default=None, allow_none=True, validate=length, metadata=about(sentence))


def _device() -> f.String:
    return _reference("On which device: its id, or its host's own name for it; else any that fits.")


def _parameters() -> f.Dict:
    return f.Dict(load_default=dict, metadata=about("What `${name}` in the steps stands for."))


def _priority() -> Whole:
    return _whole("Who waits longest at equal priority is first.", 0, 100, load_default=50)


def _description() -> f.String:
    length = validate.Length(max=1000)
    return f.String(load_default="", validate=length, metadata=about("More on it."))


def _step_field(key: KeyRule) -> f.Field[Any]:
    """Build the field that describes one of the server's keys of a step."""
    if key.kind == "boolean":
        return Flag(metadata=about(key.about))
    if key.kind == "integer":
        return _whole(key.about, int(key.lowest), int(key.highest))
    return _seconds(key.about, zero=not key.above_lowest)


#: What the server itself reads of a step, for the API's description; `vpt.steps` checks it.
STEP_FIELDS: Mapping[str, f.Field[Any]] = {
    name: _step_field(key) for name, key in STEP_KEYS.items()
}


#: What may stand in the place of any of these, as JSON Schema has it: it takes the value's type.
PARAMETER: Json = {"type": "string", "pattern": r"^\$\{[^{}]+\}$"}


class Step(f.Dict):
    """An action as a JSON object."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:  # noqa: ARG002
        if not isinstance(value, dict):
            raise self.make_error("invalid")
        if errors := step_errors(value, filled_in=False):
            raise ValidationError(errors)
        return value


class _Item(Schema):
    """An object that may come back as it was read: fields that only the server sets are dropped."""

    id = f.String(dump_only=True, metadata=about("Made by the server."))
    version = f.Integer(dump_only=True, metadata=about("Raised by each PUT."))
    created_at = f.DateTime(dump_only=True, metadata=about("Set by the server."))
    updated_at = f.DateTime(dump_only=True, metadata=about("Set by the server."))

    @pre_load
    def _without_read_only(self, data: Json, **_: Any) -> Json:
        return {
            key: value
            for key, value in data.items()
            if key in self.load_fields or key not in self.fields
        }


class TestCaseSchema(_Item):
    """A test case."""

    __test__ = False

    name = title("What people call it.")
    description = _description()
    steps = f.List(
        Step(),
        required=True,
        validate=validate.Length(1, MOST_STEPS),
        metadata=about("What is done, in order."),
    )
    device_model = title("Which devices can run it: the model, or a capability of their host.")
    requirements = words("Capabilities that the device or its host needs.")
    tags = words("Words to find it by.")
    timeout_s = _seconds("Seconds that an attempt may take.", load_default=None, allow_none=True)
    test_retries = _whole("More attempts after a failed one.", 0, MOST_RETRIES, load_default=0)
    example: ClassVar[Json] = {
        "name": "The app starts",
        "description": "",
        "steps": [
            {
                "command": "http_request",
                "action_type": "desktop",
                "params": {"url": "${url}"},
                "timeout_s": 30,
            }
        ],
        "device_model": "desktop",
        "requirements": [],
        "tags": ["smoke"],
        "timeout_s": None,
        "test_retries": 0,
    }


class ExecuteSchema(Schema):
    """The wish to run a test case."""

    device_id = _device()
    host_id = _reference("On which host.")
    priority = _priority()
    parameters = _parameters()
    timeout_s = _seconds(
        "Seconds that an attempt may take, instead of the test case's own.",
        load_default=None,
        allow_none=True,
    )
    queue_timeout_s = _seconds(
        "Seconds that it may wait for a device.", load_default=None, allow_none=True
    )
    example: ClassVar[Json] = {
        "device_id": "pi-1:desktop",
        "priority": 80,
        "parameters": {"url": "http://127.0.0.1:5109/api/health/live"},
        "timeout_s": 120,
    }


class EntrySchema(Schema):
    """One test case of a campaign, and where to run it."""

    test_case_id = f.String(
        required=True, validate=validate.Length(1, 200), metadata=about("What is run.")
    )
    device_id = _device()
    host_id = _reference("On which host.")
    parameters = _parameters()


class CampaignSchema(_Item):
    """A campaign."""

    name = title("What people call it.")
    description = _description()
    test_cases = f.List(
        f.Nested(EntrySchema),
        required=True,
        validate=validate.Length(1, MOST_ENTRIES),
        metadata=about("What is run, in order."),
    )
    stop_on_failure = Flag(
        load_default=False, metadata=about("Start nothing new after a failed or error.")
    )
    parallelism = _whole("How many run at the same time.", 1, 1000, load_default=1)
    priority = _priority()
    example: ClassVar[Json] = {
        "name": "Every night",
        "description": "",
        "test_cases": [
            {
                "test_case_id": "tc_0123456789abcdef",
                "device_id": None,
                "host_id": None,
                "parameters": {"url": "http://127.0.0.1:5109/api/health/live"},
            }
        ],
        "stop_on_failure": False,
        "parallelism": 1,
        "priority": 50,
    }


class NothingSchema(Schema):
    """No field at all: an empty body, or {}."""

    example: ClassVar[Json] = {}


TEST_CASE = TestCaseSchema()
EXECUTE = ExecuteSchema()
CAMPAIGN = CampaignSchema()
NOTHING = NothingSchema()
