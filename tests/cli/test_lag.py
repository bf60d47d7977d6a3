"""The lag study: the trace that a cell with a scalar latent stores, and its figures."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from bench.cli.main import main
from bench.core.config import TrainConfig
from bench.data import tensors
from bench.experiment.cell_folder import CellFolder
from bench.experiment.factory import build_from_config
from bench.experiment.lag_trace import STAGES, LagTrace, LagTracer, stages
from bench.reporting.figures import curves, lag
from bench.reporting.looks import look
from bench.training.trainer import Trainer
from tests.cli.conftest import only_cell, toy_environment
from tests.conftest import TEXT_MODEL, TEXT_TOY, TEXT_TRAIN, assert_equal_weights, planner
from tests.fixtures import make_cells

SCALAR = replace(TEXT_TOY, model=replace(TEXT_MODEL, latent_dim=1))


def example_traces() -> dict[str, LagTrace]:
    random = np.random.default_rng(0)
    true = np.linspace(0, 1, 5)[:, None] * random.normal(size=(5, 40))
    updates, kl = np.array([0, 1, 10, 100, 1000]), random.uniform(0.1, 0.2, (5, 40))
    return {"one": LagTrace(updates, 0 * true, true, kl), "other": LagTrace(updates, 0.9 * true, true, kl)}


@pytest.mark.slow
def test_text_run_with_scalar_latent_draws_lag(prepared, text_prepared, tmp_path, capsys):
    with toy_environment(tmp_path, prepared, text_prepared):
        out = tmp_path / "out"
        assert main(["lag", "--dataset", "text", "--executor", "local", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "toy text, preset quick: 2 methods" in printed and "aggressive" in printed
    for method in ("vae", "aggressive"):
        cell = only_cell(out, method)
        trace = LagTrace.read(cell.path)
        assert cell.config.model.latent_dim == 1
        assert trace.updates.tolist() == sorted(stages(12)) and trace.means.shape == (len(stages(12)), 40)
        assert trace.kl.mean(axis=1).min() > -1e-3, "KL is not negative"
    table = pd.read_csv(out / "tables" / "toy-text-quick.csv")
    assert [*table.method] == ["vae", "aggressive"] and np.isfinite(table.iw_nll).all()
    assert (out / "texts" / "toy-text-quick.md").exists()
    figures = {file.name for file in (out / "figures" / "toy-text-quick").glob("lag_*")}
    names = ("lag_stages", "lag_trajectory")
    assert {f"{name}.{suffix}" for name in names for suffix in ("png", "pdf")} <= figures


def test_lag_needs_a_scalar_latent(toy, capsys):
    assert main(["lag", "--out", str(toy), "--set", "model.latent_dim=2"]) == 2
    assert "model.latent_dim" in capsys.readouterr().err


@pytest.fixture
def make_trainer(text_prepared, tmp_path):
    """``make_trainer(name, train)``: a trainer of aggressive training with a scalar latent, traced if not ``plain``."""

    def make(name: str, train: TrainConfig = TEXT_TRAIN) -> Trainer:
        config = planner(text_prepared, SCALAR, tmp_path)("aggressive").config
        method, model, seed = build_from_config(config)
        data, folder = tensors.load(text_prepared, config.model), CellFolder(tmp_path / name)
        folder.path.mkdir(exist_ok=True)
        tracer = None if name == "plain" else LagTracer(folder, method, model, data, train, seed, 3)
        arguments = (method, model, data, train, seed, folder.path, lambda *_: {"elbo": -1.0, "mi": 0.0, "kl": 0.0})
        return Trainer(*arguments, lambda *_: None, tracer)

    return make


def test_tracing_does_not_change_training(make_trainer):
    weights = []
    for name in ("plain", "traced"):
        trainer = make_trainer(name)
        trainer.run()
        weights.append(trainer.model.state_dict())
    assert_equal_weights(*weights)


def test_trace_of_a_resumed_training_is_complete(make_trainer, tmp_path):
    make_trainer("whole").run()
    interrupted = make_trainer("resumed")
    with pytest.raises(KeyboardInterrupt):
        interrupted.should_stop = lambda: interrupted.ctx.step == 7
        interrupted.run()
    assert LagTrace.read(tmp_path / "resumed").updates[-1] < 12
    make_trainer("resumed").run()
    whole, resumed = (LagTrace.read(tmp_path / name) for name in ("whole", "resumed"))
    for name in ("updates", "means", "true_means", "kl"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(resumed, name))


def test_stages_span_all_of_training(subtests):
    for total in [1, 6, 300, 100_000]:
        with subtests.test(total=total):
            assert {0, 1, total} <= stages(total) and max(stages(total)) == total and len(stages(total)) <= STAGES


def test_damaged_trace_is_not_read(tmp_path):
    assert LagTrace.read(tmp_path) is None
    (tmp_path / "lag_trace.npz").write_bytes(b"torn")
    assert LagTrace.read(tmp_path) is None
    np.savez(tmp_path / "lag_trace.npz", updates=[0, 1], means=np.zeros((2, 3)), true_means=np.zeros(2), kl=np.zeros(2))
    assert LagTrace.read(tmp_path) is None
    for shape in ((0, 3), (2, 0)):
        arrays = dict.fromkeys(("means", "true_means", "kl"), np.zeros(shape))
        np.savez(tmp_path / "lag_trace.npz", updates=np.arange(shape[0]), **arrays)
        assert LagTrace.read(tmp_path) is None, "without stages or examples"


def looks(*names):
    return {name: look(make_cells.method(name, 1)) for name in names}


def test_figures_of_traces():
    traces, styles = example_traces(), looks("one", "other")
    [figure] = lag.stages(traces, styles)
    assert len(figure.axes) == 2 * lag.STAGES
    assert [len(ax.collections[0].get_offsets()) for ax in figure.axes] == [40] * 2 * lag.STAGES
    lags = [float(ax.get_title().split("lag ")[1]) for ax in figure.axes[lag.STAGES :]]
    assert lags[-1] == pytest.approx(traces["other"].lag[-1], abs=0.01)
    [figure] = lag.trajectory(traces, styles)
    assert len(figure.axes) == 2
    assert lag.stages({}, styles) == lag.trajectory({}, styles) == []
    names = [f"row_{i}" for i in range(5)]
    assert len(lag.stages({name: traces["one"] for name in names}, looks(*names))) == 3


def test_curves_of_a_history_with_and_without_lag():
    history = pd.DataFrame({"title": ["one"] * 3 + ["other"] * 3, "update": [1, 2, 3] * 2, "kl": 1.0})
    rows, styles = ["one", "other"], looks("one", "other")
    titles = {"lag": "lag", "lag_kl": "gap"}
    assert curves.over_updates(history, rows, styles, titles) == []
    history = history.assign(lag=[np.nan] * 3 + [1.0, 2.0, 3.0], lag_kl=0.5)
    [figure] = curves.over_updates(history, rows, styles, titles)
    assert [sum(len(line.get_xdata()) > 0 for line in ax.lines) for ax in figure.axes] == [1, 2]


def test_scatter_shows_methods_with_true_means():
    random = np.random.default_rng(0)
    arrays = {"means": random.normal(size=(30, 2)), "true_means": random.normal(size=(20, 2))}
    styles = looks("one", "two", "three")
    assert lag.scatter({"one": {"means": arrays["means"]}}, styles) == []
    [figure] = lag.scatter({"one": {"means": arrays["means"]}, "two": arrays, "three": arrays}, styles)
    assert [ax.get_title() for ax in figure.axes if ax.get_visible()] == ["two", "three"]
    assert [len(points.get_offsets()) for points in figure.axes[0].collections] == [20, 20]
