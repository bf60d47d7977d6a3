"""Tables of stored cells: numbers, intervals, footnotes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bench.core.files import read_json, write_json
from bench.evaluation.registry import group_of_metric
from bench.experiment.stored_evaluation import regression_values
from bench.reporting import report
from bench.reporting.notes import MAX_FOOTNOTES
from bench.reporting.statistics import crossed
from tests.fixtures import make_cells
from tests.reporting.records import FIXTURES, change, change_evaluation, frames, markdown, renamed, rows, stored


@pytest.mark.usefixtures("no_figures")
def test_tables_match_the_golden_files(out: Path):
    """After an intended change: PYTHONPATH=. python tests/fixtures/make_cells.py"""
    [result] = report.build(out)
    for suffix in make_cells.GOLDEN:
        table = (out / "tables" / f"glyphs-quick{suffix}").read_text("utf-8")
        assert table == (FIXTURES / f"golden{suffix}").read_text("utf-8")
    assert "seed 2 failed: loss is nan at update 120" in result.text


@pytest.mark.usefixtures("no_figures")
def test_one_seed_has_no_spread(tmp_path: Path):
    make_cells.write(tmp_path, seeds=1)
    [result] = report.build(tmp_path)
    assert rows(tmp_path)["vae"]["nll_sd"] == ""
    assert "(0." not in result.text and "95 %" not in result.text


@pytest.mark.usefixtures("no_figures")
def test_sweep_has_a_row_selected_on_validation(tmp_path: Path):
    members = [
        (make_cells.method(f"beta_vae(beta={beta})", 30, config={"beta": beta}), nll, 3.0, 4, 1.0)
        for beta, nll in ((0.2, 64.0), (0.4, 61.0), (0.6, 62.0))
    ]
    make_cells.write(tmp_path, [make_cells.THREE[1], *members], seeds=2, endings={})
    sweep = "beta_vae(beta=0.2|0.4|0.6)"
    write_json(tmp_path / "sweeps.json", {"quick": {sweep: [member[0].expression for member in members]}})
    [result] = report.build(tmp_path)
    table = rows(tmp_path)
    selected, best = table[f"{sweep}, selected on validation"], table["beta_vae(beta=0.4)"]
    assert list(table)[-1] == selected["method"]
    assert [selected[name] for name in ("n", "iw_nll", "kl")] == [best[name] for name in ("n", "iw_nll", "kl")]
    assert float(selected["relative_cost"]) == pytest.approx(3.0)
    assert "beta_vae(beta=0.4) (2×)" in result.text


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("title", "preset", "notes", "has_published"),
    [
        ("omniglot (Burda 28×28)", "paper", (), True),
        ("omniglot (Burda 28×28)", "paper", ("train.epochs = 5 (preset: 1000)",), False),
        ("omniglot (Burda 28×28)", "small", (), False),
        ("omniglot (Lake 28×28)", "paper", (), False),
    ],
)
def test_published_numbers_need_the_same_protocol(
    tmp_path: Path, title: str, preset: str, notes: tuple[str, ...], has_published: bool
):
    data = replace(make_cells.DATA, name="omniglot", title=title)
    make_cells.write(tmp_path, dataset=data, preset=preset, preset_notes=notes)
    report.build(tmp_path)
    assert ("96.09 (0.36)" in markdown(tmp_path, f"omniglot-{preset}")) == has_published


@pytest.mark.usefixtures("no_figures")
def test_questionable_values_have_footnotes(out: Path):
    for file in out.glob("runs/*/*/vae/*/evaluation.json"):
        metrics = read_json(file)["evaluation"]["metrics"]
        change_evaluation(file, metrics=metrics | {"nll": metrics["iw_nll"] + 0.2, "gap_amortisation": -0.2})
    for file in out.glob("runs/*/*/vae/*/result.json"):
        change(file, cells_per_device=4)
    [result] = report.build(out)
    assert result.text.count("the refinement failed") == 1
    assert result.text.count("negative: the refinement ended below") == 1
    assert float(rows(out)["beta_vae(beta=0.4)"]["pareto_k"]) > 0.7 and "unreliable" in result.text
    assert "measured while several cells shared the device" in result.text
    expected = stats.binomtest(3, 3).proportion_ci(0.95, "wilson")
    assert float(rows(out)["vae"]["collapsed_low"]) == pytest.approx(expected.low)
    assert " 3 of 3 " in result.text


@pytest.mark.usefixtures("no_figures")
def test_mean_mi_is_of_seeds_that_did_not_collapse(out: Path):
    """If only some collapsed: a mean over all would be that of no seed."""
    for file, mi in zip(sorted(out.glob("runs/*/*/vae/*/evaluation.json")), (3.0, 0.02, 3.4), strict=True):
        metrics = read_json(file)["evaluation"]["metrics"] | {"mi": mi, "mi_high": mi, "kl": mi + 1, "au": round(mi)}
        change_evaluation(file, metrics=metrics | {"collapsed": mi < 0.1})
    [result] = report.build(out)
    [row] = [line for line in result.text.splitlines()[:9] if line.startswith("vae")]
    assert "4.20 (0.28)[" in row and "3.20 (0.28)[" in row and "3.0 (0.0)[" in row
    interval = stats.t.interval(0.95, 1, 3.2, 0.2)
    assert f"95 % interval of these [{interval[0]:.2f}, {interval[1]:.2f}]; MI by seed 0.02, 3.00, 3.40" in result.text
    assert " 1 of 3 " in row and "the interval may cover less than 95 %" in result.text
    assert float(rows(out)["vae"]["mi"]) == pytest.approx(6.42 / 3)


@pytest.mark.usefixtures("no_figures")
def test_huge_and_missing_values_fit_into_a_table(text_out: Path):
    """A perplexity of two seeds whose square overflows, and one of another method that is not finite."""
    for method, values in {"vae": (5.8e193, 1e300), "sa_vae": (None, None), "aggressive": (None, 120.0)}.items():
        for file, value in zip(sorted(text_out.glob(f"runs/*/*/{method}/*/evaluation.json")), values, strict=True):
            metrics = read_json(file)["evaluation"]["metrics"] | {"ppl": value}
            change_evaluation(file, metrics=metrics, not_finite=[] if value else ["ppl"])
    [result] = report.build(text_out)
    details = result.text.split("\nDetails\n")[1].split("\n\n")[0].splitlines()
    table = {line.split()[0]: line for line in details}
    assert "5.00e+299 (7.07e+299)" in table["vae"] and "–[" in table["sa_vae"]
    assert "] not finite" in result.text and "1 of 2 seeds" in result.text
    assert max(map(len, details)) < 150


@pytest.mark.usefixtures("no_figures")
def test_plain_nll_is_the_headline_without_refined_nll(out: Path):
    names = group_of_metric()
    for file in out.glob("runs/*/*/*/*/evaluation.json"):
        metrics = read_json(file)["evaluation"]["metrics"].items()
        change_evaluation(file, metrics={name: value for name, value in metrics if name not in names}, groups={})
        (file.parent / "examples.parquet").unlink(missing_ok=True)
    [result] = report.build(out)
    best = min(rows(out).values(), key=lambda row: float(row["iw_nll"]))
    [heading] = [line for line in result.text.splitlines() if line.startswith("method  ")][:1]
    assert f" {float(best['iw_nll']):.2f}" in result.text and heading.split()[1] == "IW-NLL"
    assert {(row["nll"], row["iw_nll_ci_examples"]) for row in rows(out).values()} == {("", "0")}


@pytest.mark.usefixtures("no_figures")
def test_intervals_use_the_values_per_example(out: Path):
    report.build(out)
    values = {}
    for method in ("vae", "beta_vae(beta=0.4)"):
        cells = [cell.examples for cell in stored(out, method) if "nll" in cell.examples.values]
        values[method] = np.array([cell.values["iw_nll"] for cell in cells])  # (S, N)
        assert all(not cell.problem for cell in cells)
    row = rows(out)["beta_vae(beta=0.4)"]
    refined = np.array([cell.examples.values["nll"] for cell in stored(out, "beta_vae(beta=0.4)")])
    expected = crossed(refined, known=make_cells.SAMPLE)
    assert float(row["nll_ci_low"]) == pytest.approx(expected.low, abs=1e-4)
    assert row["nll_ci_examples"] == str(make_cells.EXAMPLES)
    difference = crossed(values["beta_vae(beta=0.4)"] - values["vae"][:2])
    assert float(row["iw_nll_minus_baseline_low"]) == pytest.approx(difference.low, abs=1e-4)
    assert float(row["iw_nll_minus_baseline_high"]) == pytest.approx(difference.high, abs=1e-4)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "damaged"),
        (lambda file: pd.DataFrame({"index": [0], "iw_nll": [1.0]}).to_parquet(file), "does not belong"),
        (lambda file: pd.concat([pd.read_parquet(file)] * 2).to_parquet(file), "damaged"),
        (Path.unlink, ""),
    ],
)
def test_interval_is_over_seeds_without_values_per_example(out: Path, harm: Callable[[Path], None], reason: str):
    [folder] = out.glob("runs/*/*/beta_vae-beta=0.4/seed-1-*")
    harm(folder / "examples.parquet")
    [result] = report.build(out)
    row = rows(out)["beta_vae(beta=0.4)"]
    values = [cell.evaluation.metrics["nll"] for cell in stored(out, row["method"])]
    expected = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
    assert (float(row["nll_ci_low"]), float(row["nll_ci_high"])) == pytest.approx(expected)
    assert row["nll_ci_examples"] == "0"
    assert "over seeds only" in result.text and reason in result.text


def test_regression_estimate_has_its_mean_and_variance():
    """Over samples of examples, the standard error from the values is the spread of the estimate."""
    random = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(2000):
        nll, less = random.normal(60, 3, 200), random.gamma(2.0, 2.0, 200)
        refined = np.where(np.arange(200) < 40, nll - less, np.nan)
        values = regression_values(nll, refined)
        assert values.mean() == pytest.approx(nll.mean() - less[:40].mean())
        estimates.append(values.mean())
        errors.append(values.var(ddof=1) / 200)
    assert np.mean(errors) == pytest.approx(np.var(estimates), rel=0.1)


@pytest.mark.usefixtures("no_figures")
def test_metric_groups_use_the_most_common_settings(out: Path):
    [result] = report.build(out)
    assert (rows(out)["vae"]["n"], rows(out)["vae"]["nll_n"]) == ("3", "2")
    assert "2 of 3 seeds" in result.text and "vae seed 2" in result.text
    cells = frames(out)[1].set_index(["method", "seed"])
    assert cells.loc[("vae", 2), ["nll", "gap_inference"]].isna().all()
    assert cells.loc[("vae", 2), ["iw_nll", "shuffle_gap", "iw_nll_5000"]].notna().all()


def marked(text: str) -> set[str]:
    """Return the rows that are marked as the best in plain text."""
    return {line.split()[0].partition("[")[0] for line in text.splitlines() if " *" in line}


@pytest.mark.usefixtures("no_figures")
def test_rows_that_are_not_told_from_the_best_are_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The best row, rows like it, and no control, row of one seed, row that is worse, or row that has not converged."""
    monkeypatch.setattr("bench.reporting.assay.Assay.is_valid", True)
    vae = make_cells.THREE[1]
    like, worse, single = (make_cells.method(name, 50) for name in ("like", "worse", "single"))
    methods = [vae, (like, 60.9, 0.03, 0, 1.0), (worse, 62.0, 3.0, 4, 1.0), (single, 60.0, 3.0, 4, 1.0)]
    methods.append((make_cells.method("control", 5, family="reference"), 50.0, 3.0, 4, 1.0))
    make_cells.write(tmp_path, methods, endings={}, groups={})
    for seed in (1, 2):
        [folder] = tmp_path.glob(f"runs/*/*/single/seed-{seed}-*")
        (folder / "result.json").unlink()
    [result] = report.build(tmp_path)
    assert marked(result.text) == {"vae", "like"}
    with monkeypatch.context() as patch:  # an interval that contains 0 and ends beyond the margin
        patch.setattr("bench.reporting.frame.MARGIN", 1e-9)
        [result] = report.build(tmp_path)
    assert len(marked(result.text)) == 1
    file = stored(tmp_path, "vae")[0].folder / "history.jsonl"
    *lines, last = file.read_text("utf-8").splitlines()
    file.write_text("\n".join([*lines, json.dumps(json.loads(last) | {"elbo": -20.0})]) + "\n", "utf-8")
    [result] = report.build(tmp_path)
    assert 0 < float(rows(tmp_path)["vae"]["converged"]) < 1 and "not converged in every seed" in result.text
    assert marked(result.text) == {"like"}


@pytest.mark.usefixtures("no_figures")
def test_footnotes_are_few(out: Path):
    """Of many rows with different reasons; the others are remarks, and every reason is printed."""
    reasons = {}
    for i in range(15):
        name = f"method_{i}"
        reasons[name] = f"reason {i}"
        spec = make_cells.method(name, 60 + i, footnotes={"kl": reasons[name]})
        make_cells.write(out, [(spec, 60.0, 1.0, 1, 1.0)], seeds=1)
    [result] = report.build(out)
    letters = [line for line in result.text.splitlines() if line.startswith("[")]
    assert len(letters) <= MAX_FOOTNOTES and all(reason in result.text for reason in reasons.values())
    assert len([line for line in markdown(out).splitlines() if line.startswith("- <sup>")]) <= MAX_FOOTNOTES


@pytest.mark.usefixtures("no_figures")
def test_rows_say_what_differs_from_the_others(out: Path):
    """Another machine, an early end, another budget, and images that were made smaller."""
    [folder] = out.glob("runs/*/*/beta_vae*/seed-0-*")
    record = read_json(folder / "result.json")
    record["provenance"]["machine"]["processor"] = "another"
    record["training"] |= {"stopped_by": "decays"}
    write_json(folder / "result.json", record)
    for file in out.glob("runs/*/*/autoregressive/*/result.json"):
        change(file, training=read_json(file)["training"] | {"updates": 300})
    for file in out.glob("runs/*/*/*/*/config.json"):
        change(file, model=read_json(file)["model"] | {"image_size": 14})
        renamed(file)
    [result] = report.build(out)
    assert result.title.startswith("glyphs (fake, 14×14)")
    assert "trained on another processor than the baseline" in result.text
    assert "stopped before the end of the budget" in result.text
    assert "another number of decoder updates than the 400" in result.text


@pytest.mark.usefixtures("no_figures")
def test_updates_of_a_tuned_row_are_not_compared(out: Path):
    """They are those of all its trials."""
    spec = make_cells.method("tuned", 70, notes=("selected: tuned(target=2.0) (seed 0)",))
    make_cells.write(out, [(spec, 60.0, 1.0, 1, 1.0)])
    for file in out.glob("runs/*/*/tuned/*/result.json"):
        change(file, training=read_json(file)["training"] | {"updates": 3600})
    [result] = report.build(out)
    assert "selected: tuned(target=2.0)" in result.text and "another number of decoder updates" not in result.text
