"""Which rows of a table keep z in use, which of them at what price in NLL, and how far two tables of them agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from bench.reporting.assay import Assay
from bench.reporting.frame import headline
from bench.reporting.groups import CONTROLS
from bench.reporting.render import number
from bench.reporting.statistics import MARGIN, MIN_SEEDS

if TYPE_CHECKING:
    from pandas import DataFrame

MOST = 6  # rows named in a line
LEAD = f"Keep z, NLL less than {MARGIN:g} nats above that of the basic VAE (upper end of the 95 % interval)"


@dataclass(frozen=True)
class Answer:
    """``text`` is the sentence, ``line`` the same with the winners and the caveat, for tables.

    ``winners`` are the rows that it recommends (``recommended``), ``caveat`` says why nothing is ranked, or is empty.
    """

    text: str
    line: str
    winners: tuple[str, ...]
    caveat: str


def recommended(rows: Iterable[Mapping[str, Any]], metric: str = "nll") -> list[Mapping[str, Any]]:
    """Return the rows that keep z in every seed, have converged and are not behind in NLL, the cheapest first.

    Not behind: the 95 % interval of the NLL less that of the baseline contains 0 or is below it, and ends below
    ``MARGIN``, over ``MIN_SEEDS`` or more. The controls and the baseline do not compete. Of equal cost, the row with
    most MI comes first.
    """
    low, high = (f"{metric}_minus_baseline_{end}" for end in ("low", "high"))
    competing = (row for row in rows if row[f"{metric}_minus_baseline_n"] >= MIN_SEEDS and row["family"] != CONTROLS)
    keeping = (row for row in competing if row["collapsed"] == 0 and row["converged"] == 1)
    winners = (row for row in keeping if row[low] <= 0 and row[high] < MARGIN)
    return sorted(winners, key=lambda row: (round(row["relative_cost"], 1), -row["mi"]))


def answer(rows: DataFrame, assay: Assay) -> Answer:
    """Return the answer of ``rows_frame``. The controls do not compete."""
    name = f"{headline(rows)}_minus_baseline"
    finished = [row for row in rows.itertuples() if row.n and not row.selection]
    baseline = next((row for row in finished if row.baseline), None)
    others = [row for row in finished if row.family != CONTROLS and not row.baseline and not math.isnan(row.mi)]
    converged = [row for row in others if row.converged == 1]
    using = [row for row in converged if row.collapsed == 0]
    parts = [_baseline(baseline)] if baseline is not None and not math.isnan(baseline.mi) else []
    if converged:
        row, keep = f"row{'s' * (len(converged) > 1)}", f"keep{'s' * (len(using) == 1)}"
        parts.append(f"{len(using)} of {len(converged)} other {row} {keep} z in every seed")
        parts += [_in_nll(using, name)] if using else []
    if unconverged := len(others) - len(converged):
        what = "row has not converged and is" if unconverged == 1 else "rows have not converged and are"
        parts.append(f"{unconverged} other {what} not judged")
    caveat = "" if assay.is_valid else f"assay {assay.verdict}: no ranking"
    if not caveat and max((row.n for row in finished), default=0) < 2:
        caveat = "one seed: no ranking"
    text = "; ".join(parts)
    text = f"{text[:1].upper()}{text[1:]}." if text else ""
    lines = [text] if text else []
    winners = [] if caveat else recommended(rows.to_dict("records"), headline(rows))
    if winners:
        lines.append(f"{LEAD}, the cheapest first: {', '.join(map(_winner, winners[:MOST]))}.")
    lines += [f"{caveat[:1].upper()}{caveat[1:]}."] if caveat else []
    return Answer(text, " ".join(lines), tuple(row["method"] for row in winners), caveat)


def _winner(row: Mapping[str, Any]) -> str:
    return f"{row['method']} (MI {number(row['mi'], 2)}, cost {number(row['relative_cost'], 1)})"


def _baseline(row: Any) -> str:
    if row.collapsed == 0:
        return f"the basic VAE keeps z itself (MI {number(row.mi, 2)}), so there is no collapse to prevent"
    count, n = round(row.collapsed * row.collapsed_n), row.collapsed_n
    return f"the basic VAE collapses in {count} of {n} seed{'s' * (n != 1)}"


def _in_nll(using: list[Any], name: str) -> str:
    """Say in how many rows the NLL is lower, higher, and not significantly different from that of the baseline."""
    lows, highs = ([getattr(row, f"{name}_{end}") for row in using] for end in ("low", "high"))
    counts = {
        "lower": sum(high < 0 for high in highs),
        "higher": sum(low > 0 for low in lows),
        "not significantly different": sum(low <= 0 <= high for low, high in zip(lows, highs, strict=True)),
        "no interval (one seed)": sum(math.isnan(low) for low in lows),
    }
    parts = ", ".join(f"{what} in {count}" for what, count in counts.items() if count)
    return f"NLL against the basic VAE: {parts}"


@dataclass(frozen=True)
class Agreement:
    """How far two tables of the same rows agree, by the names of the rows in the second.

    ``rows`` are those with a difference of the NLL to the baseline in both. Of these, ``changed`` are collapsed in most
    seeds of one table only, the difference of ``flipped`` has another sign, and that of ``opposite`` is significant in
    both with another sign. ``pairs``: number of pairs of rows, with the baseline; ``reordered``: of those whose mean
    differences have another order.
    """

    rows: tuple[str, ...]
    changed: tuple[str, ...]
    flipped: tuple[str, ...]
    opposite: tuple[str, ...]
    pairs: int
    reordered: int


def agreement(pairs: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Agreement:
    """Return how far the pairs of the same row in two tables agree."""
    name = "nll_minus_baseline"
    pairs = [pair for pair in pairs if all(row[f"{name}_n"] > 0 for row in pair)]

    def named(is_so: Callable[[Mapping[str, Any], Mapping[str, Any]], bool]) -> tuple[str, ...]:
        return tuple(other["method"] for row, other in pairs if is_so(row, other))

    differences = [(0.0, 0.0), *((row[name], other[name]) for row, other in pairs)]
    orders = [(a[0] - b[0]) * (a[1] - b[1]) for a, b in combinations(differences, 2)]
    return Agreement(
        rows=named(lambda row, other: True),
        changed=named(lambda row, other: (2 * row["collapsed"] > 1) != (2 * other["collapsed"] > 1)),
        flipped=named(lambda row, other: row[name] * other[name] < 0),
        opposite=named(lambda row, other: _sign(row, name) * _sign(other, name) < 0),
        pairs=len(orders),
        reordered=sum(order < 0 for order in orders),
    )


def _sign(row: Mapping[str, Any], name: str) -> int:
    """Return the sign of a significant difference, else 0."""
    return (row[f"{name}_low"] > 0) - (row[f"{name}_high"] < 0)
