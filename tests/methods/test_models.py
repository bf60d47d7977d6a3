"""Every method on every model that it fits."""

from dataclasses import replace

import pytest

from bench.core.config import ARCHITECTURES
from bench.evaluation.config import EvaluationConfig
from bench.experiment.worker import run_cell
from bench.models.registry import canonical_model, load_model_module, modalities, model_names, training_settings
from bench.training import registry
from tests.conftest import TEXT_TOY, TOY, VECTOR_TOY, planner, tasks
from tests.methods.test_contract import METHODS, quick

TOYS = {"image": TOY, "text": TEXT_TOY, "vector": VECTOR_TOY}
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
    ("dilated_cnn", "text"): ["skip_vae"],
    ("gated_pixelcnn", "image"): ["infomax_vae"],
    ("mlp", "image"): ["vamp_prior"],
    ("linear", "vector"): ["iaf_posterior"],
}


@pytest.fixture
def run(toy_data, tmp_path):
    """``run(method, model, modality)``: the trained and evaluated cell of a method, or why it was skipped."""

    def run(method: str, model: str, modality: str):
        data, toy = toy_data[modality], TOYS[modality]
        train = replace(toy.train, epochs=1, **training_settings(model))
        sizes = replace(toy.model, architecture=canonical_model(model, modality))
        cell = planner(data, replace(toy, model=sizes, train=train), tmp_path)(quick(method), train)
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
