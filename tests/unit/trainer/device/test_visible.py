"""Which processes may use a GPU, without torch."""

from __future__ import annotations

from pathlib import Path

import pytest

from bagpipe_hpc.trainer.device.visible import is_given_gpu, offers_gpu


def test_gpus_are_found_without_torch(tmp_path: Path) -> None:
    assert not offers_gpu(tmp_path, {})
    (tmp_path / "nvidiactl").touch()
    assert not offers_gpu(tmp_path, {})
    (tmp_path / "nvidia0").touch()
    assert offers_gpu(tmp_path, {})
    assert offers_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert offers_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"})
    for hidden in ("", "-1", "-1,0", "NoDevFiles", "none"):
        assert not offers_gpu(tmp_path, {"CUDA_VISIBLE_DEVICES": hidden})
        assert not offers_gpu(tmp_path, {"ROCR_VISIBLE_DEVICES": hidden})
        assert not offers_gpu(tmp_path, {"HIP_VISIBLE_DEVICES": hidden})


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
def test_ranks_that_were_given_gpus(
    tmp_path: Path, environment: dict[str, str], devices: list[str], expected: bool
) -> None:
    for name in devices:
        (tmp_path / name).touch()
    assert is_given_gpu(environment, tmp_path) is expected
