from __future__ import annotations

from tests.launch import run_python


def test_a_missing_library_can_be_reported() -> None:
    """What reports failures loads only the standard library and mpi4py, so that no rank waits for one without yaml."""
    program = "import sys, bagpipe_hpc.runtime.failure; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(run_python(["-c", program], timeout=60).stdout.split())
    assert "mpi4py" in loaded
    assert not loaded & {"yaml", "numpy", "h5py", "pydantic", "torch", "typer"}
