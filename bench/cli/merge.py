"""``python -m bench.merge A B … --out C``: folders of results as one, refusing what does not belong together."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.core.errors import UserError, exit_status
from bench.core.files import rename_to_backup, write_json
from bench.evaluation.registry import group_of_metric
from bench.experiment.cell_folder import CellFolder, cell_folders, lock_cell
from bench.experiment.cell_record import CellRecord, read, readable
from bench.experiment.sweeps import FILE as SWEEPS
from bench.experiment.sweeps import read_sweeps
from bench.reporting import groups as cells

#: Of cells in the same place, the one that is further is kept.
RANK = ("missing", "skipped", "failed", "incomplete", "done")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.merge",
        description="Join result folders, of several machines say: all cells of each, and a report on all of them. "
        "Refused are folders whose cells could not share a table, and two results of one cell that differ.",
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="OUT", help="folders that --out of bench.run named")
    parser.add_argument("--out", type=Path, required=True, metavar="C", help="where to; what it holds already stays")
    args = parser.parse_args(argv)
    return exit_status(lambda: merge(args.sources, args.out), "the same command copies the rest")


def merge(sources: Sequence[Path], out: Path) -> int:
    """Copy every cell of ``sources`` to ``out``. Nothing is written before all of it is known to fit."""
    from bench.reporting.report import build

    for source in sources:
        if not any(cell_folders(source)):
            raise UserError(f"no stored cells under '{source}': give a folder that 'python -m bench.run --out' wrote")
        if out.resolve() != source.resolve() and out.resolve().is_relative_to(source.resolve()):
            raise UserError(f"--out {out} lies within {source}: give a folder beside it")
    folders = dict.fromkeys(folder.resolve() for folder in (out, *sources))
    found = {folder: list(_cells(folder)) for folder in folders}
    _belong_together(found)
    chosen: dict[Path, tuple[Path, CellRecord]] = {}  # place in a folder of results -> from which, and what
    for source, those in found.items():
        for cell in those:
            place = cell.folder.relative_to(source)
            if place not in chosen or _better(cell, chosen[place][1]):
                chosen[place] = source, cell
    new = {place: cell for place, (source, cell) in chosen.items() if source != out.resolve()}
    known: dict[str, dict[str, list[str]]] = {}
    for source in folders:
        for preset, asked in read_sweeps(source).items():
            known[preset] = known.get(preset, {}) | asked
    copied = sum([_copy(cell, out / place) for place, cell in new.items()])
    if known:
        write_json(out / SWEEPS, known)
    print(f"{len(chosen) - len(new) + copied} cells in {out}, {copied} of them copied")
    for report in build(out):
        print(report.text)
        print(report.locations(out))
    return 0


def _cells(source: Path) -> Iterator[CellRecord]:
    found, left = readable(cell_folders(source))
    for folder, reason in left:
        raise UserError(f"{folder.path}: {reason}; repair it or move it away")
    yield from found


def _better(cell: CellRecord, other: CellRecord) -> bool:
    """Whether ``cell`` is to be kept instead of ``other`` in the same place; ``UserError`` where their numbers differ.

    The one that is further, then the one judged by the newer evaluation, then by more groups of metrics.
    """
    if not (cell.evaluation and other.evaluation):
        return RANK.index(cell.status) > RANK.index(other.status)
    mine, theirs = cell.evaluation, other.evaluation
    versions = [record.version for record in (mine, theirs)]
    if versions[0] != versions[1]:
        return versions[0] > versions[1]
    if vars(mine.settings) != vars(theirs.settings):
        differing = ", ".join(cells.differences(vars(mine.settings), vars(theirs.settings)))
        raise UserError(
            f"{cell.folder} and {other.folder} are one cell, judged with other settings ({differing}): "
            "judge them alike first, by python -m bench.evaluate"
        )
    groups = [record.groups for record in (mine, theirs)]
    shared = {name for name in {*groups[0]} & {*groups[1]} if groups[0][name].settings == groups[1][name].settings}
    of_groups = group_of_metric()
    for name in sorted({*mine.metrics} & {*theirs.metrics}):
        if of_groups.get(name, "basic") in {"basic", *shared} and mine.metrics[name] != theirs.metrics[name]:
            raise UserError(
                f"two results of one cell differ: {name} is {mine.metrics[name]} in {cell.folder} and "
                f"{theirs.metrics[name]} in {other.folder}; 'python -m bench.verify' tells which of them holds"
            )
    kept, dropped = (groups[1], groups[0]) if len(groups[0]) <= len(groups[1]) else groups
    if lost := {*dropped} - {*kept}:
        print(
            f"not taken over: {', '.join(sorted(lost))} of one {cell.folder.name}; bench.evaluate measures them again"
        )
    return kept is groups[0]


def _belong_together(found: dict[Path, list[CellRecord]]) -> None:
    """Refuse folders whose cells of one data set and preset could in no case share a table."""
    first: dict[tuple[str, ...], tuple[Path, list[CellRecord]]] = {}
    for source, those in found.items():
        mine: dict[tuple[str, ...], list[CellRecord]] = {}
        for cell in those:
            mine.setdefault(cell.folder.relative_to(source).parts[1:3], []).append(cell)
        for key, members in mine.items():
            other, theirs = first.setdefault(key, (source, members))
            if not any(one.protocol == another.protocol for one in members for another in theirs):
                differing = ", ".join(cells.differences(theirs[0].protocol, members[0].protocol))
                raise UserError(
                    f"{'/'.join(key)} of {source} does not belong together with that of {other}: they differ in "
                    f"{differing}, so no table could hold both"
                )


def _copy(cell: CellRecord, target: Path) -> bool:
    """Copy a cell's folder whole, and say whether it was; one that stands in its place is put aside.

    Left alone, with a line, is a cell that a run is at, here or there, or that has changed since it was looked at.
    """
    with _claimed(cell.folder) as mine, lock_cell(target) as free:
        if not mine or not free:
            print(f"left out: {target if mine else cell.folder}: a run is at it; merge again when it is through")
            return False
        if not _unchanged(cell):
            print(f"left out: {cell.folder}: it has changed meanwhile; merge again")
            return False
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".merging-") as scratch:
            copy = Path(shutil.copytree(cell.folder, Path(scratch) / cell.folder.name, ignore=_strange))
            if target.exists():
                rename_to_backup(target)
            copy.rename(target)
    return True


def _unchanged(cell: CellRecord) -> bool:
    try:
        return read(CellFolder(cell.folder)) == cell
    except ValueError:
        return False


@contextmanager
def _claimed(folder: Path) -> Iterator[bool]:
    """``claim`` of a source, which may lie where nothing can be written, and so no run can be at it either."""
    with ExitStack() as stack:
        try:
            mine = stack.enter_context(lock_cell(folder))
        except OSError:
            mine = True
        yield mine


def _strange(folder: str, names: list[str]) -> list[str]:
    """What of a cell's folder is none of its files: pipes, folders, links to nothing, what is hidden."""
    return [name for name in names if name.startswith(".") or not (Path(folder) / name).is_file()]


if __name__ == "__main__":
    sys.exit(main())
