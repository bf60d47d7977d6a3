"""Which claims of a paper hold for the cells at hand, with the numbers behind each verdict.

What is claimed, and of which rows, is data: ``claims.toml``. Here are the kinds of test. Where a claim is about every
seed, it holds if it does in all of them, does not where it does in none, and is undecided between.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.experiment.cell_record import CellRecord
from bench.reporting.frame import paired_interval
from bench.reporting.render import Claims, Verdict, difference, number
from bench.reporting.statistics import Summary, summary

if TYPE_CHECKING:
    from pandas import DataFrame

CLAIMS = Path(__file__).with_name("claims.toml")
HOLDS, FAILS, UNDECIDED, NOT_TESTED = "holds", "does not hold", "undecided", "not tested"


@dataclass(frozen=True)
class Finding:
    """The outcome of a test: the verdict, what it rests on in one line, and the numbers one by one."""

    verdict: str
    evidence: str
    details: tuple[str, ...] = ()


def judge(cells: Sequence[CellRecord], frame: DataFrame) -> Claims | None:
    """The verdicts for one group of cells and its ``cells_frame``; None where no claim can be tested.

    Claims about another modality are left out. Verdicts are on the paper where the protocol and the data are the
    paper's, elsewhere on an analogue of its experiment.
    """
    paper = tomllib.loads(CLAIMS.read_text("utf-8"))
    data = cells[0].config["dataset"]
    same = data["title"] in paper["datasets"] and all(cell.as_published for cell in cells)
    rows = dict(iter(frame[frame["status"] == "ok"].groupby("method")))
    verdicts = []
    for claim in paper["claim"]:
        if claim.get("modality", data["modality"]) == data["modality"]:
            found = examine(claim, rows)
            verdict = found.verdict if same or found.verdict == NOT_TESTED else f"{found.verdict} (analogue)"
            verdicts.append(Verdict(claim["id"], claim["text"], verdict, found.evidence, found.details))
    if all(each.verdict == NOT_TESTED for each in verdicts):
        return None
    return Claims(paper["title"], verdicts, [paper["citation"] + ".", *([] if same else [paper["analogue"]])])


def examine(claim: Mapping[str, Any], rows: Mapping[str, DataFrame]) -> Finding:
    """One claim of ``claims.toml`` put to the finished cells of every row."""
    missing = [row for row in (claim["row"], *claim.get("against", ())) if row not in rows]
    if missing:
        return Finding(NOT_TESTED, f"no finished cells of {', '.join(missing)}")
    return TESTS[claim["test"]](claim, rows)


def collapsed(claim: Mapping[str, Any], rows: Mapping[str, DataFrame], expected: bool = True) -> Finding:
    """Whether the posterior of ``row`` is collapsed in every seed, as the tables define it."""
    cells = rows[claim["row"]].dropna(subset=["collapsed"])
    if cells.empty:
        return Finding(NOT_TESTED, f"no MI of {claim['row']}")
    count = int(cells["collapsed"].sum())
    numbers = ", ".join(f"{name.upper()} {_spread(summary(cells[name]))}" for name in ("kl", "mi", "au"))
    verdict = _in_all(count if expected else len(cells) - count, len(cells))
    return Finding(verdict, f"collapsed in {_of_seeds(count, len(cells))}; {numbers}")


def lowest_nll(claim: Mapping[str, Any], rows: Mapping[str, DataFrame]) -> Finding:
    """Whether the NLL of ``row`` is below that of each row ``against``, by paired differences over common seeds.

    It holds only where every 95 % interval lies below 0 (and so needs no correction for their number), and does not
    where one lies above. The NLL is the table's: the common-proposal NLL if every one of these cells has it.
    """
    cells, others = rows[claim["row"]], {other: rows[other] for other in claim["against"]}
    common = all(each["nll_refined"].notna().all() for each in (cells, *others.values()))
    name = "nll_refined" if common else "nll"
    found = {other: paired_interval(cells, each, name)[0] for other, each in others.items()}
    if strangers := [other for other, value in found.items() if not value.n]:
        return Finding(NOT_TESTED, f"no common seeds with {', '.join(strangers)}")
    details = tuple(f"{difference(value)} against {other}" for other, value in found.items())
    if any(value.n == 1 for value in found.values()):
        lower = sum(value.mean < 0 for value in found.values())
        highest = max(found, key=lambda other: found[other].mean)
        evidence = f"one seed has no interval; lower than {lower} of {len(found)} rows"
        return Finding(UNDECIDED, f"{evidence}, {difference(found[highest])} against {highest}", details)
    below = sum(value.high < 0 for value in found.values())
    verdict = FAILS if any(value.low > 0 for value in found.values()) else UNDECIDED
    highest = max(found, key=lambda other: found[other].high)
    evidence = f"{below} of {len(found)} intervals below 0, the highest {difference(found[highest])} against {highest}"
    return Finding(HOLDS if below == len(found) else verdict, evidence, details)


def cost(claim: Mapping[str, Any], rows: Mapping[str, DataFrame]) -> Finding:
    """Whether training ``row`` takes between ``least`` and ``most`` times the FLOPs of the row ``against``."""
    (other,) = claim["against"]
    flops, seconds = (_ratios(rows[claim["row"]], rows[other], name) for name in ("flops", "train_seconds"))
    if not flops:
        return Finding(NOT_TESTED, f"no common seeds with {other}")
    within = sum(claim["least"] <= ratio <= claim.get("most", ratio) for ratio in flops)
    evidence = f"{_interval(summary(flops))} times the FLOPs and {number(summary(seconds).mean, 2)} times the seconds"
    evidence += f" of {other}, within the bounds in {_of_seeds(within, len(flops))}"
    for name in (claim["row"], other):
        if any(map(capped, rows[name]["cell"])):  # then the preset has chosen the ratio
            return Finding(NOT_TESTED, f"the preset's cap ended the extra updates of {name}; {evidence}")
    return Finding(_in_all(within, len(flops)), evidence)


def ends(claim: Mapping[str, Any], rows: Mapping[str, DataFrame]) -> Finding:
    """Whether the extra updates of ``row`` end of themselves, within ``epochs`` epochs."""
    cells = [cell for cell in rows[claim["row"]]["cell"] if cell.history]
    if stopped := sum(map(capped, cells)):
        return Finding(NOT_TESTED, f"the preset's cap ended it in {_of_seeds(stopped, len(cells))}")
    last = [last_extra_epoch(cell.history) for cell in cells]
    if not any(last):
        return Finding(NOT_TESTED, f"no extra updates of {claim['row']} recorded")
    ended = [(cell, epoch) for cell, epoch in zip(cells, last, strict=True) if epoch < len(cell.history)]
    evidence = f"ended in {_of_seeds(len(ended), len(cells))}"
    if ended:
        mi = summary(_mi(cell, epoch) for cell, epoch in ended)
        evidence += f", after epoch {', '.join(str(epoch) for _, epoch in ended)}, at a validation MI of {_spread(mi)}"
    return Finding(_in_all(sum(epoch <= claim["epochs"] for _, epoch in ended), len(cells)), evidence)


TESTS: dict[str, Callable[[Mapping[str, Any], Mapping[str, DataFrame]], Finding]] = {
    "collapsed": collapsed,
    "not collapsed": partial(collapsed, expected=False),
    "lowest nll": lowest_nll,
    "cost": cost,
    "ends": ends,
}


def capped(cell: CellRecord) -> bool:
    """Whether a finished cell made all the extra updates that its preset allows."""
    train = cell.config["train"]
    if train.get("encoder_updates") is None or not cell.history or cell.result is None:
        return False
    planned = train.get("epochs", 0) * (cell.history[0].get("update") or 0)  # validation is once an epoch
    # What is left of the cap may be a part of an update, which cannot be made.
    return (cell.result.get("encoder_updates") or 0) > train["encoder_updates"] * planned - 1


def last_extra_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """The last epoch, from 1, in which there were extra updates; 0 without any."""
    counts = [0, *(record.get("encoder_updates") or 0 for record in history)]
    return max((epoch for epoch, (before, now) in enumerate(pairwise(counts), 1) if now > before), default=0)


def _mi(cell: CellRecord, epoch: int) -> float:
    value = cell.history[max(epoch, 1) - 1].get("mi")
    return float("nan") if value is None else value


def _by_seed(cells: DataFrame, name: str) -> dict[str, float]:
    return dict(zip(cells["replicate"], cells[name], strict=True))


def _ratios(cells: DataFrame, others: DataFrame, name: str) -> list[float]:
    values, reference = _by_seed(cells, name), _by_seed(others, name)
    return [values[key] / reference[key] for key in values if reference.get(key, 0) > 0]


def _in_all(count: int, n: int) -> str:
    return {n: HOLDS, 0: FAILS}.get(count, UNDECIDED)


def _spread(value: Summary) -> str:
    return number(value.mean, 2) + (f" ({number(value.sd, 2)})" if value.n > 1 else "")


def _interval(value: Summary) -> str:
    return number(value.mean, 2) + (f" [{number(value.low, 2)}, {number(value.high, 2)}]" if value.n > 1 else "")


def _of_seeds(count: int, n: int) -> str:
    return f"{count} of {n} seed{'s' * (n != 1)}"
