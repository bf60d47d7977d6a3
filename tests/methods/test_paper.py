"""The paper preset at its own size on a CPU: every row trains, resumes and is evaluated."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.data.cache import cached
from bench.data.dataset import END, SPECIALS, START, DataInfo
from bench.evaluation.config import EvaluationConfig
from bench.experiment.plan import plan
from bench.experiment.presets import load_preset
from bench.experiment.task import CellTask
from bench.experiment.worker import run_cell
from bench.training.context import TrainingContext
from bench.training.expressions import parse_methods

pytestmark = pytest.mark.slow

ROWS = [row.expression for row in parse_methods(["paper"], "paper")[0]]
VOCABULARY = 20_001  # of Yahoo
#: Parameters of encoder and decoder, and of the decoder without z.
PARAMETERS = {"image": (752_448, 894_400, 794_048), "text": (16_605_696, 37_185_024, 37_021_184)}


def images():
    """Random images; an epoch is two updates."""
    pixels = (np.random.default_rng(0).random((140, 28, 28)) < 0.1).astype(np.float32)
    info = DataInfo(name="image", title="images", modality="image", unit="nats", shape=(28, 28), source="tests")
    return info, {"train": pixels[:100], "val": pixels[100:120], "test": pixels[120:]}


def documents():
    """Random documents; an epoch is two updates."""
    random, rows = np.random.default_rng(0), np.zeros((84, 14), np.int32)
    for row, words in zip(rows, [12] * 32 + [8] * 32 + [10] * 20, strict=True):
        row[0], row[words + 1] = START, END
        row[1 : words + 1] = random.integers(len(SPECIALS), VOCABULARY, words)
    info = DataInfo(
        name="text", title="text", modality="text", unit="nats", shape=(14,), source="tests", vocabulary=VOCABULARY
    )
    words = np.array([*SPECIALS, *map(str, range(VOCABULARY - len(SPECIALS)))])
    return info, {"train": rows[:64], "val": rows[64:74], "test": rows[74:], "vocabulary": words}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("expression", ROWS)
@pytest.mark.parametrize(("modality", "build"), [("image", images), ("text", documents)])
def test_row_trains_resumes_and_evaluates(modality, build, expression, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    data, preset = cached(tmp_path / "cache", modality, build), load_preset("paper", modality)
    train = replace(preset.train, epochs=1, val_examples=10, lag_examples=2)
    rows, _ = parse_methods([expression.replace("aggressive", "aggressive(max_inner=2)")], "paper")
    (cell,) = plan(rows, data.info, replace(preset, train=train), 1, 0, "cpu", tmp_path)
    evaluation = EvaluationConfig(test_examples=10, iw_samples=5, pictures=0)
    task = CellTask(cell.config, cell.folder.path, data.path, evaluation, command="pytest")
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    update = TrainingContext.update

    def interrupt_after_first_step(self, *arguments, **options):
        if self.step == 1:
            raise KeyboardInterrupt
        return update(self, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingContext, "update", interrupt_after_first_step)
        run_cell(task)
    run_cell(task)
    result, record = cell.folder.result(), cell.folder.evaluation()
    assert result.status == "ok", result.traceback
    assert (result.training.updates, result.training.resumes) == (2, 1)
    assert record is not None, result.evaluation_failure
    assert record.metrics["n"] == 10 and np.isfinite(record.metrics["iw_nll"])
    encoder, decoder, without_latent = PARAMETERS[modality]
    if cell.variant.method.latent:
        assert result.training.parameters == {"encoder": encoder, "decoder": decoder, "aux": 0}
    else:
        assert result.training.parameters["decoder"] == without_latent
