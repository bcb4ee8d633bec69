"""The YAML file that describes a table, and messages about errors in it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bagpipe_hpc.data.importing.description import (
    Category,
    CategoryList,
    Column,
    DenseFeature,
    Element,
    Group,
    History,
    Label,
    NamedLabel,
    TableDescription,
    Time,
)
from bagpipe_hpc.dynamic_rules import DynamicSchema
from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.fault_words import in_words, shown
from bagpipe_hpc.strict_yaml import Document, read_yaml_file

_PARTS: Mapping[str, type[BaseModel]] = {
    "label": Label,
    "labels": NamedLabel,
    "weight": Column,
    "group": Group,
    "time": Time,
    "dense": DenseFeature,
    "categorical": Category,
    "lists": CategoryList,
    "history": History,
}
_INNER: Mapping[str, type[BaseModel]] = {
    "elements": Element,
    "dynamic": DynamicSchema,
    **dict.fromkeys(("by", "order", "where"), Column),
}
"""Parts of parts."""


def load_description(path: Path) -> TableDescription:
    """Read a description from a YAML file.

    Raises:
        ConfigError: Names file, line, setting and what is allowed.
    """
    document = read_yaml_file(path, "schema")
    given = {} if document.value is None else document.value
    if not isinstance(given, dict):
        raise ConfigError(
            f"schema {path} must be a mapping of settings ({', '.join(TableDescription.model_fields)}), not a "
            f"{type(given).__name__}; docs/data.md describes all settings"
        )
    settings = {name: value for name, value in given.items() if value is not None}
    try:
        return TableDescription.model_validate(settings)
    except ValidationError as error:
        faults = "; ".join(_explained(error, document))
        raise ConfigError(f"schema {path}: {faults}; docs/data.md describes all settings") from None


def _explained(error: ValidationError, document: Document) -> Iterator[str]:
    told = set()
    for fault in error.errors():
        place = _place_of(fault)
        if place not in told:  # a column is tried as name and as number, but reported as one fault
            told.add(place)
            line = _line_of(place, document)
            yield ("" if line is None else f"line {line}: ") + _explain(fault, place)


def _line_of(place: tuple[int | str, ...], document: Document) -> int | None:
    """Return the line of the setting, or of the smallest part of the file that contains it."""
    if place[:1] == ("history",) and place[:2] not in document.lines:
        place = ("history", *place[2:])  # a single history need not be in a list
    while place and place not in document.lines:
        place = place[:-1]
    return document.lines.get(place) if place else None


def _place_of(fault: ErrorDetails) -> tuple[int | str, ...]:
    place = fault["loc"]
    return place[: place.index("column") + 1] if "column" in place[:-1] else place


def _explain(fault: ErrorDetails, place: tuple[int | str, ...]) -> str:
    if not place:
        return in_words(fault)
    name, value = _name_of(place), shown(fault["input"])
    if fault["type"] == "extra_forbidden":
        return _unknown(place)
    if fault["type"] == "missing":
        return f"{name} is not given"
    if place[-1] == "column":
        owner = _name_of(place[:-1])
        return (
            f"{owner} = {value}: must be the name of a column, in quotes if YAML reads it as something else, "
            "or its number counted from 1"
        )
    if fault["type"] == "value_error" and isinstance(fault["input"], dict):
        return f"{name}: {in_words(fault)}"
    if fault["type"] == "model_type":
        return f"{name} = {value}: must be a column, by name or number, or a mapping with `column`"
    if fault["type"] == "tuple_type" and name == "history":
        return f"{name} = {value}: must be a mapping, as in `history: {{of: item, by: user}}`, or a list of mappings"
    if fault["type"] == "tuple_type":
        example = fault["input"] if isinstance(fault["input"], str) else "a, b"
        return f"{name} = {value}: must be a list, as in `{name}: [{example}]`"
    return f"{name} = {value}: {in_words(fault)}"


def _name_of(place: tuple[int | str, ...]) -> str:
    """Return the place in the form `categorical[1].column`, in which entries are counted from 1."""
    name = ""
    for part in place:
        name += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def _unknown(place: tuple[int | str, ...]) -> str:
    model = _PARTS.get(str(place[0]), TableDescription) if len(place) > 1 else TableDescription
    model = next((_INNER[str(part)] for part in place[1:-1] if part in _INNER), model)
    valid, given = list(model.model_fields), str(place[-1])
    close = difflib.get_close_matches(given, valid, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    if model is Label and given in NamedLabel.model_fields:
        hint = f" (`labels: [{{column: ..., {given}: ...}}]` has it)"
    return f"unknown setting {_name_of(place)!r}{hint}; valid here: {', '.join(valid)}"
