"""``python -m bench.report [OUT]``: every table and figure and the page again from stored cells, without training."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from bench.core.errors import UserError, exit_status, printable
from bench.core.files import read_json, write_json, write_text
from bench.core.locks import file_lock
from bench.core.provenance import cores
from bench.core.safe_io import open_regular_file
from bench.experiment.cell_folder import CellFolder
from bench.reporting import groups as cells
from bench.reporting.render import clean

VERSION = "7"  # of what a report looks like: a stored one from another version is built again
PAGE = "report.html"
PART_BYTES = 256 << 20  # of a table or a part of the page at most
LOCK = ".report.lock"
PATIENCE = 2.0  # seconds to wait for another report before saying so


@dataclass(frozen=True)
class Report:
    """The report of one group of cells: the table as plain text, and the files written, under ``OUT``."""

    stem: str
    title: str
    text: str
    files: tuple[Path, ...]

    def places(self, out: Path) -> str:
        """Where the files are, by kind, for people; the page first."""
        kinds = dict.fromkeys(file.parts[0] for file in self.files)
        places = [f"{kind}: {out / kind / self.stem}{'/' if kind == 'figures' else '.*'}" for kind in kinds]
        return ", ".join([f"page: {out / PAGE}", *places])

    @classmethod
    def of(cls, record: dict) -> Report:
        """A report as ``record`` has stored it."""
        return cls(record["stem"], record["title"], record["text"], tuple(map(Path, record["files"])))

    def record(self) -> dict:
        return {**vars(self), "files": [*map(str, self.files)]}


def build(
    out: Path,
    groups: Iterable[tuple[str, str]] | None = None,
    *,
    log: Callable[[str], object] = print,
    force: bool = False,
    processes: int = 1,
) -> list[Report]:
    """Write the page, and tables and figures of the given (data set, preset) groups, by default of all that are stored.

    A group whose cells are as they were when its files were written is not built again, unless ``force``.
    What is left out, and why, goes to ``log``. ``processes``: how many groups are made side by side. One report on
    ``out`` is written at a time: another one waits. Raises ``UserError`` where there are no cells at all, or where
    ``out`` cannot be written.
    """
    out = Path(out)
    found = cells.by_preset(out)
    if not found:
        raise UserError(f"no stored cells under '{out}': give the folder that 'python -m bench.run --out' wrote")
    for key in [key for key in found if not cells.fit("-".join(key))]:
        count, where = len(found.pop(key)), printable("/".join(key))
        log(f"left out: the cells in runs/{where}, {count} in number, for no file could be named so")
    wanted = found if groups is None else {key: found[key] for key in sorted({*groups} & {*found})}
    jobs = [GroupJob(out, f"{dataset}-{preset}", folders, force) for (dataset, preset), folders in wanted.items()]
    try:
        with _report_lock(out, log):
            reports = _reports(jobs, log, processes)
            _page(out, found, {*wanted}, log)
    except BrokenPipeError:  # of whoever reads what is printed
        raise
    except OSError as error:
        raise UserError(f"cannot write the report: {error}") from error
    return reports


@contextmanager
def _report_lock(out: Path, log: Callable[[str], object]) -> Iterator[None]:
    """Within, no other process writes a report on ``out``."""
    with file_lock(out / LOCK, PATIENCE) as mine:
        if mine:
            yield
            return
    log(f"another report on {out} is being written: this one waits for it")
    with file_lock(out / LOCK, timeout=None):
        yield


class GroupJob(NamedTuple):
    """The cells of one (data set, preset), to be reported on."""

    out: Path
    stem: str
    folders: list[CellFolder]
    force: bool


def _reports(jobs: list[GroupJob], log: Callable[[str], object], processes: int) -> list[Report]:
    """Every job's reports in their order; of several jobs side by side in processes of their own."""
    processes = min(processes, len(jobs))
    if processes < 2:
        return [report for job in jobs for report in _report(job, log)]
    made: list[Report] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for reports, lines in pool.map(_report_aside, jobs):
            for line in lines:
                log(line)
            made += reports
    return made


def _report_aside(job: GroupJob) -> tuple[list[Report], list[str]]:
    """The reports of a job, and the lines that it has to say."""
    lines: list[str] = []
    return _report(job, lines.append), lines


def _report(job: GroupJob, log: Callable[[str], object]) -> list[Report]:
    """The reports of one (data set, preset): as stored, or made again where a cell changed or a file is gone."""
    out, stem, folders, force = job
    record = _record(out, stem)
    stamp = cells.stamp(out, folders, VERSION)
    stored = _stored(record, stem)
    if not force and stored["stamp"] == stamp:
        reports = [Report.of(each) for each in stored["reports"]]
        if all((out / file).exists() for report in reports for file in report.files):
            return reports
    reports = [_write(out, group, log) for group in cells.groups(stem, folders) if _log_notes(group, log)]
    made = {str(file) for report in reports for file in report.files}
    for file in {file for each in stored["reports"] for file in each["files"]} - made:
        (out / file).unlink(missing_ok=True)  # of a table or figure that these cells no longer make
    write_json(record, {"stamp": stamp, "reports": [each.record() for each in reports]})
    return reports


def _record(out: Path, stem: str) -> Path:
    """Where it is kept what the files of a (data set, preset) were made from."""
    return out / "tables" / f".{stem}.json"


def _stored(record: Path, stem: str) -> dict:
    """What ``_report`` has kept; nothing where that is damaged, or names files that no report writes."""
    try:
        stored = read_json(record)
        reports = [{"title": each["stem"], **each} for each in stored["reports"]]  # older ones had no title
        if all(_is_own_file(each, stem) for each in reports):
            return {"stamp": stored["stamp"], "reports": reports}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return {"stamp": None, "reports": []}


def _is_own_file(report: dict, stem: str) -> bool:
    """Whether this is said of a report of ``stem``: its files may be read, and removed."""
    mine = report["stem"]
    if not re.fullmatch(rf"{re.escape(stem)}(-[0-9a-f]{{8}})?", mine):
        return False
    its = rf"(tables|texts)/\.?{re.escape(mine)}\.\w+|figures/{re.escape(mine)}/\w+\.\w+"
    texts = isinstance(report["title"], str) and isinstance(report["text"], str)
    return texts and all(re.fullmatch(its, file) for file in report["files"])


def _log_notes(group: cells.Group, log: Callable) -> bool:
    for note in group.notes:
        log(f"{group.stem}: {clean(note)}")
    return bool(group.cells)


def _write(out: Path, group: cells.Group, log: Callable) -> Report:
    from bench.reporting import claims, figures, html, latex, render, tables, texts
    from bench.reporting.frame import cells_frame, rows_frame

    frame = cells_frame(group.cells)
    sweeps = cells.sweeps(out).get(group.cells[0].config["preset"], {})
    rows = rows_frame(frame, sweeps)
    document = tables.document(group, frame, rows, sweeps)
    document.claims = claims.judge(group.cells, frame)
    said = texts.read(frame, log)
    contents = {
        Path("tables") / f"{group.stem}.csv": tables.to_csv(rows),
        Path("tables") / f"{group.stem}.md": render.markdown(document),
        Path("tables") / f"{group.stem}.tex": latex.tables(document),
        Path("texts") / f"{group.stem}.md": texts.page(document.title, said),
    }
    files = []
    for file, content in contents.items():
        if content is not None:
            files.append(file)
            write_text(out / file, content)
    drawn = figures.draw(out / "figures" / group.stem, frame, log)
    section = html.section(group, document, frame, rows, [file for file in drawn if file.suffix == ".svg"], said)
    files += [file.relative_to(out) for file in drawn]
    files.append(_section(group.stem))
    write_text(out / files[-1], section)
    return Report(group.stem, document.title, render.text(document), tuple(files))


def _section(stem: str) -> Path:
    """Where a group's part of the page is kept, under ``OUT``."""
    return Path("tables") / f".{stem}.html"


def _content(out: Path, stem: str) -> str | None:
    """A group's part of the page, None where there is none that can be read."""
    try:
        with open_regular_file(out / _section(stem), PART_BYTES) as file:
            return file.read().decode()
    except (FileNotFoundError, ValueError):
        return None


def _page(
    out: Path, found: dict[tuple[str, str], list[CellFolder]], built: set[tuple[str, str]], log: Callable
) -> None:
    """Write the page of every group found. One that was not asked for stands as it was made last, if it ever was."""
    from bench.reporting import html

    sections = []
    for (dataset, preset), folders in found.items():
        stem, changed = f"{dataset}-{preset}", False
        stored = _stored(_record(out, stem), stem)
        reports = [Report.of(each) for each in stored["reports"]]
        if (dataset, preset) not in built:
            changed = stored["stamp"] != cells.stamp(out, folders, VERSION)
            if not reports or None in [_content(out, report.stem) for report in reports]:
                reports, changed = _report(GroupJob(out, stem, folders, force=True), log), False
        sections += [(report.stem, report.title, _content(out, report.stem) or "", changed) for report in reports]
    if ranking := _ranking(out, found):
        sections.append(("ranks", *ranking, False))
    page = html.page(sections)
    if not (out / PAGE).is_file() or (out / PAGE).read_bytes() != page.encode():
        write_text(out / PAGE, page)


def _ranking(out: Path, found: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Write how methods rank over all groups, where these are enough; the title and the section for the page."""
    from bench.reporting import compare

    files = {f"{dataset}-{preset}": out / "tables" / f"{dataset}-{preset}.csv" for dataset, preset in found}
    if len(files) < compare.LEAST_BLOCKS:
        return None
    import pandas as pd
    from pandas.api.types import is_numeric_dtype

    from bench.reporting import figures, html, latex, matched, render
    from bench.reporting.frame import LIKELIHOODS, SELECTED

    tables = {}
    for stem, file in files.items():
        with suppress(OSError, ValueError, KeyError, AttributeError):  # not there, or something else
            with open_regular_file(file, PART_BYTES) as opened:
                rows = pd.read_csv(opened)
            chosen = rows["method"].str.endswith(SELECTED)
            rows = rows.assign(selection=rows["method"].where(chosen, ""))
            if all(is_numeric_dtype(rows[name]) for name in LIKELIHOODS):
                tables[stem] = rows
    if (ranks := compare.ranks(tables)) is None:
        return None
    document = matched.ranking(ranks)
    write_text(out / "tables" / "ranks.md", render.markdown(document))
    write_text(out / "tables" / "ranks.tex", latex.tables(document))
    drawn = figures.draw_ranks(out / "figures" / "ranks", ranks)
    return document.title, html.ranking(document, next(file for file in drawn if file.suffix == ".svg"))


def main(argv: list[str] | None = None) -> int:
    description = "Write every table and figure, and the page, again from the stored cells, without training."
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=description)
    parser.add_argument(
        "out", nargs="?", default="out", type=Path, metavar="OUT", help="folder of a run (default: out)"
    )
    out = parser.parse_args(argv).out
    return exit_status(lambda: _rebuild(out), "the same command writes the rest")


def _rebuild(out: Path) -> int:
    if not out.is_dir():
        raise UserError(f"no folder '{out}': give the one that 'python -m bench.run --out' wrote")
    for report in build(out, force=True, processes=cores()):
        print(report.text)
        print(report.places(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
