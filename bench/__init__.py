"""A benchmark harness that compares methods against posterior collapse in VAEs.

``bench.load(cell)`` gives back a trained cell, ``bench.frame(OUT)`` a table of all that are stored, ``bench.diagnose``
a diagnosis of any VAE. Importing this package costs nothing: torch, pandas and ray are imported by what uses them.
"""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core import __version__ as __version__
from bench.core.host import LOCK, unchanged_process

if TYPE_CHECKING:
    from pandas import DataFrame

    from bench.diagnosis import diagnose as diagnose
    from bench.experiment.trained_cell import TrainedCell

_METHODS = Path(__file__).parent / "methods" / "__init__.py"
if not _METHODS.exists():  # a checkout: ``bench.methods`` is the folder next to this one
    _spec = spec_from_file_location(f"{__name__}.methods", _METHODS.parents[2] / "methods" / "__init__.py")
    if _spec and _spec.loader:
        methods = sys.modules[_spec.name] = module_from_spec(_spec)
        _spec.loader.exec_module(methods)

__all__ = ["diagnose", "frame", "load"]


def __getattr__(name: str) -> Any:
    """Import ``diagnose`` when it is used."""
    if name != "diagnose":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bench.diagnosis import diagnose

    return diagnose


def load(cell: str | Path, data_dir: str | Path | None = None, device: str = "cpu") -> TrainedCell:
    """Load the trained cell in a folder, with its selected weights: encode, decode, sample, metrics.

    ``device``: "cpu", "cuda" or "auto". Raise ``UserError`` if there is no trained cell or its weights are missing.
    """
    with LOCK, unchanged_process():
        from bench.core.files import expand_user
        from bench.experiment.trained_cell import TrainedCell

        return TrainedCell.read(expand_user(cell), Path(data_dir) if data_dir else None, device)


def frame(out: str | Path = "out") -> DataFrame:
    """Return one row for every stored cell under ``out``, whatever its state: settings, metrics, costs and folder."""
    with LOCK, unchanged_process():
        from bench.core.files import expand_user
        from bench.reporting.frame import stored_frame

        return stored_frame(expand_user(out))
