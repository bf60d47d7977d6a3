"""Test which claims of a paper hold for the stored cells, with the numbers behind each verdict.

The claims are data (``claims.toml``); this module has the tests. A claim about every seed *holds* if it does so in all
seeds, *does not hold* if in none, and is *undecided* otherwise, and always with one seed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.experiment.cell_record import CellRecord
from bench.experiment.convergence import last_encoder_epoch, limit_reached
from bench.reporting.assay import WITHHELD, Assay
from bench.reporting.paired import interval, relative_flops
from bench.reporting.render import NOT_TESTED, Claims, Verdict, difference, number, with_interval
from bench.reporting.statistics import MIN_SEEDS, Summary, summary

if TYPE_CHECKING:
    from pandas import DataFrame

CLAIMS = Path(__file__).with_name("claims.toml")
HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Claim:
    """One claim of ``claims.toml``: ``test`` names the test, ``row`` and ``against`` are method expressions.

    ``settings``: those of ``row`` in the paper on which the claim depends. With others it is not tested.
    """

    id: str
    text: str
    test: str
    row: str
    against: Sequence[str] = ()
    modality: str | None = None  # None: any
    at_least: float = 0.0  # bounds of a cost ratio
    at_most: float = float("inf")
    epochs: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)


Rows = Mapping[Hashable, "DataFrame"]  # method -> its finished cells


def evaluate(cells: Sequence[CellRecord], frame: DataFrame, assay: Assay) -> Claims | None:
    """Return the verdicts for one group of cells (and its ``cells_frame``); None if no claim can be tested.

    Claims about another modality are omitted. Without a valid ``assay`` verdicts are withheld and only the evidence is
    given. Unless protocol and data are the paper's, verdicts are marked as an analogue.
    """
    paper = tomllib.loads(CLAIMS.read_text("utf-8"))
    data = cells[0].config.dataset
    is_replication = data.title in paper["datasets"] and all(cell.as_published for cell in cells)
    rows = dict(iter(frame[frame["status"] == "done"].groupby("method")))
    verdicts = []
    for claim in (Claim(**record) for record in paper["claim"]):
        if claim.modality in (None, data.modality):
            result = examine(claim, rows)
            verdict = result.verdict
            if verdict != NOT_TESTED:
                verdict = WITHHELD if not assay.is_valid else verdict if is_replication else f"{verdict} (analogue)"
            verdicts.append(replace(result, id=claim.id, claim=claim.text, verdict=verdict))
    if all(verdict.verdict == NOT_TESTED for verdict in verdicts):
        return None
    notes = [f"{paper['citation']}."]
    notes += [] if assay.is_valid else [f"Verdicts are {WITHHELD}: assay {assay.verdict}."]
    notes += [] if is_replication else [paper["analogue"]]
    return Claims(paper["title"], verdicts, notes)


def read_claims() -> list[Claim]:
    """Return the claims of ``claims.toml``."""
    return [Claim(**record) for record in tomllib.loads(CLAIMS.read_text("utf-8"))["claim"]]


def examine(claim: Claim, rows: Rows) -> Verdict:
    """Test one claim on the finished cells of every method. Where rows are missing, it can still fail on the others."""
    missing = [row for row in (claim.row, *claim.against) if row not in rows]
    present = replace(claim, against=[row for row in claim.against if row in rows])
    absent = f"no finished cells of {', '.join(missing)}"
    if claim.row in missing or missing and not present.against:
        return Verdict(NOT_TESTED, absent)
    result, config = TESTS[claim.test](present, rows), rows[claim.row]["cell"].iloc[0].config.method.config
    if missing:
        is_refuted = result.verdict == FAILS
        result = replace(result, evidence=f"{result.evidence}; {absent}") if is_refuted else Verdict(NOT_TESTED, absent)
    own = {name: config.get(name, value) for name, value in claim.settings.items()}
    if changed := [
        f"{name} = {own[name]} (paper: {value})" for name, value in claim.settings.items() if own[name] != value
    ]:
        return Verdict(NOT_TESTED, f"{claim.row} has {', '.join(changed)}; {result.evidence}", result.details)
    return result


def collapsed(claim: Claim, rows: Rows, expected: bool = True) -> Verdict:
    """Test whether the posterior of ``row`` is collapsed (MI below 0.1 nats) in every seed."""
    cells = rows[claim.row].dropna(subset=["collapsed"])
    if cells.empty:
        return Verdict(NOT_TESTED, f"no MI of {claim.row}")
    count = int(cells["collapsed"].sum())
    metrics = ", ".join(f"{name.upper()} {_over_seeds(cells, name)}" for name in ("kl", "mi", "au"))
    verdict = _verdict(count if expected else len(cells) - count, len(cells))
    return Verdict(verdict, f"collapsed in {_of_seeds(count, len(cells))}; {metrics}")


def lowest_nll(claim: Claim, rows: Rows) -> Verdict:
    """Test whether the NLL of ``row`` is below that of every row ``against``, by paired differences over common seeds.

    Holds if every 95 % interval is below 0 (an intersection–union test, so no correction for multiple comparisons);
    does not hold if one is above 0. Uses the refined NLL if all of these cells have it.
    """
    cells, others = rows[claim.row], {other: rows[other] for other in claim.against}
    is_refined = all(frame["nll"].notna().all() for frame in (cells, *others.values()))
    name = "nll" if is_refined else "iw_nll"
    differences = {other: interval(cells, name, frame)[0] for other, frame in others.items()}
    if unpaired := [other for other, value in differences.items() if not value.n]:
        return Verdict(NOT_TESTED, f"no common seeds with {', '.join(unpaired)}")
    details = tuple(f"{difference(value)} against {other}" for other, value in differences.items())
    has_intervals = all(value.n > 1 for value in differences.values())
    ends = {other: value.high if has_intervals else value.mean for other, value in differences.items()}
    below, highest = sum(end < 0 for end in ends.values()), max(ends, key=ends.__getitem__)
    evidence = f"{below} of {len(ends)} intervals are below 0; the highest upper end:"
    if not has_intervals:
        evidence = f"one seed has no interval; lower than {below} of {len(ends)} rows;"
    is_above = any(value.low > 0 for value in differences.values())
    verdict = HOLDS if below == len(ends) else FAILS if is_above else UNDECIDED
    evidence = f"{evidence} {difference(differences[highest])} against {highest}"
    return Verdict(verdict if has_intervals else UNDECIDED, evidence, details)


def cost(claim: Claim, rows: Rows) -> Verdict:
    """Test whether training ``row`` takes ``at_least`` to ``at_most`` times the FLOPs of the row ``against``."""
    (other,) = claim.against
    flops = relative_flops(rows[claim.row], rows[other]).dropna().tolist()
    if not flops:
        return Verdict(NOT_TESTED, f"no common seeds with {other}")
    within = sum(claim.at_least <= ratio <= claim.at_most for ratio in flops)
    evidence = f"{with_interval(summary(flops))} times the FLOPs of {other}, "
    evidence += f"within the bounds in {_of_seeds(within, len(flops))}"
    for name in (claim.row, other):
        if any(map(limit_reached, rows[name]["cell"])):  # the ratio is then a choice of the preset
            return Verdict(NOT_TESTED, f"the preset's limit ended the encoder updates of {name}; {evidence}")
    return Verdict(_verdict(within, len(flops)), evidence)


def ends(claim: Claim, rows: Rows) -> Verdict:
    """Test whether ``row`` stops its additional encoder updates by itself within ``epochs`` epochs."""
    cells = [cell for cell in rows[claim.row]["cell"] if cell.history]
    if limited := sum(map(limit_reached, cells)):
        return Verdict(NOT_TESTED, f"the preset's limit ended the encoder updates in {_of_seeds(limited, len(cells))}")
    last = [last_encoder_epoch(cell.history) for cell in cells]
    if not any(last):
        return Verdict(NOT_TESTED, f"no encoder updates of {claim.row} recorded")
    ended = [(cell, epoch) for cell, epoch in zip(cells, last, strict=True) if epoch < len(cell.history)]
    evidence = f"ended in {_of_seeds(len(ended), len(cells))}"
    if ended:
        mi = summary(_validation_mi(cell, epoch) for cell, epoch in ended)
        epochs = ", ".join(str(epoch) for _, epoch in ended)
        evidence += f", after epoch {epochs}, at a validation MI of {_with_sd(mi)}"
    return Verdict(_verdict(sum(epoch <= claim.epochs for _, epoch in ended), len(cells)), evidence)


TESTS: dict[str, Callable[[Claim, Rows], Verdict]] = {
    "collapsed": collapsed,
    "not collapsed": partial(collapsed, expected=False),
    "lowest nll": lowest_nll,
    "cost": cost,
    "ends": ends,
}


def _validation_mi(cell: CellRecord, epoch: int) -> float:
    value = cell.history[max(epoch, 1) - 1].metrics.get("mi")
    return float("nan") if value is None else value


def _verdict(count: int, n: int) -> str:
    """Return the verdict on a claim that ``count`` of ``n`` seeds confirm; fewer than ``MIN_SEEDS`` decide nothing."""
    return {n: HOLDS, 0: FAILS}.get(count, UNDECIDED) if n >= MIN_SEEDS else UNDECIDED


def _over_seeds(cells: DataFrame, name: str) -> str:
    """Return mean and standard deviation, or if only some seeds collapsed every seed."""
    if cells["collapsed"].nunique() > 1:
        return ", ".join(number(value, 2) for value in cells.sort_values("mi")[name])
    return _with_sd(summary(cells[name]))


def _with_sd(value: Summary) -> str:
    return number(value.mean, 2) + (f" ({number(value.sd, 2)})" if value.n > 1 else "")


def _of_seeds(count: int, n: int) -> str:
    return f"{count} of {n} seed{'s' * (n != 1)}"
