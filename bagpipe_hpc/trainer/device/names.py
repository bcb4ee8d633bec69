"""The names of devices, as settings and options have them."""

from __future__ import annotations

from typing import Literal, get_args

from bagpipe_hpc.errors import ConfigError

DeviceName = Literal["auto", "cpu", "gpu"]
_ALIASES: dict[str, DeviceName] = {"cuda": "gpu"}


def device_named(option: str, name: str) -> DeviceName:
    """Return the setting training.device that an option of a command names.

    Args:
        option: The name of the option, for the message.
        name: Its value.
    Raises:
        ConfigError: there is no such device.
    """
    names: dict[str, DeviceName] = {known: known for known in get_args(DeviceName)} | _ALIASES
    if name not in names:
        raise ConfigError(f"{option} is {name!r}; give {', '.join(get_args(DeviceName))}")
    return names[name]
