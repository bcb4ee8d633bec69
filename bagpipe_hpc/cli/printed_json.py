"""What commands print with --json: one JSON value on standard output, for scripts."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts in place of text for people.")]


def print_json(tree: Any) -> None:
    """Print a tree of JSON values. Numbers that are not finite become null."""
    from bagpipe_hpc.bounded_json import finite

    print(json.dumps(finite(tree), indent=1, ensure_ascii=False, allow_nan=False))
