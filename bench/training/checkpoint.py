"""What a cell needs to go on, to and from disk.

``last.pt`` is the newest state of training and ``previous.pt`` the one before it; ``best.pt`` holds the weights that
validation selected. All are read with ``weights_only``: a checkpoint cannot run code.
"""

from __future__ import annotations

import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bench.core.errors import UserError
from bench.core.files import rename_to_backup, replace
from bench.core.safe_io import open_regular_file


class Damaged(UserError):
    """A checkpoint is not what was written, and training cannot go on from what there is: it must begin anew."""


def save(folder: Path, name: str, state: dict[str, Any]) -> None:
    replace(folder / name, lambda file: torch.save(state, file), parents=False)


def save_last(folder: Path, state: dict[str, Any]) -> None:
    """Keep the state before this one, so that a checkpoint which turns out unreadable costs one step back."""
    last = folder / "last.pt"
    if last.exists():
        last.replace(folder / "previous.pt")
    save(folder, "last.pt", state)


def load(path: Path, device: torch.device | str) -> dict[str, Any]:
    with open_regular_file(path, sys.maxsize) as file:
        content = file.read()  # an error here is the disk's; torch raises some of the same kind for torn content
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what torch finds odd in a foreign file
            return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except OSError as error:
        raise ValueError(str(error)) from error


def load_best(folder: Path, device: torch.device | str, update: int | None) -> dict[str, Any]:
    """The weights selected at ``update``. ``Damaged`` where they cannot be read or are of another update."""
    path = folder / "best.pt"
    try:
        best = load(path, device)
        if best.get("update", update) != update:
            raise ValueError(f"it is of update {best['update']}, not {update}")
        return best
    except FileNotFoundError as error:
        raise Damaged(f"{path} is gone: train the cell again") from error
    except OSError:  # it may well be whole
        raise
    except Exception as error:  # torch raises many kinds for a torn or foreign file
        raise Damaged(f"{path} is damaged ({_first_line(error)}): train the cell again") from error


def states(folder: Path, device: torch.device | str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The readable states of training, the newest first; one that is damaged is put aside."""
    for name in ("last.pt", "previous.pt"):
        path = folder / name
        try:
            state = load(path, device)
        except FileNotFoundError:
            continue
        except OSError:  # it may well be whole
            raise
        except Exception:  # torch raises many kinds for a torn or foreign file; the one before is the remedy for all
            rename_to_backup(path)
            continue
        yield path, state


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
