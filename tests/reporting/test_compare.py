"""Comparisons at matched rate, at matched training time and over data sets, from made-up cells."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.experiment.cell_record import CellRecord
from bench.reporting import compare, matched, render
from bench.reporting.frame import cells_frame


def cell(method: str, seed: int = 0, history=(), shared: int = 1, machine: str = "one", **values) -> CellRecord:
    """A finished cell; ``history`` holds (seconds, validation ELBO)."""
    about = {
        "method": {"expression": method, "order": 1},
        "dataset": {"title": "reviews", "modality": "text"},
        "base_seed": 0,
        "seed": seed,
    }
    records = [{"update": i, "seconds": seconds, "elbo": elbo} for i, (seconds, elbo) in enumerate(history)]
    result = {"status": "ok", "shared": shared, "provenance": {"machine": {"cpu": machine}, "threads": 1}}
    result["train_seconds"] = history[-1][0] if history else 1.0
    metrics = {"nll": 50.0, "kl": 1.0, "rec": 49.0} | values
    return CellRecord(Path(method), about, result, {"metrics": metrics, "settings": {}}, records)


# -- at matched rate -----------------------------------------------------------------------------------------------

SWEEPS = {"beta": ["beta1", "beta2", "beta3"], "bits": ["bits1", "bits2", "bits3"]}


def sweep(name: str, *points: tuple[float, float], seeds: int = 2) -> list[CellRecord]:
    """Members at (KL, NLL); every further seed is 0.5 nats higher in NLL, and rec is NLL - KL."""
    return [
        cell(f"{name}{i + 1}", seed, kl=kl, nll=nll + seed / 2, rec=nll + seed / 2 - kl)
        for i, (kl, nll) in enumerate(points)
        for seed in range(seeds)
    ]


def at_rate(*cells: CellRecord, **options) -> pd.DataFrame | None:
    return compare.matched_rate(cells_frame(cells), SWEEPS, **options)


def test_sweeps_are_read_off_the_lines_through_their_members():
    beta, bits = (
        sweep("beta", (1.0, 50.0), (3.0, 46.0), (9.0, 52.0)),
        sweep("bits", (8.0, 49.0), (2.0, 47.0), (4.0, 45.0)),
    )
    found = at_rate(*beta, *bits, rates=(2.0, 6.0)).set_index(["sweep", "rate"])
    assert found["nll"].to_dict() == {
        **{("beta", 2.0): 48.25, ("beta", 6.0): 49.25},
        **{("bits", 2.0): 47.25, ("bits", 6.0): 47.25},
    }
    assert found.loc[("beta", 2.0), "rec"] == pytest.approx(46.25)
    low, high = stats.t.interval(0.95, 1, 48.25, stats.sem([48.0, 48.5]))
    assert (found.loc[("beta", 2.0), "nll_low"], found.loc[("beta", 2.0), "nll_high"]) == pytest.approx((low, high))
    assert (found["n"] == 2).all()


def test_no_sweep_is_read_beyond_its_ends():
    beta, bits = (
        sweep("beta", (1.0, 50.0), (3.0, 46.0), (9.0, 52.0)),
        sweep("bits", (2.0, 47.0), (4.0, 45.0), (5.0, 49.0)),
    )
    found = at_rate(*beta, *bits)
    assert {*found["rate"]} == {2.0, 3.0, 5.0}
    assert at_rate(*beta, *bits, rates=(0.9, 1.5, 9.5)) is None  # one sweep alone is no comparison


def test_each_seed_is_read_in_its_own_range():
    beta, bits = (
        sweep("beta", (1.0, 50.0), (3.0, 46.0), (9.0, 52.0)),
        sweep("bits", (2.0, 47.0), (4.0, 45.0), (8.0, 49.0)),
    )
    short = [each for each in beta if each.config["seed"] == 1]
    for each in short:
        each.evaluation["metrics"]["kl"] /= 3
    third = [cell(each.config["method"]["expression"], 2, **each.evaluation["metrics"]) for each in beta[::2]]
    found = at_rate(*beta, *third, *bits, rates=(2.0, 6.0)).set_index(["sweep", "rate"])
    assert found["n"].to_dict() == {("beta", 2.0): 3, ("beta", 6.0): 2, ("bits", 2.0): 2, ("bits", 6.0): 2}


@pytest.mark.parametrize("weak", ["one seed", "two members", "no KL", "failed"])
def test_too_little_is_not_compared(weak: str):
    points = ((1.0, 50.0), (3.0, 46.0), (9.0, 52.0))
    beta, bits = sweep("beta", *points), sweep("bits", *points, seeds=1 if weak == "one seed" else 2)
    if weak == "two members":
        bits = bits[:-2]
    if weak == "no KL":
        bits[0].evaluation["metrics"]["kl"] = None
    if weak == "failed":
        bits[0].result["status"] = "failed"
    assert at_rate(*beta, *bits) is None


def test_the_panel_of_rates_has_a_dash_where_a_sweep_does_not_go():
    beta, bits = (
        sweep("beta", (1.0, 50.0), (3.0, 46.0), (9.0, 52.0)),
        sweep("bits", (2.0, 47.0), (4.0, 45.0), (8.0, 49.0)),
    )
    for each in bits[:2]:
        each.evaluation["metrics"]["kl"] = 3.5
    low = sweep("low", (0.6, 50.0), (1.0, 49.0), (1.5, 48.0))
    sweeps = SWEEPS | {"low": ["low1", "low2", "low3"]}
    document = render.Document("title", "label")
    panels = matched.matched(document, cells_frame([*beta, *bits, *low]), sweeps)
    [panel] = [panel for panel in panels if panel.caption == "At matched rate"]
    assert [entry.text for entry in panel.columns] == [
        *("sweep", "NLL at 1 nats", "NLL at 5 nats", "NLL at 7 nats", "rec at 1", "rec at 5", "rec at 7"),
    ]
    texts = {row[0].text: [entry.text for entry in row[1:4]] for row in panel.rows}
    assert texts["beta"][1].startswith("48.25 [")
    assert texts["low"][0].startswith("49.25 [")
    assert texts["low"][1:] == [render.DASH] * 2
    assert texts["bits"][0] == render.DASH
    assert len(document.footnotes) == 2


# -- at matched training time --------------------------------------------------------------------------------------


def runs(**changes) -> list[CellRecord]:
    quick = [cell("quick", seed, [(1, -9.0 - seed), (2, -7.0), (4, -8.0)]) for seed in range(2)]
    slow = [cell("slow", seed, [(3, -6.0), (6, -5.0), (90, -1.0)], **changes) for seed in range(2)]
    return quick + slow


def test_everyone_has_the_same_seconds_and_its_best_until_then():
    found = compare.matched_time(cells_frame(runs())).set_index(["seconds", "method"])
    assert {*found.index.get_level_values("seconds")} == {4.0}  # before that only one method has been validated
    assert found["elbo"].to_dict() == {(4.0, "quick"): -7.0, (4.0, "slow"): -6.0}
    found = compare.matched_time(cells_frame(runs()), shares=(0.25, 0.75)).set_index(["seconds", "method"])
    assert found["elbo"].to_dict() == {(3.0, "quick"): -7.0, (3.0, "slow"): -6.0}
    assert found.loc[(3.0, "quick"), "n"] == 2


def test_seconds_of_other_machines_or_in_company_are_not_compared():
    assert compare.matched_time(cells_frame(runs(machine="two"))) is None
    assert compare.matched_time(cells_frame(runs(shared=4))) is None
    assert compare.matched_time(cells_frame(runs()[:3])) is None


# -- over data sets ------------------------------------------------------------------------------------------------


def blocks(values: np.ndarray) -> dict[str, pd.DataFrame]:
    """Tables of one NLL per method, ``values`` [B, K]."""
    methods = [f"method{i}" for i in range(values.shape[1])]
    return {
        f"block{b}": pd.DataFrame(
            {"method": methods, "nll": row, "nll_refined": math.nan, "selection": "", "baseline": False}
        )
        for b, row in enumerate(values)
    }


def test_mean_ranks_and_friedmans_statistic_in_closed_form():
    """12 B / (K (K + 1)) Σ (R - (K + 1) / 2)², and Demšar's q of 2.728 for five methods."""
    values = np.random.default_rng(0).normal(size=(8, 5)) + np.arange(5)
    found = compare.ranks(blocks(values))
    expected = np.mean([[sum(row < value) + 1 for value in row] for row in values], axis=0)
    assert [found.ranks[f"method{i}"] for i in range(5)] == pytest.approx([*expected])
    assert [*found.ranks.values()] == sorted(found.ranks.values())
    assert found.statistic == pytest.approx(12 * 8 / 30 * ((expected - 3) ** 2).sum())
    assert found.p == pytest.approx(stats.chi2.sf(found.statistic, 4))
    assert found.critical_difference == pytest.approx(2.728 * math.sqrt(5 * 6 / (6 * 8)), abs=1e-3)


@pytest.mark.parametrize(("count", "quantile"), [(3, 2.343), (4, 2.569), (6, 2.850), (10, 3.164)])
def test_critical_differences_are_demsars(count: int, quantile: float):
    found = compare.ranks(blocks(np.random.default_rng(0).normal(size=(6, count))))
    assert found.critical_difference == pytest.approx(quantile * math.sqrt(count * (count + 1) / 36), abs=1e-3)


def test_equal_values_share_their_rank():
    values = np.array([[1.0, 1.0, 2.0]] * 6)
    assert compare.ranks(blocks(values)).ranks == {"method0": 1.5, "method1": 1.5, "method2": 3.0}
    assert compare.ranks(blocks(np.ones((6, 3)))) is None


def test_only_methods_that_every_block_has_are_ranked():
    tables = blocks(np.random.default_rng(0).normal(size=(6, 4)))
    tables["block2"] = tables["block2"].iloc[1:]
    tables["block3"].loc[3, "selection"] = "best validation ELBO of each seed"
    assert compare.ranks(tables) is None
    tables["block3"].loc[3, "selection"] = ""
    assert {*compare.ranks(tables).ranks} == {"method1", "method2", "method3"}


@pytest.mark.parametrize("shape", [(5, 4), (6, 2)])
def test_few_blocks_or_methods_are_not_ranked(shape: tuple[int, int]):
    assert compare.ranks(blocks(np.random.default_rng(0).normal(size=shape))) is None


def test_no_ranking_is_read_out_of_noise():
    random = np.random.default_rng(0)
    rejected = [compare.ranks(blocks(random.normal(size=(10, 4)))).p < 0.05 for _ in range(300)]
    assert np.mean(rejected) < 0.09
    told = render.text(matched.ranking(compare.ranks(blocks(random.normal(size=(6, 3))))))
    assert "No two methods can be told apart." in told
    apart = np.array([*itertools.repeat([1.0, 2.0, 3.0], 10)])
    assert "at least 1.05 apart" in render.text(matched.ranking(compare.ranks(blocks(apart))))
