"""What a cell needs to go on, to and from disk.

``last.pt`` is the newest state of training and ``previous.pt`` the one before it; ``best.pt`` holds the weights that
validation selected. All are read with ``weights_only``: a checkpoint cannot run code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bench.store import replace


def save(path: Path, state: dict[str, Any]) -> None:
    replace(path, lambda file: torch.save(state, file))


def save_last(folder: Path, state: dict[str, Any]) -> None:
    """Keep the state before this one, so that a checkpoint which turns out unreadable costs one step back."""
    last = folder / "last.pt"
    if last.exists():
        last.replace(folder / "previous.pt")
    save(last, state)


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    return torch.load(path, map_location=device, weights_only=True)


def load_last(folder: Path, device: torch.device | str) -> dict[str, Any] | None:
    """The newest readable state of training, or None."""
    for name in ("last.pt", "previous.pt"):
        try:
            return load(folder / name, device)
        except FileNotFoundError:
            continue
        except Exception:  # torch raises many kinds for a torn or foreign file; the one before is the remedy for all
            continue
    return None
