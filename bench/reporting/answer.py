"""The answer of one table in one sentence: which rows keep z in use, and which of them at what price in NLL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    competing = (row for row in rows if row["n"] >= MIN_SEEDS and row["family"] != CONTROLS)
    keeping = (row for row in competing if row["collapsed"] == 0 and row["converged"] == 1)
    winners = (row for row in keeping if row[low] <= 0 and row[high] < MARGIN)
    return sorted(winners, key=lambda row: (round(row["relative_cost"], 1), -row["mi"]))


def answer(rows: DataFrame, assay: Assay) -> Answer:
    """Return the answer of ``rows_frame``. The controls do not compete."""
    name = f"{headline(rows)}_minus_baseline"
    finished = [row for row in rows.itertuples() if row.n]
    baseline = next((row for row in finished if row.baseline), None)
    others = [row for row in finished if row.family != CONTROLS and not row.baseline and not math.isnan(row.mi)]
    using = [row for row in others if row.collapsed == 0]
    parts = [_baseline(baseline)] if baseline is not None and not math.isnan(baseline.mi) else []
    if others:
        several = len(others) > 1
        parts.append(
            f"{len(using)} of {len(others)} other method{'s' * several} keep{'s' * (len(using) == 1)} z in every seed"
        )
        parts += [_in_nll(using, name)] if using else []
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
    count = round(row.collapsed * row.n)
    return f"the basic VAE collapses in {count} of {row.n} seed{'s' * (row.n != 1)}"


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
