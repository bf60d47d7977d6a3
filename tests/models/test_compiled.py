"""Training by torch.compile: the same function, and aside where it cannot be."""

import math
from dataclasses import replace

import pytest
import torch

from bench.core.errors import UserError
from bench.models.compilation import check_compiler, compile_networks
from bench.run import main
from tests.conftest import TRAIN, assert_equal_weights


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("make", "expression"), [("trainer", "vae"), ("trainer", "sa_vae(steps=1)"), ("text_trainer", "vae")]
)
def test_compiled_training_is_the_same_up_to_rounding(request, tmp_path, make, expression):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trainer, train = request.getfixturevalue(make), replace(TRAIN, epochs=1)
    plain, compiled = (trainer(expression, tmp_path / name, train) for name in ("plain", "compiled"))
    names = compiled.model.state_dict().keys()
    compile_networks(compiled.model, dynamic=make == "text_trainer")
    plain.run()
    compiled.run()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2, "nothing was compiled"
    one, other = plain.history[0], compiled.history[0]
    assert math.isclose(one.train_loss, other.train_loss, rel_tol=1e-3)
    assert math.isclose(one.metrics["elbo"], other.metrics["elbo"], rel_tol=1e-3)
    assert compiled.ctx.flops_by_kind == plain.ctx.flops_by_kind
    assert compiled.model.state_dict().keys() == names


def test_evaluation_is_as_ever(trainer, tmp_path):
    run = trainer("vae", tmp_path)
    run.model.eval()
    x = run.ctx.next_main_batch()
    before = run.model.encode(x).mean, run.model.log_prob(x, torch.zeros(len(x), 1, run.model.latent_dim))
    compile_networks(run.model, dynamic=False)
    after = run.model.encode(x).mean, run.model.log_prob(x, torch.zeros(len(x), 1, run.model.latent_dim))
    assert_equal_weights(dict(enumerate(before)), dict(enumerate(after)))


def test_a_compiled_cell_is_one_of_its_own(planned):
    config = planned("vae").config
    assert planned("vae", replace(TRAIN, compile=True)).config.cell_id != config.cell_id


def test_without_a_compiler_it_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))

    def missing():
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", missing)
    with pytest.raises(UserError, match=r"C\+\+ compiler"):
        check_compiler("cpu")
    assert main(["--out", str(tmp_path), "--methods", "vae", "--device", "cpu", "--compile", "--dry-run"]) == 2
    assert capsys.readouterr().err.startswith("error: --compile needs a C++ compiler")
