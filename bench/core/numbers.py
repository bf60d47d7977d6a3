"""Numbers in text, and in JSON records, which store a number without a finite value as null."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def storable(value: Any) -> Any:
    """Return a number as a record stores it: of a Python type, and None instead of NaN and infinity."""
    if hasattr(value, "item"):  # of NumPy or torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: A number of a record that may have no value. Every stored metric is one.
Number = Annotated[bool | int | float | None, BeforeValidator(storable)]
#: A number of a record that always has a value.
Finite = Annotated[float, Field(allow_inf_nan=False)]
