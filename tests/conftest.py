"""Settings of all tests."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.parts import required_parts

# Nothing here depends on how fast the machine is.
settings.register_profile("bagpipe", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("bagpipe")

# In memory, where there is a place: jobs wait for their checkpoints to be on disk, and a busy disk takes its time.
MEMORY = Path("/dev/shm")
TEMPORARY = str(MEMORY) if os.access(MEMORY, os.W_OK) else tempfile.gettempdir()
os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", TEMPORARY)


def pytest_configure() -> None:
    """Refuse unknown parts before the first test."""
    try:
        required_parts(os.environ)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
