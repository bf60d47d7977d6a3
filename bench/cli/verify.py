"""``python -m bench.verify CELL …``: judge stored cells again, or train them again; do the numbers hold?"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.errors import UserError, exit_status
from bench.evaluation.record import EVALUATION_VERSION

if TYPE_CHECKING:
    from bench.core.provenance import Provenance
    from bench.experiment.cell_folder import CellFolder
    from bench.experiment.task import CellTask

#: Differences up to this, absolute and relative, are other rounding: another machine, thread count or library version.
ROUNDING = 1e-3, 1e-4
SAID = {"equal": "equal, bit for bit", "close": "equal up to rounding", "differs": "DIFFERS"}


@dataclass(frozen=True)
class Comparison:
    """One number, as stored and as it came out now."""

    name: str
    stored: Any
    now: Any

    @property
    def verdict(self) -> str:
        """``equal``, ``close`` or ``differs``."""
        if self.stored == self.now:
            return "equal"
        numbers = all(
            isinstance(value, (int, float)) and not isinstance(value, bool) for value in (self.stored, self.now)
        )
        absolute, relative = ROUNDING
        close = numbers and math.isclose(self.stored, self.now, rel_tol=relative, abs_tol=absolute)
        return "close" if close else "differs"


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        prog="python -m bench.verify",
        description="Evaluate stored cells again, from their weights, and compare every number with the stored one. "
        "Nothing stored is changed. The exit status is 0 where all hold.",
    )
    p.add_argument("cells", nargs="+", type=Path, metavar="CELL", help="folder of a cell, or one that holds several")
    p.add_argument("--retrain", action="store_true", help="train again too, from nothing; needs no weights")
    p.add_argument("--data-dir", type=Path, help="folder with data sets (default: BENCH_DATA_DIR)")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    args = parser().parse_args(argv)
    return exit_status(lambda: verify(args), "nothing was changed")


def verify(args: argparse.Namespace) -> int:
    from bench.cli.validate import data_folder
    from bench.experiment import queries as stored

    data_dir = data_folder(args)
    finished = [folder for folder in stored.finished_cells(args.cells) if folder.evaluation()]
    if not finished:
        raise UserError("none of these cells is trained and evaluated: there is nothing to verify")
    stored.check_device(finished)
    hold = [_holds(folder, args.retrain, data_dir) for folder in finished]
    if len(hold) > 1:
        print(f"{sum(hold)} of {len(hold)} cells hold")
    return 0 if all(hold) else 1


def _holds(folder: CellFolder, retrain: bool, data_dir: Path | None) -> bool:
    """``_verify``, where a cell that it cannot even begin with costs no other."""
    try:
        return _verify(folder, retrain, data_dir)
    except UserError as error:
        print(f"  not verified: {error}")
        return False


def _verify(folder: CellFolder, retrain: bool, data_dir: Path | None) -> bool:
    """Whether the numbers of one cell come out again, with a line for each that does not."""
    from bench.experiment.cell_folder import CellFolder
    from bench.experiment.schema import PROTOCOL_VERSION
    from bench.experiment.worker import run_cell

    print("/".join(folder.path.parts[-4:]))
    if not retrain and not folder.has_weights():
        print("  not verified: its weights are not here (git keeps none); --retrain trains it again")
        return False
    if retrain and (made_by := folder.config.protocol_version) != PROTOCOL_VERSION:
        stored_result = folder.result()
        commit = stored_result.provenance.commit if stored_result and stored_result.provenance else "unknown"
        print(f"  not verified: trained by protocol {made_by} and commit {commit}, this code is of {PROTOCOL_VERSION}")
        return False
    with tempfile.TemporaryDirectory() as scratch:
        again = CellFolder(Path(scratch))
        run_cell(_task(folder, again, retrain, data_dir))
        result, evaluation = again.result(), again.evaluation()
        if result is None or evaluation is None or result.failure:
            print(f"  failed: {result.failure if result else 'not started'}")
            return False
        found = list(_compared(folder, again, retrain))
    worst = max((each.verdict for each in found), key=("equal", "close", "differs").index)
    for each in found:
        if each.verdict == "differs":
            print(f"  {each.name}: stored {_number(each.stored)}, now {_number(each.now)}")
    what = "trained and evaluated" if retrain else "evaluated"
    print(f"  {what} again: {len(found)} numbers, {SAID[worst]}")
    stored_evaluation = folder.evaluation()
    assert stored_evaluation
    version = stored_evaluation.version
    if version != EVALUATION_VERSION:
        print(f"  judged by version {version} of the evaluation; version {EVALUATION_VERSION}, now, measures otherwise")
    if worst != "equal":
        others = list(_surroundings(_provenance(folder, retrain), evaluation.provenance))
        for line in others:
            print(f"  {line}")
        if worst == "differs" and retrain and not all(line.startswith("commit") for line in others):
            print("  elsewhere the last bit of a sum is another, and training may make it a draw as of another seed")
    return worst != "differs"


def _provenance(folder: CellFolder, retrain: bool) -> Provenance | None:
    """Return the provenance of the stored training or evaluation."""
    result, evaluation = folder.result(), folder.evaluation()
    trained, evaluated = (record.provenance if record else None for record in (result, evaluation))
    return trained if retrain else evaluated or trained


def _task(folder: CellFolder, again: CellFolder, retrain: bool, data_dir: Path | None) -> CellTask:
    """The cell's own work in a folder of its own, with the thread count that it had."""
    from bench.experiment import queries as stored

    evaluation = stored.evaluation_as_stored(folder)
    provenance, result = _provenance(folder, retrain), folder.result()
    if not retrain and result:
        (again.path / "best.pt").symlink_to((folder.path / "best.pt").resolve())
        again.write_record("result.json", result)
    task = stored.stored_task(folder, evaluation, data_dir, provenance.threads if provenance else 1)
    return replace(task, folder=again.path)


def _compared(folder: CellFolder, again: CellFolder, retrain: bool) -> Iterator[Comparison]:
    """Every number of the evaluation; of training what it counted and what validation saw."""
    if retrain:
        trained = [record.training if (record := cell.result()) else None for cell in (folder, again)]
        for name in ("updates", "encoder_updates", "best_update", "flops"):
            yield Comparison(name, *(getattr(training, name, None) for training in trained))
        stored, now = folder.history(), again.history()
        yield Comparison("validations", len(stored), len(now))
        for one, other in zip(stored, now, strict=False):
            for name in ("elbo", "kl", "mi"):
                yield Comparison(
                    f"validation {name} at update {one.update}", one.metrics.get(name), other.metrics.get(name)
                )
    before, after = folder.evaluation(), again.evaluation()
    for name, value in (before.metrics if before else {}).items():
        yield Comparison(name, value, after.metrics.get(name) if after else None)


def _surroundings(before: Provenance | None, now: Provenance | None) -> Iterator[str]:
    """What is not as it was when the cell was made."""
    for name in ("commit", "versions", "machine", "threads"):
        if getattr(before, name, None) != getattr(now, name, None):
            yield f"{name}: stored {getattr(before, name, None)}, now {getattr(now, name, None)}"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
