"""Training with torch.compile: the same function up to rounding, and eager where compiled code cannot be used."""

import math
from dataclasses import replace

import pytest
import torch

from bench.core.errors import UserError
from bench.models.compilation import check_compiler, compile_networks
from bench.training.trainer import Trainer
from tests.conftest import TRAIN, planner, trainers
from tests.methods.test_models import toy


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("make", "expression"), [("trainer", "vae"), ("trainer", "sa_vae(steps=1)"), ("text_trainer", "vae")]
)
def test_compiled_training_matches_eager(request, tmp_path, make, expression):
    trainer, train = request.getfixturevalue(make), replace(TRAIN, epochs=1)
    assert_compiled_training_matches(
        *(trainer(expression, tmp_path / name, train) for name in ("eager", "compiled")), dynamic=make == "text_trainer"
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("model", ["transformer", "dilated_cnn"])
def test_compiled_text_models_match_eager(model, text_prepared, tmp_path):
    preset = toy(model, "text")
    create = trainers(planner(text_prepared, preset, tmp_path / "plan"), text_prepared, preset)
    assert_compiled_training_matches(*(create("vae", tmp_path / name) for name in ("eager", "compiled")), dynamic=True)


def assert_compiled_training_matches(eager: Trainer, compiled: Trainer, dynamic: bool) -> None:
    """Train both, one of them compiled, and compare their losses."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compile_networks(compiled.model, dynamic)
    eager.run()
    compiled.run()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2, "nothing was compiled"
    expected, result = eager.history[0], compiled.history[0]
    assert math.isclose(expected.train_loss, result.train_loss, rel_tol=1e-3)
    assert math.isclose(expected.metrics["elbo"], result.metrics["elbo"], rel_tol=1e-3)
    assert compiled.ctx.flops_by_kind == eager.ctx.flops_by_kind
    assert compiled.model.state_dict().keys() == eager.model.state_dict().keys()


@pytest.mark.slow
def test_evaluation_is_not_compiled(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    run.model.eval()
    x = run.ctx.next_main_batch()
    z = torch.zeros(len(x), 1, run.model.latent_dim)
    before = run.model.encode(x).mean, run.model.log_prob(x, z)
    compile_networks(run.model, dynamic=False)
    assert all(map(torch.equal, before, (run.model.encode(x).mean, run.model.log_prob(x, z))))


def test_missing_compiler_is_a_user_error(monkeypatch):
    def missing():
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        check_compiler("cpu")
