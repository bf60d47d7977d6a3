"""The option ``--likelihood``, and images of 8-bit values in a complete run."""

import argparse

import numpy as np
import pytest

from bench.cli.run import choose_model
from bench.core.errors import UserError
from bench.data import user_data
from bench.data.dataset import BINARISATION_NOTE, DataInfo
from tests.cli.conftest import bench, only_cell, toy_environment

GREY = DataInfo("toy", "toy", "image", "nats", (7, 7), notes=(BINARISATION_NOTE,))
COLOUR = DataInfo("toy", "toy", "image", "nats", (3, 7, 7), values="intensity")


@pytest.mark.parametrize(
    ("info", "likelihood", "model", "expected"),
    [
        (GREY, None, None, {}),
        (GREY, "bernoulli", "mlp", {"architecture": "mlp(layers=2)", "likelihood": ""}),
        (
            GREY,
            "gaussian(sigma=0.1)",
            None,
            {"architecture": "cnn", "likelihood": "gaussian(sigma=0.1)", "values": "intensity"},
        ),
        (COLOUR, None, None, {"architecture": "cnn", "values": "intensity"}),
        (COLOUR, "discretised_logistic", "linear", {"architecture": "linear", "likelihood": "", "values": "intensity"}),
    ],
)
def test_likelihood_decides_what_pixels_are(info, likelihood, model, expected):
    overrides = {}
    chosen = choose_model(argparse.Namespace(likelihood=likelihood, model=model), overrides, info)
    assert overrides["model"] == expected
    assert (chosen.values == "intensity") == ("values" in expected)
    assert (BINARISATION_NOTE in chosen.notes) == (chosen.values == "binary")


@pytest.mark.parametrize(
    ("info", "problem"),
    [
        (COLOUR, "'bernoulli' is for binary values, not intensity"),
        (DataInfo("toy", "toy", "text", "nats", (9,)), "leave out --likelihood"),
    ],
)
def test_likelihood_must_fit_the_data(info, problem):
    with pytest.raises(UserError, match=problem):
        choose_model(argparse.Namespace(likelihood="bernoulli", model=None), {}, info)


@pytest.mark.slow
def test_run_on_colour_images(prepared, text_prepared, tmp_path):
    random = np.random.default_rng(0)
    images = {
        split: random.integers(0, 256, (n, 7, 7, 3), np.uint8)
        for split, n in (("train", 40), ("val", 20), ("test", 20))
    }
    np.savez(tmp_path / "colour.npz", **images)
    with toy_environment(tmp_path, prepared, text_prepared) as patch:
        patch.setattr("bench.data.registry.prepare", lambda *_: user_data.prepare(tmp_path / "colour.npz", tmp_path))
        out = tmp_path / "out"
        assert bench(out, "--methods", "vae,vamp_prior(components=5),cr_vae", "--dataset", "colour.npz") == 0
    cell = only_cell(out, "vae")
    assert np.load(cell.path / "arrays.npz")["samples"].shape == (2, 3, 7, 7)
    assert {"reconstructions.png", "samples.png"} <= {path.name for path in (out / "figures").rglob("*.png")}
    assert "data:image/png" in (out / "report.html").read_text("utf-8")
