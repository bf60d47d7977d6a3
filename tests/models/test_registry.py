"""Models and likelihoods are found by presence, chosen by an expression, and part of a cell's identity."""

import math
import sys
from dataclasses import replace

import pytest

import bench.models.architectures as architectures
import bench.models.likelihoods as likelihoods
from bench.core.config import TextModelConfig
from bench.core.errors import UserError
from bench.experiment.factory import build_from_config
from bench.experiment.worker import run_cell
from bench.models.registry import (
    canonical_likelihood,
    canonical_model,
    likelihood_names,
    model_names,
    training_settings,
)
from tests.conftest import TEXT_TOY, VECTOR_TOY, planner, tasks

WIDE = """
from dataclasses import dataclass
from torch import nn
from bench.models.architectures import lstm

SUMMARY, MODALITY = "an LSTM with more units", "text"
TRAIN = {"lr": 0.5}

@dataclass(frozen=True)
class Config:
    factor: int = 2
    sizes: tuple[int, ...] = (1, 2)

def build(settings, sizes, data, latent=True):
    from dataclasses import replace
    return lstm.build(lstm.Config(), replace(sizes, hidden=settings.factor * sizes.hidden), data, latent)
"""


@pytest.fixture
def wide(tmp_path, monkeypatch) -> str:
    """A model in a file of its own."""
    (tmp_path / "wide.py").write_text(WIDE)
    monkeypatch.setattr(architectures, "__path__", [*architectures.__path__, str(tmp_path)])
    yield "wide"
    sys.modules.pop("bench.models.architectures.wide", None)


def test_model_is_one_file(wide, text_prepared, tmp_path):
    assert wide in model_names()
    expression = canonical_model("wide(sizes=(4,5))", "text")
    assert expression == "wide(factor=2,sizes=(4,5))"
    assert (training_settings(expression), training_settings("lstm")) == ({"lr": 0.5}, {})
    cells = []
    for architecture in ("", expression):
        preset = replace(TEXT_TOY, model=replace(TEXT_TOY.model, architecture=architecture))
        cells.append(planner(text_prepared, preset, tmp_path)("vae"))
    default, other = cells
    assert default.config.cell_id != other.config.cell_id
    assert [cell.folder.path.parts[-3] for cell in cells] == ["toy", "toy-wide"]
    assert build_from_config(other.config)[1].decoder.hidden == 2 * TEXT_TOY.model.hidden


def test_default_model_has_no_expression():
    assert canonical_model("lstm", "text") == "" == TextModelConfig().architecture


@pytest.mark.parametrize(
    ("expression", "problem"),
    [("masked_cnn", "for image data, not text"), ("lstn", "unknown model"), ("lstm(layers=2)", "no setting 'layers'")],
)
def test_wrong_models_are_one_line(expression, problem):
    with pytest.raises(UserError, match=problem) as error:
        canonical_model(expression, "text")
    assert "\n" not in str(error.value)


LAPLACE = """
from dataclasses import dataclass
import torch
from torch.distributions import Laplace
from bench.models.likelihood import Likelihood

SUMMARY, VALUES = "Laplace", ("real",)

@dataclass(frozen=True)
class Config:
    scale: float = 1.0

class Laplacian(Likelihood):
    def __init__(self, scale):
        super().__init__()
        self.scale = scale

    def log_prob(self, outputs, x):
        return Laplace(outputs[:, 0], self.scale).log_prob(x)

    def mean(self, outputs):
        return outputs[:, 0]

    def sample(self, outputs, generator=None):
        uniform = torch.rand(outputs[:, 0].shape, generator=generator) - 0.5
        return outputs[:, 0] - self.scale * uniform.sign() * torch.log1p(-2 * uniform.abs())

def build(settings, data):
    return Laplacian(settings.scale)
"""


def test_likelihood_is_one_file(vector_prepared, tmp_path, monkeypatch):
    (tmp_path / "laplace.py").write_text(LAPLACE)
    monkeypatch.setattr(likelihoods, "__path__", [*likelihoods.__path__, str(tmp_path)])
    try:
        assert "laplace" in likelihood_names()
        expression = canonical_likelihood("laplace(scale=2.5)", vector_prepared.info)
        assert expression == "laplace(scale=2.5)"
        preset = replace(VECTOR_TOY, model=replace(VECTOR_TOY.model, likelihood=expression))
        cell = planner(vector_prepared, preset, tmp_path / "out")("vae")
        default = planner(vector_prepared, VECTOR_TOY, tmp_path / "out")("vae")
        assert cell.config.cell_id != default.config.cell_id and cell.folder.path.parts[-3] == "toy-laplace"
        run_cell(tasks(vector_prepared)(cell))
        result = cell.folder.result()
        assert result.status == "ok" and not result.failure and math.isfinite(cell.folder.evaluation().metrics["nll"])
    finally:
        sys.modules.pop("bench.models.likelihoods.laplace", None)
