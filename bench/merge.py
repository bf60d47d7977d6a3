"""``python -m bench.merge A B … --out C``: folders of results as one, refusing what does not belong together."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.errors import UserError, exit_status
from bench.reporting import cells
from bench.reporting.cells import Cell
from bench.store import cell_folders, put_aside, write_json

#: Of cells in the same place, the one that is further is kept.
RANK = ("unfinished", "skipped", "failed", "not evaluated", "ok")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.merge",
        description="Join result folders, of several machines say: all cells of each, and a report on all of them. "
        "Refused are cells that would not share a table, and two results of one cell that differ.",
    )
    parser.add_argument("sources", nargs="+", type=Path, metavar="OUT", help="folders that --out of bench.run named")
    parser.add_argument("--out", type=Path, required=True, metavar="C", help="where to; what it holds already stays")
    args = parser.parse_args(arguments)
    return exit_status(lambda: merge(args.sources, args.out), "the same command copies the rest")


def merge(sources: Sequence[Path], out: Path) -> int:
    """Copy every cell of ``sources`` to ``out``. Nothing is written before all of it is known to fit."""
    from bench.report import build

    for source in sources:
        if not any(cell_folders(source)):
            raise UserError(f"no stored cells under '{source}': give a folder that 'python -m bench.run --out' wrote")
    folders = [out, *sources]
    found = {cell.folder: cell for source in folders for cell in _cells(source)}
    _belong_together(folders, found)
    chosen: dict[Path, Cell] = {}
    for source in folders:
        for cell in (cell for folder, cell in found.items() if folder.is_relative_to(source)):
            place = cell.folder.relative_to(source)
            if place not in chosen or _better(cell, chosen[place]):
                chosen[place] = cell
    new = {place: cell for place, cell in chosen.items() if not cell.folder.is_relative_to(out)}
    known: dict[str, dict[str, list[str]]] = {}
    for source in folders:
        for preset, asked in cells.sweeps(source).items():
            known[preset] = known.get(preset, {}) | asked
    for place, cell in new.items():
        _copy(cell.folder, out / place)
    if known:
        write_json(out / cells.SWEEPS, known)
    print(f"{len(chosen)} cells in {out}, {len(new)} of them copied")
    for report in build(out):
        print(report.text)
        print(report.places(out))
    return 0


def _cells(source: Path) -> Iterator[Cell]:
    for folder in cell_folders(source):
        try:
            yield cells.read(folder)
        except ValueError as error:
            raise UserError(f"{folder.path}: {error}; repair it or move it away") from error


def _better(cell: Cell, other: Cell) -> bool:
    """Whether ``cell`` is further than ``other`` in the same place; ``UserError`` where their numbers differ."""
    if cell.status == other.status == "ok" and cell.evaluation and other.evaluation:
        mine, theirs = cell.evaluation, other.evaluation
        if mine["config"] == theirs["config"]:
            both = sorted({*mine["metrics"]} & {*theirs["metrics"]})
            settings = [each.get("groups", {}) for each in (mine, theirs)]
            same = all(
                settings[0][g]["settings"] == settings[1][g]["settings"] for g in {*settings[0]} & {*settings[1]}
            )
            differing = [name for name in both if mine["metrics"][name] != theirs["metrics"][name]] if same else []
            if differing:
                name = differing[0]
                raise UserError(
                    f"two results of one cell differ: {name} is {mine['metrics'][name]} in {cell.folder} and "
                    f"{theirs['metrics'][name]} in {other.folder}; 'python -m bench.verify' "
                    "tells which of them holds"
                )
        return len(mine["metrics"]) > len(theirs["metrics"])
    return RANK.index(cell.status) > RANK.index(other.status)


def _belong_together(sources: Sequence[Path], found: dict[Path, Cell]) -> None:
    """Refuse folders whose cells of one data set and preset could in no case share a table."""
    first: dict[tuple[str, ...], tuple[Path, list[Cell]]] = {}
    for source in sources:
        mine: dict[tuple[str, ...], list[Cell]] = {}
        for cell in (cell for folder, cell in found.items() if folder.is_relative_to(source)):
            mine.setdefault(cell.folder.relative_to(source).parts[1:3], []).append(cell)
        for key, members in mine.items():
            other, theirs = first.setdefault(key, (source, members))
            if not any(one.protocol == another.protocol for one in members for another in theirs):
                differing = ", ".join(cells._differences(theirs[0].protocol, members[0].protocol))
                raise UserError(
                    f"{'/'.join(key)} of {source} does not belong together with that of {other}: they differ in "
                    f"{differing}, so no table could hold both"
                )


def _copy(folder: Path, target: Path) -> None:
    """Copy a cell's folder whole; one that stands in its place is put aside."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".merging-") as scratch:
        copy = Path(shutil.copytree(folder, Path(scratch) / folder.name))
        if target.exists():
            put_aside(target)
        copy.rename(target)


if __name__ == "__main__":
    sys.exit(main())
