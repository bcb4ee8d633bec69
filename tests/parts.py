"""Parts that some tests need and not every machine has: a test without its part is skipped, or fails if it is required.

    BAGPIPE_REQUIRE=cluster,clicks python -m pytest

Continuous integration requires every part that it does not explicitly go without, so that no test is skipped unnoticed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from tests.launch import REPO_ROOT

VARIABLE = "BAGPIPE_REQUIRE"
PARTS = {
    "cluster": "virtual hosts and Slurm on them",
    "clicks": "real click logs",
    "browser": "pages in a browser",
}
CLICK_LOGS = REPO_ROOT / ".." / "shared" / "data"


def required_parts(environment: Mapping[str, str]) -> frozenset[str]:
    """Parts that this run of the tests may not go without.

    Raises:
        ValueError: names the variable, the unknown part and the known ones.
    """
    parts = frozenset(environment.get(VARIABLE, "").replace(",", " ").split())
    if unknown := parts - PARTS.keys():
        raise ValueError(f"{VARIABLE} names unknown parts {sorted(unknown)} (allowed: {', '.join(PARTS)})")
    return parts


def skip_or_fail(part: str, reason: str) -> NoReturn:
    """Skip the test that runs now, or fail it if the part is required.

    Args:
        part: A key of `PARTS`.
        reason: What is missing.
    """
    if part in required_parts(os.environ):
        pytest.fail(f"{VARIABLE} requires {part!r} ({PARTS[part]}): {reason}", pytrace=False)
    pytest.skip(reason)


def real_clicks(name: str) -> Path:
    """Return the path of a file of real clicks; if it does not exist, the test is skipped or fails."""
    path = CLICK_LOGS / name
    if not path.exists():
        skip_or_fail("clicks", f"no {name} in ../shared/data beside the repository")
    return path
