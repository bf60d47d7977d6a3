"""Reports from stored cells: the numbers, the honesty of the tables, the bytes of the files."""

from __future__ import annotations

import csv
import html
import itertools
import json
import math
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy import stats

from bench.core.files import dumps
from bench.evaluation.registry import group_of_metric, metric_groups
from bench.experiment import examples
from bench.experiment.cell_folder import cell_folders
from bench.reporting import groups as cells
from bench.reporting import points, render, report, tables, texts
from bench.reporting.frame import cells_frame, rows_frame, stored_frame
from bench.reporting.statistics import crossed
from bench.reporting.style import plot_styles

FIXTURES = Path(__file__).parents[1] / "fixtures"
PLANES = {"rate_distortion", "nll_time", "nll_flops", "seeds", "gaps"}  # figures of every group with a latent
fake = runpy.run_path(str(FIXTURES / "make_cells.py"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The committed cells, in a folder of their own."""
    shutil.copytree(FIXTURES / "cells", tmp_path / "out")
    return tmp_path / "out"


@pytest.fixture
def text_out(tmp_path: Path) -> Path:
    """The committed cells of text, in a folder of their own."""
    shutil.copytree(FIXTURES / "text-cells", tmp_path / "text-out")
    return tmp_path / "text-out"


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.reporting.figures.draw", lambda *_: [])


def change(file: Path, **fields) -> None:
    file.write_text(dumps(json.loads(file.read_text("utf-8")) | fields), "utf-8")


def rows(out: Path, stem: str = "glyphs-quick") -> dict[str, dict[str, str]]:
    with (out / "tables" / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


# -- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("suffix", ["csv", "md", "tex"])
def test_golden_tables(out: Path, suffix: str):
    report.build(out)
    written, golden = out / "tables" / f"glyphs-quick.{suffix}", FIXTURES / f"golden.{suffix}"
    assert written.read_bytes() == golden.read_bytes(), "if meant: python tests/fixtures/make_cells.py"


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("suffix", ["csv", "md", "tex"])
def test_golden_tables_of_text(text_out: Path, suffix: str):
    report.build(text_out)
    written, golden = text_out / "tables" / f"reviews-quick.{suffix}", FIXTURES / f"golden-text.{suffix}"
    assert written.read_bytes() == golden.read_bytes(), "if meant: python tests/fixtures/make_cells.py"


@pytest.mark.usefixtures("no_figures")
def test_text_has_a_perplexity_and_images_none(out: Path, text_out: Path):
    [images], [text] = report.build(out), report.build(text_out)
    assert "PPL" in text.text
    assert "exp(IW-NLL / 24.25 words)" in text.text
    assert "PPL" not in images.text
    row = rows(text_out, "reviews-quick")["vae"]
    assert float(row["ppl"]) == pytest.approx(math.exp(float(row["nll"]) / float(row["words"])), rel=1e-3)
    assert row["bpd"] == rows(out)["vae"]["ppl"] == rows(out)["vae"]["words"] == ""


@pytest.mark.usefixtures("no_figures")
def test_references_have_their_standard_error_where_it_is_stored(text_out: Path):
    [made] = report.build(text_out)
    assert "NLL of words drawn independently: 171.30.\n" in made.text
    assert "NLL of the true generator: 101.23 ± 0.31 (standard error): no model can be below it" in made.text
    for file in text_out.glob("runs/*/*/*/*/evaluation.json"):
        change(file, references={"true_generator": 101.234})
    assert "the true generator: 101.23: no model" in report.build(text_out)[0].text


@pytest.mark.usefixtures("no_figures")
def test_csv_keeps_its_first_columns_and_is_plain(out: Path):
    report.build(out)
    header = (out / "tables" / "glyphs-quick.csv").read_text("utf-8").splitlines()[0]
    assert header.startswith(
        "method,n,nll,nll_sd,elbo,rec,kl,kl_sd,mi,mi_sd,mi_batch,au,au_sd,train_seconds,relative_cost,collapsed,"
    )
    table = rows(out)
    assert table["autoregressive"]["kl"] == table["autoregressive"]["collapsed"] == ""
    assert (table["vae"]["collapsed"], table["beta_vae(beta=0.4)"]["collapsed"]) == ("1", "0")
    assert (table["beta_vae(beta=0.4)"]["n"], table["beta_vae(beta=0.4)"]["failed"]) == ("2", "1")
    assert table["autoregressive"]["relative_cost"] == "0.6"


@pytest.mark.usefixtures("no_figures")
def test_bold_is_on_the_lowest_nll_and_reasons_are_told(out: Path):
    [made] = report.build(out)
    markdown = (out / "tables" / "glyphs-quick.md").read_text("utf-8")
    latex = (out / "tables" / "glyphs-quick.tex").read_text("utf-8")
    best = min(rows(out).values(), key=lambda row: float(row["nll_refined"]))
    assert markdown.count("**") == 2
    assert latex.count(r"\textbf") == 1
    assert f"**{float(best['nll_refined']):.2f}**" in next(line for line in markdown.splitlines() if "**" in line)
    assert best["method"] in next(line for line in markdown.splitlines() if "**" in line)
    assert "seed 2 failed: loss is nan at update 120" in made.text
    assert r"lr\_0 = 0.1 \textbar{} 5 \% \& more" in latex
    assert "there is no latent variable" in made.text
    assert "0123456789ab" in made.text
    assert "independent pixels: 84.10" in made.text


@pytest.mark.usefixtures("no_figures")
def test_one_seed_has_no_spread(tmp_path: Path):
    fake["write"](tmp_path, seeds=1)
    [made] = report.build(tmp_path)
    table = rows(tmp_path)
    assert table["vae"]["nll_sd"] == ""
    assert "(0." not in made.text
    assert "95 %" not in made.text


@pytest.mark.usefixtures("no_figures")
def test_a_sweep_has_a_row_selected_on_validation_at_the_cost_of_all(tmp_path: Path):
    members = [
        (fake["method"](f"beta_vae(beta={beta})", 30, config={"beta": beta}), nll, 3.0, 4, 1.0)
        for beta, nll in ((0.2, 64.0), (0.4, 61.0), (0.6, 62.0))
    ]
    fake["write"](tmp_path, [fake["THREE"][1], *members], seeds=2, endings={})
    sweep = "beta_vae(beta=0.2|0.4|0.6)"
    (tmp_path / "sweeps.json").write_text(
        json.dumps({"quick": {sweep: [member[0]["expression"] for member in members]}})
    )
    [made] = report.build(tmp_path)
    table = rows(tmp_path)
    selected, best = table[f"{sweep}, selected on validation"], table["beta_vae(beta=0.4)"]
    assert list(table)[-1] == selected["method"]
    assert [selected[name] for name in ("n", "nll", "kl")] == [best[name] for name in ("n", "nll", "kl")]
    assert float(selected["relative_cost"]) == pytest.approx(3.0)
    assert "beta_vae(beta=0.4) (2×); cost of training all members" in made.text
    assert rf"`{sweep}, selected on validation`".replace("|", r"\|") in (
        tmp_path / "tables" / "glyphs-quick.md"
    ).read_text("utf-8")


@pytest.mark.usefixtures("no_figures")
def test_published_numbers_stand_only_beside_the_same_protocol(tmp_path: Path):
    for title, preset in itertools.product(("omniglot (Burda 28×28)", "omniglot (Lake 28×28)"), ("paper", "small")):
        out = tmp_path / preset / title[10:14]
        data = fake["DATA"] | {"name": "omniglot", "title": title}
        fake["write"](out, dataset=data, preset=preset, preset_notes=[])
        report.build(out)
        markdown = (out / "tables" / f"omniglot-{preset}.md").read_text("utf-8")
        same = preset == "paper" and "Burda" in title
        assert ("Published numbers" in markdown) == same
        assert ("96.09 (0.36)" in markdown) == same
        if same:
            assert "no: quoted from memory" in markdown


@pytest.mark.usefixtures("no_figures")
def test_a_changed_protocol_is_not_the_published_one(tmp_path: Path):
    data = fake["DATA"] | {"name": "omniglot", "title": "omniglot (Burda 28×28)"}
    fake["write"](tmp_path, dataset=data, preset="paper", preset_notes=["train.epochs = 5 (preset: 1000)"])
    report.build(tmp_path)
    assert "Published numbers" not in (tmp_path / "tables" / "omniglot-paper.md").read_text("utf-8")


def test_published_numbers_say_whether_they_were_checked():
    with tables.PUBLISHED.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    assert {*records[0]} == {"version", "dataset", "method", "metric", "value", "sd", "checked"}
    assert {record["metric"] for record in records} == {*tables.PUBLISHED_METRICS}
    assert all(float(record["value"]) >= 0 and record["checked"].startswith(("yes", "no")) for record in records)


def test_numbers_have_no_negative_zero():
    assert [tables.number(value, 2) for value in (-0.001, 0.0, -1.005, 1234.5, math.nan)] == [
        *("0.00", "0.00", "-1.00", "1,234.50", "–"),
    ]


def test_footnotes_are_lettered_past_z_and_shared():
    document = render.Document("title", "label")
    letters = [document.footnote(f"note {i}") for i in range(28)]
    assert [letters[i] for i in (0, 25, 26, 27)] == ["a", "z", "aa", "ab"]
    assert document.footnote("note 3") == "d"


def test_markdown_shows_what_it_would_otherwise_eat():
    eaten = "a_b _c_ *d* `e` |f| [g] <unk> ~~h~~ $i$ # \\ &lt; R&D"
    shown = r"a_b \_c\_ \*d\* \`e\` \|f\| \[g\] \<unk> \~\~h\~\~ \$i\$ \# \\ \&lt; R&D"
    assert render.escape_markdown(eaten) == shown


@given(st.text("ab_ *`[]()<>#|~$&;!\\-+.01'\":=/lt@", min_size=1))
@settings(max_examples=300, deadline=None)
def test_a_sentence_in_a_list_is_rendered_as_it_is(text: str):
    text = " ".join(text.split())
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"1. {texts.shown(text)}\n")
    said = rendered.removeprefix("<ol>\n<li>").removesuffix("</li>\n</ol>\n")
    assert html.unescape(said) == (text or "<em>(nothing)</em>")


# -- the common-proposal NLL, intervals, groups of metrics -----------------------------------------------------------


def as_of_old(out: Path) -> None:
    """Every record without what came later."""
    later = {*group_of_metric(), *fake["LATER_NULL"]}
    for file in out.glob("runs/*/*/*/*/evaluation.json"):
        record = json.loads(file.read_text("utf-8"))
        metrics = {name: value for name, value in record["metrics"].items() if name not in later}
        change(file, metrics=metrics, groups={})
        (file.parent / "examples.parquet").unlink(missing_ok=True)


@pytest.mark.usefixtures("no_figures")
def test_where_no_cell_has_a_refined_proposal_nll_the_plain_one_is_the_headline(out: Path):
    as_of_old(out)
    [made] = report.build(out)
    table = rows(out)
    best = min(table.values(), key=lambda row: float(row["nll"]))
    assert "IW-NLL" not in made.text
    assert f"*{float(best['nll']):.2f}" in made.text
    assert "Use of z" not in made.text and "Inference" not in made.text
    assert "mean and 95 % t interval of the differences over common seeds" in made.text
    for row in table.values():
        values = [cell.evaluation["metrics"]["nll"] for cell in stored(out, row["method"]) if cell.evaluation]
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (float(row["nll_ci_low"]), float(row["nll_ci_high"])) == (pytest.approx(low), pytest.approx(high))
        assert (row["nll_refined"], row["nll_ci_examples"]) == ("", "0")


def stored(out: Path, method: str) -> list[cells.Cell]:
    return [cells.read(folder) for folder in cell_folders(out) if folder.config.method.expression == method]


@pytest.mark.usefixtures("no_figures")
def test_values_per_example_have_the_stored_metrics_as_their_means(out: Path):
    seen = 0
    for folder in cell_folders(out):
        cell = cells.read(folder)
        for name, values in cell.examples.values.items():
            assert values.mean() == pytest.approx(cell.evaluation["metrics"][name], rel=1e-6)
            seen += 1
        assert not cell.examples.problem
    assert seen == 2 * 7  # eight finished cells, one of them without a file


def test_the_values_of_a_sample_have_the_regression_estimates_mean_and_variance():
    """Over samples of examples: the standard error from the values is the spread of the estimate."""
    random = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(4000):
        nll, less = random.normal(60, 3, 200), random.gamma(2.0, 2.0, 200)
        common = np.where(np.arange(200) < 40, nll - less, np.nan)
        values = examples.regression_values(nll, common)
        assert values.mean() == pytest.approx(nll.mean() - less[:40].mean())
        estimates.append(values.mean())
        errors.append(values.var(ddof=1) / 200)
    assert np.mean(errors) == pytest.approx(np.var(estimates), rel=0.08)


def test_without_a_plain_nll_the_sample_stands_for_all(tmp_path: Path):
    """As the evaluator says of a posterior without density."""
    common = np.array([50.0, math.nan, 54.0, math.nan])
    pd.DataFrame({"index": [4, 1, 2, 3], "nll": math.nan, "nll_refined": common}).to_parquet(tmp_path / examples.FILE)
    got = examples.read(tmp_path, {"nll": None, "nll_refined": 52.0})
    assert [*got.index] == [1, 2, 3, 4]
    assert {name: [*values] for name, values in got.values.items()} == {"nll_refined": [52.0, 56.0, 52.0, 48.0]}


@pytest.mark.usefixtures("no_figures")
def test_intervals_are_those_of_an_analysis_of_variance_of_the_stored_files(out: Path):
    report.build(out)
    table = rows(out)
    values = {}
    for method in ("vae", "beta_vae(beta=0.4)"):
        files = [cell.folder / "examples.parquet" for cell in stored(out, method) if cell.status == "ok"]
        columns = [pd.read_parquet(file).sort_values("index") for file in files]
        for nll in ("nll", "nll_refined"):
            matrix = []
            for column in columns:
                c = column[nll].astype(float) - column["nll"].astype(float)
                weight = c.notna().to_numpy() * len(c) / c.notna().sum()
                matrix.append((column["nll"] + c.mean() + weight * (c.fillna(0) - c.mean())).to_numpy(float))
            values[method, nll] = np.array(matrix)
    row = table["beta_vae(beta=0.4)"]
    sampled = int(columns[0]["nll_refined"].notna().sum())
    assert 1 < sampled < fake["EXAMPLES"]
    got = crossed(values["beta_vae(beta=0.4)", "nll_refined"], known=sampled)
    assert float(row["nll_refined_ci_low"]) == pytest.approx(got.low, abs=1e-4)
    assert float(row["nll_refined_ci_high"]) == pytest.approx(got.high, abs=1e-4)
    assert row["nll_refined_ci_examples"] == str(fake["EXAMPLES"])
    less = crossed(values["beta_vae(beta=0.4)", "nll"] - values["vae", "nll"][:2])
    assert float(row["nll_minus_baseline_low"]) == pytest.approx(less.low, abs=1e-4)
    assert float(row["nll_minus_baseline_high"]) == pytest.approx(less.high, abs=1e-4)
    assert (row["pairs"], row["nll_minus_baseline_examples"]) == ("2", str(fake["EXAMPLES"]))


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda file: file.write_bytes(file.read_bytes()[:100]), "examples.parquet is damaged (ArrowInvalid)"),
        (lambda file: file.write_bytes(b""), "examples.parquet is damaged"),
        (
            lambda file: pd.DataFrame({"index": [0, 1], "nll": [1.0, 2.0]}).to_parquet(file),
            "examples.parquet does not belong to evaluation.json",
        ),
        (lambda file: pd.DataFrame({"nll": [1.0, 2.0]}).to_parquet(file), "examples.parquet is damaged (KeyError)"),
        (lambda file: pd.DataFrame({"index": ["a"], "nll": ["b"]}).to_parquet(file), "is damaged (ValueError)"),
        (lambda file: file.unlink(), ""),
    ],
    ids=["torn", "empty", "foreign", "without index", "words", "missing"],
)
def test_without_values_per_example_an_interval_is_over_seeds_alone(out: Path, harm, reason: str):
    [folder] = out.glob("runs/*/*/beta-vae-beta-0-4/seed-1-*")
    report.build(out)
    harm(folder / "examples.parquet")
    [made] = report.build(out)  # the change is seen
    row = rows(out)["beta_vae(beta=0.4)"]
    values = [cell.evaluation["metrics"]["nll_refined"] for cell in stored(out, row["method"]) if cell.status == "ok"]
    low, high = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
    assert float(row["nll_refined_ci_low"]) == pytest.approx(low)
    assert float(row["nll_refined_ci_high"]) == pytest.approx(high)
    assert row["nll_refined_ci_examples"] == row["nll_refined_minus_baseline_examples"] == "0"
    assert "over seeds alone, for values per test example are missing" in made.text
    assert reason in made.text
    assert not reason or f"Not used: beta-vae-beta-0-4/{folder.name}" in made.text


@pytest.mark.usefixtures("no_figures")
def test_metrics_of_a_group_have_the_settings_of_most_cells(out: Path):
    [made] = report.build(out)
    assert rows(out)["vae"]["n"] == "3"
    assert rows(out)["vae"]["nll_refined_n"] == rows(out)["autoregressive"]["nll_refined_n"] == "2"
    note = (
        "Metrics of the group refined_iw are for examples 25, samples 200, steps 100; left out, for examples 10, steps"
    )
    assert f"{note} 20, samples 200: vae seed 2." in made.text
    assert "of 2 of 3 seeds" in made.text
    frame = cells_frame(cells.read(folder) for folder in cell_folders(out)).set_index(["method", "seed"])
    assert frame.loc[("vae", 2), [*metric_groups()["refined_iw"].metric_names]].isna().all()
    assert frame.loc[("vae", 2), ["nll", "shuffle_gap", "nll_5000"]].notna().all()
    assert frame.loc[("vae", 1), [*metric_groups()["refined_iw"].metric_names]].notna().all()


@pytest.mark.usefixtures("no_figures")
def test_the_share_collapsed_has_wilsons_interval_and_unreliable_weights_are_marked(out: Path):
    [made] = report.build(out)
    row = rows(out)["vae"]
    expected = stats.binomtest(3, 3).proportion_ci(0.95, "wilson")
    assert float(row["collapsed_low"]) == pytest.approx(expected.low)
    assert "100 % [44, 100]" in made.text
    assert float(rows(out)["beta_vae(beta=0.4)"]["pareto_k"]) > 0.7
    assert "above 0.7: not to be trusted" in made.text


@pytest.mark.usefixtures("no_figures")
def test_a_common_nll_that_the_plain_one_undercuts_is_marked(out: Path):
    [made] = report.build(out)
    assert "the fit ended in a worse place than q" not in made.text
    for file in out.glob("runs/*/*/vae/*/evaluation.json"):
        record = json.loads(file.read_text())
        record["metrics"]["nll_refined"] = record["metrics"]["nll"] + 0.2
        file.write_text(json.dumps(record))
    [made] = report.build(out)
    assert made.text.count("the fit ended in a worse place than q") == 1


def test_mi_is_a_bracket_but_where_both_ends_read_alike(out: Path):
    group, frame, table = tables_of(out)
    panel = tables.document(group, frame, table).panels[0]
    column = [entry.text for entry in panel.columns].index("MI")
    texts_of = {row[0].text: row[column] for row in panel.rows}
    vae = table.set_index("method").loc["beta_vae(beta=0.4)"]
    assert texts_of["beta_vae(beta=0.4)"].text == f"{vae['mi']:.2f}–{vae['mi_high']:.2f}"
    assert texts_of["beta_vae(beta=0.4)"].spread == f"{vae['mi_sd']:.2f}"
    assert "–" not in texts_of["vae"].text
    crossed = table.assign(mi_high=table["mi"] - 0.02)
    panel = tables.document(group, frame, crossed).panels[0]
    assert {row[0].text: row[column].text for row in panel.rows}["beta_vae(beta=0.4)"] == f"{vae['mi']:.2f}"


def tables_of(out: Path):
    [group] = cells.groups("glyphs-quick", cell_folders(out))
    frame = cells_frame(group.cells)
    return group, frame, rows_frame(frame)


def test_differences_and_costs_can_refer_to_another_method(out: Path):
    _, frame, default = tables_of(out)
    rows = rows_frame(frame, baseline="autoregressive").set_index("method")
    assert rows["baseline"].to_dict() == {"autoregressive": True, "vae": False, "beta_vae(beta=0.4)": False}
    opposite = default.set_index("method").loc["autoregressive"]
    assert rows.loc["vae", "nll_minus_baseline"] == pytest.approx(-opposite["nll_minus_baseline"])
    assert rows.loc["vae", "nll_refined_minus_baseline_low"] == -opposite["nll_refined_minus_baseline_high"]
    assert rows.loc["vae", "relative_cost"] == pytest.approx(1 / 0.6)


def test_every_number_of_a_table_can_be_sorted_by(out: Path):
    for panel in tables.document(*tables_of(out)).panels:
        for row in panel.rows:
            assert row[0].value is None
            for entry in row[1:]:
                assert (entry.value is None) == (entry.text == render.DASH)
                digits = entry.text.strip("[").split(" ")[0].split("–")[0].split(",")[0]
                if entry.value is not None and not entry.text.startswith("[") and entry.text != render.DASH:
                    scale = 100 if "%" in entry.text else 1
                    assert float(digits.replace(",", "")) == pytest.approx(scale * entry.value, abs=0.51)


def test_a_terminal_holds_the_table_whatever_its_names(out: Path, text_out: Path):
    name = "a_method_with_settings(" + ",".join(f"setting_{i}=0.{i}" for i in range(6)) + ")"
    for folder in text_out.glob("runs/*/*/sa-vae/seed-*"):
        config = json.loads((folder / "config.json").read_text("utf-8"))
        change(folder / "config.json", method=config["method"] | {"expression": name, "label": name})
    for root, stem in ((out, "glyphs-quick"), (text_out, "reviews-quick")):
        [group] = cells.groups(stem, cell_folders(root))
        frame = cells_frame(group.cells)
        lines = render.text(tables.document(group, frame, rows_frame(frame))).split("\n\n")[1].splitlines()
        assert max(len(line) for line in lines if line != name) <= 130
    assert name in lines


def many_rows(out: Path) -> str:
    names = [f"vae(a_long_setting={i / 10})+anneal" if i % 3 else f"vae_{i}" for i in range(60)]
    methods = [(fake["method"](name, i), 60 + i, 1.0 + i, 3, 1.0) for i, name in enumerate(names)]
    fake["write"](out, methods, seeds=2, endings={}, judged={})
    return render.latex(tables.document(*tables_of(out)))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
@pytest.mark.parametrize("name", ["golden.tex", "golden-text.tex", "sixty rows"])
def test_latex_compiles_within_the_margins(tmp_path: Path, name: str):
    packages = r"\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{booktabs}"
    table = many_rows(tmp_path / "out") if name == "sixty rows" else (FIXTURES / name).read_text("utf-8")
    page = rf"\documentclass{{article}}{packages}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "page.tex").write_text(page, "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert "too large" not in done.stdout


def test_all_cells_are_one_frame_with_their_folders(out: Path, text_out: Path):
    shutil.copytree(text_out / "runs", out / "runs", dirs_exist_ok=True)
    [damaged] = out.glob("runs/glyphs/*/vae/seed-1-*")
    (damaged / "result.json").write_text("{torn")
    frame = stored_frame(out)
    assert len(frame) == 9 + 8
    assert {*frame["dataset"]} == {"glyphs", "reviews"}
    assert frame["status"].value_counts().to_dict() == {"ok": 15, "failed": 1, "damaged": 1}
    row = frame[(frame["method"] == "beta_vae(beta=0.4)") & (frame["seed"] == 0)].iloc[0]
    assert row["config"] == {"beta": 0.4}
    assert Path(row["folder"]).is_dir()
    # Every metric as it was judged, with settings of whatever kind.
    assert frame.loc[(frame["method"] == "vae") & (frame["seed"] == 2), "nll_refined"].notna().all()


# -- texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figures")
def test_golden_texts(text_out: Path):
    [made] = report.build(text_out)
    assert Path("texts/reviews-quick.md") in made.files
    places = "page: out/report.html, tables: out/tables/reviews-quick.*, texts: out/texts/reviews-quick.*"
    assert made.places(Path("out")) == places
    written = text_out / "texts" / "reviews-quick.md"
    assert written.read_bytes() == (FIXTURES / "golden-texts.md").read_bytes(), "python tests/fixtures/make_cells.py"


@pytest.mark.usefixtures("no_figures")
def test_texts_follow_their_cells(text_out: Path):
    page = text_out / "texts" / "reviews-quick.md"
    [first] = report.build(text_out)
    [file] = text_out.glob("runs/*/*/autoregressive/seed-0-*/texts.json")
    change(file, samples=["another sentence"])
    report.build(text_out)
    assert "another sentence" in page.read_text("utf-8")
    for file in text_out.glob("runs/*/*/*/*/texts.json"):
        file.unlink()
    [second] = report.build(text_out)
    assert {*first.files} - {*second.files} == {Path("texts/reviews-quick.md")}
    assert not page.exists()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "content", ["{torn", "[]", '{"samples": [], "reconstructions": [{}]}', '{"reconstructions": []}']
)
def test_damaged_texts_are_left_out_and_told(text_out: Path, content: str):
    [file] = text_out.glob("runs/*/*/vae/seed-0-*/texts.json")
    file.write_text(content)
    lines: list[str] = []
    report.build(text_out, log=lines.append)
    page = (text_out / "texts" / "reviews-quick.md").read_text("utf-8")
    assert "## `vae`" not in page
    assert "## `sa_vae`" in page
    assert any("no texts of vae" in line for line in lines)


# -- what is not pooled, what is left out --------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("name", ["fingerprint", "device", "model", "evaluation"])
def test_cells_of_another_protocol_are_not_pooled(out: Path, name: str):
    [folder] = out.glob("runs/*/*/vae/seed-2-*")
    config = json.loads((folder / "config.json").read_text("utf-8"))
    match name:
        case "fingerprint":
            change(folder / "config.json", dataset=config["dataset"] | {"fingerprint": "f" * 64})
        case "device":
            change(folder / "config.json", device="cuda")
        case "model":
            change(folder / "config.json", model={"latent_dim": 32})
        case "evaluation":
            change(folder / "evaluation.json", config={"test_examples": 100, "iw_samples": 5, "batch_size": 50})
    lines: list[str] = []
    first, second = report.build(out, log=lines.append)
    assert first.stem == "glyphs-quick"
    assert second.stem.startswith("glyphs-quick-")
    assert rows(out)["vae"]["n"] == "2"
    assert {method: row["n"] for method, row in rows(out, second.stem).items()} == {"vae": "1"}
    assert any("Not comparable" in line for line in lines)
    assert "Not comparable with the cells of glyphs-quick" in second.text
    assert second.stem in first.text


@pytest.mark.usefixtures("no_figures")
def test_settings_that_came_later_or_only_watch_do_not_part_cells(out: Path):
    [folder] = out.glob("runs/*/*/vae/seed-2-*")
    train = json.loads((folder / "config.json").read_text("utf-8"))["train"]
    change(folder / "config.json", train=train | {"equal_lengths": False, "lag_examples": 8})
    [made] = report.build(out)
    assert rows(out)["vae"]["n"] == "3"


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("result.json", "{torn", "result.json is damaged"),
        ("evaluation.json", "", "evaluation.json is damaged"),
        ("config.json", "[]", "config.json is not a record of a cell"),
        ("config.json", "{}", "config.json lacks 'schema_version'"),
        ("result.json", '{"schema_version": 99}', "written by a newer version"),
    ],
)
def test_a_damaged_cell_is_left_out_and_told(out: Path, file: str, content: str, reason: str):
    [folder] = out.glob("runs/*/*/vae/seed-1-*")
    (folder / file).write_text(content)
    lines: list[str] = []
    [made] = report.build(out, log=lines.append)
    assert rows(out)["vae"]["n"] == "2"
    assert any(reason in line and folder.name in line for line in lines)
    assert reason in made.text


@pytest.mark.usefixtures("no_figures")
def test_unfinished_and_skipped_cells_keep_their_row(out: Path):
    for seed, folder in enumerate(sorted(out.glob("runs/*/*/autoregressive/seed-*"))):
        (folder / "evaluation.json").unlink()
        (folder / "result.json").unlink()
        if seed:
            skipped = {"schema_version": 1, "cell_id": folder.name[7:], "status": "skipped", "reason": "needs text"}
            (folder / "result.json").write_text(json.dumps(skipped))
    [made] = report.build(out)
    row = rows(out)["autoregressive"]
    assert (row["n"], row["nll"], row["unfinished"], row["skipped"]) == ("0", "", "1", "2")
    assert "seeds 1, 2 skipped: needs text" in made.text
    assert "seed 0 unfinished" in made.text


@pytest.mark.usefixtures("no_figures")
def test_seconds_that_shared_a_device_and_footnotes_of_methods_are_told(out: Path):
    for folder in out.glob("runs/*/*/vae/seed-*"):
        change(folder / "result.json", shared=4)
    assert "measured while up to 4 cells shared the device" in report.build(out)[0].text


def test_damaged_pictures_are_left_out_and_told(out: Path):
    for file in out.glob("runs/*/*/vae/seed-*/arrays.npz"):
        file.write_bytes(file.read_bytes()[:200])
    lines: list[str] = []
    report.build(out, log=lines.append)
    assert any("no pictures of vae" in line for line in lines)


# -- files and processes -------------------------------------------------------------------------------------------


def test_every_file_is_the_same_byte_for_byte_when_built_again(out: Path):
    [made] = report.build(out, force=True)
    names = {file.stem for file in made.files if file.suffix == ".pdf"}
    assert names == {"dynamics", "information", "reconstructions", "samples", *PLANES}
    before = {file: (out / file).read_bytes() for file in made.files}
    shutil.rmtree(out / "figures")
    [again] = report.build(out, force=True)
    assert again == made
    assert {file: (out / file).read_bytes() for file in again.files} == before


def test_text_has_figures_of_lag_and_no_pictures(text_out: Path):
    [made] = report.build(text_out)
    names = {file.stem for file in made.files if file.suffix == ".png"}
    assert names == {"dynamics", "information", "lag", "lag_scatter", *PLANES}


def test_only_what_changed_is_built_again(out: Path, monkeypatch: pytest.MonkeyPatch):
    fake["write"](out, dataset=fake["DATA"] | {"name": "other"})
    written = []
    monkeypatch.setattr("bench.reporting.figures.draw", lambda folder, *_: written.append(folder.name) or [])
    first = report.build(out)
    assert written == ["glyphs-quick", "other-quick"]
    assert report.build(out) == first
    [folder] = out.glob("runs/glyphs/*/vae/seed-0-*")
    metrics = json.loads((folder / "evaluation.json").read_text("utf-8"))["metrics"]
    change(folder / "evaluation.json", metrics=metrics | {"nll": 10.0})
    assert report.build(out)[0].text != first[0].text
    assert written[2:] == ["glyphs-quick"]
    (out / "tables" / "glyphs-quick.tex").unlink()
    report.build(out, [("glyphs", "quick"), ("not", "there")])
    monkeypatch.setattr(report, "VERSION", "another")
    report.build(out, [("other", "quick")])
    assert written[3:] == ["glyphs-quick", "other-quick"]


@pytest.mark.usefixtures("no_figures")
def test_a_table_that_is_no_longer_made_is_removed(out: Path):
    [folder] = out.glob("runs/*/*/vae/seed-2-*")
    change(folder / "config.json", device="cuda")
    [_, second] = report.build(out)
    shutil.rmtree(folder)
    [_] = report.build(out)
    assert not (out / "tables" / f"{second.stem}.csv").exists()


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_a_report_imports_neither_torch_nor_ray_and_a_stored_one_no_pandas(out: Path):
    code = (
        "import sys; from bench.report import build; build(__import__('pathlib').Path(sys.argv[1]))\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    root = Path(report.__file__).parents[1]
    first, second = ({*python("-c", code, str(out), cwd=root).stdout.split()} for _ in range(2))
    assert {"pandas", "matplotlib"} <= first
    assert not {"torch", "ray"} & first
    assert "bench" in second
    assert not {"torch", "ray", "pandas", "matplotlib", "numpy", "scipy"} & second


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "empty"])
def test_an_out_without_cells_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture, make):
    make(tmp_path / "out")
    assert report.main([str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: no ")
    assert printed.err.count("\n") == 1


def test_a_method_far_from_the_rest_leaves_them_a_panel_of_their_own():
    """In rate, as an autoencoder is, or in distortion, as IWAE may be."""
    near = [(f"near {number}", 1.0 + number, 40.0 - number) for number in range(5)]
    for kl, rec in ((90.0, 20.0), (1.0, 210.0)):
        done = pd.DataFrame([*near, ("far", kl, rec)], columns=["method", "kl", "rec"])
        every, most = points.rate_distortion(done, plot_styles(done["method"])).axes[:2]
        assert every.get_ylim()[0] < rec < every.get_ylim()[1] and every.get_xlim()[1] > kl
        assert most.get_ylim()[1] < 50 and most.get_xlim()[1] < 10
    (alone,) = points.rate_distortion(done[done["method"] != "far"], plot_styles(done["method"])).axes
    assert alone.get_ylim()[1] < 50
