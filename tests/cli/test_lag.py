"""The picture of inference lag: what is trained, stored and drawn."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.cli import lag
from bench.experiment.factory import build_from_config
from bench.reporting import lag as pictures
from bench.reporting.style import plot_styles
from bench.training.trainer import Trainer
from tests.conftest import TRAIN, assert_equal_weights

SMALL = [
    *("model.image_size=7", "model.encoder_channels=(4,4)", "model.features=8", "model.decoder_channels=6"),
    *("model.kernels=(5,3,3)", "model.skips=(3,)", "train.batch_size=10", "train.val_examples=20"),
]


@pytest.fixture
def run(prepared, tmp_path, monkeypatch):
    """``run("--points", "5")`` -> the exit status of the command on the toy data."""
    monkeypatch.setattr("bench.data.registry.prepare", lambda *_: prepared)
    settings = [word for setting in SMALL for word in ("--set", setting)]
    fixed = ["--out", str(tmp_path), "--device", "cpu", "--updates", "6", "--points", "12", *settings]
    return lambda *words: lag.main([*fixed, *words])


def traces() -> dict[str, pictures.Trace]:
    random = np.random.default_rng(0)
    true = np.linspace(0, 1, 5)[:, None] * random.normal(size=(5, 40))
    updates, kl = np.array([0, 1, 10, 100, 1000]), random.uniform(0.1, 0.2, (5, 40))
    return {"one": pictures.Trace(updates, 0 * true, true, kl), "other": pictures.Trace(updates, 0.9 * true, true, kl)}


def test_both_methods_of_the_suite_are_trained_stored_and_drawn(run, tmp_path: Path, capsys):
    assert run() == 0
    folder = tmp_path / "lag" / "toy-quick"
    assert sorted(file.name for file in folder.iterdir()) == [
        f"{name}.{suffix}" for name in ("aggressive", "vae") for suffix in ("json", "npz")
    ]
    record = json.loads((folder / "vae.json").read_text("utf-8"))
    assert record["stages"]["update"] == [0, 1, 2, 3, 4, 5, 6]
    assert record["config"]["model"]["latent_dim"] == 1
    assert min(record["stages"]["lag_kl"]) > -1e-3
    with np.load(folder / "vae.npz") as arrays:
        assert arrays["means"].shape == arrays["true_means"].shape == (7, 12)
        distance = np.abs(arrays["means"] - arrays["true_means"]).mean(axis=1)
        assert record["stages"]["lag"] == pytest.approx(distance.tolist())
    drawn = {file.name for file in (tmp_path / "figures" / "lag-toy-quick").iterdir()}
    assert drawn == {
        *(f"{name}.{suffix}" for name in ("lag", "trajectory", "lag_curves") for suffix in ("png", "pdf")),
        "lag.gif",
    }
    assert capsys.readouterr().out.count("\nvae  ") == pictures.STAGES


def test_what_is_stored_is_not_trained_again(run, tmp_path: Path, monkeypatch):
    trained, train = [], lag.train
    monkeypatch.setattr(pictures, "draw", lambda *_: [])
    monkeypatch.setattr(lag, "train", lambda cell, *rest: trained.append(cell.variant.expression) or train(cell, *rest))
    run("--methods", "vae")
    run()
    assert trained == ["vae", "aggressive"]
    (tmp_path / "lag" / "toy-quick" / "vae.npz").write_bytes(b"torn")
    run()
    run("--methods", "aggressive", "--points", "8")
    run("--methods", "aggressive", "--points", "8", "--force")
    assert trained[2:] == ["vae", "aggressive", "aggressive"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--set", "model.latent_dim=2"], "it is 1 here"),
        (["--methods", "autoregressive"], "none of these methods has a latent"),
        (["--points", "0"], "--points takes a whole number from 1"),
        (["--updates", "-3"], "--updates takes a whole number from 1"),
        (["--preset", "big"], "unknown preset 'big'"),
    ],
)
def test_what_cannot_work_is_one_line(run, capsys, words, error):
    assert run(*words) == 2
    printed = capsys.readouterr().err
    assert error in printed
    assert printed.count("\n") == 1


def test_looking_changes_nothing_in_training(planned, data, tmp_path: Path):
    config = planned("aggressive").config
    config["model"]["latent_dim"] = 1
    trained = []
    for name in ("plain", "watched"):
        (tmp_path / name).mkdir()
        method, model, seed = build_from_config(config)
        look = lag.make_lag_observer(method, model, data, TRAIN, seed, points=3)
        watch = (lambda ctx, look=look: look()) if name == "watched" else None
        Trainer(method, model, data, TRAIN, seed, tmp_path / name, lambda history: None, watch).run()
        trained.append(model.state_dict())
    assert_equal_weights(*trained)


@pytest.mark.parametrize("total", [1, 6, 300, 100_000])
def test_stages_go_from_none_to_all_updates(total):
    stages = lag.stages(total)
    assert {0, 1, total} <= stages
    assert len(stages) <= lag.FRAMES
    assert max(stages) == total


def test_pictures_are_the_same_bytes_when_drawn_again_and_the_film_has_every_stage(tmp_path: Path):
    first, again = (pictures.draw(tmp_path / name, traces()) for name in ("first", "again"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in again]
    with Image.open(tmp_path / "first" / "lag.gif") as film:
        assert film.n_frames == 5
    assert (tmp_path / "first" / "lag.gif").stat().st_size < 1.5e6


def test_curves_of_a_history_with_and_without_lag():
    history = pd.DataFrame({"method": ["one"] * 3 + ["other"] * 3, "update": [1, 2, 3] * 2, "kl": 1.0})
    style = plot_styles(["one", "other"])
    assert pictures.while_training(history, style) is None
    assert pictures.while_training(history.assign(lag=np.nan, lag_kl=np.nan), style) is None
    figure = pictures.while_training(history.assign(lag=[np.nan] * 3 + [1.0, 2.0, 3.0], lag_kl=0.5), style)
    assert [sum(len(line.get_xdata()) > 0 for line in ax.lines) for ax in figure.axes] == [1, 2]


def test_methods_that_are_too_many_for_one_panel_stand_in_rows():
    names = [f"method_{i}" for i in range(14)]
    history = pd.DataFrame({"method": np.repeat(names, 3), "update": [1, 2, 3] * 14, "lag": np.arange(42.0)})
    figure = pictures.while_training(history, plot_styles(names))
    assert [len(ax.lines) for ax in figure.axes] == [9, 1 + 5], "in the second row the first method in grey"
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim() and first.get_ylim()[1] > 41, "limits hold all of a column"
    assert [text.get_text() for text in second.get_legend().get_texts()] == names[9:]


def test_scatter_takes_methods_that_have_true_means():
    random = np.random.default_rng(0)
    arrays = {"means": random.normal(size=(30, 2)), "true_means": random.normal(size=(20, 2))}
    style = plot_styles(["one", "two", "three"])
    assert pictures.scatter({"one": {"means": arrays["means"]}}, style) is None
    figure = pictures.scatter({"one": {"means": arrays["means"]}, "two": arrays, "three": arrays}, style)
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == ["two", "three"]
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [20, 20]
