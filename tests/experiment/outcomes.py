"""What a finished cell has stored, without times and provenance, for bit-exact comparisons."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch

from bench.experiment.cell_folder import CellFolder

#: Ends of the keys that times, attempts and memory determine.
VARIABLE = ("seconds", "resumes", "provenance", "chunk")


def outcome(folder: CellFolder) -> dict[str, Any]:
    """Return the content of a finished cell by file."""
    result, evaluation = folder.result(), folder.evaluation()
    assert result and result.status == "ok" and not result.failure, result
    assert evaluation and not evaluation.pending
    examples = pd.read_parquet(folder.path / "examples.parquet")
    with np.load(folder.path / "arrays.npz") as arrays:
        content = dict(arrays)
    texts = folder.path / "texts.json"
    return {
        "training": result.training.model_dump(),
        "history": [line.model_dump() for line in folder.history()],
        "evaluation": evaluation.model_dump() | {"settings": asdict(evaluation.settings)},
        "examples": {name: examples[name].to_numpy() for name in examples},
        "arrays": content,
        "texts": texts.read_text("utf-8") if texts.exists() else None,
        **{name: torch.load(folder.path / name, weights_only=True) for name in ("best.pt", "last.pt")},
    }


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return where two contents differ; NaN equals itself."""
    if place.endswith(VARIABLE):
        return []
    if isinstance(one, dict) and isinstance(other, dict):
        keys = sorted({*one, *other}, key=str)
        return [line for key in keys for line in differences(one.get(key), other.get(key), f"{place}/{key}")]
    if isinstance(one, (list, tuple)) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [line for i, (a, b) in pairs for line in differences(a, b, f"{place}/{i}")]
    if isinstance(one, torch.Tensor):
        one, other = one.cpu().numpy(), other.cpu().numpy()
    if isinstance(one, np.ndarray) and one.dtype != object:
        equal = one.dtype == other.dtype and one.tobytes() == other.tobytes()
    else:
        equal = repr(one) == repr(other)
    return [] if equal else [f"{place}: {one!r:.60} is not {other!r:.60}"]


def assert_same_outcome(one: CellFolder, other: CellFolder) -> None:
    """Fail if two finished cells differ in one bit."""
    lines = differences(outcome(one), outcome(other))
    assert not lines, "\n".join(lines[:10])
