"""Verdicts on a paper's claims: every outcome of every kind of test, from made-up cells."""

from __future__ import annotations

import csv
import tomllib
from pathlib import Path

import pytest
from scipy import stats

from bench.experiment.cell_record import CellRecord
from bench.reporting import claims, tables
from bench.reporting.frame import cells_frame
from bench.training import expressions

PAPER = tomllib.loads(claims.CLAIMS.read_text("utf-8"))


def cell(
    expression: str, seed: int = 0, extra: tuple[int, ...] = (0, 0, 0), cap: float | None = None, **values
) -> CellRecord:
    """A finished cell of ten updates an epoch; ``extra`` counts the extra updates of each epoch."""
    about = {
        "method": {"expression": expression, "order": 1},
        "dataset": {"title": "reviews", "modality": "text"},
        "preset": "small",
        "preset_notes": ["reduced"],
        "train": {"epochs": 10, "encoder_updates": cap},
        "base_seed": 0,
        "seed": seed,
    }
    counts = [sum(extra[: epoch + 1]) for epoch in range(len(extra))]
    history = [
        {"update": 10 * (e + 1), "encoder_updates": n, "mi": 1.0 + e, "elbo": -9.0} for e, n in enumerate(counts)
    ]
    result = {"status": "ok", "flops": 100.0, "train_seconds": 10.0, "encoder_updates": counts[-1]}
    metrics = {"nll": 50.0, "kl": 1.0, "mi": 0.9, "au": 2, "collapsed": False}
    for name, value in values.items():
        (result if name in result else metrics)[name] = value
    return CellRecord(Path(expression), about, result, {"metrics": metrics, "settings": {}}, history)


def examine(claim: dict, *cells: CellRecord) -> claims.Finding:
    frame = cells_frame(cells)
    return claims.examine(claim, dict(iter(frame.groupby("method"))))


# -- collapse ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("collapsed", "verdict", "opposite"),
    [
        ((True, True), "holds", "does not hold"),
        ((True, False), "undecided", "undecided"),
        ((False, False), "does not hold", "holds"),
        ((True,), "holds", "does not hold"),
    ],
)
def test_collapse_is_a_matter_of_every_seed(collapsed: tuple[bool, ...], verdict: str, opposite: str):
    cells = [cell("a", seed, collapsed=value, mi=0.05) for seed, value in enumerate(collapsed)]
    found = examine({"test": "collapsed", "row": "a"}, *cells)
    assert found.verdict == verdict
    assert f"collapsed in {sum(collapsed)} of {len(collapsed)} seed" in found.evidence
    assert "KL 1.00" in found.evidence and "MI 0.05" in found.evidence and "AU 2.00" in found.evidence
    assert examine({"test": "not collapsed", "row": "a"}, *cells).verdict == opposite


def test_collapse_is_not_tested_where_mi_is_not_defined():
    assert examine({"test": "collapsed", "row": "a"}, cell("a", collapsed=None)).verdict == "not tested"


# -- the lowest NLL ------------------------------------------------------------------------------------------------

LOWEST = {"test": "lowest nll", "row": "a", "against": ["b", "c"]}


def with_nll(**nll: tuple[float, ...]) -> list[CellRecord]:
    return [cell(name, seed, nll=value) for name, values in nll.items() for seed, value in enumerate(values)]


@pytest.mark.parametrize(
    ("b", "verdict", "count"),
    [
        ((51.0, 52.1, 53.0), "holds", 2),
        ((49.0, 50.1, 51.0), "does not hold", 1),
        ((49.0, 53.1, 51.0), "undecided", 1),
    ],
)
def test_the_lowest_nll_goes_by_paired_intervals(b: tuple[float, ...], verdict: str, count: int):
    a = (50.0, 51.0, 52.0)
    found = examine(LOWEST, *with_nll(a=a, b=b, c=(60.0, 61.0, 62.2)))
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.verdict == verdict
    assert found.evidence.startswith(f"{count} of 2 intervals below 0, the highest ")
    assert f"[{interval.low:.2f}, {interval.high:.2f}] against b" in found.evidence
    assert len(found.details) == 2


def test_the_lowest_nll_is_the_refined_proposal_nll_where_every_cell_has_it():
    cells = with_nll(a=(50.0, 51.0), b=(49.0, 50.1), c=(60.0, 61.0))
    for each, common in zip(cells, (45.0, 46.0, 48.0, 49.1, 59.0, 60.3), strict=True):
        each.evaluation["metrics"]["nll_refined"] = common
    found = examine(LOWEST, *cells)
    assert (found.verdict, found.details[0][:5]) == ("holds", "-3.05")
    cells[-1].evaluation["metrics"]["nll_refined"] = None
    found = examine(LOWEST, *cells)
    assert (found.verdict, found.details[0][:5]) == ("does not hold", "+0.95")


def test_one_seed_decides_no_nll_but_is_shown():
    found = examine(LOWEST, *with_nll(a=(50.0,), b=(51.0, 52.0), c=(49.5,)))
    assert found.verdict == "undecided"
    assert found.evidence == "one seed has no interval; lower than 1 of 2 rows, +0.50 against c"
    assert found.details == ("-1.00 against b", "+0.50 against c")


def test_rows_without_common_seeds_are_not_compared():
    cells = [*with_nll(a=(50.0,), b=(51.0,)), cell("c", seed=7)]
    assert examine(LOWEST, *cells) == claims.Finding("not tested", "no common seeds with c")


# -- cost ----------------------------------------------------------------------------------------------------------

COST = {"test": "cost", "row": "a", "against": ["b"], "least": 2, "most": 4}


@pytest.mark.parametrize(
    ("flops", "verdict"),
    [
        ((200.0, 400.0), "holds"),
        ((199.0, 450.0), "does not hold"),
        ((300.0, 450.0), "undecided"),
        ((300.0,), "holds"),
    ],
)
def test_a_cost_lies_between_bounds_in_every_seed(flops: tuple[float, ...], verdict: str):
    cells = [cell("a", seed, flops=value, train_seconds=35.0) for seed, value in enumerate(flops)]
    found = examine(COST, *cells, *(cell("b", seed) for seed in range(3)))
    assert found.verdict == verdict
    assert "and 3.50 times the seconds of b" in found.evidence


def test_a_cost_may_be_bounded_below_alone():
    claim = {key: value for key, value in COST.items() if key != "most"}
    assert examine(claim, cell("a", flops=1e6), cell("b")).verdict == "holds"
    assert examine(claim, cell("a", flops=150.0), cell("b")).verdict == "does not hold"


def test_a_cost_that_the_cap_has_set_is_no_test_but_shown():
    found = examine(COST, cell("a", flops=300.0, extra=(300, 0, 0), cap=3.0), cell("b", cap=3.0))
    assert found.verdict == "not tested"
    assert found.evidence.startswith("the preset's cap ended the extra updates of a; 3.00 times the FLOPs")


# -- the end of extra updates --------------------------------------------------------------------------------------

ENDS = {"test": "ends", "row": "a", "epochs": 2}


@pytest.mark.parametrize(
    ("extra", "verdict", "evidence"),
    [
        ([(5, 5, 0, 0)], "holds", "ended in 1 of 1 seed, after epoch 2, at a validation MI of 2.00"),
        ([(5, 5, 5, 0)], "does not hold", "ended in 1 of 1 seed, after epoch 3, at a validation MI of 3.00"),
        ([(5, 5, 5, 5)], "does not hold", "ended in 0 of 1 seed"),
        ([(5, 0, 0), (5, 5, 5)], "undecided", "ended in 1 of 2 seeds, after epoch 1, at a validation MI of 1.00"),
        ([(5, 5, 0), (5, 0, 0)], "holds", "ended in 2 of 2 seeds, after epoch 2, 1, at a validation MI of 1.50 (0.71)"),
        ([(0, 0, 0)], "not tested", "no extra updates of a recorded"),
    ],
)
def test_extra_updates_end_within_some_epochs(extra: list[tuple[int, ...]], verdict: str, evidence: str):
    found = examine(ENDS, *(cell("a", seed, counts) for seed, counts in enumerate(extra)))
    assert (found.verdict, found.evidence) == (verdict, evidence)


def test_an_end_that_the_cap_made_is_no_test():
    found = examine(ENDS, cell("a", extra=(200, 100, 0), cap=3.0), cell("a", 1, extra=(5, 0, 0), cap=3.0))
    assert found == claims.Finding("not tested", "the preset's cap ended it in 1 of 2 seeds")


@pytest.mark.parametrize(("made", "capped"), [(300, True), (299, False), (310, True)])
def test_a_cap_counts_planned_updates(made: int, capped: bool):
    assert claims.capped(cell("a", extra=(made, 0), cap=3.0)) is capped
    assert not claims.capped(cell("a", extra=(made, 0)))
    assert claims.capped(cell("a", extra=(300, 0), cap=3.005))  # half an update cannot be made


# -- the claims of the paper ---------------------------------------------------------------------------------------


def paper_cells(**about) -> list[CellRecord]:
    """Three seeds of every row, as the paper claims them; ``about`` goes into every config."""
    rows = dict.fromkeys(row for claim in PAPER["claim"] for row in (claim["row"], *claim.get("against", ())))
    rows |= {"vae": {"collapsed": True}, "sa_vae": {"flops": 900.0}}
    rows |= {"aggressive": {"flops": 250.0, "extra": (5, 5, 0)}, "aggressive+anneal": {"nll": 48.0}}
    made = [cell(row, seed, **(values or {})) for row, values in rows.items() for seed in range(3)]
    for each in made:
        each.evaluation["metrics"]["nll"] += each.config["seed"]
        each.config.update(about)
    return made


def judge(cells: list[CellRecord]):
    return claims.judge(cells, cells_frame(cells))


def test_every_claim_can_hold():
    made = judge(paper_cells())
    assert [each.id for each in made.verdicts] == ["C1", "C2", "C3", "C4", "C5", "C6"]
    assert {each.verdict for each in made.verdicts} == {"holds (analogue)"}
    assert made.notes[1].startswith("Analogue")


def test_only_the_papers_protocol_on_its_data_is_the_papers_experiment():
    data = {"title": "yahoo (Yang 2017)", "modality": "text"}
    made = judge(paper_cells(preset="paper", preset_notes=[], dataset=data))
    assert {each.verdict for each in made.verdicts} == {"holds"}
    assert not any(note.startswith("Analogue") for note in made.notes)
    for change in (
        {"dataset": data, "preset": "small", "preset_notes": []},
        {"dataset": data, "preset": "paper", "preset_notes": ["train.epochs = 5 (preset: 100)"]},
        {"dataset": data | {"title": "reviews"}, "preset": "paper", "preset_notes": []},
    ):
        assert {each.verdict for each in judge(paper_cells(**change)).verdicts} == {"holds (analogue)"}


def test_claims_about_text_are_not_asked_of_images():
    made = judge(paper_cells(dataset={"title": "pictures", "modality": "image"}))
    assert [each.id for each in made.verdicts] == ["C3", "C4", "C5", "C6"]


def test_missing_rows_are_named_and_unfinished_ones_are_missing():
    cells = [each for each in paper_cells() if each.config["method"]["expression"] != "sa_vae"]
    for each in cells:
        if each.config["method"]["expression"] == "vae+anneal":
            each.result["status"] = "failed"
    found = {each.id: each for each in judge(cells).verdicts}
    assert found["C3"].evidence == "no finished cells of vae+anneal, sa_vae"
    assert found["C5"].evidence == "no finished cells of sa_vae"
    assert found["C3"].verdict == found["C5"].verdict == "not tested"
    assert found["C4"].verdict == "holds (analogue)"


def test_where_nothing_can_be_tested_nothing_is_said():
    assert judge([cell("another")]) is None


def test_the_claims_speak_of_rows_and_data_that_there_are():
    rows = {row for claim in PAPER["claim"] for row in (claim["row"], *claim.get("against", ()))}
    known, _ = expressions.parse_methods(sorted(rows), "paper")
    assert {variant.expression for variant in known} == rows
    assert {claim["test"] for claim in PAPER["claim"]} == {*claims.TESTS}
    suite, _ = expressions.parse_methods(["paper"], "paper")
    lowest = next(claim for claim in PAPER["claim"] if claim["test"] == "lowest nll")
    assert {variant.expression for variant in suite} == {lowest["row"], *lowest["against"]}
    with tables.PUBLISHED.open(encoding="utf-8", newline="") as file:
        assert {*PAPER["datasets"]} == {record["dataset"] for record in csv.DictReader(file)}
