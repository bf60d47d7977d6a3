"""Loading trained cells, and finding them."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import bench
from bench.core.errors import UserError
from bench.experiment.cell_folder import CellFolder, cell_folders
from bench.experiment.cell_record import read
from bench.experiment.factory import load_trained
from bench.experiment.queries import evaluation_as_stored, evaluation_of_preset, finished_cells, output_folder
from bench.experiment.worker import run_cell
from tests.conftest import EVALUATION, TEXT_TOY, TOY, planner, tasks


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory):
    """An output folder with two finished cells."""
    out = tmp_path_factory.mktemp("stored") / "out"
    for expression in ("vae", "beta_vae(beta=0.5)"):
        run_cell(tasks(prepared)(planner(prepared, TOY, out)(expression)))
    return out


@pytest.fixture
def out(trained, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(prepared.path.parent))
    return shutil.copytree(trained, tmp_path / "out")


@pytest.fixture
def vae(out) -> CellFolder:
    return next(cell for cell in cell_folders(out) if cell.config.method.name == "vae")


def test_a_loaded_image_cell(vae):
    cell = bench.load(vae.path)
    images = cell.data.test[:5]
    q = cell.encode(images)
    assert q.mean.shape == (5, 3) and q.rsample(2).shape == (5, 2, 3)
    assert torch.equal(q.mean, cell.encode(images.squeeze(1).numpy()).mean)
    np.testing.assert_allclose(q.mean[0], np.load(vae.path / "arrays.npz")["means"][0], atol=1e-5)
    pictures = cell.decode(q.mean)
    assert pictures.shape == (5, 7, 7) and {*pictures.unique().tolist()} <= {0.0, 1.0}
    assert torch.equal(cell.sample(4, seed=1), cell.sample(4, seed=1))
    assert not torch.equal(cell.sample(4, seed=1), cell.sample(4, seed=2))
    assert cell.metrics == vae.evaluation().metrics
    assert cell.iw_nll(images).shape == (5,) and len(cell.examples) == 20
    with pytest.raises(UserError, match="not texts"):
        cell.encode(["a sentence"])


def test_a_loaded_text_cell(text_prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(text_prepared.path.parent))
    planned = planner(text_prepared, TEXT_TOY, tmp_path)("vae")
    run_cell(tasks(text_prepared)(planned, evaluation=replace(EVALUATION, metrics=())))
    cell = bench.load(planned.folder.path)
    sentences = ["word1 word2", "word3 nonsense word4"]
    assert cell.data.sentences(cell.tensor(sentences)) == ["word1 word2", "word3 <unk> word4"]
    q = cell.encode(sentences)
    assert q.mean.shape == (2, 2)
    assert all(isinstance(text, str) for text in [*cell.decode(q.mean), *cell.sample(3)])
    assert (cell.iw_nll(sentences[:1], samples=10) > 0).all()


def test_wrong_arguments_are_refused_in_one_line(vae, subtests):
    cell = bench.load(vae.path)
    x, z = cell.data.test[:2], torch.zeros(2, 3)
    calls = {
        r"z: float32 \(2, 4\), not floats \[N, 3\]": lambda: cell.decode(torch.zeros(2, 4)),
        r"z: float32 \(3,\)": lambda: cell.decode(z[0, [0, 1, 2]]),
        r"z: float32 \(0, 3\)": lambda: cell.decode(z[:0]),
        "z: values that are NaN": lambda: cell.decode(z / 0),
        "z: values that are NaN or infinite": lambda: cell.decode(np.full((2, 3), 1e300)),
        "z: bool": lambda: cell.decode(z > 0),
        "z: not an array": lambda: cell.decode(z.to("meta")),
        "count must be a whole number of at least 1, not 0": lambda: cell.sample(0),
        "not -1": lambda: cell.sample(-1),
        "not 2.5": lambda: cell.sample(2.5),
        "not True": lambda: cell.sample(True),
        "samples must be a whole number of at least 1": lambda: cell.iw_nll(x, samples=0),
        "seed must be a whole number of at least 0, not -1": lambda: cell.encode(x, seed=-1),
        "seed must be a whole number of at least 0, not 'a'": lambda: cell.sample(1, seed="a"),
        "images: values from": lambda: cell.iw_nll(255 * x),
    }
    for problem, call in calls.items():
        with subtests.test(problem=problem), pytest.raises(UserError, match=problem):
            call()
    assert torch.equal(cell.decode(z.double().numpy()), cell.decode([[0, 0, 0], [0, 0, 0]]))
    assert torch.equal(cell.sample(np.int64(2), seed=np.int64(1)), cell.sample(2, seed=1))


@pytest.mark.parametrize("name", ["evaluation.json", "examples.parquet"])
def test_files_damaged_after_loading(vae, name):
    cell = bench.load(vae.path)
    (vae.path / name).write_text("torn")
    with pytest.raises(UserError, match=f"cannot read the (metrics|examples) of {vae.path}"):
        _ = cell.metrics, cell.examples


def test_nll_needs_a_density(vae, monkeypatch):
    cell = bench.load(vae.path)
    monkeypatch.setattr("bench.models.distributions.Gaussian.has_density", False)
    with pytest.raises(UserError, match="no density: use metrics"):
        cell.iw_nll(cell.data.test[:2])


def test_weights_that_do_not_fit_are_refused(vae, subtests):
    cases = [
        {"model": {"weight": torch.zeros(1)}, "method": {}},
        {"weight": torch.zeros(1)},
        {"model": None, "method": {}},
        {"model": {1: torch.zeros(1)}, "method": {}},
    ]
    for weights in cases:
        with subtests.test(weights=weights):
            torch.save({"update": vae.result().training.best_update, **weights}, vae.path / "best.pt")
            with pytest.raises(UserError, match=r"best\.pt has other weights than this code builds .* train it again"):
                load_trained(vae, vae.config)


def test_what_to_load_instead_is_said(out, vae, tmp_path, subtests):
    (vae.path.parent / "empty").mkdir()
    cases = {
        "no cell in": (vae.path / "elsewhere", {}),
        r"has 2 below it: give one of them, such as .*seed-0-": (out, {}),
        r"has 1 below it: give one of them, such as .*/vae/seed-0-": (vae.path.parent, {}),
        rf"config.json is a file: give the folder of a cell, such as {vae.path}$": (vae.path / "config.json", {}),
        "no GPU here: use the device 'cpu'": (vae.path, {"device": "cuda"}),
        "unknown device 'gpu': there are 'auto', 'cpu' and 'cuda'": (vae.path, {"device": "gpu"}),
        "unknown device 'meta'": (vae.path, {"device": "meta"}),
        "data folder '.*nowhere' does not exist": (vae.path, {"data_dir": tmp_path / "nowhere"}),
    }
    for problem, (path, options) in cases.items():
        if "GPU" in problem and torch.cuda.is_available():
            continue
        with subtests.test(problem=problem), pytest.raises(UserError, match=problem):
            bench.load(path, **options)
    assert bench.load(vae.path, device="cpu:0").config.device == "cpu"
    assert bench.load(str(vae.path), device="auto").context.device.type in ("cpu", "cuda")


def test_cells_that_cannot_be_loaded(vae):
    (vae.path / "best.pt").unlink()
    (vae.path / "best.pt").mkdir()
    with pytest.raises(UserError, match="cell in .* cannot be loaded: .*Is a directory"):
        bench.load(vae.path)
    (vae.path / "best.pt").rmdir()
    with pytest.raises(UserError, match="weights of .* are missing"):
        bench.load(vae.path)
    vae.write_record("result.json", vae.result().model_copy(update={"status": "running"}))
    with pytest.raises(UserError, match=r"not trained \(incomplete\)"):
        bench.load(vae.path)


def test_image_models_decode_without_their_data(vae, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    cell = bench.load(vae.path)
    assert cell.sample(2).shape == cell.decode(np.zeros((2, 3))).shape == (2, 7, 7)
    with pytest.raises(UserError, match="not in the cache"):
        cell.data  # noqa: B018


def test_a_frame_has_one_row_per_cell(out, vae, tmp_path):
    frame = bench.frame(out).set_index("method")
    assert sorted(frame.index) == ["beta_vae(beta=0.5)", "vae"]
    assert (frame.loc["vae", "dataset"], frame.loc["vae", "status"]) == ("toy", "done")
    assert frame.loc["vae", "nll"] == vae.evaluation().metrics["nll"]
    with pytest.raises(UserError, match="no stored cells"):
        bench.frame(tmp_path / "empty")


def test_finished_cells_below_a_folder(out, vae, tmp_path, capsys):
    assert len(finished_cells([out, vae.path])) == 2
    cell = read(vae)
    assert output_folder(cell) == out and output_folder(replace(cell, folder=tmp_path)) is None
    (vae.path / "result.json").unlink()
    assert len(finished_cells([out])) == 1
    assert f"skipped: {vae.path} (missing)" in capsys.readouterr().out
    with pytest.raises(UserError, match="no stored cells"):
        finished_cells([tmp_path / "empty"])


def test_settings_of_a_stored_evaluation(vae):
    cell = read(vae)
    assert evaluation_as_stored(cell).missing(cell.evaluation) == ()
    other = evaluation_of_preset(cell, {"evaluation": {"refined_iw_steps": 7}}, ["refined_iw"])
    assert other.metrics == ("refined_iw",) and other.missing(cell.evaluation) == ("refined_iw",)
    assert other.basic == EVALUATION.basic
