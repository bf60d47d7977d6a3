"""Build tables, figures, text pages and ``report.html`` of an output folder from its stored cells, and its README."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.core.config import suggest
from bench.core.errors import UserError
from bench.core.files import file_lock, write_text
from bench.core.host import run_in_subprocess
from bench.experiment import audit
from bench.experiment.cell_folder import CellFolder, cell_folders, check_schema
from bench.experiment.schema import MethodRecord
from bench.experiment.sweeps import read_sweeps
from bench.experiment.tuning.record import tunings
from bench.reporting.groups import Group, folders_by_preset, group_cells

PAGE = "report.html"
AUDIT = Path("tables", "audit.csv")
#: What follows data set and preset in the names of a group's files.
GROUP_SUFFIX = re.compile(r"(-[0-9a-f]{8}|-[^-]+=[\w.=-]+|-tuned\d+(-optuna)?(-mi)?(-trials)?)?(-appendix)?$")


@dataclass(frozen=True)
class Report:
    """The report of one group of comparable cells.

    ``text`` is the table as plain text, ``page`` what the page shows of it, ``methods`` are the records of its rows,
    ``files`` are relative to OUT, and ``audits`` the rows of ``tables/audit.csv`` about it.
    """

    dataset: str
    preset: str
    stem: str
    title: str
    text: str
    page: dict[str, Any]
    methods: list[MethodRecord]
    files: tuple[Path, ...]
    audits: list[dict[str, Any]]

    def locations(self, out: Path) -> str:
        """Return where the page, the tables, the texts and the figures are, in one line."""
        kinds = dict.fromkeys(file.parts[0] for file in self.files)
        patterns = [f"{kind}: {out / kind / self.stem}{'/' if kind == 'figures' else '.*'}" for kind in kinds]
        return ", ".join([f"page: {out / PAGE}", *patterns])


def build(
    out: Path,
    *,
    to: Path | None = None,
    log: Callable[[str], object] = print,
    processes: int = 1,
    rows: Sequence[str] = (),
) -> list[Report]:
    """Write the reports of all cells stored under ``out``, one per group of comparable cells, and the page.

    They are written to the folder ``to``, by default ``out`` itself; ``out`` is otherwise only read. The
    pages of templates ``*.md.j2`` in ``out`` are written there as well (``bench.reporting.readme``), unless ``to`` is
    another folder. The same cells give the same bytes. ``log`` receives what was skipped and why. ``processes``: number
    of (data set, preset) pairs to build in parallel. ``rows``: methods in the LaTeX table for a paper (default:
    ``tables.paper_rows``).

    Raises ``UserError`` if ``out`` has no readable cells (nothing is written then) or cannot be written,
    and for a row that no table has.
    """
    from bench.reporting.page import page
    from bench.reporting.readme import write_pages

    to = to or out
    check_schema(cell_folders(out))
    folders = folders_by_preset(out)
    for tuning in tunings(out):  # its cells are elsewhere
        folders.setdefault((tuning.dataset, tuning.preset), [])
    if not folders:
        raise UserError(f"no stored cells under '{out}': give the folder that 'python -m bench run --out' wrote")
    try:
        to.mkdir(parents=True, exist_ok=True)
        with file_lock(to / ".report.lock", None):
            results = _run([(out, to, *key, cells, rows) for key, cells in folders.items()], processes)
            reports = [report for result, _ in results for report in result]
            messages = [message for _, result in results for message in result]
            if not reports:
                raise UserError(f"no readable cells under '{out}': {messages[0] if messages else 'none has finished'}")
            for message in messages:
                log(message)
            methods = [method for report in reports for method in report.methods]
            write_text(to / PAGE, page([report.page for report in reports], methods))
            _check_rows(rows, reports)
            _write_audit(to, reports)
            _remove_stale(to, reports)
            if to == out:
                write_pages(out)
    except BrokenPipeError:  # raised by ``log``
        raise
    except OSError as error:
        raise UserError(f"cannot write the report: {error}") from error
    return reports


#: OUT, the folder to write to, data set, preset, the folders of their cells, and the rows of the table for a paper.
_Job = tuple[Path, Path, str, str, list[CellFolder], Sequence[str]]


def _run(jobs: list[_Job], processes: int) -> list[tuple[list[Report], list[str]]]:
    """Return the reports and messages of every job, in order."""
    processes = min(processes, len(jobs))
    if processes < 2:
        return _build_all(jobs)
    shares = [jobs[first::processes] for first in range(processes)]  # one start of pandas and matplotlib for each
    with ThreadPoolExecutor(processes) as pool:  # each thread waits for a process
        results = [*pool.map(partial(run_in_subprocess, _build_all), shares)]
    return [results[index % processes][index // processes] for index in range(len(jobs))]


def _build_all(jobs: list[_Job]) -> list[tuple[list[Report], list[str]]]:
    return [_build(job) for job in jobs]


def _build(job: _Job) -> tuple[list[Report], list[str]]:
    from bench.reporting.figures import draw_levels
    from bench.reporting.groups import levels_of_model, tuned_groups

    out, to, dataset, preset, folders, rows = job
    reports, messages = [], []
    groups = group_cells(f"{dataset}-{preset}", folders)
    levels = levels_of_model(groups)
    groups += tuned_groups(out, dataset, preset, [cell for group in groups for cell in group.cells])
    for group in groups:
        messages += [f"{group.stem}: {note}" for note in group.notes]
        if group.cells:
            reports.append(_write(out, to, dataset, preset, group, messages.append, rows))
    if levels:
        draw_levels(to / "figures" / f"{dataset}-{preset}", *levels)
    return reports, messages


def _write(
    out: Path, to: Path, dataset: str, preset: str, group: Group, log: Callable[[str], object], wanted: Sequence[str]
) -> Report:
    from bench.reporting import assay, claims, figures, latex, render, tables, texts
    from bench.reporting.answer import answer
    from bench.reporting.frame import cells_frame, rows_frame
    from bench.reporting.page.data import group_data

    audits = [] if group.trials else audit.stored(out, group.cells)  # those of untuned rows, with the same names
    frame = cells_frame(group.cells, audits)
    sweeps = read_sweeps(out).get(preset, {})
    rows = rows_frame(frame, sweeps)
    controls = assay.assess(frame)
    group.notes += [audit.summarise(audits)] if audits else []
    document = tables.document(group, frame, rows, controls, sweeps, wanted)
    document.claims = claims.evaluate(group.cells, frame, controls)
    conclusion = answer(rows, controls)
    document.answer = conclusion.line
    samples = texts.read_samples(frame, log)
    contents = {
        Path("tables", f"{group.stem}.csv"): tables.to_csv(rows),
        Path("tables", f"{group.stem}.md"): render.markdown(document),
        Path("tables", f"{group.stem}.tex"): latex.main(document),
        Path("tables", f"{group.stem}-appendix.tex"): latex.appendix(document),
    }
    if group.trials:
        contents[Path("tables", f"{group.stem}-trials.csv")] = tables.trials_csv(group.trials)
    if samples:
        contents[Path("texts", f"{group.stem}.md")] = texts.markdown(document.title, samples)
    for file, content in contents.items():
        if content:  # a LaTeX table without any of the wanted rows does not replace an earlier one
            write_text(to / file, content)
    images = figures.draw(to / "figures" / group.stem, frame, rows, log, group.trials)
    page = group_data(group, document, frame, rows, controls, conclusion, samples)
    methods = [cell.config.method for cell in frame.drop_duplicates("method")["cell"]]
    files = (*contents, *(image.relative_to(to) for image in images))
    rows_of_audit = [{"table": group.stem, **each.row} for each in audits]
    text = render.text(document)
    return Report(dataset, preset, group.stem, document.title, text, page, methods, files, rows_of_audit)


def _check_rows(rows: Sequence[str], reports: list[Report]) -> None:
    known = {row["id"] for report in reports for row in report.page["rows"]}
    for row in rows:
        if row not in known:
            raise UserError(f"--rows {row}: no table has this row: {suggest(row, known)}")


def _write_audit(out: Path, reports: list[Report]) -> None:
    """Write ``tables/audit.csv``, one row per audited cell, or remove it if there is none."""
    import pandas as pd

    if rows := [row for report in reports for row in report.audits]:
        table = pd.DataFrame(rows).to_csv(index=False, float_format="%.8g", lineterminator="\n")
        write_text(out / AUDIT, table)
    else:
        (out / AUDIT).unlink(missing_ok=True)


def _remove_stale(out: Path, reports: list[Report]) -> None:
    """Remove the tables, texts and figures of groups that these cells no longer form."""
    from bench.reporting.figures import remove_figures

    current = {out / file for report in reports for file in report.files}
    current |= {file.parent for file in current}
    stems = {f"{report.dataset}-{report.preset}" for report in reports}
    for pattern in ("tables/*.csv", "tables/*.md", "tables/*.tex", "texts/*.md", "figures/*"):
        for path in out.glob(pattern):
            if path in current or GROUP_SUFFIX.sub("", path.stem) not in stems:
                continue
            if not path.is_dir():
                path.unlink()
            elif path.name not in stems:  # that one may have the figure of several groups
                remove_figures(path)
