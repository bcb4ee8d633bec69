"""JSON files that may come from anywhere. Reading one takes bounded time and memory.

`require_checksum` compares the content with the checksum in it. Reading refuses files that are too large or not
regular, text that is not UTF-8, values that are nested too deeply, integers of more than 64 bits, numbers that are not
finite, and a name that is given twice in one object. Writing produces only strict JSON, too.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from bagpipe_hpc.errors import BagpipeError

CHECKSUM = "checksum"
MAX_DEPTH = 64

_MAX_INTEGER_CHARACTERS = 20  # as -2^63 and 2^64 - 1 have
_INTEGERS = range(-(2**63), 2**64)
# Matches a whole string, or a bracket outside strings, which means nesting. Escaped quotes have been removed before.
_BRACKETS = re.compile(r'"[^"]*+"|[\[\]{}]')


def read_json(path: Path, *, max_bytes: int, error: type[BagpipeError], mend: str) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        max_bytes: Size of the largest valid file.
        error: Class of the exception to raise.
        mend: The end of every message: what the user can do about it.
    Returns:
        dict, list, str, int, float, bool or None, as `json.loads`.
    Raises:
        BagpipeError: Of class `error`; names the file and what is wrong with it.
    """
    return parse_json(read_bounded(path, max_bytes=max_bytes, error=error, mend=mend), path, error=error, mend=mend)


def read_bounded(path: Path, *, max_bytes: int, error: type[BagpipeError], mend: str) -> bytes:
    """Return the content of a regular file of at most max_bytes. Arguments and errors are those of `read_json`."""
    try:
        # Opening a device or a pipe can block or have side effects, so the path is also examined before.
        _require_regular(os.stat(path))
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            _require_regular(os.fstat(file.fileno()))
            content = file.read(max_bytes + 1)
    except ValueError as fault:  # the path has a NUL character, or a character that the file system cannot encode
        raise error(f"{str(path)!r}: is not a valid path ({fault}); {mend}") from None
    except FileNotFoundError as fault:
        raise error(f"{path}: is missing; {mend}") from fault
    except _NotRegularError as fault:
        raise error(f"{path}: {fault}; {mend}") from None
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror}); {mend}") from fault
    if len(content) > max_bytes:
        raise error(f"{path}: has more than {max_bytes:,} bytes, more than any such file; {mend}")
    return content


def parse_json(content: bytes, path: Path, *, error: type[BagpipeError], mend: str) -> Any:
    """Parse the content of the file at `path`. Arguments and errors are those of `read_json`."""
    try:
        return load_json(content)
    except ValueError as fault:
        raise error(f"{path}: is not valid JSON ({fault}); {mend}") from fault


def load_json(content: bytes) -> Any:
    """Parse a text that is part of something else.

    Raises:
        ValueError: The text is not JSON in UTF-8, or exceeds a bound.
    """
    text = content.decode("utf-8")
    _require_shallow(text)
    return json.loads(
        text,
        parse_int=_bounded_integer,
        parse_float=_finite_number,
        parse_constant=_refuse_constant,
        object_pairs_hook=_distinct,
    )


def dump_json(tree: Any, *, indent: int | None = 1) -> bytes:
    """Return a tree as strict JSON in UTF-8, with a newline at the end.

    Raises:
        ValueError: A number is not finite. Write null instead.
    """
    return json.dumps(tree, indent=indent, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def dump_line(tree: Any) -> str:
    """Return strict JSON as a line with its newline, for readers without bounds. Errors are those of `dump_json`."""
    return json.dumps(tree, ensure_ascii=False, allow_nan=False) + "\n"


def finite(tree: Any) -> Any:
    """Return the tree with null in place of numbers that are not finite, which JSON cannot represent."""
    if isinstance(tree, float) and not math.isfinite(tree):
        return None
    if isinstance(tree, Mapping):
        return {name: finite(value) for name, value in tree.items()}
    return [finite(value) for value in tree] if isinstance(tree, list | tuple) else tree


def with_checksum(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the object with its checksum as last member. It covers the values, not layout or order."""
    rest = {name: value for name, value in tree.items() if name != CHECKSUM}
    return {**rest, CHECKSUM: _checksum(rest)}


def require_checksum(tree: Any, path: Path, *, error: type[BagpipeError], mend: str) -> dict[str, Any]:
    """Compare an object, read from the file at `path`, with its checksum.

    Returns:
        The object without the checksum.
    Raises:
        BagpipeError: Of class `error`: it is not an object, has no checksum, or a wrong one.
    """
    if not isinstance(tree, dict):
        raise error(f"{path}: is not a JSON object; {mend}")
    rest = {name: value for name, value in tree.items() if name != CHECKSUM}
    if CHECKSUM not in tree:
        raise error(f"{path}: has no checksum: its end is lost, or another program or an old release wrote it; {mend}")
    if tree[CHECKSUM] != _checksum(rest):
        raise error(f"{path}: does not match its own checksum, so it was damaged or edited; {mend}")
    return rest


class _NotRegularError(Exception):
    """A path leads to something that is not a regular file."""


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _NotRegularError("is a directory, not a file")
    if not stat.S_ISREG(status.st_mode):
        raise _NotRegularError("is, or links to, a device, pipe or socket, not a regular file")


def _checksum(tree: Mapping[str, Any]) -> str:
    canonical = json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return "sha256:" + hashlib.sha256(canonical.encode()).hexdigest()


def _require_shallow(text: str) -> None:
    depth = 0
    # Two characters replace each removed escape, so that positions stay right.
    for matched in _BRACKETS.finditer(text.replace("\\\\", "  ").replace('\\"', "  ")):
        bracket = matched[0]
        if bracket in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep at character {matched.start()}")
        elif bracket in "]}":
            depth -= 1


def _bounded_integer(text: str) -> int:
    if len(text) > _MAX_INTEGER_CHARACTERS or int(text) not in _INTEGERS:
        raise ValueError(f"{_shortened(text)} is an integer of more than 64 bits")
    return int(text)


def _finite_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{_shortened(text)} is not a finite number")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a finite number")


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in members if names.count(name) > 1)
        raise ValueError(f"{_shortened(twice)!r} is given twice")
    return members


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:36]}..."
