"""Names of devices in options of commands."""

from __future__ import annotations

import pytest

from bagpipe_hpc.errors import ConfigError
from bagpipe_hpc.trainer.device.names import device_named


def test_names() -> None:
    assert [device_named("--device", name) for name in ("auto", "cpu", "gpu", "cuda")] == ["auto", "cpu", "gpu", "gpu"]
    with pytest.raises(ConfigError, match=r"--device is 'tpu'; give auto, cpu, gpu"):
        device_named("--device", "tpu")
