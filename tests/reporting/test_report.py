"""Reports on stored cells: which cells are in a table, figures, files, errors."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from bench.cli.main import main
from bench.core.config import ImageModelConfig
from bench.core.files import read_json, write_json
from bench.reporting import report
from tests.fixtures import make_cells
from tests.reporting.records import FIXTURES, change, change_evaluation, rows

FIGURES = {"nll", "mi", "nll_cost", "rate_distortion", "gaps", "dynamics"}


@pytest.mark.usefixtures("no_figures")
def test_text_samples_match_the_golden_file(text_out: Path):
    [result] = report.build(text_out)
    page = Path("texts/reviews-quick.md")
    assert page in result.files
    assert (text_out / page).read_bytes() == (FIXTURES / "golden-texts.md").read_bytes()


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
    assert (row["n"], row["iw_nll"], row["unfinished"], row["skipped"]) == ("0", "", "1", "2")
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


@pytest.mark.slow
def test_report_is_reproducible_to_the_byte(out: Path):
    for file in out.glob("runs/*/*/autoregressive/seed-*/arrays.npz"):
        file.write_bytes(file.read_bytes()[:100])
    lines: list[str] = []
    [first] = report.build(out, log=lines.append)
    assert {file.stem for file in first.files if file.suffix == ".pdf"} == {"reconstructions", "samples", *FIGURES}
    assert any("no images of autoregressive" in line for line in lines)
    before = {file: (out / file).read_bytes() for file in (*first.files, Path("report.html"))}
    shutil.rmtree(out / "figures")
    with matplotlib.rc_context({"font.size": 30, "savefig.dpi": 10}):
        assert report.build(out) == [first]
    assert {file: (out / file).read_bytes() for file in before} == before


@pytest.mark.parametrize("exists", [False, True])
def test_folder_without_cells_is_a_one_line_error(tmp_path: Path, capsys: pytest.CaptureFixture[str], exists: bool):
    if exists:
        (tmp_path / "out").mkdir()
    assert main(["report", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith("error: no ") and printed.err.count("\n") == 1


def test_tables_of_one_setting_of_a_model_share_a_figure(tmp_path, no_figures):
    """Stronger decoders in tables named by their setting, and one figure over all of them."""
    for field in (2, 4, 8):
        architecture = f"masked_cnn(receptive_field={field})"
        model = ImageModelConfig(latent_dim=16, architecture=architecture)
        methods = [(spec, nll - field / 10, kl, *rest) for spec, nll, kl, *rest in make_cells.THREE]
        make_cells.write(tmp_path, methods, seeds=2, endings={}, model=model)
    reports = report.build(tmp_path, log=lambda message: None)
    stems = [each.stem for each in reports]
    assert stems[0] == "glyphs-quick-masked_cnn"
    assert {stem.partition("receptive_field=")[2] for stem in stems[1:]} < {"2", "4", "8"}
    assert all("masked_cnn(receptive_field=" in each.title for each in reports)
    assert (tmp_path / "figures" / stems[0] / "capacity.png").stat().st_size > 10_000
    for name in ("receptive_field=9", "tuned8", "tuned8-mi-trials"):
        (tmp_path / "tables" / f"{stems[0]}-{name}.csv").touch()
        (tmp_path / "figures" / f"{stems[0]}-{name}").mkdir()
        (tmp_path / "figures" / f"{stems[0]}-{name}" / "nll.png").touch()
    report.build(tmp_path, log=lambda message: None)
    assert sorted(path.stem for path in tmp_path.glob("tables/*.csv")) == sorted(stems)
    assert [path.name for path in tmp_path.glob("figures/*")] == [stems[0]]
