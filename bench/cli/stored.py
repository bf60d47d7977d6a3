"""Tasks on stored cells, run as ``python -m bench run`` runs its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from bench.cli.options import cell_resources

if TYPE_CHECKING:
    from rich.console import Console

    from bench.evaluation.config import EvaluationConfig
    from bench.experiment.cell_record import CellRecord

#: A cell, what must be evaluated of it, its planned decoder updates, and its share of the work in any unit.
Work = tuple["CellRecord", "EvaluationConfig", int, float]


def run_stored(
    args: argparse.Namespace, out: Path, work: Sequence[Work], console: Console, training: bool
) -> list[str]:
    """Do what is missing of stored cells, one run per device; return a line for every cell that is not done then.

    Without ``training`` they are only evaluated.
    """
    from bench.cli.progress import CellProgress, RunProgress
    from bench.data.registry import data_folder
    from bench.experiment import queries
    from bench.experiment.cell_folder import CellFolder
    from bench.experiment.plan import cell_state
    from bench.experiment.schema import Status
    from bench.experiment.session import run_tasks

    log, data_dir = partial(console.print, markup=False), data_folder(args.data_dir)
    for device in sorted({cell.config.device for cell, *_ in work}):
        batch = [each for each in work if each[0].config.device == device]
        resources = cell_resources(args, device)
        tasks = [
            queries.stored_task(cell, config, data_dir, resources, training, len(batch)) for cell, config, *_ in batch
        ]
        progress = [
            CellProgress(
                f"{cell.folder.parent.name} {cell.folder.name}", CellFolder(cell.folder), updates, weight, config
            )
            for cell, config, updates, weight in batch
        ]
        run_tasks(out, tasks, resources, RunProgress(progress, console), log)
    states = [(cell.folder, cell_state(CellFolder(cell.folder), config)) for cell, config, *_ in work]
    return [
        f"failed: {folder}: {state.reason or state.retrain_reason or 'interrupted'}"
        for folder, state in states
        if state.status is not Status.DONE
    ]
