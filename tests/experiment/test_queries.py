"""Around the table: trained cells loaded, evaluated further, verified and merged."""

import shutil

import numpy as np
import pytest
import torch

import bench
from bench.core.errors import UserError
from bench.core.files import write_json
from bench.experiment.cell_folder import CellFolder
from bench.experiment.factory import build_from_config, load_trained
from bench.experiment.worker import run_cell
from tests.conftest import TEXT_TOY, TOY, planner, tasks


@pytest.fixture(scope="module")
def out(prepared, tmp_path_factory):
    """A folder with two finished cells of one table, and the data in the cache that the commands look into."""
    folder = tmp_path_factory.mktemp("stored") / "out"
    for expression in ("vae", "beta_vae(beta=0.5)"):
        run_cell(tasks(prepared)(planner(prepared, TOY, folder)(expression)))
    return folder


@pytest.fixture
def copy(out, prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(prepared.path.parent))
    return shutil.copytree(out, tmp_path / "copy")


def only(out, method: str) -> CellFolder:
    (path,) = (out / "runs" / "toy" / "toy").glob(f"{method}*/seed-*")
    return CellFolder(path)


# -- load ----------------------------------------------------------------------------------------------------------


def test_a_loaded_cell_encodes_decodes_samples_and_knows_its_numbers(copy):
    cell = bench.load(only(copy, "vae").path)
    images = cell.data.test[:5]
    q = cell.encode(images)
    assert q.mean.shape == (5, 3) and q.rsample(2).shape == (5, 2, 3)
    assert torch.equal(q.mean, cell.encode(images.squeeze(1).numpy()).mean)
    np.testing.assert_allclose(q.mean[0], np.load(cell.folder.path / "arrays.npz")["means"][0], atol=1e-5)
    pictures = cell.decode(q.mean)
    assert pictures.shape == (5, 7, 7) and {*pictures.unique().tolist()} <= {0.0, 1.0}
    assert torch.equal(cell.sample(4, seed=1), cell.sample(4, seed=1))
    assert not torch.equal(cell.sample(4, seed=1), cell.sample(4, seed=2))
    assert cell.metrics["nll"] == cell.folder.evaluation()["metrics"]["nll"]
    assert cell.nll(images).shape == (5,) and len(cell.examples) == 20


def test_a_loaded_cell_of_text_reads_and_writes_sentences(text_prepared, tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(text_prepared.path.parent))
    planned = planner(text_prepared, TEXT_TOY, tmp_path)("vae")
    run_cell(tasks(text_prepared)(planned))
    cell = bench.load(planned.folder.path)
    rows = cell.tensor(["word1 word2", "word3 nonsense word4"])
    assert cell.data.sentences(rows) == ["word1 word2", "word3 <unk> word4"]
    q = cell.encode(["word1 word2", "word3 nonsense word4"])
    assert q.mean.shape == (2, 2)
    assert all(isinstance(text, str) for text in [*cell.decode(q.mean), *cell.sample(3)])
    assert (cell.nll(["word1 word2"], samples=10) > 0).all()


def test_texts_are_refused_by_a_model_of_images(copy):
    with pytest.raises(UserError, match="not texts"):
        bench.load(only(copy, "vae").path).encode(["a sentence"])


WEIGHTS = {
    "of another model": {"model": {"weight": torch.zeros(1)}, "method": {}},
    "not of a model": {"weight": torch.zeros(1)},
    "a list for a model": {"model": [1, 2], "method": {}},
    "nothing for a model": {"model": None, "method": {}},
    "numbers for tensors": {"model": {"encoder.weight": 1.0}, "method": {}},
    "numbers for names": {"model": {1: torch.zeros(1)}, "method": {}},
}


@pytest.mark.parametrize("harm", ["nothing there", "no weights", "not trained", *WEIGHTS])
def test_a_cell_that_cannot_be_loaded_says_why(copy, harm):
    folder = only(copy, "vae")
    if harm == "no weights":
        (folder.path / "best.pt").unlink()
    elif harm == "not trained":
        write_json(folder.path / "result.json", folder.result() | {"status": "running"})
    elif harm in WEIGHTS:
        torch.save(WEIGHTS[harm], folder.path / "best.pt")
    path = folder.path / "elsewhere" if harm == "nothing there" else folder.path
    message = {"nothing there": "no cell in", "no weights": "weights", "not trained": "not trained"}
    message = message.get(harm, "another model")
    with pytest.raises(UserError, match=message):
        bench.load(path)


def test_the_state_of_another_method_is_refused_in_one_line(planned):
    cell = planned("aggressive")
    cell.folder.write_config(cell.config)
    method, model, _ = build_from_config(cell.config)
    torch.save({"model": model.state_dict(), "method": method.state_dict()}, cell.folder.path / "best.pt")
    load_trained(cell.folder, cell.config)
    torch.save({"model": model.state_dict(), "method": {}}, cell.folder.path / "best.pt")
    with pytest.raises(UserError, match=r"best\.pt holds another model or method than .* train it anew"):
        load_trained(cell.folder, cell.config)


# -- frame ---------------------------------------------------------------------------------------------------------


def test_a_frame_has_a_row_for_every_cell(copy):
    frame = bench.frame(copy)
    assert sorted(frame["method"]) == ["beta_vae(beta=0.5)", "vae"]
    row = frame[frame["method"] == "vae"].iloc[0]
    assert (row["dataset"], row["preset"], row["status"]) == ("toy", "toy", "ok")
    assert row["nll_refined"] == CellFolder(copy / row["folder"]).evaluation()["metrics"]["nll_refined"]


def test_a_frame_of_nothing_is_refused(tmp_path):
    with pytest.raises(UserError, match="no stored cells"):
        bench.frame(tmp_path)
