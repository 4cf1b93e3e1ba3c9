"""How a plan's file is read: a small YAML file of plain values, and nothing that could grow when it is read."""

import math
import os
from typing import Any

import yaml

from zolab.records.files import read_bytes
from zolab.runs.config import require, shown

LARGEST = 1 << 16  # bytes of a plan
DEEPEST = 10  # of a mapping or list in another
COUNT = 10**6  # of what a study makes many of
NAME = 80  # characters; names become parts of names of folders


def read_yaml(path: str | os.PathLike) -> Any:
    """The value in a YAML file without anchors, aliases, tags, merged or repeated keys.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too large, nested too deeply, no YAML, or has any of those; the sentence names the line.
    """
    content = read_bytes(path, LARGEST)
    try:
        text = content.decode()
        _check_events(text)
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError) as error:  # a ValueError of Python's, too, such as at the date 2020-13-45
        raise ValueError(f"{path} is not a YAML file of a plan ({' '.join(str(error).split())[:400]}); correct it.") from error


def _check_events(text: str) -> None:
    """Before anything is made: the parser's events come one after another."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        line = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError(f"{line} has an anchor or an alias; write the value out")
        if getattr(event, "tag", None):
            raise ValueError(f"{line} has the tag {shown(event.tag)}; leave it out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"{line} is nested more than {DEEPEST} deep")


class _Loader(yaml.SafeLoader):
    """PyYAML's, which takes the last of two equal keys without a word, told not to."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            line = f"line {key.start_mark.line + 1}"
            if key.tag != "tag:yaml.org,2002:str":
                raise ValueError(f"{line} has the key {shown(key.value)}, which is not a text; put it in quotes")
            if key.value in seen:
                raise ValueError(f"{line} has the key {shown(key.value)} for the second time; remove one")
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def check_values(value: Any, place: str = "", depth: int = 0) -> None:
    """Raise ValueError, naming the place, unless a value is made of texts, numbers, truth values, lists and mappings."""
    if isinstance(value, dict | list) and depth < DEEPEST:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            require(isinstance(key, str | int) and (isinstance(value, list) or isinstance(key, str)), _no_text(key, place))
            check_values(part, f"{place}.{key}" if place else str(key), depth + 1)
        return
    if isinstance(value, int | float):
        require(math.isfinite(value) and abs(value) < 1e300, f"{place[:200]} must be a finite number, got {shown(value)}.")
        require(isinstance(value, float) or abs(value) < 2**64, f"{place[:200]} is too large, {shown(value)}.")
    else:
        require(
            value is None or isinstance(value, str), f"{place[:200]} has a value of no kind that a plan has; put it in quotes."
        )


def _no_text(key: Any, place: str) -> str:
    return f"{place[:200] or 'the plan'} has the key {shown(key)}, which is not a text; put it in quotes."


def check_named(place: str, group: dict[str, Any]) -> None:
    """Raise ValueError unless names that become parts of names of folders can be that, and have settings or nothing."""
    for name, own in group.items():
        fits = 0 < len(name) <= NAME and name.isprintable() and "/" not in name and not name.startswith(".")
        require(fits, f"{place} has the name {shown(name)}, which cannot name a folder; choose another.")
        require(isinstance(own, dict | None), f"{place}.{name} must be settings, got {shown(own)}.")


def check_option(key: str, value: Any, default: Any) -> None:
    """Raise ValueError unless a study's own key has a value like its default, None standing for a text."""
    kind = str if default is None else type(default)
    fits = type(value) is kind or (value is None and default is None)
    require(fits, f"{key} must be a {kind.__name__}, got {shown(value)}.")
    if kind is int:
        require(abs(value) <= COUNT, f"{key} must be at most {COUNT:,}, got {shown(value)}.")
    if kind is dict:
        check_named(key, value)
