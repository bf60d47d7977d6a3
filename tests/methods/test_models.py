"""Every method on every model that it fits."""

from dataclasses import replace

import pytest

from bench.core.cancellation import Interrupted
from bench.core.config import ARCHITECTURES
from bench.evaluation.config import EvaluationConfig
from bench.experiment.presets import Preset
from bench.experiment.worker import run_cell
from bench.models.registry import canonical_model, load_model_module, modalities, model_names, training_settings
from bench.training import registry
from tests.conftest import assert_equal_weights, planner, tasks, trainers
from tests.methods.test_contract import METHODS, TOYS, quick

MODELS = [
    (name, modality)
    for name in model_names()
    for modality in modalities(load_model_module(name))
    if name != ARCHITECTURES[modality]
]
#: The basic metrics of a few examples: what differs between models is how they are trained.
EVALUATION = EvaluationConfig.build(
    {"test_examples": 4, "iw_samples": 5, "batch_size": 4, "pictures": 1, "metrics": ()}
)
#: One method each with another encoder, decoder, prior, inner optimisation and state.
SAMPLE = {
    ("transformer", "text"): ["sa_vae", "autoregressive"],
    ("dilated_cnn", "text"): ["twr_vae"],
    ("gated_pixelcnn", "image"): ["infomax_vae"],
    ("mlp", "image"): ["vamp_prior"],
    ("linear", "vector"): ["iaf_posterior"],
}


def toy(model: str, modality: str) -> Preset:
    """Return the toy protocol of a model."""
    preset = TOYS[modality]
    sizes = replace(preset.model, architecture=canonical_model(model, modality))
    return replace(preset, model=sizes, train=replace(preset.train, epochs=2, **training_settings(model)))


@pytest.fixture
def run(toy_data, tmp_path):
    """``run(method, model, modality)``: the trained and evaluated cell of a method, or why it was skipped."""

    def run(method: str, model: str, modality: str):
        data = toy_data[modality]
        cell = planner(data, toy(model, modality), tmp_path)(quick(method))
        if cell.status == "skipped":
            return cell.state.reason
        run_cell(tasks(data)(cell, evaluation=EVALUATION))
        return cell.folder

    return run


@pytest.mark.parametrize(
    ("method", "model", "modality"),
    [
        pytest.param(method, *model, marks=() if method in SAMPLE.get(model, ()) else pytest.mark.slow)
        for model in MODELS
        for method in METHODS
        if model[1] in registry.method(method).modalities
    ],
)
def test_method_trains_on_model(method, model, modality, run):
    outcome = run(method, model, modality)
    if isinstance(outcome, str):
        assert "for the model" in outcome
        return
    result = outcome.result()
    assert result.status == "ok", result.traceback
    assert not result.failure, result.evaluation_failure.traceback


@pytest.mark.slow
@pytest.mark.parametrize(("model", "modality"), MODELS)
def test_training_resumes_bit_for_bit(model, modality, toy_data, tmp_path):
    data, preset = toy_data[modality], toy(model, modality)
    create = trainers(planner(data, preset, tmp_path / "plan"), data, preset)
    uninterrupted, interrupted = create("vae", tmp_path / "one"), create("vae", tmp_path / "other")
    uninterrupted.run()
    interrupted.should_stop = lambda: interrupted.ctx.step == 2
    with pytest.raises(Interrupted):
        interrupted.run()
    resumed = create("vae", tmp_path / "other")
    assert resumed.run().resumes == 1
    assert_equal_weights(resumed.model.state_dict(), uninterrupted.model.state_dict())
