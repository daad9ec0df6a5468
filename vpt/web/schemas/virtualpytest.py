"""What VirtualPyTest hosts send, read by hand since it is up to 40 KB and loosely typed.

An optional field with an unusable value counts as absent. Only a body without a usable name, URL
or device id is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from marshmallow import INCLUDE, Schema, validate
from marshmallow import fields as f

from vpt.bounds import LONGEST_ID, LONGEST_NAME, MOST_LABELS
from vpt.dialects.base import clean
from vpt.errors import InvalidError
from vpt.model import Credential, Device, DeviceSchema, Host, Json, Presence, Registration
from vpt.store.tokens import HOST_NAME, LOCAL_ID, is_dots
from vpt.urls import check_host_url
from vpt.web.schemas.fields import HOST_NAME_FORM, LOCAL_ID_FORM, about
from vpt.web.schemas.hosts import MOST_DEVICES, device_schema, stats_of
from vpt.web.schemas.response import ResponseSchema, text

DIALECT = "virtualpytest"
_MOST_FIELDS = 100
_FAMILY_OF_VERIFICATIONS = "verification"
#: Fields of `system_stats` that do not change while the machine runs.
_HARDWARE = ("platform", "architecture", "python_version", "memory_total_gb", "disk_total_gb")
_ADDRESS = ("host_ip", "host_port")
_HOST_WORKS = "has_running_deployment"
#: Fields of a ping, for each device, that are stored as samples.
_METRICS = (
    "disk_usage",
    "ffmpeg_status",
    "ffmpeg_last_activity",
    "ffmpeg_working_uptime_seconds",
    "monitor_status",
    "monitor_last_activity",
    "monitor_working_uptime_seconds",
    _HOST_WORKS,
)


class HostOfTheFieldBody(Schema):
    """What a VirtualPyTest host sends; other fields with unusable values are ignored."""

    class Meta:
        """These hosts send many more fields."""

        unknown = INCLUDE

    host_name = f.String(
        required=True,
        validate=validate.Regexp(rf"(?:{HOST_NAME.pattern})\Z"),
        metadata=about("The name of the host, which is its id on this server."),
    )
    example: ClassVar[Json] = {
        "host_name": "rack-1",
        "host_url": "http://10.0.0.8:6109",
        "devices": [{"device_id": "device1", "device_name": "TV", "device_model": "stb"}],
    }


class TaskCompleteBody(Schema):
    """The end of a script."""

    class Meta:
        """These hosts send more fields."""

        unknown = INCLUDE

    task_id = f.String(
        required=True,
        validate=validate.Length(1, LONGEST_ID),
        metadata=about("The id that the host gave the script when it started."),
    )
    result = f.Raw(allow_none=True, metadata=about("The result of the script, as an object."))
    error = f.Raw(allow_none=True, metadata=about("Why the script could not run."))
    example: ClassVar[Json] = {"task_id": "6d1f", "result": {"exit_code": 0}, "error": None}


#: Only for the OpenAPI document: the functions below read these bodies, in a thread.
HOST_OF_THE_FIELD, TASK_COMPLETE = HostOfTheFieldBody(), TaskCompleteBody()


def host_name_of(body: Json) -> str:
    """Return the name of the host; InvalidError when it has none that is allowed."""
    name = body.get("host_name")
    if not isinstance(name, str) or not HOST_NAME.fullmatch(name) or is_dots(name):
        raise InvalidError({"host_name": [HOST_NAME_FORM]})
    return name


def registration_of(body: Json, *, peer: str, credential: Credential) -> Registration:
    """Build the registration from what the host sent; InvalidError when that is not possible."""
    host_id = host_name_of(body)
    url, page_url = _urls(body, peer, credential)
    declared = _declared(body)
    return Registration(
        host=Host(
            id=host_id,
            url=url,
            dialect=DIALECT,
            capabilities=_words(body.get("capabilities")),
        ),
        devices=tuple(_device(host_id, name, said) for name, said in declared.items())
        or (Device(id=host_id, local_id=None, name=host_id, model=None),),
        hardware=_scalars(body, _ADDRESS) | _scalars(body.get("system_stats"), _HARDWARE),
        secret=None,
        credential=credential,
        page_url=page_url,
        schemas=_schemas(host_id, declared),
    )


def health_of(body: Json) -> tuple[Json | None, Json | None]:
    """Return the numbers of a ping, and those of each device by the host's own id for it."""
    metrics: dict[str, Json] = {}
    for field in ("per_device_metrics", "devices"):
        for item in _objects(body.get(field)):
            name = item.get("device_id")
            told = _scalars(item, _METRICS)
            if told and isinstance(name, str) and LOCAL_ID.fullmatch(name):
                metrics.setdefault(name, {}).update(told)
    return stats_of(body), dict(list(metrics.items())[:MOST_LABELS]) or None


def host_work_of(body: Json) -> dict[str, Presence]:
    """Return, by its own ids for its devices, on which the host works by itself, as a ping says."""
    said = (
        (item.get("device_id"), item.get(_HOST_WORKS)) for item in _objects(body.get("devices"))
    )
    told = {
        name: Presence(None, at_work=works)
        for name, works in said
        if isinstance(name, str) and LOCAL_ID.fullmatch(name) and isinstance(works, bool)
    }
    return dict(list(told.items())[:MOST_DEVICES])


def end_of_script(body: Json) -> tuple[str, Json]:
    """Return the id of the task that ended and its result, with texts cut to 1 MiB."""
    task_id = body.get("task_id")
    sane = isinstance(task_id, str) and 0 < len(task_id) <= LONGEST_ID and _is_name(task_id)
    if not isinstance(task_id, str) or not sane:  # it is logged and sent back
        raise InvalidError({"task_id": ["Not a valid string."]})
    told = list(_object(body.get("result")).items())[:_MOST_FIELDS]
    result = {key: _plain(value) for key, value in told if _is_name(key)}
    return task_id, {"result": result or None, "error": clean(body.get("error"))}


def _is_name(key: str) -> bool:
    return key.isprintable() and "\ufffd" not in key  # which stands for a lone surrogate


def _plain(value: Any) -> Any:
    """Keep booleans and 64-bit numbers; make text of everything else."""
    if isinstance(value, int | float):
        return value if abs(value) < 2**63 else None
    return clean(value)


def _urls(body: Json, peer: str, credential: Credential) -> tuple[str, str | None]:
    """Return the URL for calls, and the one for browsers where that is allowed, too."""
    page = body.get("host_url")
    field = "host_api_url" if body.get("host_api_url") else "host_url"
    url = body.get(field)
    if not isinstance(url, str) or not url:
        raise InvalidError({field: ["Not a valid URL."]})
    try:
        checked = check_host_url(url, peer=peer, credential=credential)
    except InvalidError as error:
        raise InvalidError({field: error.errors["host_url"]}) from error
    return checked, checked if page == url else _page_url(page, peer, credential)


def _page_url(page: Any, peer: str, credential: Credential) -> str | None:
    """Check it like the URL for calls, since people open it; None when it is not allowed."""
    if not isinstance(page, str):
        return None
    try:
        return check_host_url(page, peer=peer, credential=credential)
    except InvalidError:
        return None


def _declared(body: Json) -> dict[str, Json]:
    """Return the declared devices by the host's own ids for them."""
    declared: dict[str, Json] = {}
    for said in _list(body.get("devices")):
        name = _object(said).get("device_id")
        if isinstance(name, int) and not isinstance(name, bool):
            name = str(name)
        if not isinstance(name, str) or not LOCAL_ID.fullmatch(name):
            raise InvalidError({"devices": [f"device_id: {LOCAL_ID_FORM}"]})
        if name in declared:
            raise InvalidError({"devices": [f"{name} is declared twice"]})
        declared[name] = said
    if len(declared) > MOST_DEVICES:
        raise InvalidError({"devices": [f"expected at most {MOST_DEVICES}"]})
    return declared


def _device(host_id: str, name: str, said: Json) -> Device:
    return Device(
        id=f"{host_id}:{name}",
        local_id=name,
        name=_label(said.get("device_name")) or name,
        model=_label(said.get("device_model")),
        capabilities=_capabilities(said),
    )


def _capabilities(said: Json) -> frozenset[str]:
    """Return the names of a device's capabilities, their drivers and its verifications."""
    words: list[str] = []
    for family, how in _object(said.get("device_capabilities")).items():
        if how:
            words += [family, *sorted(_words(how))]
    verified = _object(said.get("device_verification_types"))
    if verified:
        words += [_FAMILY_OF_VERIFICATIONS, *verified]
    return _words(words)


def _schemas(host_id: str, declared: Mapping[str, Json]) -> dict[str, DeviceSchema]:
    schemas: dict[str, DeviceSchema] = {}
    for name, said in declared.items():
        actions = _object(said.get("device_action_types"))
        verifications = _object(said.get("device_verification_types"))
        if actions or verifications:
            schemas[f"{host_id}:{name}"] = device_schema(actions, verifications)
    return schemas


def _words(said: Any) -> frozenset[str]:
    """Return the words of a string or list; anything else is left out."""
    each = [said] if isinstance(said, str) else _list(said)
    words = (item.strip() for item in each if isinstance(item, str))
    kept = dict.fromkeys(word for word in words if 0 < len(word) <= LONGEST_NAME)
    return frozenset(list(kept)[:MOST_LABELS])


def _label(said: Any) -> str | None:
    return said.strip()[:LONGEST_NAME].strip() or None if isinstance(said, str) else None


def _scalars(said: Any, names: Iterable[str]) -> Json:
    """Return the fields of these names that are text (cut), numbers or booleans."""
    picked = {name: _object(said).get(name) for name in names}
    return {
        name: value[:LONGEST_NAME] if isinstance(value, str) else value
        for name, value in picked.items()
        if isinstance(value, str | int | float)
    }


def _object(said: Any) -> Json:
    return said if isinstance(said, dict) else {}


def _objects(said: Any) -> Iterable[Json]:
    return (item for item in _list(said) if isinstance(item, dict))


def _list(said: Any) -> list[Any]:
    return said if isinstance(said, list) else []


class TaskHeardResponse(ResponseSchema):
    """The end of the task was accepted."""

    status = text("Always `success`.")
    task_id = text()
    example: ClassVar[Json] = {"status": "success", "task_id": "6d1f"}
