"""What is wrong with a value that a user gave, in words for users instead of the words of pydantic."""

from __future__ import annotations

from typing import Any

from pydantic_core import ErrorDetails

_WORDS = {
    "missing": "is not given",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "none_required": "must be null",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "too_short": "must hold at least {min_length}, but holds {actual_length}",
    "too_long": "must hold at most {max_length}, but holds {actual_length}",
    "string_too_short": "is too short: characters needed: {min_length}",
    "string_too_long": "is too long: characters allowed: {max_length}",
    "string_pattern_mismatch": "must match {pattern}",
}


def in_words(fault: ErrorDetails) -> str:
    """Return why a value is refused, to be printed after its name."""
    words = _WORDS.get(fault["type"])
    if words is None:
        return fault["msg"].removeprefix("Value error, ")
    return words.format(**{name: _figure(value) for name, value in fault.get("ctx", {}).items()})


def _figure(value: Any) -> Any:
    return f"{value:g}" if isinstance(value, float) else value


def shown(value: Any) -> str:
    """Return a value as messages show it, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:80]} ... {text[-36:]}"
