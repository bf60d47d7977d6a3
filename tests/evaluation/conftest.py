import pytest
import torch

from bench.data import tensors
from bench.data.tensors import Data
from bench.evaluation.config import EvaluationConfig
from bench.evaluation.evaluator import evaluate
from bench.evaluation.record import Evaluation
from bench.experiment.factory import build_from_config
from tests.conftest import MODEL, TEXT_MODEL, TRAIN


@pytest.fixture(params=["image", "text"])
def untouched_model(request):
    """An untrained model and test examples; fails if the test changes weights, gradients or the global generator."""
    text = "text_" if request.param == "text" else ""
    _, model, _ = build_from_config(request.getfixturevalue(f"{text}planned")("vae").config)
    data = tensors.load(request.getfixturevalue(f"{text}prepared"), TEXT_MODEL if text else MODEL)
    _, (x,) = data.blocks("test", 6, 6)
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name].clone()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    with torch.no_grad():
        yield model.eval(), x
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(torch.equal(p.grad, gradients[name]) for name, p in model.named_parameters())


@pytest.fixture
def evaluation_of(planned, prepared):
    """``evaluation_of(method, config, **options)`` -> the evaluation of an untrained model on the toy images."""

    def run(expression: str, config: EvaluationConfig, data: Data | None = None, **options) -> Evaluation:
        method, model, seed = build_from_config(planned(expression).config)
        return evaluate(method, model, data or tensors.load(prepared, MODEL), TRAIN, config, seed, **options)

    return run
