"""``python -m bench verify CELL …``: evaluate, or train, stored cells again and compare the numbers."""

from __future__ import annotations

import argparse
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.options import add_options, path
from bench.core.errors import UserError
from bench.evaluation.record import EVALUATION_VERSION

if TYPE_CHECKING:
    from bench.core.provenance import Provenance
    from bench.experiment.cell_record import CellRecord

#: Absolute and relative tolerance: rounding on another machine, thread count or library version.
ABSOLUTE, RELATIVE = 1e-3, 1e-4
#: Verdicts from best to worst, as they are printed.
VERDICTS = {"equal": "equal, bit for bit", "close": "equal up to rounding", "differs": "DIFFERS"}


def add_parser(commands: Any) -> None:
    """Add the command ``verify`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "verify",
        help="evaluate or train stored cells again and compare the numbers",
        description="Evaluate stored cells again, from their weights, and compare every number with the stored one. "
        "No stored file is changed. The exit status is 0 if all cells match.",
    )
    p.add_argument("cells", nargs="+", type=path, metavar="CELL", help="folder of one cell or of several")
    p.add_argument("--retrain", action="store_true", help="train again too, from scratch; needs no weights")
    add_options(p, "--data-dir")
    p.set_defaults(execute=execute, after_stop="nothing was changed")


def execute(args: argparse.Namespace) -> int:
    from bench.data.registry import data_folder
    from bench.experiment import queries

    data_dir = data_folder(args.data_dir)
    cells = [cell for cell in queries.finished_cells(args.cells) if cell.evaluation]
    if not cells:
        raise UserError("none of these cells is trained and evaluated: run 'python -m bench evaluate' on them first")
    queries.check_device(cells)
    matches = [_verify(cell, args.retrain, data_dir) for cell in cells]
    if len(matches) > 1:
        print(f"{sum(matches)} of {len(matches)} cells match")
    return 0 if all(matches) else 1


def _verify(stored: CellRecord, retrain: bool, data_dir: Path | None) -> bool:
    """Print the comparison of one cell and return whether it matches."""
    print("/".join(stored.folder.parts[-4:]))
    with tempfile.TemporaryDirectory() as scratch:
        try:
            now = _run_again(stored, Path(scratch), retrain, data_dir)
        except UserError as error:
            print(f"  not verified: {error}")
            return False
    old, new = (_numbers(cell, retrain) for cell in (stored, now))
    verdicts = {name: compare(value, new.get(name)) for name, value in old.items()}
    for name, verdict in verdicts.items():
        if verdict == "differs":
            print(f"  {name}: stored {_text(old[name])}, now {_text(new.get(name))}")
    worst = max(verdicts.values(), key=list(VERDICTS).index)
    what = "trained and evaluated" if retrain else "evaluated"
    print(f"  {what} again: {len(verdicts)} numbers, {VERDICTS[worst]}")
    if worst != "equal":
        _print_causes(stored, now, retrain, worst)
    return worst != "differs"


def _run_again(stored: CellRecord, scratch: Path, retrain: bool, data_dir: Path | None) -> CellRecord:
    """Evaluate the cell, with ``retrain`` after training, in ``scratch``. ``UserError`` if that is not possible."""
    from bench.experiment import queries
    from bench.experiment.cell_folder import CellFolder
    from bench.experiment.cell_record import read
    from bench.experiment.schema import PROTOCOL_VERSION
    from bench.experiment.task import Resources
    from bench.experiment.worker import run_cell

    again, provenance = CellFolder(scratch), _provenance(stored, retrain)
    if retrain and (version := stored.config.protocol_version) != PROTOCOL_VERSION:
        commit = (provenance and provenance.commit) or "unknown"
        raise UserError(
            f"trained under protocol {version}, this code has {PROTOCOL_VERSION}: check out commit {commit}"
        )
    if not retrain and stored.result:
        if not CellFolder(stored.folder).has_weights():
            raise UserError("its weights are missing (git keeps none); --retrain trains it again")
        (scratch / "best.pt").symlink_to((stored.folder / "best.pt").resolve())
        again.write_record("result.json", stored.result)
    resources = Resources(cpus_per_cell=provenance.threads if provenance else 1)
    task = queries.stored_task(stored, queries.evaluation_as_stored(stored), data_dir, resources, retrain)
    run_cell(replace(task, folder=scratch))
    record = read(again)
    if record.evaluation is None or record.reason:
        raise UserError(f"failed: {record.reason}")
    return record


def _numbers(cell: CellRecord, retrain: bool) -> dict[str, Any]:
    """Return every metric, and with ``retrain`` the counts and validations of training too."""
    numbers: dict[str, Any] = {}
    if retrain:
        training = cell.result.training if cell.result else None
        numbers = {
            name: getattr(training, name, None) for name in ("updates", "encoder_updates", "best_update", "flops")
        }
        numbers["validations"] = len(cell.history)
        for line in cell.history:
            where = f"at update {line.update}"
            numbers |= {f"validation {name} {where}": line.metrics.get(name) for name in ("elbo", "kl", "mi")}
    return numbers | (cell.evaluation.metrics if cell.evaluation else {})


def compare(stored: Any, now: Any) -> str:
    """Return ``equal``, ``close`` or ``differs``."""
    if stored == now:
        return "equal"
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in (stored, now)):
        return "differs"
    return "close" if math.isclose(stored, now, rel_tol=RELATIVE, abs_tol=ABSOLUTE) else "differs"


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_causes(stored: CellRecord, now: CellRecord, retrain: bool, worst: str) -> None:
    """Print what may explain the differences: other code, libraries, machine or threads."""
    if stored.evaluation and (version := stored.evaluation.version) != EVALUATION_VERSION:
        print(f"  evaluated with version {version} of the evaluation, this code has version {EVALUATION_VERSION}")
    changes = set()
    for name in ("commit", "versions", "machine", "threads"):
        old, new = (getattr(_provenance(cell, retrain), name, None) for cell in (stored, now))
        if old != new:
            changes.add(name)
            print(f"  {name}: stored {old}, now {new}")
    if worst == "differs" and retrain and changes - {"commit"}:
        print("  on another machine or library version a rounding difference can lead training to other weights")


def _provenance(cell: CellRecord, retrain: bool) -> Provenance | None:
    """Return the provenance of the training, or without ``retrain`` of the evaluation."""
    trained, evaluated = (record.provenance if record else None for record in (cell.result, cell.evaluation))
    return trained if retrain else evaluated or trained
