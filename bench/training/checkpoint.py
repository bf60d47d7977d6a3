"""Checkpoints of training.

``last.pt`` holds the newest state, ``previous.pt`` the one before it, ``best.pt`` the selected weights. They are read
with ``weights_only=True``, so a checkpoint cannot execute code.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError, error_summary
from bench.core.files import rename_to_backup, replace


class DamagedCheckpoint(UserError):
    """Training cannot continue from the stored checkpoints: the cell must be trained again."""


def save(path: Path, state: dict[str, Any]) -> None:
    """Replace a checkpoint atomically. Raise ``StorageError`` if it cannot be written."""
    replace(path, lambda file: torch.save(state, file), parents=False)


def save_last(folder: Path, state: dict[str, Any]) -> None:
    """Save the state of training; the state before it becomes ``previous.pt``."""
    last = folder / "last.pt"
    if last.exists():
        last.replace(folder / "previous.pt")
    save(last, state)


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    """Return the content of a checkpoint. Raise ``OSError`` if it cannot be read, ``ValueError`` if damaged."""
    content = path.read_bytes()  # torch raises OSError for damaged content, too
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise ValueError(error_summary(error)) from error
    if not isinstance(state, dict):
        raise ValueError("not a checkpoint")
    return state


def load_best(folder: Path, device: torch.device | str, update: int | None) -> dict[str, Any]:
    """Return the weights selected at ``update``. Raise ``DamagedCheckpoint`` if they are missing or others."""
    path = folder / "best.pt"
    try:
        best = load(path, device)
    except (FileNotFoundError, ValueError) as error:
        raise DamagedCheckpoint(f"{path} is missing or damaged ({error}): train the cell again") from error
    if best.get("update") != update:
        raise DamagedCheckpoint(f"{path} is of update {best.get('update')}, not {update}: train the cell again")
    return best


def load_states(folder: Path, device: torch.device | str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the stored states of training, newest first. Damaged files are renamed to backups."""
    for path in (folder / "last.pt", folder / "previous.pt"):
        try:
            yield path, load(path, device)
        except FileNotFoundError:
            continue
        except ValueError:
            rename_to_backup(path)
