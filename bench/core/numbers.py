"""Numbers in JSON records. JSON has no NaN and no infinity: a number without a finite value is stored as null."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def storable(value: Any) -> Any:
    """Return a number as a record stores it: of a Python type, and None instead of NaN and infinity."""
    if hasattr(value, "item"):  # of NumPy or torch
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


#: A number of a record that may have no value. Every stored metric is one.
Number = Annotated[bool | int | float | None, BeforeValidator(storable)]
#: A number of a record that always has a value.
Finite = Annotated[float, Field(allow_inf_nan=False)]
