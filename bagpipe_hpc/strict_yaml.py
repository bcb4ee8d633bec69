"""YAML files that may come from anywhere. Reading one takes bounded time and memory, and every value has a line.

Beyond YAML's own rules it refuses a key that is given twice in one mapping, values that are nested too deeply, aliases
that expand to too many values or contain themselves, and files that are too large or not regular. Only plain values are
made; nothing is executed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from bagpipe_hpc.bounded_json import read_bounded
from bagpipe_hpc.errors import ConfigError

MAX_BYTES = 1 << 19
MAX_DEPTH = 32
MAX_VALUES = 30_000  # counting each value of an alias every time that the alias is used

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """The content of a YAML text.

    Args:
        value: Plain values, mappings and lists of them.
        lines: The line of the value at each place, counted from 1. A place consists of the keys and indices that lead
            to the value.
    """

    value: Any
    lines: Mapping[Place, int] = field(default_factory=dict)


def read_yaml_file(path: Path, name: str) -> Document:
    """Read a file. Messages call it `name`.

    Raises:
        ConfigError: The file cannot be read, or is not such YAML; names the line.
    """
    content = read_bounded(path, max_bytes=MAX_BYTES, error=ConfigError, mend=f"check the path of the {name}")
    return parse_yaml(decode_yaml(content, path, name), f"{name} {path}")


def decode_yaml(content: bytes, path: Path, name: str) -> str:
    """Return the text of a file.

    Raises:
        ConfigError: It is not UTF-8.
    """
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} {path} is not valid YAML: {error}; correct it") from None


def parse_yaml(text: str, name: str) -> Document:
    """Parse a text. Messages call it `name`.

    Raises:
        ConfigError: The text is not such YAML; names the line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return Document(None if node is None else loader.construct_document(node), _lines_of(node))
        finally:
            loader.dispose()
    except _RefusedError as error:
        raise ConfigError(f"{name}, line {error.line}: {error}; correct it") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: an invalid value that looks like a date or a number
        raise ConfigError(f"{name} is not valid YAML: {_shortened(_without_name(str(error)))}; correct it") from None


def _without_name(error: str) -> str:
    """Return an error as one line, without the name that the library gives to every text."""
    text = " ".join(error.split())
    return text.replace('in "<unicode string>", position', "at position").replace('in "<unicode string>",', "in")


def _shortened(text: str) -> str:
    return text if len(text) <= 400 else f"{text[:200]} ... {text[-190:]}"


class _RefusedError(Exception):
    """The text is valid YAML, but this module refuses it."""

    def __init__(self, mark: yaml.Mark, what: str) -> None:
        super().__init__(what)
        self.line = mark.line + 1


def is_text(value: str) -> bool:
    """Return whether a string can be encoded: in Python it may contain surrogates, which stand for invalid bytes."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


class _Loader(yaml.SafeLoader):
    """Composes one value after the other, so that it stops at the first one that is refused."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._num_values = 0
        self._sizes: dict[int, int] = {}  # number of values in finished nodes, by identity, with aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs of yaml leave it without types
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            size = self._sizes.get(id(node))
            if size is None:
                raise _RefusedError(event.start_mark, "an alias stands for a value that contains it")
            self._count(size, event.start_mark)
            return node
        before, self._depth = self._num_values, self._depth + 1
        if self._depth > MAX_DEPTH:
            raise _RefusedError(event.start_mark, f"nested too deeply, more than {MAX_DEPTH} levels")
        self._count(1, event.start_mark)
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.MappingNode):
            _require_distinct(node)
        elif isinstance(node, yaml.ScalarNode) and not is_text(node.value):
            raise _RefusedError(
                event.start_mark, f"{node.value[:80]!r} is not valid Unicode text: it contains an unpaired surrogate"
            )
        self._depth -= 1
        self._sizes[id(node)] = self._num_values - before
        return node

    def _count(self, size: int, mark: yaml.Mark) -> None:
        self._num_values += size
        if self._num_values > MAX_VALUES:
            raise _RefusedError(mark, f"there are more than {MAX_VALUES:,} values when aliases are written out")


def _require_distinct(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
        first = lines.get((key.tag, key.value))
        if first is not None:
            raise _RefusedError(key.start_mark, f"{key.value[:80]!r} is given twice, first in line {first}")
        lines[key.tag, key.value] = key.start_mark.line + 1


def _lines_of(node: yaml.Node | None, place: Place = ()) -> dict[Place, int]:
    """Return the line of every place. Aliases are expanded, which `MAX_VALUES` bounds."""
    if node is None:
        return {}
    lines = {place: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*place, str(key.value) if isinstance(key, yaml.ScalarNode) else "")
            lines |= _lines_of(value, inner)
            lines[inner] = key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines |= _lines_of(value, (*place, index))
    return lines
