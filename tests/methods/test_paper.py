"""The paper preset at its own size, as far as a CPU can go: every row trains, resumes and is judged on ten examples."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

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


@pytest.fixture(scope="module")
def strokes(tmp_path_factory):
    """Images of the paper's size, few enough for two updates to be an epoch."""

    def build():
        random = np.random.default_rng(0)
        images = (random.random((140, 28, 28)) < 0.1).astype(np.float32)
        about = {
            "name": "strokes",
            "title": "strokes",
            "modality": "image",
            "unit": "nats",
            "shape": (28, 28),
            "source": "tests",
        }
        return DataInfo(**about), {"train": images[:100], "val": images[100:120], "test": images[120:]}

    return cached(tmp_path_factory.mktemp("cache"), "strokes", build)


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    """Short documents over the paper's vocabulary of Yahoo, few enough for two updates to be an epoch."""

    def build():
        random = np.random.default_rng(0)
        rows = np.zeros((84, 14), np.int32)
        for row, words in zip(rows, [12] * 32 + [8] * 32 + [10] * 20, strict=True):
            row[0], row[words + 1] = START, END
            row[1 : words + 1] = random.integers(len(SPECIALS), 20_001, words)
        about = {
            "name": "documents",
            "title": "documents",
            "modality": "text",
            "unit": "nats",
            "shape": (14,),
            "source": "tests",
            "vocabulary": 20_001,
        }
        words = np.array([*SPECIALS, *map(str, range(20_001 - len(SPECIALS)))])
        return DataInfo(**about), {"train": rows[:64], "val": rows[64:74], "test": rows[74:], "vocabulary": words}

    return cached(tmp_path_factory.mktemp("cache"), "documents", build)


#: Parameters of encoder and decoder, and of the decoder without z.
PARAMETERS = {"image": (752_448, 894_400, 778_368), "text": (16_605_696, 37_185_024, 37_021_184)}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("expression", ROWS)
@pytest.mark.parametrize("modality", PARAMETERS)
def test_two_updates_a_checkpoint_a_resume_and_ten_examples(
    modality, expression, strokes, documents, tmp_path, monkeypatch
):
    torch.set_num_threads(1)
    data = {"image": strokes, "text": documents}[modality]
    preset = load_preset("paper", modality)
    preset = replace(
        preset, train=replace(preset.train, epochs=1, val_examples=10, max_encoder_updates=2.0, lag_examples=2)
    )
    rows, _ = parse_methods([expression], "paper")
    (cell,) = plan(rows, data.info, preset, 1, 0, "cpu", tmp_path)
    assert cell.config.train.batch_size == {"image": 50, "text": 32}[modality]
    monkeypatch.setattr("bench.training.trainer.CHECKPOINT_SECONDS", 0)
    update = TrainingContext.update

    def die_after_the_first_step(self, *arguments, **options):
        if self.step == 1:
            raise KeyboardInterrupt
        return update(self, *arguments, **options)

    evaluation = EvaluationConfig(test_examples=10, iw_samples=5, pictures=0)
    task = CellTask(cell.config, cell.folder.path, data.path, evaluation, command="pytest")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingContext, "update", die_after_the_first_step)
        run_cell(task)
    assert (cell.folder.path / "last.pt").exists()
    run_cell(task)
    result = cell.folder.result()
    assert result.status == "ok", result.traceback
    assert (result.training.updates, result.training.resumes) == (2, 1)
    evaluation = cell.folder.evaluation()
    assert evaluation is not None, result.evaluation_failure
    assert evaluation.metrics["n"] == 10 and np.isfinite(evaluation.metrics["nll"])
    encoder, decoder, alone = PARAMETERS[modality]
    if cell.variant.method.latent:
        assert result.training.parameters == {"encoder": encoder, "decoder": decoder, "aux": 0}
    else:
        assert result.training.parameters["decoder"] == alone


MEASURE = """
import resource, sys, torch
from pathlib import Path
from bench.cell import configure_torch, fresh
from bench.config import load_preset
from bench.data import load
from bench.datasets import Prepared
from bench.expressions import variants
from bench.plan import plan
from bench.train import Trainer

configure_torch(1, "cpu", 0)
data = Prepared.read(Path(sys.argv[1]))
preset = load_preset("paper", "image")
(cell,) = plan(variants(["sa_vae(steps=20)"], "paper")[0], data.info, preset, 1, 0, "cpu", Path(sys.argv[2]))
method, model, seed = fresh(cell.config)
trainer = Trainer(method, model, load(data, preset.model), preset.train, seed, Path(sys.argv[2]), lambda history: None)
trainer.ctx.new_optimisers(1e-3)
assert method.step(trainer.ctx, trainer.ctx.next_main_batch()).isfinite()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.timeout(1800)
def test_semi_amortised_training_with_twenty_steps_stays_within_5_gb(strokes, tmp_path):
    """An update at batch 50, in a process of its own: its peak is all that a worker needs."""
    words = [sys.executable, "-c", MEASURE, str(strokes.path), str(tmp_path)]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = float(done.stdout)
    print(f"peak memory {peak:.2f} GB")
    assert peak < 5


JUDGE = """
import resource, torch
from bench.cell import configure_torch
from bench.config import TextModelConfig, TrainConfig
from bench.datasets import END, START, DataInfo
from bench.evaluation.measure import EvaluationContext, measure
from bench.evaluation.memory import BUDGET, chunk_for
from bench.method import Method
from bench.models.text import build_text_model

configure_torch(1, "cpu", 0)
model = build_text_model(TextModelConfig(), vocabulary=20_001, longest=202)
data = DataInfo("documents", "documents", "text", "nats", (202,), {}, "", "tests", vocabulary=20_001)
x = torch.randint(4, 20_001, (1, 202))
x[0, 0], x[0, -1] = START, END
BUDGET["cpu"] = max(BUDGET.values())
chunk = chunk_for(model.eval(), [x])
judged = measure(Method(), EvaluationContext(model, data, TrainConfig(), 0), [x], 500, chunk)
assert judged.metrics["nll"] > 1000
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.timeout(1800)
def test_the_nll_of_a_document_of_200_words_stays_below_2_gb():
    """500 samples at paper size, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", JUDGE], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = float(done.stdout)
    print(f"peak memory {peak:.2f} GB")
    assert peak < 2
