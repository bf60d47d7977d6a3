"""Models are found by presence, chosen by an expression, and part of a cell's identity."""

import sys
from dataclasses import replace

import pytest

import bench.models.architectures as architectures
from bench.core.config import TextModelConfig
from bench.core.errors import UserError
from bench.experiment.factory import build_from_config
from bench.models.registry import canonical_model, model_names, training_settings
from tests.conftest import TEXT_TOY, planner

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
