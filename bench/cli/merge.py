"""``python -m bench merge A B … --out C``: copy the cells of several output folders and bundles into one folder."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.options import path
from bench.core.errors import UserError

if TYPE_CHECKING:
    from bench.experiment.cell_record import CellRecord


def add_parser(commands: Any) -> None:
    """Add the command ``merge`` to the subparsers ``commands``."""
    p = commands.add_parser(
        "merge",
        help="copy the cells of several output folders or bundles into one",
        description="Copy the cells of several output folders, or of files of 'python -m bench bundle', into one "
        "folder and report on all of them. Two different results of one cell are an error. A bundle is checked record "
        "by record before anything is copied, and changes no cell of the target.",
    )
    p.add_argument("sources", nargs="+", type=path, metavar="OUT", help="output folders of runs, or bundles (.tar.gz)")
    p.add_argument("--out", type=path, required=True, metavar="OUT", help="target folder; its own cells stay")
    p.set_defaults(execute=lambda args: merge(args.sources, args.out), after_stop="the same command copies the rest")


def merge(sources: Sequence[Path], out: Path) -> int:
    """Copy every cell of ``sources`` that ``out`` lacks, and report. Nothing is copied before all cells are checked."""
    from bench.experiment.bundles.unpack import unpack

    with ExitStack() as stack:
        folders, bundles = [], set()
        for source in dict.fromkeys(source.resolve() for source in sources):
            if source.is_file():
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory())).resolve()
                cells = unpack(source, folder)
                print(f"{source.name}: {cells} cells, all records are valid")
                bundles.add(folder)
            folders.append(folder if source.is_file() else source)
        return _merge(folders, bundles, out.resolve())


def _merge(sources: Sequence[Path], bundles: Collection[Path], out: Path) -> int:
    """Copy from folders; those in ``bundles`` only add to ``out``."""
    from bench.experiment import audit
    from bench.experiment.cell_folder import cell_folders
    from bench.experiment.cell_record import readable
    from bench.experiment.sweeps import read_sweeps, write_sweeps
    from bench.experiment.tuning import record as tuning
    from bench.reporting.report import build

    chosen: dict[Path, tuple[Path, CellRecord]] = {}  # relative path of a cell -> its source and record
    for source in dict.fromkeys([out, *sources]):
        if not source.exists() and source != out:
            raise UserError(f"no file or folder '{source}'")
        cells: list[CellRecord] = []
        for folder in (source, source / audit.FOLDER, source / tuning.FOLDER):  # tuned cells may equal untuned ones
            found, damaged = readable(cell_folders(folder))
            for unread, reason in damaged:
                raise UserError(f"{unread.path}: {reason}; repair it or move it away")
            cells += found
        if not cells and source != out:
            raise UserError(f"no stored cells under '{source}': give the --out folder of 'python -m bench run'")
        for cell in cells:
            place = cell.folder.relative_to(source)
            present = chosen.get(place)
            if not present or (_prefer(cell, present[1]) and not (source in bundles and present[0] == out)):
                chosen[place] = source, cell
    new = {place: cell.folder for place, (source, cell) in chosen.items() if source != out}
    copied = sum([_copy(folder, out / place) for place, folder in new.items()])
    for source in sources:
        for preset, rows in read_sweeps(source).items():
            write_sweeps(out, preset, rows, keep=source in bundles)
        for tuned in tuning.tunings(source):
            tuning.store(out, tuned, keep=source in bundles)
    print(f"{len(chosen) - len(new) + copied} cells in {out}, {copied} of them copied")
    for report in build(out):
        print(f"{report.text}\n{report.locations(out)}")
    return 0


def _prefer(cell: CellRecord, other: CellRecord) -> bool:
    """Return whether ``cell`` has more metrics than ``other``, another result of it, or else got further in training.

    ``UserError`` if their metrics differ.
    """
    metrics, others = (record.evaluation.metrics if record.evaluation else {} for record in (cell, other))
    for name in metrics.keys() & others.keys():
        if metrics[name] != others[name]:
            raise UserError(
                f"two results of one cell differ in {name}: {cell.folder} and {other.folder}; run "
                "'python -m bench verify' on both and remove the wrong one, or evaluate both with the same settings"
            )
    return _progress(cell) > _progress(other)


def _progress(cell: CellRecord) -> tuple[int, ...]:
    """Return what decides which result of a cell is taken, the most important first."""
    metrics = cell.evaluation.metrics if cell.evaluation else {}
    return len(metrics), cell.trained, len(cell.history), cell.result is not None


def _copy(folder: Path, target: Path) -> bool:
    """Copy a cell's folder and return True, or False if a run holds the target. A folder in its place is renamed."""
    from bench.core.files import rename_to_backup
    from bench.experiment.cell_folder import lock_cell

    with lock_cell(target) as free:
        if not free:
            print(f"skipped: {target}: a run is using it; merge again later")
            return False
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".merging-") as scratch:
            copy = Path(shutil.copytree(folder, Path(scratch) / folder.name, ignore=shutil.ignore_patterns(".*")))
            if (target / "evaluation.json").exists() and (target / "best.pt").exists():  # the metrics are the same
                if not (copy / "best.pt").exists():
                    shutil.copy2(target / "best.pt", copy)
            if target.exists():
                rename_to_backup(target)
            copy.rename(target)
    return True
