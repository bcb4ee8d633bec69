"""The rules of dynamic tables, whose ids are not known before (docs/data.md).

The ids of a dynamic table are 64-bit integers. The oracle gives them rows while it reads the samples
(lookahead/dynamic_rows.py). The smallest integer, MISSING, stands for a missing value. It never gets a row.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator

MISSING = -(2**63)  # see the module
ValueType = Literal["text", "hexadecimal", "integer"]
"""What the values of a column are. Ids of dynamic tables are hashes of texts, or the numbers themselves."""

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LIFETIME = re.compile(r"([1-9][0-9]{0,17}) ?(iterations|units|s|m|h|d)")


def require_lifetime(given: object) -> str | None:
    """Return what expire_after is. Raises ValueError if it is no lifetime."""
    if given is None:
        return None
    if not isinstance(given, str) or not _LIFETIME.fullmatch(given):
        raise ValueError(
            "must be a number of iterations, as in `500000 iterations`, or a time, as in `30d`, `12h`, `30m`, `90s` or "
            "`1000 units`"
        )
    return given


class DynamicSchema(BaseModel):
    """The rules of one dynamic table.

    Args:
        capacity: How many ids have rows at the same time, at most.
        admit_after: An id gets a row once it was used so often.
        admit_by: past_uses: the uses up to and including the batch count. future_uses: the uses in all training samples
            do, so an id that is used often enough gets its row with its first use.
        expire_after: An id loses its row when it was not used for this long: `500000 iterations`, or data time, as in
            `30d`, `12h`, `30m`, `90s` (where times are in seconds) or `1000 units`. None: never.
        at_capacity: What happens when a new id must get a row and none is left. oldest: it takes the row of the id with
            the oldest last use. error: the job ends.
        default_rows: The number of rows that ids without a row of their own share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    capacity: PositiveInt = Field(le=2**31 - 2)
    admit_after: PositiveInt = Field(1, le=2**31 - 1)
    admit_by: Literal["past_uses", "future_uses"] = "past_uses"
    expire_after: str | None = None
    at_capacity: Literal["error", "oldest"] = "error"
    default_rows: PositiveInt = Field(1, le=2**20)

    @field_validator("capacity", "admit_after", "default_rows", mode="before")
    @classmethod
    def _no_truth_value(cls, given: object) -> object:
        if isinstance(given, bool):  # pydantic would take it for 1
            raise ValueError(f"must be a number, not {str(given).lower()}")
        return given

    @field_validator("expire_after", mode="before")
    @classmethod
    def _is_a_lifetime(cls, given: object) -> str | None:
        return require_lifetime(given)

    @property
    def num_rows(self) -> int:
        """The number of rows: the default rows, then those of ids."""
        return self.default_rows + self.capacity

    @property
    def lifetime(self) -> int | None:
        """How many iterations an id lives after its last use; None: forever, or as long as lifetime_in_time says."""
        return self._lifetime_in("iterations")

    @property
    def lifetime_in_time(self) -> int | None:
        """How much data time an id lives after its last use, in the unit of the data set; None: iterations count."""
        return None if self.expire_after is None or self.lifetime is not None else self._lifetime_in("time")

    def _lifetime_in(self, kind: str) -> int | None:
        found = _LIFETIME.fullmatch(self.expire_after or "")
        if found is None or (found[2] == "iterations") != (kind == "iterations"):
            return None
        return int(found[1]) * _SECONDS.get(found[2], 1)
