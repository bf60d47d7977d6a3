"""Verdicts on a paper's claims: every outcome of every test."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from bench.experiment.cell_record import CellRecord
from bench.reporting import claims, tables
from bench.reporting.assay import FAILED, VALID, WITHHELD, Assay, Control
from bench.reporting.claims import Claim
from bench.reporting.frame import cells_frame
from bench.reporting.render import Claims, Verdict
from bench.training import expressions
from tests.fixtures.make_cells import DATA, TEXT
from tests.reporting.records import finished_cell


def cell(
    method: str, seed: int = 0, extra: tuple[int, ...] = (0, 0, 0), limit_reached: bool = False, **values: Any
) -> CellRecord:
    """Return a cell with ten updates per epoch; ``extra`` are the additional encoder updates of every epoch."""
    counts = [sum(extra[: epoch + 1]) for epoch in range(len(extra))]
    history = [
        {"update": 10 * (i + 1), "encoder_updates": n, "mi": 1.0 + i, "elbo": -9.0} for i, n in enumerate(counts)
    ]
    costs = {"flops": values.pop("flops")} if "flops" in values else {}
    config = {name: values.pop(name) for name in ("dataset", "preset", "preset_notes") if name in values}
    costs |= {"encoder_updates": counts[-1], "limit_reached": limit_reached}
    return finished_cell(method, seed, history=history, costs=costs, metrics=values, **config)


def examine(claim: Claim, *cells: CellRecord) -> Verdict:
    return claims.examine(claim, dict(iter(cells_frame(cells).groupby("method"))))


def test_collapse_in_every_seed(subtests: pytest.Subtests):
    cases = [
        ((True,) * 3, "holds", "does not hold"),
        ((True, True, False), "undecided", "undecided"),
        ((False,) * 3, "does not hold", "holds"),
        ((True, True), "undecided", "undecided"),
        ((False,), "undecided", "undecided"),
        ((None,), "not tested", "not tested"),
    ]
    for collapsed, verdict, opposite in cases:
        with subtests.test(collapsed=collapsed):
            cells = [cell("a", seed, collapsed=value, mi=0.05) for seed, value in enumerate(collapsed)]
            assert examine(Claim("1", "", "collapsed", "a"), *cells).verdict == verdict
            assert examine(Claim("1", "", "not collapsed", "a"), *cells).verdict == opposite


def test_mixed_seeds_are_printed_one_by_one():
    cells = [cell("a", seed, collapsed=mi < 0.1, mi=mi, kl=2 * mi) for seed, mi in enumerate((3.0, 0.02))]
    evidence = examine(Claim("1", "", "collapsed", "a"), *cells).evidence
    assert evidence == "collapsed in 1 of 2 seeds; KL 0.04, 6.00, MI 0.02, 3.00, AU 2.00, 2.00"


LOWEST = Claim("1", "", "lowest nll", "a", ("b", "c"))


def with_nll(name: str = "iw_nll", **nll: tuple[float | None, ...]) -> list[CellRecord]:
    return [cell(method, seed, **{name: v}) for method, values in nll.items() for seed, v in enumerate(values)]


def test_lowest_nll_by_paired_intervals(subtests: pytest.Subtests):
    cases = [
        ((51.0, 52.1, 53.0), "holds", 2),
        ((49.0, 50.1, 51.0), "does not hold", 1),
        ((49.0, 53.1, 51.0), "undecided", 1),
    ]
    for b, verdict, count in cases:
        with subtests.test(b=b):
            a = (50.0, 51.0, 52.0)
            result = examine(LOWEST, *with_nll(a=a, b=b, c=(60.0, 61.0, 62.2)))
            interval = stats.ttest_rel(a, b).confidence_interval(0.95)
            assert result.verdict == verdict
            assert result.evidence.startswith(f"{count} of 2 intervals are below 0")
            assert f"[{interval.low:.2f}, {interval.high:.2f}] against b" in result.evidence


def test_lowest_nll_uses_the_refined_nll_if_all_have_it():
    refined = {"a": (45.0, 46.0), "b": (48.0, 49.1), "c": (59.0, 60.3)}
    assert examine(LOWEST, *with_nll("nll", **refined)).verdict == "holds"
    refined["c"] = (59.0, None)
    assert examine(LOWEST, *with_nll("nll", **refined)).verdict == "undecided"  # equal plain NLLs


def test_lowest_nll_needs_common_seeds():
    result = examine(LOWEST, *with_nll(a=(50.0,), b=(51.0, 52.0), c=(49.5,)))
    assert result.verdict == "undecided"
    assert result.details == ("-1.00 against b", "+0.50 against c")
    result = examine(LOWEST, *with_nll(a=(50.0,), b=(51.0,)), cell("c", seed=7))
    assert (result.verdict, result.evidence) == ("not tested", "no common seeds with c")


def test_lowest_nll_fails_on_the_rows_that_there_are():
    a = (50.0, 51.0, 52.0)
    result = examine(LOWEST, *with_nll(a=a, b=(49.0, 50.1, 51.0)))
    assert result.verdict == "does not hold" and result.evidence.endswith("against b; no finished cells of c")
    result = examine(LOWEST, *with_nll(a=a, b=(51.0, 52.1, 53.0)))
    assert (result.verdict, result.evidence) == ("not tested", "no finished cells of c")


COST = Claim("1", "", "cost", "a", ("b",), at_least=2, at_most=4)


def test_cost_within_bounds_in_every_seed(subtests: pytest.Subtests):
    cases = {(200.0, 300.0, 400.0): "holds", (199.0, 450.0, 450.0): "does not hold", (300.0, 450.0, 450.0): "undecided"}
    for flops, verdict in cases.items():
        with subtests.test(flops=flops):
            cells = [cell("a", seed, flops=value) for seed, value in enumerate(flops)]
            result = examine(COST, *cells, *(cell("b", seed) for seed in range(3)))
            assert result.verdict == verdict


def test_settings_other_than_the_papers_are_not_tested(subtests: pytest.Subtests):
    claim = replace(COST, settings={"steps": 10})
    for steps, verdict in ((10, "holds"), (3, "not tested")):
        with subtests.test(steps=steps):
            cells = [cell("a", seed, flops=300.0) for seed in range(3)]
            for x in cells:
                x.config.method.config["steps"] = steps
            result = examine(claim, *cells, *(cell("b", seed) for seed in range(3)))
            assert result.verdict == verdict
            assert "3.00 [3.00, 3.00] times the FLOPs" in result.evidence


def test_cost_set_by_the_preset_is_not_tested():
    result = examine(COST, cell("a", flops=300.0, limit_reached=True), cell("b"))
    assert result.verdict == "not tested"
    assert "3.00 times the FLOPs" in result.evidence


ENDS = Claim("1", "", "ends", "a", epochs=2)


def test_end_of_encoder_updates(subtests: pytest.Subtests):
    cases = [
        ([(5, 5, 0, 0)], "undecided", "ended in 1 of 1 seed, after epoch 2, at a validation MI of 2.00"),
        (
            [(5, 5, 5, 0)] * 3,
            "does not hold",
            "ended in 3 of 3 seeds, after epoch 3, 3, 3, at a validation MI of 3.00 (0.00)",
        ),
        ([(5, 5, 5, 5)] * 3, "does not hold", "ended in 0 of 3 seeds"),
        ([(5, 0, 0), (5, 5, 5)], "undecided", "ended in 1 of 2 seeds, after epoch 1, at a validation MI of 1.00"),
        (
            [(5, 5, 0), (5, 0, 0), (5, 5, 0)],
            "holds",
            "ended in 3 of 3 seeds, after epoch 2, 1, 2, at a validation MI of 1.67 (0.58)",
        ),
        ([(0, 0, 0)], "not tested", "no encoder updates of a recorded"),
    ]
    for extra, verdict, evidence in cases:
        with subtests.test(extra=extra):
            result = examine(ENDS, *(cell("a", seed, counts) for seed, counts in enumerate(extra)))
            assert (result.verdict, result.evidence) == (verdict, evidence)


def test_end_that_the_preset_set_is_not_tested():
    result = examine(ENDS, cell("a", 0, (5, 0, 0)), cell("a", 1, (5, 0, 0), limit_reached=True))
    assert (result.verdict, "in 1 of 2 seeds" in result.evidence) == ("not tested", True)


# -- the claims of the paper ---------------------------------------------------------------------------------------


def paper_cells(**config: Any) -> list[CellRecord]:
    """Return three seeds of every row, as the paper claims them."""
    rows: dict[str, dict[str, Any]] = {row: {} for claim in claims.read_claims() for row in (claim.row, *claim.against)}
    rows |= {"vae": {"collapsed": True}, "sa_vae": {"flops": 900.0}}
    rows |= {"aggressive": {"flops": 250.0, "extra": (5, 5, 0)}, "aggressive+anneal": {"iw_nll": 48.0}}
    return [
        cell(row, seed, **{"iw_nll": 50.0} | values | {"iw_nll": values.get("iw_nll", 50.0) + seed}, **config)
        for row, values in rows.items()
        for seed in range(3)
    ]


PASSED, NOT_PASSED = Control(VALID, ""), Control(FAILED, "")


def evaluate(cells: list[CellRecord], positive: Control = PASSED) -> Claims | None:
    return claims.evaluate(cells, cells_frame(cells), Assay(positive, PASSED, PASSED))


YAHOO = replace(TEXT, title="yahoo (Yang 2017)")


def test_every_claim_can_hold(subtests: pytest.Subtests):
    cases = [
        ({}, ""),
        ({"preset": "small"}, " (analogue)"),
        ({"preset_notes": ("train.epochs = 5 (preset: 100)",)}, " (analogue)"),
        ({"dataset": TEXT}, " (analogue)"),
    ]
    for changes, suffix in cases:
        with subtests.test(changes=changes):
            result = evaluate(paper_cells(**{"preset": "paper", "preset_notes": (), "dataset": YAHOO} | changes))
            assert [verdict.id for verdict in result.verdicts] == ["C1", "C2", "C3", "C4", "C5", "C6"]
            assert {verdict.verdict for verdict in result.verdicts} == {f"holds{suffix}"}
            assert any(note.startswith("Analogue") for note in result.notes) == bool(suffix)


def test_verdicts_are_withheld_without_a_valid_assay():
    cells = [cell for cell in paper_cells() if cell.folder.name != "sa_vae"]
    result, tested = evaluate(cells, NOT_PASSED), evaluate(cells)
    assert {verdict.verdict for verdict in result.verdicts} == {WITHHELD, "not tested"}
    assert [verdict.evidence for verdict in result.verdicts] == [verdict.evidence for verdict in tested.verdicts]
    assert len(result.notes) == len(tested.notes) + 1


def test_claims_about_text_are_omitted_for_images():
    result = evaluate(paper_cells(dataset=DATA))
    assert [verdict.id for verdict in result.verdicts] == ["C3", "C4", "C5", "C6"]


def test_missing_rows_are_named():
    cells = [cell for cell in paper_cells() if cell.folder.name != "sa_vae"]
    results = {verdict.id: verdict for verdict in evaluate(cells).verdicts}
    assert results["C5"].evidence == "no finished cells of sa_vae"
    assert results["C3"].verdict == results["C5"].verdict == "not tested"
    assert results["C4"].verdict == "holds (analogue)"


def test_no_claims_without_testable_rows():
    assert evaluate([cell("another")]) is None


def test_claims_name_existing_methods_and_data_sets():
    paper = claims.read_claims()
    rows = {row for claim in paper for row in (claim.row, *claim.against)}
    known, _ = expressions.parse_methods(sorted(rows), "paper")
    assert {method.expression for method in known} == rows
    assert {claim.test for claim in paper} == {*claims.TESTS}
    with tables.PUBLISHED.open(encoding="utf-8", newline="") as file:
        published = {record["dataset"] for record in csv.DictReader(file)}
    assert {*tomllib.loads(claims.CLAIMS.read_text("utf-8"))["datasets"]} == published
