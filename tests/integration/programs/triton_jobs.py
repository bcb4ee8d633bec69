"""Plays jobs in this process, on the CPU and with the Triton kernels in Triton's interpreter.

python triton_jobs.py DATA OUT JOBS, where JOBS is a file: {name: settings}. Each job is played
twice, in OUT/NAME-cpu and OUT/NAME-triton.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest

from bagpipe_hpc.launch.job import run_training
from bagpipe_hpc.launch.request import Request
from bagpipe_hpc.trainer import trainer
from bagpipe_hpc.trainer.device.choose import choose_device
from tests.fake_cuda import FakeCudaDevice, fake_cuda
from tests.interpreted_kernels import load_interpreted_kernels


def interpret_one_at_a_time() -> None:
    """The interpreter has one state for all threads, and computes with numpy."""
    kernels: Any = load_interpreted_kernels()
    lock = Lock()
    launch = kernels._launch

    def launch_alone(*args: Any, **constants: Any) -> None:
        with lock, np.errstate(all="ignore"):
            launch(*args, **constants)

    kernels._launch = launch_alone


def main(data: Path, out: Path, jobs: dict[str, list[str]]) -> int:
    interpret_one_at_a_time()
    from bagpipe_hpc.trainer.device.triton_kernels import TritonKernels

    with pytest.MonkeyPatch.context() as patch:
        fake_cuda(patch)
        for name, settings in jobs.items():
            for device in ("cpu", "triton"):
                choose = choose_device if device == "cpu" else lambda *_: FakeCudaDevice(TritonKernels())
                trainer.choose_device = choose  # type: ignore[attr-defined]
                if run_training(Request(None, data, out / f"{name}-{device}", settings, is_local=True)):
                    return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())))
