"""The time that a job has: `--time-limit`, or the time to the end of the Slurm job. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bagpipe_hpc.errors import ConfigError

_UNITS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_WITH_UNIT = re.compile(r"(\d{1,12}(?:\.\d*)?) ?(s|min|h|d)", re.ASCII)
_MINUTES = re.compile(r"(\d{1,12})(?::(\d{1,12}))?", re.ASCII)  # minutes, minutes:seconds
_HOURS = re.compile(r"(\d{1,12}):(\d{1,12}):(\d{1,12})", re.ASCII)  # hours:minutes:seconds
# days-hours, days-hours:minutes, days-hours:minutes:seconds
_DAYS = re.compile(r"(\d{1,12})-(\d{1,12})(?::(\d{1,12}))?(?::(\d{1,12}))?", re.ASCII)


def parse_time_limit(text: object) -> float:
    """Return the seconds of a duration in the notation of Slurm's --time, or of a number with a unit.

    A bare number means minutes, as in Slurm.

    Raises:
        ConfigError: the text is not a duration above 0.
    """
    if not isinstance(text, str):
        raise ConfigError(f"time_limit = {text!r} is not text: give it as Slurm does, such as '30' for 30 minutes")
    text = text.strip()
    if found := _WITH_UNIT.fullmatch(text):
        total = float(found[1]) * _UNITS[found[2]]
    else:
        total = float(_seconds_in_slurm_notation(text))
    if total <= 0:
        raise ConfigError(
            f"--time-limit {text!r} is not a duration above 0. Give it as Slurm does: minutes, M:S, H:M:S, D-H, D-H:M "
            "or D-H:M:S; or a number with one of the units s, min, h, d, such as 90s"
        )
    return total


def _seconds_in_slurm_notation(text: str) -> int:
    """Return the seconds of a duration in the notation of Slurm; 0 if the text is not one."""
    if found := _MINUTES.fullmatch(text):
        days, hours, minutes, seconds = 0, 0, int(found[1]), int(found[2] or 0)
    elif found := _HOURS.fullmatch(text):
        days, (hours, minutes, seconds) = 0, map(int, found.groups())
    elif found := _DAYS.fullmatch(text):
        days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    else:
        return 0
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def seconds_left(time_limit: str | None, environment: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that the job has from now on; None if there is no limit.

    Args:
        time_limit: A duration that the user gives. None: the job ends with the Slurm job, if it runs in one.
        environment: The environment of the process. It may hold SLURM_JOB_END_TIME.
        now: Seconds since the epoch.
    Raises:
        ConfigError: the limit is not a duration above 0.
    """
    if time_limit is not None:
        return parse_time_limit(time_limit)
    try:
        return max(0.0, float(environment["SLURM_JOB_END_TIME"]) - now)
    except (KeyError, ValueError):
        return None
