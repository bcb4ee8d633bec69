"""What a rank knows of where it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.launch.place import sees_gpu


@pytest.mark.parametrize(
    ("environment", "devices", "expected"),
    [
        ({}, [], False),
        ({}, ["nvidiactl", "null"], False),
        ({}, ["nvidia0"], True),
        ({}, ["kfd"], True),
        ({"CUDA_VISIBLE_DEVICES": "1,2"}, [], True),
        ({"CUDA_VISIBLE_DEVICES": ""}, ["nvidia0"], False),
        ({"HIP_VISIBLE_DEVICES": "-1"}, ["kfd"], False),
    ],
)
def test_gpus(tmp_path: Path, environment: dict[str, str], devices: list[str], expected: bool) -> None:
    for name in devices:
        (tmp_path / name).touch()
    assert sees_gpu(environment, tmp_path) is expected
