"""Fields of request bodies, stricter than those of marshmallow, and how a field is described."""

from __future__ import annotations

from typing import Any

from marshmallow import ValidationError, validate
from marshmallow import fields as f

from vpt.bounds import (
    DEFAULT_PRIORITY,
    HIGHEST_PRIORITY,
    LONGEST_DESCRIPTION,
    LONGEST_ID,
    LONGEST_NAME,
    LONGEST_PROPERTY,
    LONGEST_PROPERTY_NAME,
    LONGEST_TIMEOUT_S,
    MOST_PROPERTIES,
    MOST_WORDS,
)
from vpt.device_models import DeviceModel, any_of
from vpt.model import Json
from vpt.store.tokens import HOST_NAME, LOCAL_ID, is_dots

#: What a host may call itself and its devices: both go into ids and paths.
HOST_NAME_FORM = "expected 1 to 64 letters, digits, '.', '_' or '-', not dots alone"
LOCAL_ID_FORM = "expected 1 to 64 letters, digits, '.', '_' or '-', and a port (:5555) or none"


def _refuse_dots(name: str) -> None:
    if is_dots(name):
        raise ValidationError(HOST_NAME_FORM)


NAME = (validate.Regexp(rf"{HOST_NAME.pattern}\Z", error=HOST_NAME_FORM), _refuse_dots)
LOCAL_NAME = validate.Regexp(rf"{LOCAL_ID.pattern}\Z", error=LOCAL_ID_FORM)
INSTANCE = validate.Regexp(
    r"[A-Za-z0-9_-]{8,64}\Z", error="expected 8 to 64 letters, digits, '_' or '-'"
)
LABEL = validate.Length(1, LONGEST_NAME)
CAPABILITIES = "Capabilities, which test cases can require."
TAGS = "Tags to filter lists by."


class Properties(f.Dict):
    """An object of few short texts, numbers and booleans."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> Any:
        told: Json = super()._deserialize(value, attr, data, **kwargs)  # type: ignore[no-untyped-call]
        if len(told) > MOST_PROPERTIES:
            raise ValidationError(f"expected at most {MOST_PROPERTIES} properties")
        for name, item in told.items():
            if not 0 < len(name) <= LONGEST_PROPERTY_NAME:
                raise ValidationError(f"expected names of 1 to {LONGEST_PROPERTY_NAME} characters")
            if not _is_property(item):
                raise ValidationError(
                    f"{name}: expected a boolean, a number, or a text of at most"
                    f" {LONGEST_PROPERTY} characters"
                )
        return told


def _is_property(item: Any) -> bool:
    if isinstance(item, str):
        return len(item) <= LONGEST_PROPERTY
    return isinstance(item, bool | int | float) and abs(item) < 1e15  # noqa: PLR2004 (and no NaN)


class DeviceModels(f.Field[DeviceModel]):
    """A device model, or a list of several, any of which will do: repeated ones count once."""

    _one = f.String(validate=LABEL)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> DeviceModel:
        models = value if isinstance(value, list) else [value]
        validate.Length(1, MOST_WORDS)(models)
        return any_of([self._one.deserialize(one, attr, data, **kwargs) or "" for one in models])


class Number(f.Float):
    """A JSON number; refuses strings of digits and booleans, which marshmallow accepts."""

    def _validated(self, value: Any) -> float:
        if isinstance(value, str):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Whole(f.Integer):
    """A whole JSON number, which may be written 1.0."""

    def __init__(self, **options: Any) -> None:
        super().__init__(strict=True, **options)

    def _validated(self, value: Any) -> int:
        whole = isinstance(value, float) and value.is_integer()
        return super()._validated(int(value) if whole else value)


class Flag(f.Boolean):
    """JSON true or false; refuses "yes", 1 and the like, which marshmallow accepts."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class BoundedList(f.List[Any]):
    """A list of at most `most` items; a longer one is refused before its items are looked at."""

    def __init__(self, item: f.Field[Any], most: int, least: int | None = None, **options: Any):
        self._length = validate.Length(least, most)
        super().__init__(item, validate=self._length, **options)

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, list):
            self._length(value)
        return super()._deserialize(value, attr, data, **kwargs)


def about(sentence: str) -> dict[str, str]:
    """Build the metadata that describes a field in the OpenAPI document."""
    return {"description": sentence} if sentence else {}


def labels(sentence: str, most: int, **options: Any) -> BoundedList:
    """Build a field for a list of capabilities, requirements or tags."""
    return BoundedList(f.String(validate=LABEL), most, metadata=about(sentence), **options)


def title(sentence: str) -> f.String:
    """Build a required field for a name."""
    return f.String(required=True, validate=LABEL, metadata=about(sentence))


def bounded(sentence: str, lowest: int, highest: int, **options: Any) -> Whole:
    """Build a field for a whole number from `lowest` to `highest`."""
    return Whole(validate=validate.Range(lowest, highest), metadata=about(sentence), **options)


def seconds(sentence: str, *, zero: bool = False, **options: Any) -> Number:
    """Build a field for a duration, which may be 0 where `zero` is set."""
    bounds = validate.Range(0, LONGEST_TIMEOUT_S, min_inclusive=zero)
    return Number(validate=bounds, metadata=about(sentence), **options)


def reference(sentence: str) -> f.String:
    """Build an optional field for an id."""
    length = validate.Length(1, LONGEST_ID)
    return f.String(load_default=None, allow_none=True, validate=length, metadata=about(sentence))


def device_reference() -> f.String:
    """Build the field for the device to run on."""
    return reference(
        "The device to run on: its id, or its host's own name for it (`local_id`);"
        " without it, any device that fits."
    )


def host_reference() -> f.String:
    """Build the field for the host to run on."""
    return reference("The host to run on; without it, any host.")


def parameters() -> f.Dict:
    """Build the field for the values of a test case's parameters."""
    return f.Dict(load_default=dict, metadata=about("Values for `${name}` in the steps, by name."))


def priority() -> Whole:
    """Build the field for the place in the queue."""
    return bounded(
        f"0 to {HIGHEST_PRIORITY}, higher first; equal ones run in queue order.",
        0,
        HIGHEST_PRIORITY,
        load_default=DEFAULT_PRIORITY,
    )


def description() -> f.String:
    """Build the field for a free text."""
    length = validate.Length(max=LONGEST_DESCRIPTION)
    return f.String(load_default="", validate=length, metadata=about("A free text for people."))
