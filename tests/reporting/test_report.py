"""Reports on stored cells: numbers, footnotes, files."""

from __future__ import annotations

import csv
import html
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from scipy import stats

from bench.cli.main import main
from bench.core.files import read_json, write_json
from bench.evaluation.registry import group_of_metric
from bench.experiment import examples
from bench.experiment.cell_folder import cell_folders
from bench.experiment.cell_record import CellRecord
from bench.reporting import latex, points, render, report, tables, texts
from bench.reporting.frame import cells_frame, rows_frame, stored_frame
from bench.reporting.groups import group_cells
from bench.reporting.statistics import crossed
from bench.reporting.style import plot_styles
from tests.fixtures import make_cells

FIXTURES = Path(__file__).parents[1] / "fixtures"
FIGURES = {"rate_distortion", "nll_time", "nll_flops", "seeds", "gaps", "dynamics", "information"}

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


def change(file: Path, **fields: Any) -> None:
    write_json(file, read_json(file) | fields)


def change_evaluation(file: Path, **fields: Any) -> None:
    change(file, evaluation=read_json(file)["evaluation"] | fields)


def rows(out: Path, stem: str = "glyphs-quick") -> dict[str, dict[str, str]]:
    with (out / "tables" / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def markdown(out: Path, stem: str = "glyphs-quick") -> str:
    return (out / "tables" / f"{stem}.md").read_text("utf-8")


def frames(out: Path) -> tuple[Any, pd.DataFrame, pd.DataFrame]:
    [group] = group_cells("glyphs-quick", cell_folders(out))
    frame = cells_frame(group.cells)
    return group, frame, rows_frame(frame)


def stored(out: Path, method: str) -> list[CellRecord]:
    return [row.cell for row in frames(out)[1].itertuples() if row.method == method and row.status == "done"]


# -- tables --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figures")
def test_tables_match_the_golden_files(out: Path):
    report.build(out)
    for suffix in ("csv", "md", "tex"):
        table = out / "tables" / f"glyphs-quick.{suffix}"
        golden = FIXTURES / f"golden.{suffix}"
        assert table.read_bytes() == golden.read_bytes(), (
            "if intended: PYTHONPATH=. python tests/fixtures/make_cells.py"
        )


@pytest.mark.usefixtures("no_figures")
def test_text_samples_match_the_golden_file(text_out: Path):
    [result] = report.build(text_out)
    page = Path("texts/reviews-quick.md")
    assert page in result.files
    assert (text_out / page).read_bytes() == (FIXTURES / "golden-texts.md").read_bytes()


@pytest.mark.usefixtures("no_figures")
def test_text_has_a_perplexity(out: Path, text_out: Path):
    [images], [text] = report.build(out), report.build(text_out)
    row = rows(text_out, "reviews-quick")["vae"]
    assert float(row["ppl"]) == pytest.approx(math.exp(float(row["nll"]) / float(row["words"])), rel=1e-3)
    assert "PPL" in text.text and "PPL" not in images.text
    assert row["bpd"] == rows(out)["vae"]["ppl"] == ""
    assert "true generator: 101.23 ± 0.31 (standard error)" in text.text


@pytest.mark.usefixtures("no_figures")
def test_csv_columns(out: Path):
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
def test_lowest_nll_is_bold_and_failures_have_reasons(out: Path):
    [result] = report.build(out)
    best = min(rows(out).values(), key=lambda row: float(row["nll_refined"]))
    [line] = [line for line in markdown(out).splitlines() if "**" in line]
    assert f"**{float(best['nll_refined']):.2f}**" in line and best["method"] in line
    assert (out / "tables" / "glyphs-quick.tex").read_text("utf-8").count(r"\textbf") == 1
    for text in ("seed 2 failed: loss is nan at update 120", "there is no latent variable", "0123456789ab"):
        assert text in result.text


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
    assert [selected[name] for name in ("n", "nll", "kl")] == [best[name] for name in ("n", "nll", "kl")]
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


def test_published_numbers_are_complete():
    with tables.PUBLISHED.open(encoding="utf-8", newline="") as file:
        records = list(csv.DictReader(file))
    assert {*records[0]} == {"version", "dataset", "method", "metric", "value", "sd", "checked"}
    assert {record["metric"] for record in records} == {*tables.PUBLISHED_METRICS}
    assert all(float(record["value"]) >= 0 and record["checked"].startswith(("yes", "no")) for record in records)


def test_numbers_have_no_negative_zero():
    texts = [render.number(value, 2) for value in (-0.001, 0.0, -1.005, 1234.5, math.nan)]
    assert texts == ["0.00", "0.00", "-1.00", "1,234.50", "–"]


def test_footnote_letters_continue_after_z():
    document = render.Document("title", "label")
    letters = [document.footnote(f"note {i}") for i in range(28)]
    assert [letters[i] for i in (0, 25, 26, 27)] == ["a", "z", "aa", "ab"]
    assert document.footnote("note 3") == "d"


@given(st.text("ab_ *`[]()<>#|~$&;!\\-+.01'\":=/lt@", min_size=1))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_markdown_shows_sentences_as_they_are(text: str):
    text = " ".join(text.split())
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(f"1. {texts.sentence(text)}\n")
    content = rendered.removeprefix("<ol>\n<li>").removesuffix("</li>\n</ol>\n")
    assert html.unescape(content) == (text or "<em>(empty)</em>")


def test_latex_escapes_special_characters():
    assert (
        latex.escape("lr_0 = 5 % | a\\b ~ β") == r"lr\_0 = 5 \% \textbar{} a\textbackslash{}b \textasciitilde{} $\beta$"
    )


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path):
    packages = r"\usepackage[utf8]{inputenc}\usepackage[T1]{fontenc}\usepackage{booktabs}"
    table = (FIXTURES / "golden.tex").read_text("utf-8")
    document = rf"\documentclass{{article}}{packages}\begin{{document}}{table}\end{{document}}"
    (tmp_path / "page.tex").write_text(document, "utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)


def test_terminal_lines_fit_with_long_names(out: Path):
    name = "a_method_with_settings(" + ",".join(f"setting_{i}=0.{i}" for i in range(6)) + ")"
    for file in out.glob("runs/*/*/beta-vae*/seed-*/config.json"):
        change(file, method=read_json(file)["method"] | {"expression": name})
    group, frame, table = frames(out)
    lines = render.text(tables.document(group, frame, table)).split("\n\n")[1].splitlines()
    assert any(line.startswith(name) for line in lines)
    assert max(len(line) for line in lines if not line.startswith(name)) <= render.LINE_WIDTH


def test_every_number_can_be_sorted(out: Path):
    for panel in tables.document(*frames(out)).panels:
        for row in panel.rows:
            assert row[0].value is None
            assert all((entry.value is None) == (entry.text == render.DASH) for entry in row[1:])


def test_mi_is_a_bracket_unless_both_ends_read_alike(out: Path):
    group, frame, table = frames(out)

    def mi(table: pd.DataFrame) -> dict[str, str]:
        panel = tables.document(group, frame, table).panels[0]
        column = [entry.text for entry in panel.columns].index("MI")
        return {row[0].text: row[column].text for row in panel.rows}

    row = table.set_index("method").loc["beta_vae(beta=0.4)"]
    assert mi(table)["beta_vae(beta=0.4)"] == f"{row['mi']:.2f}–{row['mi_high']:.2f}"
    assert "–" not in mi(table)["vae"]
    assert mi(table.assign(mi_high=table["mi"] - 0.02))["beta_vae(beta=0.4)"] == f"{row['mi']:.2f}"


@pytest.mark.usefixtures("no_figures")
def test_questionable_values_have_footnotes(out: Path):
    for file in out.glob("runs/*/*/vae/*/evaluation.json"):
        metrics = read_json(file)["evaluation"]["metrics"]
        change_evaluation(file, metrics=metrics | {"nll_refined": metrics["nll"] + 0.2})
    for file in out.glob("runs/*/*/vae/*/result.json"):
        change(file, cells_per_device=4)
    [result] = report.build(out)
    assert result.text.count("the refinement failed") == 1
    assert float(rows(out)["beta_vae(beta=0.4)"]["pareto_k"]) > 0.7 and "unreliable" in result.text
    assert "measured while up to 4 cells shared the device" in result.text
    expected = stats.binomtest(3, 3).proportion_ci(0.95, "wilson")
    assert float(rows(out)["vae"]["collapsed_low"]) == pytest.approx(expected.low)
    assert "100 % [44, 100]" in result.text


# -- intervals, metric groups --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figures")
def test_plain_nll_is_the_headline_without_refined_nll(out: Path):
    names = group_of_metric()
    for file in out.glob("runs/*/*/*/*/evaluation.json"):
        metrics = read_json(file)["evaluation"]["metrics"].items()
        change_evaluation(file, metrics={name: value for name, value in metrics if name not in names}, groups={})
        (file.parent / "examples.parquet").unlink(missing_ok=True)
    [result] = report.build(out)
    best = min(rows(out).values(), key=lambda row: float(row["nll"]))
    assert f"*{float(best['nll']):.2f}" in result.text and "IW-NLL" not in result.text
    for method, row in rows(out).items():
        values = [cell.evaluation.metrics["nll"] for cell in stored(out, method)]
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (float(row["nll_ci_low"]), float(row["nll_ci_high"])) == pytest.approx(expected)
        assert (row["nll_refined"], row["nll_ci_examples"]) == ("", "0")


@pytest.mark.usefixtures("no_figures")
def test_intervals_use_the_values_per_example(out: Path):
    report.build(out)
    values = {}
    for method in ("vae", "beta_vae(beta=0.4)"):
        cells = [cell.examples for cell in stored(out, method) if "nll_refined" in cell.examples.values]
        values[method] = np.array([cell.values["nll"] for cell in cells])  # (S, N)
        assert all(not cell.problem for cell in cells)
    row = rows(out)["beta_vae(beta=0.4)"]
    refined = np.array([cell.examples.values["nll_refined"] for cell in stored(out, "beta_vae(beta=0.4)")])
    expected = crossed(refined, known=make_cells.SAMPLE)
    assert float(row["nll_refined_ci_low"]) == pytest.approx(expected.low, abs=1e-4)
    assert row["nll_refined_ci_examples"] == str(make_cells.EXAMPLES)
    difference = crossed(values["beta_vae(beta=0.4)"] - values["vae"][:2])
    assert float(row["nll_minus_baseline_low"]) == pytest.approx(difference.low, abs=1e-4)
    assert float(row["nll_minus_baseline_high"]) == pytest.approx(difference.high, abs=1e-4)


def damage(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def replace_foreign(file: Path) -> None:
    pd.DataFrame({"index": [0, 1], "nll": [1.0, 2.0]}).to_parquet(file)


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    ("harm", "reason"),
    [(damage, "damaged"), (replace_foreign, "does not belong to evaluation.json"), (Path.unlink, "")],
)
def test_interval_is_over_seeds_without_values_per_example(out: Path, harm: Callable[[Path], None], reason: str):
    [folder] = out.glob("runs/*/*/beta-vae-beta-0-4/seed-1-*")
    harm(folder / "examples.parquet")
    [result] = report.build(out)
    row = rows(out)["beta_vae(beta=0.4)"]
    values = [cell.evaluation.metrics["nll_refined"] for cell in stored(out, row["method"])]
    expected = stats.t.interval(0.95, 1, np.mean(values), stats.sem(values))
    assert (float(row["nll_refined_ci_low"]), float(row["nll_refined_ci_high"])) == pytest.approx(expected)
    assert row["nll_refined_ci_examples"] == "0"
    assert "over seeds only" in result.text and reason in result.text


def test_regression_estimate_has_its_mean_and_variance():
    """Over samples of examples, the standard error from the values is the spread of the estimate."""
    random = np.random.default_rng(0)
    estimates, errors = [], []
    for _ in range(2000):
        nll, less = random.normal(60, 3, 200), random.gamma(2.0, 2.0, 200)
        refined = np.where(np.arange(200) < 40, nll - less, np.nan)
        values = examples.regression_values(nll, refined)
        assert values.mean() == pytest.approx(nll.mean() - less[:40].mean())
        estimates.append(values.mean())
        errors.append(values.var(ddof=1) / 200)
    assert np.mean(errors) == pytest.approx(np.var(estimates), rel=0.1)


@pytest.mark.usefixtures("no_figures")
def test_metric_groups_use_the_most_common_settings(out: Path):
    [result] = report.build(out)
    assert (rows(out)["vae"]["n"], rows(out)["vae"]["nll_refined_n"]) == ("3", "2")
    assert "2 of 3 seeds" in result.text and "vae seed 2" in result.text
    frame = frames(out)[1].set_index(["method", "seed"])
    assert frame.loc[("vae", 2), ["nll_refined", "gap_inference"]].isna().all()
    assert frame.loc[("vae", 2), ["nll", "shuffle_gap", "nll_5000"]].notna().all()


def test_baseline_can_be_chosen(out: Path):
    _, frame, default = frames(out)
    table = rows_frame(frame, baseline="autoregressive").set_index("method")
    assert table.index[table["baseline"]].to_list() == ["autoregressive"]
    opposite = default.set_index("method").loc["autoregressive"]
    assert table.loc["vae", "nll_minus_baseline"] == pytest.approx(-opposite["nll_minus_baseline"])
    assert table.loc["vae", "relative_cost"] == pytest.approx(1 / 0.6)


def test_frame_has_all_cells(out: Path, text_out: Path):
    shutil.copytree(text_out / "runs", out / "runs", dirs_exist_ok=True)
    [damaged] = out.glob("runs/glyphs/*/vae/seed-1-*")
    (damaged / "result.json").write_text("{torn")
    frame = stored_frame(out)
    assert frame["dataset"].value_counts().to_dict() == {"glyphs": 9, "reviews": 8}
    assert frame["status"].value_counts().to_dict() == {"done": 15, "failed": 1, "damaged": 1}
    row = frame[(frame["method"] == "beta_vae(beta=0.4)") & (frame["seed"] == 0)].iloc[0]
    assert row["config"] == {"beta": 0.4} and Path(row["folder"]).is_dir()


# -- which cells are in a table ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(
    "changes",
    [{"dataset": replace(make_cells.DATA, fingerprint="f" * 64)}, {"device": "cuda"}, {"precision": "bfloat16"}, {}],
    ids=["data", "device", "precision", "evaluation"],
)
def test_cells_of_another_protocol_are_not_pooled(out: Path, changes: dict[str, Any]):
    if changes:
        [folder] = make_cells.write(out, [make_cells.THREE[1]], seeds=1, **changes)
    else:  # another evaluation
        [folder] = out.glob("runs/*/*/vae/seed-2-*")
        file = folder / "evaluation.json"
        change_evaluation(file, settings=read_json(file)["evaluation"]["settings"] | {"iw_samples": 5})
    first, second = report.build(out)
    assert first.stem == "glyphs-quick" and second.stem in first.text
    assert rows(out)["vae"]["n"] == ("3" if changes else "2")
    assert {method: row["n"] for method, row in rows(out, second.stem).items()} == {"vae": "1"}
    assert ("trained in bfloat16, evaluated in float32" in second.text) == ("precision" in changes)
    assert "Not comparable with the cells of glyphs-quick" in second.text
    shutil.rmtree(folder)
    report.build(out)
    assert not (out / "tables" / f"{second.stem}.csv").exists()


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize("file", ["result.json", "config.json", "evaluation.json"])
def test_damaged_cell_is_skipped_with_its_reason(out: Path, file: str):
    [folder] = out.glob("runs/*/*/vae/seed-1-*")
    (folder / file).write_text("{torn")
    lines: list[str] = []
    [result] = report.build(out, log=lines.append)
    assert rows(out)["vae"]["n"] == "2"
    assert any(file in line and folder.name in line for line in lines)
    assert folder.name in result.text


@pytest.mark.usefixtures("no_figures")
def test_unfinished_cells_keep_their_row(out: Path):
    for seed, folder in enumerate(sorted(out.glob("runs/*/*/autoregressive/seed-*"))):
        (folder / "evaluation.json").unlink()
        if seed:
            change(folder / "result.json", status="skipped", reason="needs text")
        else:
            (folder / "result.json").unlink()
    [result] = report.build(out)
    row = rows(out)["autoregressive"]
    assert (row["n"], row["nll"], row["unfinished"], row["skipped"]) == ("0", "", "1", "2")
    assert "seeds 1, 2 skipped: needs text" in result.text


@pytest.mark.usefixtures("no_figures")
def test_damaged_texts_are_skipped(text_out: Path):
    [file] = text_out.glob("runs/*/*/vae/seed-0-*/texts.json")
    write_json(file, {"samples": [], "reconstructions": [{}]})
    lines: list[str] = []
    report.build(text_out, log=lines.append)
    page = (text_out / "texts" / "reviews-quick.md").read_text("utf-8")
    assert "## `vae`" not in page and "## `sa_vae`" in page
    assert any("no texts of vae" in line for line in lines)


# -- files and processes -------------------------------------------------------------------------------------------


def test_report_is_reproducible_to_the_byte(out: Path):
    for file in out.glob("runs/*/*/autoregressive/seed-*/arrays.npz"):
        damage(file)
    lines: list[str] = []
    [first] = report.build(out, log=lines.append)
    assert {file.stem for file in first.files if file.suffix == ".pdf"} == {"reconstructions", "samples", *FIGURES}
    assert any("no images of autoregressive" in line for line in lines)
    before = {file: (out / file).read_bytes() for file in (*first.files, Path("report.html"))}
    shutil.rmtree(out / "figures")
    assert report.build(out) == [first]
    assert {file: (out / file).read_bytes() for file in before} == before


def test_report_imports_neither_torch_nor_ray(out: Path):
    code = """
import sys
from bench.cli.main import main
from bench.reporting import figures
figures.draw = lambda *_: []
main(["report", *sys.argv[1:]])
print(*sys.modules, file=sys.stderr)
"""
    command = [sys.executable, "-c", code, str(out)]
    result = subprocess.run(command, cwd=Path(report.__file__).parents[2], capture_output=True, text=True, check=True)
    modules = {*result.stderr.split()}
    assert {"pandas", "seaborn"} <= modules and not {"torch", "ray"} & modules
    assert f"page: {out / 'report.html'}" in result.stdout


@pytest.mark.parametrize("exists", [False, True])
def test_folder_without_cells_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], exists: bool):
    if exists:
        (tmp_path / "out").mkdir()
    assert main(["report", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: no ") and printed.err.count("\n") == 1


def test_outliers_get_a_second_panel():
    """In rate, as of an autoencoder, or in distortion, as of IWAE."""
    near = [(f"near {i}", 1.0 + i, 40.0 - i) for i in range(5)]
    for kl, rec in ((90.0, 20.0), (1.0, 210.0)):
        cells = pd.DataFrame([*near, ("far", kl, rec)], columns=["method", "kl", "rec"])
        everything, detail = points.rate_distortion(cells, plot_styles(cells["method"])).axes[:2]
        assert everything.get_ylim()[0] < rec < everything.get_ylim()[1] and everything.get_xlim()[1] > kl
        assert detail.get_ylim()[1] < 50 and detail.get_xlim()[1] < 10
    near_cells = cells[cells["method"] != "far"]
    assert len(points.rate_distortion(near_cells, plot_styles(near_cells["method"])).axes) == 1
