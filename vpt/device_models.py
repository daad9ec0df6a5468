"""The device models that a test case asks for: one, or several of which any will do."""

from __future__ import annotations

from collections.abc import Sequence

#: One model is a text everywhere, also where it was written as a list.
DeviceModel = str | tuple[str, ...]


def models_of(wanted: DeviceModel) -> tuple[str, ...]:
    """Return the device models of which any will do."""
    return (wanted,) if isinstance(wanted, str) else wanted


def any_of(models: Sequence[str]) -> DeviceModel:
    """Build what asks for any of these models, at least one; repeated ones count once."""
    distinct = tuple(dict.fromkeys(models))
    return distinct if len(distinct) > 1 else distinct[0]


def from_columns(device_model: str, device_models: Sequence[str]) -> DeviceModel:
    """Build what is asked for from the two columns of a row."""
    return any_of(device_models or (device_model,))


def to_columns(wanted: DeviceModel) -> dict[str, str | list[str]]:
    """Return the two columns: the first model, and all of them where there are several."""
    models = models_of(wanted)
    return {"device_model": models[0], "device_models": list(models[1:] and models)}
