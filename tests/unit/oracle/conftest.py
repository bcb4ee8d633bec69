"""Records are printed, as by the command."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bagpipe_hpc.log import printing_records


@pytest.fixture(autouse=True)
def printed() -> Iterator[None]:
    """What the oracle logs is on standard output."""
    with printing_records():
        yield
