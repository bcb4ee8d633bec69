"""docs/settings.md, made from the configuration: `python -m tests.settings_doc` writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bagpipe_hpc.config import Config
from tests.launch import REPO_ROOT

SETTINGS = REPO_ROOT / "docs" / "settings.md"
HEAD = """\
# Settings

Give any of these settings to `bagpipe train` in a YAML file or on the command line. `--set` overrides the file:

```
bagpipe train job.yaml --data DIR --run-dir RUN_DIR --set training.epochs=3 --set cache.rows=1000000
```

This page lists all settings. `python -m tests.settings_doc` generates it from `bagpipe_hpc/config.py`.

| setting | default | allowed | what it is |
|---|---|---|---|
"""
BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def render() -> str:
    """The whole page."""
    return HEAD + "\n".join(rows()) + "\n"


def rows() -> list[str]:
    """One line of the table per setting."""
    schema = Config.model_json_schema()
    defaults = Config().model_dump(mode="json")
    return list(_rows(schema, schema["$defs"], defaults, ""))


def _rows(schema: dict[str, Any], sections: dict[str, Any], defaults: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, field in schema["properties"].items():
        if "$ref" in field:
            yield from _rows(sections[field["$ref"].split("/")[-1]], sections, defaults[name], f"{prefix}{name}.")
        else:
            default = defaults[name] if isinstance(defaults[name], str) else json.dumps(defaults[name])
            yield f"| `{prefix}{name}` | {default} | {_allowed(field)} | {field['description']} |"


def _allowed(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_allowed(choice) for choice in field["anyOf"])
    if "const" in field or "enum" in field:
        return ", ".join(field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        items = field.get("prefixItems") or [field["items"]]
        return f"list of {_allowed(items[0])}"
    if field["type"] == "object":
        return "mapping"
    bounds = [f"{sign} {_number(field[bound])}" for bound, sign in BOUNDS.items() if bound in field]
    return ", ".join([str(field["type"]), *bounds])


def _number(bound: float) -> str:
    return "2^63" if bound == 2**63 else f"{bound:g}" if isinstance(bound, float) else str(bound)


if __name__ == "__main__":
    SETTINGS.write_text(render(), encoding="utf-8")
