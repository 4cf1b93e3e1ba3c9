"""Whether a JSON value has the shape that its reader needs. A digest tells of accidents, not of what never was right."""

from collections.abc import Callable, Mapping
from typing import Any

NUMBER = (int, float)
Shape = Any
"""A type or a tuple of types, never bool for int; [shape] of a list's elements; {key: shape} of keys that must be there, or may
if they end in "?"; {str: shape} of all values of a mapping; or a function that says whether a value fits."""


def check_shape(value: Any, shape: Shape, what: str) -> None:
    """Raise ValueError, naming the first place that differs, unless a value has a shape.

    Args:
        value: as read from JSON.
        shape: what it must be.
        what: begins the sentence of the error, such as a path.
    """
    place = _misfit(value, shape, "it")
    if place is not None:
        raise ValueError(
            f"{what} is damaged, or another command wrote it: {place[:200]} is missing or of another kind than is read here; "
            "restore it, or choose another folder."
        )


def check_events(events: list[dict[str, Any]], shapes: Mapping[str, Shape], what: str) -> None:
    """The same for the events of a log, by their kind; further kinds may be anything."""
    for number, event in enumerate(events, start=1):
        check_shape(event, shapes.get(event["event"], dict), f"event {number} of {what}")


def _misfit(value: Any, shape: Shape, place: str) -> str | None:
    if isinstance(shape, type | tuple):
        kinds = shape if isinstance(shape, tuple) else (shape,)
        return None if isinstance(value, kinds) and (bool in kinds or type(value) is not bool) else place
    if isinstance(shape, list):
        parts = enumerate(value) if isinstance(value, list) else None
        return place if parts is None else _first(parts, lambda _: shape[0], place)
    if isinstance(shape, Mapping):
        if not isinstance(value, dict):
            return place
        if str in shape:
            return _first(value.items(), lambda _: shape[str], place)
        for key in shape:
            if not key.endswith("?") and key not in value:
                return f"{place}.{key}"
        expected = {key.removesuffix("?"): part for key, part in shape.items()}
        return _first(((key, value[key]) for key in expected if key in value), expected.__getitem__, place)
    return None if shape(value) else place


def _first(parts: Any, shape_of: Callable[[Any], Shape], place: str) -> str | None:
    misfits = (_misfit(part, shape_of(key), f"{place}.{key}") for key, part in parts)
    return next((each for each in misfits if each is not None), None)
