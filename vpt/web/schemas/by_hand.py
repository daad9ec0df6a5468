"""What people see and do by hand on a device."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from marshmallow import Schema, validate
from marshmallow import fields as f

from vpt.bounds import LONGEST_ID, LONGEST_TIMEOUT_S
from vpt.model import Json
from vpt.web.schemas.fields import Number, Whole, about
from vpt.web.schemas.response import ResponseSchema, flag, number, one_of, text

_FARTHEST = 100_000  # pixels


class ActionKind(StrEnum):
    """Whether a device is to do something, or its state is to be checked."""

    ACTION = "action"
    VERIFICATION = "verification"


class FieldKind(StrEnum):
    """What a person enters into a field of a form."""

    TEXT = "text"
    NUMBER = "number"
    WHOLE = "whole"
    FLAG = "flag"
    JSON = "json"


class Care(StrEnum):
    """What an admin does to a host, or to the power of a device."""

    RESTART_SERVICE = "restart_service"
    REBOOT = "reboot"
    RESTART_STREAM = "restart_stream"
    POWER_ON = "power_on"
    POWER_OFF = "power_off"
    POWER_REBOOT = "power_reboot"


class TapBody(Schema):
    """Where to tap."""

    x = Whole(
        required=True,
        validate=validate.Range(0, _FARTHEST),
        metadata=about("Pixels of the device's screen from the left."),
    )
    y = Whole(
        required=True,
        validate=validate.Range(0, _FARTHEST),
        metadata=about("Pixels of the device's screen from the top."),
    )
    example: ClassVar[Json] = {"x": 540, "y": 1200}


class HandActionBody(Schema):
    """The parameters of an action, whose command is in the path."""

    kind = f.Enum(
        ActionKind,
        by_value=True,
        load_default=ActionKind.ACTION,
        metadata=about("As the device's controls name it."),
    )
    type = f.String(
        load_default=None,
        allow_none=True,
        validate=validate.Length(1, LONGEST_ID),
        metadata=about("The `action_type` or `verification_type`, as the controls name it."),
    )
    params = f.Dict(
        keys=f.String(), load_default=dict, metadata=about("The parameters of the action.")
    )
    timeout_s = Number(
        load_default=None,
        allow_none=True,
        validate=validate.Range(0, LONGEST_TIMEOUT_S, min_inclusive=False),
        metadata=about("Seconds that the action may take."),
    )
    example: ClassVar[Json] = {"kind": "action", "type": "remote", "params": {"key": "HOME"}}


class ControlField(ResponseSchema):
    """A field of an action's form; an empty name: the whole parameters as JSON."""

    name = text()
    label = text()
    kind = one_of(FieldKind)
    required = flag()
    default = f.Raw(allow_none=True)
    hint = text(none=True)
    placeholder = text(none=True)
    min = number(none=True)
    max = number(none=True)
    options = f.List(f.Raw(), allow_none=True)


class ControlAction(ResponseSchema):
    """An action or verification that the host declares for the device."""

    kind = one_of(ActionKind)
    category = text()
    command = text()
    type = text("Its `action_type` or `verification_type`.")
    label = text()
    description = text(none=True)
    params = f.Dict(metadata=about("Parameters that are always the same."))
    fields_ = f.List(f.Nested(ControlField), data_key="fields", attribute="fields")


class ControlsResponse(ResponseSchema):
    """What can be seen and done by hand."""

    picture = flag("Whether the host takes pictures of it.")
    stream = flag("Whether the host may have a live stream of it.")
    tap = flag("Whether one can tap on its picture.")
    elements = flag("Whether the host lists the elements on its screen.")
    shell = flag("Whether it runs shell commands.")
    care = flag("Whether the host can be restarted from here.")
    power = flag("Whether the device's power can be switched.")
    actions = f.List(f.Nested(ControlAction))
    example: ClassVar[Json] = {
        "picture": True,
        "stream": True,
        "tap": True,
        "elements": True,
        "shell": False,
        "care": True,
        "power": False,
        "actions": [
            {
                "kind": "action",
                "category": "Remote",
                "command": "click_element",
                "type": "remote",
                "label": "Click element by text",
                "description": None,
                "params": {},
                "fields": [
                    {
                        "name": "element_text",
                        "label": "Element text",
                        "kind": "text",
                        "required": True,
                        "default": None,
                        "hint": None,
                        "placeholder": "Home",
                        "min": None,
                        "max": None,
                        "options": None,
                    }
                ],
            }
        ],
    }


class ElementBounds(ResponseSchema):
    """Where an element is, in pixels of the device's screen."""

    left = number()
    top = number()
    right = number()
    bottom = number()


class ScreenElement(ResponseSchema):
    """An element on the screen."""

    id = text(none=True)
    text = text(none=True)
    description = f.String(allow_none=True, metadata=about("What it is for people who cannot see."))
    type = f.String(allow_none=True)
    bounds = f.Nested(ElementBounds, allow_none=True)
    clickable = flag()


class ElementsResponse(ResponseSchema):
    """The elements on the screen of the device."""

    elements = f.List(f.Nested(ScreenElement))
    example: ClassVar[Json] = {
        "elements": [
            {
                "id": "3",
                "text": "Home",
                "description": None,
                "type": "android.widget.TextView",
                "bounds": {"left": 0, "top": 80, "right": 200, "bottom": 160},
                "clickable": True,
            }
        ]
    }
