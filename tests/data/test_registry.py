"""Data sets are found by their files or entry points, and checked when they are loaded and prepared."""

import math
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint

import numpy as np
import pytest

import bench.data.datasets
from bench.cli.main import main
from bench.core import plugins
from bench.core.errors import UserError
from bench.data.dataset import BINARISATION_NOTE
from bench.data.registry import dataset_names, load_dataset_module, prepare, prepare_stored
from bench.experiment.worker import run_cell
from tests.conftest import TOY, planner, tasks

SOURCE = """
import numpy as np
from bench.data.cache import cached
from bench.data.dataset import DataInfo

SUMMARY = "generated stripes"
NEEDS_DOWNLOAD = False
SETTINGS = {"size": 8}


def prepare(data_dir, cache, size=8):
    def build():
        info = DataInfo("stripes", "stripes", "image", "nats per image", (size, size), protocol="stripes")
        return info, dict.fromkeys(("train", "val", "test"), np.eye(size, dtype=np.float32)[[range(size)] * 24])

    return cached(cache, f"stripes-{size}", build)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder whose files are data sets."""
    (tmp_path / "datasets").mkdir()
    monkeypatch.setattr(bench.data.datasets, "__path__", [*bench.data.datasets.__path__, str(tmp_path / "datasets")])
    yield tmp_path / "datasets"
    for file in (tmp_path / "datasets").glob("*.py"):
        sys.modules.pop(f"bench.data.datasets.{file.stem}", None)


def test_a_new_file_is_listed_and_prepared(folder, tmp_path, capsys):
    (folder / "stripes.py").write_text(SOURCE)
    (folder / "_shared.py").write_text("")
    assert "stripes" in dataset_names() and "_shared" not in dataset_names()
    assert main(["list", "datasets"]) == 0
    assert "generated stripes" in capsys.readouterr().out
    data = prepare("stripes(size=4)", None, tmp_path / "cache")
    assert data.info.shape == (4, 4) and data.info.protocol == "stripes"
    assert np.array_equal(data.arrays()["train"][0], np.eye(4))
    assert prepare_stored(data.info, None, tmp_path / "cache") == data
    with pytest.raises(UserError, match="has no setting 'sizes': did you mean 'size'"):
        prepare("stripes(sizes=4)", None, tmp_path / "cache")
    with pytest.raises(UserError, match="are not in the cache"):  # the name alone means size 8
        prepare_stored(data.info, None, tmp_path / "other")


def test_a_new_file_is_trained(folder, tmp_path):
    (folder / "stripes.py").write_text(SOURCE)
    data = prepare("stripes", None, tmp_path / "cache")
    preset = replace(TOY, model=replace(TOY.model, image_size=8))
    cell = planner(data, preset, tmp_path / "out")("vae")
    run_cell(tasks(data)(cell))
    assert cell.folder.result().status == "ok" and math.isfinite(cell.folder.evaluation().metrics["nll"])


def test_an_invalid_file_is_rejected_in_one_line(folder, tmp_path, capsys, subtests):
    cases = [
        ("bad_import", ("import numpy", "import nowhere"), "cannot be imported: .*nowhere"),
        ("bad_summary", ('SUMMARY = "generated stripes"', ""), r"must define SUMMARY \(a string\)"),
        ("bad_modality", ('"image"', '"video"'), "Input should be 'image', 'text' or 'vector' .*'video'"),
        ("bad_shape", ("(size, size)", '"large"'), "Input should be a valid tuple .*'large'"),
        ("bad_result", ("return cached", "return None and cached"), "not None"),
        ("bad_build", ("np.eye(size", "np.eye(-size / 0"), "cannot be prepared: ZeroDivisionError"),
    ]
    for name, change, message in cases:
        with subtests.test(name=name):
            assert SOURCE.count(change[0]) >= 1
            (folder / f"{name}.py").write_text(SOURCE.replace(*change))
            with pytest.raises(UserError, match=rf"^data set '{name}'.*{message}"):
                prepare(name, None, tmp_path / "cache")
            assert main(["list"]) == 0
            assert name in capsys.readouterr().out


def test_entry_points_add_data_sets(monkeypatch):
    paths = {"bars": "bench.data.datasets.glyphs", "glyphs": "elsewhere.glyphs"}
    monkeypatch.setattr(plugins, "entry_points", lambda group: [EntryPoint(n, p, group) for n, p in paths.items()])
    assert load_dataset_module("bars").SUMMARY.startswith("characters of the DejaVu fonts")
    with pytest.raises(UserError, match="'glyphs' is registered twice"):
        load_dataset_module("glyphs")


def test_unknown_names_and_ambiguous_paths(tmp_path):
    with pytest.raises(UserError, match="unknown data set 'glyph': did you mean 'glyphs'"):
        prepare("glyph", None, tmp_path)
    images = dict.fromkeys(("train", "val", "test"), np.ones((1, 2, 2)))
    np.savez(tmp_path / "glyphs.npz", **images)
    with pytest.raises(UserError, match="has the name of a built-in data set"):
        prepare(str(tmp_path / "glyphs.npz"), None, tmp_path / "cache")
    np.savez(tmp_path / "squares.npz", **images)
    assert prepare(str(tmp_path / "squares.npz"), None, tmp_path / "cache").info.notes[0] == BINARISATION_NOTE
